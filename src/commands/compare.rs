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
        Origin, StageStarted,
        run::Run,
        words::{Unit, count, duration, p_value, parent_name, task_name},
    },
    store::RunDir,
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
    /// Of the first stage, as is the optimizer.
    genes: usize,
    stages: Vec<Stage>,
    generated_tokens: u64,
    #[serde(skip)]
    unit: Unit,
    #[serde(skip)]
    cells: Vec<Cell>,
}

/// One search of a run: a hybrid has two, one that widens up to three.
#[derive(Serialize)]
struct Stage {
    stage: String,
    optimizer: String,
    genes: usize,
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
    let comparison = compared(&opened);
    match args.json {
        true => print_json(&comparison),
        false => tell(&comparison),
    }
    Ok(())
}

/// The runs beside the first of them.
fn compared(opened: &[(RunDir, Run)]) -> Comparison {
    let digests = |run: &Run| -> Vec<(String, usize)> {
        let tasks = run.started.iter().flat_map(|s| &s.tasks);
        tasks.map(|t| (t.digest.clone(), t.n)).collect()
    };
    let first = &opened[0].1;
    Comparison {
        same_tasks: opened.iter().all(|(_, run)| digests(run) == digests(first)),
        winners: opened[1..]
            .iter()
            .filter_map(|(dir, run)| against(dir.path().display().to_string(), run, first))
            .collect(),
        runs: opened
            .iter()
            .map(|(dir, run)| column(Status::of(dir, run), run))
            .collect(),
    }
}

fn stage(started: &StageStarted) -> Stage {
    Stage {
        stage: started.stage.clone(),
        optimizer: started.optimizer.clone(),
        genes: started.genes.len(),
    }
}

fn column(status: Status, run: &Run) -> Column {
    let started = run.started.as_ref();
    let mut column = Column {
        optimizer: started.map(|s| s.optimizer.clone()).unwrap_or_default(),
        seed: started.map_or(0, |s| s.seed),
        genes: started.map_or(0, |s| s.genes.len()),
        stages: run.stages.iter().map(stage).collect(),
        generated_tokens: run.generated_tokens,
        unit: run.unit(),
        status,
        cells: Vec::new(),
    };
    column.cells = cells(&column, run);
    column
}

/// What a line of the table is about; lines of one part stand together, also where a run lacks some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Run,
    /// By the search's own questions, or a command's first scores.
    Search,
    Test,
    HeldOut,
}

impl Section {
    fn heading(self) -> Option<&'static str> {
        match self {
            Self::Run => None,
            Self::Search => Some("in the search"),
            Self::Test => Some("in the test"),
            Self::HeldOut => Some("on held-out tasks"),
        }
    }
}

/// One line of a run's column.
struct Cell {
    section: Section,
    label: String,
    text: String,
}

fn cells(column: &Column, run: &Run) -> Vec<Cell> {
    let (status, unit) = (&column.status, column.unit);
    let mut cells: Vec<Cell> = Vec::new();
    let mut add = |section, label: &str, text: String| {
        cells.push(Cell {
            section,
            label: label.to_string(),
            text,
        });
    };
    add(Section::Run, "state", status.state.into());
    add(Section::Run, "optimizer", optimizers(column));
    add(Section::Run, "seed", column.seed.to_string());
    add(Section::Run, "genes", genes(column));
    add(Section::Run, "evaluations", count(status.evals));
    add(Section::Run, "answers", count(status.answers));
    add(Section::Run, "time", duration(status.elapsed_ms));
    if !status.changes.is_empty() {
        add(
            Section::Run,
            "changed since it began",
            "its scores do not compare".into(),
        );
    }
    if let Some(best) = &status.best {
        add(Section::Run, "best", best.id.clone());
    }
    for parent in run.of_origin(Origin::Parent) {
        let label = format!("parent {}", parent_name(&parent.id));
        add(Section::Search, &label, unit.with_error(parent.fitness, parent.stderr));
    }
    for baseline in run.of_origin(Origin::Baseline) {
        add(
            Section::Search,
            &baseline.id,
            unit.with_error(baseline.fitness, baseline.stderr),
        );
    }
    if let Some(best) = &status.best {
        add(Section::Search, "best", unit.with_error(best.fitness, best.stderr));
        for task in &best.tasks {
            let unit = run.task_unit(&task.task, &task.lang);
            let label = format!("  {}", task_name(&task.task, &task.lang));
            add(Section::Search, &label, unit.score(&task.score));
        }
    }
    if let Some(held_out) = &status.held_out {
        add(Section::Test, "best", unit.score(&held_out.best.score));
        for task in &held_out.best.tasks {
            let unit = run.task_unit(&task.task, &task.lang);
            let label = format!("  {}", task_name(&task.task, &task.lang));
            add(Section::Test, &label, unit.score(&task.score));
        }
        let parent = &held_out.best_parent;
        let named = format!("{} {}", parent_name(&parent.id), unit.score(&parent.score));
        add(Section::Test, "best parent", named);
        let lead = format!("{}, {}", unit.signed(held_out.difference), p_value(held_out.p_value));
        add(Section::Test, "  lead over the parent", lead);
        if let Some(merge) = &held_out.best_unsearched {
            let named = format!("{} {}", merge.other.id, unit.score(&merge.other.score));
            add(Section::Test, "best unsearched merge", named);
            let lead = format!("{}, {} (Holm)", unit.signed(merge.difference), p_value(merge.p_holm));
            add(Section::Test, "  lead over the merge", lead);
        }
    }
    // The status has them on the test's questions if those were read.
    let section = match status.held_out {
        Some(_) => Section::Test,
        None => Section::Search,
    };
    for task in &status.normalized {
        if let Some(ratio) = task.of_expert {
            let label = format!("{} ÷ best expert", task_name(&task.task, &task.lang));
            add(section, &label, ratio.to_string());
        }
    }
    let best = status.best.as_ref().map(|best| best.id.as_str());
    for task in status.held_out_tasks.iter().filter(|task| Some(&*task.id) == best) {
        let of = &task.score;
        let unit = run.task_unit(&of.task, &of.lang);
        add(Section::HeldOut, &task_name(&of.task, &of.lang), unit.score(&of.score));
    }
    cells
}

