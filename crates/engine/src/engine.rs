//! The evaluation engine: which token of which request is computed when.
//!
//! All requests of a call form one queue. A trie of their tokens finds shared prefixes; each is computed once, and rows refer
//! to it. Every step computes one packed batch: the next token of each row that is generating, and as many prompt tokens as
//! the step's budget leaves. Rows join when there is memory for them and leave when they are done. What a request gives does
//! not depend on what else is in the queue: on the CPU bit for bit.
//!
//! Where the device computes beside the host, the scheduler looks one step ahead: a row's next step is launched before the
//! host has read the token that it begins with, and what a row that has ended computed too much is thrown away.

use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;

use super::Error;
use super::arithmetic::{Picks, States};
use super::decoder::{Chunk, Decoder, PICKED};
use super::device::Device;
use super::kv::{Pool, Segment, blocks_for};
use super::prefix::{Entry, Trie};
use super::sampling::Sampling;
use super::tokenizer::{TextStream, Tokenizer};

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Memory for keys and values, at most; more requests than fit wait for their turn. On a GPU also at most what is free.
    pub kv_memory_bytes: u64,
    /// Tokens computed in one step, apart from the rows that are generating.
    pub step_tokens: usize,
    /// Rows that are worked on at once.
    pub max_rows: usize,
    /// Memory for tensors that lie beside the weights, at most; see [`Decoder::hold`]. On a GPU also at most what is free beside steps
    /// and some keys and values.
    pub held_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            kv_memory_bytes: 1 << 30,
            step_tokens: 384,
            max_rows: 256,
            held_bytes: 0,
        }
    }
}

impl EngineOptions {
    /// What suits a device: a GPU is fast only at large steps.
    pub fn for_device(device: Device) -> Self {
        match device.is_cpu() {
            true => EngineOptions::default(),
            false => EngineOptions {
                kv_memory_bytes: u64::MAX,
                step_tokens: 4096,
                max_rows: 512,
                held_bytes: u64::MAX,
            },
        }
    }
}

/// A condition on the text generated so far.
pub type StopWhen = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A prompt to continue.
#[derive(Clone)]
pub struct Request {
    /// Its tokens, at least one; special ones such as BOS are the caller's to add.
    pub prompt: Vec<u32>,
    /// Generation ends here at the latest.
    pub max_new_tokens: usize,
    /// The text is cut before the first of these.
    pub stop: Arc<[String]>,
    /// Ends the row when it returns true for the text so far (the answer stands).
    pub stop_when: Option<StopWhen>,
    /// Ends the row when it repeats itself exactly, see [`repeats`].
    pub loop_guard: bool,
    /// How tokens are drawn; the likeliest ones where nothing is said.
    pub sampling: Option<Sampling>,
}

impl Request {
    /// A prompt that is continued greedily until the model ends or there are `max_new_tokens`.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            prompt,
            max_new_tokens,
            stop: Arc::default(),
            stop_when: None,
            loop_guard: false,
            sampling: None,
        }
    }
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token, which is the last of `token_ids`.
    Eos,
    /// `max_new_tokens`.
    Length,
    /// A stop string, or `stop_when`.
    Stop,
    /// The loop guard.
    Loop,
}

impl Finish {
    /// As it stands in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Length => "length",
            Finish::Stop => "stop",
            Finish::Loop => "loop",
        }
    }
}

/// What a request gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// All generated tokens, also those whose text was cut off.
    pub token_ids: Vec<u32>,
    /// Of the generated tokens without special ones, cut before the stop string that ended it.
    pub text: String,
    /// Why there is no more of it.
    pub finish: Finish,
}

impl Generation {
    /// What a request gives that something else continued by these tokens: cut where it ends by the rules of this engine;
    /// `otherwise` is why it ended where none of them says so.
    pub fn of(request: &Request, tokenizer: &Tokenizer, tokens: &[u32], otherwise: Finish) -> Self {
        let mut writer = Writer::new(request, tokenizer);
        let _ = tokens.iter().all(|token| writer.push(*token));
        let finish = writer.finish.unwrap_or(otherwise);
        Generation {
            finish,
            ..writer.finish()
        }
    }
}

/// A token sequence of which `tokens[from..]` is to be scored given what is before it; `from` is at least 1.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// All of the sequence, what is given and what is scored.
    pub tokens: Vec<u32>,
    /// The first token that is scored, from 1.
    pub from: usize,
}

/// The summed natural log-likelihood of the scored tokens, their number, and whether each was the most likely one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Σ ln p(token | all before it), at most 0.
    pub log_likelihood: f64,
    /// How many tokens were scored.
    pub tokens: usize,
    /// Whether greedy decoding would have written just these.
    pub greedy: bool,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests that have ended.
    pub done: usize,
    /// Requests of the call.
    pub total: usize,
    /// Prompt tokens computed; a shared prefix counts once.
    pub prompt_tokens: u64,
    /// Tokens generated and fed back; the last one of each row is not.
    pub generated_tokens: u64,
}

