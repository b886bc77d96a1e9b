//! Advice: what a language model makes of the best candidates so far.
//!
//! With `optimizer: evollm` it says the mean of the next generation; the question, and how a reply is read, are the optimizer's
//! own. Any other optimizer may have a *guide*, which sees the best recipes with their scores and proposes one more, a candidate
//! like any other (guided evolution: Morris, Jurado and Zutty, 2024, there of code, here of recipes).
//!
//! Questions and replies stand in the journal, so nobody is asked twice. Nothing that a model writes is trusted: it is a point of
//! the space, or it is nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    path::Path,
};

use super::{Error, FitnessTask, Interrupt, Run, domain, genome::Genome, optimizer_kind};
use crate::{
    event::{self, Level},
    optim::{self, Genotype, Kind, Optimizer},
    space::{GeneKind, GeneSpec, Space},
    yaml,
};

/// A language model that gives advice.
pub trait Adviser {
    /// What it replies.
    ///
    /// # Errors
    /// Why there is no reply, in words: it cannot be reached, or has no room for the question.
    fn reply(&mut self, question: &str) -> Result<String, String>;
}

/// Recipes that a guide is shown.
const SHOWN: usize = 5;

/// How often a proposal is asked for: one that is refused is told why, once.
const ATTEMPTS: u64 = 2;

/// Who has not replied so often in a row is asked no more, until the run is taken up again.
const PATIENCE: u64 = 3;

/// Of a reply this much is looked at, in characters.
const LONGEST_REPLY: usize = 20_000;

/// Where advice belongs: the generation that it is for, and which question that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AdvicePlace {
    pub generation: u64,
    pub part: u64,
}

impl Run<'_, '_> {
    /// What is asked when a generation is over: the next mean, of an optimizer that wants one, or a proposal.
    pub(super) fn take_advice(&mut self, genome: &Genome, optimizer: &mut Optimizer) -> Result<(), Interrupt> {
        if self.evals_left() == 0 {
            return Ok(());
        }
        let generation = self.generations + optimizer.status().generation;
        let mut part = 0;
        while let Some(question) = optimizer.question() {
            part += 1;
            let read = |reply: &str| match optimizer.clone().advise(Some(reply)) {
                Ok(true) => Ok(()),
                _ => Err("it names no point".to_owned()),
            };
            let advice = self.advice(AdvicePlace { generation, part }, &question, &read)?;
            let reply = advice.and_then(|advice| advice.reply);
            optimizer.advise(reply.as_deref()).map_err(Error::from)?;
        }
        match &self.plan.space.search.guide {
            Some(guide) if optimizer.kind() != Kind::Evollm && generation.is_multiple_of(guide.every) => {
                self.proposal(genome, optimizer, generation)
            }
            _ => Ok(()),
        }
    }

    /// Asks for a recipe; if it is refused, once more.
    fn proposal(&mut self, genome: &Genome, optimizer: &mut Optimizer, generation: u64) -> Result<(), Interrupt> {
        let genes = genome.genes();
        let shown: Vec<&event::Candidate> = self.shown(genes.len());
        let Some(best) = shown.last() else {
            return Ok(());
        };
        let mut question = question(
            genes,
            &shown.iter().map(|candidate| Shown::of(candidate)).collect::<Vec<_>>(),
        );
        let met = self.scored.iter().map(|c| (c.recipe_digest.clone(), c.fitness));
        let reading = Reading {
            genome,
            best: best.genotype.clone(),
            met: met.collect(),
        };
        for part in 1..=ATTEMPTS {
            let read = |reply: &str| reading.genotype(reply).map(drop);
            let advice = self.advice(AdvicePlace { generation, part }, &question, &read)?;
            let Some(reply) = advice.and_then(|advice| advice.reply) else {
                return Ok(());
            };
            match reading.genotype(&reply) {
                Ok(genotype) => {
                    self.guided.push(genotype.clone());
                    return Ok(optimizer.inject([genotype]).map_err(Error::from)?);
                }
                Err(reason) => {
                    question += &format!("{}\n\nThis is refused: {reason}. Another recipe:\n\n", reply.trim())
                }
            }
        }
        Ok(())
    }

    /// The best of this stage, the best last.
    fn shown(&self, genes: usize) -> Vec<&event::Candidate> {
        let began = self.stages.last().map_or(0, |(began, _)| *began);
        let of_stage: HashSet<&str> = self.scored[began..].iter().map(|c| c.id.as_str()).collect();
        let is_shown = |c: &&event::Candidate| of_stage.contains(c.id.as_str()) && c.genotype.len() == genes;
        let mut best: Vec<_> = self.bred().into_iter().filter(is_shown).take(SHOWN).collect();
        best.reverse();
        best
    }