/// Of each stage, one after another: `cma-es, then cma-es-margin`.
fn optimizers(column: &Column) -> String {
    let mut names: Vec<&str> = column.stages.iter().map(|stage| stage.optimizer.as_str()).collect();
    names.dedup();
    match names.is_empty() {
        true => column.optimizer.clone(),
        false => names.join(", then "),
    }
}

fn genes(column: &Column) -> String {
    match column.stages.as_slice() {
        [] => count(column.genes as u64),
        stages => {
            let numbers: Vec<String> = stages.iter().map(|stage| count(stage.genes as u64)).collect();
            numbers.join(", then ")
        }
    }
}

/// Question by question, where the journals hold both winners' answers to the same test questions.
fn against(name: String, run: &Run, first: &Run) -> Option<Against> {
    let (mine, theirs) = (test_scores(run)?, test_scores(first)?);
    let mut pairs: Vec<(&Asked, f64, f64)> = mine
        .iter()
        .filter_map(|(asked, score)| Some((asked, *theirs.get(asked)?, *score)))
        .filter(|(asked, _, _)| is_same(asked, run, first))
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

/// Where a question stands: task, language, split, id.
type Asked = (String, String, String, String);

/// Two files may call two questions by one name: the task has to be the same, or the words.
fn is_same((task, lang, split, id): &Asked, run: &Run, other: &Run) -> bool {
    let digest = |run: &'_ Run| {
        let mut tasks = run.started.iter().flat_map(|s| &s.tasks);
        let asked = tasks.find(|t| t.task == *task && t.lang == *lang);
        asked.map(|t| t.digest.clone())
    };
    let text = |run: &'_ Run| run.question(task, lang, split, id).map(str::to_string);
    match (text(run), text(other)) {
        (Some(one), Some(two)) => one == two,
        _ => digest(run) == digest(other),
    }
}

/// The winner's score on each question of the test, which held-out tasks are no part of.
fn test_scores(run: &Run) -> Option<HashMap<Asked, f64>> {
    let reading = run.reading.as_ref()?;
    let is_of_test = |task: &str, lang: &str| reading.best.tasks.iter().any(|t| t.task == task && t.lang == lang);
    let answers = run
        .answers_of(&reading.best.id)
        .iter()
        .filter(|a| a.split == reading.split && is_of_test(&a.task, &a.lang));
    let scores = answers.flat_map(|a| {
        let asked = |id: &str| (a.task.clone(), a.lang.clone(), a.split.clone(), id.to_string());
        a.answers.iter().map(move |x| (asked(&x.q), x.score))
    });
    Some(scores.collect())
}

/// The lines of all runs in one order: by section, each after the line that it follows in the first run that has it.
fn lines(runs: &[Column]) -> Vec<(Section, &str)> {
    let mut lines: Vec<(Section, &str)> = Vec::new();
    for run in runs {
        let mut after = 0;
        for cell in &run.cells {
            let line = (cell.section, cell.label.as_str());
            after = match lines.iter().position(|known| *known == line) {
                Some(at) => at + 1,
                None => {
                    lines.insert(after, line);
                    after + 1
                }
            };
        }
    }
    lines.sort_by_key(|(section, _)| *section);
    lines
}