/// The likelihood of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Scored tokens: all but the first of each window.
    pub tokens: usize,
    /// Mean negative natural log-likelihood.
    pub nll_per_token: f64,
    /// exp(`nll_per_token`).
    pub perplexity: f64,
}

/// A decoder with its tokenizer and its limits.
pub struct Engine {
    decoder: Decoder,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    /// Memory of the last call, not its contents.
    pool: Option<Pool>,
    /// What keys and values may take where there is more than that.
    kv_limit_bytes: u64,
}

/// Rows at which there is nothing to be gained from fewer.
const LEAST_ROWS: usize = 4;
/// Tokens of a step, likewise.
const LEAST_STEP: usize = 64;

impl Engine {
    /// Nothing is computed yet, and no memory for keys and values taken.
    pub fn new(decoder: Decoder, tokenizer: Arc<Tokenizer>, options: EngineOptions) -> Self {
        let mut engine = Engine {
            kv_limit_bytes: options.kv_memory_bytes,
            options,
            decoder,
            tokenizer,
            pool: None,
        };
        engine.fit();
        engine
    }

    /// Takes as much memory for keys and values as there is now: after [`Decoder::hold`] took some.
    pub fn fit(&mut self) {
        self.drop_kv();
        let room = self.decoder.kv_room(self.options.step_tokens + self.options.max_rows);
        self.options.kv_memory_bytes = self.kv_limit_bytes.min(room.unwrap_or(u64::MAX));
    }

