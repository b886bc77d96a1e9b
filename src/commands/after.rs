//! What a run is to be told to besides this terminal: trackers while it goes on, and whoever wants to know at its end.
//!
//! All of it is named on the command line and nothing in a run directory or a space: what comes from others starts no
//! program and sends nothing anywhere. A tracker that fails is told of once, and the search goes on without it.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{environment, output::json_document, say, status::Status};
use crate::{
    checkpoint::http::Http,
    cli::TellArgs,
    dashboard,
    event::{
        Record,
        run::{Run, State},
    },
    store::RunDir,
    tracking::{Tracker, mlflow::FileStore, mlflow_server::Server, tensorboard::EventFile},
};

/// How long a command at the end of a run is waited for.
const LONGEST: Duration = Duration::from_secs(600);

/// Bytes of a web hook's answer that are read.
const LONGEST_ANSWER: u64 = 1 << 20;

/// The trackers of a run.
pub struct Trackers {
    run: Run,
    all: Vec<(&'static str, Box<dyn Tracker>)>,
}

impl Trackers {
    pub fn of(args: &TellArgs, dir: &RunDir) -> Self {
        let tensorboard = args.tensorboard.as_ref().map(|to| {
            let tracker: Box<dyn Tracker> = Box::new(EventFile::below(to, dir.path()));
            ("--tensorboard", tracker)
        });
        let mlflow = args.mlflow.as_ref().map(|to| {
            if let Some(url) = to.to_str().filter(|word| is_address(word)) {
                return ("--mlflow", on_server(url, dir));
            }
            // Its files name each other.
            let to = std::path::absolute(to).unwrap_or_else(|_| to.clone());
            let tracker: Box<dyn Tracker> = Box::new(FileStore::at(&to, dir.path()));
            ("--mlflow", tracker)
        });
        Self {
            run: Run::default(),
            all: tensorboard.into_iter().chain(mlflow).collect(),
        }
    }

    pub fn see(&mut self, record: &Record) {
        if self.all.is_empty() {
            return;
        }
        self.run.apply(record);
        let run = &self.run;
        self.all.retain_mut(|(flag, tracker)| match tracker.see(run, record) {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!("{flag} gets no more of this run: {e}");
                false
            }
        });
    }
}

fn is_address(word: &str) -> bool {
    word.starts_with("http://") || word.starts_with("https://")
}

/// A run on MLflow's server at an address.
fn on_server(url: &str, dir: &RunDir) -> Box<dyn Tracker> {
    let http = Http::default();
    let post = move |url: &str, json: &str| {
        let answered = http.post_json(url, json, LONGEST_ANSWER);
        answered.map_err(|e| e.to_string())
    };
    Box::new(Server::at(url, dir.path(), Box::new(post)))
}

/// Tells whoever wants to know that the run has ended, whatever has become of it.
pub fn tell(args: &TellArgs, dir: &RunDir) {
    if args.on_done.is_none() && args.webhook.is_none() && !args.notify {
        return;
    }
    // A run that has not begun has said why.
    let Ok(run) = dir.run() else { return };
    let told = [
        args.on_done
            .as_ref()
            .map(|command| run_command(command, dir, &run).context("--on-done")),
        args.webhook
            .as_ref()
            .map(|url| post(url, dir, &run).context("--webhook")),
        args.notify.then(|| notify(dir, &run).context("--notify")),
    ];
    for failed in told.into_iter().flatten().filter_map(Result::err) {
        say(format_args!("error: {}", super::in_words(&failed)));
    }
}

/// `done`, `paused` or `failed`; nobody holds the run any more.
fn state(run: &Run) -> &'static str {
    match run.state {
        State::Done => "done",
        State::Failed(_) => "failed",
        _ => "paused",
    }
}

fn run_command(command: &str, dir: &RunDir, run: &Run) -> Result<()> {
    let name = dir.path().display().to_string();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .stdin(Stdio::null())
        .env("HETEROSIS_RUN", &name)
        .env("HETEROSIS_STATE", state(run))
        .env("HETEROSIS_EVALS", run.evals.to_string())
        .env("HETEROSIS_SUMMARY", dashboard::summary(run, &name));
    if let Some(best) = run.winner() {
        shell
            .env("HETEROSIS_BEST", &best.id)
            .env("HETEROSIS_FITNESS", best.fitness.to_string());
    }
    if let Some(reading) = &run.reading {
        shell
            .env("HETEROSIS_TEST", reading.best.score.value.to_string())
            .env("HETEROSIS_LEAD", reading.difference.to_string());
    }
    let mut child = shell.spawn().context("no shell can be started")?;
    let clock = environment::stopwatch();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => anyhow::bail!("the command ends with {status}"),
            None if clock() > LONGEST => {
                anyhow::bail!("the command takes longer than 10 minutes; it is left to itself")
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn post(url: &str, dir: &RunDir, run: &Run) -> Result<()> {
    let body = json_document(&Status::of(dir, run));
    Http::default().post_json(url, &body, LONGEST_ANSWER)?;
    Ok(())
}

/// A notice on this desktop.
fn notify(dir: &RunDir, run: &Run) -> Result<()> {
    let (title, text) = (
        format!("heterosis: {} is {}", dir.path().display(), state(run)),
        dashboard::summary(run, &dir.path().display().to_string()),
    );
    let text = text.lines().next().unwrap_or_default();
    let mut command = match cfg!(target_os = "macos") {
        true => {
            let mut osascript = Command::new("osascript");
            // The words are arguments of the script and no part of it.
            let script = "on run {title, body}\ndisplay notification body with title title\nend run";
            osascript.args(["-e", script, &title, text]);
            osascript
        }
        false => {
            let mut notify_send = Command::new("notify-send");
            notify_send.args(["--app-name=heterosis", "--", &title, text]);
            notify_send
        }
    };
    let program = command.get_program().to_string_lossy().into_owned();
    environment::run_quietly(&mut command).map_err(|e| anyhow::anyhow!("{program}: {e}"))
}
