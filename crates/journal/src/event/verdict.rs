//! Who won, in sentences: against the best parent and the best merge that nobody searched for; honest about chance, about
//! luck, and about which questions were asked.
//!
//! The terminal, the dashboard, the report and the model card all say what stands here.

use std::collections::HashSet;

use super::axes;
use super::changes;
use super::freshness::{Freshness, Part, caution};
use super::run::{Run, Scored, counts};
use super::words::{Unit, count, counted, p_value, parent_name, task_of, test_name};
use super::{Candidate, Comparison, Finalist, Origin, Score, TaskScore, TestReading, TestScore};

/// What a reading of the test questions says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// By which a reader colours it.
    pub outcome: Outcome,
    /// For people, complete: who, by how much, how sure, on which questions.
    pub sentence: String,
}

/// How the winner stands to its rivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Better than all of them, and chance alone would hardly do that (p < 0.05).
    Won,
    /// Worse than none of them beyond chance, but not surely better than each.
    Open,
    /// One of them is surely better.
    Lost,
}

/// Whom the winner has to beat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rival<'a> {
    /// The rival's, on the same questions.
    pub score: &'a TestScore,
    /// Winner − rival, on the same questions.
    pub difference: f64,
    /// Of unsearched merges after Holm's correction, for the best of several stands here.
    pub p_value: f64,
    /// Otherwise it is a merge that nobody searched for.
    pub is_parent: bool,
}

/// The level under which a difference counts as shown.
const SIGNIFICANT: f64 = 0.05;

/// The best parent; and the best merge that nobody searched for, unless the winner is one itself.
pub fn rivals<'a>(run: &Run, reading: &'a TestReading) -> Vec<Rival<'a>> {
    let parent = Rival {
        score: &reading.best_parent,
        difference: reading.difference,
        p_value: reading.p_value,
        is_parent: true,
    };
    let unsearched = best_unsearched(run, reading).map(|c| Rival {
        score: &c.other,
        difference: c.difference,
        p_value: c.p_holm,
        is_parent: false,
    });
    [parent].into_iter().chain(unsearched).collect()
}

/// The rival that scored best.
pub fn strongest<'a>(run: &Run, reading: &'a TestReading) -> Option<Rival<'a>> {
    let by_score = |a: &Rival, b: &Rival| a.score.score.value.total_cmp(&b.score.score.value);
    rivals(run, reading).into_iter().max_by(by_score)
}

/// The best merge that nobody searched for, unless the winner is one itself.
pub fn best_unsearched<'a>(run: &Run, reading: &'a TestReading) -> Option<&'a Comparison> {
    best_of_unsearched(run, reading).filter(|_| !is_unsearched(run, &reading.best.id))
}

/// Of those that are not the winner.
fn best_of_unsearched<'a>(run: &Run, reading: &'a TestReading) -> Option<&'a Comparison> {
    let by_score = |a: &&Comparison, b: &&Comparison| a.other.score.value.total_cmp(&b.other.score.value);
    let merges = reading.others.iter().filter(|o| is_unsearched(run, &o.other.id));
    merges.max_by(by_score)
}

fn is_unsearched(run: &Run, id: &str) -> bool {
    run.candidate(id).is_some_and(|c| c.origin == Origin::Baseline)
}

impl Rival<'_> {
    fn is_sure(&self) -> bool {
        self.p_value < SIGNIFICANT
    }

    fn outcome(&self) -> Outcome {
        match (self.difference > 0.0, self.is_sure()) {
            (true, true) => Outcome::Won,
            (false, true) if self.difference < 0.0 => Outcome::Lost,
            _ => Outcome::Open,
        }
    }

    fn name(&self) -> String {
        match self.is_parent {
            true => format!("the best parent, {},", parent_name(&self.score.id)),
            false => unsearched_name(&self.score.id),
        }
    }

    /// What the winner does to it.
    fn clause(&self, unit: Unit) -> String {
        let (name, points, p) = (self.name(), unit.points(self.difference), p_value(self.p_value));
        match (self.outcome(), self.difference) {
            (Outcome::Won, _) => format!("beats {name} by {points} ({p})"),
            (Outcome::Lost, _) => format!("loses to {name} by {points} ({p})"),
            (Outcome::Open, d) if d > 0.0 => {
                format!("is no better than {name} for its lead of {points} may be chance ({p})")
            }
            (Outcome::Open, d) if d < 0.0 => format!("is no better than {name} being {points} behind ({p})"),
            _ => format!("is no better than {name} being level with it ({p})"),
        }
    }
}