    /// Works, and where the GPU's memory runs out meanwhile (somebody else takes some, or rows are longer than usual), begins
    /// once more with half as many rows at a time.
    fn within_memory<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match work(self) {
                Err(Error::GpuMemory { .. }) if self.halve() => {}
                done => return done,
            }
        }
    }

    /// Takes half as much memory from now on; false where that would be too little to work with.
    fn halve(&mut self) -> bool {
        if self.decoder.give_up_held() {
            return true;
        }
        let EngineOptions {
            kv_memory_bytes,
            step_tokens,
            max_rows,
            ..
        } = &mut self.options;
        if *max_rows <= LEAST_ROWS {
            return false;
        }
        *max_rows /= 2;
        *step_tokens = (*step_tokens / 2).max(LEAST_STEP);
        *kv_memory_bytes /= 2;
        self.kv_limit_bytes = *kv_memory_bytes;
        self.pool = None;
        self.decoder.release_buffers();
        true
    }

    /// The model, to be looked at.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The weights, to be changed between calls; no call keeps anything for the next one.
    pub fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// Shared with whoever renders prompts for it.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Takes another tokenizer, for weights that came with one.
    pub fn set_tokenizer(&mut self, tokenizer: Arc<Tokenizer>) {
        self.tokenizer = tokenizer;
    }

    /// As they were given to [`Engine::new`].
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Memory that keys and values took at a time, at most, since this was asked last.
    pub fn take_kv_peak_bytes(&mut self) -> u64 {
        self.pool.as_mut().map_or(0, Pool::take_peak_bytes)
    }

    /// Memory of keys and values that is kept for the next call.
    pub fn kv_held_bytes(&self) -> u64 {
        self.pool.as_ref().map_or(0, Pool::held_bytes)
    }

    /// Gives the memory of keys and values back; the next call takes it again.
    pub fn drop_kv(&mut self) {
        self.pool = None;
        self.decoder.release_buffers();
    }

    /// Continues each prompt; answers come in the order of the requests.
    pub fn generate(
        &mut self,
        requests: &[Request],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Generation>, Error> {
        self.within_memory(|engine| engine.generate_once(requests, progress))
    }

    fn generate_once(
        &mut self,
        requests: &[Request],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Generation>, Error> {
        let jobs: Vec<Job> = requests
            .iter()
            .enumerate()
            .map(|(request, r)| {
                if r.prompt.is_empty() {
                    return Err(Error::EmptyPrompt { request });
                }
                Ok(Job {
                    tokens: &r.prompt,
                    shareable: r.prompt.len() - 1,
                    wanted_from: r.prompt.len() - 1,
                    more: r.max_new_tokens.saturating_sub(1),
                })
            })
            .collect::<Result<_, _>>()?;
        let writers = requests
            .iter()
            .map(|request| Writer::new(request, &self.tokenizer))
            .collect();
        let skip: Vec<bool> = requests.iter().map(|r| r.max_new_tokens == 0).collect();
        let mut answers = Answers { writers };
        let mut scheduler = Scheduler::new(&mut self.decoder, &self.options, self.pool.take(), jobs, &skip)?;
        if requests.iter().any(|request| request.sampling.is_some()) {
            // What is drawn is known to the host alone.
            scheduler.ahead = 0;
        }
        self.pool = Some(scheduler.run(&mut answers, progress)?);
        Ok(answers.writers.into_iter().map(Writer::finish).collect())
    }

    /// Log-likelihoods of given continuations; scores come in the order of the requests.
    pub fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<Score>, Error> {
        self.score_with(requests, &mut |_| {})
    }

    /// [`Self::score`] with progress.
    pub fn score_with(
        &mut self,
        requests: &[ScoreRequest],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Score>, Error> {
        self.within_memory(|engine| engine.score_once(requests, progress))
    }

    /// How likely each token of given continuations is, with the `top` likeliest at its place.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn token_scores(&mut self, requests: &[ScoreRequest], top: usize) -> Result<Vec<Vec<TokenScore>>, Error> {
        self.within_memory(|engine| {
            let (jobs, skip) = engine.scoring(requests)?;
            let mut read = TokenScores {
                requests,
                top,
                scores: vec![Vec::new(); requests.len()],
            };
            let scheduler = Scheduler::new(&mut engine.decoder, &engine.options, engine.pool.take(), jobs, &skip)?;
            engine.pool = Some(scheduler.run(&mut read, &mut |_| {})?);
            Ok(read.scores)
        })
    }

    fn score_once(
        &mut self,
        requests: &[ScoreRequest],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Score>, Error> {
        let (jobs, skip) = self.scoring(requests)?;
        let nothing = Score {
            log_likelihood: 0.0,
            tokens: 0,
            greedy: true,
        };
        let scores = vec![nothing; requests.len()];
        let mut scores = Scores { requests, scores };
        let scheduler = Scheduler::new(&mut self.decoder, &self.options, self.pool.take(), jobs, &skip)?;
        self.pool = Some(scheduler.run(&mut scores, progress)?);
        Ok(scores.scores)
    }

    /// What scoring is to the scheduler, and which requests have nothing to score.
    fn scoring<'r>(&self, requests: &'r [ScoreRequest]) -> Result<(Vec<Job<'r>>, Vec<bool>), Error> {
        let jobs: Vec<Job> = requests
            .iter()
            .enumerate()
            .map(|(request, r)| {
                if r.from == 0 {
                    return Err(Error::ScoreFromZero { request });
                }
                // The state after token i - 1 predicts token i; the last token predicts nothing that is asked for.
                let tokens = &r.tokens[..r.tokens.len().saturating_sub(1)];
                let wanted_from = (r.from - 1).min(tokens.len());
                Ok(Job {
                    tokens,
                    shareable: wanted_from,
                    wanted_from,
                    more: 0,
                })
            })
            .collect::<Result<_, _>>()?;
        for (request, r) in requests.iter().enumerate() {
            check_tokens(request, &r.tokens, self.decoder.spec().vocab)?;
        }
        let skip = requests.iter().map(|r| r.from >= r.tokens.len()).collect();
        Ok((jobs, skip))
    }

    /// Mean negative log-likelihood a token of one sequence, cut into windows of `context` tokens without overlap; the first
    /// token of each window is unscored.
    pub fn perplexity(&mut self, tokens: &[u32], context: usize) -> Result<Perplexity, Error> {
        let windows: Vec<ScoreRequest> = tokens
            .chunks(context.max(1))
            .map(|window| ScoreRequest {
                tokens: window.to_vec(),
                from: 1,
            })
            .collect();
        let scores = self.score(&windows)?;
        let count: usize = scores.iter().map(|score| score.tokens).sum();
        if count == 0 {
            return Err(Error::NothingToScore { tokens: tokens.len() });
        }
        let nll = -scores.iter().map(|score| score.log_likelihood).sum::<f64>() / count as f64;
        Ok(Perplexity {
            tokens: count,
            nll_per_token: nll,
            perplexity: nll.exp(),
        })
    }
}

fn check_tokens(request: usize, tokens: &[u32], vocab: usize) -> Result<(), Error> {
    match tokens.iter().find(|token| **token as usize >= vocab) {
        Some(token) => Err(Error::TokenOutOfRange {
            request,
            token: *token,
            vocab,
        }),
        None => Ok(()),
    }
}

/// Whether the tail of `tokens` repeats a period of at most 32 tokens exactly, at least 4 times and over at least 48 tokens.
pub fn repeats(tokens: &[u32]) -> bool {
    const LONGEST_PERIOD: usize = 32;
    const LEAST_TIMES: usize = 4;
    const LEAST_TOKENS: usize = 48;
    (1..=LONGEST_PERIOD).any(|period| {
        let span = (period * LEAST_TIMES).max(LEAST_TOKENS);
        tokens.len() >= span && {
            let tail = &tokens[tokens.len() - span..];
            tail[period..] == tail[..span - period]
        }
    })
}

/// Collects the tokens of one request and decides when it is done.
struct Writer<'a> {
    request: &'a Request,
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    stream: TextStream,
    /// Why the row ended, once it has.
    finish: Option<Finish>,
}

impl<'a> Writer<'a> {
    fn new(request: &'a Request, tokenizer: &'a Tokenizer) -> Self {
        Writer {
            request,
            tokenizer,
            ids: Vec::new(),
            stream: TextStream::default(),
            finish: None,
        }
    }

