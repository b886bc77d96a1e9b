//! A generation before its questions: everybody is asked the first few, the better half some more, the best all.
//!
//! Without racing there is one rung, and it has all questions. A candidate that leaves early ranks below those that
//! stay, in the order of leaving (successive halving on shared items, Karnin, Koren & Somekh 2013; shared, because
//! differences between candidates are known far better than their scores). All decisions are made from answers alone,
//! in the order of the questions and never of their arrival, so a resumed race is the same race.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Error, Evaluation, Exam, Interrupt, Plan, Run, Sitting, Subject, Unscored,
    genome::Who,
    pool::{Block, Pool, Rung},
    scoring::names_fit,
};
use crate::{
    eval::stats,
    event::{self, Candidate, CandidateId, Event, Origin, Score, TaskScore, standing},
    optim::{Answered, Fitness, Genotype, Measurement, Outcome},
    recipe::Recipe,
    space::{GeneSpec, Racing},
};

/// The fewest questions on a first rung.
const LEAST_QUESTIONS: usize = 16;

/// Below this rank correlation between two halves of the questions, a generation is asked more of them.
const ENOUGH_SIGNAL: f64 = 0.2;

/// How far the rungs may shrink; they never grow beyond what the space says. A search that has converged tells its
/// candidates apart by no number of questions: growing by a fifth, simulated searches (`examples/racing`) asked 5 to 10 % more
/// for 0.2 points of accuracy.
const LEAST_SCALE: f64 = 0.5;

/// The chance of taking two of the same worth for one that is better and one that is worse.
const CLEARLY: f64 = 0.001;

/// Who takes part.
#[derive(Clone, Debug)]
pub(super) struct Entrant {
    pub id: String,
    pub origin: Origin,
    pub generation: Option<u64>,
    /// Empty for parents and unsearched merges.
    pub genotype: Genotype,
    /// What its genotype's numbers are.
    pub genes: Genes,
    pub who: Who,
}

/// The genes of a stage.
pub(super) type Genes = Arc<[GeneSpec]>;

/// How a race ended; all in the order of the entrants.
#[derive(Default)]
pub(super) struct Race {
    pub outcomes: Vec<Outcome>,
    /// Estimates for all questions; `None` for those that failed.
    pub fitness: Vec<Option<f64>>,
    /// What each made of each question, for an optimizer that wants to know.
    pub answers: Vec<Vec<Answered>>,
    /// Questions on the last rung.
    pub block: usize,
    pub tau: Option<f64>,
    pub split_half: Option<f64>,
}

/// How many questions a generation is asked: more while answers tell little, fewer while they tell enough.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    racing: Option<Racing>,
    scale: f64,
    /// Smoothed split-half correlation.
    signal: Option<f64>,
    is_pareto: bool,
}

/// One entrant on its way.
struct Arm<'a> {
    entrant: &'a Entrant,
    /// Its answers to the highest rung that it stood on.
    latest: Option<(usize, Evaluation)>,
    /// The estimate on each rung.
    estimates: Vec<f64>,
    halves: Option<[f64; 2]>,
    /// Its last score with its error, for an optimizer that weighs scores by that.
    measured: Option<Measurement>,
    effort: Evaluation,
}

/// Who stands on a rung, and what is known of them before all have answered.
pub(super) struct Ahead {
    entrants: Vec<Entrant>,
    block: Arc<Block>,
    rung: usize,
    /// How many stay, unless too few can be scored.
    most: usize,
    /// By id; nothing of those that failed.
    known: HashMap<String, Option<f64>>,
    begun: HashSet<String>,
}

impl Ahead {
    fn new(entrants: Vec<Entrant>, block: &Arc<Block>, rung: usize, most: usize) -> Self {
        Self {
            entrants,
            block: block.clone(),
            rung,
            most,
            known: HashMap::new(),
            begun: HashSet::new(),
        }
    }

    fn know(&mut self, id: &str, value: Option<f64>) {
        self.known.insert(id.into(), value.filter(|value| value.is_finite()));
    }

    /// Those that stay even if all who have not answered turn out better; each is given once.
    fn sure(&mut self) -> Vec<Entrant> {
        let out = self.entrants.len() - self.known.len();
        self.best(self.most.saturating_sub(out), usize::MAX)
    }

