//! What of a sitting can be done elsewhere: a recipe and the questions that nobody has answered of it; and what comes back.
//!
//! A unit of work names its questions by their places in lists that whoever does it must have ([`MergeEvaluator::lists`],
//! [`MergeEvaluator::put_list`]), and what comes back is what a model did and no verdict: answers are judged where the run is.
//! What a model answers does not depend on what it is asked beside, so a sitting may be cut into units in any way.

use serde::{Deserialize, Serialize};

use super::{
    Computation, Evaluation, Exam, MergeEvaluator, Sitting, Subject, Unscored,
    evaluator::{Asked, item_key},
};
use crate::{
    eval::{Question, Split},
    event,
    models::verbatim,
    recipe::Recipe,
};

/// An answer as the cache keeps it: what the model did, and no verdict, so that another way of judging needs no model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub out: String,
    pub finish: String,
    pub tokens: usize,
    /// Log-likelihood a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// Some questions of one list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Which of the evaluator's tasks.
    pub task: usize,
    pub split: String,
    /// Places in the list, ascending.
    pub items: Vec<usize>,
}

/// What somebody is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pub recipe: Recipe,
    /// A merge that has collapsed is turned away.
    pub is_guarded: bool,
    pub parts: Vec<Part>,
}

/// What a model did with a unit of work: for each part, in the order of its items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    pub answers: Vec<Vec<Kept>>,
    pub merge_ms: u64,
    pub evaluation_ms: u64,
}

/// A sitting of which not everything has been answered.
#[derive(Clone, Debug)]
pub struct Open {
    pub work: Work,
    /// What the answers' keys begin with.
    pub weights: String,
    exam: Exam,
    known: Vec<Vec<Option<event::Answer>>>,
    evaluation: Evaluation,
}

impl Open {
    /// Nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.work.parts.is_empty()
    }

    pub fn exam(&self) -> &Exam {
        &self.exam
    }

    /// Questions that have no answer yet.
    pub fn lacks(&self) -> usize {
        self.known.iter().flatten().filter(|known| known.is_none()).count()
    }

    /// Another kind of machine than the run's own answers it: its words, and what its answers' keys begin with.
    pub fn computed_by(&mut self, weights: String, kind: String) {
        (self.weights, self.evaluation.kind) = (weights, kind);
    }

    /// Time that somebody spent on it.
    pub fn spent(&mut self, merge_ms: u64, evaluation_ms: u64) {
        self.evaluation.merge_ms += merge_ms;
        self.evaluation.evaluation_ms += evaluation_ms;
    }

    /// What came of it, when nothing is missing any more.
    pub fn evaluation(self) -> Evaluation {
        let Self {
            weights,
            known,
            mut evaluation,
            ..
        } = self;
        let complete = known
            .into_iter()
            .map(|known| (weights.clone(), known.into_iter().flatten().collect()));
        evaluation.answers = complete.collect();
        evaluation
    }
}