/// `the plain sum, task_arithmetic,`.
fn unsearched_name(id: &str) -> String {
    match id {
        "linear" => "the plain average, linear,".into(),
        "task_arithmetic" => "the plain sum, task_arithmetic,".into(),
        other => format!("the unsearched merge {other}"),
    }
}

/// Who the winner is, as the beginning of a sentence.
fn who(run: &Run, id: &str) -> String {
    match run.candidate(id).map(|c| &c.origin) {
        Some(Origin::Mean) if optimizer_of(run, id) == GAUSSIAN_PROCESS => {
            format!("{id}, from which the Gaussian process expects most,")
        }
        Some(Origin::Mean) if optimizer_of(run, id) == BY_LANGUAGE_MODEL => {
            format!("{id}, the centre that the language model proposed,")
        }
        Some(Origin::Mean) => format!("{id}, the centre of what the search had learnt,"),
        Some(Origin::Baseline) => format!("{id}, a merge that nobody searched for,"),
        Some(Origin::Random) => format!("{id}, a random draw,"),
        Some(Origin::Learned) => format!("{id}, learned by gradient,"),
        Some(Origin::Guided) => format!("{id}, which a language model proposed,"),
        _ => id.to_owned(),
    }
}

/// Against the best parent and the best merge that nobody searched for.
pub fn verdict(run: &Run, reading: &TestReading) -> Verdict {
    let (unit, child) = (run.unit(), &reading.best);
    let n = child.score.n;
    let n = run
        .questions
        .as_ref()
        .map_or(n, |compared| compared.distinct(Part::Test, n));
    let asked = Freshness::of(run).asked(n, &reading.split);
    if is_hopeless(run, reading) {
        return Verdict {
            outcome: Outcome::Open,
            sentence: format!(
                "Nobody got one of {asked} right: {}, the parents and the unsearched merges are all at 0, so nothing is \
                 decided",
                child.id
            ),
        };
    }
    let rivals = rivals(run, reading);
    let outcomes: Vec<Outcome> = rivals.iter().map(Rival::outcome).collect();
    let joint = match outcomes.windows(2).all(|pair| pair[0] == pair[1]) {
        true => " and ",
        false => ", but ",
    };
    let clauses: Vec<String> = rivals.iter().map(|rival| rival.clause(unit)).collect();
    let scores: Vec<String> = rivals.iter().map(|rival| unit.full_score(&rival.score.score)).collect();
    let corrected = match rivals.len() {
        1 => "",
        _ => ", merges after Holm's correction",
    };
    Verdict {
        outcome: match outcomes.as_slice() {
            all if all.contains(&Outcome::Lost) => Outcome::Lost,
            all if all.contains(&Outcome::Open) => Outcome::Open,
            _ => Outcome::Won,
        },
        sentence: format!(
            "{} {}, on {asked}: {} against {} (± is one standard error; {}{corrected})",
            who(run, &child.id),
            clauses.join(joint),
            unit.full_score(&child.score),
            scores.join(" and "),
            test_name(&reading.test)
        ),
    }
}

/// Nobody has answered anything right, so that every score says the same.
pub fn is_hopeless(run: &Run, reading: &TestReading) -> bool {
    let others = reading.others.iter().map(|o| &o.other);
    let mut all = [&reading.best, &reading.best_parent].into_iter().chain(others);
    run.unit() == Unit::Percent && all.all(|t| t.score.value == 0.0)
}

/// All that belongs to a verdict, in order: who the winner is, what it owes to luck, who is missing, and what is wrong with
/// the questions.
pub fn told(run: &Run) -> Vec<String> {
    let own = [explained(run), unsearched(run), luck(run), front(run)]
        .into_iter()
        .flatten();
    own.chain(missing(run))
        .chain(caution(run))
        .chain(changes::sentence(&run.changes))
        .collect()
}

/// The same of a run whose test was not read: the front, who is missing, and what has changed.
pub fn told_without_test(run: &Run) -> Vec<String> {
    front(run)
        .into_iter()
        .chain(missing(run))
        .chain(changes::sentence(&run.changes))
        .collect()
}

/// Most candidates of a front that are named.
const MOST_NAMED: usize = 48;

