//! `heterosis compare`: runs side by side, and their winners question by question where they sat the same exam.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    Outcome, print, print_json,
    status::{self, Status},
};
use crate::{
    cli::CompareArgs,
    eval::stats,
    event::{
        Origin,
        run::Run,
        words::{Unit, count, duration, p_value, parent_name, task_name},
    },
};

#[derive(Serialize)]
struct Comparison {
    /// All runs were bred on the same tasks and questions, so their search scores can be compared.
    same_tasks: bool,
    runs: Vec<Column>,
    /// The winners of the other runs against the first one's, on the test questions that both answered.
    winners: Vec<Against>,
}

#[derive(Serialize)]
struct Column {
    #[serde(flatten)]
    status: Status,
    optimizer: String,
    seed: u64,
    genes: usize,
    generated_tokens: u64,
    #[serde(skip)]
    unit: Unit,
    /// Label and cell of each line of the table, by section.
    #[serde(skip)]
    cells: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Against {
    run: String,
    /// This run's winner − the first run's.
    difference: f64,
    stderr: f64,
    p_value: f64,
    n: usize,
}

pub fn compare(args: CompareArgs) -> Outcome {
    let mut opened = Vec::new();
    for path in &args.runs {
        opened.push(status::open(path)?);
    }
    let digests = |run: &Run| -> Vec<(String, usize)> {
        let tasks = run.started.iter().flat_map(|s| &s.tasks);
        tasks.map(|t| (t.digest.clone(), t.n)).collect()
    };
    let first = &opened[0].1;
    let comparison = Comparison {
        same_tasks: opened.iter().all(|(_, run)| digests(run) == digests(first)),
        winners: opened[1..]
            .iter()
            .filter_map(|(dir, run)| against(dir.path().display().to_string(), run, first))
            .collect(),
        runs: opened
            .iter()
            .map(|(dir, run)| column(Status::of(dir, run), run))
            .collect(),
    };
    match args.json {
        true => print_json(&comparison),
        false => tell(&comparison),
    }
    Ok(())
}

fn column(status: Status, run: &Run) -> Column {
    let started = run.started.as_ref();
    let mut column = Column {
        optimizer: started.map(|s| s.optimizer.clone()).unwrap_or_default(),
        seed: started.map_or(0, |s| s.seed),
        genes: started.map_or(0, |s| s.genes.len()),
        generated_tokens: run.generated_tokens,
        unit: run.unit(),
        status,
        cells: Vec::new(),
    };
    column.cells = cells(&column, run);
    column
}

fn cells(column: &Column, run: &Run) -> Vec<(String, String)> {
    let (status, unit) = (&column.status, column.unit);
    let mut cells: Vec<(String, String)> = Vec::new();
    let mut add = |label: &str, cell: String| cells.push((label.to_string(), cell));
    add("state", status.state.into());
    add("optimizer", format!("{}, seed {}", column.optimizer, column.seed));
    add("genes", count(column.genes as u64));
    add("evaluations", count(status.evals));
    add("answers", count(status.answers));
    add("time", duration(status.elapsed_ms));
    if !status.changes.is_empty() {
        add("changed since it began", "its scores do not compare".into());
    }
    for parent in run.of_origin(Origin::Parent) {
        add(
            &format!("parent {}", parent_name(&parent.id)),
            unit.with_error(parent.fitness, parent.stderr),
        );
    }
    for baseline in run.of_origin(Origin::Baseline) {
        add(&baseline.id, unit.with_error(baseline.fitness, baseline.stderr));
    }
    if let Some(best) = &status.best {
        add("best", best.id.clone());
        add("  search questions", unit.with_error(best.fitness, best.stderr));
        for task in &best.tasks {
            let unit = run.task_unit(&task.task, &task.lang);
            add(
                &format!("  {}", task_name(&task.task, &task.lang)),
                unit.score(&task.score),
            );
        }
        for task in &status.normalized {
            if let Some(ratio) = task.of_expert {
                add(
                    &format!("  {} ÷ best expert", task_name(&task.task, &task.lang)),
                    ratio.to_string(),
                );
            }
        }
    }
    if let Some(held_out) = &status.held_out {
        add("test, best", unit.score(&held_out.best.score));
        let parent = &held_out.best_parent;
        add(
            "  best parent",
            format!("{} {}", parent_name(&parent.id), unit.score(&parent.score)),
        );
        add(
            "  lead",
            format!("{}, {}", unit.signed(held_out.difference), p_value(held_out.p_value)),
        );
        if let Some(merge) = &held_out.best_unsearched {
            add(
                "  best unsearched merge",
                format!("{} {}", merge.other.id, unit.score(&merge.other.score)),
            );
            add(
                "  lead over it",
                format!("{}, {} (Holm)", unit.signed(merge.difference), p_value(merge.p_holm)),
            );
        }
    }
    cells
}

/// Question by question, where the journals hold both winners' answers to the same test questions.
fn against(name: String, run: &Run, first: &Run) -> Option<Against> {
    let (mine, theirs) = (test_scores(run)?, test_scores(first)?);
    let mut pairs: Vec<(&str, f64, f64)> = mine
        .iter()
        .filter_map(|(q, score)| Some((q.as_str(), *theirs.get(q)?, *score)))
        .collect();
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    if pairs.len() < 2 {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().map(|p| (p.1, p.2)).unzip();
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    Some(Against {
        run: name,
        difference: stats::mean(&differences),
        stderr: stats::standard_error(&differences),
        p_value: stats::sign_flip_p(&a, &b, 20_000, 0),
        n: pairs.len(),
    })
}

/// The winner's score on each question of the test split, by task and question.
fn test_scores(run: &Run) -> Option<HashMap<String, f64>> {
    let reading = run.reading.as_ref()?;
    let answers = run
        .answers_of(&reading.best.id)
        .iter()
        .filter(|a| a.split == reading.split);
    let scores = answers.flat_map(|a| {
        let of_task = move |q: &str| format!("{} {} {q}", task_name(&a.task, &a.lang), a.lang);
        a.answers.iter().map(move |x| (of_task(&x.q), x.score))
    });
    Some(scores.collect())
}

fn tell(comparison: &Comparison) {
    let mut labels: Vec<&str> = Vec::new();
    for (label, _) in comparison.runs.iter().flat_map(|r| &r.cells) {
        if !labels.contains(&label.as_str()) {
            // A line that the first run lacks stands where the other run has it.
            labels.push(label);
        }
    }
    let chars = |text: &str| text.chars().count();
    let label_width = labels.iter().map(|l| chars(l)).max().unwrap_or(0);
    let widths: Vec<usize> = comparison
        .runs
        .iter()
        .map(|r| {
            r.cells
                .iter()
                .map(|c| chars(&c.1))
                .max()
                .unwrap_or(0)
                .max(chars(&r.status.run))
        })
        .collect();
    let line = |label: &str, cells: &mut dyn Iterator<Item = &str>| {
        let mut line = format!("{label:<label_width$}");
        for (cell, width) in cells.zip(&widths) {
            line += &format!("  {cell:<width$}");
        }
        print(line.trim_end());
    };
    line("", &mut comparison.runs.iter().map(|r| r.status.run.as_str()));
    for label in labels {
        let cell = |r: &'_ Column| r.cells.iter().position(|c| c.0 == label);
        line(
            label,
            &mut comparison
                .runs
                .iter()
                .map(|r| cell(r).map_or("–", |i| r.cells[i].1.as_str())),
        );
    }
    if !comparison.same_tasks {
        print("\nThe runs were not bred on the same questions: their search scores cannot be compared.");
    }
    let unit = comparison.runs[0].unit;
    for against in &comparison.winners {
        print(format_args!(
            "\nOn {} test questions that both answered, the winner of {} stands at {} ± {} against the winner of {} ({}).",
            count(against.n as u64),
            against.run,
            unit.signed(against.difference),
            unit.value(against.stderr),
            comparison.runs[0].status.run,
            p_value(against.p_value)
        ));
    }
}
