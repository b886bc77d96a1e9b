//! The evaluation engine on the embedded models: what a question gives depends on the weights and on the question alone.

use std::{collections::HashMap, path::Path, sync::Arc};

use heterosis::{
    checkpoint::Checkpoint,
    eval::{self, Answerer, Chat, DataDirs, Question, Split, Task, TaskOptions},
    model::{
        DType, Decoder, DecoderSpec, Engine, EngineOptions, Error, Generation, Message, Progress, Request, Score,
        ScoreRequest, Tokenizer, decoder::Step, tokenizer::TokenizerFiles,
    },
};

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(Path::new(&path(name))).unwrap()
}

fn engine(name: &str, options: EngineOptions) -> Engine {
    let checkpoint = open(name);
    let spec = DecoderSpec::from_config(checkpoint.config()).unwrap();
    let mut read = |tensor: &str| checkpoint.read_f32(tensor).map_err(|e| e.to_string());
    let decoder = Decoder::load(spec, heterosis::model::Device::Cpu, DType::F32, &mut read).unwrap();
    let tokenizer = Tokenizer::from_dir(Path::new(&path(name))).unwrap();
    Engine::new(decoder, Arc::new(tokenizer), options)
}

fn set_weights(engine: &mut Engine, checkpoint: &Checkpoint) {
    for (name, _) in engine.decoder().spec().tensor_names() {
        let data = checkpoint.read_f32(&name).unwrap();
        engine.decoder_mut().set_tensor(&name, &data).unwrap();
    }
}

fn tasks(limit: usize) -> Vec<(Task, Vec<Question>)> {
    let options = TaskOptions {
        limit: Some(limit),
        ..TaskOptions::default()
    };
    let load = |name: &str| {
        let task = Task::load(&path(name), &options, &DataDirs::default()).unwrap();
        let questions = task.questions(Split::Search).unwrap();
        (task, questions)
    };
    vec![
        load("evals/arith-en.yaml"),
        load("evals/arith-es-solutions.yaml"),
        load("evals/arith-es.yaml"),
    ]
}

/// Every answer by task and question, with the exact bits of its score.
type Story = HashMap<(String, String), (String, String, u64)>;

fn answers(engine: &mut Engine, work: &[(&Task, &[Question])]) -> Story {
    let answered = eval::answer(engine, work, &mut |_| {}).unwrap();
    let mut story = Story::new();
    for ((task, questions), answers) in work.iter().zip(answered) {
        assert_eq!(answers.len(), questions.len());
        for (question, answer) in questions.iter().zip(answers) {
            assert_eq!(answer.question, question.id);
            let told = (answer.output, answer.finish, answer.score.to_bits());
            story.insert((task.name().into(), answer.question), told);
        }
    }
    story
}

fn all(tasks: &[(Task, Vec<Question>)]) -> Vec<(&Task, &[Question])> {
    tasks
        .iter()
        .map(|(task, questions)| (task, questions.as_slice()))
        .collect()
}

/// Racing asks for some of a task's questions now and for others later; the answers must be those of the whole exam.
#[test]
fn an_answer_does_not_depend_on_what_else_is_asked() {
    let tasks = tasks(40);
    let mut model = engine("models/tiny-maths-en", EngineOptions::default());
    let whole = answers(&mut model, &all(&tasks));
    assert_eq!(whole.len(), 120);
    let outputs: Vec<&String> = whole.values().map(|(output, ..)| output).collect();
    assert!(
        outputs.iter().any(|output| output.contains("####")),
        "the model answers: {outputs:?}"
    );

    let mut check = |work: &[(&Task, &[Question])]| {
        for (key, told) in answers(&mut model, work) {
            assert_eq!(told, whole[&key], "{key:?}");
        }
    };
    // Rotating blocks of every task, some questions of one task, one question alone, another order.
    for block in [0..24, 24..40] {
        let work: Vec<_> = tasks.iter().map(|(task, q)| (task, &q[block.clone()])).collect();
        check(&work);
    }
    check(&[(&tasks[2].0, &tasks[2].1[7..16])]);
    check(&[(&tasks[1].0, &tasks[1].1[39..])]);
    let reversed: Vec<Question> = tasks[0].1.iter().rev().cloned().collect();
    check(&[(&tasks[2].0, &tasks[2].1[..3]), (&tasks[0].0, &reversed)]);
    check(&[(&tasks[0].0, &[])]);
}

