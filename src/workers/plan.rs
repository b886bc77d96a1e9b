//! What a run asks of its workers, in documents that they fetch: the plan, and the lists of questions that it names.
//!
//! A plan holds what decides an answer: build, kind of machine, digests of models and tokenizers, the tasks' own files as
//! text, and digests of the question lists. A worker needs the models and nothing else; questions come from the coordinator,
//! piece by piece, and count only if their digest is the plan's. Its own digest is in every unit of work.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    error::{Error, Refusal},
    protocol::{Kind, PIECE, VERSION},
};
use crate::{
    eval::{
        Chat, Choice, Profile, Prompt, Question, Samples, Shot, Split, Task, TaskOptions, Think, identity::Identity,
    },
    event,
    search::{FitnessTask, MergeEvaluator},
    space::Guard,
};

/// Bytes of a document, at most: one that a stranger announces does not fill the memory.
pub const MOST_DOCUMENT: usize = 256 << 20;

/// Tokens of an answer, at most.
const MOST_TOKENS: usize = 1 << 16;

/// What a run asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub v: u32,
    pub name: String,
    pub engine_version: String,
    pub kind: Kind,
    /// Another instruction set, device or precision will do.
    pub mixed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<f64>,
    pub models: Vec<ModelAsked>,
    /// Those of the fitness, then the held-out ones.
    pub tasks: Vec<TaskAsked>,
    /// How many of them are of the fitness.
    pub fitness: usize,
    pub lists: Vec<ListAsked>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelAsked {
    pub name: String,
    /// As the coordinator's user wrote it: a hint, and no path that is opened.
    pub word: String,
    pub digest: String,
    pub tokenizer_digest: String,
}

/// A task without its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskAsked {
    pub name: String,
    /// Its file.
    pub text: String,
    pub lang: String,
    pub profile: Profile,
    pub weight: f64,
    pub split: Split,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<Chat>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think: Option<Think>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
}

/// A list of questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAsked {
    pub task: usize,
    pub split: Split,
    pub questions: usize,
    pub bytes: usize,
    pub digest: String,
}

impl ListAsked {
    /// What its document is called.
    pub fn document(&self) -> String {
        format!("list/{}/{}", self.task, self.split)
    }
}

/// The document of a list: what prompts have in common stands there once.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    before: Vec<Before>,
    questions: Vec<Listed>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    preamble: String,
    shots: Vec<ShotBefore>,
    target_delimiter: String,
    fewshot_delimiter: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShotBefore {
    question: String,
    delimiter: String,
    answer: String,
    end: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    id: String,
    before: usize,
    question: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    answer_prefix: String,
    gold: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    choices: Vec<Choice>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    right: Vec<usize>,
}

/// Everything that workers may fetch.
pub struct Library {
    documents: HashMap<String, Vec<u8>>,
    /// Of the plan.
    pub digest: String,
    pub plan: Plan,
}

/// What a plan is made of, besides what the evaluator holds.
pub struct Asked<'a> {
    pub started: &'a event::RunStarted,
    pub tasks: &'a [FitnessTask],
    pub held_out: &'a [FitnessTask],
    pub guard: Option<Guard>,
    pub mixed: bool,
}

impl Library {
    /// The plan of a run whose questions are loaded.
    pub fn of(asked: &Asked<'_>, evaluator: &MergeEvaluator<'_>) -> Self {
        let mut documents = HashMap::new();
        let mut lists = Vec::new();
        for (task, split, questions) in evaluator.lists() {
            let Some(split) = Split::from_name(&split) else {
                continue;
            };
            let text = list_of(questions);
            let list = ListAsked {
                task,
                split,
                questions: questions.len(),
                bytes: text.len(),
                digest: digest(&text),
            };
            documents.insert(list.document(), text);
            lists.push(list);
        }
        let models = asked.started.models.iter().map(|model| ModelAsked {
            name: model.name.clone(),
            word: model.model.clone(),
            digest: model.digest.clone(),
            tokenizer_digest: model.tokenizer_digest.clone(),
        });
        let plan = Plan {
            v: VERSION,
            name: asked.started.name.clone(),
            engine_version: asked.started.engine_version.clone(),
            kind: Kind::of(&evaluator.computation()),
            mixed: asked.mixed,
            guard: asked.guard.map(|guard| guard.perplexity_ratio),
            models: models.collect(),
            tasks: asked.tasks.iter().chain(asked.held_out).map(TaskAsked::of).collect(),
            fitness: asked.tasks.len(),
            lists,
        };
        let text = serde_json::to_vec(&plan).expect("a plan is plain data");
        let digest = digest(&text);
        documents.insert(PLAN.into(), text);
        Self {
            documents,
            digest,
            plan,
        }
    }

    /// A piece of a document, and how long the whole is.
    pub fn piece(&self, document: &str, from: usize) -> Option<(usize, &[u8])> {
        let text = self.documents.get(document)?;
        let rest = text.get(from..)?;
        Some((text.len(), &rest[..rest.len().min(PIECE)]))
    }
}

