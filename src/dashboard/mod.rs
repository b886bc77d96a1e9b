//! The terminal view of a run, folded from events: `model` (what is known), `update` (what a message changes), `view`
//! (what it looks like), `terminal` (the only impure part).
//!
//! It knows nothing of the search: records come in through a channel, wishes go out as [`Action`]s, and closing it
//! changes nothing about the run. `plain` tells the same story as lines for pipes and logs.

mod appearance;
mod model;
mod pace;
pub mod plain;
mod plot;
mod reasons;
mod replay;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod update;
mod view;

pub use appearance::Appearance;
pub use model::Model;
pub use pace::search_ends_in;
pub use plain::{PlainLines, summary};
pub use replay::replay;
pub use terminal::{Exit, Feed, Flags, restore, run};
pub use update::{Action, Message, update};
pub use view::draw;