    /// So many of those that stay unless others who have not answered turn out better, the best first; each is given once.
    fn likely(&mut self, most: usize) -> Vec<Entrant> {
        self.best(self.most, most)
    }

    /// Of the best so many, so many who have not begun.
    fn best(&mut self, of: usize, most: usize) -> Vec<Entrant> {
        let value = |entrant: &&Entrant| self.known.get(&entrant.id).copied().flatten();
        let mut ranked: Vec<(f64, &Entrant)> = self.entrants.iter().filter_map(|e| Some((value(&e)?, e))).collect();
        // Of equals the earlier stays, as in the race.
        ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let best = ranked.iter().take(of).map(|(_, entrant)| *entrant);
        let new = best.filter(|entrant| !self.begun.contains(&entrant.id)).take(most);
        let new: Vec<Entrant> = new.cloned().collect();
        self.begun.extend(new.iter().map(|entrant| entrant.id.clone()));
        new
    }
}

impl Entrant {
    pub fn parent(name: &str) -> Self {
        Self {
            id: CandidateId::Parent(name.into()).to_string(),
            origin: Origin::Parent,
            generation: None,
            genotype: Vec::new(),
            genes: Genes::default(),
            who: Who::Model(name.into()),
        }
    }

    pub fn unsearched(id: &str, recipe: Recipe) -> Self {
        Self {
            id: id.into(),
            origin: Origin::Baseline,
            generation: None,
            genotype: Vec::new(),
            genes: Genes::default(),
            who: Who::Recipe(Box::new(recipe)),
        }
    }

    /// A candidate that is known already, for another exam of a search among these models.
    ///
    /// # Errors
    /// A parent that is none of the models, a recipe that cannot be read.
    pub fn again(candidate: &Candidate, genes: Genes, models: &[(String, String)]) -> Result<Self, Error> {
        let names = models.iter().map(|(name, _)| name.as_str());
        let who = match (
            CandidateId::resolve(&candidate.id, names)?,
            candidate.recipe.get("genes"),
        ) {
            (CandidateId::Parent(model), _) => Who::Model(model),
            (_, Some(genes)) => Who::Genes(genes.clone()),
            (id, None) => {
                let recipe = serde_json::from_value(candidate.recipe.clone());
                Who::Recipe(Box::new(recipe.map_err(|source| Error::Recipe { id, source })?))
            }
        };
        Ok(Self {
            id: candidate.id.clone(),
            origin: candidate.origin.clone(),
            generation: candidate.generation,
            genotype: candidate.genotype.clone(),
            genes,
            who,
        })
    }

    pub(super) fn sitting<'a>(&'a self, exam: &'a Exam) -> Sitting<'a> {
        Sitting {
            id: &self.id,
            subject: match &self.who {
                Who::Model(name) => Subject::Model(name),
                Who::Recipe(recipe) => Subject::Recipe(recipe),
                Who::Genes(_) => Subject::Genes,
            },
            genotype: &self.genotype,
            genes: &self.genes,
            exam,
        }
    }

    pub(super) fn started(&self) -> Event {
        Event::CandidateStarted {
            id: self.id.clone(),
            origin: self.origin.clone(),
            generation: self.generation,
        }
    }
}

impl Pace {
    pub fn new(plan: &Plan) -> Self {
        Self {
            racing: plan
                .space
                .search
                .racing
                .clone()
                .filter(|_| !plan.search.tasks.is_empty()),
            scale: 1.0,
            signal: None,
            is_pareto: plan.space.fitness.is_pareto(),
        }
    }

    pub fn is_racing(&self) -> bool {
        self.racing.is_some()
    }

    /// Questions on each rung, ascending.
    fn sizes(&self, racing: &Racing, available: usize) -> Vec<usize> {
        let mut sizes: Vec<usize> = racing
            .rungs
            .iter()
            .map(|n| ((*n as f64 * self.scale).round() as usize).clamp(LEAST_QUESTIONS.min(available), available))
            .collect();
        sizes.dedup();
        if self.is_pareto {
            // Nobody is last in every objective: all are asked the same.
            sizes = vec![sizes[sizes.len() / 2]];
        }
        sizes
    }