    /// Takes a token; returns whether the row goes on. A token after the end was computed ahead, for nothing.
    fn push(&mut self, token: u32) -> bool {
        if self.finish.is_some() {
            return false;
        }
        self.ids.push(token);
        let finish = if self.tokenizer.eos_token_ids().contains(&token) {
            Finish::Eos
        } else if self.text_ends() {
            Finish::Stop
        } else if self.ids.len() >= self.request.max_new_tokens {
            Finish::Length
        } else if self.request.loop_guard && repeats(&self.ids) {
            Finish::Loop
        } else {
            return true;
        };
        self.finish = Some(finish);
        false
    }

    fn text_ends(&mut self) -> bool {
        let request = self.request;
        if request.stop.is_empty() && request.stop_when.is_none() {
            return false;
        }
        let added = self.stream.push(self.tokenizer, &self.ids);
        if added == 0 {
            return false;
        }
        let text = self.stream.text();
        let ends = |stop: &String| {
            let mut from = text.len().saturating_sub(added + stop.len());
            while !text.is_char_boundary(from) {
                from -= 1;
            }
            !stop.is_empty() && text[from..].contains(stop.as_str())
        };
        request.stop.iter().any(ends) || request.stop_when.as_ref().is_some_and(|done| done(text))
    }

    fn finish(self) -> Generation {
        let mut text = self.tokenizer.decode(&self.ids);
        // As lm-eval does: `text.split(stop)[0]` for one stop after the other.
        for stop in self.request.stop.iter().filter(|stop| !stop.is_empty()) {
            if let Some(at) = text.find(stop.as_str()) {
                text.truncate(at);
            }
        }
        Generation {
            token_ids: self.ids,
            text,
            finish: self.finish.unwrap_or(Finish::Length),
        }
    }
}

/// Who reads the hidden states of a call.
trait Reader {
    /// Takes the states of a step with the request of each, which come in the order of its tokens.
    fn states(&mut self, decoder: &Decoder, owners: &[usize], states: &States) -> Result<Picks, Error>;
    /// Takes what was picked after each state; gives the token to feed next, or `None` when the row is done.
    fn picked(&mut self, owners: &[usize], picks: Vec<u32>) -> Vec<Option<u32>>;
}

struct Answers<'a> {
    writers: Vec<Writer<'a>>,
}

impl Reader for Answers<'_> {
    fn states(&mut self, decoder: &Decoder, owners: &[usize], states: &States) -> Result<Picks, Error> {
        let sampled = |owner: &usize| self.writers[*owner].request.sampling.is_some();
        if !owners.iter().any(sampled) {
            return decoder.pick(states);
        }
        let mut tokens = Vec::with_capacity(owners.len());
        decoder.for_logits(states, &mut |row, logits| {
            let writer = &self.writers[owners[row]];
            tokens.push(match &writer.request.sampling {
                Some(sampling) => sampling.draw(logits, writer.ids.len()),
                None => decoder.likeliest(logits),
            });
        })?;
        Ok(Picks::Ready(tokens))
    }

    fn picked(&mut self, owners: &[usize], picks: Vec<u32>) -> Vec<Option<u32>> {
        // A generating row wants exactly one state a step.
        let mut news: Vec<Option<u32>> = vec![None; self.writers.len()];
        for (owner, token) in owners.iter().zip(picks) {
            news[*owner] = Some(token);
        }
        let goes_on: Vec<bool> = self
            .writers
            .par_iter_mut()
            .zip(news.par_iter())
            .with_min_len(16)
            .map(|(writer, token)| token.is_some_and(|token| writer.push(token)))
            .collect();
        owners
            .iter()
            .map(|owner| news[*owner].filter(|_| goes_on[*owner]))
            .collect()
    }
}

struct Scores<'a> {
    requests: &'a [ScoreRequest],
    scores: Vec<Score>,
}

impl Reader for Scores<'_> {
    fn states(&mut self, decoder: &Decoder, owners: &[usize], states: &States) -> Result<Picks, Error> {
        let mut targets = Vec::with_capacity(owners.len());
        for owner in owners {
            let (request, score) = (&self.requests[*owner], &mut self.scores[*owner]);
            targets.push(request.tokens[request.from + score.tokens]);
            score.tokens += 1;
        }
        let found = decoder.log_probabilities(states, &targets)?;
        for (owner, (log_probability, greedy)) in owners.iter().zip(found) {
            self.scores[*owner].log_likelihood += log_probability;
            self.scores[*owner].greedy &= greedy;
        }
        Ok(Picks::Ready(Vec::new()))
    }

    fn picked(&mut self, owners: &[usize], _picks: Vec<u32>) -> Vec<Option<u32>> {
        vec![None; owners.len()]
    }
}

/// How likely one token was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// Its id.
    pub token: u32,
    /// Natural.
    pub log_probability: f64,
    /// The likeliest tokens at its place with their log-probabilities, the likeliest first.
    pub top: Vec<(u32, f64)>,
}

struct TokenScores<'a> {
    requests: &'a [ScoreRequest],
    top: usize,
    scores: Vec<Vec<TokenScore>>,
}

