//! A run of MLflow's, in its file store (`mlruns/`); its server is told in `mlflow_server.rs`.
//!
//! **Source**: the layout that `mlflow.store.tracking.file_store` reads. A resumed run is written again from the beginning.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::{Curves, Error, Point, Tracker, parameters};
use crate::event::{Event, Record, run::Run, verdict::verdict};

/// MLflow's numbers for what has become of a run.
const RUNNING: u8 = 1;
const FINISHED: u8 = 3;
const FAILED: u8 = 4;
const KILLED: u8 = 5;

/// What an event means for the state.
pub(super) fn state_after(event: &Event) -> Option<u8> {
    match event {
        Event::RunStarted(_) | Event::RunResumed { .. } => Some(RUNNING),
        Event::RunDone { .. } => Some(FINISHED),
        Event::RunFailed { .. } => Some(FAILED),
        Event::RunStopped { .. } => Some(KILLED),
        _ => None,
    }
}

/// A run below `mlruns/`: the experiment is named as the space, the run as its directory.
pub struct FileStore {
    root: PathBuf,
    /// The run's directory's last part.
    name: String,
    open: Option<Open>,
    curves: Curves,
}

struct Open {
    dir: PathBuf,
    id: String,
    experiment: String,
    began_ms: u64,
    metrics: BTreeMap<String, File>,
}

impl FileStore {
    pub fn at(root: &Path, run: &Path) -> Self {
        let name = run.file_name().unwrap_or(run.as_os_str());
        Self {
            root: root.to_owned(),
            name: name.to_string_lossy().into_owned(),
            open: None,
            curves: Curves::default(),
        }
    }

    fn begin(&mut self, run: &Run, record: &Record) -> Result<(), Error> {
        let space = run.started.as_ref().map_or("heterosis", |s| s.name.as_str());
        let experiment = number(space);
        let place = self.root.join(&experiment);
        let began_ms = record.time_ms;
        let id = tagged_id(&self.name, began_ms);
        let dir = place.join(&id);
        // Of an earlier process of this run.
        for part in ["metrics", "params", "tags"] {
            let part = dir.join(part);
            if part.exists() {
                fs::remove_dir_all(&part).map_err(Error::io(&part))?;
            }
        }
        let artifacts = dir.join("artifacts");
        fs::create_dir_all(&artifacts).map_err(Error::io(&artifacts))?;
        let about = place.join("meta.yaml");
        if !about.exists() {
            let text = format!(
                "artifact_location: {}\ncreation_time: {began_ms}\nexperiment_id: '{experiment}'\nlast_update_time: \
                 {began_ms}\nlifecycle_stage: active\nname: {}\n",
                quoted(&place.display().to_string()),
                quoted(space)
            );
            fs::write(&about, text).map_err(Error::io(&about))?;
        }
        for (name, value) in parameters(run) {
            write(&dir.join("params").join(metric(&name)), &value)?;
        }
        for (name, value) in [
            ("mlflow.runName", self.name.as_str()),
            ("mlflow.source.name", "heterosis"),
        ] {
            write(&dir.join("tags").join(name), value)?;
        }
        self.open = Some(Open {
            dir,
            id,
            experiment,
            began_ms,
            metrics: BTreeMap::new(),
        });
        Ok(())
    }

    fn state(&self, status: u8, now_ms: u64) -> Result<(), Error> {
        let Some(Open {
            dir,
            id,
            experiment,
            began_ms,
            ..
        }) = &self.open
        else {
            return Ok(());
        };
        let end = if status == RUNNING {
            "null".into()
        } else {
            now_ms.to_string()
        };
        let text = format!(
            "artifact_uri: {}\nend_time: {end}\nentry_point_name: ''\nexperiment_id: '{experiment}'\nlifecycle_stage: \
             active\nrun_id: {id}\nrun_name: {}\nrun_uuid: {id}\nsource_name: heterosis\nsource_type: 4\nsource_version: \
             ''\nstart_time: {began_ms}\nstatus: {status}\ntags: []\nuser_id: heterosis\n",
            quoted(&dir.join("artifacts").display().to_string()),
            quoted(&self.name)
        );
        let path = dir.join("meta.yaml");
        fs::write(&path, text).map_err(Error::io(&path))
    }

