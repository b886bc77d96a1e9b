//! What the one reading of the sealed test split says, in one sentence; honest about chance and about luck.

use super::run::Run;
use super::words::{Unit, counted, p_value, parent_name, task_of, test_name};
use super::{Origin, Score, TaskScore, TestReading};

/// What a reading of the sealed split says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The child is better, and chance alone would hardly do that (p < 0.05).
    pub won: bool,
    pub sentence: String,
}

/// The level under which a difference counts as shown.
const SIGNIFICANT: f64 = 0.05;

pub fn verdict(unit: Unit, reading: &TestReading) -> Verdict {
    let (child, parent) = (&reading.best, &reading.best_parent);
    let name = parent_name(&parent.id);
    let points = unit.points(reading.difference);
    let scores = format!("{} against {}", unit.score(&child.score), unit.score(&parent.score));
    let tail = format!(
        "on {} never used before: {scores}, {} ({})",
        counted(child.score.n, "question"),
        p_value(reading.p_value),
        test_name(&reading.test)
    );
    let sure = reading.p_value < SIGNIFICANT;
    let head = match (reading.difference > 0.0, sure) {
        (true, true) => format!("{} beats the best parent, {name}, by {points}", child.id),
        (true, false) => format!(
            "{} is {points} ahead of the best parent, {name}, which may be chance,",
            child.id
        ),
        (false, true) => format!("{} loses to the best parent, {name}, by {points}", child.id),
        (false, false) => format!(
            "{} is no better than the best parent, {name}: {points} behind",
            child.id
        ),
    };
    Verdict {
        won: reading.difference > 0.0 && sure,
        sentence: format!("{head} {tail}"),
    }
}

/// How much of the winner's score on the search questions was luck.
pub fn luck(run: &Run) -> Option<String> {
    let reading = run.reading.as_ref()?;
    let finalist = run
        .selection
        .as_ref()?
        .finalists
        .iter()
        .find(|f| f.id == reading.best.id)?;
    // Both splits hold questions of the same kind; the sealed one may be harder, and that would be no luck.
    let (search, fresh) = (finalist.search.value, finalist.fresh.value);
    let luck = search - fresh;
    let unit = run.unit();
    Some(match luck > 0.0 {
        true => format!(
            "Of its search score of {}, {} were luck.",
            unit.value(search),
            unit.points(luck)
        ),
        false => format!(
            "Its search score of {} was no luck: it held on fresh questions.",
            unit.value(search)
        ),
    })
}

/// Says so when the winner owes nothing to the search.
pub fn unsearched(run: &Run) -> Option<String> {
    let winner = run
        .winner()
        .filter(|w| run.selection.is_some() && w.origin == Origin::Baseline)?;
    Some(format!(
        "{} is a merge that nobody searched for: nothing that the search bred was better on fresh questions. More \
         evaluations, more questions or another space may find more.",
        winner.id
    ))
}

/// How the winner does on tasks that the search never asked, beside the base, or beside the best parent without one.
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
            unit.score(&task.score),
            parent_name(id),
            unit.score(other)
        ));
    }
    let told = told.join(", ");
    (!told.is_empty()).then(|| format!("On what the search never asked {} scores: {told}.", winner.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, rehearsal};

    #[test]
    fn a_winner_that_nobody_searched_for_is_named_so() {
        let mut records = rehearsal::journal();
        assert_eq!(unsearched(&Run::from_records(&records)), None);
        for record in &mut records {
            if let Event::Selected(selection) = &mut record.event {
                selection.best = "linear".into();
            }
        }
        let told = unsearched(&Run::from_records(&records)).unwrap();
        assert!(told.starts_with("linear is a merge that nobody searched for"), "{told}");
    }

    #[test]
    fn winning_needs_both_a_lead_and_certainty() {
        let run = Run::from_records(&rehearsal::journal());
        let mut reading = run.reading.clone().unwrap();
        let mut say = |difference, p_value| {
            (reading.difference, reading.p_value) = (difference, p_value);
            let verdict = verdict(Unit::Percent, &reading);
            (verdict.won, verdict.sentence)
        };
        let (won, sentence) = say(0.2, 0.001);
        assert!(
            won && sentence.contains("beats the best parent, maths, by 20.0 points"),
            "{sentence}"
        );
        let (won, sentence) = say(0.01, 0.3);
        assert!(!won && sentence.contains("may be chance"), "{sentence}");
        let (won, sentence) = say(-0.2, 0.001);
        assert!(!won && sentence.contains("loses to"), "{sentence}");
        let (won, sentence) = say(0.0, 1.0);
        assert!(!won && sentence.contains("no better than"), "{sentence}");
    }

    #[test]
    fn what_was_forgotten_is_told_beside_the_base() {
        let run = Run::from_records(&rehearsal::held_out());
        let told = forgotten(&run).unwrap();
        assert!(
            told.contains("scores: words-fr 30.0 ± 3.2 (base: 40.0 ± 3.5), text-en -2.500 ± 0.040 (base: -2.300"),
            "{told}"
        );
        assert_eq!(forgotten(&Run::from_records(&rehearsal::journal())), None);
    }

    #[test]
    fn luck_is_the_search_score_less_the_fresh_one() {
        let mut run = Run::from_records(&rehearsal::journal());
        assert!(luck(&run).unwrap().ends_with("points were luck."));
        for finalist in &mut run.selection.as_mut().unwrap().finalists {
            finalist.fresh.value = 0.99;
        }
        assert!(luck(&run).unwrap().contains("no luck"));
        run.reading = None;
        assert_eq!(luck(&run), None);
    }
}
