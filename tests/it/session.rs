//! heterosis as a library: what a program of somebody else's relies on, without the command line.

use std::{cell::RefCell, path::Path, sync::atomic::Ordering};

use heterosis::{
    event::{Event, Record},
    host::Host,
    model::Device,
    models::{DeviceChoice, RuntimeOptions},
    recipe::read,
    search::{Control, End},
    session::{self, Begun, Child, Error, ExportOptions, Exported, ResumeOptions, Session, Wish},
    space::{Limit, Space},
    store::{Cache, RunDir},
};

use super::program::{space_over_family, story};

/// A short search over the family that asks this task.
fn space(dir: &Path, task: &str) -> Space {
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{{task: {task}, split: search, limit: 8}}]}}
search: {{optimizer: random, evals: 4, seed: 5}}
final: {{finalists: 1, selection: {{limit: 6}}, test: {{limit: 6}}}}
"
    );
    session::read_space(&space_over_family(dir, &rest)).unwrap()
}

fn spanish() -> String {
    super::program::root().join("evals/arith-es.yaml").display().to_string()
}

/// Without what other runs have answered.
fn host() -> Host {
    Host {
        answers: None,
        ..Host::this_machine()
    }
}

fn open(space: Space) -> Result<Session, Error> {
    Session::open(space, &RuntimeOptions::default(), host())
}

/// Scored candidates and their fitness, in order.
fn scores(records: &[Record]) -> Vec<(String, f64)> {
    let scored = records.iter().filter_map(|record| match &record.event {
        Event::CandidateScored(c) => Some((c.id.clone(), c.fitness)),
        _ => None,
    });
    scored.collect()
}