    fn point(&mut self, point: &Point) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let path = open.dir.join("metrics").join(metric(&point.name));
        if !open.metrics.contains_key(&point.name) {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(Error::io(folder))?;
            }
            let file = File::create(&path).map_err(Error::io(&path))?;
            open.metrics.insert(point.name.clone(), file);
        }
        let Some(file) = open.metrics.get_mut(&point.name) else {
            return Ok(());
        };
        writeln!(file, "{} {} {}", point.time_ms, point.value, point.step).map_err(Error::io(&path))
    }
}

/// By which a run is known again: its directory's name, and when it began.
pub(super) fn tagged_id(name: &str, began_ms: u64) -> String {
    blake3::hash(format!("{name} {began_ms}").as_bytes()).to_hex()[..32].into()
}

/// What MLflow takes for a name: letters, digits, `_`, `-`, `.`, space and `/`; nothing of it leads out of its folder.
pub(super) fn metric(name: &str) -> String {
    let plain = |c: char| {
        if c.is_alphanumeric() || "_-/ ".contains(c) {
            c
        } else {
            '_'
        }
    };
    name.chars().map(plain).collect()
}

/// An experiment's number, the same for the same name.
fn number(name: &str) -> String {
    let hash = blake3::hash(name.as_bytes());
    let digits = hash
        .as_bytes()
        .iter()
        .take(7)
        .fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    // Fifteen digits: MLflow's own have eighteen, so that the two do not meet.
    format!("{:015}", digits % 1_000_000_000_000_000)
}

/// A scalar of YAML, whatever stands in it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    fs::write(path, text).map_err(Error::io(path))
}

impl Tracker for FileStore {
    fn see(&mut self, run: &Run, record: &Record) -> Result<(), Error> {
        if self.open.is_none() {
            self.begin(run, record)?;
        }
        if let Some(status) = state_after(&record.event) {
            self.state(status, record.time_ms)?;
        }
        if let (Event::TestRead(reading), Some(open)) = (&record.event, &self.open) {
            write(&open.dir.join("tags").join("verdict"), &verdict(run, reading).sentence)?;
        }
        let points = self.curves.of(run, record);
        points.iter().try_for_each(|point| self.point(point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    fn told(root: &Path) -> PathBuf {
        let mut store = FileStore::at(root, Path::new("runs/night-1"));
        let mut run = Run::default();
        for record in rehearsal::journal() {
            run.apply(&record);
            store.see(&run, &record).unwrap();
        }
        store.open.unwrap().dir
    }

    #[test]
    fn a_run_stands_in_the_store_once_however_often_it_is_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = told(root.path());
        let best = fs::read_to_string(dir.join("metrics/search/best")).unwrap();
        assert_eq!(told(root.path()), dir);
        assert_eq!(fs::read_to_string(dir.join("metrics/search/best")).unwrap(), best);
        let line: Vec<&str> = best.lines().next().unwrap().split(' ').collect();
        assert!(line.len() == 3 && line[1].parse::<f64>().is_ok(), "{line:?}");
        let about = fs::read_to_string(dir.join("meta.yaml")).unwrap();
        assert!(
            about.contains("status: 3\n") && about.contains("run_name: \"night-1\""),
            "{about}"
        );
        assert_eq!(fs::read_to_string(dir.join("params/seed")).unwrap(), "7");
        assert!(fs::read_to_string(dir.join("tags/verdict")).unwrap().contains("beats"));
        let experiment = fs::read_to_string(dir.join("../meta.yaml")).unwrap();
        assert!(experiment.contains("name: \"bilingual-maths\""), "{experiment}");
    }

    #[test]
    fn names_lead_nowhere() {
        assert_eq!(metric("search/task/../../x"), "search/task/__/__/x");
    }
}
