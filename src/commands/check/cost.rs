//! What a run takes in time, memory and disk: measured on a few candidates and questions, and extrapolated.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{super::environment, Findings, Merge, PartCost, TaskFinding};
use crate::{
    eval::reply_prompt,
    event::{FinalPlan, LearningPlan, Phase, exam::Speed, lessons::RoundCost},
    learn::Settings,
    merge::Plan,
    model::{DType, Engine, Message, Request},
    recipe::Recipe,
    search::{Exam, MergeEvaluator, Sitting, Subject},
    session::Session,
    space::{Learning, Limit, Space},
    store::Cache,
};

/// Questions of each task that are answered to see how long an evaluation takes, and for how much memory a few of them say
/// how much many do.
const SAMPLE: usize = 8;
const FEW: usize = 2;

/// Tokens that a guide reads to see how fast it is; it writes a quarter as many.
const GUIDE_SAMPLE: usize = 64;

/// Texts that a question can have: two that are right, and two that are not.
const TEXTS_OF_QUESTION: usize = 4;

/// Longest step of learning that is tried, to see how much memory it takes; a text forward and back takes as long as so many answers.
const LONGEST_STEP_S: f64 = 60.0;
const ANSWERS_OF_TEXT: f64 = 4.0;

/// Memory of a run besides models: its journal, what is made of it, and what is written when it ends.
const RUN_BYTES: u64 = 10 << 20;

/// Bytes of the parents and the child of the largest merge that is written to see how much memory that takes.
const LARGEST_TRIED: u64 = 4 << 30;

/// Longest decompositions that are waited for, to see how much memory a child of a spectral method takes.
const LONGEST_MERGE_S: f64 = 60.0;

/// Bytes on the disk for each byte of answers: the journal, and the cache with what it leaves behind.
const DISK_PER_ANSWER_BYTE: f64 = 3.0;

/// Memory of an answer of the final, which is kept until its end: so much, and for each byte of its text; and for each byte of
/// the search's, which only the cache keeps. Measured on 28,200 answers.
const FINAL_ANSWER_RAM: f64 = 1200.0;
const RAM_PER_FINAL_BYTE: f64 = 4.0;
const RAM_PER_BYTE: f64 = 3.0;

/// Bytes in the journal besides a candidate's answers: its recipe and its scores.
const CANDIDATE_BYTES: f64 = 4096.0;

/// What was measured.
pub struct Costs {
    merge_s: f64,
    /// Of each task as in the findings; `None` of a command.
    tasks: Option<Vec<TaskCost>>,
    /// Candidates that are worked on at a time.
    workers: f64,
    memory: Memory,
    pub guide: Option<GuideCost>,
}

/// The most that each part of a run takes, its answers excepted; `None` where it has no such part, or the system does not tell.
#[derive(Default)]
struct Memory {
    search: Option<u64>,
    learning: Option<u64>,
    /// In which the answers of the search are kept as well as its own.
    last: Option<u64>,
}

/// What a guide of this machine takes, at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GuideCost {
    /// Weights, and keys and values of its longest question and of a reply.
    pub memory_bytes: u64,
    /// Of all that it is asked at a time.
    pub seconds: f64,
    /// From one time to the next.
    pub candidates: u64,
}

struct TaskCost {
    question_s: f64,
    answer_bytes: f64,
}

/// Memory for keys and values of one task: of some questions, and of each one more.
struct Keys {
    few_bytes: u64,
    each_bytes: f64,
    /// Asked at a time: in the search, and at most anywhere.
    questions: [usize; 2],
}

pub fn of_command(
    prepared: &Session,
    probe: &super::command::Probe,
    merge: Option<&Merge>,
    beside: Option<&Path>,
) -> Option<Costs> {
    let command = prepared.space().fitness.command.as_ref()?;
    let workers = command.workers as u64;
    let served = probe.served_bytes.map(|(before, each)| before + each * workers);
    // Each worker has a model merged; the parents are there once.
    let of_merging = merge.filter(|_| command.materialize);
    let written = environment::resident_bytes().zip(of_merging);
    let written = written.map(|(before, merge)| match tried_merge(prepared, merge, beside) {
        Some([shared, own]) => before + shared + workers * own,
        None => before + merge.bytes_read + workers * merge.memory_bytes,
    });
    Some(Costs {
        merge_s: probe.seconds?,
        tasks: None,
        workers: workers as f64,
        memory: Memory {
            last: served.or(written),
            ..Memory::default()
        },
        guide: None,
    })
}

