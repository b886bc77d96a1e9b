//! The journal: append-only JSON lines, flushed to disk with each candidate; the truth of a run.
//!
//! It is read once, line by line: a night's worth of answers would not fit in memory. A crash can leave a torn tail, which
//! reading stops before and writing cuts off; so does a write that failed. What is damaged further up is told by its line,
//! never skipped.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Error, line,
    medium::{Medium, sync_dir},
};
use crate::event::{Event, Record, SCHEMA_VERSION};

/// Bytes that a [`Tail`] reads at a time.
const TAIL_BYTES: u64 = 4 << 20;

/// The journal of a run that this process writes.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    medium: Box<dyn Medium>,
    /// After the last whole record.
    whole: Place,
    /// After the last record that is surely on the disk.
    synced: Place,
    /// A write failed, and what it left could not be cut off yet.
    is_torn: bool,
}

/// A place between two records.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    bytes: u64,
    seq: u64,
}

/// Where a record's line stands in its journal; see [`Journal::record_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    bytes: u64,
}

impl Journal {
    /// Opens a journal for writing, and makes it if it is missing. What it holds comes first, see [`Opening`].
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open<'a>(path: &Path) -> Result<Opening<'a>, Error> {
        let is_new = !path.exists();
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(path).map_err(Error::io(path))?;
        if is_new {
            sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(Error::io(path))?;
        }
        let reader = File::open(path).map_err(Error::io(path))?;
        Ok(Opening::new(path, Box::new(file), Box::new(BufReader::new(reader))))
    }

    /// A journal on a medium that crashes.
    #[cfg(any(test, feature = "testing"))]
    pub fn on<'a>(medium: &super::CrashMedium) -> Opening<'a> {
        let content = std::io::Cursor::new(medium.content());
        Opening::new(Path::new("journal.jsonl"), Box::new(medium.clone()), Box::new(content))
    }

    /// Position that the next record gets.
    pub fn next_seq(&self) -> u64 {
        self.whole.seq
    }

    /// Writes one event. All are on disk when this returns, but answers, which a score or a [`Journal::sync`] follows, and what
    /// workers do, of which a thousand say so all the time.
    ///
    /// # Errors
    /// The disk is full or gone. What was written of the record is cut off again.
    pub fn append(&mut self, time_ms: u64, event: Event) -> Result<Record, Error> {
        if self.is_torn {
            self.cut_torn()?;
        }
        let record = Record {
            schema_version: SCHEMA_VERSION,
            seq: self.whole.seq,
            time_ms,
            event,
        };
        let line = line::encode(&record);
        if let Err(source) = self.medium.append(&line) {
            return Err(self.torn(source));
        }
        self.whole.bytes += line.len() as u64;
        self.whole.seq = self.whole.seq.saturating_add(1);
        if is_synced(&record.event) {
            self.sync()?;
        }
        Ok(record)
    }

    /// Reads one of the records again: not all that a night wrote fits in memory.
    ///
    /// # Errors
    /// The file cannot be read, or somebody has changed it since.
    pub fn record_at(&mut self, span: Span) -> Result<Record, Error> {
        let mut line = vec![0; span.bytes as usize];
        let read = self.medium.read_at(span.start, &mut line);
        read.map_err(Error::io(&self.path))?;
        let decoded = line::decode(&line, false);
        decoded.map(|line| line.record).map_err(|_| Error::ChangedMeanwhile {
            path: self.path.clone(),
            at: span.start,
        })
    }

    /// Brings all that was written to the disk.
    ///
    /// # Errors
    /// The disk is full or gone. Nobody knows then what it holds of what came after the last successful call, so that is
    /// cut off.
    pub fn sync(&mut self) -> Result<(), Error> {
        if let Err(source) = self.medium.sync() {
            self.whole = self.synced;
            return Err(self.torn(source));
        }
        self.synced = self.whole;
        Ok(())
    }

    fn torn(&mut self, source: std::io::Error) -> Error {
        self.is_torn = true;
        // What fails here is tried again before the next record, or when the journal is opened again.
        let _ = self.cut_torn();
        Error::io(&self.path)(source)
    }

