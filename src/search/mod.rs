//! The search: ask → decode → look up → merge → evaluate → tell → journal, until the budget ends; then the final.
//!
//! * [`run`] is the loop. It knows recipes and scores, and nothing of tensors: those are behind [`Evaluator`].
//! * `genome.rs` says what a genotype stands for; `race.rs` puts a generation through its questions, `pool.rs` chooses
//!   them and estimates from few what all would say; `scoring.rs` turns answers into fitness and paired comparisons.
//! * `evaluator.rs` is the real evaluator: merges in memory, asks the questions, caches every answer. `external.rs` asks
//!   a program of the user's, or several copies of it (`program.rs`, on a process of `programs`); then `crew.rs` keeps several
//!   candidates out at a time.
//!   `units.rs` is what of a sitting can be done elsewhere, and what comes back.
//! * `budget.rs` says when a search or a stage of it is over; `chronicle.rs` writes the journal.
//! * `replay.rs` stands between the loop and all that is found out once: what the journal holds it hands back. The loop is
//!   deterministic, so going on with a run is running it again from the start.
//! * `guide.rs` asks a language model for advice when a generation is over.
//! * `learning.rs` moves genes along the gradient of right answers before the optimizer begins; `pupil.rs` is how the real
//!   evaluator does that.
//! * `soup.rs` finds out which experts help, before the search; `finale.rs` decides who won, `examination.rs` asks those
//!   who take part, and says what that costs.

mod budget;
mod chronicle;
mod computation;
mod crew;
mod early;
mod ensemble;
mod evaluator;
mod examination;
mod external;
mod failures;
mod finale;
mod genome;
mod guide;
mod learning;
mod on_device;
mod overlap;
mod pool;
mod program;
mod pupil;
mod questions;
mod race;
mod replay;
mod scale;
mod scoring;
mod soup;
#[cfg(test)]
mod tests;
mod units;
mod unscored;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

pub use chronicle::{Chronicle, Clock};
pub use computation::{Computation, build};
pub use evaluator::{ENGINE_VERSION, FitnessTask, MergeEvaluator, Resources};
pub use external::{Delivery, Endpoint, External, Served};
pub use genome::Genome;
pub use guide::{Adviser, ExpectedAdvice, expected_advice};
pub use learning::{LEAST_TEXTS, Lesson, nothing_moves};
pub use overlap::{AskedPart, AskedQuestion, compare_questions, parts_of_run, selected_elsewhere};
pub use questions::Questions;
pub use scoring::{Catalogue, Exam, ExamTask, names_fit};
pub use units::{Given, Kept, Open, Part, Work};
pub use unscored::Unscored;

use budget::{Over, StageShare};
use crew::AtWork;
use examination::Batch;
use failures::Streak;
use genome::Who;
use pool::Pool;
use race::{Ahead, Entrant, Genes, Pace, Race};

use crate::{
    event::{
        self, CandidateId, EndReason, Event, Level, Origin, Phase,
        standing::{self, Standing},
    },
    optim::{self, Domain, Gene, Optimizer, Outcome, Spread},
    recipe::Recipe,
    space::{self, GeneSpec, SIGNIFICANT, Space, Start},
    store,
};

/// What ends a search before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Space(#[from] space::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the optimizer cannot search this space: {0}")]
    Optimizer(#[from] optim::Error),
    #[error("{model}: {message}")]
    Model { model: String, message: String },
    #[error("the models do not fit each other: {message}")]
    Misfit { message: String },
    #[error(
        "the task '{task}' has no split '{split}'; it has {known}. A run asks three: its own split in the search, 'selection' \
         for the finalists and 'test' for the last word, each with questions that the others do not have. Give the task's \
         'data' the missing one, as in `{split}: {{file: FILE, rows: 40..60}}`, or name one that nothing else asks, as in \
         `final: {{selection: {{split: NAME}}, test: {{split: NAME}}}}`"
    )]
    NoSplit {
        task: String,
        split: crate::eval::Split,
        known: String,
    },
    #[error(transparent)]
    Task(#[from] crate::eval::Error),
    #[error("the task '{task}' has no questions in its {split} split; name another split, or a task that has one")]
    NoQuestions { task: String, split: String },
    #[error("the model '{id}' cannot be scored: {reason}")]
    Parent { id: String, reason: String },
    #[error(
        "the journal says that {id} was made from recipe {journalled}, but this search arrives at {now}: the search space, a \
         model or heterosis itself has changed since. Start a new run"
    )]
    Diverged {
        id: String,
        journalled: String,
        now: String,
    },
    #[error(
        "{id} could not be scored, through no fault of its own: {reason}. Nothing is lost: when that is mended, `heterosis \
         resume` goes on and asks it again"
    )]
    Machine { id: String, reason: String },
    #[error(
        "since this run began, something else has become of {what}: answers from before and after that do not compare. Put \
         back what it was, or start a new run; `heterosis resume --accept-changes` goes on all the same, and everything that is \
         said about the run will say so"
    )]
    Changed { what: String },
    #[error(
        "the scores of '{task}' cannot be scaled: all answers of {model} score the same. Give the task more questions, or \
         leave 'scale' out and write weights"
    )]
    NoScale { task: String, model: String },
    #[error("not one candidate could be scored; the log says why each failed")]
    NothingScored,
    #[error(
        "{} in a row failed, {id} the last of them: {reason}. Nobody else could be scored then either, so none \
         of these failures counts. Once the command works, `heterosis resume` asks them again",
        event::words::counted(*failures, "candidate")
    )]
    NobodyAnswers {
        failures: usize,
        id: String,
        reason: String,
    },
    #[error(
        "every one of the {failed} candidates that this search bred has failed, {most} of them because: {reason}. So there \
          is nothing to choose a winner from. Mend the cause and `heterosis resume` asks them all again; if it lies in the \
          search space, start a new run (`heterosis check` tells which candidates can be merged)"
    )]
    NothingBred { failed: usize, most: usize, reason: String },
    #[error(
        "{id} cannot be scored on the {split} questions: {reason}. Nothing is decided without it: once that is mended, \
         `heterosis resume` asks it again"
    )]
    Unjudged { id: String, split: String, reason: String },
    #[error(transparent)]
    Id(#[from] event::IdError),
    #[error("the journal's recipe of {id} cannot be read: {source}")]
    Recipe { id: CandidateId, source: serde_json::Error },
}