/// Who stands on the front of a search for several objectives: bred candidates that nobody beats on one axis without losing on
/// another, on the search's questions.
pub fn front(run: &Run) -> Option<String> {
    run.started.as_ref().filter(|started| started.optimizer == "nsga2")?;
    let axes = axes::axes(run);
    let place =
        |c: &Candidate| -> Option<Vec<f64>> { axes.iter().map(|axis| Some(axis.score(run, c)?.value)).collect() };
    let places: Vec<(&Candidate, Vec<f64>)> = run
        .scored
        .iter()
        .filter(|scored| !scored.candidate.eliminated)
        .filter_map(|scored| Some((&scored.candidate, place(&scored.candidate)?)))
        .collect();
    let is_as_good = |a: &[f64], b: &[f64]| {
        axes.iter()
            .zip(a.iter().zip(b))
            .all(|(axis, (a, b))| axis.is_as_good(*a, *b))
    };
    let is_beaten = |own: &[f64]| places.iter().any(|(_, other)| other != own && is_as_good(other, own));
    let mut front: Vec<&(&Candidate, Vec<f64>)> = places
        .iter()
        .filter(|(c, place)| counts(&c.origin) && !is_beaten(place))
        .collect();
    // One recipe that was asked twice, or learned where it had been bred, is one.
    let mut seen = HashSet::new();
    front.retain(|(c, place)| {
        let bits: Vec<u64> = place.iter().map(|value| value.to_bits()).collect();
        c.recipe_digest.is_empty() || seen.insert((&c.recipe_digest, bits))
    });
    front.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]).then_with(|| a.0.id.cmp(&b.0.id)));
    let named = front.iter().take(MOST_NAMED).map(|(c, place)| {
        let values = axes.iter().zip(place).map(|(axis, value)| axis.unit.full_value(*value));
        format!("{} ({})", c.id, values.collect::<Vec<_>>().join(", "))
    });
    let named: Vec<String> = named.collect();
    let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
    let more = match front.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    let asked = if run.is_scored_by_command() {
        "as the search saw it"
    } else {
        "by the search's questions"
    };
    let makes_models = run.started.as_ref().is_none_or(|started| !started.models.is_empty());
    let way = match makes_models {
        true => "any of them can be exported by its id",
        false => "their genes are in the journal, by these ids",
    };
    (axes.len() > 1 && !named.is_empty()).then(|| {
        format!(
            "The front, {asked} ({}): {}{more}. Nobody beats one of them on one of these without losing on another; {way}.",
            names.join(", "),
            named.join("; ")
        )
    })
}

/// What `mean` or a learned point is, where it won, and why it may stand before a finalist with a higher score.
pub fn explained(run: &Run) -> Option<String> {
    let selection = run.selection.as_ref()?;
    let of = |id: &str| selection.finalists.iter().find(|f| f.id == id);
    let winner = of(&selection.best)?;
    let (mut told, steady) = match winner.origin {
        Origin::Mean if optimizer_of(run, &winner.id) == GAUSSIAN_PROCESS => (
            format!(
                "'{}' is no average of models: it is the recipe from which the Gaussian process expects most, after all \
                 scores and how much each of them errs.",
                winner.id
            ),
            "the expected best",
        ),
        Origin::Mean if optimizer_of(run, &winner.id) == BY_LANGUAGE_MODEL => (
            format!(
                "'{}' is no average of models: it is the recipe that the language model proposed as the centre of the next \
                 candidates.",
                winner.id
            ),
            "the proposed centre",
        ),
        Origin::Mean => (
            format!(
                "'{}' is no average of models: it is the recipe at the centre of the distribution that the optimizer draws \
                 from, to which all of its candidates have led.",
                winner.id
            ),
            "the centre",
        ),
        Origin::Learned => (
            format!(
                "'{}' was not bred: its numbers were moved along the gradient of how likely the texts are that taught it.",
                winner.id
            ),
            "what learning has led to",
        ),
        _ => return None,
    };
    let rivals = selection.finalists.iter().filter(|f| f.origin != Origin::Parent);
    let highest = rivals.max_by(|a, b| a.fresh.value.total_cmp(&b.fresh.value))?;
    if highest.fresh.value > winner.fresh.value {
        let unit = run.unit();
        told += &format!(
            " {} scored {} on the selection questions to its {}; the best of {} is as much ahead by luck alone, and luck has had \
             least to do with {steady}.",
            highest.id,
            unit.full_value(highest.fresh.value),
            unit.full_value(winner.fresh.value),
            counted(selection.finalists.len(), "finalist")
        );
    }
    Some(told)
}

