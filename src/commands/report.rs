//! `heterosis report`: a run's report and its pictures.

use super::{Failure, Outcome, print};
use crate::{
    cli::ReportArgs,
    report,
    store::{self, RunDir},
};

pub fn report(args: ReportArgs) -> Outcome {
    let dir = RunDir::open(&args.run)?;
    let report = report::of(&store::read(&dir.journal())?);
    let out = dir.report();
    std::fs::create_dir_all(&out).map_err(Failure::work)?;
    let html = [("report.html", &report.html), ("results.csv", &report.results_csv)];
    let pictures = report.pictures.iter().map(|(name, svg)| (*name, svg));
    for (name, text) in html.into_iter().chain(pictures) {
        dir.replace(&out.join(name), text).map_err(Failure::work)?;
    }
    print(out.join("report.html").display());
    Ok(())
}