/// Who is to be scored.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A parent as it is, by its short name.
    Model(&'a str),
    Recipe(&'a Recipe),
    /// No model: the genes themselves, which a command scores.
    Genes,
}

/// One candidate before one exam.
#[derive(Clone, Copy, Debug)]
pub struct Sitting<'a> {
    pub id: &'a str,
    pub subject: Subject<'a>,
    /// Empty for parents and unsearched merges.
    pub genotype: &'a [f64],
    pub genes: &'a [GeneSpec],
    pub exam: &'a Exam,
}

/// What one candidate made of one exam.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// One for each of the exam's tasks, with the key of the weights that gave them.
    pub answers: Vec<(String, Vec<event::Answer>)>,
    /// Named scores instead of answers: from a command that keeps its questions to itself.
    pub scores: Vec<(String, f64)>,
    /// No answer was generated for it.
    pub cached: bool,
    pub generated_tokens: u64,
    pub merge_ms: u64,
    pub evaluation_ms: u64,
    /// What computed the new answers, where that is not what the run began with.
    pub kind: String,
}

/// What scores a candidate: the real one merges and generates, another one asks a command, the tests' computes a
/// function.
pub trait Evaluator {
    /// # Errors
    /// The reason why this candidate has no score: without it the search goes on if that is its own fault, and stops if it is
    /// the machine's; where that is not known, others are asked.
    fn evaluate(
        &mut self,
        sitting: &Sitting<'_>,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Evaluation, Unscored>;

    /// Shows that somebody who was scored before can be scored now, by asking, whatever is known of its answers.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`].
    fn prove(&mut self, sitting: &Sitting<'_>) -> Result<(), Unscored> {
        self.evaluate(sitting, &mut |_| {}).map(|_| ())
    }

    /// Whether it can learn.
    fn learns(&self) -> bool {
        false
    }

    /// Moves genes along the gradient of texts that ought to be likely; `see` is told of each step, and ends the round by
    /// returning false.
    ///
    /// # Errors
    /// The reason why nothing is learned; the search goes on without it.
    fn learn(
        &mut self,
        _lesson: &Lesson<'_>,
        _see: &mut dyn FnMut(event::Learning) -> bool,
    ) -> Result<event::Learned, Unscored> {
        Err(Unscored::candidate("this evaluator cannot learn"))
    }

    /// A candidate has its score: what it has answered is asked for no more.
    fn forget(&mut self, _id: &str) {}

    /// What somebody answered in a split stands in the journal.
    fn told(&mut self, _id: &str, _split: &str) {}

    /// The evaluator's hands, if it has several.
    fn crew(&mut self) -> Option<&mut dyn Crew> {
        None
    }
}

/// Works on several candidates at a time.
pub trait Crew {
    /// The most that can be out.
    fn size(&self) -> usize;