    /// The journal's advice, else what is replied now; `None` where nobody is asked.
    fn advice(
        &mut self,
        place: AdvicePlace,
        question: &str,
        read: &dyn Fn(&str) -> Result<(), String>,
    ) -> Result<Option<event::Advice>, Interrupt> {
        if self.adviser.is_none() || !self.asks_for_advice(place) {
            return Ok(None);
        }
        let advice = self.once(&place, |run| run.ask_for_advice(place, question, read))?;
        Ok(Some(advice))
    }

    fn ask_for_advice(
        &mut self,
        place: AdvicePlace,
        question: &str,
        read: &dyn Fn(&str) -> Result<(), String>,
    ) -> Result<event::Advice, Interrupt> {
        self.pause_or_stop()?;
        let began = self.chronicle.elapsed_ms();
        let replied = match &mut self.adviser {
            Some(adviser) => adviser.reply(question),
            None => Err("there is nobody to ask".into()),
        };
        let took_ms = self.chronicle.elapsed_ms().saturating_sub(began);
        let (reply, refused) = match replied {
            Ok(reply) => {
                self.unanswered = 0;
                let reply: String = reply.chars().take(LONGEST_REPLY).collect();
                let refused = read(&reply).err();
                (Some(reply), refused)
            }
            Err(reason) => {
                self.unanswered += 1;
                let rest = match self.unanswered {
                    PATIENCE => "; nobody asks it any more before this run is resumed",
                    _ => "",
                };
                self.log(Level::Warning, format!("no advice: {reason}{rest}"))?;
                (None, Some(reason))
            }
        };
        Ok(event::Advice {
            generation: place.generation,
            part: place.part,
            question: question.into(),
            reply,
            refused,
            took_ms,
        })
    }

    /// Whether advice can still be had.
    pub(super) fn has_patience(&self) -> bool {
        self.unanswered < PATIENCE
    }
}

/// What a reply means.
struct Reading<'a> {
    genome: &'a Genome,
    /// What a reply leaves out stays as it is here.
    best: Genotype,
    /// Fitness by digest.
    met: HashMap<String, f64>,
}

impl Reading<'_> {
    /// The point of the space that a reply names, or why it names none.
    fn genotype(&self, reply: &str) -> Result<Genotype, String> {
        let text = recipe_in(reply);
        let document = yaml::parse_one(Path::new("the reply"), text).map_err(|e| e.to_string())?;
        let wrong = |e: yaml::Error| e.to_string();
        let map = document.map().map_err(wrong)?;
        let mut genotype = self.best.clone();
        for (gene, value) in self.genome.genes().iter().zip(&mut genotype) {
            if let Some(node) = map.optional(&gene.name) {
                *value = match gene.kind {
                    GeneKind::Real { .. } => node.f64(),
                    GeneKind::Int { .. } | GeneKind::Choice { .. } => node.i64().map(|n| n as f64),
                }
                .map_err(wrong)?;
                let (low, high) = (gene.kind.low(), gene.kind.high());
                if !(low..=high).contains(value) {
                    return Err(node.error(format!("it is {low} to {high}")).to_string());
                }
            }
        }
        map.finish().map_err(wrong)?;
        let (_, digest) = self.genome.decode(&genotype).record();
        match self.met.get(&digest) {
            Some(fitness) => Err(format!("it was tried already, and scored {fitness:.4}")),
            None => Ok(genotype),
        }
    }
}

/// What stands between the first two fences, or else all of it.
fn recipe_in(reply: &str) -> &str {
    let Some((_, fenced)) = reply.split_once("```") else {
        return reply;
    };
    let (text, _) = fenced.split_once("```").unwrap_or((fenced, ""));
    // Behind the first fence stands the language's name.
    text.split_once('\n').map_or(text, |(_, text)| text)
}

/// What a search is going to ask for as advice.
#[derive(Clone, Debug)]
pub struct ExpectedAdvice {
    /// As long as they will be, about candidates that are made up; all of them are asked at a time.
    pub questions: Vec<String>,
    /// From one time to the next, candidates are scored.
    pub candidates: u64,
}

