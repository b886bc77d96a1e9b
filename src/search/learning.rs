//! Learning within a search: right answers become texts, texts move the genes, and the point is a candidate like any other.
//!
//! After parents and unsearched merges have their scores, a round learns from what they got right; the next ones learn from
//! the last child's own right answers to questions that no candidate is scored on. Each point is scored on the search
//! questions; a round that is told to be worse than the one before it, question by question, is the last, and while one is told
//! to be better there are more than the space asks for. The optimizer begins
//! where the best of them is, close around it: less in the directions in which the texts' loss is steep.
//!
//! What could not be learned before a stage of the search, as the scales of a path, is learned when it has ended, from where it
//! has led; what could, only where the space asks for it.
//!
//! Of several objectives all teach together first; then each alone has a round from where that led, and its point is handed to
//! the optimizer: the ends of the front, which a population would have to find.
//!
//! What is learned stands in the journal. Nothing here reads a question of the selection or the test.

use std::sync::atomic::Ordering;

use super::{
    Error, Evaluation, Exam, ExamTask, Interrupt, Run, Unscored,
    genome::{Genome, Who},
    race::Entrant,
    scoring::Paired,
};
use crate::{
    event::{self, CandidateId, Event, Level, Origin},
    learn::{self, Settings, Variable, teachers, variables::Chain},
    merge::TensorSource,
    space::{GeneKind, GeneSpec, Learning, Start, Teachers},
};

pub use crate::learn::LEAST_TEXTS;

/// What an evaluator is asked to learn.
pub struct Lesson<'a> {
    /// Of the candidate that it will be.
    pub id: &'a str,
    pub genome: &'a Genome,
    /// The genotype to begin with.
    pub start: &'a [f64],
    pub variables: Vec<Variable>,
    /// The questions that texts belong to.
    pub exams: Vec<&'a Exam>,
    /// By exam, the parent whose answers `given` has, if they are one's.
    pub parents: Vec<Option<&'a str>>,
    pub teachers: Teachers,
    /// How much wrong answers count against what they say; see [`teachers::choose`].
    pub wrong: f64,
    /// By exam and by its tasks: the answers that were given, with the places of their questions among the task's items.
    pub given: Vec<Vec<Vec<(usize, event::Answer)>>>,
    pub settings: Settings,
}

/// How close around a learned point the optimizer begins, as a part of each gene's range.
const SPREAD: f64 = 1.0 / 24.0;
/// How much closer or wider a gene may be searched than the others, by how steep the loss is along it.
const STEEPEST: f64 = 3.0;

/// A round is the last if its loss, question by question, would come by luck less often than this; and worth another one, where
/// there were as many as the space says, if its gain would.
const WORSE: f64 = 0.1;

/// How far each round leads, as a part of how far the one before it did: the first has the way to go, and the others settle.
const NEARER: f64 = 0.5;

/// How many times the rounds that a space asks for are made at most, while each is told to be better.
const LONGER: usize = 3;

/// Answers to questions of one exam, by task.
#[derive(Clone)]
pub(super) struct Given {
    exam: Exam,
    answers: Vec<Vec<event::Answer>>,
    /// The parent that gave them, if one did.
    parent: Option<String>,
}

impl Given {
    fn by(entrant: &Entrant, exam: &Exam, evaluation: &Evaluation) -> Self {
        Self {
            exam: exam.clone(),
            answers: evaluation.answers.iter().map(|(_, answers)| answers.clone()).collect(),
            parent: match &entrant.who {
                Who::Model(name) => Some(name.clone()),
                Who::Recipe(_) | Who::Genes(_) => None,
            },
        }
    }
}

/// A learned candidate that has its score.
struct Pupil {
    entrant: Entrant,
    fitness: f64,
    answers: Evaluation,
    steepness: Vec<f64>,
}

impl Run<'_, '_> {
    /// Learns, where the space says so and can, and gives the start of the optimizer.
    pub(super) fn learn(&mut self, genome: &Genome, known: Option<&Start>) -> Result<Option<Start>, Interrupt> {
        let start = self.rounds(genome, known)?;
        (self.keeps_answers, self.given) = (false, Vec::new());
        Ok(start)
    }

