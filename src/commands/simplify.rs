//! `heterosis simplify`: the simplest recipe that is as good as the winner, tested on questions that the run did not ask.

use std::{collections::HashSet, path::Path};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    Failure, Outcome, environment, export::for_mergekit, models::Computed, print, print_json, search::Prepared,
};
use crate::{
    cli::SimplifyArgs,
    eval::stats::NonInferiority,
    event::{Answer, Event, Origin, Record, freshness::Freshness, run::Run, words::Unit},
    recipe::Recipe,
    search::{Evaluator, Exam, ExamTask, MergeEvaluator, Resources, Sitting, Subject, Unscored},
    simplify::{self, Asked, Attempt, Complexity, Sensitivity, TaskScores},
    space::{Limit, Space},
    store::{self, Cache, RunDir},
};

/// Fewer fresh questions than these cannot tell a point's loss from luck.
const FEWEST: usize = 100;

/// One question in this many decides nothing, and so says without bias how the simplest recipe compares in the end.
const CONFIRMING: usize = 4;

#[derive(Serialize)]
struct Simplified {
    run: String,
    winner: String,
    margin: f64,
    questions: Questions,
    before: Complexity,
    after: Complexity,
    attempts: Vec<Attempt>,
    /// Simplest recipe − winner, on questions that decided nothing.
    confirmation: NonInferiority,
    sensitivities: Vec<Sensitivity>,
    recipe: Recipe,
    yaml: String,
}

#[derive(Clone, Serialize)]
struct Questions {
    split: String,
    deciding: usize,
    confirming: usize,
    /// Nobody in the run was asked them, by their place in their files.
    #[serde(skip)]
    unasked: bool,
    /// Nobody in the run was asked them, by what they ask: the run compared its questions.
    fresh: bool,
}

pub fn simplify(args: SimplifyArgs) -> Outcome {
    if !(args.margin > 0.0 && args.margin < 100.0) {
        return Err(anyhow::anyhow!("--margin {}: write points between 0 and 100, such as 1", args.margin).into());
    }
    let dir = RunDir::open(&args.run)?;
    let records = store::read(&dir.journal())?;
    let run = Run::from_records(&records);
    let space = Space::read(&dir.space())?;
    if space.fitness.command.is_some() {
        return Err(anyhow::anyhow!(
            "{} was scored by a command, which keeps its questions to itself; only runs on tasks can be simplified",
            dir.path().display()
        )
        .into());
    }
    let (winner_id, winner) = winner(&run, &dir)?;
    let engine = match &run.started {
        Some(started) => Computed::of_run(started).again(&args.engine),
        None => args.engine.clone(),
    };
    let prepared = Prepared::new(space, &engine)?;
    let _lock = dir.lock()?;
    let mut examiner = Examiner::new(&prepared, &dir, &records, args.limit)?;
    examiner.questions.fresh &= Freshness::of(&run) == Freshness::Fresh;
    let questions = examiner.questions.clone();
    let unit = run.unit();
    let margin = args.margin / 100.0;
    let before = Complexity::of(&winner);
    if !args.json {
        if !questions.unasked {
            tracing::warn!(
                "the run has used all its {} questions; the winner was chosen on them and looks better there than it is, so \
                 the tests are harder on simpler recipes than they should be",
                questions.split
            );
        }
        print(format_args!(
            "{winner_id}: {}. Simpler recipes may lose less than {} on {} questions ({} split).\n",
            words_of(before),
            unit.points(margin),
            questions.deciding,
            questions.split
        ));
    }
    let mut attempts = Vec::new();
    let mut seen = |attempt: &Attempt, recipe: &Recipe| {
        if !args.json {
            print(line_of(attempt, unit));
        }
        tracing::debug!("{}", recipe.digest());
        attempts.push(attempt.clone());
    };
    let failed = |reason: String| Failure::Work(anyhow::anyhow!("{winner_id} cannot be scored: {reason}"));
    let mut ask = |recipe: &Recipe| examiner.ask(recipe, false);
    let simplest = simplify::simplify(&winner, margin, &mut ask, &mut seen).map_err(failed)?;
    let sensitivities = simplify::sensitivities(&simplest, &mut ask).map_err(failed)?;
    let first = examiner.ask(&winner, true).map_err(failed)?;
    let last = examiner.ask(&simplest, true).map_err(failed)?;
    if let Some(reason) = examiner.broken {
        return Err(Failure::Work(anyhow::anyhow!(
            "nothing can be said of simpler recipes: {reason}"
        )));
    }
    let simplified = Simplified {
        run: dir.path().display().to_string(),
        winner: winner_id,
        margin,
        questions,
        before,
        after: Complexity::of(&simplest),
        attempts,
        confirmation: simplify::against(&first, &last, margin),
        sensitivities,
        yaml: for_mergekit(&simplest, &prepared.space),
        recipe: simplest,
    };
    if let Some(file) = &args.out {
        super::replacement::replace(file, &simplified.yaml).map_err(Failure::Work)?;
    }
    match args.json {
        true => print_json(&simplified),
        false => tell(&simplified, unit, args.out.as_deref()),
    }
    Ok(())
}

