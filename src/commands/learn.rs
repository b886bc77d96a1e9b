//! `heterosis learn`: better weights for one recipe, learned from texts that its child ought to hold likely.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    Failure, Outcome, environment, print, print_json, replacement::refuse_to_replace, runtime, standard_input,
};
use crate::{
    cli::{LearnArgs, TaskQuestionsArgs, TeacherArg},
    eval::{self, Profile, Question, Samples, Split, Task, TaskOptions},
    learn::{
        Change, Course, Settings, Step, teachers,
        variables::{self, Chain},
    },
    merge::{Plan, Resident},
    model::{Engine, ScoreRequest, Text},
    models::{Opened, Runtime, engine_of, placed, read_recipe, verbatim},
    recipe::{Recipe, write},
};

/// `--json`.
#[derive(Serialize)]
struct Lesson {
    out: String,
    texts: usize,
    held_back_texts: usize,
    /// Answers that were generated to learn from.
    answers: usize,
    steps: usize,
    best_step: usize,
    /// Nats a token.
    taught: Loss,
    held_back: Loss,
    numbers: Vec<Number>,
    elapsed_ms: u64,
}

#[derive(Serialize)]
struct Loss {
    before: f64,
    after: f64,
}

#[derive(Serialize)]
struct Number {
    name: String,
    before: f64,
    after: f64,
}

impl From<Change> for Loss {
    fn from(change: Change) -> Self {
        Loss {
            before: change.before,
            after: change.after,
        }
    }
}

pub fn learn(args: LearnArgs) -> Outcome {
    for (flag, n) in [("--steps", args.steps), ("--batch", args.batch)] {
        if n == 0 {
            return Err(anyhow::anyhow!("{flag} 0: nothing can be learned from nothing; it is at least 1").into());
        }
    }
    let clock = environment::stopwatch();
    if let Some(wrong) = args.wrong.filter(|wrong| !(0.0..=1.0).contains(wrong)) {
        return Err(
            anyhow::anyhow!("--wrong {wrong}: wrong answers count 0, not at all, to 1, as much as right ones").into(),
        );
    }
    refuse_to_replace(&args.out)?;
    let recipe = read_recipe(&standard_input(&args.recipe))?;
    let opened = Opened::of_recipe(&recipe, &args.recipe, &environment::hub_options())?;
    let tasks = tasks(&args.asked, args.questions, None)?;
    let runtime = runtime::runtime(&args.engine)?;
    let (variables, start) = variables::of_recipe(&recipe);
    let decode = |point: &[f64]| variables::with_numbers(&recipe, &rounded(point, &start));
    // Before anybody is asked.
    Chain::new(&opened.parents, &decode, &start, &variables)?;
    let material = gather(&args, &recipe, &opened, &tasks, &runtime)?;
    let mut course = Course {
        parts: None,
        resident: Resident::new(&opened.parents, &recipe.models()),
        decode: &decode,
        start: start.clone(),
        variables,
        texts: material.texts,
        groups: material.groups,
        device: runtime.device,
        dtype: runtime.dtype,
        settings: Settings {
            steps: args.steps,
            batch: args.batch,
            seed: args.seed,
            ..Settings::default()
        },
    };
    for (teacher, places) in &material.distilled {
        course.distil(teacher, places).map_err(Failure::work)?;
    }
    let bar = environment::progress_bar(args.steps as u64, "learning");
    let learned = course.learn(&mut |step: &Step| {
        bar.set_position(step.step as u64);
        true
    });
    bar.finish_and_clear();
    let learned = learned.map_err(Failure::work)?;
    let child = decode(&learned.point);
    let text = write::to_yaml(&for_elsewhere(&child, &args.recipe, &args.out));
    fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))?;
    let numbers = course
        .variables
        .iter()
        .zip(start.iter().zip(rounded(&learned.point, &start)));
    let lesson = Lesson {
        out: args.out.display().to_string(),
        texts: learned.texts.0,
        held_back_texts: learned.texts.1,
        answers: material.answers,
        steps: learned.steps.1,
        best_step: learned.steps.0,
        taught: learned.taught.into(),
        held_back: learned.held_back.into(),
        numbers: numbers
            .map(|(variable, (before, after))| Number {
                name: variable.name.clone(),
                before: *before,
                after,
            })
            .collect(),
        elapsed_ms: clock().as_millis() as u64,
    };
    show(&lesson, args.json);
    Ok(())
}

