//! What the words on the command line mean: one file for each subcommand.
//!
//! Only here (and in `main`) is anything printed, and only `environment.rs` reads the clock and the environment.

mod after;
mod align;
mod cache;
mod chat;
mod check;
mod compare;
mod completions;
mod data;
mod environment;
mod eval;
mod export;
mod fisher;
mod front;
mod generate;
mod grams;
mod grams_plus;
mod init;
mod interruption;
mod learn;
mod lists;
mod measuring;
mod merge;
mod newest;
mod output;
mod perplexity;
mod replacement;
mod report;
mod rescore;
mod runtime;
mod search;
mod serve;
mod simplify;
mod status;
mod task;
mod trust;
mod watch;
mod worker;

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use output::{print, print_if_read, print_json, print_part, say};

use crate::{
    cli::{Cli, Command},
    host::kernels_cache,
    models, session,
};

/// `-` is standard input, as everywhere.
fn standard_input(file: &Path) -> PathBuf {
    match file == Path::new("-") {
        true => "/dev/stdin".into(),
        false => file.into(),
    }
}

/// The most that a text, prompts or answers may hold that a user names, 1 GiB.
const LONGEST_INPUT: u64 = 1 << 30;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The call or an input file is wrong.
    Input(anyhow::Error),
    /// The work failed.
    Work(anyhow::Error),
    /// Ended cleanly because somebody asked for it.
    Interrupted,
    /// A process of ours has failed with this exit code, and has said why.
    Told(u8),
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
            Self::Input(e) | Self::Work(e) => say(format_args!("error: {}", in_words(e))),
            Self::Interrupted | Self::Told(_) => {}
        }
        ExitCode::from(self.code())
    }

    /// Wherever an error comes up: a disk that is full is no fault of the call, and a recipe that nothing can be merged by is
    /// no fault of the machine.
    fn code(&self) -> u8 {
        match self {
            Self::Interrupted => 130,
            Self::Told(code) => *code,
            Self::Input(e) => 2 - u8::from(is_of_the_machine(e)),
            Self::Work(e) => 1 + u8::from(is_of_the_recipe(e)),
        }
    }
}

/// An error and what lies behind it, but for what it says itself already.
fn in_words(e: &anyhow::Error) -> String {
    let mut words = e.to_string();
    for cause in e.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

fn causes<T: std::error::Error + 'static>(e: &anyhow::Error) -> impl Iterator<Item = &T> {
    e.chain().filter_map(|cause| passed_on(cause).downcast_ref::<T>())
}

/// The error of another room where a room only passes it on.
fn passed_on<'a>(e: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let of_session = e.downcast_ref::<session::Error>().and_then(session::Error::passed_on);
    let of_models = e.downcast_ref::<models::Error>().and_then(models::Error::passed_on);
    of_session.or(of_models).unwrap_or(e)
}

/// Would the same call succeed on a machine with room, memory and working disks?
fn is_of_the_machine(e: &anyhow::Error) -> bool {
    // As Linux and macOS number them: a disk that fails, too many open files here, and everywhere.
    const CODES: [i32; 3] = [5, 24, 23];
    causes::<io::Error>(e).any(|e| {
        let kind = matches!(
            e.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::FileTooLarge
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::OutOfMemory
                | ErrorKind::WriteZero
                | ErrorKind::StaleNetworkFileHandle
                | ErrorKind::TimedOut
        );
        kind || e.raw_os_error().is_some_and(|code| CODES.contains(&code))
    })
}

/// Would the same merge fail everywhere?
fn is_of_the_recipe(e: &anyhow::Error) -> bool {
    use crate::merge::Error;
    causes::<Error>(e).any(|e| !matches!(e, Error::Read { .. }))
}

/// Runs a command.
///
/// # Errors
/// See [`Failure`].
pub fn run(cli: Cli) -> Outcome {
    let outcome = run_here(cli);
    environment::wait_if_ending();
    outcome
}

fn run_here(cli: Cli) -> Outcome {
    environment::show_messages(cli.verbose, cli.quiet);
    environment::choose_instruction_set()?;
    crate::model::keep_kernels_in(kernels_cache());
    match cli.command {
        Command::Breed(args) => init::breed(args),
        Command::Init(args) => init::init(args),
        Command::Demo(args) => search::demo(args),
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
        Command::Align(args) => align::align(args),
        Command::Fisher(args) => fisher::fisher(args),
        Command::Grams(args) => grams::grams(args),
        Command::GramsPlus(args) => grams_plus::grams_plus(args),
        Command::Rescore(args) => eval::rescore(args),
        Command::Generate(args) => generate::generate(args),
        Command::Worker(args) => worker::worker(args),
        Command::Serve(args) => serve::serve(args),
        Command::Chat(args) => chat::chat(args),
        Command::Perplexity(args) => perplexity::perplexity(args),
        Command::Export(args) => export::export(args),
        Command::Simplify(args) => simplify::simplify(args),
        Command::Verify(args) => export::verify(args),
        Command::Report(args) => report::report(args),
        Command::Data(args) => data::data(args),
        Command::Cache(args) => cache::cache(args),
        Command::Tasks(args) => lists::tasks(args),
        Command::Task(args) => task::task(args),
        Command::Methods(args) => lists::methods(args),
        Command::Families(args) => lists::families(args),
        Command::Completions(args) => completions::completions(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "the task 'gen': the regular expression '(foo' cannot be used: …" stood there twice: an error that names its cause in
    /// its own words was followed by the cause.
    #[test]
    fn nothing_is_said_twice() {
        use anyhow::Context as _;
        #[derive(Debug, thiserror::Error)]
        #[error("s.yaml cannot be read: {source}")]
        struct Told {
            source: io::Error,
        }
        let told = || Told {
            source: io::Error::other("the mount is gone"),
        };
        assert_eq!(in_words(&told().into()), "s.yaml cannot be read: the mount is gone");
        let with_context = Err::<(), _>(told()).context("no space").unwrap_err();
        assert_eq!(
            in_words(&with_context),
            "no space: s.yaml cannot be read: the mount is gone"
        );
    }

    /// A recipe whose weights sum to zero ended with 1, a full disk with 2: a script repeated the first for ever.
    #[test]
    fn exit_codes_tell_the_call_from_the_machine() {
        let full = || io::Error::from(ErrorKind::StorageFull);
        let no_file = || io::Error::from(ErrorKind::NotFound);
        let zero = || crate::merge::Error::Refused {
            tensor: "w".into(),
            method: "linear",
            refusal: crate::merge::Refusal::ZeroWeights,
        };
        for (failure, code) in [
            (Failure::from(full()), 1),
            (Failure::from(anyhow::Error::from(full()).context("cannot write")), 1),
            (
                Failure::from(crate::checkpoint::Error::Write {
                    path: "x".into(),
                    source: full(),
                }),
                1,
            ),
            (Failure::from(no_file()), 2),
            (Failure::work(no_file()), 1),
            (Failure::work(zero()), 2),
            (Failure::from(zero()), 2),
            (Failure::work(session::Error::from(models::Error::from(zero()))), 2),
            (Failure::work(models::Error::from(zero())), 2),
            (
                Failure::from(session::Error::Io {
                    path: "x".into(),
                    source: full(),
                }),
                1,
            ),
            (Failure::Interrupted, 130),
        ] {
            assert_eq!(failure.code(), code, "{failure:?}");
        }
    }
}
