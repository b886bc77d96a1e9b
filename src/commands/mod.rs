//! What the words on the command line mean: one file for each subcommand.
//!
//! Only here (and in `main`) is anything printed, and only `environment.rs` reads the clock and the environment.

mod check;
mod child;
mod compare;
mod data;
mod environment;
mod eval;
mod export;
mod final_limits;
mod generate;
mod interruption;
mod learn;
mod lists;
mod merge;
mod models;
mod perplexity;
mod report;
mod rescore;
mod search;
mod simplify;
mod status;
mod watch;

use std::{io::Write, process::ExitCode};

use serde::Serialize;

use crate::cli::{Cli, Command};

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The call or an input file is wrong.
    Input(anyhow::Error),
    /// The work failed.
    Work(anyhow::Error),
    /// Ended cleanly because somebody asked for it.
    Interrupted,
}

/// What a command gives.
pub type Outcome = Result<(), Failure>;

/// An error that comes up while a call and its input files are looked at; work that fails says so with [`Failure::work`].
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Input(e.into())
    }
}

impl Failure {
    /// An error of the work itself, not of its input.
    pub fn work(e: impl Into<anyhow::Error>) -> Self {
        Self::Work(e.into())
    }

    /// Says what is wrong on stderr; gives the exit code: 2 for the call, 1 for the work, 130 for an interruption.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Input(e) => {
                eprintln!("error: {e:#}");
                ExitCode::from(2)
            }
            Self::Work(e) => {
                eprintln!("error: {e:#}");
                ExitCode::from(1)
            }
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// See [`Failure`].
pub fn run(cli: Cli) -> Outcome {
    environment::show_messages(cli.verbose, cli.quiet);
    environment::choose_instruction_set()?;
    match cli.command {
        Command::Search(args) => search::search(args),
        Command::Resume(args) => search::resume(args),
        Command::Watch(args) => watch::watch(args),
        Command::Status(args) => status::status(args),
        Command::Runs(args) => status::runs(args),
        Command::Compare(args) => compare::compare(args),
        Command::Check(args) => check::check(args),
        Command::Merge(args) => merge::merge(args),
        Command::Eval(args) => eval::eval(args),
        Command::Learn(args) => learn::learn(args),
        Command::Rescore(args) => eval::rescore(args),
        Command::Generate(args) => generate::generate(args),
        Command::Perplexity(args) => perplexity::perplexity(args),
        Command::Export(args) => export::export(args),
        Command::Simplify(args) => simplify::simplify(args),
        Command::Verify(args) => export::verify(args),
        Command::Report(args) => report::report(args),
        Command::Data(args) => data::data(args),
        Command::Tasks(args) => lists::tasks(args),
        Command::Methods(args) => lists::methods(args),
    }
}

/// Prints a line on stdout; a reader that has gone away ends the program quietly.
fn print(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// As [`print`], for work that goes on when nobody reads any more: the terminal of a laptop that was closed, say.
fn print_if_read(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A word on stderr, if anybody reads it.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One JSON document on stdout, with the schema version first.
fn print_json<T: Serialize>(document: &T) {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        schema_version: u32,
        #[serde(flatten)]
        document: &'a T,
    }
    let versioned = Versioned {
        schema_version: crate::event::SCHEMA_VERSION,
        document,
    };
    print(serde_json::to_string(&versioned).expect("a document is plain data"));
}