/// What the plan's document is called.
pub const PLAN: &str = "plan";

/// BLAKE3 in hex.
pub fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl Plan {
    /// Reads a plan that somebody else wrote.
    ///
    /// # Errors
    /// It is none, or asks for what is beyond reason.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |reason: String| Refusal::Malformed { reason };
        let plan: Self = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if plan.v != VERSION {
            return Err(Refusal::Version { version: plan.v });
        }
        let is_sound = plan.fitness <= plan.tasks.len()
            && plan.guard.is_none_or(f64::is_finite)
            && plan.tasks.iter().all(|task| task.weight.is_finite());
        let are_bounded = plan.lists.iter().map(|list| list.bytes).try_fold(0, usize::checked_add);
        let may_ask = |task: &TaskAsked| task.max_new_tokens.is_none_or(|tokens| tokens <= MOST_TOKENS);
        match is_sound
            && are_bounded.is_some_and(|bytes| bytes <= MOST_DOCUMENT)
            && plan.lists.iter().all(|list| list.task < plan.tasks.len())
            && plan.tasks.iter().all(may_ask)
        {
            true => Ok(plan),
            false => Err(malformed("the plan asks for what is beyond reason".into())),
        }
    }

    /// What of this kind of machine is not what is asked for; nothing if it will do.
    pub fn misfits(&self, kind: &Kind, engine_version: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        let asked = &self.kind;
        if (&*self.engine_version, &asked.build) != (engine_version, &kind.build) {
            reasons.push(format!(
                "it is heterosis {engine_version} (build {}), and the run is of {} (build {}): install the same one",
                kind.build, self.engine_version, asked.build
            ));
        }
        let mut differs = |what: &str, here: &str, wanted: &str, way_out: &str| {
            if here != wanted && !self.mixed {
                reasons.push(format!(
                    "its {what} is {here}, and the run asks for {wanted}: {way_out}"
                ));
            }
        };
        let mixed = "or let the search take all kinds (search.mixed_workers: true)";
        differs(
            "device",
            &kind.device,
            &asked.device,
            &format!("start it with --device {}, {mixed}", asked.device),
        );
        differs(
            "precision",
            &kind.dtype,
            &asked.dtype,
            &format!("start it with --dtype {}, {mixed}", asked.dtype),
        );
        differs(
            "instruction set",
            &kind.instruction_set,
            &asked.instruction_set,
            &format!(
                "HETEROSIS_ISA={} computes so where the processor can, {mixed}",
                asked.instruction_set
            ),
        );
        let of = |kind: &Kind| kind.engine.clone().unwrap_or_else(|| "heterosis's own".into());
        differs(
            "engine",
            &of(kind),
            &of(asked),
            &match &asked.engine {
                Some(_) => format!("name the program behind two dashes, `heterosis worker … -- COMMAND`, {mixed}"),
                None => format!("start it without a program behind two dashes, {mixed}"),
            },
        );
        reasons
    }

    /// The tasks, ready to be asked; they have no data of their own.
    ///
    /// # Errors
    /// A text that is no task.
    pub fn tasks(&self) -> Result<(Vec<FitnessTask>, Vec<FitnessTask>), Error> {
        let mut tasks: Vec<FitnessTask> = self.tasks.iter().map(TaskAsked::task).collect::<Result<_, _>>()?;
        let held_out = tasks.split_off(self.fitness.min(tasks.len()));
        Ok((tasks, held_out))
    }

    pub fn guard(&self) -> Option<Guard> {
        self.guard.map(|perplexity_ratio| Guard { perplexity_ratio })
    }

    /// The lists that a guarded merge is measured on.
    pub fn guards_lists(&self) -> impl Iterator<Item = &ListAsked> {
        let is_searched = |list: &&ListAsked| list.task < self.fitness && self.tasks[list.task].split == list.split;
        self.lists.iter().filter(is_searched)
    }

    pub fn list(&self, task: usize, split: &str) -> Option<&ListAsked> {
        self.lists
            .iter()
            .find(|list| list.task == task && list.split.name() == split)
    }
}

/// Whether a task is asked elsewhere as it is asked here: its file is all that travels.
///
/// # Errors
/// It is not; the run would wait for workers for ever.
pub fn can_be_told(task: &FitnessTask) -> Result<(), Error> {
    let reason = match TaskAsked::of(task).task() {
        Err(e) => e.to_string(),
        Ok(there) if there.task.decoding_digest() == task.task.decoding_digest() => return Ok(()),
        Ok(_) => "its answers would end elsewhere than here".into(),
    };
    Err(Error::Untold {
        task: task.task.name().into(),
        reason,
    })
}

impl TaskAsked {
    fn of(fitness_task: &FitnessTask) -> Self {
        let task = &fitness_task.task;
        let options = task.options();
        Self {
            name: task.name().into(),
            text: task.text().into(),
            lang: task.lang().into(),
            profile: task.profile(),
            weight: fitness_task.weight,
            split: fitness_task.split,
            shots: options.shots,
            max_new_tokens: options.max_new_tokens,
            chat: task.chat().cloned(),
            samples: options.samples,
            think: options.think.clone(),
            score: options.score.clone(),
        }
    }

