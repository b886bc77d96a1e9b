//! What is being written down of a run, and who is shown it.
//!
//! Opening a chronicle reads what its journal holds; what becomes of that in a run that is taken up again is `replay.rs`'s
//! business, which also says what is written down once only.

use std::time::Duration;

use super::{Error, replay::Past};
use crate::{
    event::{Event, Level, Record, RunStarted, SCHEMA_VERSION, changes::in_words},
    store::{Journal, Opening},
};

/// Milliseconds since 1970, and a short sleep; passed in, since nobody here reads the clock.
pub struct Clock<'a> {
    pub now_ms: &'a dyn Fn() -> u64,
    pub sleep: &'a dyn Fn(Duration),
}

/// The journal of a run, from both ends: what it holds already, and what is appended.
pub struct Chronicle<'a> {
    pub(super) journal: Journal,
    clock: Clock<'a>,
    /// Sees every record, also those that are not journalled.
    listener: &'a dyn Fn(&Record),
    /// For `replay.rs` alone.
    pub(super) past: Past,
    /// What the run said of itself when it began, with the changes that were accepted since; none of a new run.
    began: Option<RunStarted>,
    /// What is not written down before somebody answers again; see [`Chronicle::hold`].
    held: Option<Vec<Event>>,
    elapsed_before_ms: u64,
    started_ms: u64,
}

impl<'a> Chronicle<'a> {
    /// Begins a run, or takes one up again: [`Self::read`], then [`Self::begin`].
    ///
    /// # Errors
    /// Theirs.
    pub fn open(
        opening: Opening<'_>,
        started: RunStarted,
        accepts: bool,
        clock: Clock<'a>,
        listener: &'a dyn Fn(&Record),
    ) -> Result<Self, Error> {
        let mut chronicle = Self::read(opening, clock, listener)?;
        chronicle.begin(started, accepts)?;
        Ok(chronicle)
    }

    /// Reads what a journal holds, once, and shows it to the listener. Nothing is written but that a torn tail is cut off.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub fn read(mut opening: Opening<'_>, clock: Clock<'a>, listener: &'a dyn Fn(&Record)) -> Result<Self, Error> {
        let (mut past, mut worked, mut began) = (Past::default(), Worked::default(), None);
        while let Some(record) = opening.next() {
            let record = record?;
            listener(&record);
            worked.see(&record);
            match record.event {
                Event::RunStarted(first) => began = began.or(Some(first)),
                Event::RunChanged { changes } => began.iter_mut().for_each(|began| began.accept(&changes)),
                event => past.remember(event, opening.last_span()),
            }
        }
        let started_ms = (clock.now_ms)();
        Ok(Self {
            journal: opening.journal()?,
            clock,
            listener,
            past,
            began,
            held: None,
            elapsed_before_ms: worked.total_ms(),
            started_ms,
        })
    }

    /// The first word of this process. `now` is what a run that began now would say of itself; where the journal says
    /// otherwise, models, tasks or space are others now, and the run goes on only if somebody `accepts` that.
    ///
    /// # Errors
    /// The journal cannot be written, or the run is not what it was.
    pub fn begin(&mut self, now: RunStarted, accepts: bool) -> Result<(), Error> {
        match self.began.take() {
            None => self.write(Event::RunStarted(now)),
            Some(began) if !self.past.is_done() => self.resume(&began, now, accepts),
            Some(_) => Ok(()),
        }
    }

    fn resume(&mut self, began: &RunStarted, now: RunStarted, accepts: bool) -> Result<(), Error> {
        let changes = began.changes(&now);
        if !changes.is_empty() && !accepts {
            let what = in_words(&changes);
            return Err(Error::Changed { what });
        }
        self.write(Event::RunResumed {
            engine_version: now.engine_version,
            engine_build: now.engine_build,
            instruction_set: now.instruction_set,
        })?;
        match changes.is_empty() {
            true => Ok(()),
            false => self.write(Event::RunChanged { changes }),
        }
    }

    /// Appends an event to the journal and shows it, now or when what is held is believed.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, event: Event) -> Result<(), Error> {
        match &mut self.held {
            Some(held) => held.push(event),
            None => self.record(event)?,
        }
        Ok(())
    }

    /// From now on nothing is written down: a candidate failed, and it may have been the evaluator's fault. Then nothing that
    /// follows from the failure has happened either, and a resumed run asks again.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Somebody answered: what was held is written down.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn believe(&mut self) -> Result<(), Error> {
        let mut held = self.held.take().into_iter().flatten();
        held.try_for_each(|event| self.record(event))
    }

    /// Nobody answers, or the run ends before anybody has: what was held never happened.
    pub fn disbelieve(&mut self) {
        self.held = None;
    }

    /// A line in the log, whatever is held.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn note(&mut self, level: Level, message: String) -> Result<(), Error> {
        self.record(Event::Log { level, message })
    }

    /// What happened besides the search, whatever is held.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn tell(&mut self, event: Event) -> Result<(), Error> {
        self.record(event)
    }

    fn record(&mut self, event: Event) -> Result<(), Error> {
        let record = self.journal.append((self.clock.now_ms)(), event)?;
        (self.listener)(&record);
        Ok(())
    }

    /// Shows an event that is not worth keeping.
    pub fn show(&self, event: Event) {
        (self.listener)(&Record {
            schema_version: SCHEMA_VERSION,
            seq: self.journal.next_seq(),
            time_ms: (self.clock.now_ms)(),
            event,
        });
    }

    /// Brings answers that no score follows at once to the disk.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn sync(&mut self) -> Result<(), Error> {
        Ok(self.journal.sync()?)
    }

    /// Time worked on this run, by all processes that did.
    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed_before_ms + (self.clock.now_ms)().saturating_sub(self.started_ms)
    }

    /// A moment's rest, and how long it was: no longer than `most`.
    pub fn wait(&self, most: Duration) -> Duration {
        let rest = most.min(Duration::from_millis(200));
        (self.clock.sleep)(rest);
        rest
    }
}

/// Time between the first and the last line of each process that worked on the run.
#[derive(Default)]
struct Worked {
    before_ms: u64,
    start_ms: Option<u64>,
    last_ms: u64,
}

impl Worked {
    fn see(&mut self, record: &Record) {
        if matches!(record.event, Event::RunStarted(_) | Event::RunResumed { .. }) {
            self.before_ms = self.total_ms();
            self.start_ms = Some(record.time_ms);
        }
        self.last_ms = record.time_ms;
    }

    fn total_ms(&self) -> u64 {
        let now = self.start_ms.map_or(0, |start| self.last_ms.saturating_sub(start));
        self.before_ms + now
    }
}