/// What writing a model takes of memory that all who write share, as it is the parents' files, and of its own; `None` where it takes long,
/// or cannot be told.
fn tried_merge(prepared: &Session, merge: &Merge, beside: Option<&Path>) -> Option<[u64; 2]> {
    if merge.spectral_flops > 0 || merge.bytes_read + merge.bytes_written > LARGEST_TRIED {
        return None;
    }
    let (_, recipe) = prepared.genome().baselines().into_iter().next()?;
    let dir = super::command::scratch(beside).ok()?;
    let (before, mapped) = (environment::resident_bytes()?, environment::mapped_bytes()?);
    let begins_anew = environment::forget_peak();
    prepared.materialize(&recipe, &dir.path().join("model")).ok()?;
    let (peak, mapped_then) = (environment::peak_bytes()?, environment::mapped_bytes()?);
    let shared = mapped_then.saturating_sub(mapped);
    begins_anew.then(|| [shared, peak.saturating_sub(before + shared)])
}

/// Has the guide of this machine read and write a little; `None` where it is elsewhere, or there is none.
pub fn of_guide(prepared: &Session, findings: &mut Findings) -> Result<Option<GuideCost>> {
    let (Some(guide), Some(advice)) = (&prepared.space().search.guide, prepared.expected_advice()?) else {
        return Ok(None);
    };
    let Some(mut engine) = prepared.guide_engine()? else {
        return Ok(None);
    };
    let tokens = |question: &String| reply_prompt(engine.tokenizer(), &[Message::new("user", question)]);
    let prompts = advice.questions.iter().map(tokens).collect::<Result<Vec<_>, _>>()?;
    let decoder = engine.decoder();
    let (weights, positions) = (
        decoder.spec().parameters() * DType::F32.size_bytes(),
        decoder.spec().max_positions,
    );
    let (each_token, each_row) = (decoder.kv_bytes_per_token(), decoder.state_bytes_per_row());
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if longest >= positions {
        findings.warnings.push(format!(
            "a question to the guide has {longest} tokens, and there is room for {positions}: it cannot be asked. Take a model with more \
             room, or a space with fewer genes"
        ));
    }
    let reply = |asked: usize| guide.tokens.min(positions.saturating_sub(asked));
    let sample: Vec<u32> = prompts.iter().flatten().take(GUIDE_SAMPLE).copied().collect();
    let (read_s, write_s) = seconds_a_token(&mut engine, &sample)?;
    let seconds = prompts.iter().map(Vec::len);
    Ok(Some(GuideCost {
        memory_bytes: weights as u64 + each_row + each_token * (longest + reply(longest)) as u64,
        seconds: seconds
            .map(|asked| read_s * asked as f64 + write_s * reply(asked) as f64)
            .sum(),
        candidates: advice.candidates,
    }))
}

/// Of reading and of writing.
fn seconds_a_token(engine: &mut Engine, prompt: &[u32]) -> Result<(f64, f64)> {
    let mut generate = |tokens: usize| -> Result<(f64, usize)> {
        let clock = environment::stopwatch();
        let written = engine.generate(&[Request::new(prompt.to_vec(), tokens)], &mut |_| {})?;
        Ok((clock().as_secs_f64(), written.first().map_or(0, |w| w.token_ids.len())))
    };
    generate(1)?; // what is made when it is used first
    let ((read_s, _), (both_s, written)) = (generate(1)?, generate(1 + GUIDE_SAMPLE / 4)?);
    let read_s = read_s / prompt.len().max(1) as f64;
    // One that has nothing to say writes no faster than it reads.
    let write_s = (both_s - read_s * prompt.len() as f64) / written.saturating_sub(1).max(1) as f64;
    Ok((read_s, write_s.max(read_s)))
}

