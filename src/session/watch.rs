//! Looking at a run that goes on, or at an old one, and what can be asked of it from outside.

use std::{
    fs,
    sync::mpsc::{self, Receiver, SyncSender},
    thread::JoinHandle,
    time::Duration,
};

use super::{Error, live::Glimpses};
use crate::{
    event::{Event, Record},
    store::{self, RunDir, Tail},
};

/// How often a journal is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// How many records wait for whoever looks at them: a long journal is read as fast as it is shown.
const AHEAD: usize = 1024;

/// A run that is being looked at.
pub struct Watching {
    /// Those that it has and those that come, with what no journal keeps, until the run is over or nobody writes to it any
    /// more, or the journal cannot be read further.
    pub records: Receiver<Record>,
    reading: JoinHandle<Result<(), store::Error>>,
}

impl Watching {
    /// Ends the looking.
    ///
    /// # Errors
    /// The journal could not be read further.
    pub fn end(self) -> Result<(), Error> {
        drop(self.records);
        match self.reading.is_finished() {
            true => Ok(self.reading.join().unwrap_or(Ok(()))?),
            false => Ok(()),
        }
    }
}

/// Looks at a run; a journal that cannot be read further is told at once, and again by [`Watching::end`].
///
/// # Errors
/// The journal cannot be opened.
pub fn watch(dir: &RunDir, on_fault: impl FnOnce(&str) + Send + 'static) -> Result<Watching, Error> {
    let tail = Tail::open(&dir.journal())?;
    let (sender, records) = mpsc::sync_channel(AHEAD);
    let dir = dir.clone();
    let reading = std::thread::spawn(move || {
        let read = pass_on(&dir, tail, &sender);
        if let Err(fault) = &read {
            on_fault(&fault.to_string());
        }
        read
    });
    Ok(Watching { records, reading })
}

fn pass_on(dir: &RunDir, mut tail: Tail, sender: &SyncSender<Record>) -> Result<(), store::Error> {
    let (mut glimpses, mut last_ms) = (Glimpses::of(dir), 0);
    loop {
        let idle = !dir.is_locked();
        let records = tail.poll()?;
        let none = records.is_empty();
        for record in records {
            last_ms = record.time_ms;
            let over = matches!(record.event, Event::RunDone { .. } | Event::RunFailed { .. });
            if sender.send(record).is_err() || over {
                return Ok(());
            }
        }
        if idle && none {
            return Ok(());
        }
        if none {
            for record in glimpses.since(last_ms) {
                if sender.send(record).is_err() {
                    return Ok(());
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// What a process can ask of the one that searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// End after the candidate that is being asked; the run can be resumed.
    Stop,
    Pause,
    GoOn,
}

/// Passes a wish on to whoever searches in a directory, which looks between two candidates.
///
/// # Errors
/// The directory cannot be written to.
pub fn wish(dir: &RunDir, wish: Wish) -> Result<(), Error> {
    // Replaced, and not opened: a link of that name may lead to a file of somebody's.
    match wish {
        Wish::Stop => Ok(dir.show(&dir.stop_request(), "")?),
        Wish::Pause => Ok(dir.show(&dir.pause_request(), "")?),
        Wish::GoOn => fs::remove_file(dir.pause_request()).map_err(Error::io(dir.pause_request())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::holder;

    /// A run directory of somebody else's may hold a link where a wish is left.
    #[test]
    fn a_wish_is_not_written_through_a_link() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &holder()).unwrap();
        let precious = tmp.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        for (name, of) in [(dir.stop_request(), Wish::Stop), (dir.pause_request(), Wish::Pause)] {
            std::os::unix::fs::symlink(&precious, &name).unwrap();
            wish(&dir, of).unwrap();
            assert!(name.exists() && !name.is_symlink(), "{of:?}");
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
    }
}