    fn rounds(&mut self, genome: &Genome, known: Option<&Start>) -> Result<Option<Start>, Interrupt> {
        let Some(learning) = self.plan.space.search.learn.clone() else {
            return Ok(None);
        };
        if !self.evaluator.learns() || !genome.stage().mixes_weights() {
            return Ok(None);
        }
        let Some(from) = self.first_teacher(genome, known) else {
            return Ok(None);
        };
        let everybody = std::mem::take(&mut self.given);
        let usual = learning.rounds_before();
        let pupils = self.series(&learning, genome, from, Some(&everybody), usual, LONGER * usual)?;
        // The last of equals has seen most.
        let best = pupils.iter().reduce(|a, b| if b.fitness >= a.fitness { b } else { a });
        if let Some(best) = best
            && self.plan.space.fitness.is_pareto()
        {
            self.each_objective(&learning, genome, &best.entrant, &everybody)?;
        }
        Ok(best.map(|pupil| around(genome, pupil)))
    }

    /// Learns where a stage's optimizer has led, from the right answers of its mean, which luck has touched least, or else of the
    /// best that it bred: in a stage that could not be learned before it began, as the scales of a path of layers, and where the
    /// space asks for it in others too.
    pub(super) fn learn_on(&mut self, genome: &Genome) -> Result<(), Interrupt> {
        let is_untried = self.lessons == std::mem::replace(&mut self.lessons_before, self.lessons);
        let Some(learning) = self.plan.space.search.learn.clone() else {
            return Ok(());
        };
        let is_possible = self.evaluator.learns() && !self.plan.space.fitness.is_pareto();
        if !is_possible || !learning.teachers.teach_themselves() || !(is_untried || learning.after) {
            return Ok(());
        }
        let Some(from) = self.led_to().filter(|_| variables(genome).iter().any(|v| v.is_real)) else {
            return Ok(());
        };
        self.keeps_answers = true;
        let learned = self.series(&learning, genome, from, None, learning.rounds_after(), learning.rounds);
        (self.keeps_answers, self.given) = (false, Vec::new());
        self.lessons_before = self.lessons;
        learned.map(|_| ())
    }

    /// Where the optimizer of this stage has led, if that scores more than what was learned in it.
    fn led_to(&self) -> Option<(String, Vec<f64>)> {
        let began = self.stages.last().map_or(0, |(began, _)| *began);
        let best_of = |is_one: &dyn Fn(&Origin) -> bool| {
            let ones = self.scored[began..]
                .iter()
                .filter(|c| is_one(&c.origin) && !c.eliminated);
            ones.reduce(|a, b| if b.fitness > a.fitness { b } else { a })
        };
        let bred = |origin: &Origin| {
            matches!(
                origin,
                Origin::Search | Origin::WarmStart | Origin::Random | Origin::Guided
            )
        };
        let led = best_of(&|origin| *origin == Origin::Mean).or_else(|| best_of(&bred))?;
        let learned = best_of(&|origin| *origin == Origin::Learned);
        let is_new = learned.is_none_or(|learned| led.fitness > learned.fitness);
        is_new.then(|| (led.id.clone(), led.genotype.clone()))
    }

