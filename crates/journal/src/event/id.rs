//! What a candidate's id says: a string on the disk and in every view, one of a few kinds wherever somebody acts on it.
//!
//! Models have any name, also `parent-x` and `mean`; a parent's id is its model's name behind one `parent-`, so only the
//! first prefix is the id's own, and what follows must be a model of the run.

use std::{fmt, str::FromStr};

use super::Model;

/// How the id of a model of the run begins.
const PARENT: &str = "parent-";
/// What the centre of an optimizer's distribution is called, alone or with what follows a hyphen.
const MEAN: &str = "mean";
const SOUP: &str = "soup-";
const LEARNED: &str = "learned-";

/// A candidate's name by its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CandidateId {
    /// `parent-NAME`: a model as it is, by its short name.
    Parent(String),
    /// `linear`, `ties`: a merge that nobody searched for, by its kind.
    Unsearched(String),
    /// `r0001`: a draw without an optimizer.
    Draw(u64),
    /// `c0001`: what an optimizer asked for.
    Search(u64),
    /// `mean`, `mean-STAGE`, `mean-2`, `mean-STAGE-2`: the centre of an optimizer's distribution, of a stage if more
    /// follow it, and of one restart if it was not the last.
    Mean {
        /// As in [`StageStarted::stage`](super::StageStarted::stage), where more stages follow.
        stage: Option<String>,
        /// From 1; `None` of the last one.
        restart: Option<usize>,
    },
    /// `soup-1`: the merge of the first few experts that help.
    Soup(u64),
    /// `learned-1`: found by gradients.
    Learned(u64),
}

/// An id that says nothing in this run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum IdError {
    /// Nothing was written.
    #[error("'' is no candidate's id")]
    Empty,
    /// A parent that is none of the run's.
    #[error("{id} would be the model '{model}', which this run does not have")]
    UnknownModel { id: String, model: String },
}

impl CandidateId {
    /// An id of a run with these models.
    ///
    /// # Errors
    /// The id of a parent whose model is none of them.
    pub fn resolve<'a>(id: &str, models: impl IntoIterator<Item = &'a str>) -> Result<Self, IdError> {
        match id.parse()? {
            Self::Parent(model) if !models.into_iter().any(|known| known == model) => {
                Err(IdError::UnknownModel { id: id.into(), model })
            }
            known => Ok(known),
        }
    }

    /// [`CandidateId::resolve`] in a run as it was begun.
    ///
    /// # Errors
    /// As there.
    pub fn of_run(id: &str, models: &[Model]) -> Result<Self, IdError> {
        Self::resolve(id, models.iter().map(|m| m.name.as_str()))
    }

    /// The short name of the model that this is, if it is one.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Parent(model) => Some(model),
            _ => None,
        }
    }
}

impl fmt::Display for CandidateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent(model) => write!(f, "{PARENT}{model}"),
            Self::Unsearched(kind) => f.write_str(kind),
            Self::Draw(n) => write!(f, "r{n:04}"),
            Self::Search(n) => write!(f, "c{n:04}"),
            Self::Mean { stage, restart } => {
                f.write_str(MEAN)?;
                if let Some(stage) = stage {
                    write!(f, "-{stage}")?;
                }
                restart.map_or(Ok(()), |n| write!(f, "-{n}"))
            }
            Self::Soup(n) => write!(f, "{SOUP}{n}"),
            Self::Learned(n) => write!(f, "{LEARNED}{n}"),
        }
    }
}

impl FromStr for CandidateId {
    type Err = IdError;

    /// By its shape alone; [`CandidateId::resolve`] also looks whether there is such a model.
    fn from_str(id: &str) -> Result<Self, IdError> {
        if id.is_empty() {
            return Err(IdError::Empty);
        }
        if let Some(model) = id.strip_prefix(PARENT) {
            return Ok(Self::Parent(model.into()));
        }
        let numbered = |prefix: &str| id.strip_prefix(prefix).and_then(number);
        if let Some(n) = numbered("r") {
            return Ok(Self::Draw(n));
        }
        if let Some(n) = numbered("c") {
            return Ok(Self::Search(n));
        }
        if let Some(n) = numbered(SOUP) {
            return Ok(Self::Soup(n));
        }
        if let Some(n) = numbered(LEARNED) {
            return Ok(Self::Learned(n));
        }
        Ok(mean(id).unwrap_or_else(|| Self::Unsearched(id.into())))
    }
}

/// Digits and nothing else.
fn number<N: FromStr>(text: &str) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn mean(id: &str) -> Option<CandidateId> {
    let of = |stage: Option<&str>, restart| CandidateId::Mean {
        stage: stage.map(String::from),
        restart,
    };
    let Some(rest) = id.strip_prefix(MEAN)?.strip_prefix('-') else {
        return (id == MEAN).then(|| of(None, None));
    };
    if let Some(n) = number(rest) {
        return Some(of(None, Some(n)));
    }
    Some(match rest.rsplit_once('-') {
        Some((stage, n)) if number::<usize>(n).is_some() => of(Some(stage), number(n)),
        _ => of(Some(rest), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_reads_back_as_it_was_written() {
        for id in [
            "parent-maths",
            "linear",
            "dare_ties",
            "r0001",
            "c0012",
            "c12345",
            "mean",
            "mean-2",
            "mean-parameter_space",
            "mean-parameter_space-3",
            "soup-2",
            "learned-1",
        ] {
            let read: CandidateId = id.parse().unwrap();
            assert_eq!(read.to_string(), id);
            let is_plain = matches!(read, CandidateId::Unsearched(_));
            assert_eq!(is_plain, ["linear", "dare_ties"].contains(&id), "{id}: {read:?}");
        }
        assert_eq!("".parse::<CandidateId>(), Err(IdError::Empty));
    }

    /// A model named `parent-maths` became the model `maths` in the final, or none: all prefixes were taken off.
    #[test]
    fn a_models_name_may_begin_like_an_id() {
        for name in ["maths", "parent-maths", "parent-parent-", "mean", "c0001", "linear", ""] {
            let id = CandidateId::Parent(name.into()).to_string();
            let models = ["maths", name];
            assert_eq!(CandidateId::resolve(&id, models).unwrap().model(), Some(name));
        }
        let unknown = CandidateId::resolve("parent-parent-maths", ["maths"]).unwrap_err();
        assert!(unknown.to_string().contains("'parent-maths'"), "{unknown}");
    }
}
