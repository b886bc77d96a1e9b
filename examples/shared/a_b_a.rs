//! The test for every engine: after weights A, then B, then A again it writes what it writes after A alone, and finds the
//! same texts as likely. An engine that keeps keys and values of a prefix from one candidate to the next fails it.

use std::{error::Error, time::Duration};

use heterosis::{
    checkpoint::HubOptions,
    host,
    model::{DType, Device, EngineOptions, Request, Score, ScoreRequest},
    models::{self, Parents, verbatim},
    programs::{EngineProgram, Settings},
    search::{MergeEvaluator, Resources},
    store::Cache,
};

/// Prompts of the largest batch.
const LARGEST: usize = 48;
/// Tokens of a prompt, at most: several blocks of keys and values of any engine.
const LONGEST: usize = 300;
const NEW_TOKENS: usize = 24;

/// What an engine made of one model's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Continuations of some prompts, each asked alone.
    pub alone: Vec<Vec<u32>>,
    /// Of all prompts, in one batch.
    pub together: Vec<Vec<u32>>,
    pub likely: Vec<Score>,
}

/// An engine's answers on the way A, B, A, and on A alone.
pub struct Checked {
    pub engine: String,
    pub first: Seen,
    pub other: Seen,
    pub again: Seen,
    pub fresh: Seen,
}

impl Checked {
    /// What is wrong with the engine.
    pub fn problem(&self) -> Option<&'static str> {
        if self.other.together == self.first.together {
            return Some("the two models answer alike, so nothing is tested: name others");
        }
        if self.again != self.first {
            return Some("it does not answer as before after another model's weights");
        }
        (self.again != self.fresh).then_some("it does not answer as after a fresh start")
    }
}

/// Asks models A and B of an engine: ours, or a program.
pub fn check(a: &str, b: &str, program: Option<&[String]>, dtype: DType) -> Result<Checked, Box<dyn Error>> {
    let mut parents = Parents::default();
    for (name, word) in [("a", a), ("b", b)] {
        models::add(&mut parents, name, word, &HubOptions::default())?;
    }
    let (engine, [first, other, again]) = {
        let mut evaluator = evaluator(&parents, program, dtype)?;
        let seen = [
            see(&mut evaluator, "a")?,
            see(&mut evaluator, "b")?,
            see(&mut evaluator, "a")?,
        ];
        let name = evaluator.engine_elsewhere().map(|engine| engine.identity().words());
        (name.unwrap_or_else(|| "heterosis".into()), seen)
    };
    Ok(Checked {
        engine,
        first,
        other,
        again,
        fresh: see(&mut evaluator(&parents, program, dtype)?, "a")?,
    })
}

/// Merges, and asks an engine.
pub fn evaluator<'a>(
    parents: &'a Parents,
    program: Option<&[String]>,
    dtype: DType,
) -> Result<MergeEvaluator<'a>, Box<dyn Error>> {
    let evaluator = MergeEvaluator::new(Resources {
        parents,
        tasks: Vec::new(),
        held_out: Vec::new(),
        cache: Cache::in_memory(),
        device: Device::Cpu,
        dtype,
        options: EngineOptions::default(),
        guard: None,
        since_start: Box::new(|| Duration::ZERO),
    });
    Ok(match program {
        None => evaluator,
        Some(command) => evaluator.with_engine(EngineProgram::start(Settings {
            command: command.to_vec(),
            timeout: Duration::from_secs(900),
            dtype,
            scratch: host::scratch(),
            worker: None,
        })?),
    })
}

/// What an engine makes of a model.
pub fn see(evaluator: &mut MergeEvaluator<'_>, model: &str) -> Result<Seen, Box<dyn Error>> {
    evaluator.merge(&verbatim(model))?;
    let engine = evaluator.answerer()?;
    let text =
        "Ana has 12 apples and gives 5 of them to Tom. Tom has 3 boxes with 4 pears in each. How many are left? ";
    let tokens: Vec<u32> = engine.encode_alone(&[text])?.concat();
    let longest = LONGEST.min(engine.context_length().saturating_sub(NEW_TOKENS + 1));
    let prompt = |i: usize| -> Vec<u32> {
        // Of many lengths, with prefixes in common.
        let length = (1 + i * longest / LARGEST).max(tokens.len().min(longest) / 2);
        tokens.iter().cycle().take(length).copied().collect()
    };
    let requests: Vec<Request> = (0..LARGEST).map(|i| Request::new(prompt(i), NEW_TOKENS)).collect();
    let mut alone = Vec::new();
    for request in requests.iter().step_by(LARGEST / 3) {
        let given = engine.generate(std::slice::from_ref(request), &mut |_| {})?;
        alone.extend(given.into_iter().map(|given| given.token_ids));
    }
    let together = engine.generate(&requests, &mut |_| {})?;
    let texts = requests.into_iter().filter(|r| r.prompt.len() > 1);
    let texts: Vec<ScoreRequest> = texts
        .map(|request| ScoreRequest {
            tokens: request.prompt,
            from: 1,
        })
        .collect();
    Ok(Seen {
        alone,
        together: together.into_iter().map(|given| given.token_ids).collect(),
        likely: engine.score(&texts, &mut |_| {})?,
    })
}
