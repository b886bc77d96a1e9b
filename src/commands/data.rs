//! `heterosis data pull`: benchmark data into the local cache.

use super::Outcome;
use crate::cli::{DataArgs, DataCommand};

pub fn data(args: DataArgs) -> Outcome {
    let DataCommand::Pull { names } = args.command;
    Err(anyhow::anyhow!("{}: fetching is not built yet", names.join(", ")).into())
}