impl Reader for TokenScores<'_> {
    fn states(&mut self, decoder: &Decoder, owners: &[usize], states: &States) -> Result<Picks, Error> {
        decoder.for_logits(states, &mut |row, logits| {
            let owner = owners[row];
            let request = &self.requests[owner];
            let token = request.tokens[request.from + self.scores[owner].len()];
            self.scores[owner].push(TokenScore::of(token, logits, self.top));
        })?;
        Ok(Picks::Ready(Vec::new()))
    }

    fn picked(&mut self, owners: &[usize], _picks: Vec<u32>) -> Vec<Option<u32>> {
        vec![None; owners.len()]
    }
}

impl TokenScore {
    fn of(token: u32, logits: &[f32], top: usize) -> Self {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
        let log_probability = |token: u32| f64::from(logits[token as usize] - most) - sum.ln();
        let mut likeliest: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if (1..likeliest.len()).contains(&top) {
            likeliest.select_nth_unstable_by(top - 1, by_logit);
        }
        likeliest.truncate(top);
        likeliest.sort_unstable_by(by_logit);
        Self {
            token,
            log_probability: log_probability(token),
            top: likeliest
                .into_iter()
                .map(|token| (token, log_probability(token)))
                .collect(),
        }
    }
}

/// A request as the scheduler sees it.
struct Job<'a> {
    tokens: &'a [u32],
    /// How many of the tokens may come from a shared segment.
    shareable: usize,
    /// The first token whose hidden state is wanted.
    wanted_from: usize,
    /// Tokens that may be fed after these.
    more: usize,
}

impl Job<'_> {
    fn length(&self) -> usize {
        self.tokens.len() + self.more
    }
}

/// Who a feed computes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Node(usize),
    Request(usize),
}

/// A row or a shared prefix that is being computed.
struct Feed {
    owner: Owner,
    /// Place in the queue; feeds are computed in this order, so that rows of one prefix are neighbours.
    rank: usize,
    prefix: Vec<Arc<Segment>>,
    own: Segment,
    tokens: Vec<u32>,
    /// How many of the last tokens are picked but not yet read.
    unread: usize,
    fed: usize,
    /// Index in `tokens` from which hidden states are wanted.
    wanted_from: usize,
    length: usize,
    node: Option<usize>,
}

enum NodeState {
    Waiting,
    Running,
    Ready(Arc<Segment>),
    /// No request needs it any more.
    Gone,
}

/// A step that was launched and whose picks have not been read.
struct Flight {
    /// The request of each state.
    owners: Vec<usize>,
    /// The rows of which states were wanted, in the order of the queue.
    rows: Vec<FlightRow>,
    picks: Picks,
}

struct FlightRow {
    rank: usize,
    states: usize,
    /// Whether nothing is left to feed until the pick after the last state is known.
    is_complete: bool,
}

struct Scheduler<'a> {
    decoder: &'a Decoder,
    options: &'a EngineOptions,
    jobs: Vec<Job<'a>>,
    trie: Trie,
    nodes: Vec<NodeState>,
    /// Requests that still need each node.
    users: Vec<usize>,
    pool: Pool,
    /// Places in the trie's order that have not been admitted.
    queue: VecDeque<usize>,
    active: Vec<Feed>,
    flights: VecDeque<Flight>,
    /// How many steps may be launched before the first of them is read.
    ahead: usize,
    progress: Progress,
}

impl<'a> Scheduler<'a> {
    fn new(
        decoder: &'a mut Decoder,
        options: &'a EngineOptions,
        pool: Option<Pool>,
        mut jobs: Vec<Job<'a>>,
        skip: &[bool],
    ) -> Result<Self, Error> {
        for (request, job) in jobs.iter().enumerate() {
            check_tokens(request, job.tokens, decoder.spec().vocab)?;
            decoder.spec().check_positions(request, job.length())?;
        }
        decoder.prepare(jobs.iter().map(Job::length).max().unwrap_or(0));
        if let Some(limit) = decoder.recompute_beyond() {
            // A row that will be computed anew owns all of its keys and values.
            let crosses = |job: &&mut Job| (job.tokens.len()..job.length()).contains(&limit);
            jobs.iter_mut().filter(crosses).for_each(|job| job.shareable = 0);
        }
        let wanted: Vec<usize> = (0..jobs.len()).filter(|i| !skip[*i]).collect();
        let entries: Vec<Entry> = wanted
            .iter()
            .map(|i| &jobs[*i])
            .map(|job| Entry {
                tokens: job.tokens,
                shareable: job.shareable,
                regime: decoder.rope_regime(job.tokens.len()),
                weight: job.length(),
            })
            .collect();
        let mut trie = Trie::new(&entries);
        trie.order
            .iter_mut()
            .for_each(|(request, _)| *request = wanted[*request]);
        trie.nodes
            .iter_mut()
            .for_each(|node| node.request = wanted[node.request]);
        let pool = Pool::new(decoder.kv_shape(), options.kv_memory_bytes, pool);
        let progress = Progress {
            done: jobs.len() - wanted.len(),
            total: jobs.len(),
            ..Progress::default()
        };
        Ok(Scheduler {
            nodes: trie.nodes.iter().map(|_| NodeState::Waiting).collect(),
            users: trie.nodes.iter().map(|node| node.users).collect(),
            queue: (0..trie.order.len()).collect(),
            active: Vec::new(),
            flights: VecDeque::new(),
            ahead: decoder.steps_ahead(),
            decoder,
            options,
            jobs,
            trie,
            pool,
            progress,
        })
    }

