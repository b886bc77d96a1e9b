//! What a model thinks before it answers: told apart from the answer, never judged, and of a bounded length if wanted.
//!
//! A thought stands between two marks, such as `<think>` and `</think>`. A thought that does not close is no answer.

use std::sync::Arc;

use heterosis_engine::engine::StopWhen;
use heterosis_yaml::{self as yaml, Node};

/// How thoughts are marked, and how long one may be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Think {
    /// What a thought begins with: `<think>`.
    pub open: String,
    /// What it ends with: `</think>`.
    pub close: String,
    /// The most tokens of a thought; then it is closed for the model, which goes on with its answer (budget forcing,
    /// Muennighoff et al. 2025, arXiv 2501.19393).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
}

impl Default for Think {
    fn default() -> Self {
        Think {
            open: "<think>".into(),
            close: "</think>".into(),
            budget: None,
        }
    }
}

impl Think {
    /// `true`, `false`, or `{open, close, budget}`.
    ///
    /// # Errors
    /// Marks that are empty, a budget of 0.
    pub fn read(node: &Node) -> Result<Option<Self>, yaml::Error> {
        if let Ok(on) = node.bool() {
            return Ok(on.then(Self::default));
        }
        let map = node.map()?;
        let default = Self::default();
        let mark = |key: &str, otherwise: &str| match map.optional(key) {
            None => Ok(otherwise.to_string()),
            Some(node) => match node.text()? {
                empty if empty.trim().is_empty() => Err(node.error("a mark of nothing marks nothing")),
                mark => Ok(mark),
            },
        };
        let think = Think {
            open: mark("open", &default.open)?,
            close: mark("close", &default.close)?,
            budget: match map.optional("budget") {
                Some(node) => match node.usize()? {
                    0 => return Err(node.error("a budget of 0 tokens leaves no thought; write 1 or more")),
                    n => Some(n),
                },
                None => None,
            },
        };
        map.finish()?;
        Ok(Some(think))
    }

    /// What is said after the thought that a text opens with; none if the thought does not end.
    pub fn spoken<'t>(&self, output: &'t str) -> Option<&'t str> {
        match output.trim_start().strip_prefix(self.open.as_str()) {
            Some(thought) => thought.split_once(self.close.as_str()).map(|(_, spoken)| spoken),
            None => Some(output),
        }
    }

    /// An output as it is kept: with the mark that the prompt ends in, so that whoever judges it later knows that it is a
    /// thought.
    pub fn with_opening(&self, prompt: &str, output: String) -> String {
        match prompt.trim_end().ends_with(&self.open) && !output.trim_start().starts_with(&self.open) {
            true => format!("{}{output}", self.open),
            false => output,
        }
    }

    /// Ends generation at a stop, or where the answer stands, of what is said: a thought may hold anything.
    pub fn stop_when(&self, prompt_opens: bool, stops: Arc<[String]>, answered: Option<StopWhen>) -> StopWhen {
        let think = self.clone();
        Arc::new(move |text| {
            let kept = match prompt_opens {
                true => think.with_opening(&think.open, text.into()),
                false => text.into(),
            };
            // Before a word is said it is not known whether there will be a thought.
            if think.open.starts_with(kept.trim_start()) {
                return false;
            }
            let Some(spoken) = think.spoken(&kept) else {
                return false;
            };
            let stopped = stops
                .iter()
                .any(|stop| !stop.is_empty() && spoken.contains(stop.as_str()));
            stopped || answered.as_ref().is_some_and(|answered| answered(spoken))
        })
    }

    /// Ends generation where the thought does.
    pub fn until_closed(&self) -> StopWhen {
        let close = self.close.clone();
        Arc::new(move |text| text.contains(&close))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thought_is_not_judged_and_one_that_does_not_close_is_no_answer() {
        let think = Think::default();
        assert_eq!(think.spoken("<think>maybe 7</think>It is 12"), Some("It is 12"));
        assert_eq!(think.spoken("  <think>maybe 7"), None);
        assert_eq!(think.spoken("It is 12"), Some("It is 12"));
        assert_eq!(think.with_opening("x\n<think>\n", "so".into()), "<think>so");
        assert_eq!(think.with_opening("x\n<think>\n", "<think>so".into()), "<think>so");
        assert_eq!(think.with_opening("x", "so".into()), "so");
    }

    #[test]
    fn stops_count_after_the_thought() {
        let stops: Arc<[String]> = ["\n\n".to_string()].into();
        let stop = Think::default().stop_when(false, stops.clone(), None);
        assert!(!stop("<think>a\n\nb"));
        assert!(!stop("\n\n"), "a thought may follow");
        assert!(!stop("<think>a</think>b"));
        assert!(stop("<think>a</think>b\n\n"));
        assert!(stop("b\n\n"));
        let opened = Think::default().stop_when(true, stops, None);
        assert!(!opened("a\n\nb"));
        assert!(opened("a\n\nb</think>c\n\n"));
    }
}
