//! Replies of a command that came before their turn.
//!
//! The journal keeps candidates in the order in which one hand would have scored them, so that a run does not depend on how many workers
//! it had. What is out of turn stands in a file of the run until it is told: a run that is killed would ask for it again.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::program::Reply;

/// What came early, and waits.
pub(super) struct Early {
    file: PathBuf,
    /// Of an earlier process, by what was asked.
    found: HashMap<String, Line>,
    /// Candidate and split of those whose replies stand in the file and are not told yet, as far as this process knows.
    waiting: Vec<(String, String)>,
    /// Whether there is a file.
    is_there: bool,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Of the request, without what differs from process to process.
    asked: String,
    split: String,
    reply: Reply,
    /// Of the reply: one that was damaged is as one that never came.
    check: String,
}

impl Early {
    /// Takes what an earlier process left.
    pub fn open(file: &Path) -> Self {
        // Whatever else is called so is nobody's replies, and a pipe would be waited for.
        let is_there = file.is_file();
        let text = if is_there {
            fs::read(file).unwrap_or_default()
        } else {
            Vec::new()
        };
        let lines = text.split(|byte| *byte == b'\n');
        let whole = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let whole = whole.filter(|line| line.check == Self::digest(&line.reply));
        Self {
            file: file.into(),
            found: whole.map(|line| (line.asked.clone(), line)).collect(),
            waiting: Vec::new(),
            is_there,
        }
    }

    /// The name of a request, or the check of a reply.
    pub fn digest(of: &impl Serialize) -> String {
        let text = serde_json::to_vec(of).expect("it is plain data");
        blake3::hash(&text).to_hex().to_string()
    }

    /// What somebody answered before; what was asked is worked out only where an earlier process left something.
    pub fn take(&mut self, asked: impl FnOnce() -> String) -> Option<Reply> {
        if self.found.is_empty() {
            return None;
        }
        let line = self.found.remove(&asked())?;
        self.waiting.push((line.reply.id.clone(), line.split));
        Some(line.reply)
    }

    /// Keeps a reply. What cannot be written is asked for again if this process is killed, and that is all.
    pub fn keep(&mut self, asked: String, split: &str, reply: Reply) {
        let id = reply.id.clone();
        let line = Line {
            asked,
            split: split.into(),
            check: Self::digest(&reply),
            reply,
        };
        match self.write(&line) {
            Ok(()) => {
                self.waiting.push((id, line.split));
                self.is_there = true;
            }
            Err(e) => tracing::warn!(
                "{}: {e}; it is asked for again if this is interrupted",
                self.file.display()
            ),
        }
    }

    fn write(&self, line: &Line) -> io::Result<()> {
        if self.file.exists() && !self.file.is_file() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no file"));
        }
        // Behind half a line that was cut off, a line of its own.
        let mut text = vec![b'\n'];
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        let mut file = File::options().create(true).append(true).open(&self.file)?;
        file.write_all(&text)?;
        file.sync_data()
    }

    /// What somebody made of the questions of a split stands in the journal.
    pub fn told(&mut self, id: &str, split: &str) {
        self.found.retain(|_, line| line.reply.id != id || line.split != split);
        self.waiting.retain(|(waiting, of)| waiting != id || of != split);
        if self.is_there && self.waiting.is_empty() && self.found.is_empty() {
            // It may lie there: what it says has been told.
            let _ = fs::remove_file(&self.file);
            self.is_there = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: &str) -> Reply {
        serde_json::from_value(serde_json::json!({"id": id, "scores": {"f": 0.5}})).unwrap()
    }

    #[test]
    fn what_came_early_is_there_for_the_next_process_until_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("early.jsonl");
        let mut early = Early::open(&file);
        early.keep("a".into(), "search", reply("c1"));
        early.keep("b".into(), "search", reply("c2"));
        early.keep("d".into(), "selection", reply("c2"));
        early.told("c1", "search");
        // Cut off while it was written.
        let text = fs::read_to_string(&file).unwrap() + "{\"asked\":\"c\",\"rep";
        fs::write(&file, text).unwrap();
        let mut next = Early::open(&file);
        assert!(next.take(|| "c".into()).is_none());
        assert_eq!(next.take(|| "b".into()).unwrap().scores, reply("c2").scores);
        assert!(next.take(|| "b".into()).is_none(), "it is given once");
        // Half a line costs no other one.
        next.keep("e".into(), "search", reply("c3"));
        next = Early::open(&file);
        next.told("c2", "search");
        assert!(
            next.take(|| "e".into()).is_some() && next.take(|| "d".into()).is_some(),
            "the final asks others"
        );
        for (id, split) in [("c2", "selection"), ("c3", "search")] {
            next.told(id, split);
            assert!(file.exists(), "c1 may not be told yet, as far as this process knows");
        }
        next.told("c1", "search");
        assert!(!file.exists());
    }

    /// A score that somebody changed led the search; what is damaged is asked for again.
    #[test]
    fn what_was_damaged_never_came() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("early.jsonl");
        let mut early = Early::open(&file);
        for (asked, id) in [("a", "c1"), ("b", "c2"), ("c", "c3")] {
            early.keep(asked.into(), "search", reply(id));
        }
        let mut bytes = fs::read(&file).unwrap();
        let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|part| part == what).unwrap();
        let score = at(&bytes, b"0.5");
        bytes[score + 2] = b'9';
        let id = at(&bytes, b"c2");
        bytes[id] = 0xff;
        fs::write(&file, bytes).unwrap();
        let mut next = Early::open(&file);
        assert!(next.take(|| "a".into()).is_none() && next.take(|| "b".into()).is_none());
        assert_eq!(next.take(|| "c".into()).unwrap().scores, reply("c3").scores);
        // Something else of that name.
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let mut other = Early::open(&file);
        other.keep("a".into(), "search", reply("c1"));
        other.told("c1", "search");
        assert!(file.is_dir());
    }
}
