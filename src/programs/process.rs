//! One running program of the user's: its process group, its pipes, its last words.
//!
//! The program leads a process group of its own, which ends with it, at a timeout, and with this process: a *guard*, a
//! shell that waits for the end of a pipe whose other end only this process holds, kills the group even if this process
//! was killed itself (the kernel's parent-death signal would be shorter, but cannot be set without unsafe code). A
//! descendant that leaves the group by `setsid` is out of reach.
//!
//! Writing and reading have a thread each, so one timeout covers both; a line without end is cut off.

use std::{
    io::Write as _,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
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
use serde::de::DeserializeOwned;

use super::log::Log;

/// No line is longer; whoever writes on without an end would fill the memory.
pub const MOST_LINE: usize = 16 << 20;

/// Lines that a program may be ahead of its questions before it has to wait.
const MOST_AHEAD: usize = 16;

/// How often a silent program is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Ticks after which the pipes of a program that has ended are given up: a descendant outside its group holds them.
const LINGER_TICKS: u64 = 20;

/// Bytes of stderr that are kept for error messages.
const TAIL: usize = 4096;

/// Steps in which programs that are told to end may do so by themselves.
const STEPS_TO_LEAVE: usize = 100;
const STEP_TO_LEAVE: Duration = Duration::from_millis(20);

/// How a program is started.
pub struct Start<'a> {
    /// The program and its arguments.
    pub command: &'a [String],
    /// What it finds in its environment besides what this process has there.
    pub environment: &'a [(&'a str, String)],
    /// Where what it writes to stderr goes, and what it prints besides replies.
    pub log: Log,
    /// A directory that goes with it, even if this process is killed.
    pub scratch: Option<PathBuf>,
}

/// Why no line came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It closed its stdout, or ended.
    Ended,
    /// It said nothing in time.
    Hung,
    /// It wrote a line of more than [`MOST_LINE`] bytes.
    Endless,
    /// Nobody waits for a line any more.
    Closing,
}

/// How long a program is waited for. Counted in ticks, not measured: what it says in vain takes of it, and nothing starts it
/// anew.
pub struct Patience {
    tick: Duration,
    ticks: u64,
}

impl Patience {
    pub fn new(timeout: Duration) -> Self {
        let tick = TICK.min(timeout);
        Self {
            tick,
            ticks: (timeout.as_secs_f64() / tick.as_secs_f64()).ceil() as u64,
        }
    }
}

/// A program that runs.
pub struct Process {
    child: Child,
    group: Pid,
    guard: Child,
    /// `None` once its stdin is closed.
    requests: Option<Sender<String>>,
    lines: Receiver<Line>,
    stderr: JoinHandle<()>,
    tail: Arc<Mutex<Vec<u8>>>,
    status: Option<ExitStatus>,
}

enum Line {
    Object(String),
    Endless,
}

