//! A search on a terminal: the search itself runs in a process and a session of its own, and this one shows it.
//!
//! So `q`, a closed terminal or a view that fails ends the view alone, and the shell is had back. As long as the view is
//! there, the two are one job: signals are passed on, the exit code is the search's. They speak by a socket that stands in
//! place of the searching process's stdin: one line, the directory of the run, when the run has begun.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, setsid};

use super::{
    Failure, Outcome, environment,
    interruption::{self, Interruptions, Searching, Voice, ended_at_once, guarded},
    print_if_read, say,
    watch::{Exports, Lines, request},
};
use crate::{
    cli::{LogFormat, WatchOptions},
    dashboard::{self, Action, Feed},
    event::{Record, words::shell_word},
    session,
    store::RunDir,
};

/// Where a search that shows itself nowhere writes its lines.
const LOG: &str = "search.log";

/// How long a search that was told to end at once may take, in steps.
const LAST_STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(20);

/// Runs the words on the command line here, or has them run by a process of its own that is shown here. `ask` asks the
/// person what must be asked.
pub fn run(watch: &WatchOptions, ask: impl FnOnce() -> Outcome, work: impl FnOnce() -> Outcome) -> Outcome {
    if !wants_dashboard(watch) {
        return work();
    }
    ask()?;
    show()
}

fn wants_dashboard(watch: &WatchOptions) -> bool {
    let is_told_apart = watch.headless || watch.detached || watch.log_format != LogFormat::Text;
    !is_told_apart && environment::is_interactive()
}

/// The searching process, from this side.
#[derive(Clone)]
pub struct Searcher(Arc<Mutex<Child>>);

impl Searcher {
    /// Starts this program with the same words, and gives the end of the line by which it says where the run is.
    fn start() -> Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().context("no socket can be made")?;
        let mut command = environment::this_program();
        command
            .args(environment::words())
            .arg("--detached")
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().context("the search cannot be started")?;
        Ok((Self(Arc::new(Mutex::new(child))), ours))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Child) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Passes a signal on, unless the process is over.
    pub fn signal(&self, signal: Signal) {
        self.with(|child| {
            if let Ok(None) = child.try_wait() {
                // It may be over by now; then there is nobody to tell.
                let _ = kill_process(Pid::from_child(child), signal);
            }
        });
    }

    /// Ends it in the midst of things.
    pub fn end_at_once(&self) {
        for step in 0..LAST_STEPS {
            if self.status().is_some() {
                return;
            }
            if step.is_multiple_of(10) {
                self.signal(Signal::INT);
            }
            std::thread::sleep(STEP);
        }
        self.signal(Signal::KILL);
    }

    fn status(&self) -> Option<ExitStatus> {
        self.with(|child| child.try_wait().ok().flatten())
    }

    /// Waits for its end.
    fn outcome(&self) -> Outcome {
        let status = loop {
            match self.status() {
                Some(status) => break status,
                None => std::thread::sleep(STEP),
            }
        };
        match status.code() {
            Some(0) => Ok(()),
            Some(130) => Err(Failure::Interrupted),
            Some(code) => Err(Failure::Told(code.clamp(1, 255) as u8)),
            // By a signal: a first Ctrl-C that came before anybody listened.
            None if std::os::unix::process::ExitStatusExt::signal(&status) == Some(2) => Err(Failure::Interrupted),
            None => Err(Failure::work(anyhow::anyhow!(
                "the search was ended from outside: {status}"
            ))),
        }
    }
}

/// Has it searched, and shows it.
fn show() -> Outcome {
    let (searcher, line) = Searcher::start()?;
    let voice = Voice::default();
    let interruptions = Interruptions::listen(Searching::There(searcher.clone()), &voice)?;
    let Some(dir) = begun(line) else {
        // It has said what is wrong: until the run begins, this terminal is its too.
        return searcher.outcome();
    };
    let name = dir.display().to_string();
    interruptions.is_of(&name);
    let dir = RunDir::open(&dir)?;
    let exit = guarded("the dashboard", || {
        show_dashboard(&dir, &searcher, &interruptions, &voice)
    })
    .flatten();
    voice.is_through(None);
    match exit {
        Some(dashboard::Exit::Closed) => {
            say(format_args!(
                "the search goes on by itself: `heterosis watch {}` shows it again; its lines are in {}",
                shell_word(&name),
                dir.path().join(LOG).display()
            ));
            // Whoever leaves first of a container ends it, and all that runs in it.
            return match environment::is_first_process() {
                true => searcher.outcome(),
                false => Ok(()),
            };
        }
        Some(_) => {}
        None => show_lines(&dir),
    }
    let outcome = searcher.outcome();
    if matches!(outcome, Err(Failure::Told(_))) {
        tell_errors(dir.path());
    }
    if let Ok(run) = dir.run() {
        print_if_read(format_args!("\n{}", dashboard::summary(&run, &name)));
    }
    outcome
}