/// Who coordinates.
impl MergeEvaluator<'_> {
    /// What of a sitting has not been answered, by this kind of machine or by the `others`.
    ///
    /// # Errors
    /// Bare genes, questions that are not loaded, answers that cannot be judged.
    pub fn open(&self, sitting: &Sitting<'_>, others: &[Computation]) -> Result<Open, Unscored> {
        let recipe = recipe_of(sitting)?;
        let weights = self.weights_key(&recipe);
        let exam = sitting.exam;
        let look_up = |weights: &str| -> Result<Vec<Vec<Option<event::Answer>>>, Unscored> {
            exam.tasks.iter().map(|task| self.look_up(weights, task)).collect()
        };
        let mut known = look_up(&weights)?;
        for other in others {
            let theirs = look_up(&self.weights_by(other, &recipe))?;
            for (known, theirs) in known.iter_mut().flatten().zip(theirs.into_iter().flatten()) {
                *known = known.take().or(theirs);
            }
        }
        let mut parts = Vec::new();
        for (task, known) in exam.tasks.iter().zip(&known) {
            let open = task.items.iter().zip(known).filter(|(_, known)| known.is_none());
            let items: Vec<usize> = open.map(|(item, _)| *item).collect();
            if !items.is_empty() {
                parts.push(Part {
                    task: task.index,
                    split: task.split.clone(),
                    items,
                });
            }
        }
        Ok(Open {
            evaluation: Evaluation {
                cached: parts.is_empty(),
                ..Evaluation::default()
            },
            work: Work {
                is_guarded: matches!(sitting.subject, Subject::Recipe(_)) && self.has_guard(),
                recipe,
                parts,
            },
            exam: exam.clone(),
            weights,
            known,
        })
    }

    /// Takes an answer to a question of an open sitting; `false` if nobody asked it there, or it is known already.
    ///
    /// # Errors
    /// It cannot be judged.
    pub fn answer(
        &self,
        open: &mut Open,
        task: usize,
        split: &str,
        item: usize,
        kept: &Kept,
    ) -> Result<bool, Unscored> {
        let place = open.exam.tasks.iter().zip(&mut open.known).find_map(|(of, known)| {
            let is_it = of.index == task && of.split == split;
            let place = is_it.then(|| of.items.binary_search(&item).ok()).flatten()?;
            known.get_mut(place)
        });
        let Some(place) = place.filter(|place| place.is_none()) else {
            return Ok(false);
        };
        let question = &self.questions_of(task, split)?[item];
        let answer = kept.clone().judged(self.task(task), question)?;
        open.evaluation.generated_tokens += answer.tokens as u64;
        *place = Some(answer);
        Ok(true)
    }

    /// Keeps what a model with such weights did with a question, whoever asked it; one that nobody can have asked is left.
    pub fn keep(&self, weights: &str, task: usize, split: &str, item: usize, kept: &Kept) {
        let digest = self.asked(task, split).and_then(|asked| asked.digest(item));
        if let Some(digest) = digest {
            let key = item_key(weights, digest);
            if !self.cache().contains(&key) {
                self.cache().put(&key, kept);
            }
        }
    }

    /// The key of the weights as another machine computes with them.
    pub fn weights_by(&self, computation: &Computation, recipe: &Recipe) -> String {
        self.weights_key_by(computation, recipe)
    }

    /// Every list of questions that is loaded: task, split, questions.
    pub fn lists(&self) -> Vec<(usize, String, &[Question])> {
        let mut lists = self.all_lists();
        lists.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        lists
    }
}

/// Who does the work.
impl MergeEvaluator<'_> {
    /// Takes a list of questions that somebody else has loaded.
    pub fn put_list(&mut self, task: usize, split: Split, questions: Vec<Question>) {
        let asked = Asked::new(self.task(task), questions);
        self.insert_list(task, split, asked);
    }

    /// Merges a recipe and asks its child questions.
    ///
    /// # Errors
    /// The reason why it has no answers: its own fault, or this machine's.
    pub fn give(&mut self, work: &Work, progress: &mut dyn FnMut(event::Progress)) -> Result<Given, Unscored> {
        let exam = self.exam_of(&work.parts)?;
        let subject = match work.is_guarded {
            true => Subject::Recipe(&work.recipe),
            false => Subject::Model(""),
        };
        let all: Vec<Vec<usize>> = exam.tasks.iter().map(|task| (0..task.items.len()).collect()).collect();
        let (answers, merge_ms, evaluation_ms) = self.merge_and_ask(&work.recipe, subject, (&exam, &all), progress)?;
        let kept = |(part, answers): (&Part, Vec<event::Answer>)| {
            let is_measured = self.task(part.task).kind().is_measured();
            answers.iter().map(|answer| Kept::of(answer, is_measured)).collect()
        };
        Ok(Given {
            answers: work.parts.iter().zip(answers).map(kept).collect(),
            merge_ms,
            evaluation_ms,
        })
    }
}

/// The recipe of whoever sits.
pub(super) fn recipe_of(sitting: &Sitting<'_>) -> Result<Recipe, Unscored> {
    match sitting.subject {
        Subject::Recipe(recipe) => Ok(recipe.clone()),
        Subject::Model(name) => Ok(verbatim(name)),
        Subject::Genes => Err(Unscored::machine("bare genes have no model; a command scores them")),
    }
}
