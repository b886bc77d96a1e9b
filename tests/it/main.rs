//! The integration tests, in one binary: the program as a user meets it, and the house rules.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails

mod chat;
mod check;
mod combinations;
mod commands;
mod data_flow;
mod engines;
mod evaluation;
mod files;
mod front_door;
mod fuzz;
mod gguf;
mod learning;
mod measured;
mod program;
mod questions;
mod racing;
mod runs;
mod serve;
mod session;
mod tasks;
mod terminal;
mod tidy;
mod workers;