fn show(lesson: &Lesson, json: bool) {
    if json {
        print_json(lesson);
        return;
    }
    print(format_args!(
        "{} texts taught, {} held back; {} answers asked for them; of {} steps the point after {} is taken",
        lesson.texts, lesson.held_back_texts, lesson.answers, lesson.steps, lesson.best_step
    ));
    let line = |name: &str, loss: &Loss| {
        print(format_args!(
            "  {name:<10} {:.4} → {:.4} nats a token",
            loss.before, loss.after
        ));
    };
    line("taught", &lesson.taught);
    line("held back", &lesson.held_back);
    for number in &lesson.numbers {
        print(format_args!(
            "  {:<40} {:.4} → {:.4}",
            number.name, number.before, number.after
        ));
    }
    print(format_args!(
        "{}  (a loss is no score: see what it is worth with 'heterosis eval {} --task …')",
        lesson.out, lesson.out
    ));
}

/// As [`variables::rounded`]; numbers that have not moved stay as they were written.
fn rounded(point: &[f64], start: &[f64]) -> Vec<f64> {
    let of = |(x, start): (&f64, &f64)| if x == start { *x } else { variables::rounded(*x) };
    point.iter().zip(start).map(of).collect()
}

/// The recipe for another directory, where `./m` may be another model, or none.
fn for_elsewhere(recipe: &Recipe, file: &Path, out: &Path) -> Recipe {
    match file.parent() == out.parent() {
        true => recipe.clone(),
        false => recipe.with_models(|word| placed(word, file).unwrap_or_else(|_| word.into())),
    }
}

/// The tasks that are named, with their first `limit` questions of the split; `samples` says how answers are to be drawn, where they
/// are.
pub(super) fn tasks(
    args: &TaskQuestionsArgs,
    limit: usize,
    samples: Option<Samples>,
) -> Result<Vec<(Task, Vec<Question>)>> {
    let split = runtime::split(&args.split, &Split::ALL)?;
    if limit == 0 {
        bail!("--questions 0 (which --limit says, too) leaves nothing to read");
    }
    let mut tasks = Vec::new();
    for name in &args.tasks {
        for (name, lang) in eval::expand(name, args.lang.as_deref())? {
            let options = TaskOptions {
                lang: Some(lang),
                shots: args.shots,
                profile: Profile::Fitness,
                limit: Some(limit),
                samples,
                chat: runtime::chat(&args.chat),
                ..TaskOptions::default()
            };
            let task = Task::load(&name, &options, &environment::data_dirs())?;
            let questions = task.questions(split)?;
            tasks.push((task, questions));
        }
    }
    Ok(tasks)
}

/// What teaches.
struct Material {
    texts: Vec<Text>,
    groups: Vec<usize>,
    answers: usize,
    /// Places of the texts that teach what a parent expected, with its recipe.
    distilled: Vec<(Recipe, Vec<usize>)>,
}

/// Reference solutions where a task has them; else the right answers of the parents and of the recipe itself.
fn gather(
    args: &LearnArgs,
    recipe: &Recipe,
    opened: &Opened,
    tasks: &[(Task, Vec<Question>)],
    runtime: &Runtime,
) -> Result<Material> {
    let mut engine = opened.engine(runtime)?;
    let mut material = Material {
        texts: Vec::new(),
        groups: Vec::new(),
        answers: 0,
        distilled: Vec::new(),
    };
    let mut first = 0;
    let mut open = Vec::new();
    let is_asked = !matches!(args.teachers, TeacherArg::Auto | TeacherArg::Solutions);
    for (task, questions) in tasks {
        if is_asked && task.kind().is_measured() {
            tracing::warn!(
                "models write no answers to '{}', so nobody is asked: its right choices or texts teach",
                task.name()
            );
        }
        let solved = match args.teachers {
            TeacherArg::Answers | TeacherArg::Best | TeacherArg::Vote | TeacherArg::Distil
                if !task.kind().is_measured() =>
            {
                Vec::new()
            }
            _ => eval::solved(&engine, task, questions)?,
        };
        if solved.is_empty() && args.teachers == TeacherArg::Solutions {
            bail!(
                "the task '{}' has no worked solutions; learn from right answers with --teachers answers",
                task.name()
            );
        }
        if solved.is_empty() && task.samples().is_some() {
            bail!(
                "the task '{}' draws several answers to a question, which are no text to learn; take 'samples' out of a copy of its \
                 file",
                task.name()
            );
        }
        if solved.is_empty() {
            open.push((task, questions.as_slice(), first));
        }
        for (place, request) in solved {
            material.take(request, first + place, 1.0);
        }
        first += questions.len();
    }
    if !open.is_empty() {
        material.ask(args, recipe, opened, &open, (&mut engine, runtime))?;
    }
    Ok(material)
}