/// Waits for the beginning of the run; `None` if the process ends without.
fn begun(line: UnixStream) -> Option<PathBuf> {
    let mut text = String::new();
    BufReader::new(line).read_line(&mut text).ok()?;
    serde_json::from_str(text.trim()).ok()
}

/// `None` where it cannot be shown.
fn show_dashboard(
    dir: &RunDir,
    searcher: &Searcher,
    interruptions: &Interruptions,
    voice: &Voice,
) -> Option<dashboard::Exit> {
    let name = dir.path().display().to_string();
    let (mut exports, notices) = Exports::new(dir);
    let watching = match session::watch(dir, exports.tells_fault()) {
        Ok(watching) => watching,
        Err(e) => {
            tracing::warn!("the run cannot be shown: {}", super::in_words(&e.into()));
            return None;
        }
    };
    voice.is_through(Some(exports.notices()));
    let mut asked = |action: Action| match action {
        Action::Abort => {
            dashboard::restore();
            searcher.end_at_once();
            ended_at_once(&name);
            std::process::exit(130);
        }
        Action::Suspend => {
            searcher.signal(Signal::TSTP);
            interruption::suspend();
        }
        Action::RequestExport { id } => exports.begin(id),
        action => request(dir, action),
    };
    let feed = Feed {
        records: &watching.records,
        notices: &notices,
        now_ms: &environment::now_ms,
        flags: &interruptions.flags,
        looks_on: false,
    };
    let shown = dashboard::run(&feed, environment::appearance(), &mut asked);
    voice.is_through(None);
    exports.finish();
    if let Err(e) = watching.end() {
        say(format_args!("error: {}", super::in_words(&e.into())));
    }
    shown
        .inspect_err(|e| tracing::warn!("the dashboard cannot be shown: {e}"))
        .ok()
}

/// The run as lines, to its end.
fn show_lines(dir: &RunDir) {
    let Ok(watching) = session::watch(dir, |_| ()) else {
        return;
    };
    let mut lines = Lines::of_search(LogFormat::Text);
    guarded("the log", || {
        watching.records.iter().for_each(|record: Record| lines.show(&record))
    });
}

/// What the search said when nobody saw it.
fn tell_errors(run: &Path) {
    let text = fs::read_to_string(run.join(LOG)).unwrap_or_default();
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    if let Some(last) = said.last() {
        say(last);
    }
}

/// From the searching process's side: word of the run's beginning, once, when this process has written to its journal.
pub struct Word {
    dir: PathBuf,
    /// Records of before are of an earlier process.
    since_ms: u64,
    is_given: bool,
}

impl Word {
    /// `None` where nobody waits for it.
    pub fn of(watch: &WatchOptions, dir: &RunDir) -> Option<Self> {
        watch.detached.then(|| Self {
            dir: dir.path().to_owned(),
            since_ms: environment::now_ms(),
            is_given: false,
        })
    }

    pub fn see(&mut self, record: &Record) {
        if record.time_ms >= self.since_ms {
            self.give();
        }
    }

    /// The terminal is the other's from here on.
    pub fn give(&mut self) {
        if self.is_given {
            return;
        }
        self.is_given = true;
        if let Err(e) = write_to_file(&self.dir.join(LOG)) {
            tracing::warn!("what this search says is not kept: {}", super::in_words(&e));
        }
        let line = serde_json::to_string(&self.dir).unwrap_or_default() + "\n";
        // Whoever waited may be gone: the search goes on.
        let _ = rustix::io::write(rustix::stdio::stdin(), line.as_bytes());
    }
}

fn write_to_file(log: &Path) -> Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| log.display().to_string())?;
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(())
}

/// Parts from the terminal: its Ctrl-C, Ctrl-Z and end are the other process's to pass on.
pub fn part_from_terminal(watch: &WatchOptions) {
    if watch.detached
        && let Err(e) = setsid()
    {
        tracing::warn!("this search ends with its terminal: {e}");
    }
}
