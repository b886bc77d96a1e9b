//! The endpoint as clients meet it: right answers, right refusals, clients that vanish; and the chat in the terminal.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
};

use serde_json::{Value, json};

use super::program::{copy, good, heterosis, root};

/// A server on a port of its own, which ends with the test.
struct Served {
    process: Child,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    fn start(model: &str, more: &[&str]) -> Self {
        let args = [&["serve", model, "--port", "0"], more].concat();
        let mut process = heterosis(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            Some(line.split_once("http://")?.1.split_once("/v1")?.0.to_owned())
        });
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address: address.expect("the server says where it is"),
        }
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// Status and body.
    fn text(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut answer = Vec::new();
        self.send(method, path, headers, body).read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        (status, if is_chunked { unchunked(body) } else { body.to_owned() })
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.text("POST", path, "", &body.to_string());
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")),
        )
    }

    fn completion(&self, body: &Value) -> Value {
        let (status, answer) = self.post("/v1/completions", body);
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        whole += &rest[..size];
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// The values of a stream's events.
fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut data: Vec<&str> = data.collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn spanish() -> String {
    root().join("models/tiny-spanish").display().to_string()
}

/// What `generate` writes for a prompt.
fn generated(dir: &Path, model: &str, prompt: &str, tokens: &str) -> Value {
    let prompts = dir.join("prompts.jsonl");
    fs::write(&prompts, json!({"prompt": prompt}).to_string() + "\n").unwrap();
    let prompts = prompts.display().to_string();
    let text = good(&[
        "generate",
        model,
        "--prompts",
        &prompts,
        "--max-new-tokens",
        tokens,
        "--json",
    ]);
    let document: Value = serde_json::from_str(&text).unwrap();
    document["outputs"][0].clone()
}

#[test]
fn completions_are_those_of_generate_and_likelihoods_those_of_perplexity() {
    let tmp = tempfile::tempdir().unwrap();
    let (model, served) = (spanish(), Served::start(&spanish(), &[]));
    let (status, models) = served.text("GET", "/v1/models", "", "");
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("tiny-spanish")));

    let prompt = "Ana tiene 3 libros y compra 4 libros.";
    let expected = generated(tmp.path(), &model, prompt, "24");
    let body = json!({"model": "tiny-spanish", "prompt": prompt, "max_tokens": 24, "temperature": 0});
    let answer = served.completion(&body);
    assert_eq!(answer["choices"][0]["text"], expected["text"]);
    let written = expected["token_ids"].as_array().unwrap().len();
    assert_eq!(answer["usage"]["completion_tokens"], written);

    // A stream says the same, and so does each of several prompts at once.
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let (_, text) = served.text("POST", "/v1/completions", "", &streamed.to_string());
    let chunks = events(&text);
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(json!(text), expected["text"]);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], written);
    let both = served.completion(&json!({"prompt": ["Hola", prompt], "max_tokens": 24, "temperature": 0, "n": 2}));
    let texts: Vec<&Value> = both["choices"].as_array().unwrap().iter().map(|c| &c["text"]).collect();
    assert_eq!(
        (texts.len(), texts[2], texts[3]),
        (4, &expected["text"], &expected["text"])
    );

    let file = tmp.path().join("text.txt");
    fs::write(&file, prompt).unwrap();
    let perplexity = good(&["perplexity", &model, "--text", &file.display().to_string(), "--json"]);
    let perplexity: Value = serde_json::from_str(&perplexity).unwrap();
    let echoed =
        served.completion(&json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1}));
    let logprobs = &echoed["choices"][0]["logprobs"];
    let of_tokens = logprobs["token_logprobs"].as_array().unwrap();
    let (first, last) = (&of_tokens[0], of_tokens.len() - 1);
    let sum: f64 = of_tokens[1..last].iter().map(|p| p.as_f64().unwrap()).sum();
    let mean = -sum / (last - 1) as f64;
    assert!(
        first.is_null() && (mean - perplexity["nll_per_token"].as_f64().unwrap()).abs() < 1e-5,
        "{mean} {perplexity}"
    );
    // What is generated greedily is the likeliest.
    let top = logprobs["top_logprobs"][last].as_object().unwrap();
    assert_eq!((top.len(), top.values().next()), (1, Some(&of_tokens[last])));
}

