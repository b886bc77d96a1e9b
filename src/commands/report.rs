//! `heterosis report`: a run's report and its pictures.

use anyhow::Context;

use super::{Failure, Outcome, newest, print};
use crate::{cli::ReportArgs, report, store::RunDir};

pub fn report(args: ReportArgs) -> Outcome {
    let dir = RunDir::open(&newest::or_newest(args.run)?)?;
    let files = report::files(&dir.run()?, &dir.path().display().to_string());
    let out = dir.make_report()?;
    for (name, text) in files {
        let file = out.join(name);
        let written = dir
            .replace(&file, &text)
            .with_context(|| format!("cannot write {}", file.display()));
        written.map_err(Failure::work)?;
    }
    print(out.join("report.html").display());
    Ok(())
}