/// Two candidates in turns in one engine give what each gives in an engine of its own, also when only some of the tensors
/// are written, and when layers are repeated or left out in between.
#[test]
fn nothing_of_a_candidate_survives_it() {
    let tasks = tasks(16);
    let work = all(&tasks);
    let names = ["models/tiny-maths-en", "models/tiny-spanish"];
    let alone = names.map(|name| answers(&mut engine(name, EngineOptions::default()), &work));
    assert_ne!(alone[0], alone[1]);
    let checkpoints = names.map(open);
    let mut both = engine("models/tiny-base", EngineOptions::default());
    let layers = both.decoder().spec().layers.len();
    let step = |layer| Step {
        layer,
        input_scale: 1.0,
    };
    for round in 0..2 {
        for (checkpoint, alone) in checkpoints.iter().zip(&alone) {
            set_weights(&mut both, checkpoint);
            assert_eq!(answers(&mut both, &work), *alone, "round {round}");
        }
        // A child with its third layer twice, one with its last left out.
        let repeated = [0, 1, 2, 2].into_iter().chain(3..layers).map(step).collect();
        both.decoder_mut().set_path(repeated).unwrap();
        assert_ne!(answers(&mut both, &work), alone[1]);
        both.decoder_mut()
            .set_path((0..layers - 1).map(step).collect())
            .unwrap();
        assert_ne!(answers(&mut both, &work), alone[1]);
        both.decoder_mut().set_path((0..layers).map(step).collect()).unwrap();
        // One tensor of the other candidate, and back.
        let tensor = "model.layers.3.mlp.down_proj.weight";
        for (checkpoint, same) in [(&checkpoints[0], false), (&checkpoints[1], true)] {
            both.decoder_mut()
                .set_tensor(tensor, &checkpoint.read_f32(tensor).unwrap())
                .unwrap();
            assert_eq!(answers(&mut both, &work) == alone[1], same);
        }
    }
}

/// `--kv-memory` bounds what is worked on at once; the answers are the same, and where not even one row fits, the error
/// says what it takes, and that is enough.
#[test]
fn little_memory_is_smaller_batches_or_a_clear_error() {
    let tasks = tasks(24);
    let work = all(&tasks);
    let expected = answers(&mut engine("models/tiny-maths-en", EngineOptions::default()), &work);
    let with = |kv_memory_bytes| EngineOptions {
        kv_memory_bytes,
        ..EngineOptions::default()
    };
    // What each refusal asks for is given, until nothing is refused any more.
    let mut least = 1;
    let mut refusals = 0;
    loop {
        match eval::answer(&mut engine("models/tiny-maths-en", with(least)), &work, &mut |_| {}) {
            Ok(_) => break,
            Err(eval::Error::Model(error @ Error::KvMemory { .. })) => {
                assert!(error.to_string().contains("--kv-memory"), "{error}");
                let Error::KvMemory {
                    needed_bytes,
                    limit_bytes,
                    ..
                } = error
                else {
                    unreachable!()
                };
                assert!(limit_bytes == least && needed_bytes > least, "{error}");
                least = needed_bytes;
                refusals += 1;
            }
            Err(error) => panic!("{least} bytes: {error}"),
        }
    }
    assert!((1..6).contains(&refusals), "{refusals} refusals");
    for bytes in [least, least * 3 / 2, least * 7] {
        let mut model = engine("models/tiny-maths-en", with(bytes));
        assert_eq!(answers(&mut model, &work), expected, "{bytes} bytes");
    }
}