    fn cut_torn(&mut self) -> Result<(), Error> {
        self.medium.truncate(self.whole.bytes).map_err(Error::io(&self.path))?;
        self.is_torn = false;
        Ok(())
    }
}

/// Whether a record is on the disk when [`Journal::append`] returns.
fn is_synced(event: &Event) -> bool {
    !matches!(event, Event::Answers(_) | Event::Worker(_))
}

/// A journal that is being opened: an iterator over what it holds, then the journal itself.
pub struct Opening<'a> {
    records: Records,
    medium: Box<dyn Medium>,
    look: Option<Look<'a>>,
}

/// Sees each record as it is read.
type Look<'a> = Box<dyn FnMut(&Record) + 'a>;

impl<'a> Opening<'a> {
    fn new(path: &Path, medium: Box<dyn Medium>, reader: Box<dyn BufRead + Send>) -> Self {
        Self {
            records: Records::new(path, reader),
            medium,
            look: None,
        }
    }

    /// Shows each record to somebody else too, as it is read.
    pub fn shown_to(self, look: impl FnMut(&Record) + 'a) -> Self {
        Self {
            look: Some(Box::new(look)),
            ..self
        }
    }

    /// Where the record that came last stands.
    pub fn last_span(&self) -> Span {
        self.records.last
    }

    /// Cuts off a torn tail; what comes is appended behind the records that were read. Those that were not are read first.
    ///
    /// # Errors
    /// A line other than a torn tail is no record, or the file cannot be written.
    pub fn journal(mut self) -> Result<Journal, Error> {
        for record in &mut self {
            record?;
        }
        let (path, whole) = (self.records.path, self.records.whole);
        self.medium.truncate(whole.bytes).map_err(Error::io(&path))?;
        Ok(Journal {
            path,
            medium: self.medium,
            whole,
            synced: whole,
            is_torn: false,
        })
    }
}

impl Iterator for Opening<'_> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.records.next();
        if let (Some(Ok(record)), Some(look)) = (&next, &mut self.look) {
            look(record);
        }
        next
    }
}

/// The records of a journal, in order, a line at a time; a torn tail is left out.
pub struct Records {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    whole: Place,
    last: Span,
    lines: usize,
    order: line::Order,
    is_over: bool,
}

/// Opens a journal for reading.
///
/// # Errors
/// The file cannot be opened.
pub fn records(path: &Path) -> Result<Records, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    Ok(Records::new(path, Box::new(BufReader::new(file))))
}

/// All records of a journal at once.
///
/// # Errors
/// The file cannot be read, or a line is not a record.
pub fn read(path: &Path) -> Result<Vec<Record>, Error> {
    records(path)?.collect()
}

impl Records {
    fn new(path: &Path, reader: Box<dyn BufRead + Send>) -> Self {
        Self {
            path: path.to_path_buf(),
            reader,
            whole: Place::default(),
            last: Span { start: 0, bytes: 0 },
            lines: 0,
            order: line::Order::default(),
            is_over: false,
        }
    }

    /// The next line with its newline; `None` at the end, where a line without one is torn.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut line = Vec::new();
        self.reader
            .read_until(b'\n', &mut line)
            .map_err(Error::io(&self.path))?;
        Ok((line.last() == Some(&b'\n')).then_some(line))
    }

    fn read(&mut self) -> Result<Option<Record>, Error> {
        let Some(text) = self.line()? else { return Ok(None) };
        self.lines += 1;
        match self.order.next(&text) {
            Ok(record) => {
                self.last = Span {
                    start: self.whole.bytes,
                    bytes: text.len() as u64,
                };
                self.whole.bytes += text.len() as u64;
                self.whole.seq = self.order.seq;
                Ok(Some(record))
            }
            Err(_) if text.contains(&0) && self.nothing_was_told_after()? => Ok(None),
            Err(fault) => Err(Error::line(&self.path, self.lines, fault)),
        }
    }

    /// Blocks reach a disk in any order, so a power cut can leave zeros before the end of what was not synced. That ends
    /// with a record that is synced: if it is the only one after the zeros, its writing never came back, and nobody acted
    /// on it. If there are more, zeros are damage.
    fn nothing_was_told_after(&mut self) -> Result<bool, Error> {
        let mut synced = 0;
        while let Some(text) = self.line()? {
            let told = line::decode(&text, false).is_ok_and(|line| is_synced(&line.record.event));
            if synced > 0 || (told && !self.is_at_end()?) {
                return Ok(false);
            }
            synced += usize::from(told);
        }
        Ok(true)
    }

    fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.reader.fill_buf().map_err(Error::io(&self.path))?.is_empty())
    }
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// What [`cut_damaged`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first damaged line.
    pub line: usize,
    /// Lines that are cut off, this one and all behind it.
    pub lost: usize,
    /// The journal as it was.
    pub copy: PathBuf,
}