    fn run(mut self, reader: &mut dyn Reader, progress: &mut dyn FnMut(Progress)) -> Result<Pool, Error> {
        progress(self.progress);
        loop {
            self.admit()?;
            if self.active.is_empty() && self.flights.is_empty() {
                return Ok(self.pool);
            }
            let ahead = if self.launch(reader)? { self.ahead } else { 0 };
            while self.flights.len() > ahead
                && let Some(flight) = self.flights.pop_front()
            {
                self.land(flight, reader)?;
            }
            progress(self.progress);
        }
    }

    /// Lets requests in, in order; one that waits for its prefix lets others pass while memory is plentiful.
    fn admit(&mut self) -> Result<(), Error> {
        let mut at = 0;
        let mut waiting = 0;
        while at < self.queue.len() && self.active.len() < self.options.max_rows.max(1) {
            let (request, node) = self.trie.order[self.queue[at]];
            match self.prefix_of(node) {
                Ok(prefix) => {
                    let covered: usize = prefix.iter().map(|segment| segment.len).sum();
                    match self.pool.segment(self.jobs[request].length() - covered, &prefix) {
                        Some(own) => self.start_row(at, request, node, prefix, covered, own),
                        None => {
                            prefix.into_iter().for_each(|segment| self.pool.release_shared(segment));
                            break;
                        }
                    }
                }
                Err(missing) => {
                    if matches!(self.nodes[missing], NodeState::Waiting) && !self.start_node(missing, self.queue[at]) {
                        break;
                    }
                    at += 1;
                    waiting += 1;
                }
            }
            let plentiful = self.pool.available() * 2 > self.pool.capacity();
            if waiting > 0 && (!plentiful || self.prompt_tokens_waiting() >= self.options.step_tokens) {
                break;
            }
        }
        if self.active.is_empty() && !self.queue.is_empty() {
            return self.make_room();
        }
        Ok(())
    }

    /// Nothing runs and the first request does not fit: drop prefixes that it does not need, have it share none, or say what it
    /// would take.
    fn make_room(&mut self) -> Result<(), Error> {
        let (request, node) = self.trie.order[self.queue[0]];
        let mut needed: Vec<usize> = Vec::new();
        let mut next = node;
        while let Some(node) = next {
            needed.push(node);
            next = self.trie.nodes[node].parent;
        }
        let mut freed = false;
        for node in 0..self.nodes.len() {
            if matches!(self.nodes[node], NodeState::Ready(_))
                && !needed.contains(&node)
                && let NodeState::Ready(segment) = std::mem::replace(&mut self.nodes[node], NodeState::Waiting)
            {
                self.pool.release_shared(segment);
                freed = true;
            }
        }
        if freed {
            return self.admit();
        }
        if node.is_some() {
            // Each stretch that is shared takes blocks that it may not fill, and a state where layers remember.
            self.trie.order[self.queue[0]].1 = None;
            self.let_go_of(node);
            return self.admit();
        }
        let tokens = self.jobs[request].length();
        let shape = self.decoder.kv_shape();
        let blocks = blocks_for(tokens) + shape.state_blocks();
        Err(Error::KvMemory {
            request,
            tokens,
            needed_bytes: blocks as u64 * shape.unit_bytes(),
            limit_bytes: self.options.kv_memory_bytes,
        })
    }

    /// The segments up to a node, or the first node on the way that is not ready.
    fn prefix_of(&self, node: Option<usize>) -> Result<Vec<Arc<Segment>>, usize> {
        let Some(node) = node else {
            return Ok(Vec::new());
        };
        let mut prefix = self.prefix_of(self.trie.nodes[node].parent)?;
        match &self.nodes[node] {
            NodeState::Ready(segment) => {
                prefix.push(segment.clone());
                Ok(prefix)
            }
            _ => Err(node),
        }
    }

    fn start_node(&mut self, node: usize, rank: usize) -> bool {
        let (parent, request) = (self.trie.nodes[node].parent, self.trie.nodes[node].request);
        let (start, end) = (self.trie.nodes[node].start, self.trie.nodes[node].end);
        let Ok(prefix) = self.prefix_of(parent) else {
            return false;
        };
        let Some(own) = self.pool.segment(end - start, &prefix) else {
            return false;
        };
        let tokens = self.jobs[request].tokens[start..end].to_vec();
        let length = self.jobs[request].tokens.len();
        self.nodes[node] = NodeState::Running;
        let wanted_from = tokens.len();
        self.insert(Feed {
            owner: Owner::Node(node),
            rank,
            prefix,
            own,
            tokens,
            unread: 0,
            fed: 0,
            wanted_from,
            length,
            node: parent,
        });
        true
    }