/// How much of the winner's score on the search questions was luck: what it lost on other questions beyond what those lose
/// whom nobody chose by that score. What they lose is the difficulty of the questions.
pub fn luck(run: &Run) -> Option<String> {
    // A command that is asked again may ask the same.
    let selection = run.selection.as_ref().filter(|_| !run.is_scored_by_command())?;
    // Of the same questions again nothing is told, nor where scores from before and after a change do not compare.
    if Freshness::of(run) == Freshness::Used || !run.changes.is_empty() {
        return None;
    }
    let winner = selection.finalists.iter().find(|f| f.id == selection.best)?;
    let unit = run.unit();
    let nothing = unit == Unit::Percent && winner.search.value == 0.0 && winner.fresh.value == 0.0;
    if !counts(&winner.origin) || nothing {
        return None;
    }
    let fall = fall(winner);
    let own = format!(
        "Its search score of {} {} on the selection questions",
        unit.full_value(winner.search.value),
        moved(unit, fall.value)
    );
    let of = |origin: Origin| -> Vec<Score> {
        let unchosen = selection.finalists.iter().filter(|f| f.origin == origin);
        unchosen.map(self::fall).collect()
    };
    let (merges, parents) = (of(Origin::Baseline), of(Origin::Parent));
    let (unchosen, name) = match merges.is_empty() {
        false => (merges, "the unsearched merges"),
        true => (parents, "the parents"),
    };
    if unchosen.is_empty() {
        return Some(format!(
            "{own}; how much of that is luck, and how much other questions, nothing here tells."
        ));
    }
    let n = unchosen.len() as f64;
    let difficulty = unchosen.iter().map(|f| f.value).sum::<f64>() / n;
    // They answered the same questions, so averaging does not make their mean surer.
    let stderr = unchosen.iter().map(|f| f.stderr).sum::<f64>() / n;
    let luck = fall.value - difficulty;
    let others = format!(
        "{own}; {name}, which were not chosen by such a score, {} there",
        moved_their(unit, difficulty)
    );
    let points = |points: f64| {
        let word = if unit == Unit::Percent { " points" } else { "" };
        unit.with_error(points, fall.stderr.hypot(stderr)) + word
    };
    Some(match luck > 0.0 {
        _ if unit.is_nothing(luck) => format!("{others}, so no luck shows in it (it keeps as much as they do)."),
        true => format!("{others}, so that {} of its score were luck.", points(luck)),
        false => format!(
            "{others}, so no luck shows in it (it keeps {} more than they do).",
            points(-luck)
        ),
    })
}

/// From the search's questions to the selection's.
fn fall(finalist: &Finalist) -> Score {
    Score {
        value: finalist.search.value - finalist.fresh.value,
        stderr: finalist.search.stderr.hypot(finalist.fresh.stderr),
        n: finalist.fresh.n,
    }
}

fn moved(unit: Unit, fall: f64) -> String {
    match fall > 0.0 {
        _ if unit.is_nothing(fall) => "stays where it is".into(),
        true => format!("falls by {}", unit.points(fall)),
        false => format!("rises by {}", unit.points(fall)),
    }
}

fn moved_their(unit: Unit, fall: f64) -> String {
    match fall > 0.0 {
        _ if unit.is_nothing(fall) => "neither gain nor lose on average".into(),
        true => format!("lose {} on average", unit.points(fall)),
        false => format!("gain {} on average", unit.points(fall)),
    }
}

/// Says so when the winner owes nothing to the search.
pub fn unsearched(run: &Run) -> Option<String> {
    let winner = run
        .winner()
        .filter(|w| run.selection.is_some() && w.origin == Origin::Baseline)?;
    let mut told = format!(
        "{} is a merge that nobody searched for: nothing that the search bred was better on the selection questions. More \
         evaluations, more questions or another space may find more.",
        winner.id
    );
    let of_test = run.reading.as_ref().filter(|reading| reading.best.id == winner.id);
    let other = of_test.and_then(|reading| Some((best_of_unsearched(run, reading)?, reading)));
    if let Some((other, reading)) = other.filter(|(other, reading)| other.other.score.value > reading.best.score.value)
    {
        let unit = run.unit();
        told += &format!(
            " On the test another of them is ahead: {} with {} to its {} ({}).",
            other.other.id,
            unit.full_value(other.other.score.value),
            unit.full_value(reading.best.score.value),
            p_value(other.p_holm)
        );
    }
    Some(told)
}

/// Unsearched merges that could not be scored, so that the winner was not compared with them.
fn missing(run: &Run) -> Option<String> {
    let failed = run.failed.iter().filter(|f| f.origin == Origin::Baseline);
    let told: Vec<String> = failed.map(|f| format!("{} ({})", f.id, f.reason)).collect();
    (!told.is_empty()).then(|| format!("Not compared, because they could not be scored: {}.", told.join("; ")))
}

/// The optimizer whose mean is no centre of a distribution.
const GAUSSIAN_PROCESS: &str = "gp";

/// The optimizer whose mean somebody proposes.
const BY_LANGUAGE_MODEL: &str = "evollm";