/// Cuts a journal before its first damaged line, if it has one, after copying it.
///
/// # Errors
/// The file cannot be read, copied or cut; a newer heterosis wrote it, which is no damage; or the first line is damaged, before
/// which nothing would be left.
pub fn cut_damaged(path: &Path) -> Result<Option<Cut>, Error> {
    let mut records = records(path)?;
    let damaged = records.by_ref().find_map(Result::err);
    let line = match damaged {
        None => return Ok(None),
        Some(Error::BadLine { line, .. }) if line > 1 => line,
        Some(e) => return Err(e),
    };
    let mut lost = 1;
    while records.line()?.is_some() {
        lost += 1;
    }
    let copy = free_name(path);
    std::fs::copy(path, &copy).map_err(Error::io(&copy))?;
    let cut = || -> std::io::Result<()> {
        File::open(&copy)?.sync_all()?;
        sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        let file = File::options().write(true).open(path)?;
        file.set_len(records.whole.bytes)?;
        file.sync_all()
    };
    cut().map_err(Error::io(path))?;
    Ok(Some(Cut { line, lost, copy }))
}

/// `journal.jsonl.damaged`, or with a number if that is taken.
fn free_name(path: &Path) -> PathBuf {
    let name = |n: usize| match n {
        1 => path.with_extension("jsonl.damaged"),
        n => path.with_extension(format!("jsonl.damaged-{n}")),
    };
    let taken = (1..).take_while(|n| name(*n).exists()).count();
    name(taken + 1)
}

/// Follows a journal that another process writes.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: File,
    /// After the last whole line that was read.
    bytes: u64,
    lines: usize,
    order: line::Order,
}

