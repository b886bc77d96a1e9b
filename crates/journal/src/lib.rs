//! What happened in a search for a merge, and what keeps it.
//!
//! [`event`] is the contract between the search and everybody who watches: plain fields, the one fold of them
//! ([`event::run::Run`]), and the words that are made of it. [`store`] is the journal, which is the truth of a run, its
//! directory, and the cache of answers that runs share.
//!
//! ```
//! use heterosis_journal::{
//!     event::{Event, Level, run::Run},
//!     store::{Journal, Tail, records},
//! };
//!
//! # let dir = tempfile::tempdir()?;
//! let path = dir.path().join("journal.jsonl");
//! let mut journal = Journal::open(&path)?.journal()?;
//! let mut tail = Tail::open(&path)?; // for whoever watches from elsewhere
//! journal.append(1000, Event::Log { level: Level::Info, message: "two parents fit".into() })?;
//! journal.append(3500, Event::RunDone { evals: 40, answers: 8000, elapsed_ms: 2500 })?;
//!
//! let mut run = Run::default();
//! for record in records(&path)? {
//!     run.apply(&record?); // the one fold, which every view shares
//! }
//! assert_eq!((run.answers, run.elapsed(9000), run.log.len()), (8000, 2500, 1));
//! assert_eq!(tail.poll()?.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

pub mod event;
pub mod store;
