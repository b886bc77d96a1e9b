//! `heterosis cache`: the answers that runs share.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::{Outcome, check::size, environment, print, print_json, search::duration_ms};
use crate::{
    checkpoint::parse_size,
    cli::{CacheArgs, CacheCommand},
    host::{answers_cache, day},
    store::{self, Day, Holds},
};

#[derive(Serialize)]
struct Shown {
    path: String,
    answers: u64,
    /// Of keys and answers.
    bytes: u64,
    /// On disk.
    size_bytes: u64,
    /// Days since its oldest answer was used.
    oldest_days: Option<Day>,
}

pub fn cache(args: CacheArgs) -> Outcome {
    let path = answers_cache().context("HETEROSIS_CACHE is off: no answers are kept across runs")?;
    let today = day(environment::now_ms());
    let holds = match args.command {
        None => store::look(&path, today)?,
        Some(CacheCommand::Prune { older_than, to }) => {
            let days = duration_ms(&older_than).context("--older-than")?.div_ceil(86_400_000);
            let since = today.saturating_sub(Day::try_from(days).unwrap_or(Day::MAX));
            let most = to.as_deref().map(parse_size).transpose().context("--to")?;
            store::prune(&path, today, since, most.unwrap_or(u64::MAX))?
        }
        Some(CacheCommand::Clear) => {
            store::clear(&path, today)?;
            Holds::default()
        }
    };
    let shown = Shown::of(&path, &holds, today);
    match args.json {
        true => print_json(&shown),
        false => shown.tell(),
    }
    Ok(())
}

impl Shown {
    fn of(path: &Path, holds: &Holds, today: Day) -> Self {
        Self {
            path: path.display().to_string(),
            answers: holds.answers,
            bytes: holds.bytes,
            size_bytes: holds.size_bytes,
            oldest_days: holds.oldest.map(|day| today.saturating_sub(day)),
        }
    }

    fn tell(&self) {
        if self.answers == 0 {
            return print(format_args!("{}: no answers", self.path));
        }
        print(format_args!(
            "{}: {} answers, {} ({} on disk); the oldest was used last {}",
            self.path,
            self.answers,
            size(self.bytes),
            size(self.size_bytes),
            match self.oldest_days.unwrap_or(0) {
                0 => "today".into(),
                1 => "yesterday".into(),
                days => format!("{days} days ago"),
            }
        ));
    }
}