impl Tail {
    /// # Errors
    /// The journal cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_path_buf(),
            file: File::open(path).map_err(Error::io(path))?,
            bytes: 0,
            lines: 0,
            order: line::Order::default(),
        })
    }

    /// Records that were completed since the last call; none when there are no more yet. A long journal comes in parts.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a record.
    pub fn poll(&mut self) -> Result<Vec<Record>, Error> {
        // From the last whole line: half a line that was there may have been cut off and written anew since.
        self.file
            .seek(SeekFrom::Start(self.bytes))
            .map_err(Error::io(&self.path))?;
        let (mut reader, mut records) = (BufReader::new(&self.file), Vec::new());
        let end = self.bytes + TAIL_BYTES;
        while self.bytes < end {
            let mut text = Vec::new();
            reader.read_until(b'\n', &mut text).map_err(Error::io(&self.path))?;
            if text.last() != Some(&b'\n') {
                break;
            }
            self.lines += 1;
            let record = self.order.next(&text);
            let record = record.map_err(|fault| Error::line(&self.path, self.lines, fault))?;
            self.bytes += text.len() as u64;
            records.push(record);
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::{
        super::medium::crash::{CrashMedium, Left},
        *,
    };
    use crate::event::{Answers, Level};

    fn log(message: &str) -> Event {
        Event::Log {
            level: Level::Info,
            message: message.into(),
        }
    }

    fn answers(id: &str) -> Event {
        Event::Answers(Answers {
            id: id.into(),
            task: "t".into(),
            lang: "en".into(),
            split: "search".into(),
            kind: String::new(),
            key: String::new(),
            answers: Vec::new(),
        })
    }

    /// What the journal holds, and the journal.
    fn open(path: &Path) -> (Vec<Record>, Journal) {
        let mut opening = Journal::open(path).unwrap();
        let records = opening.by_ref().map(Result::unwrap).collect();
        (records, opening.journal().unwrap())
    }

    /// A search whose directory was deleted went on for its hours, and wrote into nothing.
    #[cfg(unix)]
    #[test]
    fn a_journal_that_was_removed_takes_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (_, mut journal) = open(&path);
        journal.append(1, log("one")).unwrap();
        // Another name is still a place.
        let moved = dir.path().join("moved.jsonl");
        std::fs::rename(&path, &moved).unwrap();
        journal.append(2, log("two")).unwrap();
        std::fs::remove_file(&moved).unwrap();
        let refused = journal.append(3, log("three")).unwrap_err().to_string();
        assert!(refused.contains("journal.jsonl: it was removed"), "{refused}");
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (before, mut journal) = open(&path);
        assert!(before.is_empty());
        let first = journal.append(5, log("a")).unwrap();
        let second = journal.append(6, log("b")).unwrap();
        assert_eq!(read(&path).unwrap(), [first.clone(), second.clone()]);
        let (records, mut journal) = open(&path);
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
        let (_, mut journal) = open(&path);
        for i in 0..3 {
            journal.append(i, log("x")).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole_lines = bytes[..cut].iter().filter(|b| **b == b'\n').count();
            assert_eq!(read(&path).unwrap().len(), whole_lines);
            let (records, mut journal) = open(&path);
            assert_eq!(records.len(), whole_lines);
            journal.append(9, log("after")).unwrap();
            assert_eq!(read(&path).unwrap().len(), whole_lines + 1);
        }
    }

    /// A journal that was damaged in its middle ended the run, and nothing said how to go on.
    #[test]
    fn a_damaged_line_in_the_middle_is_named_with_the_way_out() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (_, mut journal) = open(&path);
        for i in 0..4 {
            journal.append(i, log(&format!("line {i}"))).unwrap();
        }
        let whole = std::fs::read_to_string(&path).unwrap();
        let damaged = whole.replace("line 2", "line 7");
        std::fs::write(&path, &damaged).unwrap();
        for message in [
            read(&path).unwrap_err().to_string(),
            Journal::open(&path).unwrap().journal().unwrap_err().to_string(),
            Tail::open(&path).unwrap().poll().unwrap_err().to_string(),
        ] {
            assert!(message.contains("journal.jsonl:3:"), "{message}");
            assert!(message.contains("--truncate-damaged"), "{message}");
        }

        let cut = cut_damaged(&path).unwrap().unwrap();
        assert_eq!((cut.line, cut.lost), (3, 2));
        assert_eq!(std::fs::read_to_string(&cut.copy).unwrap(), damaged);
        assert_eq!(read(&path).unwrap().len(), 2);
        assert_eq!(cut_damaged(&path).unwrap(), None);
        std::fs::write(&path, &damaged).unwrap();
        assert_ne!(
            cut_damaged(&path).unwrap().unwrap().copy,
            cut.copy,
            "no copy is overwritten"
        );
    }

    #[test]
    fn a_newer_journal_is_refused_and_not_cut() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        open(&path).1.append(0, log("x")).unwrap();
        let line = r#"{"schema_version":2,"seq":1,"time_ms":1,"event":"log","level":"info","message":"x"}"#;
        let mut file = File::options().append(true).open(&path).unwrap();
        writeln!(file, "{line}").unwrap();
        let before = std::fs::read(&path).unwrap();
        for message in [
            read(&path).unwrap_err().to_string(),
            Tail::open(&path).unwrap().poll().unwrap_err().to_string(),
            cut_damaged(&path).unwrap_err().to_string(),
        ] {
            assert!(message.contains("newer heterosis"), "{message}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    /// Lines that were missing, stood there twice or had changed places were whole by themselves, and nobody said a word: a
    /// parent's lines were gone, and `status` still called another one the best parent.
    #[test]
    fn lines_that_are_missing_doubled_or_swapped_are_damage() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (_, mut journal) = open(&path);
        for i in 0..5 {
            journal.append(i, log(&format!("line {i}"))).unwrap();
        }
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        for (order, at) in [
            (&[0, 1, 3, 4][..], 3),
            (&[0, 1, 1, 2, 3, 4], 3),
            (&[0, 2, 1, 3, 4], 2),
            (&[0, 1, 2, 3, 4, 0], 6),
            (&[1, 2, 3, 4], 1),
        ] {
            let damaged: String = order.iter().map(|i| lines[*i]).collect();
            std::fs::write(&path, &damaged).unwrap();
            for message in [
                read(&path).unwrap_err().to_string(),
                Journal::open(&path).unwrap().journal().unwrap_err().to_string(),
                Tail::open(&path).unwrap().poll().unwrap_err().to_string(),
            ] {
                assert!(
                    message.contains(&format!("journal.jsonl:{at}: ")),
                    "{order:?}: {message}"
                );
                assert!(message.contains("belongs"), "{order:?}: {message}");
            }
        }
        // What is cut at its end is no damage: that is a run that was stopped.
        std::fs::write(&path, lines[..3].concat()).unwrap();
        assert_eq!(open(&path).0.len(), 3);
    }

    /// `--truncate-damaged` cut everything away where line 1 was damaged, and called the run one that had never begun.
    #[test]
    fn a_journal_is_not_cut_to_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (_, mut journal) = open(&path);
        for i in 0..3 {
            journal.append(i, log("x")).unwrap();
        }
        let damaged = std::fs::read_to_string(&path).unwrap().replacen("info", "inf0", 1);
        std::fs::write(&path, &damaged).unwrap();
        let message = cut_damaged(&path).unwrap_err().to_string();
        assert!(message.contains("nothing stands before it"), "{message}");
        assert!(!message.contains("--truncate-damaged"), "{message}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tail_sees_whole_lines_only() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let mut journal = open(&path).1;
        journal.append(0, log("x")).unwrap();
        let first = std::fs::read(&path).unwrap().len();
        journal.append(1, log("y")).unwrap();
        let line = std::fs::read(&path).unwrap().split_off(first);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(first as u64)
            .unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&line[..10]).unwrap();
        assert!(tail.poll().unwrap().is_empty());
        // The writer cuts its half line off and goes on.
        file.set_len(first as u64).unwrap();
        file.write_all(&line).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
    }

    /// A resumed search held all answers of the journal in memory; now it reads those that it is asked for.
    #[test]
    fn a_record_can_be_read_again_and_what_follows_still_goes_to_the_end() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (_, mut journal) = open(&path);
        for message in ["a", "bcd", "e"] {
            journal.append(0, log(message)).unwrap();
        }
        drop(journal);
        let mut opening = Journal::open(&path).unwrap();
        let mut spans = Vec::new();
        while let Some(record) = opening.next() {
            spans.push((record.unwrap(), opening.last_span()));
        }
        let mut journal = opening.journal().unwrap();
        journal.append(1, log("fourth")).unwrap();
        for (record, span) in &spans {
            assert_eq!(journal.record_at(*span).unwrap(), *record);
        }
        journal.append(2, log("fifth")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 5);

        std::fs::write(&path, "another file").unwrap();
        let message = journal.record_at(spans[1].1).unwrap_err().to_string();
        assert!(message.contains("journal.jsonl"), "{message}");
    }

    /// The disk was full in the middle of a line; "the run failed" was appended behind the half line, and with that the run
    /// could never be opened again.
    #[derive(Debug)]
    struct FullDisk {
        file: File,
        room: usize,
    }

    impl Medium for FullDisk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let fits = bytes.len().min(self.room);
            self.room -= fits;
            self.file.write_all(&bytes[..fits])?;
            match fits == bytes.len() {
                true => Ok(()),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.room += usize::try_from(self.file.metadata()?.len() - len).unwrap();
            self.file.truncate(len)
        }

        fn read_at(&mut self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
            self.file.read_at(start, bytes)
        }
    }

    #[test]
    fn a_line_that_did_not_fit_leaves_nothing_behind() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let options = || {
            File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let disk = FullDisk {
            file: options(),
            room: 300,
        };
        let mut journal = Opening::new(&path, Box::new(disk), Box::new(io::empty()))
            .journal()
            .unwrap();
        journal.append(0, log("fits")).unwrap();
        let message = journal.append(1, log(&"x".repeat(400))).unwrap_err().to_string();
        assert!(message.contains("journal.jsonl"), "{message}");
        journal.append(2, log("fits again")).unwrap();
        let seqs: Vec<u64> = read(&path).unwrap().iter().map(|r| r.seq).collect();
        assert_eq!(seqs, [0, 1]);
    }

    /// A sync that fails may have lost what was written before it, so nothing may be appended behind that.
    #[test]
    fn what_a_failed_sync_leaves_in_doubt_is_cut_off() {
        #[derive(Debug)]
        struct Unsure(CrashMedium, usize);
        impl Medium for Unsure {
            fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
                self.0.append(bytes)
            }
            fn sync(&mut self) -> io::Result<()> {
                self.1 += 1;
                match self.1 {
                    2 => Err(io::Error::other("the mount is gone")),
                    _ => self.0.sync(),
                }
            }
            fn truncate(&mut self, len: u64) -> io::Result<()> {
                self.0.truncate(len)
            }
            fn read_at(&mut self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
                self.0.read_at(start, bytes)
            }
        }
        let medium = CrashMedium::default();
        let unsure = Box::new(Unsure(medium.clone(), 0));
        let mut journal = Opening::new(Path::new("j"), unsure, Box::new(io::empty()))
            .journal()
            .unwrap();
        journal.append(0, log("synced")).unwrap();
        journal.append(1, answers("c0001")).unwrap();
        journal.append(2, log("lost")).unwrap_err();
        journal.append(3, log("after")).unwrap();
        let seqs: Vec<u64> = Journal::on(&medium).map(|r| r.unwrap().seq).collect();
        assert_eq!(seqs, [0, 1]);
    }

    /// Whatever a power cut leaves of what was not synced, what was told is there, and nothing else is in the way.
    #[test]
    fn a_power_cut_loses_nothing_that_was_told() {
        for left in [Left::Nothing, Left::Half, Left::All, Left::Zeros, Left::LaterHalf] {
            for crash in 0..8 {
                let medium = CrashMedium::default().crashing_at(crash);
                let mut told = 0;
                if let Ok(mut journal) = Journal::on(&medium).journal() {
                    for (i, event) in [log("a"), answers("b"), answers("c"), log("d"), log("e")]
                        .into_iter()
                        .enumerate()
                    {
                        let is_synced = is_synced(&event);
                        let Ok(_) = journal.append(0, event) else { break };
                        if is_synced {
                            told = i + 1;
                        }
                    }
                }
                let after = CrashMedium::holding(medium.after_crash(left));
                let mut opening = Journal::on(&after);
                let found = opening.by_ref().map(Result::unwrap).count();
                assert!(found >= told, "{left:?} at {crash}: {found} of {told}");
                opening.journal().unwrap().append(9, log("goes on")).unwrap();
                assert_eq!(
                    Journal::on(&after).map(Result::unwrap).count(),
                    found + 1,
                    "{left:?} at {crash}"
                );
            }
        }
    }

    /// Zeros with told records after them are no power cut's.
    #[test]
    fn zeros_in_the_middle_are_damage() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("journal.jsonl");
        let (_, mut journal) = open(&path);
        let ends: Vec<usize> = (0..4)
            .map(|i| {
                journal.append(i, log("x")).unwrap();
                std::fs::read(&path).unwrap().len()
            })
            .collect();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ends[0] + 5..ends[0] + 15].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(read(&path), Err(Error::BadLine { line: 2, .. })));
    }
}
