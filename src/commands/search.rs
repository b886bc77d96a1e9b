//! `heterosis search` and `resume`: the main job, with somebody watching or nobody.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
};

use anyhow::{Context, Result, bail};

use super::{
    Failure, Outcome,
    after::{self, Trackers},
    environment,
    front::{self, Word},
    interruption::{Interruptions, Searching, Voice, guarded},
    newest,
    runtime::runtime_options,
    standard_input, trust,
    watch::Lines,
    worker::nats_options,
};
use crate::{
    cli::{DemoArgs, LogFormat, NatsArgs, ResumeArgs, SearchArgs, SearchOptions, TellArgs, WatchOptions},
    event::{self, Event, Record, words::shell_word},
    search::{self, Control, ENGINE_VERSION, End},
    session::{self, Begun, ResumeOptions, Search, Session},
    space::{self, Limit, Space},
    store::RunDir,
    workers::{self, Post},
    yaml,
};

pub fn search(mut args: SearchArgs) -> Outcome {
    // Typed on the terminal, which is not the searching process's to read.
    args.options.watch.headless |= args.space == Path::new("-");
    let watch = args.options.watch.clone();
    front::run(&watch, || Ok(()), || search_here(args))
}

fn search_here(args: SearchArgs) -> Outcome {
    front::part_from_terminal(&args.options.watch);
    if args.space.is_dir() {
        return Err(no_space(&args.space).into());
    }
    let text = yaml::read_text(&standard_input(&args.space))
        .with_context(|| format!("cannot read the search space {}", args.space.display()))?;
    begin(session::parse_space(&args.space, &text)?, args.options)
}

/// A directory where a search space belongs, named as what it is.
fn no_space(dir: &Path) -> anyhow::Error {
    let (name, what) = (dir.display(), "a search space is a .yaml file");
    let word = shell_word(&name.to_string());
    if RunDir::open(dir).is_ok() {
        anyhow::anyhow!("{name} is a run, and {what}: `heterosis resume {word}` goes on with it")
    } else if dir.join("config.json").exists() || dir.join("adapter_config.json").exists() {
        anyhow::anyhow!(
            "{name} is a model, and {what}: `heterosis breed {word} ANOTHER --task TASK` makes one and searches it"
        )
    } else {
        anyhow::anyhow!("{name} is a directory, and {what}")
    }
}

pub fn demo(args: DemoArgs) -> Outcome {
    let watch = args.options.watch.clone();
    let work = || {
        front::part_from_terminal(&args.options.watch);
        begin(session::demo_space(&environment::cache_dir())?, args.options)
    };
    front::run(&watch, || Ok(()), work)
}

/// Begins a run of a space and goes through with it.
pub fn begin(mut space: Space, args: SearchOptions) -> Outcome {
    after::check(&args.tell)?;
    space.search.seed = args.seed.unwrap_or(space.search.seed);
    if let Some(evals) = args.evals.filter(|evals| !(1..=space::MOST_EVALS).contains(evals)) {
        return Err(anyhow::anyhow!("--evals {evals}: a search has 1 to {} evaluations", space::MOST_EVALS).into());
    }
    space.search.evals = args.evals.unwrap_or(space.search.evals);
    let duration_ms = args.duration.as_deref().map(duration_ms).transpose().context("--for")?;
    let budget = event::Budget {
        // Whoever gives a time wants it used.
        evals: (args.evals.is_some() || duration_ms.is_none()).then_some(space.search.evals),
        duration_ms,
    };
    let usual = PathBuf::from(format!("runs/{}-{}", space.name, environment::time_stamp()));
    // Whether there is a server is known before models are opened.
    let post = post(args.nats.as_deref(), &args.server, &space)?;
    let session = Session::open(space, &runtime_options(&args.engine)?, environment::host())?;
    if post.is_some() {
        // Before anything is written.
        session.can_be_evaluated_by_workers()?;
    }
    let search = match &args.run {
        Some(dir) => session.create(dir, budget)?,
        None => session.create_beside(&usual, budget)?,
    };
    trust::remember(search.dir().path(), session.space());
    go(by_workers(search, post)?, &args.watch, &args.tell)
}

/// The server by which workers evaluate, if one is named.
fn post(url: Option<&str>, server: &NatsArgs, space: &Space) -> Result<Option<Post>> {
    let Some(url) = url else { return Ok(None) };
    if space.fitness.command.is_some() {
        return Err(workers::Error::Command.into());
    }
    Ok(Some(Post::connect(&nats_options(url, server))?))
}