/// The run's winner, which must be a merge.
fn winner(run: &Run, dir: &RunDir) -> Result<(String, Recipe)> {
    let Some(candidate) = run.winner() else {
        bail!(
            "{} has no scored child yet; there is nothing to simplify",
            dir.path().display()
        );
    };
    if candidate.origin == Origin::Parent {
        bail!(
            "{} was won by a parent as it is; there is nothing to simplify",
            dir.path().display()
        );
    }
    let recipe = serde_json::from_value(candidate.recipe.clone()).context("the journal's recipe cannot be read")?;
    Ok((candidate.id.clone(), recipe))
}

/// Puts recipes through the questions that were chosen.
struct Examiner<'a> {
    evaluator: MergeEvaluator<'a>,
    /// Questions that decide, and questions that only confirm.
    deciding: Exam,
    confirming: Exam,
    questions: Questions,
    /// What broke on this machine. Nobody is asked any more then: a recipe that was not scored for it is not worse.
    broken: Option<String>,
}

impl<'a> Examiner<'a> {
    fn new(prepared: &'a Prepared, dir: &RunDir, records: &[Record], limit: Option<usize>) -> Result<Self> {
        let runtime = &prepared.runtime;
        let mut evaluator = MergeEvaluator::new(Resources {
            parents: &prepared.parents,
            tasks: prepared.tasks()?,
            held_out: Vec::new(),
            cache: Cache::open(&dir.cache())?,
            device: runtime.device.clone(),
            dtype: runtime.dtype,
            options: runtime.options,
            // The winner has passed it, and a worse recipe fails by its answers.
            guard: None,
            since_start: Box::new(environment::stopwatch()),
        });
        let mut all = evaluator.exam(&prepared.space.finale.selection.split, Limit::All)?;
        let scaled = records.iter().find_map(|record| match &record.event {
            Event::Scaled { weights } => Some(weights),
            _ => None,
        });
        for task in &mut all.tasks {
            task.weight = scaled
                .and_then(|weights| weights.get(task.index))
                .copied()
                .unwrap_or(task.weight);
        }
        let (chosen, unasked) = choose(&all, records, limit);
        let part = |confirms: bool| {
            let of_task = |items: &Vec<usize>| -> Vec<usize> {
                let is_confirming = |i: usize| i % CONFIRMING == CONFIRMING - 1;
                let items = items.iter().enumerate();
                items
                    .filter(|(i, _)| is_confirming(*i) == confirms)
                    .map(|(_, item)| *item)
                    .collect()
            };
            all.of_items(chosen.iter().map(of_task).collect())
        };
        let (deciding, confirming) = (part(false), part(true));
        if deciding
            .tasks
            .iter()
            .chain(&confirming.tasks)
            .any(|task| task.items.len() < 2)
        {
            bail!(
                "{} questions of the {} split are too few to compare recipes on; give --limit more",
                deciding.n() + confirming.n(),
                all.split
            );
        }
        Ok(Self {
            questions: Questions {
                split: all.split,
                deciding: deciding.n(),
                confirming: confirming.n(),
                unasked,
                fresh: unasked,
            },
            evaluator,
            deciding,
            confirming,
            broken: None,
        })
    }