#[test]
fn what_is_wrong_is_found_before_anything_is_written() {
    let tmp = tempfile::tempdir().unwrap();
    let place_of = |space: Space| match open(space).err() {
        Some(Error::Placed { file, line, source }) => match *source {
            Error::At { place, .. } => (file, line, place),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let (file, line, place) = place_of(space(tmp.path(), "evals/nothing.yaml"));
    assert_eq!(place, "fitness.tasks[0]");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(
        text.lines().nth(line - 1).unwrap().contains("evals/nothing.yaml"),
        "line {line} of {text}"
    );
    let mut lost = space(tmp.path(), &spanish());
    lost.models[1].1 = "/nowhere/maths".into();
    let name = lost.models[1].0.clone();
    assert_eq!(place_of(lost).2, format!("models.{name}"));

    let mut judged_by_its_own = space(tmp.path(), &spanish());
    judged_by_its_own.finale.test.split = "search".into();
    let (session, run) = (open(judged_by_its_own).unwrap(), tmp.path().join("run"));
    let refused = session.create(&run, session.usual_budget()).err();
    assert!(matches!(refused, Some(Error::Overlap { .. })), "{refused:?}");
    assert!(!run.exists(), "nobody has made a directory");
    assert!(matches!(Begun::take(&run, &host()), Err(Error::Store(_))));
}

/// Stopped by its listener, gone on with, watched, exported and verified; and it is the run that nobody stopped.
#[test]
fn a_program_searches_stops_resumes_watches_and_exports() {
    let tmp = tempfile::tempdir().unwrap();
    let host = host();
    let session = open(space(tmp.path(), &spanish())).unwrap();
    let (whole, run) = (tmp.path().join("whole"), tmp.path().join("run"));
    let told = RefCell::new(Vec::new());
    let tell = |record: &Record| told.borrow_mut().push(record.clone());
    let search = session.create(&whole, session.usual_budget()).unwrap();
    assert_eq!(search.run(&Control::default(), &tell).unwrap(), End::Done);
    let unbroken = scores(&told.take());

    let control = Control::default();
    let search = session.create(&run, session.usual_budget()).unwrap();
    let stopped = search.run(&control, &|record| {
        if matches!(record.event, Event::CandidateScored(_)) {
            control.stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(stopped.unwrap(), End::Stopped);

    let begun = Begun::take(&run, &host).unwrap();
    assert!(!begun.is_of_another_build());
    assert!(Begun::take(&run, &host).is_err(), "it is taken");
    let again = begun.session(&RuntimeOptions::default(), host.clone()).unwrap();
    let options = ResumeOptions {
        test: Some(Limit::Most(5)),
        ..ResumeOptions::default()
    };
    let end = again.resume(begun, options).unwrap().run(&Control::default(), &tell);
    assert_eq!(end.unwrap(), End::Done);
    let dir = RunDir::open(&run).unwrap();
    let watched: Vec<Record> = session::watch(&dir, |_| ()).unwrap().records.iter().collect();
    assert_eq!(scores(&watched), unbroken);
    assert_eq!(scores(&told.take()), unbroken, "what was there is told too");
    let asked = watched.iter().find_map(|record| match &record.event {
        Event::TestRead(reading) => Some(reading.best.score.n),
        _ => None,
    });
    assert_eq!(asked, Some(5));

    let begun = Begun::take(&run, &host).unwrap();
    let late = ResumeOptions {
        test: Some(Limit::All),
        ..ResumeOptions::default()
    };
    let late = again.resume(begun, late).unwrap().run(&Control::default(), &|_| ());
    assert!(matches!(late, Err(Error::TestAnswered { .. })), "{late:?}");

    let (child, out) = (Child::find(&run, "best").unwrap(), tmp.path().join("child"));
    let options = ExportOptions::default();
    let export = child.begin(&out, &options, &host).unwrap();
    assert!(!out.exists() && export.partial().exists());
    export.write(&mut |_| ()).unwrap();
    assert!(child.begin(&out, &options, &host).is_err(), "it is there");
    let exported = Exported::open(&out).unwrap();
    assert_eq!(exported.changed_files().unwrap(), Vec::<String>::new());
    assert!(exported.answers() > 0);
}

#[test]
fn wishes_reach_whoever_searches() {
    let tmp = tempfile::tempdir().unwrap();
    let session = open(space(tmp.path(), &spanish())).unwrap();
    let run = tmp.path().join("run");
    let search = session.create(&run, session.usual_budget()).unwrap();
    let dir = search.dir().clone();
    let control = Control::default();
    let end = search.run(&control, &|record| {
        if matches!(record.event, Event::CandidateScored(_)) {
            session::wish(&dir, Wish::Stop).unwrap();
            // It is looked for ten times a second.
            while !control.stop.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    });
    assert_eq!(end.unwrap(), End::Stopped);
    assert!(!dir.stop_request().exists());
}

/// Parents that lie on the card are merged there, and the search is the one whose host merges: every answer, and so every choice.
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_that_merges_the_journal_is_that_of_a_host_that_merges() {
    let tmp = tempfile::tempdir().unwrap();
    let rest = format!(
        "parameter_space: {{method: ties, layer_groups: 2, genes: {{weight: [0.2, 1.2], density: [0.2, 0.9]}}}}
fitness: {{tasks: [{{task: {}, split: search, limit: 2, max_new_tokens: 2}}]}}
search: {{optimizer: random, evals: 2, seed: 5, learn: off}}
final: {{finalists: 1, selection: {{limit: 1}}, test: {{limit: 1}}}}
",
        spanish()
    );
    let ties =
        "{merge_method: ties, base_model: base, models: [{model: maths, parameters: {weight: 1.0, density: 0.5}}]}";
    let stories = [Some(0), None].map(|held_bytes| {
        let wanted = RuntimeOptions {
            device: DeviceChoice::These(vec![Device::Cuda(0)]),
            held_bytes,
            ..RuntimeOptions::default()
        };
        let space = session::read_space(&space_over_family(tmp.path(), &rest)).unwrap();
        let session = Session::open(space, &wanted, host()).unwrap();
        let run = tmp.path().join(format!("{held_bytes:?}"));
        let search = session.create(&run, session.usual_budget()).unwrap();
        assert_eq!(search.run(&Control::default(), &|_| ()).unwrap(), End::Done);
        let mut merging = session.evaluator(Cache::in_memory(), None).unwrap();
        merging
            .merge(&read::parse("ties.yaml".as_ref(), ties).unwrap())
            .unwrap();
        assert_eq!(merging.held_bytes() == 0, held_bytes.is_some());
        story(&run)
    });
    assert_eq!(stories[0], stories[1]);
}