/// A task whose questions have to be answered, with the number of its first question.
type Open<'a> = (&'a Task, &'a [Question], usize);

impl Material {
    fn take(&mut self, request: ScoreRequest, question: usize, weight: f64) {
        if request.from < request.tokens.len() {
            self.texts.push(Text {
                tokens: request.tokens,
                from: request.from,
                weight,
                expected: Vec::new(),
            });
            self.groups.push(question);
        }
    }

    fn ask(
        &mut self,
        args: &LearnArgs,
        recipe: &Recipe,
        opened: &Opened,
        open: &[Open<'_>],
        (engine, runtime): (&mut Engine, &Runtime),
    ) -> Result<()> {
        let work: Vec<(&Task, &[Question])> = open.iter().map(|(task, questions, _)| (*task, *questions)).collect();
        let mut answered: Vec<Vec<Vec<eval::Answer>>> = Vec::new();
        // What was measured of models stands among them and answers nothing.
        let models: Vec<&str> = recipe.models().into_iter().filter(|m| !recipe.is_measured(m)).collect();
        let bar = environment::progress_bar(models.len() as u64 + 1, "asking");
        for model in &models {
            let mut parent = as_it_is(model, opened, runtime)?;
            answered.push(eval::answer(&mut parent, &work, &mut |_| {})?);
            bar.inc(1);
        }
        answered.push(eval::answer(engine, &work, &mut |_| {})?);
        bar.finish_and_clear();
        self.answers = answered.iter().flatten().map(Vec::len).sum();
        for (t, (task, questions, first)) in open.iter().enumerate() {
            let place: HashMap<&str, usize> = questions.iter().enumerate().map(|(i, q)| (q.id.as_str(), i)).collect();
            let given = |answer| given_of(answer, task, &place);
            let by_teacher: Vec<Vec<teachers::Given<'_>>> = answered
                .iter()
                .map(|of_model| of_model[t].iter().filter_map(given).collect())
                .collect();
            let wrong = args.wrong.unwrap_or(teachers::WRONG);
            let lessons = match args.teachers {
                TeacherArg::Best => teachers::best(&by_teacher),
                TeacherArg::Distil => teachers::best(&by_teacher[..models.len()]),
                TeacherArg::Vote => teachers::vote(&by_teacher, wrong),
                _ => teachers::choose(&by_teacher.concat(), wrong),
            };
            let outputs: Vec<(&Question, &str, bool)> = lessons
                .iter()
                .map(|l| (&questions[l.question], l.output.as_str(), l.ended))
                .collect();
            let before = self.texts.len();
            for (lesson, request) in lessons.iter().zip(eval::continued(engine, task, &outputs)?) {
                self.take(request, first + lesson.question, lesson.weight);
            }
            if args.teachers == TeacherArg::Distil
                && let Some(best) = teachers::best_of(&by_teacher[..models.len()])
            {
                let places = (before..self.texts.len()).collect();
                self.distilled.push((verbatim(models[best]), places));
            }
        }
        Ok(())
    }
}

fn given_of<'a>(answer: &'a eval::Answer, task: &Task, place: &HashMap<&str, usize>) -> Option<teachers::Given<'a>> {
    Some(teachers::Given {
        question: *place.get(answer.question.as_str())?,
        output: &answer.output,
        got: answer.found_by(task.primary_filter()),
        score: answer.score,
        finish: &answer.finish,
    })
}

/// One of the recipe's models, as it is.
fn as_it_is(model: &str, opened: &Opened, runtime: &Runtime) -> Result<Engine> {
    let plan = Plan::new(&verbatim(model), &opened.parents)?;
    Ok(engine_of(&plan, &opened.parents, runtime)?)
}