    fn start_row(
        &mut self,
        at: usize,
        request: usize,
        node: Option<usize>,
        prefix: Vec<Arc<Segment>>,
        covered: usize,
        own: Segment,
    ) {
        let job = &self.jobs[request];
        let feed = Feed {
            owner: Owner::Request(request),
            rank: self.queue[at],
            prefix,
            own,
            tokens: job.tokens[covered..].to_vec(),
            unread: 0,
            fed: 0,
            wanted_from: job.wanted_from - covered,
            length: job.tokens.len(),
            node,
        };
        self.queue.remove(at);
        self.insert(feed);
        // The row holds its prefix itself.
        self.let_go_of(node);
    }

    /// One request less will ask for a node and those above it; the trie lets go of what nobody else will ask for.
    fn let_go_of(&mut self, node: Option<usize>) {
        let mut next = node;
        while let Some(node) = next {
            self.users[node] -= 1;
            if self.users[node] == 0
                && let NodeState::Ready(segment) = std::mem::replace(&mut self.nodes[node], NodeState::Gone)
            {
                self.pool.release_shared(segment);
            }
            next = self.trie.nodes[node].parent;
        }
    }

    fn insert(&mut self, feed: Feed) {
        let at = self.active.partition_point(|other| other.rank <= feed.rank);
        self.active.insert(at, feed);
    }

    fn prompt_tokens_waiting(&self) -> usize {
        self.active
            .iter()
            .map(|feed| (feed.tokens.len() - feed.fed).saturating_sub(1))
            .sum()
    }

    /// Launches one packed batch; false when every row waits to be read.
    fn launch(&mut self, reader: &mut dyn Reader) -> Result<bool, Error> {
        // A row that generates feeds one token; those come first, prompts share what is left of the budget.
        let generating = self
            .active
            .iter()
            .filter(|feed| feed.tokens.len() - feed.fed == 1)
            .count();
        let mut budget = self.options.step_tokens.saturating_sub(generating).max(32);
        let mut owners = Vec::new();
        let mut rows = Vec::new();
        let mut counts = Vec::with_capacity(self.active.len());
        let mut chunks = Vec::with_capacity(self.active.len());
        for feed in &mut self.active {
            let left = feed.tokens.len() - feed.fed;
            let start = feed.position();
            let count = if left == 1 { 1 } else { left.min(budget) };
            if left > 1 {
                budget -= count;
            }
            counts.push(count);
            if count == 0 {
                continue;
            }
            let wanted_from = feed.wanted_from.saturating_sub(feed.fed).min(count);
            if let Owner::Request(request) = feed.owner
                && wanted_from < count
            {
                owners.extend(std::iter::repeat_n(request, count - wanted_from));
                rows.push(FlightRow {
                    rank: feed.rank,
                    states: count - wanted_from,
                    is_complete: count == left,
                });
            }
            chunks.push(Chunk {
                tokens: &feed.tokens[feed.fed..feed.fed + count],
                prefix: &feed.prefix,
                own: &mut feed.own,
                length: feed.length.max(start + count),
                wanted_from,
            });
        }
        if chunks.is_empty() {
            return Ok(false);
        }
        let states = self.decoder.forward(&mut chunks)?;
        drop(chunks);
        let picks = match owners.is_empty() {
            true => Picks::Ready(Vec::new()),
            false => reader.states(self.decoder, &owners, &states)?,
        };
        self.advance(&counts);
        self.flights.push_back(Flight { owners, rows, picks });
        Ok(true)
    }

    /// Moves every feed on by what was launched; prefixes that are complete leave.
    fn advance(&mut self, counts: &[usize]) {
        let mut state = 0;
        let feeds = std::mem::take(&mut self.active);
        for (mut feed, count) in feeds.into_iter().zip(counts) {
            let is_prompt = feed.fed < self.prompt_len(&feed);
            let wanted = count - feed.wanted_from.saturating_sub(feed.fed).min(*count);
            feed.fed += count;
            if is_prompt {
                self.progress.prompt_tokens += *count as u64;
            }
            let is_complete = feed.fed == feed.tokens.len();
            match feed.owner {
                Owner::Node(node) if is_complete => {
                    feed.prefix
                        .into_iter()
                        .for_each(|segment| self.pool.release_shared(segment));
                    self.nodes[node] = NodeState::Ready(Arc::new(feed.own));
                    continue;
                }
                Owner::Node(_) => {}
                Owner::Request(request) => {
                    state += wanted;
                    let has_room = feed.position() < self.jobs[request].length();
                    if self.ahead > 0 && *count > 0 && is_complete && has_room {
                        feed.tokens.push(PICKED | (state - 1) as u32);
                        feed.unread += 1;
                    }
                }
            }
            self.active.push(feed);
        }
    }