    /// Rounds one after the other, each from where the one before it led: `usual` of them unless one is told to be worse, and up
    /// to `most` while each is told to be better. The first learns from what is `given`, or from the right answers of whoever
    /// it begins with, as the others do.
    fn series(
        &mut self,
        learning: &Learning,
        genome: &Genome,
        from: (String, Vec<f64>),
        given: Option<&[Given]>,
        usual: usize,
        most: usize,
    ) -> Result<Vec<Pupil>, Interrupt> {
        let (mut from, mut start) = from;
        let mut pupils: Vec<Pupil> = Vec::new();
        for round in 1..=most {
            let id = CandidateId::Learned(self.lessons + 1).to_string();
            if !self.has_time_for(&id)? {
                break;
            }
            let own = match given.filter(|_| pupils.is_empty()) {
                Some(_) => None,
                None => match self.own_answers(&self.again_by_id(&from)?)? {
                    Some(own) => Some(vec![own]),
                    None => break,
                },
            };
            let given = own.as_deref().or(given).unwrap_or_default();
            self.lessons += 1;
            let reach = Settings::default().reach * NEARER.powi(round as i32 - 1);
            let Some(learned) = self.round(&id, (&from, &start), genome, given, (learning, reach))? else {
                break;
            };
            let Some(pupil) = self.score_pupil(genome, learned)? else {
                break;
            };
            // Its own answers taught nothing, and would not the next time; those of parents may be too few.
            let is_over = own.is_some() && pupil.entrant.genotype == start;
            (from, start) = (id, pupil.entrant.genotype.clone());
            let is_usual = round < usual;
            let goes_on = !is_over
                && match pupils.last() {
                    Some(last) => self.goes_on(&pupil, last, is_usual),
                    None => is_usual,
                };
            pupils.push(pupil);
            if !goes_on {
                break;
            }
        }
        let led_to = match pupils.as_slice() {
            [.., before, last] if self.is_told_worse(last, before) => Some(before),
            pupils => pupils.last(),
        };
        let scored = led_to.and_then(|pupil| self.scored.iter().find(|c| c.id == pupil.entrant.id));
        if let Some(led_to) = scored {
            self.learned_last = Some(led_to.recipe_digest.clone());
        }
        Ok(pupils)
    }

    fn again_by_id(&self, id: &str) -> Result<Entrant, Error> {
        let known = self.scored.iter().find(|c| c.id == id);
        self.again(known.expect("whoever teaches has a score"))
    }

    /// A round for each objective alone, from the point that all of them have led to and the answers that everybody gave.
    fn each_objective(
        &mut self,
        learning: &Learning,
        genome: &Genome,
        from: &Entrant,
        everybody: &[Given],
    ) -> Result<(), Interrupt> {
        for objective in 0..self.plan.search.tasks.len() {
            let id = CandidateId::Learned(self.lessons + 1).to_string();
            if !self.has_time_for(&id)? {
                break;
            }
            self.lessons += 1;
            let given: Vec<Given> = everybody.iter().filter_map(|given| of_task(given, objective)).collect();
            let (who, reach) = ((from.id.as_str(), from.genotype.as_slice()), Settings::default().reach);
            let Some(learned) = self.round(&id, who, genome, &given, (learning, reach))? else {
                continue; // nobody is right about it yet, say
            };
            if let Some(pupil) = self.score_pupil(genome, learned)? {
                self.ends_of_front.push(pupil.entrant.genotype);
            }
        }
        Ok(())
    }

    /// Whose numbers are learned first.
    fn first_teacher(&self, genome: &Genome, known: Option<&Start>) -> Option<(String, Vec<f64>)> {
        if let Some(start) = known {
            return Some(("soup".into(), start.mean.clone()));
        }
        let warm = self.plan.warm_starts.iter().find_map(|(name, recipe)| {
            let genotype = genome.encode(recipe).ok()?;
            Some((name.clone(), genotype))
        });
        warm.or_else(|| {
            let (id, genotype) = self.best_baseline_named(genome)?;
            Some((id, genotype))
        })
    }

    /// A pupil's answers to the questions that are there for learning.
    fn own_answers(&mut self, entrant: &Entrant) -> Result<Option<Given>, Interrupt> {
        let exam = self.plan.lessons.clone();
        if exam.tasks.is_empty() {
            return Ok(None);
        }
        Ok(match self.sit(entrant, &exam)? {
            Ok(evaluation) => {
                self.chronicle.sync()?;
                Some(Given::by(entrant, &exam, &evaluation))
            }
            Err(reason) => {
                self.log(Level::Warning, format!("{} cannot teach itself: {reason}", entrant.id))?;
                None
            }
        })
    }

    /// One round, from somebody's genotype; `None` if it taught nothing.
    fn round(
        &mut self,
        id: &str,
        from: (&str, &[f64]),
        genome: &Genome,
        given: &[Given],
        how: (&Learning, f64),
    ) -> Result<Option<event::Learned>, Interrupt> {
        let learned = self.once(id, |run| run.teach(id, from, genome, given, how))?;
        if !learned.apart.is_empty() {
            self.apart = learned.apart.clone();
        }
        Ok(learned.failed.is_none().then_some(learned))
    }