    fn ask(&mut self, recipe: &Recipe, confirms: bool) -> Asked {
        let exam = if confirms { &self.confirming } else { &self.deciding };
        let sitting = Sitting {
            id: "",
            subject: Subject::Recipe(recipe),
            genotype: &[],
            genes: &[],
            exam,
        };
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        let evaluation = match self.evaluator.evaluate(&sitting, &mut |_| {}) {
            Ok(evaluation) => evaluation,
            Err(Unscored::Candidate { reason }) => return Err(reason),
            Err(Unscored::Machine { reason } | Unscored::Breakdown { reason }) => {
                return Err(self.broken.insert(reason).clone());
            }
        };
        let tasks = exam.tasks.iter().zip(&evaluation.answers);
        Ok(tasks
            .map(|(task, (_, answers))| {
                let size = |a: &Answer| if task.is_likelihood { a.tokens as f64 } else { 1.0 };
                TaskScores {
                    weight: task.weight,
                    scores: answers.iter().map(|a| a.score).collect(),
                    sizes: answers.iter().map(size).collect(),
                    is_right_or_wrong: !task.is_likelihood,
                }
            })
            .collect())
    }
}

/// For each task, questions that nobody in the run was asked, and `true`; all of them, and `false`, if too few are left.
fn choose(all: &Exam, records: &[Record], limit: Option<usize>) -> (Vec<Vec<usize>>, bool) {
    let mut used = HashSet::new();
    for record in records {
        if let Event::Answers(answers) = &record.event {
            used.extend(answers.answers.iter().map(|a| a.q.as_str()));
        }
    }
    let unused = |task: &ExamTask| -> Vec<usize> {
        let is_unused = |i: &&usize| !used.contains(task.catalogue.ids[**i].as_str());
        task.items.iter().filter(is_unused).copied().collect()
    };
    let mut chosen: Vec<Vec<usize>> = all.tasks.iter().map(unused).collect();
    let unasked = chosen.iter().all(|items| items.len() >= FEWEST);
    if !unasked {
        chosen = all.tasks.iter().map(|task| task.items.clone()).collect();
    }
    for items in &mut chosen {
        items.truncate(limit.unwrap_or(usize::MAX));
    }
    (chosen, unasked)
}

/// `24 numbers in 4 slices of 3 models`.
fn words_of(complexity: Complexity) -> String {
    let Complexity {
        sources,
        slices,
        numbers,
        zeros,
        decimals,
        ..
    } = complexity;
    let decimals = decimals as f64 / (numbers - zeros).max(1) as f64;
    let zeros = if zeros > 0 {
        format!(" ({zeros} of them 0)")
    } else {
        String::new()
    };
    let place = match slices {
        0 => format!("for {sources} models"),
        1 => format!("for {sources} models in one slice"),
        n => format!("for {} models in {n} slices", sources / n),
    };
    format!("{numbers} numbers{zeros} of {decimals:.1} decimals {place}")
}

fn line_of(attempt: &Attempt, unit: Unit) -> String {
    let sign = if attempt.accepted { "kept   " } else { "refused" };
    let verdict = match (&attempt.test, &attempt.failure) {
        (Some(test), _) => format!("{} ± {}", unit.signed(test.difference), unit.value(test.stderr)),
        (None, reason) => reason.clone().unwrap_or_default(),
    };
    format!("  {sign} {:<48} {verdict}", attempt.change)
}

fn tell(simplified: &Simplified, unit: Unit, out: Option<&Path>) {
    let kept = simplified.attempts.iter().filter(|a| a.accepted).count();
    print(format_args!(
        "\n{kept} of {} changes kept: {} → {}",
        simplified.attempts.len(),
        words_of(simplified.before),
        words_of(simplified.after)
    ));
    let confirmation = &simplified.confirmation;
    print(format_args!(
        "on {} questions that decided nothing, the simplest recipe stands at {} ± {} against {}\n",
        confirmation.n,
        unit.signed(confirmation.difference),
        unit.value(confirmation.stderr),
        simplified.winner
    ));
    print("what each number is worth (fitness without it):");
    for s in &simplified.sensitivities {
        let worth = match (s.difference, s.stderr) {
            (Some(difference), Some(stderr)) => format!("{} ± {}", unit.signed(difference), unit.value(stderr)),
            _ => "cannot be left out".into(),
        };
        print(format_args!(
            "  {:<44} {:>8} → {:<4} {worth}",
            s.gene, s.value, s.without
        ));
    }
    match out {
        Some(file) => print(format_args!("\n{}", file.display())),
        None => print(format_args!("\n{}", simplified.yaml.trim_end())),
    }
}
