//! A search for maths in Spanish, with the language gate and without: which language do the winners answer in?
//!
//! The embedded experts answer in digits. Here each is first trained further, on its own kind of problems answered in
//! sentences of its own language: the maths expert's steps become English, the Spanish expert's only step Spanish.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{
    files,
    searches::{percent, scores, search},
    tiny_family::{fresh, problems::Diet},
    tokens,
    training::{self, Bookkeeping, Course, Schedule},
};

/// Folder of the trained experts: they are trained once.
const EXPERTS: &str = "runs/language-gate";

/// Of the fresh ones.
const PROBLEMS: usize = 2000;

pub fn run(evals: u64, seeds: std::ops::Range<u64>) -> Result<()> {
    let tmp = tempfile::tempdir()?;
    let maths = expert("tiny-maths-en", Diet::MathsInWords, 21)?;
    let spanish = expert("tiny-spanish", Diet::SpanishInWords, 31)?;
    let asked = Path::new("evals/arith-es.yaml");
    let (off, on) = (in_words(asked, false, tmp.path())?, in_words(asked, true, tmp.path())?);
    let fresh = in_words(&fresh::write(tmp.path())?, true, tmp.path())?;

    println!("| | seed | right | right and in Spanish | in Spanish |\n|---|---|---|---|---|");
    let row = |name: &str, seed: &str, model: &Path| -> Result<()> {
        let scores = scores(model, &fresh, "selection", PROBLEMS)?;
        let [right, both, spanish] =
            ["strict-match", "strict-match+language", "language"].map(|name| percent(&scores[name]));
        println!("| {name} | {seed} | {right} | {both} | {spanish} |");
        Ok(())
    };
    row("maths expert, English sentences", "", &maths)?;
    row("Spanish expert, Spanish sentences", "", &spanish)?;
    for seed in seeds {
        for (name, task) in [("winner, gate off", &off), ("winner, gate on", &on)] {
            let (space, run) = (tmp.path().join("space.yaml"), tmp.path().join(format!("{name} {seed}")));
            std::fs::write(&space, search_space(&maths, &spanish, task, evals)?)?;
            search(&space, &run, seed)?;
            row(name, &seed.to_string(), &run.join("best.yaml"))?;
        }
    }
    println!("\n{PROBLEMS} fresh problems; {evals} candidates a search");
    Ok(())
}

/// A member of the family that has learned to answer in sentences.
fn expert(member: &str, diet: Diet, seed: u64) -> Result<PathBuf> {
    let dir = Path::new(EXPERTS).join(member);
    if dir.join("model.safetensors").exists() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&dir)?;
    let (tokenizer, tokenizer_json) = tokens::build()?;
    let eos = tokenizer.token_to_id(tokens::EOS).context("there is an end of text")?;
    let weights = files::load(&Path::new("models").join(member), files::size(&tokenizer))?;
    let schedule = Schedule {
        steps: 150,
        batch_tokens: 2400,
        learning_rate: 8e-4,
        warmup: 20,
        seed,
    };
    let books = Bookkeeping {
        name: member,
        state: &dir.join("training.state"),
        log: &dir.join("training.log"),
        save_every: 50,
    };
    let course = Course::plain(diet, schedule, weights.size.layers);
    training::train(&weights, &course, &tokenizer, eos, &books)?;
    files::write(&dir, &weights, &tokenizer, &tokenizer_json)?;
    Ok(dir)
}

/// A task of the family with room for sentences, and with the gate if it is on.
pub fn in_words(task: &Path, gate: bool, dir: &Path) -> Result<PathBuf> {
    let beside = std::path::absolute(task.parent().context("a task lies in a folder")?)?;
    let mut text = std::fs::read_to_string(task)?.replace("max_new_tokens: 48", "max_new_tokens: 80");
    for split in ["search", "selection", "test"] {
        for data in ["data/arith-es-", "data/arith-en-", "fresh-"] {
            let here = format!("{split}: {data}{split}.jsonl");
            text = text.replace(&here, &format!("{split}: {}/{data}{split}.jsonl", beside.display()));
        }
    }
    if gate {
        let lang = if text.contains("\nlang: en\n") { "en" } else { "es" };
        // Also an answer of digits alone is not in the language.
        let gate = format!("language_gate: {{lang: {lang}, min_letters: 0}}");
        text = text.replace("language_gate: false", &gate);
    }
    let stem = task
        .file_stem()
        .and_then(|stem| stem.to_str())
        .context("a task has a name")?;
    let file = dir.join(format!("{stem}-gate-{gate}.yaml"));
    std::fs::write(&file, text)?;
    Ok(file)
}

/// The demo's, on the experts that answer in sentences.
fn search_space(maths: &Path, spanish: &Path, task: &Path, evals: u64) -> Result<String> {
    let mut text = std::fs::read_to_string("search-spaces/demo.yaml")?;
    let here = |path: &Path| -> Result<String> { Ok(std::path::absolute(path)?.display().to_string()) };
    for (from, to) in [
        ("models/tiny-base", here(Path::new("models/tiny-base"))?),
        ("models/tiny-maths-en", here(maths)?),
        ("models/tiny-spanish", here(spanish)?),
        ("evals/arith-es.yaml", here(task)?),
        ("evals: 60 ", format!("evals: {evals} ")),
        ("learn: {teachers: answers}", "learn: off".into()), // evolution alone
        ("limit: 400}", "limit: 200}".into()),
        ("test: {split: test}", "test: {split: test, limit: 10}".into()), // read on fresh problems instead
    ] {
        text = text.replace(from, &to);
    }
    Ok(text)
}
