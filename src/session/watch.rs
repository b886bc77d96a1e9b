//! Looking at a run that goes on, or at an old one, and what can be asked of it from outside.

use std::{
    fs,
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use super::Error;
use crate::{
    event::{Event, Record},
    store::{RunDir, Tail},
};

/// How often a journal is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// How many records wait for whoever looks at them: a long journal is read as fast as it is shown.
const AHEAD: usize = 1024;

/// A run's records, those that it has and those that come, until it is over or nobody writes to it any more.
///
/// # Errors
/// The journal cannot be read.
pub fn watch(dir: &RunDir) -> Result<Receiver<Record>, Error> {
    let mut tail = Tail::open(&dir.journal())?;
    let (sender, receiver) = mpsc::sync_channel(AHEAD);
    let dir = dir.clone();
    std::thread::spawn(move || {
        loop {
            let idle = !dir.is_locked();
            let Ok(records) = tail.poll() else { return };
            let none = records.is_empty();
            for record in records {
                let over = matches!(record.event, Event::RunDone { .. } | Event::RunFailed { .. });
                if sender.send(record).is_err() || over {
                    return;
                }
            }
            if idle && none {
                return;
            }
            if none {
                std::thread::sleep(PAUSE);
            }
        }
    });
    Ok(receiver)
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
    let (file, done) = match wish {
        Wish::Stop => (dir.stop_request(), fs::write(dir.stop_request(), "")),
        Wish::Pause => (dir.pause_request(), fs::write(dir.pause_request(), "")),
        Wish::GoOn => (dir.pause_request(), fs::remove_file(dir.pause_request())),
    };
    done.map_err(Error::io(file))
}
