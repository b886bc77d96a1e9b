//! The simplest recipe that is as good as a run's winner, tested on questions that the run did not ask.

use std::{collections::HashSet, path::Path};

use serde::Serialize;

use super::{
    Error, Session,
    export::for_mergekit,
    run::{computed, space_of},
};
use crate::{
    eval::stats::NonInferiority,
    event::{Answer, Event, Origin, freshness::Freshness, run::Run, words::Unit},
    host::Host,
    models::RuntimeOptions,
    recipe::Recipe,
    search::{Evaluator, Exam, ExamTask, MergeEvaluator, Sitting, Subject, Unscored},
    simplify::{self, Asked, Attempt, Complexity, Sensitivity, TaskScores},
    space::{Limit, Space},
    store::{self, RunDir, RunLock},
};

/// Fewer fresh questions than these cannot tell a point's loss from luck.
const FEWEST: usize = 100;

/// One question in this many decides nothing, and so says without bias how the simplest recipe compares in the end.
const CONFIRMING: usize = 4;

/// What a simplification came to.
#[derive(Clone, Debug, Serialize)]
pub struct Simplified {
    pub run: String,
    pub winner: String,
    /// What a simpler recipe may lose, in fitness.
    pub margin: f64,
    pub questions: Questions,
    pub before: Complexity,
    pub after: Complexity,
    pub attempts: Vec<Attempt>,
    /// Simplest recipe − winner, on questions that decided nothing.
    pub confirmation: NonInferiority,
    pub sensitivities: Vec<Sensitivity>,
    pub recipe: Recipe,
    /// As mergekit reads it.
    pub yaml: String,
}

/// What recipes are compared on.
#[derive(Clone, Debug, Serialize)]
pub struct Questions {
    pub split: String,
    pub deciding: usize,
    pub confirming: usize,
    /// Nobody in the run was asked them, by their place in their files.
    #[serde(skip)]
    pub unasked: bool,
    /// Nobody in the run was asked them, by what they ask: the run compared its questions.
    pub fresh: bool,
}

/// A run whose winner is to be simplified, taken for this process and read; nothing that it names is open yet, and no program of
/// its started.
pub struct Finished {
    dir: RunDir,
    lock: RunLock,
    space: Space,
    run: Run,
    asked: Asks,
    winner: (String, Recipe),
}

/// [`Finished`], with everything that it names open.
pub struct Simplifying {
    session: Session,
    dir: RunDir,
    _lock: RunLock,
    run: Run,
    asked: Asks,
    winner: (String, Recipe),
}

/// What a journal says of the questions of its run, besides what its fold keeps.
#[derive(Default)]
struct Asks {
    /// Ids of all that somebody was asked.
    used: HashSet<String>,
    /// The tasks' weights, where they were scaled.
    scaled: Option<Vec<f64>>,
}

impl Asks {
    fn see(&mut self, event: Event) {
        match event {
            Event::Answers(answers) => self.used.extend(answers.answers.into_iter().map(|a| a.q)),
            Event::Scaled { weights } => self.scaled = self.scaled.take().or(Some(weights)),
            _ => {}
        }
    }
}

impl Finished {
    /// Takes a run for this process.
    ///
    /// # Errors
    /// There is no run, its winner is no merge, a command keeps its questions to itself, or another process writes to it.
    pub fn take(run: &Path, host: &Host) -> Result<Self, Error> {
        let dir = RunDir::open(run)?;
        let (mut run, mut asked) = (Run::default(), Asks::default());
        for record in store::records(&dir.journal())? {
            let record = record?;
            run.apply(&record);
            asked.see(record.event);
        }
        let space = space_of(&dir, run.started.as_ref())?;
        if space.fitness.command.is_some() {
            return Err(Error::ScoredByCommand { run: dir.path().into() });
        }
        Ok(Self {
            winner: winner(&run, &dir)?,
            lock: dir.lock(&host.holder)?,
            dir,
            space,
            run,
            asked,
        })
    }

    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Opens all that the run names; computed as before, unless something else is wanted.
    ///
    /// # Errors
    /// Something is missing, or cannot be opened.
    pub fn open(self, wanted: &RuntimeOptions, host: Host) -> Result<Simplifying, Error> {
        let wanted = match &self.run.started {
            Some(started) => computed(started).again(wanted),
            None => wanted.clone(),
        };
        Ok(Simplifying {
            session: Session::open_without_guide(self.space, &wanted, host)?,
            dir: self.dir,
            _lock: self.lock,
            run: self.run,
            asked: self.asked,
            winner: self.winner,
        })
    }
}