    /// Begins with a candidate and returns at once; fewer than [`Crew::size`] must be out.
    fn begin(&mut self, sitting: &Sitting<'_>);

    /// Waits for the next word: somebody is done, or something is worth knowing.
    fn next(&mut self) -> News;

    /// Hands that nothing is left for, and that cost nobody anything if they work in vain.
    fn idle(&self) -> usize {
        0
    }

    /// Nobody waits for a candidate any more; whether that is the end of it, and no word of it will come.
    fn give_up(&mut self, _id: &str) -> bool {
        false
    }

    /// One candidate, with nobody else out; what else the crew says meanwhile is lost.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`].
    fn alone(&mut self, sitting: &Sitting<'_>) -> Result<Evaluation, Unscored> {
        self.begin(sitting);
        loop {
            if let News::Done(id, evaluation) = self.next()
                && id == sitting.id
            {
                return evaluation;
            }
        }
    }
}

/// What a crew has to say.
#[derive(Debug)]
pub enum News {
    /// The candidate's id, and what [`Evaluator::evaluate`] would give for it.
    Done(String, Result<Evaluation, Unscored>),
    /// For the journal: whose hands they are.
    Told(Event),
    /// For whoever looks on.
    Shown(Event),
    /// Time has passed; there may be more hands than before.
    Nothing,
}

/// Requests from outside; each is looked at between two candidates.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// End after the candidate that is being evaluated; the run can be resumed.
    pub stop: Arc<AtomicBool>,
    pub pause: Arc<AtomicBool>,
}

impl Control {
    fn wants_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wants_quiet(&self) -> bool {
        self.wants_stop() || self.pause.load(Ordering::Relaxed)
    }
}

/// What a search needs to know besides how to score.
#[derive(Clone, Debug)]
pub struct Plan {
    pub space: Space,
    pub genome: Genome,
    /// Known recipes handed to the optimizer: name and recipe.
    pub warm_starts: Vec<(String, Recipe)>,
    pub budget: event::Budget,
    /// End the search now and go to the final.
    pub finish: bool,
    /// The questions of the search, of the selection among finalists, and the sealed ones.
    pub search: Exam,
    pub selection: Exam,
    pub test: Exam,
    /// What is learned from, after the first round; none where nothing is learned.
    pub lessons: Exam,
    /// What the search never asks: every task with a split of its own; none is usual.
    pub held_out: Exam,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum End {
    Done,
    Stopped,
}

/// Part of the budget that goes to candidates drawn at random, as a measure of what the optimizer adds.
const RANDOM_SHARE: f64 = 0.05;

/// Of any budget.
const MOST_RANDOM: usize = 10_000;

/// Questions on which parents and unsearched merges are measured in a race.
const STANDARD_QUESTIONS: usize = 250;

/// Runs or goes on with a search.
///
/// # Errors
/// A parent that cannot be scored, a disk that cannot be written, a journal that belongs to another search. A candidate
/// that cannot be scored is no error.
pub fn run(
    plan: &Plan,
    evaluator: &mut dyn Evaluator,
    adviser: Option<&mut dyn Adviser>,
    chronicle: &mut Chronicle<'_>,
    control: &Control,
) -> Result<End, Error> {
    let adviser = adviser.map(|adviser| -> &mut dyn Adviser { adviser });
    let mut unscaled = Run::new(plan, evaluator, adviser, chronicle, control);
    match unscaled.scaled() {
        Ok(None) => {
            let how = unscaled.whole();
            unscaled.end(how)
        }
        Ok(Some(scaled)) => {
            let adviser = unscaled.adviser.map(|adviser| -> &mut dyn Adviser { adviser });
            let mut run = Run::new(&scaled, unscaled.evaluator, adviser, unscaled.chronicle, control);
            let how = run.whole();
            run.end(how)
        }
        Err(interrupt) => unscaled.end(Err(interrupt)),
    }
}

/// What a run has taken, when all is done.
#[derive(Clone)]
struct Done {
    evals: u64,
    answers: u64,
    elapsed_ms: u64,
}

/// Why the work does not go on.
enum Interrupt {
    Stop,
    Error(Error),
}

impl<E: Into<Error>> From<E> for Interrupt {
    fn from(e: E) -> Self {
        Self::Error(e.into())
    }
}

struct Run<'a, 'b> {
    plan: &'a Plan,
    evaluator: &'a mut dyn Evaluator,
    /// Who gives advice, if somebody does.
    adviser: Option<&'a mut dyn Adviser>,
    chronicle: &'a mut Chronicle<'b>,
    control: &'a Control,
    /// The search questions and what is known of them.
    pool: Pool,
    /// How many of them a generation is asked.
    pace: Pace,
    /// The search questions on which parents, unsearched merges and means are measured.
    standard: Exam,
    /// Everybody with a score on the search questions, in order.
    scored: Vec<event::Candidate>,
    /// Their fitness, in a race drawn to its mean by how little is known of it.
    worth: Vec<f64>,
    /// By id: scores with their errors, where the optimizer weighs scores by them.
    measurements: HashMap<String, optim::Measurement>,
    /// Ids of the optimizers' own ideas of the best.
    means: Vec<String>,
    /// Races begun; each has its own block of questions.
    races: u64,
    /// Candidates that the optimizers of earlier stages asked for, and their generations.
    asked: u64,
    generations: u64,
    /// Candidates that the budget paid for, failed ones included; parents and unsearched merges are free.
    evals: u64,
    /// This stage's part of the budget, if another one follows it.
    stage_share: Option<StageShare>,
    /// How many had a score when each stage began, and its genes.
    stages: Vec<(usize, Genes)>,
    /// Where the search begins, if some experts without the others are better than every unsearched merge of all.
    soup: Option<(Genome, Start)>,
    /// Answers of parents, unsearched merges and learned candidates, where something is to be learned from them.
    given: Vec<learning::Given>,
    keeps_answers: bool,
    /// Which genes of this stage the last round would not move as one, where it was told.
    apart: Vec<Option<f64>>,
    /// Rounds of learning that were begun.
    lessons: u64,
    /// Those that were begun when the stage before this one ended.
    lessons_before: u64,
    /// What learning has led to, by the recipe's digest.
    learned_last: Option<String>,
    /// Learned for each of several objectives alone.
    ends_of_front: Vec<optim::Genotype>,
    /// What a language model proposed.
    guided: Vec<optim::Genotype>,
    /// Questions in a row to which it has not replied.
    unanswered: u64,
    /// Of an evaluator with several hands.
    at_work: AtWork,
    /// The rung that is being asked, where it is not the last.
    ahead: Option<Ahead>,
    /// How many candidates of the optimizers have failed, and why the first of them; by the kind of the reason.
    failures: HashMap<String, (usize, String)>,
    /// Failures since somebody was last scored.
    streak: Streak,
    /// How long this process waited for a program that had broken down.
    rested: Duration,
    /// What of an exam is being asked.
    batch: Batch,
    /// What a command's scores are called; empty until the first has come.
    names: Vec<String>,
    /// Answers are told as they arrive.
    is_asynchronous: bool,
}

impl<'a, 'b> Run<'a, 'b> {
    fn new(
        plan: &'a Plan,
        evaluator: &'a mut dyn Evaluator,
        adviser: Option<&'a mut dyn Adviser>,
        chronicle: &'a mut Chronicle<'b>,
        control: &'a Control,
    ) -> Self {
        let pool = Pool::new(&plan.search);
        let is_asynchronous = chronicle.is_asynchronous(plan);
        let pace = Pace::new(plan);
        Self {
            plan,
            evaluator,
            adviser,
            chronicle,
            control,
            standard: match pace.is_racing() {
                true => pool.spread(STANDARD_QUESTIONS),
                false => plan.search.clone(),
            },
            pool,
            pace,
            scored: Vec::new(),
            worth: Vec::new(),
            measurements: HashMap::new(),
            means: Vec::new(),
            races: 0,
            asked: 0,
            generations: 0,
            evals: 0,
            stage_share: None,
            stages: vec![(0, plan.genome.genes().into())],
            soup: None,
            given: Vec::new(),
            keeps_answers: plan.space.search.learn.is_some(),
            apart: Vec::new(),
            lessons: 0,
            lessons_before: 0,
            learned_last: None,
            ends_of_front: Vec::new(),
            guided: Vec::new(),
            unanswered: 0,
            at_work: AtWork::default(),
            ahead: None,
            failures: HashMap::new(),
            streak: Streak::default(),
            rested: Duration::ZERO,
            batch: Batch::default(),
            is_asynchronous,
            names: plan
                .space
                .fitness
                .weights
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }

    /// What is said at the end of the work.
    fn end(&mut self, how: Result<(), Interrupt>) -> Result<End, Error> {
        match how {
            Ok(()) => {
                self.chronicle.believe()?;
                Ok(End::Done)
            }
            Err(Interrupt::Stop) => {
                self.settle()?;
                let reason = "asked to stop; `heterosis resume` goes on".into();
                self.chronicle.write(Event::RunStopped { reason })?;
                Ok(End::Stopped)
            }
            Err(Interrupt::Error(e)) => {
                self.chronicle.disbelieve();
                self.chronicle.write(Event::RunFailed { reason: e.to_string() })?;
                Err(e)
            }
        }
    }
}

impl Run<'_, '_> {
    fn whole(&mut self) -> Result<(), Interrupt> {
        self.once(&(), |run| {
            run.chronicle.final_planned(run.plan.finale())?;
            run.baselines()?;
            run.search()?;
            run.has_bred()?;
            run.finale()?;
            Ok(Done {
                evals: run.evals,
                answers: run.chronicle.answer_count(),
                elapsed_ms: run.chronicle.elapsed_ms(),
            })
        })?;
        Ok(())
    }

