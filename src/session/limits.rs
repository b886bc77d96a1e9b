//! How many questions the final of a run asks, and changing that while it is honest: before the sealed test has answered.
//!
//! A run's `space.yaml` stays as it was read. What its final asks is in the journal (`final_planned`), where the last word
//! counts.

use super::Error;
use crate::{
    event::{Event, FinalPlan, Phase, Record},
    space::{Limit, Space},
};

/// What a journal says of its run's final: told each record as it is read, so that nobody reads it for this alone.
#[derive(Debug, Default)]
pub struct Limits {
    planned: Option<FinalPlan>,
    is_chosen: bool,
    is_read: bool,
    is_test: bool,
    /// To the sealed test, and to what is asked after it.
    test_answers: usize,
}

impl Limits {
    pub fn see(&mut self, record: &Record) {
        match &record.event {
            Event::FinalPlanned(plan) => self.planned = Some(*plan),
            Event::Selected(_) => self.is_chosen = true,
            Event::TestRead(_) | Event::RunDone { .. } => self.is_read = true,
            Event::PhaseStarted { phase: Phase::Test } => self.is_test = true,
            Event::Answers(answers) if self.is_test => self.test_answers += answers.answers.len(),
            _ => {}
        }
    }

    /// Gives a space the limits that its run has come to, and those that are wished for now.
    ///
    /// # Errors
    /// The questions have been answered already.
    pub fn apply(&self, space: &mut Space, selection: Option<Limit>, test: Option<Limit>) -> Result<(), Error> {
        if let Some(planned) = self.planned {
            space.finale.selection.limit = Some(planned.selection.limit.into());
            space.finale.test.limit = Some(planned.test.limit.into());
        }
        if selection.is_none() && test.is_none() {
            return Ok(());
        }
        if space.fitness.command.is_some() {
            return Err(Error::LimitsOfACommand);
        }
        if self.test_answers > 0 || self.is_read {
            return Err(Error::TestAnswered {
                answers: self.test_answers,
            });
        }
        if selection.is_some() && self.is_chosen {
            return Err(Error::WinnerChosen);
        }
        if let Some(limit) = selection {
            space.finale.selection.limit = Some(limit);
        }
        if let Some(limit) = test {
            space.finale.test.limit = Some(limit);
        }
        Ok(())
    }
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

    fn limits(records: &[Record], selection: Option<Limit>, test: Option<Limit>) -> Result<(Limit, Limit), Error> {
        let (mut space, mut limits) = (space(), Limits::default());
        records.iter().for_each(|record| limits.see(record));
        limits.apply(&mut space, selection, test)?;
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
}