impl Simplifying {
    /// The unit of the run's fitness.
    pub fn unit(&self) -> Unit {
        self.run.unit()
    }

    /// By how much the loss of texts rises from the winner to a recipe of the space, as far as learning has seen it: half the sum of each
    /// gene's mean squared slope times its step squared, which is the loss to second order where the curvature is the Fisher
    /// information. `None` of another recipe, and where nothing was learned.
    fn expected(&self, winner: &Recipe) -> impl Fn(&Recipe) -> Option<f64> {
        let genome = self.session.genome();
        let round = self.run.learned.iter().rev().find(|round| round.failed.is_none());
        let steepness = round
            .map(|round| &round.steepness)
            .filter(|s| s.len() == genome.genes().len());
        let known = steepness.zip(genome.encode(winner).ok());
        move |recipe| {
            let (steepness, from) = known.as_ref()?;
            let to = genome.encode(recipe).ok()?;
            let steps = from.iter().zip(&to).map(|(from, to)| (to - from).powi(2));
            Some(steps.zip(*steepness).map(|(step, steep)| 0.5 * steep * step).sum())
        }
    }

    /// Chooses the questions: fresh ones as far as the run has left enough, at most `limit` of each task. Starts the engine that
    /// the space names.
    ///
    /// # Errors
    /// Something is not what it was when the run began; too few questions to compare anything on.
    pub fn questions(&self, limit: Option<usize>) -> Result<Comparing<'_>, Error> {
        let mut examiner = Examiner::new(self, limit)?;
        let freshness = Freshness::of(&self.run);
        examiner.questions.fresh &= matches!(freshness, Freshness::Fresh | Freshness::InAnotherForm);
        Ok(Comparing { of: self, examiner })
    }
}

/// [`Simplifying`], with its questions chosen.
pub struct Comparing<'a> {
    of: &'a Simplifying,
    examiner: Examiner<'a>,
}

impl Comparing<'_> {
    pub fn questions(&self) -> &Questions {
        &self.examiner.questions
    }

    /// The winner's id, and how much there is of its recipe.
    pub fn winner(&self) -> (&str, Complexity) {
        let (id, recipe) = &self.of.winner;
        (id, Complexity::of(recipe))
    }

    /// Tries simpler recipes, each of which may lose less than `margin` of the fitness; `see` is told of each.
    ///
    /// # Errors
    /// The winner cannot be scored, or something of this machine broke.
    pub fn simplify(mut self, margin: f64, see: &mut dyn FnMut(&Attempt)) -> Result<Simplified, Error> {
        let of = self.of;
        let (id, winner) = &of.winner;
        let unscored = |reason: String| Error::Unscored { id: id.clone(), reason };
        let mut attempts = Vec::new();
        let mut seen = |attempt: &Attempt, recipe: &Recipe| {
            see(attempt);
            tracing::debug!("{}", recipe.digest());
            attempts.push(attempt.clone());
        };
        let examiner = &mut self.examiner;
        let mut ask = |recipe: &Recipe| examiner.ask(recipe, false);
        let expected = of.expected(winner);
        let simplest = simplify::simplify(winner, (margin, &expected), &mut ask, &mut seen).map_err(unscored)?;
        let sensitivities = simplify::sensitivities(&simplest, &mut ask).map_err(unscored)?;
        let first = examiner.ask(winner, true).map_err(unscored)?;
        let last = examiner.ask(&simplest, true).map_err(unscored)?;
        if let Some(reason) = self.examiner.broken {
            return Err(Error::Broken { reason });
        }
        Ok(Simplified {
            run: self.of.dir.path().display().to_string(),
            winner: id.clone(),
            margin,
            questions: self.examiner.questions,
            before: Complexity::of(winner),
            after: Complexity::of(&simplest),
            attempts,
            confirmation: simplify::against(&first, &last, margin),
            sensitivities,
            yaml: for_mergekit(&simplest, &self.of.session.space),
            recipe: simplest,
        })
    }
}

/// The run's winner, which must be a merge.
fn winner(run: &Run, dir: &RunDir) -> Result<(String, Recipe), Error> {
    let path = || dir.path().to_path_buf();
    let candidate = run.winner().ok_or_else(|| Error::NothingScored { run: path() })?;
    if candidate.origin == Origin::Parent {
        return Err(Error::WonByParent { run: path() });
    }
    let recipe = serde_json::from_value(candidate.recipe.clone()).map_err(|source| Error::Recipe { source })?;
    Ok((candidate.id.clone(), recipe))
}

