//! What a search does right now, for those who look at it from another process: the latest of what no journal keeps.
//!
//! A small file beside the journal, replaced a few times a second and gone with the process. It is no part of the truth: who
//! cannot read it sees the run as its journal tells it.

use std::{
    fs::{self, File},
    io::Read,
    path::PathBuf,
    time::Duration,
};

use crate::{
    event::{Event, Record},
    store::RunDir,
};

/// Longest time for which what is shown may be old.
const PACE: Duration = Duration::from_millis(250);

/// Bytes that are read of a file that may be anybody's.
const LARGEST: u64 = 1 << 20;

/// Whether a record is of this moment only, and whom it is about: a later one of the same takes its place.
fn subject(event: &Event) -> Option<(u8, &str)> {
    match event {
        Event::CandidateStarted { .. } => Some((0, "")),
        Event::Progress(_) => Some((1, "")),
        Event::Learning(_) => Some((2, "")),
        Event::Worker(worker) => Some((3, &worker.worker)),
        _ => None,
    }
}

/// Who searches writes.
pub struct Pulse<'a> {
    dir: &'a RunDir,
    now: &'a dyn Fn() -> Duration,
    latest: Vec<Record>,
    written: Option<Duration>,
}

impl<'a> Pulse<'a> {
    /// `now` is a clock from any start.
    pub fn new(dir: &'a RunDir, now: &'a dyn Fn() -> Duration) -> Self {
        Self {
            dir,
            now,
            latest: Vec::new(),
            written: None,
        }
    }

    pub fn see(&mut self, record: &Record) {
        let Some(about) = subject(&record.event) else { return };
        self.latest.retain(|known| subject(&known.event) != Some(about));
        self.latest.push(record.clone());
        let now = (self.now)();
        if self.written.is_none_or(|written| now.saturating_sub(written) >= PACE) {
            self.written = Some(now);
            // A disk that is full tells the journal.
            let text = serde_json::to_string(&self.latest).expect("records are plain data");
            let _ = self.dir.show(&self.dir.live(), &text);
        }
    }
}

impl Drop for Pulse<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.live());
    }
}

/// Who looks reads.
pub struct Glimpses {
    file: PathBuf,
    seen_ms: u64,
}

impl Glimpses {
    pub fn of(dir: &RunDir) -> Self {
        Self {
            file: dir.live(),
            seen_ms: 0,
        }
    }

    /// What is new since the last look, as far as the journal has not gone past it: its last record was of `journal_ms`.
    pub fn since(&mut self, journal_ms: u64) -> Vec<Record> {
        let from = journal_ms.max(self.seen_ms + 1);
        let mut records = self.read().unwrap_or_default();
        records.retain(|record| record.time_ms >= from && subject(&record.event).is_some());
        records.sort_by_key(|record| record.time_ms);
        self.seen_ms = records.last().map_or(self.seen_ms, |record| record.time_ms);
        records
    }

    fn read(&self) -> Option<Vec<Record>> {
        if !fs::metadata(&self.file).ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        File::open(&self.file)
            .ok()?
            .take(LARGEST)
            .read_to_string(&mut text)
            .ok()?;
        serde_json::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        event::{Level, Progress, SCHEMA_VERSION},
        store::Holder,
    };

    fn record(time_ms: u64, event: Event) -> Record {
        Record {
            schema_version: SCHEMA_VERSION,
            seq: 0,
            time_ms,
            event,
        }
    }

    fn progress(time_ms: u64, answered: usize) -> Record {
        record(
            time_ms,
            Event::Progress(Progress {
                id: "c0001".into(),
                stage: "decode".into(),
                answered,
                questions: 100,
                tokens: 5,
                tokens_per_s: 10.0,
            }),
        )
    }

    /// Who looked at a run from another terminal was told "no live progress from this run".
    #[test]
    fn what_no_journal_keeps_is_seen_from_outside_while_it_is_true() {
        let place = tempfile::tempdir().unwrap();
        let holder = Holder {
            pid: 7,
            host: String::new(),
            command: String::new(),
        };
        let (dir, _lock) = RunDir::create(place.path(), &holder).unwrap();
        let clock = Cell::new(0);
        let now = || Duration::from_millis(clock.get());
        let mut pulse = Pulse::new(&dir, &now);
        let mut glimpses = Glimpses::of(&dir);
        assert!(glimpses.since(0).is_empty());
        pulse.see(&progress(1000, 1));
        assert_eq!(glimpses.since(900), [progress(1000, 1)]);
        assert!(glimpses.since(900).is_empty(), "once is enough");
        clock.set(100);
        pulse.see(&progress(1100, 2));
        assert!(glimpses.since(900).is_empty(), "not at every token");
        clock.set(300);
        let message = String::from("said");
        pulse.see(&record(
            1250,
            Event::Log {
                level: Level::Info,
                message,
            },
        ));
        pulse.see(&progress(1300, 3));
        assert!(glimpses.since(1400).is_empty(), "the journal is past it");
        assert_eq!(glimpses.since(1200), [progress(1300, 3)]);
        drop(pulse);
        assert!(!dir.live().exists());
        fs::write(dir.live(), "[{\"schema").unwrap();
        assert!(glimpses.since(0).is_empty(), "what is damaged is nothing");
    }
}