fn by_workers(search: Search<'_>, post: Option<Post>) -> Result<Search<'_>, session::Error> {
    match post {
        Some(post) => search.by_workers(post),
        None => Ok(search),
    }
}

pub fn resume(args: ResumeArgs) -> Outcome {
    let watch = args.watch.clone();
    let named = newest::named_or_newest(args.run.clone());
    let yes = args.yes;
    front::run(
        &watch,
        || named.map_or(Ok(()), |run| confirm(&run, yes)),
        || resume_here(args),
    )
}

/// Asks whether a run may do what it does, as far as the run can be read; what is wrong with it is told later.
fn confirm(run: &Path, yes: bool) -> Outcome {
    let Ok(begun) = Begun::take(run, &environment::host()) else {
        return Ok(());
    };
    trust::confirm(begun.dir().path(), begun.space(), yes)
}

fn resume_here(args: ResumeArgs) -> Outcome {
    front::part_from_terminal(&args.watch);
    after::check(&args.tell)?;
    let run = newest::or_newest(args.run)?;
    let host = environment::host();
    let notes = match args.truncate_damaged {
        true => repaired(&run, &host)?,
        false => Vec::new(),
    };
    let begun = Begun::take(&run, &host)?;
    trust::confirm(begun.dir().path(), begun.space(), args.yes)?;
    let limit = |typed: &Option<String>| typed.as_deref().map(limit).transpose();
    let options = ResumeOptions {
        finish: args.finish,
        accepts_changes: args.accept_changes,
        selection: limit(&args.selection_limit).map_err(|e| anyhow::anyhow!("--selection-limit: {e}"))?,
        test: limit(&args.test_limit).map_err(|e| anyhow::anyhow!("--test-limit: {e}"))?,
        notes,
    };
    if begun.is_of_another_build() {
        let started = begun.started();
        tracing::warn!(
            "this run was begun by another build of heterosis ({} {}; this is {ENGINE_VERSION} {}): what it has answered \
             stays, its cached answers are not used, and the last digits of answers may differ",
            started.engine_version,
            started.engine_build,
            search::build()
        );
    }
    let post = post(args.nats.as_deref(), &args.server, begun.space())?;
    let session = begun.session(&runtime_options(&args.engine)?, host)?;
    go(
        by_workers(session.resume(begun, options)?, post)?,
        &args.watch,
        &args.tell,
    )
}

/// What a journal that was cut says of that.
fn repaired(run: &Path, host: &crate::host::Host) -> Result<Vec<Event>> {
    let Some(cut) = session::repair(run, host)? else {
        return Ok(Vec::new());
    };
    let message = format!(
        "line {} of the journal was damaged; it was cut there, which costs {}, and is as it was in {}",
        cut.line,
        match cut.lost {
            1 => "that record".into(),
            n => format!("that record and the {} behind it", n - 1),
        },
        cut.copy.display()
    );
    tracing::warn!("{message}");
    let level = event::Level::Warning;
    Ok(vec![Event::Log { level, message }])
}

/// `N` or `all`.
fn limit(text: &str) -> Result<Limit, String> {
    match text.parse() {
        Ok(0) => Err("a limit of 0 leaves no questions".into()),
        Ok(n) => Ok(Limit::Most(n)),
        Err(_) if text == "all" => Ok(Limit::All),
        Err(_) => Err("write a number of questions, or all".into()),
    }
}

/// `8h`, `90m`, `1h30m`, `45s`.
pub fn duration_ms(text: &str) -> Result<u64> {
    let wrong = || format!("{text}: write a time such as 8h, 90m or 1h30m");
    let (mut total, mut number) = (0, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            continue;
        }
        let unit_ms = match c {
            'd' => 86_400_000.0,
            'h' => 3_600_000.0,
            'm' => 60_000.0,
            's' => 1000.0,
            _ => bail!(wrong()),
        };
        let value: f64 = number.parse().with_context(wrong)?;
        total += (value * unit_ms) as u64;
        number.clear();
    }
    if total == 0 || !number.is_empty() {
        bail!(wrong());
    }
    Ok(total)
}

/// Searches in a thread of its own, while this one tells of it.
fn go(search: Search<'_>, watch: &WatchOptions, tell_args: &TellArgs) -> Outcome {
    let dir = search.dir().clone();
    let name = dir.path().display().to_string();
    let control = Control::default();
    let interruptions = Interruptions::listen(Searching::Here(control.clone()), &Voice::default())?;
    interruptions.is_of(&name);
    let (to_log, log) = mpsc::channel();
    let mut word = Word::of(watch, &dir);
    let mut trackers = Trackers::of(tell_args, &dir);
    let outcome = std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            search.run(&control, &|record| {
                if !matches!(record.event, Event::Answers(_) | Event::QuestionTexts(_)) {
                    let _ = to_log.send(record.clone());
                }
            })
        });
        let mut on_record = |record: &Record| {
            word.iter_mut().for_each(|word| word.see(record));
            trackers.see(record);
        };
        let lines = tell(&log, watch, &mut on_record);
        let ended = worker.join();
        // Of a journal that could not be read there is nothing to sum up, and what to do next the error says.
        let is_of_search = matches!(ended, Ok(Ok(_) | Err(session::Error::Search(_))));
        if let Some(lines) = lines.filter(|_| is_of_search && watch.log_format == LogFormat::Text && !watch.detached) {
            guarded("the summary", || {
                super::print_if_read(format_args!("\n{}", lines.summary(&name)))
            });
        }
        ended
    });
    after::tell(tell_args, &dir);
    if let Ok(Ok(_)) = &outcome {
        // A run that was over has had no beginning.
        word.iter_mut().for_each(Word::give);
    }
    match outcome {
        Ok(Ok(End::Done)) => Ok(()),
        Ok(Ok(End::Stopped)) => Err(Failure::Interrupted),
        Ok(Err(e @ session::Error::Search(_))) => Err(Failure::work(e)),
        Ok(Err(e)) => Err(e.into()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The run as lines, to its end.
fn tell(log: &Receiver<Record>, watch: &WatchOptions, on_record: &mut dyn FnMut(&Record)) -> Option<Lines> {
    let mut lines = Lines::of_search(watch.log_format);
    let shown = guarded("the log", || {
        for record in log {
            on_record(&record);
            lines.show(&record);
        }
    });
    if shown.is_none() {
        // Nobody is left to show anything to; the end of the feed is the end of the run.
        log.iter().for_each(drop);
    }
    shown.map(|()| lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_all() {
        assert_eq!(limit("all"), Ok(Limit::All));
        assert_eq!(limit("12"), Ok(Limit::Most(12)));
        assert!(limit("0").is_err() && limit("-3").is_err() && limit("many").is_err());
    }
}
