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
    cli::TellArgs,
    dashboard,
    event::{
        Record,
        run::{Run, State},
    },
    host,
    store::RunDir,
    tracking::{Tracker, mlflow::FileStore, mlflow_server::Server, tensorboard::EventFile},
};

/// How long a command at the end of a run is waited for.
const LONGEST: Duration = Duration::from_secs(600);

/// How long a server is waited for.
const A_MOMENT: Duration = Duration::from_secs(60);

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

/// Refuses, before a run begins, what nothing could be told to at its end.
///
/// # Errors
/// The address of `--webhook`, or what looks like one of `--mlflow`, is none.
pub fn check(args: &TellArgs) -> Result<()> {
    let is_path = |word: &str| !word.contains("://");
    match (&args.webhook, args.mlflow.as_ref().and_then(|to| to.to_str())) {
        (Some(url), _) if !is_address(url) => {
            anyhow::bail!("--webhook {url}: an address begins with http:// or https://, and a server's name follows")
        }
        (_, Some(to)) if !is_address(to) && !is_path(to) => anyhow::bail!(
            "--mlflow {to}: a server's address begins with http:// or https://, and its name follows; else a directory is meant"
        ),
        _ => Ok(()),
    }
}

fn is_address(word: &str) -> bool {
    let rest = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| word.strip_prefix(scheme));
    rest.is_some_and(|rest| {
        !rest.starts_with(['/', ':', '?', '#']) && !rest.is_empty() && !word.contains(char::is_whitespace)
    })
}

/// A run on MLflow's server at an address.
fn on_server(url: &str, dir: &RunDir) -> Box<dyn Tracker> {
    let post = host::post();
    let post = move |url: &str, json: &str| post(url, None, json, A_MOMENT);
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
    host::post()(url, None, &body, A_MOMENT).map_err(anyhow::Error::msg)?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        checkpoint::scripted::{Answer, Asked, Scripted},
        event::rehearsal,
    };

    #[test]
    fn an_address_has_a_server() {
        assert!(["http://a", "https://a.b:1/c?d"].into_iter().all(is_address));
        for none in [
            "notaurl",
            "ftp://a",
            "http://",
            "http:///x",
            "https://:80",
            "http://a b",
            "a.b/c",
        ] {
            assert!(!is_address(none), "{none}");
        }
    }

    /// As MLflow does.
    fn answer(asked: &Asked) -> Answer {
        let answer = match asked.path.rsplit("/mlflow/").next().unwrap() {
            "experiments/create" => json!({"experiment_id": "7"}),
            "runs/create" => json!({"run": {"info": {"run_id": "r1"}}}),
            _ => json!({}),
        };
        (
            "200 OK\r\nContent-Type: application/json".into(),
            answer.to_string().into(),
        )
    }

    fn told(to: &str, run: &Path) -> Trackers {
        let (dir, _lock) = RunDir::create(run, &environment::host().holder).unwrap();
        let args = TellArgs {
            mlflow: Some(to.into()),
            ..TellArgs::default()
        };
        let mut trackers = Trackers::of(&args, &dir);
        rehearsal::journal().iter().for_each(|record| trackers.see(record));
        trackers
    }

    #[test]
    fn what_is_no_address_is_refused_before_the_run_begins() {
        let with = |to: &str| {
            check(&TellArgs {
                mlflow: Some(to.into()),
                ..TellArgs::default()
            })
        };
        for to in ["mlruns", "/tmp/a:b", "http://there:5000", "C:/runs"] {
            assert!(with(to).is_ok(), "{to}");
        }
        // The first of them made a folder `http:`.
        for to in ["http://", "file:///tmp/x", "sqlite:///m.db", "http:///x"] {
            let refused = with(to).unwrap_err().to_string();
            assert!(refused.contains(&format!("--mlflow {to}: ")), "{refused}");
        }
    }

    /// `--mlflow http://…` made a folder of that name.
    #[test]
    fn an_mlflow_server_is_told_over_http() {
        let server = Scripted::answering(answer);
        let tmp = tempfile::tempdir().unwrap();
        let trackers = told(&server.address, &tmp.path().join("night-1"));
        assert_eq!(trackers.all.len(), 1, "it took all");
        let heard = server.asked();
        let of = |what: &str| {
            let path = format!("/api/2.0/mlflow/{what}");
            let asked = heard.iter().filter(|asked| asked.path == path);
            asked
                .map(|asked| serde_json::from_slice(&asked.body).unwrap())
                .collect::<Vec<Value>>()
        };
        assert_eq!(of("experiments/create"), [json!({"name": "bilingual-maths"})]);
        assert_eq!(of("runs/create")[0]["run_name"], "night-1");
        let batches = of("runs/log-batch");
        let points = batches.iter().flat_map(|body| body["metrics"].as_array().unwrap());
        assert!(points.clone().any(|point| point["key"] == "final/test"));
        assert!(
            points
                .clone()
                .all(|point| point["step"].is_u64() && point["timestamp"].is_u64())
        );
        assert_eq!(of("runs/update").last().unwrap()["status"], "FINISHED");
    }

    /// A server that is not there ends nothing but its own tracking.
    #[test]
    fn a_server_that_is_not_there_is_given_up() {
        let tmp = tempfile::tempdir().unwrap();
        let trackers = told("http://127.0.0.1:1", &tmp.path().join("night-1"));
        assert!(trackers.all.is_empty());
        assert_eq!(
            std::fs::read_dir(tmp.path()).unwrap().count(),
            1,
            "and no folder has its name"
        );
    }
}