#[test]
fn a_chat_is_streamed_and_stops_where_it_is_told_to() {
    let tmp = tempfile::tempdir().unwrap();
    let model = tmp.path().join("talker");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(spanish()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let refuses = Served::start(&model.display().to_string(), &[]);
    let question = "Ana tiene 3 libros y compra 4 libros.";
    let body = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": question}]}], "temperature": 0, "max_tokens": 24});
    let (status, refusal) = refuses.post("/v1/chat/completions", &body);
    assert!(
        status == 400
            && refusal["error"]["message"]
                .as_str()
                .unwrap()
                .contains("no chat template")
    );

    fs::write(
        model.join("chat_template.jinja"),
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    .unwrap();
    let served = Served::start(&model.display().to_string(), &[]);
    let expected = generated(tmp.path(), &spanish(), question, "24")["text"].clone();
    let (status, answer) = served.post("/v1/chat/completions", &body);
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &expected));

    let streamed = |more: Value| {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (_, text) = served.text("POST", "/v1/chat/completions", "", &body.to_string());
        let chunks = events(&text);
        let said: String = chunks
            .iter()
            .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
            .collect();
        (said, chunks.last().unwrap()["choices"][0]["finish_reason"].clone())
    };
    assert_eq!(json!(streamed(json!({})).0), expected);
    let expected = expected.as_str().unwrap();
    let stop: String = expected.chars().skip(3).take(4).collect();
    let (said, reason) = streamed(json!({"stop": [stop]}));
    assert_eq!(
        (said.as_str(), reason),
        (expected.split(&stop).next().unwrap(), json!("stop"))
    );
    let (_, cut) = streamed(json!({"max_tokens": 2}));
    assert_eq!(cut, json!("length"));

    // Drawn: the same seed says the same, another one something else.
    let drawn = |seed: u64| streamed(json!({"temperature": 1.8, "seed": seed})).0;
    assert_eq!(drawn(5), drawn(5));
    assert!((6..12).any(|seed| drawn(seed) != drawn(5)));
}