/// The optimizer of the stage that a candidate belongs to.
fn optimizer_of<'a>(run: &'a Run, id: &str) -> &'a str {
    let stage = run.scored(id).and_then(|s| run.stages.get(s.stage));
    let optimizer = stage.map(|stage| &stage.optimizer);
    let optimizer = optimizer.or(run.started.as_ref().map(|s| &s.optimizer));
    optimizer.map_or("the search", String::as_str)
}

/// Where a candidate's parameters come from.
pub fn provenance(run: &Run, candidate: &Candidate) -> String {
    let scored = run.scored(&candidate.id);
    let genes = counted(scored.map_or(0, |s| run.genes_of(s).len()), "parameter");
    let optimizer = optimizer_of(run, &candidate.id);
    let evals = counted(run.evals as usize, "evaluation");
    // Of several searches one after the other, its own.
    let of_whole_stage = scored.map_or(run.evals, |s| evals_of_whole_stage(run, s));
    let stage = if of_whole_stage == run.evals {
        ""
    } else {
        " of its stage"
    };
    let in_stage = format!("{}{stage}", counted(of_whole_stage as usize, "evaluation"));
    match candidate.origin {
        Origin::Parent => format!("It is the model {} as it is", parent_name(&candidate.id)),
        Origin::Baseline => format!(
            "Nobody searched for its parameters: it is the unsearched merge {}, by which {evals} of {optimizer} were measured",
            candidate.id
        ),
        Origin::Random => format!("Its {genes} were drawn at random, one of {evals}"),
        Origin::WarmStart if stage.is_empty() => {
            format!("Its {genes} are of a recipe that the search of {evals} was begun with")
        }
        Origin::WarmStart => format!("Its {genes} are of a recipe that {in_stage} were begun with"),
        Origin::Learned => learned_from(run, candidate, &genes, optimizer, &evals),
        Origin::Search => format!("Its {genes} were found by {optimizer} in {in_stage}"),
        Origin::Guided => format!("Its {genes} are a language model's proposal, one of {in_stage} of {optimizer}"),
        Origin::Mean if optimizer == GAUSSIAN_PROCESS => {
            format!("Its {genes} are those from which a Gaussian process expects most after {in_stage}")
        }
        Origin::Mean => {
            let of_stage = scored.map_or(0, |s| evals_of_stage(run, s));
            let stage = if of_stage == run.evals { "" } else { " of its stage" };
            let evals = counted(of_stage as usize, "evaluation");
            format!("Its {genes} are the centre of {optimizer}'s distribution after {evals}{stage}")
        }
    }
}

/// What gradients have moved, and what somebody else had found before.
fn learned_from(run: &Run, candidate: &Candidate, genes: &str, optimizer: &str, evals: &str) -> String {
    let of = |id: &str| run.learned.iter().rev().find(|learned| learned.id == id);
    // As many rounds as there were: a journal that somebody wrote may go round in a circle.
    let first = run.learned.iter().fold(candidate.id.as_str(), |id, _| {
        of(id).map_or(id, |learned| &learned.from)
    });
    let was_bred = run
        .candidate(first)
        .is_some_and(|c| c.origin != Origin::Parent && counts(&c.origin));
    let was_moved = of(&candidate.id).is_none_or(|learned| learned.best_step > 0);
    match (was_bred, was_moved) {
        (true, _) => format!(
            "Its {genes} are those of {first}, which {optimizer} bred in {evals}; weights and scales among them were then moved by \
             gradient, by texts"
        ),
        (false, true) => format!("Its {genes} were learned by gradient, from texts"),
        (false, false) => {
            format!("Its {genes} are those of {first}: no step of learning made the held-back texts likelier")
        }
    }
}

/// Evaluations of a candidate's stage until it was scored.
fn evals_of_stage(run: &Run, scored: &Scored) -> u64 {
    let earlier = run.scored.iter().filter(|other| other.stage < scored.stage);
    scored
        .evals
        .saturating_sub(earlier.map(|other| other.evals).max().unwrap_or(0))
}

/// Evaluations of a candidate's stage, from its first to its last; all of the run, where there is one stage.
fn evals_of_whole_stage(run: &Run, scored: &Scored) -> u64 {
    let last = |is_one: &dyn Fn(usize) -> bool| {
        let ones = run.scored.iter().filter(|other| is_one(other.stage));
        ones.map(|other| other.evals).max()
    };
    let before = last(&|stage| stage < scored.stage).unwrap_or(0);
    let until = last(&|stage| stage > scored.stage).and_then(|_| last(&|stage| stage == scored.stage));
    until.unwrap_or(run.evals).saturating_sub(before)
}

