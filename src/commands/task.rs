//! `heterosis task`: a task of one's own written down, tried on a model, and looked at.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::{Failure, Outcome, environment, eval::profile, print, print_json, replacement::refuse_to_replace, runtime};
use crate::{
    cli::{TaskArgs, TaskCheckArgs, TaskCommand, TaskNewArgs, TaskTryArgs},
    eval::{self, Answer, DataDirs, Error, Question, Split, Task, TaskOptions, data},
};

pub fn task(args: TaskArgs) -> Outcome {
    match args.command {
        TaskCommand::New(args) => new(&args),
        TaskCommand::Try(args) => attempt(&args),
        TaskCommand::Check(args) => check(&args),
    }
}

/// Questions to begin with: enough of them that each part of a search has some.
const QUESTIONS: &str = "question,answer
What is the capital of France?,Paris
What is the capital of Japan?,Tokyo
What is the capital of Peru?,Lima
What is the capital of Kenya?,Nairobi
What is the capital of Norway?,Oslo
What is the capital of Canada?,Ottawa
What is the capital of Egypt?,Cairo
What is the capital of Portugal?,Lisbon
What is the capital of Austria?,Vienna
What is the capital of Cuba?,Havana
What is the capital of Greece?,Athens
What is the capital of Chile?,Santiago
";

