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
    found: HashMap<String, Reply>,
    /// Whose replies stand in the file and are not told yet, as far as this process knows them.
    waiting: Vec<String>,
    /// Whether there is a file.
    is_there: bool,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line<R> {
    /// Of the request, without what differs from process to process.
    asked: String,
    reply: R,
}

impl Early {
    /// Takes what an earlier process left. A line that was cut off counts as never written.
    pub fn open(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Self {
            file: file.into(),
            found: lines.map(|line: Line<Reply>| (line.asked, line.reply)).collect(),
            waiting: Vec::new(),
            is_there: file.exists(),
        }
    }

    /// The name of a request.
    pub fn digest(request: &impl Serialize) -> String {
        let text = serde_json::to_vec(request).expect("a request is plain data");
        blake3::hash(&text).to_hex().to_string()
    }

    /// What somebody answered before.
    pub fn take(&mut self, asked: &str) -> Option<Reply> {
        let reply = self.found.remove(asked)?;
        self.waiting.push(reply.id.clone());
        Some(reply)
    }

    /// Keeps a reply. What cannot be written is asked for again if this process is killed, and that is all.
    pub fn keep(&mut self, asked: &str, reply: &Reply) {
        match self.written(asked, reply) {
            Ok(()) => {
                self.waiting.push(reply.id.clone());
                self.is_there = true;
            }
            Err(e) => tracing::warn!(
                "{}: {e}; it is asked for again if this is interrupted",
                self.file.display()
            ),
        }
    }

    fn written(&self, asked: &str, reply: &Reply) -> io::Result<()> {
        let asked = asked.to_string();
        let mut line = serde_json::to_vec(&Line { asked, reply })?;
        line.push(b'\n');
        let mut file = File::options().create(true).append(true).open(&self.file)?;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Somebody has a score in the journal.
    pub fn told(&mut self, id: &str) {
        self.found.retain(|_, reply| reply.id != id);
        self.waiting.retain(|waiting| waiting != id);
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
        early.keep("a", &reply("c1"));
        early.keep("b", &reply("c2"));
        early.told("c1");
        // Cut off while it was written.
        let text = fs::read_to_string(&file).unwrap() + "{\"asked\":\"c\",\"rep";
        fs::write(&file, text).unwrap();
        let mut next = Early::open(&file);
        assert!(next.take("c").is_none());
        assert_eq!(next.take("b").unwrap().scores, reply("c2").scores);
        assert!(next.take("b").is_none(), "it is given once");
        next.told("c2");
        assert!(file.exists(), "c1 may not be told yet, as far as this process knows");
        next.told("c1");
        assert!(!file.exists());
    }
}