/// Puts recipes through the questions that were chosen.
struct Examiner<'a> {
    evaluator: MergeEvaluator<'a>,
    /// Questions that decide, and questions that only confirm.
    deciding: Exam,
    confirming: Exam,
    questions: Questions,
    /// What broke on this machine. Nobody is asked any more then: a recipe that was not scored for it is not worse.
    broken: Option<String>,
}

impl<'a> Examiner<'a> {
    fn new(of: &'a Simplifying, limit: Option<usize>) -> Result<Self, Error> {
        let Simplifying {
            session, dir, asked, ..
        } = of;
        let began = of
            .run
            .started
            .as_ref()
            .ok_or_else(|| Error::NoBeginning { journal: dir.journal() })?;
        // No guard: the winner has passed it, and a worse recipe fails by its answers.
        let mut evaluator = session.unchanged(began, dir)?.without_guard();
        let mut all = evaluator
            .exam(&session.space.finale.selection.split, Limit::All)
            .map_err(Error::plan)?;
        for task in &mut all.tasks {
            task.weight = asked
                .scaled
                .as_ref()
                .and_then(|weights| weights.get(task.index))
                .copied()
                .unwrap_or(task.weight);
        }
        let used = &session.selected_elsewhere()? | &asked.used;
        let (chosen, unasked) = choose(&all, &used, limit);
        let part = |confirms: bool| {
            let of_task = |items: &Vec<usize>| -> Vec<usize> {
                let is_confirming = |i: usize| i % CONFIRMING == CONFIRMING - 1;
                let items = items.iter().enumerate();
                items
                    .filter(|(i, _)| is_confirming(*i) == confirms)
                    .map(|(_, item)| *item)
                    .collect()
            };
            all.of_items(chosen.iter().map(of_task).collect())
        };
        let (deciding, confirming) = (part(false), part(true));
        if deciding
            .tasks
            .iter()
            .chain(&confirming.tasks)
            .any(|task| task.items.len() < 2)
        {
            return Err(Error::TooFewQuestions {
                questions: deciding.n() + confirming.n(),
                split: all.split,
            });
        }
        Ok(Self {
            questions: Questions {
                split: all.split,
                deciding: deciding.n(),
                confirming: confirming.n(),
                unasked,
                fresh: unasked,
            },
            evaluator,
            deciding,
            confirming,
            broken: None,
        })
    }

    fn ask(&mut self, recipe: &Recipe, confirms: bool) -> Asked {
        let exam = if confirms { &self.confirming } else { &self.deciding };
        let sitting = Sitting {
            id: "",
            subject: Subject::Recipe(recipe),
            genotype: &[],
            genes: &[],
            exam,
        };
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        let evaluation = match self.evaluator.evaluate(&sitting, &mut |_| {}) {
            Ok(evaluation) => evaluation,
            Err(Unscored::Candidate { reason }) => return Err(reason),
            Err(Unscored::Machine { reason } | Unscored::Breakdown { reason }) => {
                return Err(self.broken.insert(reason).clone());
            }
        };
        let tasks = exam.tasks.iter().zip(&evaluation.answers);
        Ok(tasks
            .map(|(task, (_, answers))| {
                let size = |a: &Answer| if task.is_likelihood { a.tokens as f64 } else { 1.0 };
                TaskScores {
                    weight: task.weight,
                    scores: answers.iter().map(|a| a.score).collect(),
                    sizes: answers.iter().map(size).collect(),
                    is_right_or_wrong: !task.is_likelihood,
                }
            })
            .collect())
    }
}

/// For each task, questions that nobody in the run was asked, and `true`; all of them, and `false`, if too few are left.
fn choose(all: &Exam, used: &HashSet<String>, limit: Option<usize>) -> (Vec<Vec<usize>>, bool) {
    let unused = |task: &ExamTask| -> Vec<usize> {
        let is_unused = |i: &&usize| !used.contains(task.catalogue.ids[**i].as_str());
        task.items.iter().filter(is_unused).copied().collect()
    };
    let mut chosen: Vec<Vec<usize>> = all.tasks.iter().map(unused).collect();
    let unasked = chosen.iter().all(|items| items.len() >= FEWEST);
    if !unasked {
        chosen = all.tasks.iter().map(|task| task.items.clone()).collect();
    }
    for items in &mut chosen {
        items.truncate(limit.unwrap_or(usize::MAX));
    }
    (chosen, unasked)
}