/// Merges every unsearched merge and one candidate of each method, and has some questions of each task answered.
pub fn measure(prepared: &Session, drawn: Vec<Recipe>, findings: &mut Findings) -> Result<Costs> {
    let dir = tempfile::tempdir().context("no folder for a small cache")?;
    let mut asking = prepared.evaluator(Cache::open(&dir.path().join("cache"), 0), None)?;
    findings.engine = asking.engine_elsewhere().map(|engine| engine.identity().words());
    let finale = &prepared.space().finale;
    let (search, held_out) = (asking.search_exam()?, asking.held_out_exam()?);
    // The same questions as in a run, one of each part opened once more by the evaluator that asks them.
    for (split, limit) in [
        (&finale.selection, finale.selection_limit()),
        (&finale.test, finale.test_limit()),
    ] {
        asking.exam(&split.split, Limit::Most(limit.most().unwrap_or(1).min(1)))?;
    }
    let baselines = prepared.genome().baselines();
    let typical = baselines.first().map(|(_, recipe)| recipe.clone());
    let typical = typical
        .or(drawn.first().cloned())
        .context("the space has no candidate")?;
    findings
        .warnings
        .extend(turned_away(prepared, &drawn, &first(&search, 0, 1))?);
    let baselines: Vec<Recipe> = baselines.into_iter().map(|(_, recipe)| recipe).collect();
    let mut loaded_layers = 0;
    for recipes in [baselines, drawn] {
        loaded_layers = loaded_layers.max(load_each_method(prepared, &mut asking, recipes, findings)?);
    }
    let peak = environment::peak_bytes();

    let loaded = environment::resident_bytes();
    asking.take_kv_peak_bytes();
    let (mut costs, mut keys, mut merge_s, mut sampled) = (Vec::new(), Vec::new(), None, Vec::new());
    let length = |answer: &crate::event::Answer| (answer.score > 0.0, answer.tokens);
    for exam in of_one_task(&search).chain(of_one_task(&held_out)) {
        let asked = &findings.tasks[costs.len()].asked;
        let questions = [
            asked.iter().find(|(part, _)| *part == "search").map_or(0, |(_, n)| *n),
            asked.iter().map(|(_, n)| *n).max().unwrap_or(0),
        ];
        let few = answer(&mut asking, &typical, &first(&exam, 0, FEW))?;
        let few_bytes = asking.take_kv_peak_bytes();
        merge_s = merge_s.or(Some(few.merge_ms as f64 / 1000.0));
        let more = answer(&mut asking, &typical, &first(&exam, FEW, SAMPLE))?;
        let (n, asked) = (more.answers[0].1.len(), exam.n());
        // A task of one or two questions has none left for the second look.
        let (timed, n) = if n > 0 { (&more, n) } else { (&few, asked.min(FEW)) };
        let more_bytes = asking.take_kv_peak_bytes().max(few_bytes);
        keys.push(Keys {
            few_bytes,
            each_bytes: more_bytes.saturating_sub(few_bytes) as f64 / n.saturating_sub(FEW).max(1) as f64,
            questions,
        });
        let answers: Vec<_> = timed.answers.iter().flat_map(|(_, answers)| answers).collect();
        sampled.extend(few.answers.iter().flat_map(|(_, answers)| answers).map(length));
        sampled.extend(answers.iter().copied().map(length));
        let bytes: usize = answers
            .iter()
            .map(|a| serde_json::to_string(a).map_or(0, |json| json.len()))
            .sum();
        costs.push(TaskCost {
            question_s: timed.evaluation_ms as f64 / 1000.0 / n.max(1) as f64,
            answer_bytes: bytes as f64 / n.max(1) as f64,
        });
    }
    let options = &prepared.runtime().options;
    // A path may be longer than what was drawn: each of its layers keeps keys and values, and has weights.
    let (layers, layer_bytes) = asking.layers();
    let longest = prepared
        .space()
        .data_flow_space
        .as_ref()
        .map_or(0, |dfs| dfs.max_layers);
    let longer = (longest as f64 / layers.max(1) as f64).max(1.0);
    let [of_search, most_keys] = [0, 1].map(|part| {
        let of_typical = most_keys(&keys, part, options.max_rows) as f64;
        ((of_typical * longer) as u64).min(options.kv_memory_bytes)
    });
    let more_layers = longest.saturating_sub(loaded_layers) as u64 * layer_bytes;
    // Keys and values that were made room for and never written are not in RAM, so what is left beside them is a guess; what
    // was there before the first question is none.
    let held = asking.kv_held_bytes();
    let answered = environment::resident_bytes().map(|bytes| bytes.saturating_sub(held));
    let on_device = || asking.weight_bytes() + more_layers + asking.held_bytes() + most_keys;
    findings.device_memory_bytes = (!prepared.runtime().device.is_cpu()).then(on_device);
    let on_host = |bytes: u64| if prepared.runtime().device.is_cpu() { bytes } else { 0 };
    // Merging takes most while facts about the parents are found, which is over when the final begins.
    let in_search = peak.map(|bytes| bytes + on_host(of_search + more_layers));
    let learning = prepared.space().search.learn.as_ref();
    let mut kept_by_learning = 0;
    let in_learning = match learning {
        Some(learning) => {
            let searched: usize = search.tasks.iter().map(|task| task.items.len()).sum();
            let own = if learning.rounds_before() > 1 {
                learning.questions
            } else {
                0
            };
            let texts = settings_of(learning).texts_of_step(TEXTS_OF_QUESTION * searched.max(own));
            let answer_tokens = length_of_right(&sampled);
            let before = environment::resident_bytes();
            let tried = tried_step(prepared, &mut asking, &typical, (texts, answer_tokens), &costs);
            let after = environment::resident_bytes().zip(before);
            kept_by_learning = after.map_or(0, |(after, before)| after.saturating_sub(before));
            match (tried, answered) {
                (None, Some(answered)) => Some(answered + asking.learning_bytes(texts, answer_tokens)?),
                (tried, _) => tried,
            }
        }
        None => None,
    };
    let in_final = answered
        .max(loaded)
        .map(|bytes| bytes + kept_by_learning + on_host(most_keys + more_layers));
    // Each of several devices has weights, keys and values of its own, and whoever coordinates learns with others.
    let others = prepared.runtime().others.len() as u64;
    let beside = on_host(others * (asking.weight_bytes() + most_keys));
    Ok(Costs {
        merge_s: merge_s.unwrap_or(0.0),
        tasks: Some(costs),
        workers: (1 + others) as f64,
        memory: Memory {
            search: in_search.map(|bytes| bytes + beside),
            learning: in_learning.map(|bytes| bytes + beside),
            last: in_final.map(|bytes| bytes + beside),
        },
        guide: None,
    })
}

