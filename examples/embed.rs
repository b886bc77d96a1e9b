//! heterosis in a program of one's own: the demo's search, told as it happens, and its child as a model on disk.
//!
//! ```text
//! cargo run --release --example embed -- runs/embedded 40       # a run's directory, and how many candidates
//! ```

use std::{env, error::Error, path::Path};

use heterosis::{
    event::Event,
    host::Host,
    models::RuntimeOptions,
    search::Control,
    session::{self, Child, ExportOptions, Session},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let run = args.next().unwrap_or("runs/embedded".into());
    let mut space = session::read_space(Path::new("search-spaces/demo.yaml"))?;
    if let Some(evals) = args.next() {
        space.search.evals = evals.parse()?;
    }
    let host = Host::this_machine();
    let session = Session::open(space, &RuntimeOptions::default(), host.clone())?;
    let search = session.create(Path::new(&run), session.usual_budget())?;
    search.run(&Control::default(), &|record| match &record.event {
        Event::CandidateScored(c) => println!("{}: {:.3} ± {:.3}", c.id, c.fitness, c.stderr),
        Event::TestRead(test) => println!("the winner leads its best parent by {:+.3}", test.difference),
        _ => {}
    })?;
    let (child, out) = (Child::find(Path::new(&run), "best")?, Path::new(&run).join("child"));
    child
        .begin(&out, &ExportOptions::default(), &host)?
        .write(&mut |_| {})?;
    println!("{} is in {}", child.id(), out.display());
    Ok(())
}
