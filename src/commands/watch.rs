//! `heterosis watch`: looking at a run that goes on, or at an old one, through its journal only.

use std::{
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread::JoinHandle,
};

use anyhow::Context;

use super::{Outcome, environment, interruption, newest, print, print_if_read, say};
use crate::{
    cli::{LogFormat, WatchArgs, WatchOptions},
    dashboard::{self, Action, Feed, Flags, PlainLines},
    event::{Event, Record},
    session::{self, Wish},
    store::{self, RunDir},
};

pub fn watch(args: WatchArgs) -> Outcome {
    let dir = RunDir::open(&newest::or_newest(args.run)?)?;
    if let Some(speed) = &args.replay {
        let speed: f64 = speed
            .trim_end_matches('x')
            .parse()
            .with_context(|| format!("--replay {speed}: write how many times as fast, such as 60x"))?;
        let (records, clock) = dashboard::replay(whole(&dir)?, speed);
        let now = || clock.load(std::sync::atomic::Ordering::Relaxed);
        return look(&dir, &records, &now, Exports::new(&dir), &args.watch);
    }
    let (exports, notices) = Exports::new(&dir);
    let watching = session::watch(&dir, exports.tells_fault())?;
    let told = (exports, notices);
    look(&dir, &watching.records, &environment::now_ms, told, &args.watch)?;
    Ok(watching.end()?)
}

fn look(
    dir: &RunDir,
    records: &Receiver<Record>,
    now_ms: &dyn Fn() -> u64,
    (mut exports, notices): (Exports<'_>, Receiver<String>),
    watch: &WatchOptions,
) -> Outcome {
    if watch.headless || !environment::is_interactive() {
        let mut lines = Lines::of_viewer(watch.log_format);
        for record in records {
            lines.show(&record);
        }
        return Ok(());
    }
    let mut asked = |action: Action| match action {
        Action::RequestExport { id } => exports.begin(id),
        action => request(dir, action),
    };
    let feed = Feed {
        records,
        notices: &notices,
        now_ms,
        flags: &Flags::default(), // a viewer may end with its terminal
        looks_on: true,
    };
    dashboard::run(&feed, environment::appearance(), &mut asked)?;
    exports.finish();
    Ok(())
}

/// All records of a journal, after it was seen that each of them can be read.
fn whole(dir: &RunDir) -> Result<impl Iterator<Item = Record> + Send + 'static, store::Error> {
    store::records(&dir.journal())?.try_for_each(|record| record.map(drop))?;
    Ok(store::records(&dir.journal())?.map_while(Result::ok))
}

/// Passes a wish on to the process that searches, through files that it looks at between two candidates.
pub fn request(dir: &RunDir, action: Action) {
    let wish = match action {
        Action::RequestStop => Wish::Stop,
        Action::RequestPause => Wish::Pause,
        Action::RequestResume => Wish::GoOn,
        Action::Suspend => return interruption::suspend(),
        Action::CloseView | Action::Abort | Action::RequestExport { .. } => return,
    };
    if let Err(e) = session::wish(dir, wish) {
        tracing::warn!("the request cannot be passed on: {}", super::in_words(&e.into()));
    }
}

/// Exports that the view asks for, each in a process of its own: it must not print into the screen, and the search goes on
/// whatever becomes of it.
pub struct Exports<'a> {
    dir: &'a RunDir,
    notices: Sender<String>,
    running: Vec<JoinHandle<String>>,
}

impl<'a> Exports<'a> {
    /// The other end is told how each export ended.
    pub fn new(dir: &'a RunDir) -> (Self, Receiver<String>) {
        let (notices, receiver) = mpsc::channel();
        let running = Vec::new();
        (Self { dir, notices, running }, receiver)
    }

    /// Has the view told what is wrong with the run's journal.
    pub fn tells_fault(&self) -> impl FnOnce(&str) + Send + 'static {
        let notices = self.notices.clone();
        move |fault| {
            // Nobody may be looking any more.
            let _ = notices.send(format!("error: {fault}"));
        }
    }

    /// Whoever else has something to say in the view.
    pub fn notices(&self) -> Sender<String> {
        self.notices.clone()
    }

    /// Writes a candidate to the run's folder of exports.
    pub fn begin(&mut self, id: String) {
        let out = self.dir.path().join("exports").join(&id);
        let mut command = environment::this_program();
        command
            .arg("--quiet")
            .arg("export")
            .args([self.dir.path(), Path::new(&id), &out]);
        let notices = self.notices.clone();
        self.running.push(std::thread::spawn(move || {
            let told = match environment::run_quietly(&mut command) {
                Ok(()) => format!("exported {id} to {}", out.display()),
                Err(reason) => format!("{id} is not exported: {reason}"),
            };
            let _ = notices.send(told.clone()); // the view may be closed by now
            told
        }));
    }

    /// Waits for what was begun, and tells it once more where it stays.
    pub fn finish(self) {
        if self.running.iter().any(|export| !export.is_finished()) {
            say("waiting for an export that was begun");
        }
        for export in self.running {
            match export.join() {
                Ok(told) => say(told),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
}

/// Records as lines on stdout.
pub struct Lines {
    format: LogFormat,
    /// Whoever prints these has the last word on a failed run.
    is_of_search: bool,
    plain: PlainLines,
    print: fn(&str),
}

impl Lines {
    /// Of a viewer, which ends when nobody reads it.
    pub fn of_viewer(format: LogFormat) -> Self {
        Self {
            format,
            is_of_search: false,
            plain: PlainLines::new(environment::utc_offset_s()),
            print: |line| print(line),
        }
    }

    /// Of a search, which goes on; why it failed is told after it, as the error that it ends with.
    pub fn of_search(format: LogFormat) -> Self {
        Self {
            is_of_search: true,
            print: |line| print_if_read(line),
            ..Self::of_viewer(format)
        }
    }

    pub fn show(&mut self, record: &Record) {
        let line = self.plain.line(record);
        match self.format {
            LogFormat::Text => {
                let is_told_after = self.is_of_search && matches!(record.event, Event::RunFailed { .. });
                if let Some(line) = line.filter(|_| !is_told_after) {
                    (self.print)(&line);
                }
            }
            // Answers are in the journal; a log of them would drown everything else.
            LogFormat::Json => {
                if !matches!(record.event, Event::Answers(_) | Event::QuestionTexts(_)) {
                    (self.print)(&serde_json::to_string(record).expect("a record is plain data"));
                }
            }
        }
    }

    /// What the run came to, and what to do next.
    pub fn summary(&self, directory: &str) -> String {
        dashboard::summary(self.plain.run(), directory)
    }
}