    /// Learns from how well two halves of the questions agreed.
    fn adapt(&mut self, split_half: Option<f64>) {
        let Some(r) = split_half else { return };
        let signal = self.signal.map_or(r, |s| 0.7 * s + 0.3 * r);
        self.signal = Some(signal);
        let change = if signal < ENOUGH_SIGNAL { 1.1 } else { 1.0 / 1.1 };
        self.scale = (self.scale * change).clamp(LEAST_SCALE, 1.0);
    }
}

impl Run<'_, '_> {
    /// Puts a generation through a race; `None` when the budget ended before its end.
    pub(super) fn race(&mut self, entrants: &[Entrant]) -> Result<Option<Race>, Interrupt> {
        let raced = self.rungs(entrants);
        self.ahead = None;
        raced
    }

    fn rungs(&mut self, entrants: &[Entrant]) -> Result<Option<Race>, Interrupt> {
        let block = Arc::new(self.block());
        let mut arms: Vec<Arm> = entrants.iter().map(Arm::new).collect();
        let mut outcomes = vec![Outcome::Failed; arms.len()];
        let mut alive: Vec<usize> = (0..arms.len()).collect();
        let mut left = 0;
        for (r, rung) in block.rungs.iter().enumerate() {
            let is_last = r + 1 == block.rungs.len();
            let standing_here: Vec<Entrant> = alive.iter().map(|i| entrants[*i].clone()).collect();
            self.look_ahead(&standing_here, &rung.exam)?;
            let most = entrants.len().div_ceil(2 << r);
            self.ahead = (!is_last).then(|| Ahead::new(standing_here, &block, r, most));
            let mut standing: Vec<(usize, Score, Vec<TaskScore>)> = Vec::new();
            for i in alive {
                // Whoever is at work is waited for.
                if !self.at_work.has_begun(arms[i].entrant, &rung.exam) && self.end_of_search(0)?.is_some() {
                    return Ok(None);
                }
                let judged = self.stand(&mut arms[i], r, rung)?;
                if let Some(ahead) = &mut self.ahead {
                    ahead.know(&arms[i].entrant.id, judged.as_ref().map(|(score, _)| score.value).ok());
                }
                match judged {
                    Err(reason) => self.fail(arms[i].entrant, reason)?,
                    Ok((score, tasks)) if is_last => {
                        outcomes[i] = self.outcome(score, &tasks);
                        self.leave(&arms[i], score, tasks, false)?;
                    }
                    Ok((score, tasks)) => standing.push((i, score, tasks)),
                }
            }
            self.chronicle.sync()?;
            standing.sort_by(|a, b| b.1.value.total_cmp(&a.1.value).then(a.0.cmp(&b.0)));
            let kept = most.clamp(1, standing.len().max(1));
            for (i, score, tasks) in standing.drain(kept.min(standing.len())..).rev().collect::<Vec<_>>() {
                outcomes[i] = Outcome::Eliminated { order: left };
                left += 1;
                self.leave(&arms[i], score, tasks, true)?;
            }
            alive = standing.iter().map(|s| s.0).collect();
            alive.sort_unstable();
        }
        Ok(Some(self.race_ended(&block, &arms, outcomes)))
    }

    /// Whoever stays on the next rung, however the others answer, begins with it: hands that are free do not wait for the last.
    /// Those of which nothing better is known begin with whoever will probably stay, in vain where that one leaves. What comes of
    /// the race is the same.
    pub(super) fn begin_the_sure(&mut self) -> Result<(), Interrupt> {
        let Some(mut ahead) = self.ahead.take() else {
            return Ok(());
        };
        let rung = &ahead.block.rungs[ahead.rung];
        let came: Vec<(String, Option<f64>)> = ahead
            .entrants
            .iter()
            .filter(|entrant| !ahead.known.contains_key(&entrant.id))
            .filter_map(|entrant| {
                let came = self.at_work.came(entrant, &rung.exam)?;
                let value = came
                    .as_ref()
                    .ok()
                    .map(|evaluation| self.estimate(rung, evaluation).0.value);
                Some((entrant.id.clone(), value))
            })
            .collect();
        came.iter().for_each(|(id, value)| ahead.know(id, *value));
        let sure = ahead.sure();
        let next = &ahead.block.clone().rungs[ahead.rung + 1].exam;
        self.look_further(&sure, next)?;
        // Whoever has nothing to do begins with those who will probably stay.
        let idle = self.evaluator.crew().map_or(0, |crew| crew.idle());
        if idle > 0 && !self.at_work.is_anybody_waiting() && !self.control.wants_quiet() {
            let likely = ahead.likely(idle);
            self.look_further(&likely, next)?;
        }
        self.ahead = Some(ahead);
        Ok(())
    }

