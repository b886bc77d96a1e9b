//! What happened in a search for a merge, and what keeps it.
//!
//! [`event`] is the contract between the search and everybody who watches: plain fields, the one fold of them
//! ([`event::run::Run`]), and the words that are made of it. [`store`] is the journal, which is the truth of a run, its
//! directory, and the cache of answers that runs share.

pub mod event;
pub mod store;
