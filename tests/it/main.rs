//! The integration tests, in one binary: the program as a user meets it, and the house rules.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails

mod check;
mod combinations;
mod data_flow;
mod evaluation;
mod learning;
mod program;
mod racing;
mod terminal;
mod tidy;