    /// A race of one, on all questions.
    pub(super) fn stand_alone(&mut self, entrant: &Entrant) -> Result<Race, Interrupt> {
        let whole = Block::whole(&self.plan.search);
        let mut arm = Arm::new(entrant);
        let outcome = match self.stand(&mut arm, 0, &whole.rungs[0])? {
            Err(reason) => {
                self.fail(entrant, reason)?;
                Outcome::Failed
            }
            Ok((score, tasks)) => {
                let outcome = self.outcome(score, &tasks);
                self.leave(&arm, score, tasks, false)?;
                outcome
            }
        };
        Ok(Race {
            outcomes: vec![outcome],
            fitness: vec![arm.estimates.last().copied()],
            answers: vec![self.questions_answered(&whole, &arm)],
            ..Race::default()
        })
    }

    fn questions_answered(&self, block: &Block, arm: &Arm<'_>) -> Vec<Answered> {
        let answered = |(r, evaluation): &(usize, Evaluation)| self.plan.answered(&block.rungs[*r].exam, evaluation);
        arm.latest.as_ref().map(answered).unwrap_or_default()
    }

    /// The questions of the next race.
    fn block(&mut self) -> Block {
        let Some(racing) = &self.pace.racing else {
            return Block::whole(&self.plan.search);
        };
        self.races += 1;
        // SplitMix64's increment keeps the seeds of neighbouring races apart.
        let seed = self.plan.space.search.seed ^ self.races.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.pool.draw(&self.pace.sizes(racing, self.plan.search.n()), seed)
    }

    fn estimate(&self, rung: &Rung, evaluation: &Evaluation) -> (Score, Vec<TaskScore>) {
        match self.pace.is_racing() {
            true => self.pool.estimate(rung, &evaluation.answers),
            false => self.plan.judge(&rung.exam, evaluation),
        }
    }

    /// An arm answers the questions of a rung; the reason if it cannot.
    fn stand(
        &mut self,
        arm: &mut Arm<'_>,
        r: usize,
        rung: &Rung,
    ) -> Result<Result<(Score, Vec<TaskScore>), String>, Interrupt> {
        let evaluation = match self.sit(arm.entrant, &rung.exam)? {
            Ok(evaluation) => evaluation,
            Err(reason) => return Ok(Err(reason)),
        };
        let (score, tasks) = self.estimate(rung, &evaluation);
        if !score.value.is_finite() {
            return Ok(Err(format!("its fitness is {}", score.value)));
        }
        arm.estimates.push(score.value);
        if r == 0 && self.pace.is_racing() {
            arm.halves = Some(self.pool.halves(rung, &evaluation.answers));
        }
        arm.measured = self.measured(&score, || match self.pace.is_racing() {
            true => self.pool.deviations(rung, &evaluation.answers),
            false => rung.exam.deviations(&evaluation.answers),
        });
        arm.answers(r, evaluation);
        Ok(Ok((score, tasks)))
    }

    /// A score with its error, where the optimizer weighs scores by that. A command's single number has none.
    fn measured(&self, score: &Score, deviations: impl FnOnce() -> Vec<(u32, f64)>) -> Option<Measurement> {
        if !self.plan.space.search.optimizer.weighs_errors() {
            return None;
        }
        let measured = Measurement::new(score.value, score.stderr).ok()?;
        Some(measured.with_deviations(deviations()))
    }

    fn outcome(&self, score: Score, tasks: &[TaskScore]) -> Outcome {
        if !self.plan.space.fitness.is_pareto() {
            return Outcome::from_score(score.value);
        }
        let objectives = self.plan.objectives_of(tasks).unwrap_or_default();
        let values: Result<Vec<Fitness>, _> = objectives.into_iter().map(Fitness::new).collect();
        match (values, Fitness::new(0.0)) {
            (Ok(values), Ok(violation)) if values.len() == self.plan.objectives() => {
                Outcome::Objectives { values, violation }
            }
            _ => Outcome::Failed,
        }
    }

