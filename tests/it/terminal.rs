//! The dashboard for real: in tmux, driven by keys, read off the screen. Skipped with a word where there is no tmux.
//!
//! The search has bare genes and a shell script for an evaluator, so that candidates come slowly and cost nothing.

use std::{
    cell::Cell,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread::sleep,
    time::{Duration, Instant},
};

use heterosis::dashboard::{self, Appearance, Feed, Flags};
use serde_json::Value;

/// Longest wait for anything to show on the screen; machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tmux server of its own with one window; gone when dropped.
struct Tmux {
    socket: String,
    run: PathBuf,
}

impl Tmux {
    /// Nothing, and a word about it, where tmux is not installed.
    fn installed(test: &str, run: &Path) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            assert!(
                std::env::var_os("CI").is_none(),
                "{test} needs tmux, which is not installed"
            );
            eprintln!("{test} is skipped: tmux is not installed");
            return None;
        }
        Some(Self {
            socket: format!("heterosis-{test}-{}", std::process::id()),
            run: run.to_path_buf(),
        })
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.socket, "-f", "/dev/null"])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell line in a new window of this size; the window stays when the line has ended.
    fn start(&self, columns: u16, rows: u16, line: &str) {
        let (x, y) = (columns.to_string(), rows.to_string());
        let line =
            format!("export LC_ALL=C.UTF-8 HETEROSIS_CACHE=off PS1='$ '; {line}; echo \"exit code $?\"; sleep 600");
        let start = Instant::now();
        // A server whose last window was just closed may be about to end, and takes no new one.
        while self.tmux(&["list-sessions"]).is_empty() {
            assert!(start.elapsed() < PATIENCE, "tmux does not start");
            self.tmux(&["new-session", "-d", "-s", "s", "-x", &x, "-y", &y, "sh", "-c", &line]);
        }
    }

    fn heterosis(&self, words: &str) -> String {
        format!("{} {words} {}", env!("CARGO_BIN_EXE_heterosis"), self.run.display())
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "s", key]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "s"])
    }

    fn resize(&self, columns: u16, rows: u16) {
        let (x, y) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-t", "s", "-x", &x, "-y", &y]);
    }

    /// Waits until the screen shows a text; gives the screen.
    fn sees(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "'{text}' does not come up:\n{screen}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends the window as a closed laptop does: everything in it gets SIGHUP, and its terminal is gone.
    fn close(&self) {
        self.tmux(&["kill-session", "-t", "s"]);
    }

    fn status(&self) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_heterosis"))
            .args(["status", "--json"])
            .arg(&self.run)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn evals(&self) -> u64 {
        self.status()["evals"].as_u64().unwrap()
    }

    /// Waits until the run is in a state.
    fn is(&self, state: &str) {
        let start = Instant::now();
        while self.status()["state"] != state {
            assert!(start.elapsed() < PATIENCE, "not {state}: {}", self.status());
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until no process holds the run.
    fn released(&self) {
        let (lock, start) = (fs::File::open(self.run.join("lock")).unwrap(), Instant::now());
        while lock.try_lock().is_err() {
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until nothing comes any more: what was being asked has been answered.
    fn rests(&self) {
        let (mut before, start) = (self.evals(), Instant::now());
        loop {
            sleep(Duration::from_millis(1500));
            let now = self.evals();
            if now == before {
                return;
            }
            before = now;
            assert!(start.elapsed() < PATIENCE, "the search does not rest");
        }
    }

    /// Waits until the screen shows a text no more.
    fn loses(&self, text: &str) {
        let start = Instant::now();
        while self.screen().contains(text) {
            assert!(start.elapsed() < PATIENCE, "'{text}' stays:\n{}", self.screen());
            sleep(Duration::from_millis(50));
        }
    }

    fn goes_on(&self) {
        let (before, start) = (self.evals(), Instant::now());
        while self.evals() <= before {
            assert!(
                start.elapsed() < PATIENCE,
                "the search does not go on:\n{}",
                self.screen()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Whether the window shows the alternate screen, and its cursor: `10` for a dashboard, `01` for a shell.
    fn screen_state(&self) -> String {
        let format = "#{alternate_on}#{cursor_flag}";
        self.tmux(&["display-message", "-p", "-t", "s", format])
            .trim()
            .to_string()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// A search whose candidates take this many seconds each.
fn slow_space(dir: &Path, seconds: f64) -> PathBuf {
    let script = dir.join("score.sh");
    let text = format!(
        "while read -r line; do\n  echo >{}\n  id=${{line#*'\"id\":\"'}}; id=${{id%%'\"'*}}\n  sleep {seconds}\n  n=$((n + 1))\n  \
         echo \"{{\\\"id\\\":\\\"$id\\\",\\\"scores\\\":{{\\\"s\\\":0.$((n % 90 + 10))}}}}\"\ndone\n",
        dir.join("asked").display()
    );
    fs::write(&script, text).unwrap();
    let file = dir.join("space.yaml");
    let text = format!(
        "name: slow\ngenes:\n  x: [-5.0, 5.0]\n  y: [-5.0, 5.0]\nfitness: {{command: [sh, {}]}}\nsearch: {{optimizer: \
         cma-es, evals: 100000, seed: 1}}\n",
        script.display()
    );
    fs::write(&file, text).unwrap();
    file
}

/// Waits until the evaluator of [`slow_space`] has been asked.
fn is_asked(dir: &Path) {
    let start = Instant::now();
    while !dir.join("asked").exists() {
        assert!(start.elapsed() < PATIENCE, "the evaluator is not asked");
        sleep(Duration::from_millis(20));
    }
}

fn start_search(tmux: &Tmux, space: &Path) {
    tmux.start(80, 24, &tmux.heterosis(&format!("search {} --run", space.display())));
    tmux.sees("evals");
    tmux.goes_on();
}

#[test]
fn keys_pause_leave_come_back_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let Some(tmux) = Tmux::installed("keys", &run) else {
        return;
    };
    start_search(&tmux, &slow_space(dir.path(), 0.05));
    assert_eq!(tmux.screen_state(), "10");

    // p pauses: what is in flight ends, and no more comes.
    tmux.key("p");
    tmux.is("paused");
    tmux.rests();
    tmux.sees("paused");
    tmux.key("p");
    tmux.is("running");
    tmux.goes_on();

    // A storm of sizes, the smallest of which have room for nothing.
    for (columns, rows) in [
        (20, 5),
        (200, 60),
        (1, 1),
        (33, 7),
        (120, 40),
        (2, 50),
        (250, 2),
        (80, 24),
    ] {
        tmux.resize(columns, rows);
        sleep(Duration::from_millis(120));
    }
    for page in ["1", "2", "3", "4", "5", "6", "7", "?", "?", "1"] {
        tmux.key(page);
    }
    tmux.sees("evals");
    tmux.goes_on();

    // q gives the shell back, and the search goes on by itself.
    tmux.key("q");
    let screen = tmux.sees("exit code 0");
    assert!(screen.contains("the search goes on by itself"), "{screen}");
    assert_eq!(tmux.screen_state(), "01", "the terminal is as it was");
    tmux.is("running");
    tmux.goes_on();

    // Another terminal comes back to it; e exports, and says why it cannot; S asks before it stops.
    let Some(viewer) = Tmux::installed("viewer", &run) else {
        return;
    };
    viewer.start(120, 40, &viewer.heterosis("watch"));
    viewer.sees("★1"); // somebody to export
    // Whom no journal names yet, it shows as well.
    viewer.loses("no live progress");
    viewer.key("e");
    viewer.sees("is not exported");
    viewer.key("S");
    viewer.sees("y");
    viewer.key("n");
    viewer.sees("not stopped");
    tmux.goes_on();
    viewer.key("S");
    viewer.key("y");
    tmux.is("paused");
    tmux.released();
    viewer.key("q");
    viewer.sees("exit code 0");
    assert_eq!(viewer.screen_state(), "01");
}

/// A window's new size and a key in one frame: the key was not read until the next one came, and `q` seemed to do nothing.
#[test]
fn a_key_beside_a_new_size_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let Some(tmux) = Tmux::installed("sizes", &dir.path().join("run")) else {
        return;
    };
    start_search(&tmux, &slow_space(dir.path(), 0.2));
    for round in 0..6 {
        let (columns, page, title) = [(81, "6", "─ log"), (80, "7", "─ result")][round % 2];
        // A key, after which the next frame is waited for.
        tmux.key("x");
        tmux.resize(columns, 24);
        tmux.key(page);
        tmux.sees(title);
        // tmux tells of a new size four times a second at most.
        sleep(Duration::from_millis(300));
    }
    // Without its terminal it would go on by itself.
    tmux.key("C-c");
    tmux.sees("exit code 130");
}

#[test]
fn the_first_interrupt_drains_the_second_aborts() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let Some(tmux) = Tmux::installed("interrupts", &run) else {
        return;
    };
    start_search(&tmux, &slow_space(dir.path(), 0.3));
    tmux.key("C-c");
    tmux.sees("exit code 130");
    assert_eq!(tmux.screen_state(), "01");
    assert!(
        fs::read_to_string(run.join("journal.jsonl"))
            .unwrap()
            .contains("run_stopped"),
        "the journal is closed"
    );
    tmux.close();

    // Each candidate now takes longer than anybody waits.
    slow_space(dir.path(), 60.0);
    fs::remove_file(dir.path().join("asked")).unwrap();
    tmux.start(80, 24, &tmux.heterosis("resume"));
    tmux.sees("evals");
    is_asked(dir.path());
    tmux.key("C-c");
    tmux.sees("stopping");
    tmux.key("C-c");
    tmux.sees("exit code 130");
    assert_eq!(tmux.screen_state(), "01");
    tmux.is("paused");
}

/// Ctrl-C twice left nothing but a prompt, and one had to know that the run can go on.
#[test]
fn an_end_at_once_says_what_it_means() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Each candidate takes longer than anybody waits.
    let space = slow_space(dir.path(), 60.0);
    let mut search = super::program::heterosis(&["search", &space.display().to_string(), "--headless", "--run"])
        .arg(&run)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    is_asked(dir.path());
    let mut told = BufReader::new(search.stderr.take().unwrap()).lines();
    let mut interrupted = || {
        Command::new("kill")
            .args(["-INT", &search.id().to_string()])
            .status()
            .unwrap();
        told.next().unwrap().unwrap()
    };
    assert!(interrupted().contains("Ctrl-C again ends at once"));
    let last = interrupted();
    assert!(
        last.contains("ended at once") && last.contains("heterosis resume"),
        "{last}"
    );
    assert_eq!(search.wait().unwrap().code(), Some(130));

    let Some(tmux) = Tmux::installed("twice", &run) else {
        return;
    };
    fs::remove_file(dir.path().join("asked")).unwrap();
    tmux.start(200, 24, &tmux.heterosis("resume --yes"));
    tmux.sees("evals");
    is_asked(dir.path());
    tmux.key("C-c");
    tmux.sees("Ctrl-C again ends at once");
    tmux.key("C-c");
    let screen = tmux.sees("exit code 130");
    assert!(
        screen.contains("ended at once") && screen.contains("heterosis resume"),
        "{screen}"
    );
    assert_eq!(tmux.screen_state(), "01");
}

/// Ctrl-Z was ignored: a person at a shell could not get it back without leaving the view.
#[test]
fn a_suspended_dashboard_gives_the_terminal_back_and_takes_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let Some(tmux) = Tmux::installed("suspend", &run) else {
        return;
    };
    let space = slow_space(dir.path(), 0.05);
    tmux.start(120, 30, "sh -i");
    let line = tmux.heterosis(&format!("search {} --run", space.display()));
    tmux.tmux(&["send-keys", "-t", "s", &line, "Enter"]);
    tmux.sees("evals");
    tmux.goes_on();
    for by_key in [true, false] {
        if by_key {
            tmux.key("C-z");
        } else {
            // As `kill -TSTP` does from elsewhere.
            let pid = tmux.tmux(&["display-message", "-p", "-t", "s", "#{pane_pid}"]);
            let of_run = format!("kill -TSTP $(pgrep -P $(pgrep -P {} sh))", pid.trim());
            Command::new("sh").args(["-c", &of_run]).status().unwrap();
        }
        tmux.sees("Stopped");
        assert_eq!(tmux.screen_state(), "01", "the terminal is the shell's");
        tmux.rests();
        tmux.tmux(&["send-keys", "-t", "s", "clear; fg", "Enter"]);
        tmux.sees("evals");
        assert_eq!(tmux.screen_state(), "10");
        tmux.goes_on();
    }
    tmux.key("C-c");
    tmux.is("paused");
}

/// A dashboard whose clock breaks after three seconds.
#[test]
#[ignore = "is run by the test below, in a terminal of its own"]
fn a_view_that_panics() {
    let (records_end, records) = mpsc::channel();
    let (notices_end, notices) = mpsc::channel();
    let looks = Cell::new(0);
    let now_ms = || {
        looks.set(looks.get() + 1);
        assert!(looks.get() < 30, "the clock broke");
        0
    };
    let feed = Feed {
        records: &records,
        notices: &notices,
        now_ms: &now_ms,
        looks_on: false,
        flags: &Flags::default(),
    };
    let shown = dashboard::run(&feed, Appearance::default(), &mut |_| ());
    drop((records_end, notices_end));
    panic!("the view was left: {shown:?}");
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let Some(tmux) = Tmux::installed("panic", Path::new("")) else {
        return;
    };
    let this = std::env::current_exe().unwrap();
    let view = "--exact terminal::a_view_that_panics --ignored --nocapture";
    let line = format!(
        "RUST_BACKTRACE=0 {} {view}; code=$?; stty -a | grep -o -- '-*icanon'; (exit $code)",
        this.display()
    );
    tmux.start(80, 24, &line);
    tmux.sees("waiting");
    assert_eq!(tmux.screen_state(), "10");
    let screen = tmux.sees("exit code 101");
    assert!(screen.contains("the clock broke"), "the message is not lost: {screen}");
    assert!(!screen.contains("-icanon"), "the terminal is still raw: {screen}");
    assert_eq!(tmux.screen_state(), "01");
}

#[test]
fn a_closed_laptop_kills_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let Some(tmux) = Tmux::installed("hangup", &run) else {
        return;
    };
    start_search(&tmux, &slow_space(dir.path(), 0.05));
    // Once while the dashboard shows, once after it was left.
    for leave in [false, true] {
        if leave {
            tmux.key("q");
            tmux.sees("the search goes on");
        }
        tmux.close();
        sleep(Duration::from_millis(300));
        tmux.goes_on();
        tmux.goes_on();
        assert_eq!(tmux.status()["state"], "running");
        fs::write(run.join("stop-request"), "").unwrap();
        tmux.is("paused");
        tmux.released();
        if !leave {
            tmux.start(80, 24, &tmux.heterosis("resume"));
            tmux.sees("evals");
            tmux.goes_on();
        }
    }
}

#[test]
fn colours_and_signs_go_where_they_are_not_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    fs::create_dir(&run).unwrap();
    let night = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dashboard/night.jsonl");
    fs::copy(night, run.join("journal.jsonl")).unwrap();
    let Some(tmux) = Tmux::installed("plain", &run) else {
        return;
    };
    let colours = |tmux: &Tmux| {
        tmux.tmux(&["capture-pane", "-p", "-e", "-t", "s"])
            .contains("\u{1b}[38;5")
    };
    tmux.start(80, 24, &tmux.heterosis("watch"));
    tmux.sees("result");
    assert!(colours(&tmux) && !tmux.screen().is_ascii());
    tmux.close();
    tmux.start(
        80,
        24,
        &format!("NO_COLOR=1 HETEROSIS_ASCII=1 {}", tmux.heterosis("watch")),
    );
    let screen = tmux.sees("result");
    assert!(!colours(&tmux), "NO_COLOR");
    assert!(screen.is_ascii(), "{screen}");
}
