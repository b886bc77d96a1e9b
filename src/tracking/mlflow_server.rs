//! A run on an MLflow server.
//!
//! **Source**: MLflow's REST API 2.0 (`/api/2.0/mlflow/…`). The server keeps what it was told, so a resumed run goes on in the
//! same run there, found by a tag, and another tag says how far the journal was told. Points go in batches; one that does not
//! come through is sent again with the next, until a few have failed in a row.

use serde_json::{Value, json};

use super::{
    Curves, Error, Tracker,
    mlflow::{metric, state_after, tagged_id},
    parameters,
};
use crate::event::{Record, run::Run};

/// Sends a JSON document to an address, and gives what is answered or why nothing was.
pub type Post = Box<dyn FnMut(&str, &str) -> Result<Vec<u8>, String>>;

/// Most points of one batch: MLflow takes a thousand.
const MOST_POINTS: usize = 900;

/// Milliseconds between two batches, by the records' own clock.
const PAUSE_MS: u64 = 5000;

/// Batches that fail in a row before it is given up.
const TRIES: usize = 5;

/// The tags by which a run is found again, and that says how far its journal was told.
const RUN_TAG: &str = "heterosis.run";
const TOLD_TAG: &str = "heterosis.told";

/// Names of MLflow's for what has become of a run, by the numbers of its file store.
const STATES: [&str; 6] = ["", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"];

/// A run on a server: the experiment is named as the space, the run as its directory.
pub struct Server {
    url: String,
    /// The run's directory's last part.
    name: String,
    post: Post,
    open: Option<Open>,
    curves: Curves,
}

struct Open {
    id: String,
    /// Place in the journal after the last record that the server knows of.
    told: u64,
    waiting: Vec<Value>,
    tags: Vec<Value>,
    sent_ms: u64,
    failed: usize,
}

impl Server {
    /// At `url`, such as `http://localhost:5000`.
    pub fn at(url: &str, run: &std::path::Path, post: Post) -> Self {
        let name = run.file_name().unwrap_or(run.as_os_str());
        Self {
            url: url.trim_end_matches('/').into(),
            name: name.to_string_lossy().into_owned(),
            post,
            open: None,
            curves: Curves::default(),
        }
    }

    fn call(&mut self, what: &str, body: &Value) -> Result<Value, Error> {
        let url = format!("{}/api/2.0/mlflow/{what}", self.url);
        let answer = (self.post)(&url, &body.to_string()).map_err(|reason| self.no(reason))?;
        match answer.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&answer).map_err(|e| self.no(format!("{what} answers no JSON: {e}"))),
        }
    }

    fn no(&self, reason: String) -> Error {
        Error::Server {
            url: self.url.clone(),
            reason,
        }
    }

    fn begin(&mut self, run: &Run, record: &Record) -> Result<Open, Error> {
        let space = run.started.as_ref().map_or("heterosis", |s| s.name.as_str());
        let experiment = self.experiment(space)?;
        let tag = tagged_id(&self.name, record.time_ms);
        let (id, told) = match self.known(&experiment, &tag)? {
            Some(known) => known,
            None => (self.create(&experiment, &tag, record.time_ms)?, 0),
        };
        let parameters = parameters(run);
        let params: Vec<Value> = parameters.iter().map(|(name, value)| param(name, value)).collect();
        if told == 0 {
            self.call(
                "runs/log-batch",
                &json!({"run_id": id, "metrics": [], "params": params, "tags": []}),
            )?;
        }
        Ok(Open {
            id,
            told,
            waiting: Vec::new(),
            tags: Vec::new(),
            sent_ms: 0,
            failed: 0,
        })
    }

    /// The number of the experiment of this name, which is made unless it is there.
    fn experiment(&mut self, name: &str) -> Result<String, Error> {
        // Whether it exists is told by the same status as anything else that is wrong.
        let created = self.call("experiments/create", &json!({"name": name}));
        let refused = match created {
            Ok(answer) => return self.text(&answer, "/experiment_id"),
            Err(e) => e,
        };
        let mut page = Value::Null;
        loop {
            let mut asked = json!({"max_results": 1000, "view_type": "ACTIVE_ONLY"});
            if page.is_string() {
                asked["page_token"] = page;
            }
            let Ok(answer) = self.call("experiments/search", &asked) else {
                return Err(refused);
            };
            let all = answer["experiments"].as_array().cloned().unwrap_or_default();
            if let Some(found) = all.iter().find(|e| e["name"] == name) {
                return self.text(found, "/experiment_id");
            }
            page = answer["next_page_token"].clone();
            if page.as_str().is_none_or(str::is_empty) {
                return Err(refused);
            }
        }
    }

    /// The run with this tag, and how far it was told.
    fn known(&mut self, experiment: &str, tag: &str) -> Result<Option<(String, u64)>, Error> {
        let filter = format!("tags.`{RUN_TAG}` = '{tag}'");
        let asked = json!({"experiment_ids": [experiment], "filter": filter, "max_results": 1});
        let answer = self.call("runs/search", &asked)?;
        let Some(found) = answer.pointer("/runs/0") else {
            return Ok(None);
        };
        let tags = found.pointer("/data/tags").and_then(Value::as_array);
        let told = tags.into_iter().flatten().find(|tag| tag["key"] == TOLD_TAG);
        let told = told.and_then(|tag| tag["value"].as_str()?.parse().ok());
        Ok(Some((self.text(found, "/info/run_id")?, told.unwrap_or(0))))
    }

    fn create(&mut self, experiment: &str, tag: &str, began_ms: u64) -> Result<String, Error> {
        let tags = [
            (RUN_TAG, tag),
            ("mlflow.runName", &self.name),
            ("mlflow.source.name", "heterosis"),
        ];
        let tags: Vec<Value> = tags.iter().map(|(name, value)| param(name, value)).collect();
        let asked = json!({
            "experiment_id": experiment, "start_time": began_ms, "run_name": self.name, "tags": tags
        });
        let answer = self.call("runs/create", &asked)?;
        self.text(&answer, "/run/info/run_id")
    }

    fn text(&self, answer: &Value, place: &str) -> Result<String, Error> {
        let text = answer.pointer(place).and_then(Value::as_str);
        text.map(String::from)
            .ok_or_else(|| self.no(format!("its answer has no {}", &place[1..])))
    }

    /// Sends what waits, with the place in the journal behind it.
    fn send(&mut self, open: &mut Open, record: &Record) -> Result<(), Error> {
        let told = record.seq + 1;
        while !open.waiting.is_empty() || !open.tags.is_empty() {
            let n = open.waiting.len().min(MOST_POINTS);
            let mut tags = open.tags.clone();
            if n == open.waiting.len() {
                tags.push(param(TOLD_TAG, &told.to_string()));
            }
            let batch = json!({"run_id": open.id, "metrics": &open.waiting[..n], "params": [], "tags": tags});
            match self.call("runs/log-batch", &batch) {
                Ok(_) => {
                    open.waiting.drain(..n);
                    open.tags.clear();
                    open.failed = 0;
                }
                Err(e) => {
                    open.failed += 1;
                    return if open.failed < TRIES { Ok(()) } else { Err(e) };
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, open: &mut Open, run: &Run, record: &Record) -> Result<(), Error> {
        let points = self.curves.of(run, record);
        if record.seq < open.told {
            return Ok(()); // an earlier process of this run has told it
        }
        open.waiting.extend(points.iter().map(|point| {
            json!({"key": metric(&point.name), "value": point.value, "timestamp": point.time_ms, "step": point.step})
        }));
        if let crate::event::Event::TestRead(reading) = &record.event {
            let verdict = crate::event::verdict::verdict(run, reading).sentence;
            open.tags.push(param("verdict", &verdict));
        }
        let state = state_after(&record.event);
        let is_due = record.time_ms >= open.sent_ms + PAUSE_MS || open.waiting.len() >= MOST_POINTS;
        if is_due || state.is_some() {
            open.sent_ms = record.time_ms;
            self.send(open, record)?;
        }
        let Some(state) = state.map(|state| STATES[usize::from(state)]) else {
            return Ok(());
        };
        let mut update = json!({"run_id": open.id, "status": state});
        if state != "RUNNING" {
            update["end_time"] = record.time_ms.into();
        }
        self.call("runs/update", &update).map(drop)
    }
}

fn param(key: &str, value: &str) -> Value {
    // Longer ones are refused whole.
    let value: String = value.chars().take(500).collect();
    json!({"key": key, "value": value})
}

impl Tracker for Server {
    fn see(&mut self, run: &Run, record: &Record) -> Result<(), Error> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(run, record)?,
        };
        let taken = self.take(&mut open, run, record);
        self.open = Some(open);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, path::Path, rc::Rc};

    use super::*;
    use crate::event::{Event, rehearsal};

    /// As much of a server as a run needs: what was sent, and the tags of its only run.
    #[derive(Default)]
    struct Known {
        calls: Vec<(String, Value)>,
        tags: Vec<Value>,
        /// Batches that are refused first.
        refuses: usize,
    }

    fn server(known: &Rc<RefCell<Known>>) -> Server {
        let known = known.clone();
        let post = move |url: &str, body: &str| {
            let mut known = known.borrow_mut();
            let what = url
                .strip_prefix("http://there:5000/api/2.0/mlflow/")
                .unwrap()
                .to_string();
            let body: Value = serde_json::from_str(body).unwrap();
            let is_first = known.calls.is_empty();
            if what == "runs/log-batch" && known.refuses > 0 && body["metrics"][0].is_object() {
                known.refuses -= 1;
                return Err("it is overloaded".into());
            }
            known.calls.push((what.clone(), body.clone()));
            let answer = match what.as_str() {
                "experiments/create" if is_first => json!({"experiment_id": "7"}),
                "experiments/create" => return Err("it exists".into()),
                "experiments/search" => json!({"experiments": [{"name": "bilingual-maths", "experiment_id": "7"}]}),
                "runs/search" if known.tags.is_empty() => json!({}),
                "runs/search" => json!({"runs": [{"info": {"run_id": "r1"}, "data": {"tags": known.tags}}]}),
                "runs/create" => {
                    known.tags = body["tags"].as_array().unwrap().clone();
                    json!({"run": {"info": {"run_id": "r1"}}})
                }
                "runs/log-batch" => {
                    for tag in body["tags"].as_array().unwrap() {
                        known.tags.retain(|other| other["key"] != tag["key"]);
                        known.tags.push(tag.clone());
                    }
                    Value::Null
                }
                _ => json!({}),
            };
            Ok(if answer.is_null() {
                Vec::new()
            } else {
                answer.to_string().into_bytes()
            })
        };
        Server::at("http://there:5000/", Path::new("runs/night-1"), Box::new(post))
    }

    fn tell(known: &Rc<RefCell<Known>>, records: &[Record]) -> Result<(), Error> {
        let (mut server, mut run) = (server(known), Run::default());
        records.iter().try_for_each(|record| {
            run.apply(record);
            server.see(&run, record)
        })
    }

    fn points(known: &Known) -> Vec<Value> {
        let batches = known.calls.iter().filter(|(what, _)| what == "runs/log-batch");
        batches
            .flat_map(|(_, body)| body["metrics"].as_array().unwrap().clone())
            .collect()
    }

    /// What the file store would have.
    fn all_points(records: &[Record]) -> usize {
        let (mut run, mut curves) = (Run::default(), Curves::default());
        let of = |record: &Record| {
            run.apply(record);
            curves.of(&run, record).len()
        };
        records.iter().map(of).sum()
    }

    #[test]
    fn a_night_is_told_once_and_a_resumed_one_goes_on_where_it_stopped() {
        let records = rehearsal::journal();
        let known = Rc::default();
        tell(&known, &records[..60]).unwrap();
        tell(&known, &records).unwrap();
        let known = known.borrow();
        let points = points(&known);
        let mut once = points.clone();
        once.sort_by_key(ToString::to_string);
        once.dedup();
        // What had not been sent when the first process died is sent by the second; nothing is sent twice.
        assert_eq!((points.len(), once.len()), (all_points(&records), all_points(&records)));
        let created = known.calls.iter().filter(|(what, _)| what == "runs/create").count();
        assert_eq!(created, 1);
        let (_, last) = known.calls.last().unwrap();
        assert_eq!((&last["status"], &last["run_id"]), (&json!("FINISHED"), &json!("r1")));
        assert!(known.tags.iter().any(|tag| tag["key"] == "verdict"));
        let params = known
            .calls
            .iter()
            .find(|(_, body)| body["params"][0].is_object())
            .unwrap();
        assert!(
            params.1["params"]
                .as_array()
                .unwrap()
                .contains(&json!({"key": "seed", "value": "7"}))
        );
    }

    /// A server that is away for a moment costs no point; one that stays away is given up.
    #[test]
    fn a_batch_that_fails_is_sent_again() {
        let records = rehearsal::journal();
        let known = Rc::new(RefCell::new(Known {
            refuses: TRIES - 1,
            ..Known::default()
        }));
        tell(&known, &records).unwrap();
        assert_eq!(points(&known.borrow()).len(), all_points(&records));
        let known = Rc::new(RefCell::new(Known {
            refuses: usize::MAX,
            ..Known::default()
        }));
        let refused = tell(&known, &records).unwrap_err().to_string();
        assert_eq!(refused, "http://there:5000 does not take the run: it is overloaded");
        assert!(records.iter().any(|r| matches!(r.event, Event::TestRead(_))));
    }
}
