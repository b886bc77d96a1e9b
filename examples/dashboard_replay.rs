//! Plays a journal into the dashboard, as if the run went on:
//!
//! ```text
//! cargo run --release --example dashboard_replay -- runs/NAME/journal.jsonl [SPEED] [--ascii] [--no-color] [--plain]
//! ```
//!
//! Nothing is searched: pause, stop and export are only written down and told at the end.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::{env, fs, io};

use anyhow::{Context, Result};
use heterosis::dashboard::{self, Appearance, plain};
use heterosis::event::Record;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| words.iter().any(|w| w == flag);
    let mut places = words.iter().filter(|w| !w.starts_with("--"));
    let path = places
        .next()
        .context("which journal? Give the path of a journal.jsonl")?;
    let speed: f64 = places
        .next()
        .map_or(Ok(60.0), |s| s.parse())
        .context("the speed is a number, such as 60")?;
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let records: Vec<Record> = text
        .lines()
        .enumerate()
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("{path}:{}", i + 1)))
        .collect::<Result<_>>()?;
    if has("--plain") {
        return print(&records);
    }
    let appearance = Appearance {
        color: !has("--no-color"),
        unicode: !has("--ascii"),
        ..Appearance::default()
    };
    let (receiver, clock) = dashboard::replay(records.into_iter(), speed);
    let mut asked = Vec::new();
    // Nobody fulfils wishes here, so there is never a word about them.
    let (_no_notices, notices) = std::sync::mpsc::channel();
    let feed = dashboard::Feed {
        records: &receiver,
        notices: &notices,
        flags: &dashboard::Flags::default(),
        looks_on: true,
        now_ms: &|| clock.load(Ordering::Relaxed),
    };
    let exit = dashboard::run(&feed, appearance, &mut |action| asked.push(action))?;
    writeln!(io::stdout(), "left: {exit:?}; asked for: {asked:?}")?;
    Ok(())
}

fn print(records: &[Record]) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut lines = plain::PlainLines::new(0);
    for record in records {
        if let Some(line) = lines.line(record) {
            writeln!(out, "{line}")?;
        }
    }
    write!(out, "\n{}", plain::summary(lines.run(), "runs/replay"))?;
    Ok(())
}