/// How the winner does on tasks that are no part of the fitness, beside the base, or beside the best parent without one.
pub fn forgotten(run: &Run) -> Option<String> {
    let reading = run.held_out.as_ref()?;
    let winner = run.winner()?;
    let child = reading.scores.iter().find(|s| s.id == winner.id)?;
    let base = run.base_id();
    let mut told = Vec::new();
    for task in &child.tasks {
        let unit = run.task_unit(&task.task, &task.lang);
        let same = |s: &&TaskScore| (&s.task, &s.lang, &s.split) == (&task.task, &task.lang, &task.split);
        let parents = reading.scores.iter().filter(|s| s.id != winner.id);
        let scores = parents.filter_map(|s| Some((&s.id, s.tasks.iter().find(same)?.score)));
        let scores: Vec<(&String, Score)> = scores.collect();
        let of_base = scores.iter().find(|(id, _)| Some(*id) == base.as_ref());
        let best = scores.iter().max_by(|a, b| a.1.value.total_cmp(&b.1.value));
        let Some((id, other)) = of_base.or(best) else { continue };
        told.push(format!(
            "{} {} ({}: {})",
            task_of(task),
            unit.full_score(&task.score),
            parent_name(id),
            unit.full_score(other)
        ));
    }
    let told = told.join(", ");
    let on = Freshness::of(run).on_held_out();
    (!told.is_empty()).then(|| format!("{on} {} scores: {told}.", winner.id))
}