/// The most memory that this process has while a step of learning is tried; `None` where that takes long, or the system does not tell.
fn tried_step(
    prepared: &Session,
    asking: &mut MergeEvaluator<'_>,
    recipe: &Recipe,
    (texts, answer_tokens): (usize, f64),
    costs: &[TaskCost],
) -> Option<u64> {
    let question_s = costs.iter().map(|task| task.question_s).fold(0.0, f64::max);
    let takes_long = texts as f64 * ANSWERS_OF_TEXT * question_s > LONGEST_STEP_S;
    if takes_long || !prepared.runtime().device.is_cpu() || !environment::forget_peak() {
        return None;
    }
    asking.try_step(recipe, texts, answer_tokens.ceil() as usize).ok()?;
    environment::peak_bytes()
}

fn settings_of(learning: &Learning) -> Settings {
    Settings {
        batch: learning.batch,
        ..Settings::default()
    }
}

/// Tokens of an answer that may teach, on average: of the right ones, or of all where none is.
fn length_of_right(answers: &[(bool, usize)]) -> f64 {
    let any = answers.iter().any(|(is_right, _)| *is_right);
    let teach = answers.iter().filter(|(is_right, _)| *is_right || !any);
    let (n, tokens) = teach.fold((0, 0), |(n, sum), (_, tokens)| (n + 1, sum + tokens));
    tokens as f64 / n.max(1) as f64
}

