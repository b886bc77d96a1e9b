//! The findings in words.

use super::{super::print, Findings, settings::Setting};
use crate::event::{
    Phase,
    words::{count, counted, duration, short_duration},
};

/// Columns of the genes' names.
const COLUMNS: usize = 100;

pub fn show(findings: &Findings) {
    models_and_tasks(findings);
    if let Some(merge) = &findings.merge {
        print(format_args!(
            "merge {} tensors: reads {}, writes {}, holds {}",
            merge.tensors,
            size(merge.bytes_read),
            size(merge.bytes_written),
            size(merge.memory_bytes)
        ));
        if merge.spectral_flops > 0 {
            print(format_args!(
                "      singular value decompositions: {:.1} GFLOP, about {} here",
                merge.spectral_flops as f64 / 1e9,
                seconds(merge.spectral_seconds)
            ));
        }
    }
    if let Some(seconds) = findings.merge_seconds {
        print(format_args!(
            "      takes about {seconds:.2} s and the time of the disk"
        ));
    }
    if let Some(sample) = findings.sample.as_ref().filter(|s| s.failed == 0 && s.drawn > 0) {
        print(format_args!(
            "space {} candidates drawn from it: all can be merged",
            sample.drawn
        ));
    }
    if let Some(engine) = &findings.engine {
        print(format_args!("engine {engine} answers"));
    }
    if let Some(probe) = findings.command.as_ref().filter(|probe| probe.problem.is_none()) {
        let scores: Vec<String> = probe
            .scores
            .iter()
            .map(|(name, score)| format!("{name} {score:.4}"))
            .collect();
        match probe.seconds {
            Some(s) => print(format_args!(
                "command scores {} in {}: {}",
                probe.candidate,
                seconds(s),
                scores.join(", ")
            )),
            None => print("command runs, and gave no answer within a minute; how long one takes is not known"),
        }
    }
    machine(findings);
    time(findings);
    for warning in &findings.warnings {
        print(format_args!("warning: {warning}"));
    }
    for problem in &findings.problems {
        print(format_args!("problem: {problem}"));
    }
    if findings.ok {
        print("everything fits");
    }
}

fn models_and_tasks(findings: &Findings) {
    for model in &findings.models {
        print(format_args!(
            "model {:<16} {} tensors, {:.1}M parameters",
            model.name,
            model.tensors,
            model.parameters as f64 / 1e6
        ));
    }
    settings(&findings.settings);
    for task in &findings.tasks {
        let splits: Vec<String> = task.questions.iter().map(|(split, n)| format!("{split} {n}")).collect();
        let asked: Vec<String> = task.asked.iter().map(|(part, n)| format!("{part} {n}")).collect();
        let each = task
            .seconds_per_question
            .map(|s| format!("; about {s:.2} s a question"));
        print(format_args!(
            "task  {} ({}): has {}; asks {}{}{}",
            task.task,
            task.lang,
            splits.join(", "),
            asked.join(", "),
            if task.chat_template {
                ", through each model's chat template"
            } else {
                ""
            },
            each.unwrap_or_default()
        ));
    }
    let mut line = format!("genes {}:", findings.genes.len());
    for gene in &findings.genes {
        if line.len() + 1 + gene.len() > COLUMNS {
            print(&line);
            line = "     ".into();
        }
        line += &format!(" {gene}");
    }
    if !findings.genes.is_empty() {
        print(line);
    }
}

/// What all have in common on one line, and a line for each thing that they have not.
fn settings(settings: &[Setting]) {
    let shared = settings.iter().filter(|setting| setting.is_shared());
    let shared: Vec<String> = shared
        .map(|setting| format!("{} {}", setting.name, setting.child))
        .collect();
    if !shared.is_empty() {
        print(format_args!("all   {}", shared.join("; ")));
    }
    for setting in settings.iter().filter(|setting| !setting.is_shared()) {
        let each: Vec<String> = setting
            .models
            .iter()
            .map(|(model, value)| format!("{model} {value}"))
            .collect();
        print(format_args!(
            "{}: {}; the child {}",
            setting.name,
            each.join(", "),
            setting.child
        ));
    }
}

fn machine(findings: &Findings) {
    if let Some(bytes) = findings.memory_bytes {
        let of = findings
            .memory_available_bytes
            .map(|have| format!(" of {} to be had", size(have)));
        print(format_args!(
            "memory about {} at most{}: weights, keys and values, parents and what is known of them",
            size(bytes),
            of.unwrap_or_default()
        ));
    }
    if let Some(guide) = &findings.guide {
        print(format_args!(
            "      of which the guide has about {}: weights, keys and values",
            size(guide.memory_bytes)
        ));
    }
    if let Some(bytes) = findings.device_memory_bytes {
        print(format_args!(
            "      on the device about {}: weights, keys and values",
            size(bytes)
        ));
    }
    if let (Some(bytes), Some(free)) = (findings.disk_bytes, findings.disk_free_bytes) {
        print(format_args!(
            "disk  about {} for the run; {} are free",
            size(bytes),
            size(free)
        ));
    }
}

fn time(findings: &Findings) {
    let (Some(candidate), Some(search), Some(evals)) =
        (findings.candidate_seconds, findings.search_seconds, findings.evals)
    else {
        return;
    };
    print(format_args!(
        "time  at most about {} a candidate, {} for the search of {}",
        seconds(candidate),
        seconds(search),
        counted(evals as usize, "candidate")
    ));
    if let (Some(each), Some(rounds)) = (findings.learning_seconds, findings.learning_rounds) {
        print(format_args!(
            "      of which {} of learning take at most about {} each",
            counted(rounds, "round"),
            seconds(each)
        ));
    }
    if let Some(guide) = &findings.guide {
        print(format_args!(
            "      of which the guide's advice takes at most about {} after each {}",
            seconds(guide.seconds),
            counted(guide.candidates as usize, "candidate")
        ));
    }
    for part in &findings.finale {
        let (name, who) = match part.phase {
            Phase::Selection if findings.models.is_empty() => ("final", "finalists"),
            Phase::Selection => ("final", "finalists, parents and unsearched merges"),
            Phase::Test => ("     ", "in the test"),
            _ => ("     ", "on the held-out tasks"),
        };
        let asked = match part.questions {
            0 => "once more".into(),
            n => format!("{} each", counted(n, "question")),
        };
        print(format_args!(
            "{name} about {} {who}: {asked}, {}",
            count(part.examinees as u64),
            seconds(part.seconds)
        ));
    }
    if let Some(of_final) = findings.final_seconds {
        print(format_args!(
            "      {} for the final, {} in all",
            seconds(of_final),
            seconds(search + of_final)
        ));
    }
}

fn seconds(seconds: f64) -> String {
    let ms = (seconds.max(0.0) * 1000.0) as u64;
    if ms < 10_000 { short_duration(ms) } else { duration(ms) }
}

/// `612.4 MB`, `3.7 GB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
