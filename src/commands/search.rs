//! `heterosis search` and `resume`: the main job, with somebody watching or nobody.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
};

use anyhow::{Context, Result, bail};

use super::{
    Failure, Outcome, environment,
    interruption::{Interruptions, Voice, ended_at_once, guarded},
    newest,
    runtime::runtime_options,
    standard_input, trust,
    watch::{Exports, Lines, request},
    worker::nats_options,
};
use crate::{
    cli::{DemoArgs, LogFormat, NatsArgs, ResumeArgs, SearchArgs, SearchOptions, WatchOptions},
    dashboard::{self, Action, Feed, Flags},
    event::{self, Event, Record},
    search::{self, Control, ENGINE_VERSION, End},
    session::{self, Begun, ResumeOptions, Search, Session},
    space::{self, Limit, Space},
    store::RunDir,
    workers::{self, Post},
    yaml,
};

pub fn search(args: SearchArgs) -> Outcome {
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
    if RunDir::open(dir).is_ok() {
        anyhow::anyhow!("{name} is a run, and {what}: `heterosis resume {name}` goes on with it")
    } else if dir.join("config.json").exists() || dir.join("adapter_config.json").exists() {
        anyhow::anyhow!(
            "{name} is a model, and {what}: `heterosis breed {name} ANOTHER --task TASK` makes one and searches it"
        )
    } else {
        anyhow::anyhow!("{name} is a directory, and {what}")
    }
}

pub fn demo(args: DemoArgs) -> Outcome {
    begin(session::demo_space(&environment::cache_dir())?, args.options)
}

/// Begins a run of a space and goes through with it.
pub fn begin(mut space: Space, args: SearchOptions) -> Outcome {
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
    if let Some(program) = session.space().fitness.program() {
        trust::remember(search.dir().path(), program);
    }
    go(by_workers(search, post)?, &args.watch)
}

/// The server by which workers evaluate, if one is named.
fn post(url: Option<&str>, server: &NatsArgs, space: &Space) -> Result<Option<Post>> {
    let Some(url) = url else { return Ok(None) };
    if space.fitness.command.is_some() {
        return Err(workers::Error::Command.into());
    }
    if space.fitness.engine.is_some() {
        return Err(workers::Error::Engine.into());
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
    let run = newest::or_newest(args.run)?;
    let host = environment::host();
    let notes = match args.truncate_damaged {
        true => repaired(&run, &host)?,
        false => Vec::new(),
    };
    let begun = Begun::take(&run, &host)?;
    if let Some(program) = begun.space().fitness.program() {
        trust::confirm(begun.dir().path(), program, args.yes)?;
    }
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
    go(by_workers(session.resume(begun, options)?, post)?, &args.watch)
}

/// What a journal that was cut says of that.
fn repaired(run: &Path, host: &crate::host::Host) -> Result<Vec<Event>> {
    let Some(cut) = session::repair(run, host)? else {
        return Ok(Vec::new());
    };
    let message = format!(
        "line {} of the journal was damaged; it was cut there, and is whole in {}",
        cut.line,
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

/// Searches in a thread of its own, while this one shows it.
fn go(search: Search<'_>, watch: &WatchOptions) -> Outcome {
    let dir = search.dir().clone();
    let control = Control::default();
    let voice = Voice::default();
    let interruptions = Interruptions::listen(&control, &voice, dir.path().display().to_string())?;
    let (to_view, view) = mpsc::channel();
    let (to_log, log) = mpsc::channel();
    let to_view = wants_dashboard(watch).then_some(to_view);
    let outcome = std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            search.run(&control, &|record| {
                // Nobody may be looking any more.
                if let Some(to_view) = &to_view {
                    let _ = to_view.send(record.clone());
                }
                if !matches!(record.event, Event::Answers(_)) {
                    let _ = to_log.send(record.clone());
                }
            })
        });
        show(&dir, view, &log, watch, &interruptions.flags, &voice);
        worker.join()
    });
    match outcome {
        Ok(Ok(End::Done)) => Ok(()),
        Ok(Ok(End::Stopped)) => Err(Failure::Interrupted),
        Ok(Err(e @ session::Error::Search(_))) => Err(Failure::work(e)),
        Ok(Err(e)) => Err(e.into()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The dashboard on a terminal, lines elsewhere; after `q` the search goes on with lines.
fn show(
    dir: &RunDir,
    view: Receiver<Record>,
    log: &Receiver<Record>,
    watch: &WatchOptions,
    flags: &Flags,
    voice: &Voice,
) {
    let mut lines = Lines::of_search(watch.log_format);
    if wants_dashboard(watch) {
        guarded("the dashboard", || show_dashboard(dir, &view, flags, voice));
        voice.is_through(None);
        lines.leave_the_shell_alone();
        drop(view);
        for record in log.try_iter() {
            lines.skip(&record);
        }
    }
    let name = dir.path().display().to_string();
    let shown = guarded("the log", || {
        for record in log {
            lines.show(&record);
        }
        if watch.log_format == LogFormat::Text {
            super::print_if_read(format_args!("\n{}", lines.summary(&name)));
        }
    });
    if shown.is_none() {
        // Nobody is left to show anything to; the end of the feed is the end of the run.
        log.iter().for_each(drop);
    }
}

fn show_dashboard(dir: &RunDir, view: &Receiver<Record>, flags: &Flags, voice: &Voice) {
    let name = dir.path().display().to_string();
    let (mut exports, notices) = Exports::new(dir);
    voice.is_through(Some(exports.notices()));
    let mut asked = |action: Action| match action {
        Action::Abort => {
            dashboard::restore();
            ended_at_once(&name);
            std::process::exit(130);
        }
        Action::RequestExport { id } => exports.begin(id),
        action => request(dir, action),
    };
    let feed = Feed {
        records: view,
        notices: &notices,
        now_ms: &environment::now_ms,
        flags,
    };
    let shown = dashboard::run(&feed, environment::appearance(), &mut asked);
    voice.is_through(None);
    exports.finish();
    match shown {
        Ok(dashboard::Exit::Closed) => {
            super::say(format_args!(
                "the search goes on here: Ctrl-Z and then `bg` give the shell back, `heterosis watch {name}` shows it again, Ctrl-C \
                 stops it"
            ));
        }
        Ok(_) => {}
        Err(e) => tracing::warn!("the dashboard cannot be shown: {e}"),
    }
}

fn wants_dashboard(watch: &WatchOptions) -> bool {
    !watch.headless && watch.log_format == LogFormat::Text && environment::is_interactive()
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