    /// Reads what a step picked; rows that are done leave.
    fn land(&mut self, flight: Flight, reader: &mut dyn Reader) -> Result<(), Error> {
        let picks = flight.picks.wait()?;
        let mut next = reader.picked(&flight.owners, picks).into_iter();
        let mut rows = flight.rows.into_iter().peekable();
        for mut feed in std::mem::take(&mut self.active) {
            // Both are in the order of the queue; a row without a feed had ended before it was launched again.
            while let Some(gone) = rows.next_if(|row| row.rank < feed.rank) {
                next.by_ref().take(gone.states).for_each(drop);
            }
            let is_row = matches!(feed.owner, Owner::Request(_));
            let Some(row) = rows.next_if(|row| is_row && row.rank == feed.rank) else {
                self.active.push(feed);
                continue;
            };
            let token = next.by_ref().take(row.states).last().flatten();
            if let Some(token) = token {
                self.progress.generated_tokens += 1;
                feed.read(token);
                if self.decoder.recompute_beyond() == Some(feed.position()) {
                    feed.start_over();
                }
            }
            if token.is_some() || !row.is_complete {
                self.active.push(feed);
            } else {
                self.pool.release(feed.own);
                feed.prefix
                    .into_iter()
                    .for_each(|segment| self.pool.release_shared(segment));
                self.progress.done += 1;
            }
        }
        Ok(())
    }

    fn prompt_len(&self, feed: &Feed) -> usize {
        match feed.owner {
            Owner::Node(_) => feed.tokens.len(),
            Owner::Request(request) => {
                let covered = feed.node.map_or(0, |node| self.trie.nodes[node].end);
                self.jobs[request].tokens.len() - covered
            }
        }
    }
}

impl Feed {
    /// Takes the token that was picked first of those unread.
    fn read(&mut self, token: u32) {
        if self.unread == 0 {
            self.tokens.push(token);
        } else {
            let at = self.tokens.len() - self.unread;
            self.tokens[at] = token;
            self.unread -= 1;
        }
    }

    /// Forgets what was computed, for a row that shares nothing.
    fn start_over(&mut self) {
        self.own.clear();
        self.fed = 0;
        self.length = self.tokens.len();
        self.wanted_from = self.tokens.len() - 1;
    }

    /// Position of the next token to be fed.
    fn position(&self) -> usize {
        self.prefix.iter().map(|segment| segment.len).sum::<usize>() + self.fed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::TokenizerFiles;

    /// What is written when a model picks these tokens.
    fn written(
        vocabulary: serde_json::Value,
        decoder: serde_json::Value,
        stop: &str,
        ids: &[u32],
    ) -> (Generation, usize) {
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": decoder,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        let tokenizer = Tokenizer::new(TokenizerFiles {
            tokenizer_json: json.to_string().into_bytes(),
            ..TokenizerFiles::default()
        })
        .unwrap();
        let request = Request {
            stop: Arc::new([stop.to_string()]),
            ..Request::new(vec![0], 64)
        };
        let mut writer = Writer::new(&request, &tokenizer);
        let taken = ids.iter().take_while(|id| writer.push(**id)).count();
        (writer.finish(), taken)
    }

    /// A stop string within a token was overlooked by some (TGI 1039), and its beginning left in the text by others.
    #[test]
    fn a_stop_string_within_a_token_ends_the_text_before_it() {
        let vocabulary = serde_json::json!({"He": 0, "Ġis": 1, "Ġin": 2, "ĠParis": 3, "Ġnow": 4, "ĠPar": 5, "is": 6});
        let decoder = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        for ids in [&[0, 1, 2, 3, 4][..], &[0, 1, 2, 5, 6, 4]] {
            let (said, taken) = written(vocabulary.clone(), decoder.clone(), "Pari", ids);
            assert_eq!((said.text.as_str(), said.finish), ("He is in ", Finish::Stop));
            assert_eq!(taken, ids.len() - 2, "nothing is generated after it");
        }
        let (said, taken) = written(vocabulary, decoder, "Paris now or", &[0, 1, 2, 3, 4]);
        assert_eq!(
            (said.text.as_str(), said.finish, taken),
            ("He is in Paris now", Finish::Length, 5)
        );
    }

    /// A stop string of which each byte is a token of its own, in both ways that tokenizers write bytes.
    #[test]
    fn a_stop_string_over_byte_tokens_is_seen_when_it_is_whole() {
        let bytes = serde_json::json!({"a": 0, "ã": 1, "Ģ": 2, "Ĥ": 3, "ģ": 4});
        let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let fallback = serde_json::json!({"a": 0, "<0xE3>": 1, "<0x80>": 2, "<0x82>": 3, "<0x81>": 4});
        let fused = serde_json::json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
        for (vocabulary, decoder) in [(bytes, byte_level), (fallback, fused)] {
            let (said, taken) = written(vocabulary.clone(), decoder.clone(), "。", &[0, 1, 2, 3, 0, 0]);
            assert_eq!((said.text.as_str(), said.finish, taken), ("a", Finish::Stop, 3));
            // Another character begins with the same two bytes.
            let (said, _) = written(vocabulary, decoder, "。", &[0, 1, 2, 4, 0]);
            assert_eq!((said.text.as_str(), said.finish), ("a、a", Finish::Length));
        }
    }
}