/// The table, line by line.
fn table(comparison: &Comparison) -> Vec<String> {
    let lines = lines(&comparison.runs);
    let chars = |text: &str| text.chars().count();
    let indent = |section: Section| section.heading().map_or("", |_| "  ");
    let width_of = |(section, label): &(Section, &str)| chars(indent(*section)) + chars(label);
    let label_width = lines.iter().map(width_of).max().unwrap_or(0);
    let widths: Vec<usize> = comparison
        .runs
        .iter()
        .map(|r| {
            let cells = r.cells.iter().map(|c| chars(&c.text));
            cells.chain([chars(&r.status.run)]).max().unwrap_or(0)
        })
        .collect();
    let line = |label: &str, cells: &mut dyn Iterator<Item = &str>| {
        let mut line = format!("{label:<label_width$}");
        for (cell, width) in cells.zip(&widths) {
            line += &format!("  {cell:<width$}");
        }
        line.trim_end().to_string()
    };
    let mut table = vec![line("", &mut comparison.runs.iter().map(|r| r.status.run.as_str()))];
    let mut section = Section::Run;
    for (of, label) in lines {
        if let Some(heading) = of.heading().filter(|_| of != section) {
            table.push(heading.into());
        }
        section = of;
        let cell = |r: &'_ Column| {
            r.cells
                .iter()
                .position(|c| (c.section, c.label.as_str()) == (of, label))
        };
        let cells = comparison.runs.iter();
        let mut cells = cells.map(|r| cell(r).map_or("–", |i| r.cells[i].text.as_str()));
        table.push(line(&format!("{}{label}", indent(of)), &mut cells));
    }
    table
}

fn tell(comparison: &Comparison) {
    table(comparison).iter().for_each(print);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::environment,
        event::{Event, Record, rehearsal},
    };

    fn opened(records: &[Record]) -> (tempfile::TempDir, (RunDir, Run)) {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &environment::host().holder).unwrap();
        (tmp, (dir, Run::from_records(records)))
    }

    /// A task and a merge that only the second run had stood below the test, as if its search scores were of it, and a share of
    /// the test beside those of the search.
    #[test]
    fn a_line_that_the_first_run_lacks_stands_in_its_section() {
        let whole = rehearsal::held_out();
        let mut poorer = whole.clone();
        poorer.retain(|record| !matches!(&record.event, Event::CandidateScored(c) if c.id == "ties"));
        for record in &mut poorer {
            match &mut record.event {
                Event::CandidateScored(candidate) => candidate.tasks.truncate(1),
                Event::TestRead(reading) => reading.best.tasks.truncate(1),
                _ => {}
            }
        }
        let ((_a, whole), (_b, poorer)) = (opened(&whole), opened(&poorer));
        let labels = |runs: &[(RunDir, Run)]| -> Vec<String> {
            let table = table(&compared(runs));
            let mut section = String::new();
            let label = |line: &String| {
                if !line.starts_with(' ') {
                    section = line.clone();
                }
                let label = line.trim_start().split("  ").next().unwrap().to_string();
                let is_of = if line.starts_with(' ') { section.as_str() } else { "" };
                format!("{is_of}/{label}")
            };
            let mut labels: Vec<String> = table[1..].iter().map(label).collect();
            labels.sort();
            labels
        };
        let runs = [whole, poorer];
        let forth = labels(&runs);
        assert!(forth.contains(&"in the search/ties".into()), "{forth:?}");
        assert!(
            forth
                .iter()
                .any(|l| l.starts_with("in the test/") && l.ends_with("÷ best expert")),
            "{forth:?}"
        );
        assert!(
            !forth
                .iter()
                .any(|l| l.starts_with("in the search/") && l.ends_with("÷ best expert")),
            "{forth:?}"
        );
        let [whole, poorer] = runs;
        assert_eq!(labels(&[poorer, whole]), forth);
    }

    /// The night, with what its winner said in the test, and of a task that was held out.
    fn examined() -> (Vec<Record>, usize) {
        let mut records = rehearsal::held_out();
        let winner = Run::from_records(&records).reading.unwrap().best.id;
        let mut said = records.clone();
        said.retain(|record| matches!(&record.event, Event::Answers(a) if a.id == winner && a.split == "search"));
        let mut asked = 0;
        for mut record in said {
            let Event::Answers(answers) = &mut record.event else {
                continue;
            };
            asked += answers.answers.len();
            answers.split = "test".into();
            records.push(record.clone());
            if let Event::Answers(answers) = &mut record.event {
                answers.task = "evals/words-fr.yaml".into();
            }
            records.push(record);
        }
        assert!(asked > 1);
        (records, asked)
    }

    /// Held-out tasks are asked in a split of the test's name, and were counted among its questions.
    #[test]
    fn winners_are_compared_on_questions_of_the_test() {
        let (records, asked) = examined();
        let (_a, (_dir, run)) = opened(&records);
        let again = against("again".into(), &run, &run).unwrap();
        assert_eq!((again.n, again.difference), (asked, 0.0));
    }

    /// Two files may have an `arith` each, with other questions under the same ids.
    #[test]
    fn questions_of_another_task_of_that_name_are_others() {
        let (records, _) = examined();
        let mut other = records.clone();
        other.retain(|record| !matches!(record.event, Event::QuestionTexts(_)));
        for record in &mut other {
            if let Event::RunStarted(started) = &mut record.event {
                started.tasks.iter_mut().for_each(|task| task.digest.push('x'));
            }
        }
        let ((_a, (_, one)), (_b, (_, two))) = (opened(&records), opened(&other));
        assert!(against("two".into(), &two, &one).is_none());
    }
}