    /// One stage of several whose every candidate failed has added nothing: `failures` are its own.
    fn say_if_all_failed(&mut self, genome: &Genome, began: usize) -> Result<(), Error> {
        let is_bred = |c: &event::Candidate| c.origin == Origin::Search;
        let is_one_of_several = self.stages.len() > 1 || genome.next_stage().is_some();
        let Some((most, reason)) = self.failures.values().max().filter(|_| is_one_of_several) else {
            return Ok(());
        };
        if self.scored[began..].iter().any(is_bred) {
            return Ok(());
        }
        let failed: usize = self.failures.values().map(|(n, _)| n).sum();
        let message = format!(
            "every one of the {failed} candidates that the stage '{}' bred has failed, {most} of them because: {reason}. So it \
             adds nothing to what was found before it",
            genome.stage().name()
        );
        self.chronicle.log(Level::Warning, message)
    }

    /// A search that bred nothing but failures has failed, whatever unsearched merges and random draws are worth.
    fn has_bred(&self) -> Result<(), Error> {
        let is_bred = |c: &event::Candidate| c.origin == Origin::Search;
        match self.failures.values().max() {
            Some((most, reason)) if !self.scored.iter().any(is_bred) => Err(Error::NothingBred {
                failed: self.failures.values().map(|(n, _)| n).sum(),
                most: *most,
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Parents, unsearched merges and some random draws are the first candidates.
    fn baselines(&mut self) -> Result<(), Interrupt> {
        self.chronicle.phase(Phase::Baselines)?;
        let plan = self.plan;
        let parents = plan.space.models.iter().map(|(name, _)| Entrant::parent(name));
        let merges = plan.genome.baselines().into_iter();
        let unsearched = merges.map(|(id, recipe)| Entrant::unsearched(&id, recipe));
        let known: Vec<Entrant> = parents.chain(unsearched).collect();
        let first = self.few().unwrap_or_else(|| self.standard.clone());
        self.look_ahead(&known, &first)?;
        let (parents, unsearched) = known.split_at(plan.space.models.len());
        for (parent, scored) in parents.iter().zip(self.measure_all(parents)?) {
            if let Err(reason) = scored {
                let id = parent.id.clone();
                return Err(Error::Parent { id, reason }.into());
            }
        }
        // A baseline that fails is in the journal with its reason; the search goes on.
        self.measure_all(unsearched)?;
        self.greedy_soup()?;
        self.random_draws()
    }

    /// What luck alone finds: a few draws without an optimizer, raced like a generation.
    fn random_draws(&mut self) -> Result<(), Interrupt> {
        let plan = self.plan;
        let evals = plan.budget.evals.unwrap_or(plan.space.search.evals);
        let n = ((evals as f64 * RANDOM_SHARE) as usize).min(MOST_RANDOM);
        if n == 0 || plan.space.search.optimizer == optim::Kind::Random {
            return Ok(());
        }
        let options = optim::Options {
            seed: plan.space.search.seed ^ 0x0072_616e_646f_6d00,
            population_size: Some(n.max(2)),
            ..optim::Options::default()
        };
        let mut random = Optimizer::new(optim::Kind::Random, domain(&plan.genome)?, &options)?;
        let draws = random.ask().into_iter().take(n);
        let entrants: Vec<Entrant> = draws
            .map(|ask| Entrant {
                id: CandidateId::Draw(ask.id + 1).to_string(),
                origin: Origin::Random,
                generation: None,
                who: plan.genome.decode(&ask.genotype),
                genotype: ask.genotype,
                genes: self.genes(),
            })
            .collect();
        self.race(&entrants)?;
        Ok(())
    }

    /// Asks until the budget ends, stage after stage.
    fn search(&mut self) -> Result<(), Interrupt> {
        self.chronicle.phase(Phase::Search)?;
        self.say_what_is_kept()?;
        let (mut genome, mut known) = (self.plan.genome.clone(), None);
        if let Some((around_soup, start)) = self.soup.take() {
            (genome, known) = (around_soup, Some(start));
            self.stages.push((self.scored.len(), genome.genes().into()));
        }
        if let Some(start) = self.learn(&genome, known.as_ref())? {
            known = Some(start);
        }
        let reason = loop {
            let next = genome.next_stage();
            self.stage_share = next.map(|next| self.stage_share(next, genome.share(), genome.stage().is_narrow()));
            let (over, optimizer) = self.stage(&genome, known.take())?;
            self.learn_on(&genome)?;
            let reason = match over {
                Over::Stage => EndReason::Converged,
                Over::Search(reason) => reason,
            };
            if reason != EndReason::Converged || next.is_none() {
                break reason;
            }
            let following = match genome.stage().is_narrow() {
                true => self.wider(&genome, &optimizer)?,
                false => genome.after(&self.champion()?).map(|following| (following, None)),
            };
            match following {
                Some(following) => (genome, known) = following,
                None => break EndReason::Converged,
            }
            self.stages.push((self.scored.len(), genome.genes().into()));
        };
        self.chronicle.search_ended(reason, self.evals)?;
        Ok(())
    }

    /// The genome that tells apart what has shown an effect in this stage, or has parts that the last round of learning would
    /// move apart, and where its search begins.
    fn wider(&mut self, genome: &Genome, optimizer: &Optimizer) -> Result<Option<(Genome, Option<Start>)>, Error> {
        let apart = std::mem::take(&mut self.apart);
        self.say_what_pulls_apart(genome, &apart)?;
        let Some((began, _)) = self.stages.last() else {
            return Ok(None);
        };
        // Those who left their race early too: the survivors alone are too much alike to show an effect.
        let asked = self.standing().skip(*began).filter(|(c, _)| c.generation.is_some());
        let points: Vec<(&[f64], f64)> = asked.map(|(c, worth)| (c.genotype.as_slice(), worth)).collect();
        let known = match (optimizer.mean(), optimizer.spread()) {
            (Some(mean), Some(Spread::Correlated { stds, correlations })) => Start {
                mean,
                stds,
                correlations,
            },
            _ => return Ok(None), // of choices alone: there is nothing to tell apart
        };
        let wider = genome.wider(&points, &apart, &known);
        Ok(wider.map(|(wider, start)| (wider, Some(start))))
    }

    fn say_what_pulls_apart(&mut self, genome: &Genome, apart: &[Option<f64>]) -> Result<(), Error> {
        let told = genome.genes().iter().zip(apart);
        let told = told.filter_map(|(gene, luck)| luck.map(|luck| format!("{} (p = {luck:.2})", gene.name)));
        let told: Vec<String> = told.collect();
        if told.is_empty() {
            return Ok(());
        }
        let message = format!(
            "whether parts of a gene would move apart, by the slopes of the last round of learning: {}; those below {SIGNIFICANT} \
             are split",
            told.join(", ")
        );
        self.log(Level::Info, message)
    }

    /// One optimizer from its first question to its last. `known` is where it begins, if an earlier stage has found that out.
    fn stage(&mut self, genome: &Genome, known: Option<Start>) -> Result<(Over, Optimizer), Interrupt> {
        let (mut optimizer, warm) = self.optimizer(genome, known)?;
        self.chronicle.stage_started(event::StageStarted {
            stage: genome.stage().name().into(),
            optimizer: optimizer.kind().name().into(),
            genes: genome.genes().iter().map(|g| g.name.clone()).collect(),
            evals: self.evals,
        })?;
        let (began, before) = (self.scored.len(), std::mem::take(&mut self.failures));
        let (over, asked) = match self.is_asynchronous {
            true => self.side_by_side(genome, &warm, &mut optimizer)?,
            false => self.in_generations(genome, &warm, &mut optimizer)?,
        };
        self.say_if_all_failed(genome, began)?;
        for (kind, (n, reason)) in before {
            self.failures.entry(kind).or_insert((0, reason)).0 += n;
        }
        self.asked += asked;
        self.generations += optimizer.status().generation;
        self.score_means(genome, &optimizer)?;
        Ok((over, optimizer))
    }

    /// The genes of the stage that is searched.
    fn genes(&self) -> Genes {
        self.stages.last().map(|(_, genes)| genes.clone()).unwrap_or_default()
    }

    /// A candidate with a score, for another exam.
    fn again(&self, candidate: &event::Candidate) -> Result<Entrant, Error> {
        let place = self.scored.iter().position(|c| c.id == candidate.id);
        let place = place.expect("whoever is asked again has a score");
        let of_stage = self.stages.iter().rev().find(|(began, _)| *began <= place);
        let genes = of_stage.map(|(_, genes)| genes.clone()).unwrap_or_default();
        Entrant::again(candidate, genes, &self.plan.space.models)
    }

    /// One candidate after the other, a generation at a time: how it ended, and how many candidates were asked for.
    fn in_generations(
        &mut self,
        genome: &Genome,
        warm: &[optim::Genotype],
        optimizer: &mut Optimizer,
    ) -> Result<(Over, u64), Interrupt> {
        let mut asked = 0;
        loop {
            if let Some(over) = self.over(0)? {
                return Ok((over, asked));
            }
            let asks = optimizer.ask();
            let Some(generation) = asks.first().map(|a| self.generations + a.generation) else {
                return Ok((Over::Search(EndReason::Converged), asked));
            };
            asked = asks.last().map_or(asked, |ask| ask.id + 1);
            let entrants = asks.iter().map(|ask| self.entrant(genome, warm, generation, ask));
            let entrants = self.affordable(entrants);
            let race = self.race(&entrants)?;
            let Some(race) = race.filter(|_| entrants.len() == asks.len()) else {
                continue; // the budget ended within the generation: the next look at it ends the search
            };
            for (ask, answers) in asks.iter().zip(&race.answers) {
                optimizer.observe(ask.id, answers.clone()).map_err(Error::from)?;
            }
            for (ask, entrant) in asks.iter().zip(&entrants) {
                self.say_error(optimizer, ask.id, entrant)?;
            }
            let ids = asks.iter().map(|a| a.id);
            let results: Vec<(u64, Outcome)> = ids.zip(race.outcomes.iter().cloned()).collect();
            optimizer.tell(&results).map_err(Error::from)?;
            self.generation_ended(generation, &race, optimizer)?;
            self.take_advice(genome, optimizer)?;
        }
    }

    /// Tells an optimizer that wants to know how much a candidate's score errs, also of one that left its race early.
    fn say_error(&self, optimizer: &mut Optimizer, ask: u64, entrant: &Entrant) -> Result<(), Error> {
        match self.measurements.get(&entrant.id) {
            Some(measured) => Ok(optimizer.measure(ask, measured.clone())?),
            None => Ok(()),
        }
    }

    /// Tells an optimizer that learns from any point whom it need not ask: everybody with a score that its genes express.
    fn say_what_is_known(&self, genome: &Genome, optimizer: &mut Optimizer) -> Result<(), Error> {
        if !optimizer.kind().weighs_errors() {
            return Ok(());
        }
        for candidate in &self.scored {
            let is_bare = candidate.recipe.get("genes").is_some();
            let genotype = match serde_json::from_value::<Recipe>(candidate.recipe.clone()) {
                Ok(recipe) => genome.encode(&recipe).ok(),
                Err(_) => is_bare.then(|| candidate.genotype.clone()),
            };
            if let Some(genotype) = genotype {
                let measured = match self.measurements.get(&candidate.id) {
                    Some(measured) => measured.clone(),
                    None => optim::Measurement::new(candidate.fitness, candidate.stderr)?,
                };
                optimizer.know(genotype, measured)?;
            }
        }
        Ok(())
    }

    /// As many as the budget pays for; one that repeats an unsearched merge costs nothing.
    fn affordable(&self, entrants: impl Iterator<Item = Entrant>) -> Vec<Entrant> {
        let mut left = self.evals_left();
        let is_paid_for = |entrant: &Entrant| -> bool {
            let is_free = self.repeats_baseline(entrant);
            let pays = is_free || left > 0;
            left -= usize::from(pays && !is_free);
            pays
        };
        entrants.take_while(is_paid_for).collect()
    }

    fn repeats_baseline(&self, entrant: &Entrant) -> bool {
        entrant.origin == Origin::WarmStart && {
            let (_, digest) = entrant.who.record();
            let mut baselines = self.scored.iter().filter(|c| c.origin == Origin::Baseline);
            baselines.any(|baseline| baseline.recipe_digest == digest)
        }
    }

    /// A candidate of the optimizer's, with a name.
    fn entrant(&self, genome: &Genome, warm: &[optim::Genotype], generation: u64, ask: &optim::Ask) -> Entrant {
        let origin = if warm.contains(&ask.genotype) {
            Origin::WarmStart
        } else if self.guided.contains(&ask.genotype) {
            Origin::Guided
        } else {
            Origin::Search
        };
        Entrant {
            id: CandidateId::Search(self.asked + ask.id + 1).to_string(),
            origin,
            generation: Some(generation),
            who: genome.decode(&ask.genotype),
            genotype: ask.genotype.clone(),
            genes: self.genes(),
        }
    }

    fn optimizer(&mut self, genome: &Genome, known: Option<Start>) -> Result<(Optimizer, Vec<optim::Genotype>), Error> {
        let plan = self.plan;
        let domain = domain(genome)?;
        let kind = optimizer_kind(&plan.space, &domain);
        let options = optim::Options {
            seed: plan.space.search.seed,
            population_size: plan.space.search.population,
            // Whoever is asked the same questions again says the same; in a race the questions are others.
            noisy: match kind {
                optim::Kind::Genetic | optim::Kind::Nsga2 => self.pace.is_racing(),
                _ => !plan.search.tasks.is_empty(),
            },
            learning_rate_adaptation: self.pace.is_racing() && kind == optim::Kind::CmaEs,
            objectives: match kind {
                optim::Kind::Nsga2 => plan.objectives(),
                _ => 1,
            },
            path: match kind {
                optim::Kind::Genetic => genome.path(),
                _ => Vec::new(),
            },
            competition: plan.space.search.mating.map(|mating| mating.attraction),
            groups: genome.groups(),
            ..optim::Options::default()
        };
        let mut optimizer = Optimizer::new(kind, domain, &options)?;
        self.say_what_is_known(genome, &mut optimizer)?;
        let mut warm = Vec::new();
        for (_, recipe) in &plan.warm_starts {
            // In a search of several stages, a recipe is a start for the stage that can express it.
            let genotype = genome.encode(recipe).ok();
            warm.extend(genotype.filter(|genotype| known.is_none() || !self.has_met(&genome.decode(genotype))));
        }
        if let Some(start) = known {
            let Start { stds, correlations, .. } = start;
            let spread = match correlations.is_empty() {
                true => Spread::OfGenes(stds),
                false => Spread::Correlated { stds, correlations },
            };
            optimizer.start_at(&start.mean, &spread)?;
            warm.append(&mut self.ends_of_front);
            optimizer.inject(warm.iter().cloned())?;
            return Ok((optimizer, warm));
        }
        if let Some(start) = genome.origin() {
            warm.extend(genome.seeds());
            optimizer.start_at(&start.mean, &Spread::OfGenes(start.stds))?;
            optimizer.inject(warm.iter().cloned())?;
            return Ok((optimizer, warm));
        }
        if warm.is_empty() {
            warm.extend(self.best_baseline(genome));
        }
        if let Some((first, others)) = warm.split_first() {
            optimizer.start_at(first, &Spread::OfRange(1.0 / 6.0))?;
            optimizer.inject(others.iter().cloned())?;
        }
        Ok((optimizer, warm))
    }

    /// Whether somebody like this has a score.
    fn has_met(&self, who: &Who) -> bool {
        let (_, digest) = who.record();
        self.scored.iter().any(|c| c.recipe_digest == digest)
    }

    /// Where a search starts that was told of no recipe: the unsearched merge that scored best, if the space has it.
    fn best_baseline(&self, genome: &Genome) -> Option<optim::Genotype> {
        self.best_baseline_named(genome).map(|(_, genotype)| genotype)
    }

    fn best_baseline_named(&self, genome: &Genome) -> Option<(String, optim::Genotype)> {
        let mut baselines: Vec<&event::Candidate> =
            self.scored.iter().filter(|c| c.origin == Origin::Baseline).collect();
        baselines.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
        baselines.iter().find_map(|c| {
            let recipe: Recipe = serde_json::from_value(c.recipe.clone()).ok()?;
            Some((c.id.clone(), genome.encode(&recipe).ok()?))
        })
    }

    /// The centres of an optimizer's distributions are candidates like the others: the last one's, and those at which
    /// restarts left off. One that no generation has moved is where the search began, and nothing that it found.
    fn score_means(&mut self, genome: &Genome, optimizer: &Optimizer) -> Result<(), Interrupt> {
        if optimizer.status().generation == 0 {
            return Ok(());
        }
        let means: Vec<optim::Genotype> = optimizer
            .ended_means()
            .iter()
            .cloned()
            .chain(optimizer.mean())
            .collect();
        for (i, genotype) in means.iter().enumerate().rev().take(3) {
            // Where a language model proposed nothing that can be used, the last generation's best stands in for a mean.
            let is_bred = |c: &event::Candidate| c.origin != Origin::Mean && c.genotype == *genotype;
            if self.plan.space.search.optimizer == optim::Kind::Evollm && self.scored.iter().any(is_bred) {
                continue;
            }
            let id = CandidateId::Mean {
                stage: genome.next_stage().map(|_| genome.stage().name().into()),
                restart: (i + 1 < means.len()).then_some(i + 1),
            };
            let id = id.to_string();
            let entrant = Entrant {
                id: id.clone(),
                origin: Origin::Mean,
                generation: None,
                who: genome.decode(genotype),
                genotype: genotype.clone(),
                genes: self.genes(),
            };
            if self.measure(&entrant)?.is_ok() {
                self.means.push(id);
            }
        }
        Ok(())
    }

    /// The recipe that the next stage builds on: the best of the mean and the few of most worth, on the same questions.
    fn champion(&mut self) -> Result<Recipe, Interrupt> {
        let best: Vec<&event::Candidate> = self.bred().into_iter().take(3).collect();
        let means = self.scored.iter().filter(|c| c.origin == Origin::Mean);
        let contender = |c: &event::Candidate| Ok((c.fitness, self.again(c)?.who));
        let mut contenders: Vec<(f64, Who)> = means.map(contender).collect::<Result<_, Error>>()?;
        if self.pace.is_racing() {
            let best: Vec<Entrant> = best.into_iter().map(|c| self.again(c)).collect::<Result<_, _>>()?;
            let standard = self.standard.clone();
            for entrant in best {
                if let Ok(evaluation) = self.sit(&entrant, &standard)? {
                    contenders.push((self.plan.judge(&standard, &evaluation).0.value, entrant.who));
                }
            }
        } else {
            // They have answered all questions; a command that is asked again may say something else.
            let best = best.into_iter().map(contender).collect::<Result<Vec<_>, Error>>()?;
            contenders.extend(best);
        }
        // The mean stands first and wins ties.
        match contenders.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a }) {
            Some((_, Who::Recipe(recipe))) => Ok(*recipe),
            _ => Err(Error::NothingScored.into()),
        }
    }

    fn standing(&self) -> impl Iterator<Item = Standing<'_>> {
        self.scored.iter().zip(self.worth.iter().copied())
    }

    /// The searched candidates that count, those of most worth first.
    fn bred(&self) -> Vec<&event::Candidate> {
        standing::bred(self.standing())
    }

    fn generation_ended(&mut self, generation: u64, race: &Race, optimizer: &Optimizer) -> Result<(), Error> {
        let mut fitness: Vec<f64> = race.fitness.iter().flatten().copied().collect();
        fitness.sort_by(f64::total_cmp);
        let state = serde_json::to_vec(optimizer).expect("an optimizer is plain data");
        let ended = event::Generation {
            generation,
            best: quantile(&fitness, 1.0),
            upper_quartile: quantile(&fitness, 0.75),
            median: quantile(&fitness, 0.5),
            lower_quartile: quantile(&fitness, 0.25),
            failed: race.fitness.len() - fitness.len(),
            sigma: optimizer.status().sigma,
            block: self.pace.is_racing().then_some(race.block),
            tau: race.tau,
            split_half: race.split_half,
            state_digest: blake3::hash(&state).to_hex().to_string(),
        };
        if fitness.is_empty() {
            let message = format!(
                "all {} candidates of generation {generation} failed",
                race.fitness.len()
            );
            self.log(Level::Warning, message)?;
        } else if fitness.len() > 1 && fitness[0] == fitness[fitness.len() - 1] {
            let message = format!(
                "all candidates of generation {generation} scored the same ({:.4}); the search goes on{}",
                fitness[0],
                match self.plan.space.fitness.command {
                    None => {
                        ". If this repeats, the genes change nothing (a density where the weight is 0), or the tasks tell too \
                         few candidates apart: give them more questions, or add a log-likelihood task"
                    }
                    Some(_) => ". If this repeats, the command tells too few of them apart",
                }
            );
            self.log(Level::Warning, message)?;
        }
        self.chronicle.generation_ended(ended)
    }

    fn log(&mut self, level: Level, message: String) -> Result<(), Error> {
        self.chronicle.log(level, message)
    }
}

impl Plan {
    /// What is maximised, each for itself, where there are several objectives: the tasks in their order, with `tokens` the
    /// shortness of their answers too, or the scores of a command that have a weight, by name, those of a negative weight negated.
    fn objectives_of(&self, tasks: &[event::TaskScore]) -> Option<Vec<f64>> {
        if !self.search.tasks.is_empty() {
            let scores = tasks.iter().map(|task| task.score.value);
            let shortness = self.space.fitness.tokens.then(|| self.shortness_of(tasks));
            return Some(scores.chain(shortness).collect());
        }
        let of_name = |(name, sign): (&str, f64)| {
            let task = tasks.iter().find(|task| task.task == name)?;
            Some(sign * task.score.value)
        };
        self.directions().into_iter().map(of_name).collect()
    }