/// One recipe of each method. What facts about the parents a method keeps is in memory afterwards; an unsearched merge, which
/// keeps everything, needs fewer than one that trims. The most layers that one of them has.
fn load_each_method(
    prepared: &Session,
    asking: &mut MergeEvaluator<'_>,
    recipes: Vec<Recipe>,
    findings: &mut Findings,
) -> Result<usize> {
    let (mut seen, mut layers) = (Vec::new(), 0);
    for recipe in recipes {
        let methods: Vec<_> = recipe.stages.iter().map(|stage| stage.merge_method).collect();
        if seen.contains(&methods) {
            continue;
        }
        let flops = Plan::new(&recipe, prepared.parents())?
            .cost(prepared.parents())
            .spectral_flops;
        if flops > 0 && environment::decomposition_seconds(flops) > LONGEST_MERGE_S {
            let method = recipe.result().merge_method.name();
            findings.warnings.push(format!(
                "{method} takes long to merge; the memory that it keeps is not in the estimate"
            ));
        } else if let Err(reason) = asking.merge(&recipe) {
            let method = recipe.result().merge_method.name();
            findings
                .problems
                .push(format!("a child of {method} cannot be merged: {reason}"));
        } else {
            layers = layers.max(asking.layers().0);
        }
        seen.push(methods);
    }
    Ok(layers)
}

fn of_one_task(exam: &Exam) -> impl Iterator<Item = Exam> + '_ {
    exam.tasks.iter().map(|task| Exam {
        split: exam.split.clone(),
        tasks: vec![task.clone()],
    })
}

/// Questions of an exam from one place on, at most so many.
fn first(exam: &Exam, from: usize, n: usize) -> Exam {
    let items = |items: &Vec<usize>| items.iter().skip(from).take(n).copied().collect();
    exam.of_items(exam.tasks.iter().map(|task| items(&task.items)).collect())
}

/// Candidates that the guard is tried on.
const GUARDED: usize = 4;

/// Says so where the guard lets none of a few candidates in.
fn turned_away(prepared: &Session, drawn: &[Recipe], exam: &Exam) -> Result<Option<String>> {
    let fitness = &prepared.space().fitness;
    if fitness.guard.is_none() || fitness.engine.is_some() {
        return Ok(None);
    }
    let mut asking = prepared.evaluator(Cache::in_memory(), fitness.guard)?;
    asking.search_exam()?;
    let few = &drawn[..GUARDED.min(drawn.len())];
    let mut reason = None;
    for recipe in few {
        match answer(&mut asking, recipe, exam) {
            Ok(_) => return Ok(None),
            Err(refusal) => reason = Some(refusal),
        }
    }
    Ok(reason.map(|reason| format!(
        "none of {} candidates drawn at random could be scored, and a search may breed nothing but failures: {}. Narrow the ranges of \
         the genes around what can be merged, or raise fitness.guard.perplexity_ratio",
        few.len(),
        reason
    )))
}

fn answer(asking: &mut MergeEvaluator<'_>, recipe: &Recipe, exam: &Exam) -> Result<crate::search::Evaluation> {
    use crate::search::Evaluator;
    let sitting = Sitting {
        id: "check",
        subject: Subject::Recipe(recipe),
        genotype: &[],
        genes: &[],
        exam,
    };
    asking
        .evaluate(&sitting, &mut |_| ())
        .map_err(|reason| anyhow::anyhow!("the questions cannot be answered: {reason}"))
}

/// Most keys and values at a time: of so many rows, those of the tasks that need most of them.
fn most_keys(keys: &[Keys], part: usize, rows: usize) -> u64 {
    let mut keys: Vec<&Keys> = keys.iter().collect();
    keys.sort_by(|a, b| b.each_bytes.total_cmp(&a.each_bytes));
    let (mut left, mut bytes) = (rows, 0);
    for task in keys {
        let n = task.questions[part].min(left);
        if n > 0 {
            bytes += task.few_bytes + (task.each_bytes * n.saturating_sub(FEW) as f64) as u64;
        }
        left -= n;
    }
    bytes
}

impl Costs {
    /// Seconds of a candidate that is asked so many questions of each task.
    fn seconds(&self, asked: impl Fn(&TaskFinding) -> usize, findings: &[TaskFinding]) -> f64 {
        let tasks = self.tasks.iter().flatten().zip(findings);
        self.merge_s
            + tasks
                .map(|(cost, task)| cost.question_s * asked(task) as f64)
                .sum::<f64>()
    }