    /// What the race says of its questions, of itself and of everybody's worth.
    fn race_ended(&mut self, block: &Block, arms: &[Arm<'_>], outcomes: Vec<Outcome>) -> Race {
        let pair = |arm: &&Arm<'_>| {
            let whole = arm.estimates.len() == block.rungs.len() && block.rungs.len() > 1;
            whole.then(|| (arm.estimates[0], arm.estimates[block.rungs.len() - 1]))
        };
        let (first, last): (Vec<f64>, Vec<f64>) = arms.iter().filter_map(|arm| pair(&arm)).unzip();
        let (even, odd): (Vec<f64>, Vec<f64>) = arms.iter().filter_map(|a| a.halves.map(|h| (h[0], h[1]))).unzip();
        let defined = |value: f64| value.is_finite().then_some(value);
        let race = Race {
            outcomes,
            fitness: arms.iter().map(|arm| arm.estimates.last().copied()).collect(),
            answers: arms.iter().map(|arm| self.questions_answered(block, arm)).collect(),
            block: block.rungs.last().map_or(0, |r| r.exam.n()),
            tau: defined(stats::kendall_tau_b(&first, &last)),
            split_half: defined(stats::spearman(&even, &odd)),
        };
        self.pace.adapt(race.split_half);
        self.shrink(arms);
        if self.pace.is_racing() {
            for arm in arms {
                if let Some((r, evaluation)) = &arm.latest {
                    self.pool.learn(&block.rungs[*r].exam, &evaluation.answers);
                }
            }
            self.pool.age();
        }
        race
    }