    /// The scores of a command that are maximised (1) or minimised (−1), by name.
    fn directions(&self) -> Vec<(&str, f64)> {
        let weights = self.space.fitness.weights.iter().filter(|(_, weight)| *weight != 0.0);
        let mut directions: Vec<(&str, f64)> = weights.map(|(name, weight)| (name.as_str(), weight.signum())).collect();
        directions.sort_by_key(|(name, _)| *name);
        directions
    }

    fn objectives(&self) -> usize {
        match self.search.tasks.len() {
            0 => self.directions().len(),
            n => n + usize::from(self.space.fitness.tokens),
        }
    }

    /// The mean number of tokens of an answer over the tasks that generate, by their weights, negated: less is better.
    fn shortness_of(&self, tasks: &[event::TaskScore]) -> f64 {
        let weight_of = |task: &event::TaskScore| {
            let same = |known: &&ExamTask| (&known.task, &known.lang) == (&task.task, &task.lang);
            self.search.tasks.iter().find(same).map_or(1.0, |known| known.weight)
        };
        event::axes::mean_tokens(tasks, weight_of).map_or(0.0, |mean| -mean)
    }

    /// What a candidate made of each question of an exam, or of each score of a command's that `weights` name, where
    /// individuals compete for them; a log-likelihood counts as the probability that it is. In a race heavier tasks have
    /// more questions in a block, else each of their questions counts more.
    fn answered(&self, exam: &Exam, evaluation: &Evaluation) -> Vec<optim::Answered> {
        if self.space.search.mating.is_none() {
            return Vec::new();
        }
        let named = self.space.fitness.weights.iter().zip(0..);
        let named = named.filter_map(|((name, weight), question)| {
            let counts = |(known, _): &&(String, f64)| known == name && *weight > 0.0;
            let (_, score) = evaluation.scores.iter().find(counts)?;
            Some(optim::Answered {
                question,
                score: *score,
                weight: *weight,
            })
        });
        let mut answered: Vec<optim::Answered> = named.collect();
        let mut before = 0;
        for ((task, (_, answers)), pool) in exam.tasks.iter().zip(&evaluation.answers).zip(&self.search.tasks) {
            let weight = match self.space.search.racing {
                Some(_) => 1.0,
                None => task.weight / pool.items.len() as f64,
            };
            answered.extend(task.items.iter().zip(answers).map(|(item, answer)| optim::Answered {
                question: (before + item) as u32,
                score: match task.is_likelihood {
                    true => libm::exp(answer.score),
                    false => answer.score,
                },
                weight,
            }));
            before += task.catalogue.ids.len();
        }
        answered
    }

    /// Fitness and its parts from a candidate's answers, or from a command's scores.
    fn judge(&self, exam: &Exam, evaluation: &Evaluation) -> (event::Score, Vec<event::TaskScore>) {
        match evaluation.scores.is_empty() {
            true => exam.score(&evaluation.answers),
            false => scoring::of_command(&evaluation.scores, &self.space.fitness.weights, &exam.split),
        }
    }
}

/// The algorithm that a space asks for, or the one like it that can search these genes.
fn optimizer_kind(space: &Space, domain: &Domain) -> optim::Kind {
    let is_real = domain.genes().iter().all(|g| matches!(g, Gene::Real { .. }));
    match space.search.optimizer {
        _ if space.fitness.is_pareto() => optim::Kind::Nsga2,
        optim::Kind::CmaEs if !is_real => optim::Kind::CmaEsMargin,
        kind => kind,
    }
}

/// The genes as the optimizer sees them.
fn domain(genome: &Genome) -> Result<Domain, Error> {
    let genes = genome.genes().iter().map(|gene| gene.kind);
    Ok(Domain::new(genes.collect())?)
}

/// Linear interpolation between order statistics; 0 for no values at all.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let position = q * last as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}