    /// Of a candidate's answers in the journal.
    fn bytes(&self, asked: impl Fn(&TaskFinding) -> usize, findings: &[TaskFinding]) -> f64 {
        let tasks = self.tasks.iter().flatten().zip(findings);
        CANDIDATE_BYTES
            + tasks
                .map(|(cost, task)| cost.answer_bytes * asked(task) as f64)
                .sum::<f64>()
    }

    /// At most, of one round of learning: its questions, answered, its steps, and its candidate, which takes `score_s`.
    fn round(&self, learning: &LearningPlan, score_s: f64) -> Option<RoundCost> {
        let tasks = self.tasks.as_ref()?;
        let all: f64 = tasks.iter().map(|task| task.question_s).sum();
        let mean = all / tasks.len().max(1) as f64;
        let speed = Speed {
            merge_ms: 1000.0 * self.merge_s,
            answer_ms: 1000.0 * mean,
        };
        Some(RoundCost {
            questions_ms: learning.questions as f64 * speed.answer_ms,
            steps_ms: learning.steps_ms(speed),
            score_ms: 1000.0 * score_s,
        })
    }

    /// Into the findings: each part of a run, and what does not fit this machine.
    pub fn tell(
        &self,
        prepared: &Session,
        (plan, learning): (&FinalPlan, Option<&LearningPlan>),
        budget_ms: Option<u64>,
        findings: &mut Findings,
    ) {
        let part = |name: &'static str| {
            move |task: &TaskFinding| task.asked.iter().find(|(of, _)| *of == name).map_or(0, |(_, n)| *n)
        };
        let space = prepared.space();
        let (parents, baselines) = (space.models.len(), prepared.genome().baselines().len());
        let all: usize = findings.tasks.iter().map(part("search")).sum();
        let racing = space.search.racing.as_ref().map(|racing| racing.mean_questions());
        let share = racing.map_or(1.0, |mean| (mean / all.max(1) as f64).min(1.0));
        let whole = self.seconds(part("search"), &findings.tasks);
        let candidate = self.merge_s + (whole - self.merge_s) * share;

        let (mut final_s, mut bytes, mut final_ram) = (0.0, 0.0, 0.0);
        for (phase, examinees, questions) in plan.examinees(parents, baselines) {
            let name = match phase {
                Phase::Selection => "selection",
                Phase::Test => "test",
                _ => "held out",
            };
            if questions == 0 && (self.tasks.is_some() || phase != Phase::Selection) {
                continue;
            }
            let each = self.seconds(part(name), &findings.tasks);
            let seconds = examinees as f64 * each / self.workers;
            final_s += seconds;
            let of_answers = self.bytes(part(name), &findings.tasks);
            bytes += examinees as f64 * (CANDIDATE_BYTES + of_answers);
            final_ram += examinees as f64 * (FINAL_ANSWER_RAM * questions as f64 + RAM_PER_FINAL_BYTE * of_answers);
            findings.finale.push(PartCost {
                phase,
                examinees,
                questions,
                seconds,
            });
        }
        let known_s = (parents + baselines) as f64 * whole / self.workers;
        // The search stands still while it is told what a guide thinks.
        let advice_s = self
            .guide
            .map_or(0.0, |guide| guide.seconds / guide.candidates.max(1) as f64);
        let candidate_s = candidate / self.kept_busy(space) + advice_s;
        let learning = learning.and_then(|plan| Some((plan, self.round(plan, whole / self.workers)?)));
        let learning_s = learning.map_or(0.0, |(plan, cost)| plan.all_ms(cost) / 1000.0);
        let by_time = budget_ms.map(|ms| {
            let left = ms as f64 / 1000.0 - final_s.min(0.5 * ms as f64 / 1000.0) - known_s - learning_s;
            (left.max(0.0) / candidate_s.max(1e-9)) as u64
        });
        let evals = by_time.unwrap_or(space.search.evals);
        findings.merge_seconds = self.tasks.is_some().then_some(self.merge_s);
        findings.candidate_seconds = Some(candidate);
        findings.evals = Some(evals);
        findings.search_seconds = Some(known_s + learning_s + candidate_s * evals as f64);
        findings.final_seconds = Some(final_s);
        findings.learning_rounds = learning.map(|(plan, _)| plan.rounds + plan.rounds_after);
        findings.learning_seconds = learning.map(|(_, cost)| cost.of(1, false) / 1000.0);
        if evals == 0 {
            findings.warnings.push(
                "the time that --for gives is over before a candidate is bred; give more, or let the final ask less"
                    .into(),
            );
        }
        if let Some(ms) = budget_ms.filter(|ms| final_s > 0.5 * *ms as f64 / 1000.0) {
            findings.warnings.push(format!(
                "the final takes more than half of the {} that --for gives; it asks less with final: {{selection: {{limit: N}}, \
                 test: {{limit: N}}}}",
                crate::event::words::duration(ms)
            ));
        }
        for (task, cost) in findings.tasks.iter_mut().zip(self.tasks.iter().flatten()) {
            task.seconds_per_question = Some(cost.question_s);
        }