#[test]
fn what_is_wrong_is_refused_in_words_and_nobody_else_is_the_worse_for_it() {
    let served = Served::start(&spanish(), &["--api-key", "sesame", "--name", "child"]);
    let key = "Authorization: Bearer sesame\r\n";
    for wrong in ["", "Authorization: Bearer open\r\n", "Authorization: sesame\r\n"] {
        let (status, body) = served.text("POST", "/v1/completions", wrong, "{\"prompt\": \"a\"}");
        assert_eq!(status, 401, "{body}");
        assert_eq!(served.text("GET", "/v1/models", wrong, "").0, 401);
    }
    let long = json!({"prompt": vec![5; 600]}).to_string();
    let huge = json!({"prompt": "x".repeat(5 << 20)}).to_string();
    for (body, status, word) in [
        ("{", 400, "cannot be read"),
        ("{\"prompt\": {}}", 400, "cannot be read"),
        ("{\"prompt\": \"\"}", 400, "no tokens"),
        ("{\"prompt\": [999999]}", 400, "token 999999"),
        (
            "{\"prompt\": \"a\", \"model\": \"gpt-4\"}",
            404,
            "'gpt-4' does not exist",
        ),
        ("{\"prompt\": \"a\", \"max_tokens\": 100000}", 400, "are asked for"),
        ("{\"prompt\": \"a\", \"temperature\": -1}", 400, "temperature -1"),
        ("{\"prompt\": \"a\", \"logit_bias\": {\"1\": 5}}", 400, "logit_bias"),
        ("{\"prompt\": \"a\", \"n\": 1000}", 400, "between 1 and 64"),
        ("{\"prompt\": \"a\", \"logprobs\": 1000}", 400, "more than 20"),
        (&long, 400, "600 tokens"),
        (&huge, 413, "at most"),
    ] {
        let (got, answer) = served.text("POST", "/v1/completions", key, body);
        assert_eq!(got, status, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{answer}");
    }
    assert_eq!(served.text("GET", "/v2", key, "").0, 404);

    // Some vanish in the midst of long answers, many ask at a time: each gets its own.
    let ask =
        |i: usize| json!({"prompt": format!("Ana tiene {i} libros"), "max_tokens": 12, "temperature": 0}).to_string();
    let alone: Vec<String> = (0..4)
        .map(|i| text_of(&served.text("POST", "/v1/completions", key, &ask(i)).1))
        .collect();
    let vanished = json!({"prompt": "Hola", "max_tokens": 400, "temperature": 1.5, "stream": true, "n": 8}).to_string();
    std::thread::scope(|scope| {
        for i in 0..24 {
            let (served, alone, ask, vanished) = (&served, &alone, &ask, &vanished);
            scope.spawn(move || match i % 3 {
                0 => drop(served.send("POST", "/v1/completions", key, vanished)),
                _ => {
                    let (status, answer) = served.text("POST", "/v1/completions", key, &ask(i % 4));
                    assert_eq!((status, &text_of(&answer)), (200, &alone[i % 4]));
                }
            });
        }
    });
}

/// Advice over a real address: a right key, a wrong one, and a model that cannot chat; the search ends whatever is said.
#[test]
fn a_search_asks_a_served_model_for_advice() {
    let tmp = tempfile::tempdir().unwrap();
    let chats = tmp.path().join("chats");
    copy(&root().join("models/tiny-base"), &chats);
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    fs::write(chats.join("chat_template.jinja"), template).unwrap();
    let chats = chats.display().to_string();
    let score = tmp.path().join("score.sh");
    let answers = r#"while read -r l; do id=${l#*'"id":"'}; id=${id%%'"'*}; n=$((n + 1)); echo "{\"id\":\"$id\",\"scores\":{\"s\":0.$((n + 10))}}"; done"#;
    fs::write(&score, answers).unwrap();
    let plain = root().join("models/tiny-base").display().to_string();
    for (name, model, key, refused) in [
        ("right", &chats, "secret", None),
        ("wrong", &chats, "guessed", Some("status 401")),
        ("base", &plain, "secret", Some("this model has no chat template")),
    ] {
        let served = Served::start(model, &["--api-key", "secret", "--name", "wise"]);
        let (space, run) = (tmp.path().join(format!("{name}.yaml")), tmp.path().join(name));
        let text = format!(
            "name: advised\ngenes: {{x: [0, 1], y: [0, 1]}}\nfitness: {{command: [sh, {}]}}\nsearch: {{optimizer: cma-es, \
             population: 4, evals: 12, seed: 1, guide: {{endpoint: 'http://{}/v1', model: wise, key: ADVICE_KEY, tokens: 24}}}}\n",
            score.display(),
            served.address
        );
        fs::write(&space, text).unwrap();
        let mut search = heterosis(&["search", &space.display().to_string(), "--headless", "--run"]);
        let search = search.arg(&run).env("ADVICE_KEY", key).output().unwrap();
        assert!(search.status.success(), "{}", String::from_utf8_lossy(&search.stderr));
        let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap();
        let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let advised: Vec<Value> = lines.filter(|line| line["event"] == "advised").collect();
        assert!(!advised.is_empty(), "{name}");
        for advice in &advised {
            match refused {
                None => assert!(advice["reply"].is_string(), "{name}: {advice}"),
                Some(why) => assert!(advice["refused"].as_str().unwrap().contains(why), "{name}: {advice}"),
            }
        }
        assert!(!journal.contains("secret"), "the key is written nowhere");
    }
}

fn text_of(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// One could not try the child without exporting it.
#[test]
fn a_run_s_child_and_its_parents_talk_side_by_side() {
    let tmp = tempfile::tempdir().unwrap();
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{{task: {}/evals/arith-es.yaml, split: search, limit: 4}}]}}
search: {{optimizer: random, evals: 1, seed: 5}}
final: {{finalists: 1, selection: {{limit: 4}}, test: {{limit: 4}}}}
",
        root().display()
    );
    let file = super::program::space_over_family(tmp.path(), &rest);
    let run = tmp.path().join("run").display().to_string();
    good(&["search", &file.display().to_string(), "--run", &run, "--headless"]);
    let mut chat = heterosis(&["chat", &run, "--parents", "--max-new-tokens", "8"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    chat.stdin
        .take()
        .unwrap()
        .write_all(b"Ana tiene 3 libros\n/new\n/quit\nnobody reads this\n")
        .unwrap();
    let output = chat.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let who: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once(']').map(|(name, _)| name))
        .collect();
    assert_eq!(
        who,
        ["[small", "[tiny-base", "[tiny-maths-en", "[tiny-spanish"],
        "{said}"
    );

    let served = Served::start(&run, &[]);
    let answer = served
        .completion(&json!({"model": "small", "prompt": "Ana tiene 3 libros", "max_tokens": 8, "temperature": 0}));
    let child = said.lines().next().unwrap().strip_prefix("[small] ").unwrap();
    assert_eq!(
        answer["choices"][0]["text"]
            .as_str()
            .unwrap()
            .lines()
            .next()
            .unwrap_or_default(),
        child
    );
}
