//! Parse, call a command, turn an error into an exit code.

use std::process::ExitCode;

use clap::Parser;
use heterosis::{cli::Cli, commands};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