    /// Has the evaluator learn, so far away at most.
    fn teach(
        &mut self,
        id: &str,
        (from, start): (&str, &[f64]),
        genome: &Genome,
        given: &[Given],
        (learning, reach): (&Learning, f64),
    ) -> Result<event::Learned, Interrupt> {
        self.pause_or_stop()?;
        let lesson = Lesson {
            id,
            genome,
            start,
            variables: variables(genome),
            exams: given.iter().map(|given| &given.exam).collect(),
            parents: given.iter().map(|given| given.parent.as_deref()).collect(),
            teachers: learning.teachers,
            wrong: learning.wrong,
            given: given.iter().map(|given| placed(&given.exam, &given.answers)).collect(),
            settings: Settings {
                steps: learning.steps,
                batch: learning.batch,
                reach,
                seed: self.plan.space.search.seed,
                ..Settings::default()
            },
        };
        let (chronicle, control) = (&*self.chronicle, self.control);
        let began = chronicle.elapsed_ms();
        let outcome = self.evaluator.learn(&lesson, &mut |step| {
            chronicle.show(Event::Learning(event::Learning {
                id: id.into(),
                from: from.into(),
                ..step
            }));
            !control.stop.load(Ordering::Relaxed)
        });
        if self.control.stop.load(Ordering::Relaxed) {
            return Err(Interrupt::Stop);
        }
        match outcome {
            Ok(learned) => Ok(event::Learned {
                id: id.into(),
                from: from.into(),
                elapsed_ms: self.chronicle.elapsed_ms() - began,
                ..learned
            }),
            Err(Unscored::Machine { reason } | Unscored::Breakdown { reason }) => {
                Err(Error::Machine { id: id.into(), reason }.into())
            }
            Err(Unscored::Candidate { reason }) => {
                let message = format!("nothing is learned: {reason}; the search goes on without it");
                self.log(Level::Info, message)?;
                Ok(event::Learned {
                    id: id.into(),
                    from: from.into(),
                    failed: Some(reason),
                    ..event::Learned::default()
                })
            }
        }
    }

    fn score_pupil(&mut self, genome: &Genome, learned: event::Learned) -> Result<Option<Pupil>, Interrupt> {
        let entrant = Entrant {
            id: learned.id,
            origin: Origin::Learned,
            generation: None,
            who: genome.decode(&learned.genotype),
            genotype: learned.genotype,
            genes: self.genes(),
        };
        let before = self.given.len();
        let scored = self.measure(&entrant)?;
        let answers = self.given.drain(before..).next_back().map(|given| given.answers);
        Ok(match (scored, answers) {
            (Ok(fitness), Some(answers)) => Some(Pupil {
                entrant,
                fitness,
                answers: Evaluation {
                    answers: answers.into_iter().map(|answers| (String::new(), answers)).collect(),
                    ..Evaluation::default()
                },
                steepness: learned.steepness,
            }),
            _ => None,
        })
    }

    /// Whether a round that moved may be followed by another: it is not told to be worse on the same questions; a few hundred
    /// questions cannot tell a gain of a point from none, and the next round learns from other questions. Beyond the usual number
    /// a round has to be told to be better.
    fn goes_on(&self, pupil: &Pupil, last: &Pupil, is_usual: bool) -> bool {
        let paired = self.paired(pupil, last);
        match is_usual {
            true => !self.is_told_worse(pupil, last),
            false => paired.difference > 0.0 && paired.p_value <= WORSE,
        }
    }

    fn is_told_worse(&self, pupil: &Pupil, last: &Pupil) -> bool {
        let paired = self.paired(pupil, last);
        paired.difference < 0.0 && paired.p_value <= WORSE
    }

    /// The one − the other, on the same questions.
    fn paired(&self, pupil: &Pupil, last: &Pupil) -> Paired {
        let (one, other) = (&pupil.answers.answers, &last.answers.answers);
        self.standard.compare(one, other, self.plan.space.search.seed)
    }