/// A template that writes the BOS token, a tokenizer that adds it, or both: there is one at the beginning (unsloth 10312,
/// lm-eval 3333). A question that itself opens with the token's text is read as lm-eval reads it: it has its BOS.
#[test]
fn a_text_begins_with_one_bos_token() {
    let tokenizer = |chat_template: &str| {
        let file = std::fs::read(path("models/tiny-base/tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&file).unwrap();
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<pad>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<pad>": {"id": "<pad>", "ids": [0], "tokens": ["<pad>"]}},
        });
        let files = TokenizerFiles {
            name: "tokenizer.json".into(),
            tokenizer_json: json.to_string().into_bytes(),
            tokenizer_config: Some(serde_json::json!({"bos_token": "<pad>", "chat_template": chat_template})),
            ..TokenizerFiles::default()
        };
        Tokenizer::new(files).unwrap()
    };
    let question = "Q: Tom has 5 apples .";
    let bos_of = |template: &str, question: &str| {
        let mut engine = engine("models/tiny-base", EngineOptions::default());
        engine.set_tokenizer(Arc::new(tokenizer(template)));
        let messages = [Message::new("user", question)];
        let rendered = engine.tokenizer().apply_chat_template(&messages, true).unwrap();
        let encoded = Answerer::encode(&engine, &[question, rendered.as_str()]).unwrap();
        [0, 1].map(|i| encoded[i].iter().filter(|id| **id == 0).count())
    };
    let (with, without) = ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}");
    assert_eq!(
        bos_of(with, question),
        [1, 1],
        "added once, and written by the template"
    );
    assert_eq!(bos_of(without, question), [1, 1], "added both times");
    assert_eq!(bos_of(without, &format!("<pad>{question}")), [1, 1]);
}

/// What a multiple-choice task asks a model, as text: prompt and choice.
#[derive(Default)]
struct Asked(Vec<String>);

impl Answerer for Asked {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, Error> {
        Ok(texts.iter().map(|text| text.chars().map(u32::from).collect()).collect())
    }

    fn decode(&self, _: &[u32]) -> String {
        String::new()
    }

    fn has_chat_template(&self) -> bool {
        true
    }

    fn encode_alone(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, Error> {
        self.encode(texts)
    }

    fn first_token(&self) -> Option<u32> {
        None
    }

    fn render_chat(&self, messages: &[eval::Message], _: &Chat) -> Result<String, Error> {
        let turns = messages.iter().map(|m| format!("[{}]{}", m.role, m.content));
        Ok(turns.chain(["[assistant]".into()]).collect())
    }

    fn end_text(&self) -> Option<&str> {
        None
    }

    fn context_length(&self) -> usize {
        1000
    }

    fn generate(&mut self, _: &[Request], _: &mut dyn FnMut(Progress)) -> Result<Vec<Generation>, eval::Error> {
        Ok(Vec::new())
    }

    fn score(&mut self, requests: &[ScoreRequest], _: &mut dyn FnMut(Progress)) -> Result<Vec<Score>, eval::Error> {
        let text = |tokens: &[u32]| tokens.iter().filter_map(|t| char::from_u32(*t)).collect::<String>();
        for request in requests {
            let (prompt, choice) = request.tokens.split_at(request.from);
            self.0.push(format!("{}|{}", text(prompt), text(choice)));
        }
        let score = |request: &ScoreRequest| Score {
            log_likelihood: -1.0,
            tokens: request.tokens.len() - request.from,
            greedy: false,
        };
        Ok(requests.iter().map(score).collect())
    }
}

/// A choice is " A" after a plain prompt and "A" after a chat template's: lm-eval's way since its issues 2346 and 2475.
#[test]
fn under_a_chat_template_a_choice_has_no_space_before_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), "{\"q\": \"1 + 1?\", \"a\": \"B\"}\n").unwrap();
    let file = dir.path().join("t.yaml");
    let text = "task: t\ntype: multiple_choice\ndata: {test: rows.jsonl}\nprompt: 'Q: {{q}}'\nchoices: [A, B]\ngold: '{{a}}'\n";
    std::fs::write(&file, text).unwrap();
    let asked = |chat: Option<Chat>| {
        let options = TaskOptions {
            chat,
            lang: Some("en".into()),
            ..TaskOptions::default()
        };
        let task = Task::load(&file.display().to_string(), &options, &DataDirs::default()).unwrap();
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Asked::default();
        eval::answer(&mut model, &[(&task, &questions)], &mut |_| {}).unwrap();
        model.0
    };
    assert_eq!(asked(None), ["Q: 1 + 1?| A", "Q: 1 + 1?| B"]);
    assert_eq!(
        asked(Some(Chat::default())),
        ["[user]Q: 1 + 1?[assistant]|A", "[user]Q: 1 + 1?[assistant]|B"]
    );
}