    /// What everybody's score is worth beside those of the same race.
    fn shrink(&mut self, arms: &[Arm<'_>]) {
        let ids: Vec<&str> = arms.iter().map(|a| a.entrant.id.as_str()).collect();
        let last = self.scored.iter().zip(&mut self.worth).rev().take(arms.len());
        standing::weigh(last.filter(|(c, _)| ids.contains(&c.id.as_str())));
    }

    /// One candidate alone, on the standard questions: its fitness, or the reason why it has none.
    pub(super) fn measure(&mut self, entrant: &Entrant) -> Result<Result<f64, String>, Interrupt> {
        let exam = self.standard.clone();
        self.measure_on(&exam, Arm::new(entrant))
    }

    /// Several beside each other. In a race, those that are clearly worse than the best of them on the first few of the
    /// standard questions are asked no more of them.
    pub(super) fn measure_all(&mut self, entrants: &[Entrant]) -> Result<Vec<Result<f64, String>>, Interrupt> {
        let Some(few) = self.few() else {
            return entrants.iter().map(|entrant| self.measure(entrant)).collect();
        };
        self.look_further(entrants, &few)?;
        let mut arms: Vec<Arm> = entrants.iter().map(Arm::new).collect();
        for arm in &mut arms {
            if let Ok(evaluation) = self.sit(arm.entrant, &few)? {
                arm.answers(0, evaluation);
            }
        }
        let (behind, standard) = (self.behind(&few, &arms), self.standard.clone());
        let exams = behind
            .into_iter()
            .map(|is_behind| if is_behind { &few } else { &standard });
        let arms: Vec<_> = arms.into_iter().zip(exams).collect();
        for (arm, exam) in &arms {
            self.look_further(std::slice::from_ref(arm.entrant), exam)?;
        }
        let arms = arms.into_iter();
        arms.map(|(arm, exam)| self.measure_on(exam, arm)).collect()
    }

    /// As many of the standard questions as the last rung of a race has; `None` where there is no rank to tell by.
    pub(super) fn few(&self) -> Option<Exam> {
        let racing = self.pace.racing.as_ref().filter(|_| !self.pace.is_pareto)?;
        let n = racing.rungs.last().filter(|n| **n < self.standard.n())?;
        Some(Pool::new(&self.standard).spread(*n))
    }

    /// Who is clearly worse than the best of them.
    fn behind(&self, exam: &Exam, arms: &[Arm<'_>]) -> Vec<bool> {
        let all = arms
            .iter()
            .map(|arm| arm.latest.as_ref().map(|(_, evaluation)| &evaluation.answers));
        let value = |answers: &Vec<_>| exam.score(answers).0.value;
        let best = all.clone().flatten().max_by(|a, b| value(a).total_cmp(&value(b)));
        let is_behind = |(answers, best): (&Vec<_>, &Vec<_>)| exam.compare(answers, best, 0).p_value < CLEARLY;
        all.map(|answers| answers.zip(best).is_some_and(is_behind)).collect()
    }

    fn measure_on(&mut self, exam: &Exam, mut arm: Arm<'_>) -> Result<Result<f64, String>, Interrupt> {
        let entrant = arm.entrant;
        let evaluation = match self.sit(entrant, exam)? {
            Ok(evaluation) => evaluation,
            Err(reason) => {
                self.fail(entrant, reason.clone())?;
                return Ok(Err(reason));
            }
        };
        let (score, tasks) = self.plan.judge(exam, &evaluation);
        if !score.value.is_finite() {
            let reason = format!("its fitness is {}", score.value);
            self.fail(entrant, reason.clone())?;
            return Ok(Err(reason));
        }
        if self.pace.is_racing() {
            self.pool.learn(exam, &evaluation.answers);
        }
        self.keep_for_learning(entrant, exam, &evaluation);
        arm.measured = self.measured(&score, || exam.deviations(&evaluation.answers));
        arm.answers(0, evaluation);
        self.leave(&arm, score, tasks, false)?;
        Ok(Ok(score.value))
    }

    /// Has an exam answered, by the crew or by the evaluator itself; or the reason why it is not. Whoever wants answers calls
    /// [`Run::sit`].
    pub(super) fn ask(&mut self, entrant: &Entrant, exam: &Exam) -> Result<Result<Evaluation, String>, Interrupt> {
        if !self.at_work.has_begun(entrant, exam) {
            self.pause_or_stop()?;
        }
        match self.try_once(entrant, exam)? {
            Ok(evaluation) => {
                self.answered_in_turn(entrant, exam)?;
                Ok(Ok(evaluation))
            }
            Err(failure) => self.failed(entrant, exam, failure),
        }
    }

    /// A command's scores go by the names that the space declares, else by those of the first candidate.
    pub(super) fn named(&mut self, evaluation: Evaluation) -> Result<Evaluation, Unscored> {
        self.learn_names(&evaluation);
        if !evaluation.scores.is_empty() {
            names_fit(&evaluation.scores, &self.names).map_err(Unscored::candidate)?;
        }
        Ok(evaluation)
    }

    pub(super) fn learn_names(&mut self, evaluation: &Evaluation) {
        if self.names.is_empty() {
            self.names = evaluation.scores.iter().map(|(name, _)| name.clone()).collect();
        }
    }

    pub(super) fn evaluate(&mut self, entrant: &Entrant, exam: &Exam) -> Result<Evaluation, Unscored> {
        let id = &entrant.id;
        self.chronicle.show(entrant.started());
        let sitting = entrant.sitting(exam);
        let (chronicle, batch) = (&*self.chronicle, self.batch);
        self.evaluator.evaluate(&sitting, &mut |progress| {
            chronicle.show(Event::Progress(event::Progress {
                id: id.clone(),
                answered: batch.before + progress.answered,
                questions: batch.of.unwrap_or(progress.questions),
                ..progress
            }));
        })
    }

    /// A candidate has its score.
    fn leave(&mut self, arm: &Arm<'_>, score: Score, tasks: Vec<TaskScore>, eliminated: bool) -> Result<(), Interrupt> {
        let Entrant {
            id,
            origin,
            generation,
            genotype,
            who,
            ..
        } = arm.entrant;
        let (recipe, recipe_digest) = who.record();
        let candidate = self.chronicle.candidate_scored(Candidate {
            id: id.clone(),
            origin: origin.clone(),
            generation: *generation,
            genotype: genotype.clone(),
            recipe,
            recipe_digest,
            fitness: score.value,
            stderr: score.stderr,
            n: score.n,
            tasks,
            eliminated,
            cached: arm.effort.cached,
            generated_tokens: arm.effort.generated_tokens,
            merge_ms: arm.effort.merge_ms,
            evaluation_ms: arm.effort.evaluation_ms,
        })?;
        if eliminated && let Some(crew) = self.evaluator.crew() {
            self.at_work.give_up(id, crew);
        }
        self.evaluator.forget(id);
        self.evaluator.told(id, &self.plan.search.split);
        self.evals += standing::cost(&candidate, self.scored.iter());
        self.worth.push(candidate.fitness);
        if let Some(measured) = &arm.measured {
            self.measurements.insert(id.clone(), measured.clone());
        }
        self.scored.push(candidate);
        Ok(())
    }

    /// A failed candidate is a value: it ranks last, and the search goes on. A parent's failure ends the run, which says
    /// why; it is not written down, so that a resumed run asks again.
    fn fail(&mut self, entrant: &Entrant, reason: String) -> Result<(), Interrupt> {
        if entrant.origin == Origin::Parent {
            return Ok(());
        }
        self.chronicle.candidate_failed(entrant, &reason)?;
        self.evaluator.forget(&entrant.id);
        self.evaluator.told(&entrant.id, &self.plan.search.split);
        self.evals += u64::from(standing::is_paid(&entrant.origin));
        if entrant.origin == Origin::Search {
            // What differs in a number alone is one reason.
            let kind = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
            self.failures.entry(kind).or_insert((0, reason)).0 += 1;
        }
        Ok(())
    }
}

impl<'a> Arm<'a> {
    fn new(entrant: &'a Entrant) -> Self {
        Self {
            entrant,
            latest: None,
            estimates: Vec::new(),
            halves: None,
            measured: None,
            effort: Evaluation {
                cached: true,
                ..Evaluation::default()
            },
        }
    }

    /// It has answered the questions of a rung, in addition to those of the rungs before.
    fn answers(&mut self, rung: usize, evaluation: Evaluation) {
        self.effort.generated_tokens += evaluation.generated_tokens;
        self.effort.merge_ms += evaluation.merge_ms;
        self.effort.evaluation_ms += evaluation.evaluation_ms;
        self.effort.cached &= evaluation.cached;
        self.latest = Some((rung, evaluation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sixty-four workers waited for the slowest candidate of each rung.
    #[test]
    fn who_stays_whatever_the_others_answer_is_known_before_they_do() {
        let entrants: Vec<Entrant> = ["a", "b", "c", "d", "e", "f"].map(Entrant::parent).to_vec();
        let id = |name: &str| format!("parent-{name}");
        let mut ahead = Ahead::new(entrants, &Arc::new(Block::whole(&Exam::nothing())), 0, 3);
        let mut sure = |name: &str, value| {
            ahead.know(&id(name), value);
            ahead.sure().into_iter().map(|entrant| entrant.id).collect::<Vec<_>>()
        };
        assert_eq!(sure("a", Some(0.9)), [""; 0], "five may be better, and three stay");
        assert_eq!(sure("f", Some(0.5)), [""; 0]);
        assert_eq!(sure("c", Some(0.5)), [""; 0]);
        assert_eq!(
            sure("d", None),
            [id("a")],
            "two are left, and the best stays behind both"
        );
        assert_eq!(sure("b", Some(f64::NAN)), [id("c")], "of equals the earlier");
        assert_eq!(sure("e", Some(0.7)), [id("e")]);
    }

    /// Eleven of a hundred seconds of 64 workers went by in waiting for the last of a rung.
    #[test]
    fn who_has_nothing_to_do_begins_with_those_who_will_probably_stay() {
        let entrants: Vec<Entrant> = ["a", "b", "c", "d", "e", "f"].map(Entrant::parent).to_vec();
        let id = |name: &str| format!("parent-{name}");
        let mut ahead = Ahead::new(entrants, &Arc::new(Block::whole(&Exam::nothing())), 0, 3);
        let ids = |entrants: Vec<Entrant>| entrants.into_iter().map(|entrant| entrant.id).collect::<Vec<_>>();
        for (name, value) in [("a", 0.4), ("b", 0.9), ("c", 0.2), ("d", 0.5)] {
            ahead.know(&id(name), Some(value));
        }
        assert_eq!(ids(ahead.sure()), [id("b")], "two are left, and three stay");
        assert_eq!(ids(ahead.likely(1)), [id("d")]);
        assert_eq!(ids(ahead.likely(5)), [id("a")], "c does not stay as it is");
        ahead.know(&id("e"), Some(0.3));
        assert_eq!(ids(ahead.likely(5)), [""; 0]);
        assert_eq!(ids(ahead.sure()), [""; 0], "d has begun");
    }
}
