//! One running copy of an evaluator program: its process group, its pipes, its last words.
//!
//! The program leads a process group of its own, which ends with it, at a timeout, and with this process: a *guard*, a
//! shell that waits for the end of a pipe whose other end only this process holds, kills the group even if this process
//! was killed itself (the kernel's parent-death signal would be shorter, but cannot be set without unsafe code). A
//! descendant that leaves the group by `setsid` is out of reach.
//!
//! Writing and reading have a thread each, so one timeout covers both; a line without end is cut off.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;
use serde_json::{Map, Value};

/// No reply is longer; whoever writes on without an end would fill the memory.
const MOST_LINE: usize = 16 << 20;

/// Replies that a program may be ahead of its questions before it has to wait.
const MOST_AHEAD: usize = 16;

/// How often a silent program is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Ticks after which the pipes of a program that has ended are given up: a descendant outside its group holds them.
const LINGER_TICKS: u64 = 20;

/// Bytes of stderr that are kept for error messages.
const TAIL: usize = 4096;

/// What a program answers.
#[derive(Debug, Deserialize)]
pub struct Reply {
    pub id: String,
    pub scores: Option<Map<String, Value>>,
    pub error: Option<String>,
    pub answers: Option<Vec<ReplyAnswer>>,
}

/// What a program says of one question.
#[derive(Debug, Deserialize)]
pub struct ReplyAnswer {
    pub id: String,
    /// May be left out where there is one task.
    pub task: Option<String>,
    #[serde(default)]
    pub lang: String,
    pub score: Option<f64>,
    pub correct: Option<bool>,
    /// What the model wrote, for people to read.
    #[serde(default)]
    pub output: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Broke {
    /// It cannot be started at all.
    CannotStart(String),
    /// It ended by itself and well, after it had answered others: one that scores a candidate and exits.
    Left,
    /// It ended, or what it said was no answer.
    Down(String),
    /// It said nothing in time.
    Hung(String),
    /// Nobody waits for an answer any more.
    Closing,
}

/// A program that runs.
pub struct Program {
    child: Child,
    group: Pid,
    guard: Child,
    /// `None` once its stdin is closed.
    requests: Option<Sender<String>>,
    lines: Receiver<Line>,
    stderr: JoinHandle<()>,
    tail: Arc<Mutex<Vec<u8>>>,
    /// The last that it answered for.
    answered: Option<String>,
    status: Option<ExitStatus>,
}

enum Line {
    Reply(String),
    Endless,
}

impl Program {
    /// Starts a program as one of several workers, which finds its number in `HETEROSIS_WORKER`, from 0 (a GPU of its own:
    /// `CUDA_VISIBLE_DEVICES=$HETEROSIS_WORKER`); what it writes to stderr, and what it prints besides replies, goes to the end of `log`.
    ///
    /// # Errors
    /// It, its log or its guard cannot be opened.
    pub fn start(command: &[String], worker: usize, log: &Path) -> Result<Self, Broke> {
        let name = command.first().map_or("", String::as_str);
        let failed = |e: std::io::Error| Broke::CannotStart(format!("the command '{name}' cannot be started: {e}"));
        let no_log = |e: std::io::Error| Broke::CannotStart(format!("{} cannot be written: {e}", log.display()));
        let log = File::options().create(true).append(true).open(log).map_err(no_log)?;
        let also_log = log.try_clone().map_err(no_log)?;
        let mut child = Command::new(name)
            .args(command.iter().skip(1))
            .env("HETEROSIS_WORKER", worker.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let group = Pid::from_child(&child);
        let guard = match guard(group) {
            Ok(guard) => guard,
            Err(e) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(Broke::CannotStart(format!("no shell guards the command '{name}': {e}")));
            }
        };
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            unreachable!("all three are piped")
        };
        let (requests, to_write) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            // A program that does not read keeps this thread waiting, and nobody else; one that has ended is noticed below.
            while let Ok(request) = to_write.recv() {
                if stdin
                    .write_all(request.as_bytes())
                    .and_then(|()| stdin.flush())
                    .is_err()
                {
                    break;
                }
            }
        });
        let (send, lines) = mpsc::sync_channel(MOST_AHEAD);
        std::thread::spawn(move || read_replies(BufReader::new(stdout), log, &send));
        let tail = Arc::default();
        let kept = Arc::clone(&tail);
        Ok(Self {
            child,
            group,
            guard,
            requests: Some(requests),
            lines,
            stderr: std::thread::spawn(move || keep_tail(stderr, also_log, &kept)),
            tail,
            answered: None,
            status: None,
        })
    }

    /// Hands over a request line and waits for the reply to `id`, as long as nobody sets `closing`. One that broke down
    /// must be let go of: nobody knows what it would say next.
    ///
    /// # Errors
    /// It ended, hung, or said something else.
    pub fn ask(&mut self, request: String, id: &str, timeout: Duration, closing: &AtomicBool) -> Result<Reply, Broke> {
        if let Some(requests) = &self.requests {
            // If it has gone, reading says so.
            let _ = requests.send(request);
        }
        let tick = TICK.min(timeout);
        let ticks = timeout.as_secs_f64() / tick.as_secs_f64();
        let mut since_exit = 0;
        // Counted, not measured: whatever it says in vain takes of its time, and nothing starts it anew.
        for _ in 0..ticks.ceil() as u64 {
            if closing.load(Ordering::Relaxed) {
                return Err(Broke::Closing);
            }
            match self.lines.recv_timeout(tick) {
                Ok(Line::Reply(line)) => {
                    let reply = read_reply(&line).map_err(|reason| self.down(&reason))?;
                    if reply.id == id {
                        self.answered = Some(reply.id);
                        return Ok(Reply { id: id.into(), ..reply });
                    }
                    if self.answered.as_ref() != Some(&reply.id) {
                        return Err(self.down(&format!("the command answered for '{}' instead of '{id}'", reply.id)));
                    }
                }
                Ok(Line::Endless) => {
                    return Err(self.down(&format!(
                        "the command wrote a line of more than {} MiB",
                        MOST_LINE >> 20
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
                Err(RecvTimeoutError::Timeout) if self.has_exited() => {
                    // Its children may hold the pipe open.
                    self.kill();
                    since_exit += 1;
                    if since_exit > LINGER_TICKS {
                        return Err(self.gone());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let waited = format!("the command gave no answer within {} s", timeout.as_secs_f64());
        Err(Broke::Hung(self.over(&waited)))
    }

    /// Tells it that nobody will ask any more.
    pub fn close(&mut self) {
        self.requests = None;
    }

    /// Whether it has ended, whatever became of its children.
    pub fn has_exited(&self) -> bool {
        // It is left to be waited for, so that the group's number stays taken.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.group), look), Ok(None))
    }

    fn kill(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    /// It closed its stdout.
    fn gone(&mut self) -> Broke {
        for _ in 0..LINGER_TICKS {
            if self.has_exited() {
                break;
            }
            std::thread::sleep(TICK / 10);
        }
        self.end();
        match (self.status, &self.answered) {
            (Some(status), Some(_)) if status.success() => Broke::Left,
            _ => self.down("the command ended before it answered"),
        }
    }

    fn down(&mut self, reason: &str) -> Broke {
        Broke::Down(self.over(reason))
    }

    /// Ends it; gives the reason with how it ended and the last that it wrote to stderr.
    fn over(&mut self, reason: &str) -> String {
        let by_itself = self.has_exited();
        self.end();
        let mut reason = reason.to_string();
        if let Some(status) = self.status.filter(|_| by_itself) {
            reason += &format!(" ({status})");
        }
        let words = last_words(&entered(&self.tail));
        if !words.is_empty() {
            reason += &format!(": {words}");
        }
        reason
    }

    /// Ends the group, then the guard, and only then gives the group's number back.
    fn end(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.kill();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        self.status = self.child.wait().ok();
        for _ in 0..LINGER_TICKS {
            if self.stderr.is_finished() {
                break;
            }
            std::thread::sleep(TICK / 20);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills a process group when this process ends, however it ends. It has a group of its own, out of a terminal's reach.
fn guard(group: Pid) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "read -r _; kill -KILL -\"$1\"", "sh"])
        .arg(group.as_raw_nonzero().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// What looks like a reply is handed on; everything else that a program prints (libraries do) goes to the log.
fn read_replies(mut stdout: impl BufRead, mut log: File, replies: &SyncSender<Line>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdout.by_ref().take(MOST_LINE as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(n) if n > MOST_LINE => {
                let _ = replies.send(Line::Endless);
                return;
            }
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        if is_object(&text) {
            if replies.send(Line::Reply(text.into_owned())).is_err() {
                return;
            }
        } else if !text.trim().is_empty() {
            let _ = log.write_all(&line);
        }
    }
}

/// The start of a JSON object; `{'loss': 0.1}`, as Python prints a dictionary, is none.
fn is_object(line: &str) -> bool {
    let inside = line.trim_start().strip_prefix('{').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with(['"', '}']))
}

fn keep_tail(mut stderr: impl Read, mut log: File, tail: &Mutex<Vec<u8>>) {
    let mut chunk = [0; TAIL];
    while let Ok(n @ 1..) = stderr.read(&mut chunk) {
        let _ = log.write_all(&chunk[..n]);
        let mut tail = entered(tail);
        tail.extend_from_slice(&chunk[..n]);
        let too_many = tail.len().saturating_sub(TAIL);
        tail.drain(..too_many);
    }
}

/// A thread that panicked leaves bytes that are as good as before.
fn entered(tail: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last three lines, in one; nothing that moves a terminal's cursor.
fn last_words(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].iter();
    let short = last.map(|line| line.chars().filter(|c| !c.is_control()).take(200).collect::<String>());
    short.collect::<Vec<_>>().join(" | ")
}

/// # Errors
/// What is wrong with the line.
fn read_reply(line: &str) -> Result<Reply, String> {
    // Python writes NaN and Infinity, which JSON does not have: then the score is at fault, not the program.
    serde_json::from_str(line).or_else(|e| {
        serde_json::from_str(&quoted(line)).map_err(|_| {
            let start: String = line.trim().chars().filter(|c| !c.is_control()).take(80).collect();
            format!("the command's answer is no JSON line of the form {{\"id\":…,\"scores\":{{…}}}} ({e}): {start}")
        })
    })
}

/// Bare `NaN`, `Infinity` and `-Infinity` in quotes, so that the rest can be read.
fn quoted(line: &str) -> String {
    let (mut out, mut rest, mut in_text) = (String::new(), line, false);
    while let Some(c) = rest.chars().next() {
        let bare = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|word| rest.starts_with(word));
        let taken = match (in_text, bare) {
            (false, Some(word)) => {
                out += &format!("\"{word}\"");
                word.len()
            }
            (true, _) if c == '\\' => {
                let pair: String = rest.chars().take(2).collect();
                out += &pair;
                pair.len()
            }
            _ => {
                in_text ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library that printed "warming up", or a trainer its losses, failed the candidate and cost the worker.
    #[test]
    fn only_what_begins_a_json_object_is_taken_for_a_reply() {
        for reply in ["{\"id\": 1}", "  { \"id\": 1}\r", "{}", "{\"id\": truncated"] {
            assert!(is_object(reply), "{reply}");
        }
        for other in ["warming up", "", "{'loss': 0.3}", "[1]", "100%|███", "{id: 1}"] {
            assert!(!is_object(other), "{other}");
        }
    }

    /// Asks a shell script for `c1`; gives the answer and how long it took.
    fn asked(script: &str, request: &str, timeout: f64) -> (Result<Reply, Broke>, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let command = ["sh", "-c", script].map(String::from);
        let mut program = Program::start(&command, 3, &dir.path().join("command.log")).unwrap();
        let clock = std::time::Instant::now();
        let timeout = Duration::from_secs_f64(timeout);
        let answer = program.ask(format!("{request}\n"), "c1", timeout, &AtomicBool::new(false));
        (answer, clock.elapsed())
    }

    /// Longer than anybody waits here, and shorter than what it was before: for ever.
    const SOON: Duration = Duration::from_secs(20);

    /// A request for 4,000 genes did not fit into the pipe of a command that was busy, and the search stood still for ever.
    #[test]
    fn a_request_larger_than_the_pipe_waits_no_longer_than_the_timeout() {
        let request = "x".repeat(1 << 20);
        let (answer, took) = asked("sleep 60", &request, 0.5);
        assert!(
            matches!(&answer, Err(Broke::Hung(reason)) if reason.contains("within 0.5 s")),
            "{answer:?}"
        );
        assert!(took < SOON, "{took:?}");
        let counts = r#"n=$(head -n 1 | wc -c); echo "{\"id\":\"c1\",\"scores\":{\"bytes\":$n}}""#;
        let (answer, _) = asked(counts, &request, 60.0);
        assert_eq!(answer.unwrap().scores.unwrap()["bytes"], (1 << 20) + 1);
    }

    /// Eight workers on eight cards all took the first one.
    #[test]
    fn a_worker_is_told_its_number() {
        let says = r#"read -r l; echo "{\"id\":\"c1\",\"scores\":{\"worker\":$HETEROSIS_WORKER}}""#;
        let (answer, _) = asked(says, "{}", 60.0);
        assert_eq!(answer.unwrap().scores.unwrap()["worker"], 3);
    }

    /// Each blank line began the timeout anew: `while True: print()` held the search up for ever.
    #[test]
    fn what_says_nothing_in_many_lines_has_hung() {
        for line in ["", "warming up", r#"{\"id\":\"c0\",\"scores\":{}}"#] {
            let script = format!("read -r l; while :; do echo \"{line}\"; sleep 0.05; done");
            let (answer, took) = asked(&script, "{}", 0.6);
            match line.starts_with('{') {
                true => assert!(
                    matches!(&answer, Err(Broke::Down(reason)) if reason.contains("answered for 'c0'")),
                    "{answer:?}"
                ),
                false => assert!(matches!(answer, Err(Broke::Hung(_))), "{line}: {answer:?}"),
            }
            assert!(took < SOON, "{line}: {took:?}");
        }
    }

    /// A line without end was kept in memory whole: 1.8 GB in two seconds.
    #[test]
    fn a_line_without_end_is_cut_off() {
        let (answer, took) = asked("read -r l; tr '\\0' x < /dev/zero", "{}", 60.0);
        assert!(
            matches!(&answer, Err(Broke::Down(reason)) if reason.contains("more than 16 MiB")),
            "{answer:?}"
        );
        assert!(took < SOON, "{took:?}");
    }

    #[test]
    fn python_s_nan_is_read_as_a_word() {
        let reply = read_reply(r#"{"id": "c \" NaN", "scores": {"a": NaN, "b": -Infinity, "NaN": 1.5}}"#).unwrap();
        let scores = reply.scores.unwrap();
        assert_eq!((&scores["a"], &scores["b"]), (&"NaN".into(), &"-Infinity".into()));
        assert_eq!((reply.id.as_str(), &scores["NaN"]), ("c \" NaN", &1.5.into()));
        assert!(
            read_reply("{\"id\": 3}")
                .unwrap_err()
                .contains("no JSON line of the form")
        );
    }

    #[test]
    fn last_words_are_few_and_move_no_cursor() {
        let tail = b"Traceback\n  File x\n\nImportError: no module\x1b[2J named lm_eval\n";
        assert_eq!(
            last_words(tail),
            "Traceback | File x | ImportError: no module[2J named lm_eval"
        );
        assert_eq!(last_words(b""), "");
    }
}
