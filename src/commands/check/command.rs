//! The user's own program, started once and asked for one candidate.

use std::{io, path::Path};

use serde::Serialize;
use tempfile::TempDir;

use super::super::environment;
use crate::{
    eval::Split,
    search::{Evaluator, Exam, Questions, Sitting, Subject, names_fit},
    session::Session,
    space::{Command, Limit},
};

/// Seconds that the probe waits for; evaluations of real models may well take longer.
const PATIENCE: f64 = 60.0;

/// What came of it.
#[derive(Serialize)]
pub struct Probe {
    /// Who was asked for.
    pub candidate: String,
    pub scores: Vec<(String, f64)>,
    /// Until its answer; none came in time where this is absent.
    pub seconds: Option<f64>,
    /// What was in memory before a model stood there for it to ask, and what came to it then; `None` where none does.
    #[serde(skip)]
    pub served_bytes: Option<(u64, u64)>,
    pub problem: Option<String>,
}

pub fn probe(command: &Command, session: &Session, beside: Option<&Path>) -> Probe {
    let mut probe = Probe {
        candidate: session
            .space()
            .models
            .first()
            .map_or("probe".into(), |(name, _)| format!("parent-{name}")),
        scores: Vec::new(),
        seconds: None,
        served_bytes: None,
        problem: None,
    };
    let dir = match scratch(beside) {
        Ok(dir) => dir,
        Err(e) => {
            probe.problem = Some(format!("no folder for a probe: {e}"));
            return probe;
        }
    };
    let mut settings = command.clone();
    (settings.timeout, settings.workers) = (command.timeout.min(PATIENCE), 1);
    let waited = settings.timeout;
    let mut external = session.external(&settings, dir.path());
    let genes = session.genome().genes();
    let middle: Vec<f64> = genes.iter().map(|gene| gene.kind.middle()).collect();
    let model = session.space().models.first().map(|(name, _)| name.as_str());
    let exam = match asked(command, session) {
        Ok(exam) => exam,
        Err(e) => {
            probe.problem = Some(e.to_string());
            return probe;
        }
    };
    let sitting = Sitting {
        id: &probe.candidate.clone(),
        subject: model.map_or(Subject::Genes, Subject::Model),
        genotype: if model.is_some() { &[] } else { &middle },
        genes: if model.is_some() { &[] } else { genes },
        exam: &exam,
    };
    let (resident, clock) = (environment::resident_bytes(), environment::stopwatch());
    match external.evaluate(&sitting, &mut |_| ()) {
        Ok(evaluation) => {
            probe.problem = misnamed(&evaluation.scores, session);
            probe.scores = match exam.tasks.is_empty() {
                true => evaluation.scores,
                false => exam
                    .score(&evaluation.answers)
                    .1
                    .into_iter()
                    .map(|t| (t.task, t.score.value))
                    .collect(),
            };
            probe.seconds = Some(clock().as_secs_f64());
            let memory = resident.zip(environment::peak_bytes()).filter(|_| command.serve);
            probe.served_bytes = memory.map(|(before, peak)| (before, peak.saturating_sub(before)));
        }
        // Patience of its own is the space's affair; that it started and lives is all that can be told in a minute.
        Err(_) if waited < command.timeout && clock().as_secs_f64() >= waited => {}
        Err(unscored) => {
            let reason = unscored.to_string();
            // The folder is gone when this is read.
            let reason = reason.split("; its messages are in").next().unwrap_or_default();
            probe.problem = Some(format!("the command does not score {}: {reason}", probe.candidate));
        }
    }
    probe
}

/// A folder that is gone when this is over: beside the search space, where there is room for models as a rule.
pub fn scratch(beside: Option<&Path>) -> io::Result<TempDir> {
    let beside = beside.filter(|dir| dir.is_dir()).unwrap_or(Path::new("."));
    tempfile::tempdir_in(beside).or_else(|_| tempfile::tempdir())
}

/// What the search would say of the names of a candidate's scores.
fn misnamed(scores: &[(String, f64)], session: &Session) -> Option<String> {
    let weights = &session.space().fitness.weights;
    let declared: Vec<String> = weights.iter().map(|(name, _)| name.clone()).collect();
    let are_named = !scores.is_empty() && !declared.is_empty();
    let problem = names_fit(scores, &declared).err().filter(|_| are_named)?;
    Some(format!(
        "{problem} (fitness.weights declares them): every candidate would fail"
    ))
}

/// The first question of each task, of a command that names its questions.
fn asked(command: &Command, session: &Session) -> Result<Exam, crate::search::Error> {
    let split = Split::Search.name();
    match &command.questions {
        Some(file) => Questions::read(Path::new(file), &session.space().fitness)?.exam(split, Limit::Most(1)),
        None => Ok(Exam {
            split: split.into(),
            tasks: Vec::new(),
        }),
    }
}