/// What changed sides against the best parent.
pub fn flips(reading: &TestReading) -> Option<String> {
    let (gained, lost) = (reading.positive_flips, reading.negative_flips);
    (gained + lost > 0).then(|| {
        format!(
            "Against {} it gained {} questions and lost {}.",
            parent_name(&reading.best_parent.id),
            count(gained as u64),
            count(lost as u64)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Learned, Record, rehearsal};

    /// The night with another winner.
    fn won_by(id: &str) -> Vec<Record> {
        let mut records = rehearsal::journal();
        for record in &mut records {
            if let Event::Selected(selection) = &mut record.event {
                selection.best = id.into();
            }
        }
        records
    }

    #[test]
    fn a_winner_that_nobody_searched_for_is_named_so() {
        assert_eq!(unsearched(&Run::from_records(&rehearsal::journal())), None);
        let run = Run::from_records(&won_by("linear"));
        let told = unsearched(&run).unwrap();
        assert!(told.starts_with("linear is a merge that nobody searched for"), "{told}");
        // "Its 24 parameters were found by cma-es in 40 evaluations" stood in the card of a merge with weights 1 and 1, and
        // "9.3 points were luck" in its report, though no score had chosen it.
        let made = provenance(&run, run.winner().unwrap());
        assert!(
            made.starts_with("Nobody searched for its parameters") && !made.contains("found"),
            "{made}"
        );
        assert_eq!(luck(&run), None);
    }

    /// "Its 94 parameters were found by cma-es-margin in 24 evaluations", of which 13 were those of the stage before.
    #[test]
    fn a_stage_has_evaluations_of_its_own() {
        let mut run = Run::from_records(&rehearsal::journal());
        let is_bred = |c: &Candidate| c.origin == Origin::Search;
        let last = run.scored.iter().rposition(|s| is_bred(&s.candidate)).unwrap();
        let (bred, all) = (run.scored[last].candidate.clone(), run.evals);
        assert!(provenance(&run, &bred).ends_with(&format!("in {all} evaluations")));
        let before = run.scored[last / 2].evals;
        for scored in &mut run.scored {
            scored.stage = usize::from(scored.evals > before);
        }
        let told = provenance(&run, &bred);
        assert!(
            told.ends_with(&format!("in {} evaluations of its stage", all - before)),
            "{told}"
        );
        let first = run.scored.iter().find(|s| is_bred(&s.candidate)).unwrap();
        let told = provenance(&run, &first.candidate);
        assert!(
            told.ends_with(&format!("in {before} evaluations of its stage")),
            "{told}"
        );
    }

    /// A journal that somebody wrote may say that a point was learned from itself.
    #[test]
    fn what_was_learned_in_a_circle_has_an_end() {
        let mut run = Run::from_records(&rehearsal::journal());
        for (id, from) in [("learned-1", "learned-2"), ("learned-2", "learned-1")] {
            run.learned.push(Learned {
                id: id.into(),
                from: from.into(),
                ..Learned::default()
            });
        }
        let candidate = Candidate {
            id: "learned-1".into(),
            origin: Origin::Learned,
            ..run.scored[0].candidate.clone()
        };
        assert!(provenance(&run, &candidate).contains("no step of learning"));
    }

    /// A search for several objectives ended with a front that stood nowhere but in a picture.
    #[test]
    fn the_front_of_several_objectives_is_told() {
        let mut records = rehearsal::journal();
        assert_eq!(front(&Run::from_records(&records)), None);
        for record in &mut records {
            if let Event::RunStarted(started) = &mut record.event {
                started.optimizer = "nsga2".into();
            }
        }
        let run = Run::from_records(&records);
        let told = front(&run).unwrap();
        let bred = run.scored.iter().map(|scored| &scored.candidate);
        let bred: Vec<&Candidate> = bred.filter(|c| counts(&c.origin) && !c.eliminated).collect();
        let value = |c: &Candidate, task: usize| c.tasks[task].score.value;
        let by_both = |a: &&&Candidate, b: &&&Candidate| {
            let first = value(a, 0).total_cmp(&value(b, 0));
            first.then(value(a, 1).total_cmp(&value(b, 1)))
        };
        let first = bred.iter().max_by(by_both).unwrap();
        assert!(told.contains(&format!("{} (", first.id)), "{told}");
        let is_beaten = |c: &&&Candidate| {
            bred.iter()
                .any(|o| value(o, 0) > value(c, 0) && value(o, 1) > value(c, 1))
        };
        for beaten in bred.iter().filter(is_beaten) {
            assert!(!told.contains(&format!("{} (", beaten.id)), "{}: {told}", beaten.id);
        }
    }

    /// "Beats the best parent by 16.7 points" was said of an unsearched merge with 45 %, and nothing of another one with 50.
    #[test]
    fn an_unsearched_winner_is_told_beside_another_one_that_is_ahead() {
        let mut records = won_by("linear");
        for record in &mut records {
            if let Event::TestRead(reading) = &mut record.event {
                let place = reading.others.iter().position(|o| o.other.id == "linear").unwrap();
                std::mem::swap(&mut reading.best, &mut reading.others[place].other);
                reading.best.score.value = 0.45;
            }
        }
        let run = Run::from_records(&records);
        let told = unsearched(&run).unwrap();
        assert!(
            told.contains("another of them is ahead: ties with 49.6 % to its 45.0 %"),
            "{told}"
        );
    }

    #[test]
    fn winning_needs_both_a_lead_and_certainty_over_all_rivals() {
        let run = Run::from_records(&rehearsal::journal());
        let night = run.reading.clone().unwrap();
        let say = |parent: (f64, f64), merge: (f64, f64)| {
            let mut reading = night.clone();
            (reading.difference, reading.p_value) = parent;
            for other in &mut reading.others {
                (other.difference, other.p_holm) = merge;
            }
            let verdict = verdict(&run, &reading);
            (verdict.outcome, verdict.sentence)
        };
        let (outcome, sentence) = say((0.2, 0.001), (0.1, 0.001));
        assert_eq!(outcome, Outcome::Won);
        let both =
            "beats the best parent, maths, by 20.0 points (p = 0.0010) and beats the plain average, linear, by 10.0";
        assert!(sentence.contains(both), "{sentence}");
        // The terminal said that c0008 beats the best parent, and nothing of linear, 0.007 behind it with p = 0.14.
        let (outcome, sentence) = say((0.2, 0.001), (0.007, 0.14));
        assert_eq!(outcome, Outcome::Open);
        let but = "beats the best parent, maths, by 20.0 points (p = 0.0010), but is no better than the plain average, linear,";
        assert!(sentence.contains(but) && sentence.contains("(p = 0.14)"), "{sentence}");
        let (outcome, sentence) = say((0.2, 0.001), (-0.1, 0.001));
        assert!(
            outcome == Outcome::Lost && sentence.contains("loses to the plain average, linear,"),
            "{sentence}"
        );
        let (outcome, sentence) = say((0.01, 0.3), (0.1, 0.001));
        assert!(
            outcome == Outcome::Open && sentence.contains("may be chance"),
            "{sentence}"
        );
        let (outcome, sentence) = say((-0.2, 0.001), (0.1, 0.001));
        assert!(
            outcome == Outcome::Lost && sentence.contains("loses to the best parent"),
            "{sentence}"
        );
        let (outcome, sentence) = say((0.0, 1.0), (0.0, 1.0));
        assert!(
            outcome == Outcome::Open && sentence.contains("level with it"),
            "{sentence}"
        );
    }

    /// With everything at zero the terminal said "its search score of 0.0 was no luck: it held".
    #[test]
    fn nothing_is_decided_at_zero() {
        let mut run = Run::from_records(&rehearsal::journal());
        let mut reading = run.reading.clone().unwrap();
        let others = reading.others.iter_mut().map(|o| &mut o.other.score);
        for score in [&mut reading.best.score, &mut reading.best_parent.score]
            .into_iter()
            .chain(others)
        {
            score.value = 0.0;
        }
        for finalist in &mut run.selection.as_mut().unwrap().finalists {
            (finalist.search.value, finalist.fresh.value) = (0.0, 0.0);
        }
        let verdict = verdict(&run, &reading);
        assert_eq!(verdict.outcome, Outcome::Open);
        assert!(
            verdict.sentence.starts_with("Nobody got one of"),
            "{}",
            verdict.sentence
        );
        assert_eq!(luck(&run), None);
    }

    #[test]
    fn what_was_forgotten_is_told_beside_the_base() {
        let run = Run::from_records(&rehearsal::held_out());
        let told = forgotten(&run).unwrap();
        assert!(
            told.contains(
                "scores: words-fr 30.0 ± 3.2 % (base: 40.0 ± 3.5 %), text-en -2.500 ± 0.040 nats (base: -2.300"
            ),
            "{told}"
        );
        assert_eq!(forgotten(&Run::from_records(&rehearsal::journal())), None);
    }

    /// What unsearched merges lose between the same questions is the questions' difficulty: it was told as the child's luck.
    #[test]
    fn luck_is_what_the_winner_loses_beyond_those_whom_no_score_chose() {
        let mut run = Run::from_records(&rehearsal::journal());
        let mut set = |child: (f64, f64), merge: (f64, f64)| {
            let selection = run.selection.as_mut().unwrap();
            for finalist in &mut selection.finalists {
                let (search, fresh) = if finalist.id == selection.best { child } else { merge };
                (finalist.search.value, finalist.fresh.value) = (search, fresh);
            }
            luck(&run).unwrap()
        };
        let told = set((0.80, 0.74), (0.70, 0.65));
        assert!(
            told.starts_with("Its search score of 80.0 % falls by 6.0 points on the selection questions"),
            "{told}"
        );
        assert!(
            told.contains("the unsearched merges, which were not chosen by such a score, lose 5.0 points"),
            "{told}"
        );
        assert!(told.contains("so that 1.0 ± "), "{told}");
        assert!(set((0.80, 0.74), (0.70, 0.60)).contains("so no luck shows in it"));
        let told = set((0.80, 0.80), (0.70, 0.70));
        assert!(
            told.contains("stays where it is on the selection questions; the unsearched merges"),
            "{told}"
        );
        assert!(
            told.contains("neither gain nor lose on average there, so no luck shows in it (it keeps as much"),
            "{told}"
        );
        // The selection questions are easier, and the child gained less than those whom nobody chose: luck all the same.
        assert!(set((0.80, 0.81), (0.70, 0.75)).contains("so that 4.0 ± "));
        run.selection.as_mut().unwrap().finalists.retain(|f| counts(&f.origin));
        assert!(luck(&run).unwrap().ends_with("nothing here tells."));
        run.selection = None;
        assert_eq!(luck(&run), None);
    }

    /// Everybody reads "average" where it says `mean`.
    #[test]
    fn a_mean_that_won_is_explained() {
        let mut run = Run::from_records(&rehearsal::journal());
        assert_eq!(explained(&run), None);
        let selection = run.selection.as_mut().unwrap();
        let mean = selection
            .finalists
            .iter_mut()
            .rev()
            .find(|f| counts(&f.origin))
            .unwrap();
        (mean.id, mean.origin) = ("mean".into(), Origin::Mean);
        selection.best = "mean".into();
        let told = explained(&run).unwrap();
        assert!(
            told.contains("no average of models") && told.contains("luck has had least to do with the centre"),
            "{told}"
        );
        let selection = run.selection.as_mut().unwrap();
        let winner = selection.finalists.iter_mut().find(|f| f.id == "mean").unwrap();
        (winner.id, winner.origin) = ("learned-2".into(), Origin::Learned);
        selection.best = "learned-2".into();
        let told = explained(&run).unwrap();
        assert!(
            told.contains("'learned-2' was not bred")
                && told.contains("luck has had least to do with what learning has led to"),
            "{told}"
        );
    }

    #[test]
    fn an_unsearched_merge_that_failed_is_not_passed_over() {
        let mut run = Run::from_records(&rehearsal::journal());
        run.failed[0].origin = Origin::Baseline;
        let told = told(&run).join(" ");
        assert!(
            told.contains("Not compared, because they could not be scored: "),
            "{told}"
        );
    }
}