impl Process {
    /// Starts a program.
    ///
    /// # Errors
    /// Why it, or its guard, cannot be started.
    pub fn start(start: Start<'_>) -> Result<Self, String> {
        let name = start.command.first().map_or("", String::as_str);
        let mut child = Command::new(name)
            .args(start.command.iter().skip(1))
            .envs(start.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| format!("the command '{name}' cannot be started: {e}"))?;
        let group = Pid::from_child(&child);
        let guard = match guard(group, start.scratch.as_deref()) {
            Ok(guard) => guard,
            Err(e) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(format!("no shell guards the command '{name}': {e}"));
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
        let (log, also_log) = (start.log.clone(), start.log);
        std::thread::spawn(move || read_objects(BufReader::new(stdout), &log, &send));
        let tail = Arc::default();
        let kept = Arc::clone(&tail);
        Ok(Self {
            child,
            group,
            guard,
            requests: Some(requests),
            lines,
            stderr: std::thread::spawn(move || keep_tail(stderr, &also_log, &kept)),
            tail,
            status: None,
        })
    }

    /// Hands over a line, its end included.
    pub fn send(&self, line: String) {
        if let Some(requests) = &self.requests {
            // If it has gone, listening says so.
            let _ = requests.send(line);
        }
    }

    /// Waits for a line that begins a JSON object, as long as there is patience and nobody sets `closing`. A program that is
    /// silent must be let go of: nobody knows what it would say next.
    ///
    /// # Errors
    /// Why there is none.
    pub fn hear(&mut self, patience: &mut Patience, closing: &AtomicBool) -> Result<String, Silence> {
        let mut since_exit = 0;
        while patience.ticks > 0 {
            patience.ticks -= 1;
            if closing.load(Ordering::Relaxed) {
                return Err(Silence::Closing);
            }
            match self.lines.recv_timeout(patience.tick) {
                Ok(Line::Object(line)) => return Ok(line),
                Ok(Line::Endless) => return Err(Silence::Endless),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Ended),
                Err(RecvTimeoutError::Timeout) if self.has_exited() => {
                    // Its children may hold the pipe open.
                    self.kill();
                    since_exit += 1;
                    if since_exit > LINGER_TICKS {
                        return Err(Silence::Ended);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Err(Silence::Hung)
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

    /// Of one that is silent: whether it had ended by itself, and well. It is over afterwards.
    pub fn has_left(&mut self) -> bool {
        for _ in 0..LINGER_TICKS {
            if self.has_exited() {
                break;
            }
            std::thread::sleep(TICK / 10);
        }
        self.end();
        self.status.is_some_and(|status| status.success())
    }

    /// Ends it; gives the reason with how it ended and the last that it wrote to stderr.
    pub fn over(&mut self, reason: &str) -> String {
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

    fn kill(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
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

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Closing its stdin tells a well-behaved program to end; the other kind is ended.
pub fn leave(processes: Vec<&mut Process>) {
    let mut processes = processes;
    processes.iter_mut().for_each(|process| process.close());
    for _ in 0..STEPS_TO_LEAVE {
        if processes.iter().all(|process| process.has_exited()) {
            break;
        }
        std::thread::sleep(STEP_TO_LEAVE);
    }
    processes.iter_mut().for_each(|process| process.end());
}

/// Kills a process group when this process ends, however it ends, and removes the directory that goes with it. It has a
/// group of its own, out of a terminal's reach.
fn guard(group: Pid, scratch: Option<&Path>) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args([
            "-c",
            "read -r _; kill -KILL -\"$1\"; [ -z \"$2\" ] || rm -rf -- \"$2\"",
            "sh",
        ])
        .arg(group.as_raw_nonzero().to_string())
        .arg(scratch.unwrap_or(Path::new("")))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// What looks like a reply is handed on; everything else that a program prints (libraries do) goes to the log.
fn read_objects(mut stdout: impl BufRead, log: &Log, replies: &SyncSender<Line>) {
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
            if replies.send(Line::Object(text.into_owned())).is_err() {
                return;
            }
        } else if !text.trim().is_empty() {
            log.write(&line);
        }
    }
}

/// The start of a JSON object; `{'loss': 0.1}`, as Python prints a dictionary, is none.
fn is_object(line: &str) -> bool {
    let inside = line.trim_start().strip_prefix('{').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with(['"', '}']))
}

fn keep_tail(mut stderr: impl Read, log: &Log, tail: &Mutex<Vec<u8>>) {
    let mut chunk = [0; TAIL];
    while let Ok(n @ 1..) = stderr.read(&mut chunk) {
        log.write(&chunk[..n]);
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

/// Reads a line. Python writes NaN and Infinity, which JSON does not have: they are read as the texts `"NaN"` and so on.
///
/// # Errors
/// It is no such object.
pub fn read_line<T: DeserializeOwned>(line: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(line).or_else(|e| serde_json::from_str(&quoted(line)).map_err(|_| e))
}

/// How a line begins, for messages; nothing that moves a terminal's cursor.
pub fn beginning(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).take(80).collect()
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