    /// Keeps the answers of somebody who may teach.
    pub(super) fn keep_for_learning(&mut self, entrant: &Entrant, exam: &Exam, evaluation: &Evaluation) {
        if self.keeps_answers && self.evaluator.learns() {
            self.given.push(Given::by(entrant, exam, evaluation));
        }
    }
}

/// Why no gene of this stage has a slope, at the middle of its range; `None` where one has, or where that cannot be told.
pub fn nothing_moves(genome: &Genome, source: &dyn TensorSource) -> Option<String> {
    let variables = variables(genome);
    let middle: Vec<f64> = variables.iter().map(|v| f64::midpoint(v.low, v.high)).collect();
    let decode = |genotype: &[f64]| match genome.decode(genotype) {
        Who::Recipe(recipe) => *recipe,
        Who::Model(_) | Who::Genes(_) => unreachable!("only the genome of a merge learns"),
    };
    match Chain::new(source, &decode, &middle, &variables) {
        Err(e @ learn::Error::NothingToMove { .. }) => Some(e.to_string()),
        _ => None,
    }
}

pub(super) fn variables(genome: &Genome) -> Vec<Variable> {
    let variable = |gene: &GeneSpec| {
        let (low, high, is_real) = match gene.kind {
            GeneKind::Real { low, high } => (low, high, true),
            GeneKind::Int { low, high } => (low as f64, high as f64, false),
            GeneKind::Choice { n } => (0.0, n as f64, false),
        };
        Variable {
            name: gene.name.clone(),
            low,
            high,
            is_real,
            unit: 1.0,
        }
    };
    genome.genes().iter().map(variable).collect()
}

/// What was given to one task.
fn of_task(given: &Given, index: usize) -> Option<Given> {
    let Given { exam, answers, parent } = given;
    let place = exam.tasks.iter().position(|task| task.index == index)?;
    Some(Given {
        exam: Exam {
            split: exam.split.clone(),
            tasks: vec![exam.tasks[place].clone()],
        },
        answers: vec![answers[place].clone()],
        parent: parent.clone(),
    })
}

/// Each answer with the place of its question among its task's items.
fn placed(exam: &Exam, answers: &[Vec<event::Answer>]) -> Vec<Vec<(usize, event::Answer)>> {
    let of_task = |(task, answers): (&ExamTask, &Vec<event::Answer>)| {
        task.items.iter().copied().zip(answers.iter().cloned()).collect()
    };
    exam.tasks.iter().zip(answers).map(of_task).collect()
}

/// A distribution close around a learned point.
fn around(genome: &Genome, pupil: &Pupil) -> Start {
    let steep: Vec<f64> = pupil.steepness.iter().map(|v| v.sqrt()).collect();
    let logs: Vec<f64> = steep.iter().filter(|s| **s > 0.0).map(|s| libm::log(*s)).collect();
    let usual = libm::exp(logs.iter().sum::<f64>() / logs.len().max(1) as f64);
    let stds = genome.genes().iter().zip(&steep).map(|(gene, steep)| match gene.kind {
        GeneKind::Choice { .. } => 1.0,
        GeneKind::Int { low, high } => (high - low) as f64 / 6.0,
        // What has no slope was not learned.
        GeneKind::Real { low, high } if *steep == 0.0 => (high - low) / 6.0,
        GeneKind::Real { low, high } => (high - low) * SPREAD * (usual / steep).clamp(1.0 / STEEPEST, STEEPEST),
    });
    Start {
        stds: stds.collect(),
        mean: pupil.entrant.genotype.clone(),
        correlations: Vec::new(),
    }
}

/// What one task's answers teach; `output` borrows from the lesson.
pub(super) fn given_of(answers: &[(usize, event::Answer)]) -> impl Iterator<Item = teachers::Given<'_>> {
    answers.iter().map(|(item, answer)| teachers::Given {
        question: *item,
        output: &answer.out,
        got: &answer.got,
        score: answer.score,
        finish: &answer.finish,
    })
}
