//! What has been said of failures: a program that broke down breaks down over everybody, and its reason is told in full once,
//! with a count.

use crate::event::words::WHOSE_FAULT;
use crate::event::{Event, Level, Record};

/// Reasons that are kept in mind; whoever fails for more of them fails for something new each time.
const KEPT: usize = 64;

/// The reasons that were told, the latest last.
#[derive(Clone, Debug, Default)]
pub struct Reasons(Vec<Reason>);

/// A reason, and whom it was told of.
#[derive(Clone, Debug)]
pub struct Reason {
    pub text: String,
    /// Ids, each once.
    ids: Vec<String>,
}

impl Reason {
    pub fn first(&self) -> &str {
        self.ids.first().map_or("", String::as_str)
    }

    /// How many it was told of.
    pub fn count(&self) -> usize {
        self.ids.len()
    }
}

/// Who failed and why, if a record says that.
fn failure(record: &Record) -> Option<(&str, &str)> {
    match &record.event {
        Event::CandidateFailed { id, reason, .. } => Some((id, reason)),
        Event::Log {
            level: Level::Warning,
            message,
        } => message
            .strip_suffix(WHOSE_FAULT)?
            .trim_end_matches("; ")
            .split_once(": "),
        _ => None,
    }
}

impl Reasons {
    /// Takes a record in; gives the reason that it tells, if it was told before.
    pub fn again(&mut self, record: &Record) -> Option<&Reason> {
        let (id, text) = failure(record)?;
        if let Some(at) = self.0.iter().position(|known| known.text == text) {
            let mut known = self.0.remove(at);
            if !known.ids.iter().any(|known| known == id) {
                known.ids.push(id.into());
            }
            self.0.push(known);
            return self.0.last();
        }
        if self.0.len() >= KEPT {
            self.0.remove(0);
        }
        self.0.push(Reason {
            text: text.into(),
            ids: vec![id.into()],
        });
        None
    }

    /// The reason that a text says once more; the longest of several.
    pub fn within(&self, text: &str) -> Option<&Reason> {
        let said = self.0.iter().filter(|known| text.contains(&known.text));
        said.max_by_key(|known| known.text.len())
    }
}

/// Who it is about and what became of them, with the reason by its first telling: `c0004 failed as c0003 did (2 by now)`.
pub fn in_short(record: &Record, reason: &Reason) -> Option<String> {
    let (id, _) = failure(record)?;
    let failed = matches!(record.event, Event::CandidateFailed { .. });
    Some(match (failed, id == reason.first()) {
        (true, true) => format!("{id} failed, for the reason told above"),
        (true, false) => format!("{id} failed as {} did ({} by now)", reason.first(), reason.count()),
        (false, _) => format!("{id}: as {} ({} by now); {WHOSE_FAULT}", reason.first(), reason.count()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Origin, rehearsal};

    fn failed(id: &str, reason: &str) -> Record {
        Record {
            event: Event::CandidateFailed {
                id: id.into(),
                origin: Origin::Search,
                generation: None,
                recipe_digest: String::new(),
                reason: reason.into(),
            },
            ..rehearsal::night()[0].clone()
        }
    }

    fn noted(id: &str, reason: &str) -> Record {
        Record {
            event: Event::Log {
                level: Level::Warning,
                message: format!("{id}: {reason}; {WHOSE_FAULT}"),
            },
            ..rehearsal::night()[0].clone()
        }
    }

    #[test]
    fn a_reason_is_known_whoever_it_is_told_of() {
        let mut reasons = Reasons::default();
        assert!(reasons.again(&noted("c1", "no module: x")).is_none());
        let again = |reasons: &mut Reasons, record: &Record| {
            let reason = reasons.again(record).cloned();
            reason.and_then(|reason| in_short(record, &reason))
        };
        assert_eq!(
            again(&mut reasons, &failed("c1", "no module: x")).as_deref(),
            Some("c1 failed, for the reason told above")
        );
        assert_eq!(
            again(&mut reasons, &failed("c2", "no module: x")).as_deref(),
            Some("c2 failed as c1 did (2 by now)")
        );
        assert_eq!(
            again(&mut reasons, &noted("c2", "no module: x")),
            Some(format!("c2: as c1 (2 by now); {WHOSE_FAULT}"))
        );
        assert_eq!(again(&mut reasons, &failed("c3", "another")), None);
        let within = |text: &str| reasons.within(text).map(|r| r.text.clone());
        assert_eq!(
            within("all failed: no module: x. Mend it").as_deref(),
            Some("no module: x")
        );
        assert_eq!(within("all is well"), None);
    }
}