    fn task(&self) -> Result<FitnessTask, Error> {
        let options = TaskOptions {
            lang: Some(self.lang.clone()),
            shots: self.shots,
            profile: self.profile,
            limit: None,
            max_new_tokens: self.max_new_tokens,
            chat: self.chat.clone(),
            samples: self.samples,
            think: self.think.clone(),
            score: self.score.clone(),
        };
        let mut task = Task::of_text(&self.name, &self.text, &self.lang, &options)?;
        task.max_new_tokens = task.max_new_tokens.min(MOST_TOKENS);
        Ok(FitnessTask {
            task,
            weight: self.weight,
            limit: None,
            split: self.split,
        })
    }
}

fn list_of(questions: &[Question]) -> Vec<u8> {
    let (mut places, mut before): (BTreeMap<Before, usize>, Vec<Before>) = Default::default();
    let listed = questions.iter().map(|question| {
        let prompt = &question.prompt;
        let shot = |shot: &Shot| ShotBefore {
            question: shot.question.clone(),
            delimiter: shot.delimiter.clone(),
            answer: shot.answer.clone(),
            end: shot.end.clone(),
        };
        let own = Before {
            preamble: prompt.preamble.clone(),
            shots: prompt.shots.iter().map(shot).collect(),
            target_delimiter: prompt.target_delimiter.clone(),
            fewshot_delimiter: prompt.fewshot_delimiter.clone(),
        };
        let place = *places.entry(own.clone()).or_insert_with(|| {
            before.push(own);
            before.len() - 1
        });
        Listed {
            id: question.id.clone(),
            before: place,
            question: prompt.question.clone(),
            answer_prefix: prompt.answer_prefix.clone(),
            gold: question.gold.clone(),
            choices: question.choices.clone(),
            right: question.right.clone(),
        }
    });
    let questions = listed.collect();
    serde_json::to_vec(&List { before, questions }).expect("questions are plain data")
}

/// Reads a list of questions.
///
/// # Errors
/// It is none.
pub fn read_list(bytes: &[u8]) -> Result<Vec<Question>, Refusal> {
    let malformed = |reason: String| Refusal::Malformed { reason };
    let list: List = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    let question = |listed: Listed| {
        let before = list.before.get(listed.before);
        let before = before.ok_or_else(|| malformed("a question has no beginning".into()))?;
        let is_there = |right: &usize| *right < listed.choices.len();
        if !listed.choices.is_empty() && (listed.right.is_empty() || !listed.right.iter().all(is_there)) {
            return Err(malformed("no choice of a question is right".into()));
        }
        let shot = |shot: &ShotBefore| Shot {
            identity: Identity::default(),
            question: shot.question.clone(),
            delimiter: shot.delimiter.clone(),
            answer: shot.answer.clone(),
            end: shot.end.clone(),
        };
        Ok(Question {
            id: listed.id,
            identity: Identity::default(),
            prompt: Prompt {
                preamble: before.preamble.clone(),
                answer_prefix: listed.answer_prefix,
                shots: before.shots.iter().map(shot).collect(),
                question: listed.question,
                target_delimiter: before.target_delimiter.clone(),
                fewshot_delimiter: before.fewshot_delimiter.clone(),
            },
            target: listed.gold.clone(),
            gold: listed.gold,
            choices: listed.choices,
            right: listed.right,
        })
    };
    list.questions.into_iter().map(question).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval;

    fn asked(name: &str, lang: &str) -> FitnessTask {
        let options = TaskOptions {
            lang: Some(lang.into()),
            profile: Profile::Fitness,
            ..TaskOptions::default()
        };
        FitnessTask {
            task: Task::load(name, &options, &eval::DataDirs::default()).unwrap(),
            weight: 1.0,
            limit: None,
            split: Split::Search,
        }
    }

    #[test]
    fn every_built_in_task_can_be_told() {
        let mut told = 0;
        for task in eval::tasks().unwrap() {
            for (name, lang) in eval::expand(&task.task, None).unwrap() {
                if let Err(e) = can_be_told(&asked(&name, &lang)) {
                    panic!("{name} ({lang}): {e}");
                }
                told += 1;
            }
        }
        assert!(told > 100, "{told}");
    }

    /// A worker takes a task's text for one of our own: with a file of the harness every worker said that it did not fit, and
    /// the search waited for others for ever.
    #[test]
    fn a_file_of_the_harness_is_refused_at_the_door() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sky.yaml");
        let text = "task: sky\ndataset_path: somebody/sky\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n\
                    doc_to_choice: choices\ndoc_to_target: label\n";
        std::fs::write(&file, text).unwrap();
        let (name, lang) = eval::expand(file.to_str().unwrap(), None).unwrap().remove(0);
        let refused = can_be_told(&asked(&name, &lang)).unwrap_err().to_string();
        assert!(
            refused.contains("'sky' cannot be told to workers") && refused.contains("without --nats"),
            "{refused}"
        );
    }
}
