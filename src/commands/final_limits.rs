//! How many questions the final of a run asks, and changing that while it is honest: before the sealed test has answered.
//!
//! A run's `space.yaml` stays as it was read. What its final asks is in the journal (`final_planned`), where the last word
//! counts.

use anyhow::{Result, bail};

use crate::{
    event::{Event, FinalPlan, Phase, Record},
    space::{Limit, Space},
};

/// `N` or `all`.
pub fn parse(text: &str) -> Result<Limit, String> {
    match text.parse() {
        Ok(0) => Err("a limit of 0 leaves no questions".into()),
        Ok(n) => Ok(Limit::Most(n)),
        Err(_) if text == "all" => Ok(Limit::All),
        Err(_) => Err("write a number of questions, or all".into()),
    }
}

/// Gives a space the limits that its run has come to, and those that were typed.
///
/// # Errors
/// The questions have been answered already.
pub fn apply(space: &mut Space, records: &[Record], selection: Option<Limit>, test: Option<Limit>) -> Result<()> {
    if let Some(planned) = records.iter().rev().find_map(planned) {
        space.finale.selection.limit = Some(planned.selection.limit.into());
        space.finale.test.limit = Some(planned.test.limit.into());
    }
    if selection.is_none() && test.is_none() {
        return Ok(());
    }
    if space.fitness.command.is_some() {
        bail!("a command asks its own questions; limits are its affair");
    }
    let has = |what: fn(&Event) -> bool| records.iter().any(|r| what(&r.event));
    if test_answers(records) > 0 || has(|e| matches!(e, Event::TestRead(_) | Event::RunDone { .. })) {
        bail!(
            "the test of this run has been answered by somebody ({} answers); to ask it something else now would be \
             to choose the questions by what they say. Go on without --selection-limit and --test-limit, or start a new run",
            test_answers(records)
        );
    }
    if selection.is_some() && has(|e| matches!(e, Event::Selected(_))) {
        bail!("the winner of this run has been chosen on the selection questions; only --test-limit can still change");
    }
    if let Some(limit) = selection {
        space.finale.selection.limit = Some(limit);
    }
    if let Some(limit) = test {
        space.finale.test.limit = Some(limit);
    }
    Ok(())
}

fn planned(record: &Record) -> Option<FinalPlan> {
    match &record.event {
        Event::FinalPlanned(plan) => Some(*plan),
        _ => None,
    }
}

/// Answers to the sealed test, and to what is asked after it.
fn test_answers(records: &[Record]) -> usize {
    let is_test = |r: &&Record| matches!(r.event, Event::PhaseStarted { phase: Phase::Test });
    let Some(from) = records.iter().position(|r| is_test(&r)) else {
        return 0;
    };
    let answers = records[from..].iter().map(|r| match &r.event {
        Event::Answers(answers) => answers.answers.len(),
        _ => 0,
    });
    answers.sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn space() -> Space {
        let text = "name: t\nmodels: {base: b, maths: m}\nbase: base\nparameter_space: {method: ties, genes: {weight: \
                    [0.0, 1.0]}}\nfitness: {tasks: [t]}\n";
        Space::parse(Path::new("s.yaml"), text).unwrap()
    }

    fn record(event: serde_json::Value) -> Record {
        let mut record = serde_json::json!({"schema_version": 1, "seq": 0, "time_ms": 0});
        let fields = event.as_object().unwrap().clone();
        record.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(record).unwrap()
    }

    fn limits(records: &[Record], selection: Option<Limit>, test: Option<Limit>) -> Result<(Limit, Limit)> {
        let mut space = space();
        apply(&mut space, records, selection, test)?;
        Ok((space.finale.selection_limit(), space.finale.test_limit()))
    }

    /// A final on whole splits ran for hours, and no limit of a run that existed could be changed.
    #[test]
    fn limits_change_while_the_test_is_unread_and_the_last_word_counts() {
        use Limit::{All, Most};
        assert_eq!(limits(&[], None, None).unwrap(), (Most(400), Most(2000)));
        assert_eq!(limits(&[], Some(All), Some(Most(50))).unwrap(), (All, Most(50)));

        let planned = serde_json::json!({"event": "final_planned", "finalists": 8, "held_out": 0,
            "selection": {"limit": 30, "questions": 30}, "test": {"limit": null, "questions": 90}});
        let mut run = vec![
            record(planned),
            record(serde_json::json!({"event": "phase_started", "phase": "selection"})),
        ];
        assert_eq!(limits(&run, None, None).unwrap(), (Most(30), All));
        assert_eq!(limits(&run, None, Some(Most(7))).unwrap(), (Most(30), Most(7)));

        run.push(record(serde_json::json!({"event": "phase_started", "phase": "test"})));
        assert!(limits(&run, None, Some(Most(7))).is_ok(), "nobody has answered it yet");
        run.push(record(serde_json::json!({"event": "answers", "id": "c0001", "task": "t", "lang": "en", "split": "test",
            "key": "", "answers": [{"q": "1", "out": "", "got": "", "gold": "", "score": 1.0, "finish": "eos", "tokens": 1}]})));
        let refused = limits(&run, None, Some(Most(7))).unwrap_err().to_string();
        assert!(refused.contains("1 answers"), "{refused}");
        assert_eq!(
            limits(&run, None, None).unwrap(),
            (Most(30), All),
            "it goes on as it was"
        );
    }

    #[test]
    fn the_selection_is_over_when_the_winner_is_chosen() {
        let chosen = record(
            serde_json::json!({"event": "selected", "split": "selection", "finalists": [],
            "best": "c0001", "best_parent": "parent-maths"}),
        );
        assert!(limits(std::slice::from_ref(&chosen), Some(Limit::All), None).is_err());
        assert!(limits(&[chosen], None, Some(Limit::All)).is_ok());
    }

    #[test]
    fn a_limit_is_a_number_or_all() {
        assert_eq!(parse("all"), Ok(Limit::All));
        assert_eq!(parse("12"), Ok(Limit::Most(12)));
        assert!(parse("0").is_err() && parse("-3").is_err() && parse("many").is_err());
    }
}