        let scored = evals as f64 + (parents + baselines) as f64;
        let of_search =
            (evals as f64 * share + (parents + baselines) as f64) * self.bytes(part("search"), &findings.tasks);
        bytes += CANDIDATE_BYTES * scored + of_search;
        let ram = CANDIDATE_BYTES * scored + RAM_PER_BYTE * of_search;
        let mut disk = DISK_PER_ANSWER_BYTE * bytes;
        if let (Some(command), Some(merge)) = (&space.fitness.command, &findings.merge)
            && command.materialize
        {
            disk += command.workers as f64 * merge.bytes_written as f64;
        }
        let of_guide = self.guide.map_or(0, |guide| guide.memory_bytes);
        let Memory { search, learning, last } = self.memory;
        let last = last.map(|bytes| bytes + final_ram as u64);
        let most = search.max(learning).max(last);
        findings.memory_bytes = most.map(|bytes| bytes + ram as u64 + of_guide + RUN_BYTES);
        findings.guide = self.guide;
        Self::fits(disk as u64, findings);
    }

    /// Workers that have something to do, on average: those who are done wait for the last of their generation.
    fn kept_busy(&self, space: &Space) -> f64 {
        match space
            .search
            .population
            .filter(|_| !space.search.asynchronous && self.workers > 1.0)
        {
            Some(population) => population as f64 / (population as f64 / self.workers).ceil(),
            None => self.workers,
        }
    }

    fn fits(disk: u64, findings: &mut Findings) {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        findings.disk_bytes = Some(disk);
        findings.disk_free_bytes = environment::free_bytes(Path::new("runs"));
        if let Some(free) = findings.disk_free_bytes.filter(|free| *free < disk) {
            findings.problems.push(format!(
                "the run writes about {:.0} MB, and {:.0} MB are free where 'runs' is",
                mb(disk),
                mb(free)
            ));
        }
        // What this process holds already is no more to be had.
        findings.memory_available_bytes =
            environment::available_bytes().map(|free| free + environment::resident_bytes().unwrap_or(0));
        if let (Some(need), Some(have)) = (findings.memory_bytes, findings.memory_available_bytes)
            && need > have
        {
            findings.problems.push(format!(
                "the run holds about {:.0} MB, and {:.0} MB are to be had; --kv-memory bounds what keys and values take",
                mb(need),
                mb(have)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_the_rows_that_are_worked_on_at_once() {
        let task = |few_bytes, each_bytes, questions| Keys {
            few_bytes,
            each_bytes,
            questions: [questions / 2, questions],
        };
        assert_eq!(most_keys(&[task(100, 10.0, 24)], 0, 256), 100 + 10 * 10);
        assert_eq!(most_keys(&[task(100, 10.0, 12)], 1, 256), 100 + 10 * 10);
        assert_eq!(most_keys(&[task(100, 10.0, 1000)], 1, 256), 100 + 254 * 10);
        // The longer task has the rows first.
        assert_eq!(
            most_keys(&[task(100, 1.0, 50), task(50, 10.0, 250)], 1, 256),
            50 + 2480 + 100 + 4
        );
        assert_eq!(most_keys(&[task(100, 1.0, 50), task(50, 10.0, 256)], 1, 256), 50 + 2540);
    }
}