fn new(args: &TaskNewArgs) -> Outcome {
    for name in &args.names {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.starts_with(char::is_alphanumeric) || !name.chars().all(is_plain) {
            return Err(anyhow!("'{name}' is no name of a task; write letters, digits, - and _").into());
        }
        let file = PathBuf::from(format!("{name}.yaml"));
        let own = PathBuf::from(format!("{name}.csv"));
        let data = args.data.as_deref().unwrap_or(&own);
        refuse_to_replace(&file)?;
        if args.data.is_none() {
            refuse_to_replace(&own)?;
            write(&own, QUESTIONS)?;
        }
        let written = task_file(name, data)?;
        write(&file, &written)?;
        // What was written is what is read.
        let name = file.display().to_string();
        let task = Task::load(&name, &TaskOptions::default(), &environment::data_dirs())?;
        let count = task.questions(Split::Search)?.len();
        print(format_args!(
            "{name}: {count} questions for a search, from {}",
            data.display()
        ));
        print(format_args!("Try it: heterosis task try {name} MODEL"));
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Outcome {
    let written = fs::write(file, text).with_context(|| format!("cannot write {}", file.display()));
    if written.is_err() {
        // A part of it would be in the way of the next try.
        let _ = fs::remove_file(file);
    }
    written.map_err(Failure::Work)
}

/// A task file for the fields of a file of data: asked is the first of the usual names that it has, or its first field.
fn task_file(name: &str, data: &Path) -> Result<String> {
    let place = data.display().to_string();
    let rows = data::read_file(data).with_context(|| place.clone())?;
    let first = rows.first().with_context(|| format!("{place} holds no rows"))?;
    let fields: Vec<&str> = first.keys().map(String::as_str).collect();
    let named = |usual: &[&str]| {
        usual
            .iter()
            .find_map(|name| fields.iter().find(|field| *field == name).copied())
    };
    let asked = named(&["question", "problem", "prompt", "input", "text", "query"]);
    let right = named(&["answer", "target", "gold", "label", "output", "solution", "completion"]);
    let (Some(asked), Some(right)) = (asked.or(fields.first().copied()), right.or(fields.last().copied())) else {
        bail!("{place} has no fields");
    };
    if asked == right {
        bail!("{place} has one field, '{asked}'; a question and an answer are needed");
    }
    let cut = rows.len() * 2 / 3;
    let mut text = format!(
        "# A task of your own. `heterosis task try {name}.yaml MODEL` asks a few of its questions and shows prompt, answer and\n\
         # verdict; a search space names it under fitness.tasks. evals/README.md describes every key.\n\
         task: {name}\n\
         version: 1\n\
         description: What it measures, in a sentence.\n\
         provenance: Where the questions come from, and their licence.\n\
         lang: en\n\n"
    );
    let _ = write!(
        text,
        "# What a search asks, and what judges its winner at the end: other questions. A quarter of the first is kept for the\n\
         # finalists (chosen by a hash of the row), unless there is a `selection` of its own.\n\
         # A row of {place} has the fields {}.\n\
         data:\n  \
           search: {{file: {place}, rows: ..{cut}}}\n  \
           test: {{file: {place}, rows: {cut}..}}\n\n",
        fields.join(", ")
    );
    let _ = write!(
        text,
        "# Jinja over the fields of a row.\n\
         prompt: \"Question: {{{{{asked}}}}}\\nAnswer:\"\n\
         # What is right, and what an example shows.\n\
         target: '{{{{{right}}}}}'\n\n\
         # An answer ends here. Without `filters` the first line that says something is the answer.\n\
         stop: [\"\\n\\n\", 'Question:']\n\
         max_new_tokens: 64\n\
         normalize: {{ignore_case: true, ignore_punctuation: true}}\n\n\
         # Numbers, however they are written (1,200 is 1200), in place of the three lines above:\n\
         # filters: [{{name: answer, number: {{after: ['The answer is'], otherwise: last}}}}]\n\
         # normalize: {{number: true}}\n\n\
         # Examples before each question, the same ones for all:\n\
         # shots: {{from: {place}, count: 2, draw: first_n}}\n\n\
         # Several answers to each question: maj@8 is whether the commonest is right, pass@4 how likely one of four is.\n\
         # samples: 8\n\
         # sampling: {{temperature: 0.7}}\n\n\
         # For models that think: what stands between the marks is not judged, and a thought that does not close is no answer.\n\
         # think: {{open: <think>, close: </think>}}\n"
    );
    Ok(text)
}

fn attempt(args: &TaskTryArgs) -> Outcome {
    let mut names = eval::expand(&args.task, args.lang.as_deref())?;
    let (name, lang) = match names.len() {
        1 => names.remove(0),
        _ => {
            let known: Vec<String> = names
                .iter()
                .map(|(name, lang)| format!("{name} --lang {lang}"))
                .collect();
            return Err(anyhow!("{} is several tasks; try one: {}", args.task, known.join(", ")).into());
        }
    };
    let options = TaskOptions {
        lang: Some(lang),
        shots: args.shots,
        profile: profile(args.profile),
        max_new_tokens: args.max_new_tokens,
        chat: runtime::chat(&args.chat),
        ..TaskOptions::default()
    };
    let task = Task::load(&name, &options, &environment::data_dirs())?;
    let split = match &args.split {
        Some(split) => runtime::split(split, &task.splits())?,
        None => *task.splits().first().context("the task has no questions")?,
    };
    if let Some(rule) = task.split_off_rule() {
        tracing::info!("{}: {rule}", task.name());
    }
    let mut questions = task.questions(split)?;
    let count = questions.len();
    questions.truncate(args.questions);
    let mut engine = runtime::engine(&args.model, &args.engine)?;
    let work: Vec<(&Task, &[Question])> = vec![(&task, &questions)];
    let mut answered = eval::answer(&mut engine, &work, &mut |_| {}).map_err(Failure::work)?;
    let answers = answered.pop().unwrap_or_default();
    for (question, answer) in questions.iter().zip(&answers) {
        show(&task, question, answer);
    }
    let right = answers.iter().filter(|answer| answer.score > 0.5).count();
    let sum = match task.is_likelihood() {
        true => String::new(),
        false => format!("{right} of {} right; ", answers.len()),
    };
    print(format_args!("{sum}the split {split} has {count} questions"));
    Ok(())
}

fn show(task: &Task, question: &Question, answer: &Answer) {
    print(format_args!("── {}", question.id));
    let prompt = if answer.prompt.is_empty() {
        question.prompt.text()
    } else {
        answer.prompt.clone()
    };
    print(format_args!("{prompt}"));
    if task.kind().chooses() {
        for (i, choice) in question.choices.iter().enumerate() {
            let mark = if question.right.contains(&i) { "right" } else { "" };
            print(format_args!("   {:5} {}", mark, choice.text));
        }
        print(format_args!("── takes: {}", answer.output));
    } else if !answer.output.is_empty() {
        print(format_args!("── answers{}:", ended(answer)));
        print(format_args!("{}", answer.output));
    }
    print(format_args!("── right is: {}", question.gold));
    for (name, verdict) in &answer.filters {
        let mark = if name == task.primary_filter() { "*" } else { " " };
        print(format_args!(
            " {mark} {name}: {} ({})",
            verdict.exact_match, verdict.extracted
        ));
    }
    if task.gate().is_some() && !answer.language_ok {
        print("   not in the language that is asked for");
    }
    if let Some(log_likelihood) = answer.log_likelihood {
        print(format_args!(
            "   log-likelihood of what is right: {log_likelihood:.3} of {} tokens",
            answer.token_count
        ));
    }
    print("");
}

fn ended(answer: &Answer) -> String {
    match answer.finish.as_str() {
        "length" => " (cut off after so many tokens)".into(),
        "loop" => " (cut off, for it repeats itself)".into(),
        _ => String::new(),
    }
}

#[derive(Serialize)]
struct AllChecked {
    tasks: Vec<Checked>,
}

/// What is known of a task file.
#[derive(Serialize)]
struct Checked {
    task: String,
    ok: bool,
    /// Of a group, its tasks.
    tasks: Vec<String>,
    /// The key that stands in the way, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

fn check(args: &TaskCheckArgs) -> Outcome {
    let dirs = environment::data_dirs();
    let checked: Vec<Checked> = args.tasks.iter().map(|name| look_at(name, &dirs)).collect();
    let all_read = checked.iter().all(|checked| checked.ok);
    if args.json {
        print_json(&AllChecked { tasks: checked });
        return match all_read {
            true => Ok(()),
            false => Err(anyhow!("some tasks cannot be read").into()),
        };
    }
    for checked in &checked {
        match &checked.message {
            None => print(format_args!("{}: {}", checked.task, checked.tasks.join(", "))),
            Some(message) => print(format_args!("{}: not read: {message}", checked.task)),
        }
    }
    match all_read {
        true => Ok(()),
        false => Err(anyhow!("some tasks cannot be read").into()),
    }
}

/// Makes the questions of each split whose data are here. A published data set may not be, a file of one's own has to be.
fn questions_can_be_made(task: &Task) -> Result<(), Error> {
    let own = !task.is_of_harness() && task.is_of_file();
    for split in task.splits() {
        match task.some_questions(split) {
            Err(Error::NoData { .. }) if !own => {}
            made => drop(made?),
        }
    }
    Ok(())
}

fn look_at(name: &str, dirs: &DataDirs) -> Checked {
    let load = || -> Result<Vec<String>, Error> {
        let mut tasks = Vec::new();
        for (name, lang) in eval::expand(name, None)? {
            let options = TaskOptions {
                lang: Some(lang),
                ..TaskOptions::default()
            };
            let task = Task::load(&name, &options, dirs)?;
            questions_can_be_made(&task)?;
            tasks.push(task.name().to_string());
        }
        Ok(tasks)
    };
    let (tasks, failure) = match load() {
        Ok(tasks) => (tasks, None),
        Err(e) => (Vec::new(), Some(e)),
    };
    let key = failure.as_ref().and_then(|e| match e {
        Error::Harness(refusal) => Some(refusal.key.clone()),
        _ => None,
    });
    Checked {
        task: name.into(),
        ok: failure.is_none(),
        tasks,
        key,
        message: failure.map(|e| e.to_string()),
    }
}
