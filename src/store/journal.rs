//! The journal: append-only JSON lines, flushed to disk with each candidate; the truth of a run.
//!
//! A crash can leave half a line at the end, never in the middle. Opening for writing cuts such a tail off; reading
//! stops before it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::Error;
use crate::event::{Event, Record, SCHEMA_VERSION};

/// The journal of a run that this process writes.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    next_seq: u64,
}

impl Journal {
    /// Opens a journal for writing, makes it if it is missing, and returns what it holds.
    ///
    /// # Errors
    /// The file cannot be opened, or a line other than a torn last one is not a record.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), Error> {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io(path))?;
        let (records, good_bytes) = read_from(&mut file, path)?;
        file.set_len(good_bytes).map_err(Error::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        let journal = Self {
            path: path.to_path_buf(),
            file,
            next_seq: records.last().map_or(0, |r| r.seq + 1),
        };
        Ok((journal, records))
    }

    /// Position that the next record gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Writes one event. All but answers, which a score or a [`Journal::sync`] follows, are on disk when this returns.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn append(&mut self, time_ms: u64, event: Event) -> Result<Record, Error> {
        let wait = !matches!(event, Event::Answers(_));
        let record = Record {
            schema_version: SCHEMA_VERSION,
            seq: self.next_seq,
            time_ms,
            event,
        };
        let mut line = serde_json::to_vec(&record).expect("an event is plain data");
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))?;
        if wait {
            self.file.sync_data().map_err(Error::io(&self.path))?;
        }
        self.next_seq += 1;
        Ok(record)
    }

    /// Brings all that was written to the disk.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

/// All records of a journal; a torn last line is left out.
///
/// # Errors
/// The file cannot be read, or a line is not a record.
pub fn read(path: &Path) -> Result<Vec<Record>, Error> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    Ok(read_from(&mut file, path)?.0)
}

/// The records, and how many bytes they take.
fn read_from(file: &mut File, path: &Path) -> Result<(Vec<Record>, u64), Error> {
    let mut reader = BufReader::new(file);
    let (mut records, mut bytes) = (Vec::new(), 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).map_err(Error::io(path))?;
        if n == 0 || line.last() != Some(&b'\n') {
            return Ok((records, bytes));
        }
        match serde_json::from_slice(&line) {
            Ok(record) => records.push(record),
            Err(e) => {
                return Err(Error::BadLine {
                    path: path.to_path_buf(),
                    line: records.len() + 1,
                    reason: e.to_string(),
                });
            }
        }
        bytes += n as u64;
    }
}

/// Follows a journal that another process writes.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    lines: usize,
}

impl Tail {
    /// # Errors
    /// The journal cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_path_buf(),
            file: File::open(path).map_err(Error::io(path))?,
            pending: Vec::new(),
            lines: 0,
        })
    }

    /// The records that were completed since the last call.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a record.
    pub fn poll(&mut self) -> Result<Vec<Record>, Error> {
        self.file
            .read_to_end(&mut self.pending)
            .map_err(Error::io(&self.path))?;
        let Some(end) = self.pending.iter().rposition(|b| *b == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.pending.split_off(end + 1);
        let complete = std::mem::replace(&mut self.pending, rest);
        let mut records = Vec::new();
        for line in complete.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            self.lines += 1;
            records.push(serde_json::from_slice(line).map_err(|e| Error::BadLine {
                path: self.path.clone(),
                line: self.lines,
                reason: e.to_string(),
            })?);
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Level;

    fn log(message: &str) -> Event {
        Event::Log {
            level: Level::Info,
            message: message.into(),
        }
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (mut journal, before) = Journal::open(&path).unwrap();
        assert!(before.is_empty());
        let first = journal.append(5, log("a")).unwrap();
        let second = journal.append(6, log("b")).unwrap();
        assert_eq!(read(&path).unwrap(), [first.clone(), second.clone()]);
        let (mut journal, records) = Journal::open(&path).unwrap();
        assert_eq!(records, [first, second]);
        assert_eq!(journal.append(7, log("c")).unwrap().seq, 2);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(r#"{"schema_version":1,"seq":0,"time_ms":5,"event":"log""#),
            "{text}"
        );
    }

    /// The process was killed while it wrote: every prefix of the file must open, and lose at most the last line.
    #[test]
    fn every_cut_of_the_file_opens() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for i in 0..3 {
            journal.append(i, log("x")).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole_lines = bytes[..cut].iter().filter(|b| **b == b'\n').count();
            assert_eq!(read(&path).unwrap().len(), whole_lines);
            let (mut journal, records) = Journal::open(&path).unwrap();
            assert_eq!(records.len(), whole_lines);
            journal.append(9, log("after")).unwrap();
            assert_eq!(read(&path).unwrap().len(), whole_lines + 1);
        }
    }

    #[test]
    fn a_bad_line_in_the_middle_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(0, log("x")).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{good}{{\"event\":\"dance\"}}\n{good}")).unwrap();
        let message = Journal::open(&path).unwrap_err().to_string();
        assert!(message.contains("journal.jsonl:2:"), "{message}");
    }

    #[test]
    fn a_tail_sees_whole_lines_only() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(0, log("x")).unwrap();
        let line = std::fs::read(&path).unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&line[..10]).unwrap();
        assert!(tail.poll().unwrap().is_empty());
        file.write_all(&line[10..]).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
    }
}