/// What a search of a space is going to ask for as advice; `None` where nobody gives it.
///
/// # Errors
/// Genes that the optimizer cannot move.
pub fn expected_advice(genome: &Genome, space: &Space, tasks: &[FitnessTask]) -> Result<Option<ExpectedAdvice>, Error> {
    let Some(guide) = &space.search.guide else {
        return Ok(None);
    };
    let domain = domain(genome)?;
    let kind = optimizer_kind(space, &domain);
    let options = optim::Options {
        population_size: space.search.population,
        objectives: if kind == Kind::Nsga2 { 2 } else { 1 },
        ..optim::Options::default()
    };
    let mut optimizer = Optimizer::new(kind, domain, &options)?;
    let asked = optimizer.ask();
    let population = asked.len() as u64;
    if kind == Kind::Evollm {
        let score = |(i, ask): (usize, &optim::Ask)| (ask.id, optim::Outcome::from_score(i as f64));
        optimizer.tell(&asked.iter().enumerate().map(score).collect::<Vec<_>>())?;
        let mut questions = Vec::new();
        while let Some(question) = optimizer.question() {
            questions.push(question);
            optimizer.advise(None)?;
        }
        return Ok(Some(ExpectedAdvice {
            questions,
            candidates: population,
        }));
    }
    let scores: Vec<event::TaskScore> = tasks.iter().map(made_up).collect();
    let shown = asked.iter().cycle().take(SHOWN).map(|ask| Shown {
        fitness: 0.5,
        tasks: &scores,
        genotype: &ask.genotype,
    });
    Ok(Some(ExpectedAdvice {
        questions: vec![question(genome.genes(), &shown.collect::<Vec<_>>())],
        candidates: population * guide.every,
    }))
}

fn made_up(task: &FitnessTask) -> event::TaskScore {
    event::TaskScore {
        task: task.task.name().into(),
        lang: task.task.lang().into(),
        split: task.split.name().into(),
        score: event::Score {
            value: 0.5,
            stderr: 0.0,
            n: 0,
        },
        tokens: None,
    }
}

/// What a guide is shown of a candidate.
struct Shown<'a> {
    fitness: f64,
    tasks: &'a [event::TaskScore],
    genotype: &'a [f64],
}

impl<'a> Shown<'a> {
    fn of(candidate: &'a event::Candidate) -> Self {
        Self {
            fitness: candidate.fitness,
            tasks: &candidate.tasks,
            genotype: &candidate.genotype,
        }
    }
}

/// Asks for a recipe that is better than those shown, the last of which is the best.
fn question(genes: &[GeneSpec], shown: &[Shown<'_>]) -> String {
    let mut text = String::from(
        "Language models are merged by recipes of numbers, and each merge is scored; higher is better. Below are what the numbers \
         may be, and the best recipes so far, from worse to better. Propose one recipe that is better than all of them: reply \
         with it alone, in the same form. A number that you leave out stays as it is in the last one.\n\n",
    );
    for gene in genes {
        let (low, high) = (gene.kind.low(), gene.kind.high());
        let whole = match gene.kind {
            GeneKind::Real { .. } => "",
            GeneKind::Int { .. } | GeneKind::Choice { .. } => ", whole",
        };
        let _ = writeln!(text, "# {}: {low} to {high}{whole}", gene.name);
    }
    for candidate in shown {
        let _ = write!(text, "\n# score {:.4}", candidate.fitness);
        for task in candidate.tasks {
            let lang = if task.lang.is_empty() {
                String::new()
            } else {
                format!(" {}", task.lang)
            };
            let _ = write!(text, ", {}{lang} {:.4}", task.task, task.score.value);
        }
        text.push('\n');
        for (gene, value) in genes.iter().zip(candidate.genotype) {
            let _ = match gene.kind {
                GeneKind::Real { .. } => writeln!(text, "{}: {value:.4}", gene.name),
                GeneKind::Int { .. } | GeneKind::Choice { .. } => writeln!(text, "{}: {value}", gene.name),
            };
        }
    }
    text.push_str("\n# better than all of these\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genome() -> Genome {
        let gene = |name: &str, kind| GeneSpec {
            name: name.into(),
            kind,
        };
        Genome::Bare(vec![
            gene("weight.maths", GeneKind::Real { low: 0.0, high: 1.5 }),
            gene("layers", GeneKind::Int { low: 2, high: 8 }),
        ])
    }

    fn read(reply: &str) -> Result<Genotype, String> {
        let genome = genome();
        let tried = genome.decode(&[0.5, 4.0]).record().1;
        let reading = Reading {
            genome: &genome,
            best: vec![0.5, 3.0],
            met: HashMap::from([(tried, 0.25)]),
        };
        reading.genotype(reply)
    }

    #[test]
    fn a_reply_is_a_point_of_the_space_or_it_is_refused_with_the_reason() {
        assert_eq!(read("weight.maths: 1.25\nlayers: 5\n"), Ok(vec![1.25, 5.0]));
        assert_eq!(
            read("Here it is:\n```yaml\nweight.maths: 1.25\n```\nGood luck!"),
            Ok(vec![1.25, 3.0])
        );
        for (reply, reason) in [
            ("weight.maths: 2", "it is 0 to 1.5"),
            ("layers: 2.5", "whole"),
            ("wait.maths: 1", "did you mean"),
            ("I cannot help with that.", "the reply"),
            ("", "the reply"),
            ("layers: 4", "tried already, and scored 0.2500"),
            ("weight.maths: .nan", "a number is expected"),
        ] {
            let refused = read(reply).unwrap_err();
            assert!(refused.contains(reason), "{reply:?}: {refused}");
        }
    }
}
