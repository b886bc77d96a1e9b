//! The runner: all questions of all tasks through one engine, in one queue.
//!
//! Prompts are rendered, put through the chat template where asked, tokenised and cut as lm-eval does; then the engine
//! answers everything together, so that a long tail of one task is filled with the questions of another.

use std::{collections::BTreeMap, sync::Arc};

use super::{Answer, Chat, Error, Kind, Message, Metric, Profile, Prompt, Question, Task, Think, sampling};
use heterosis_engine::{
    self as model, Engine, Finish, Generation, Progress, Request, Sampling, Score, ScoreRequest, Tokenizer,
};

/// What the runner needs of a model. The other implementation is a double with a script, for tests without weights.
pub trait Answerer {
    /// Tokens of each text. A text that opens with the BOS token's text gets no second one.
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error>;
    /// Tokens as a text: what an output would be that consists of them.
    fn decode(&self, tokens: &[u32]) -> String;
    /// Tokens of each text alone, without what the tokenizer sets before and after it.
    fn encode_alone(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error>;
    /// What stands before a text that nothing stands before: the BOS token, or else the end-of-sequence token.
    fn first_token(&self) -> Option<u32>;
    /// Whether [`Self::render_chat`] has a template to render.
    fn has_chat_template(&self) -> bool;
    /// The messages in the model's template, which is told these variables; an assistant's message at their end is begun, and
    /// not closed.
    fn render_chat(&self, messages: &[Message], chat: &Chat) -> Result<String, model::Error>;
    /// The text of the end-of-sequence token, which counts as a stop string.
    fn end_text(&self) -> Option<&str>;
    /// Longest sequence in tokens.
    fn context_length(&self) -> usize;
    /// One text for each request, in their order, and of several samples one for each of them. `progress` is told how far
    /// all of them together are.
    ///
    /// # Errors
    /// The engine cannot go on; a request too long for the context is no error but a text that ends at once.
    fn generate(&mut self, requests: &[Request], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Generation>, Error>;
    /// Log-likelihoods of each request's continuation, in their order.
    ///
    /// # Errors
    /// The engine cannot go on.
    fn score(&mut self, requests: &[ScoreRequest], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Score>, Error>;
}

/// An engine with a tokenizer: ours, or another program that decodes instead of it.
pub trait Decodes {
    /// `None` before it has a model.
    fn tokenizer(&self) -> Option<&Tokenizer>;
    /// Longest sequence in tokens.
    fn context_length(&self) -> usize;
    /// Continues each prompt; answers come in the order of the requests.
    ///
    /// # Errors
    /// What the engine refuses, or that it broke.
    fn generate(&mut self, requests: &[Request], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Generation>, Error>;
    /// Log-likelihoods of given continuations; scores come in the order of the requests.
    ///
    /// # Errors
    /// As [`Self::generate`].
    fn score(&mut self, requests: &[ScoreRequest], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Score>, Error>;
}

impl Decodes for Engine {
    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(Engine::tokenizer(self))
    }

    fn context_length(&self) -> usize {
        self.decoder().spec().max_positions
    }

    fn generate(&mut self, requests: &[Request], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Generation>, Error> {
        Ok(Engine::generate(self, requests, progress)?)
    }

    fn score(&mut self, requests: &[ScoreRequest], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Score>, Error> {
        Ok(Engine::score_with(self, requests, progress)?)
    }
}

impl<D: Decodes> Answerer for D {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error> {
        tokenizer_of(self)?.encode_prompts(texts)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer()
            .map_or_else(String::new, |tokenizer| tokenizer.decode(tokens))
    }

    fn encode_alone(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error> {
        tokenizer_of(self)?.encode_batch(texts, false)
    }

    fn first_token(&self) -> Option<u32> {
        let tokenizer = self.tokenizer()?;
        let named = |name| tokenizer.special_token(name).and_then(|text| tokenizer.token_id(text));
        named("bos_token").or_else(|| named("eos_token"))
    }

    fn has_chat_template(&self) -> bool {
        self.tokenizer().is_some_and(Tokenizer::has_chat_template)
    }

    fn render_chat(&self, messages: &[Message], chat: &Chat) -> Result<String, model::Error> {
        in_template(tokenizer_of(self)?, messages, chat)
    }

    fn end_text(&self) -> Option<&str> {
        self.tokenizer()?
            .special_token("eos_token")
            .filter(|eos| !eos.is_empty())
    }

    fn context_length(&self) -> usize {
        Decodes::context_length(self)
    }

    fn generate(&mut self, requests: &[Request], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Generation>, Error> {
        Decodes::generate(self, requests, progress)
    }

    fn score(&mut self, requests: &[ScoreRequest], progress: &mut dyn FnMut(Progress)) -> Result<Vec<Score>, Error> {
        Decodes::score(self, requests, progress)
    }
}

fn tokenizer_of<D: Decodes>(engine: &D) -> Result<&Tokenizer, model::Error> {
    engine.tokenizer().ok_or_else(|| model::Error::Tokenizer {
        file: "the engine".into(),
        reason: "it has no model yet".into(),
    })
}

/// Answers the questions of each task; the answers come in the same order.
///
/// ```
/// use heterosis_eval::{Answerer, Error, Split, Task, TaskScore};
///
/// fn score(engine: &mut dyn Answerer, task: &Task) -> Result<TaskScore, Error> {
///     let questions = task.questions(Split::Test)?;
///     let work = [(task, questions.as_slice())];
///     let answers = heterosis_eval::answer(engine, &work, &mut |p| eprintln!("{} of {}", p.done, p.total))?;
///     Ok(TaskScore::of(task, &answers[0]))
/// }
/// ```
///
/// # Errors
/// Prompts that cannot be rendered or tokenised, an answer longer than the model's context, and whatever the engine
/// refuses.
pub fn answer(
    engine: &mut dyn Answerer,
    work: &[(&Task, &[Question])],
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Vec<Answer>>, Error> {
    let total = work.iter().map(|(_, questions)| questions.len()).sum();
    let mut latest = Progress::default();
    let written = write(engine, work, &mut |p, samples_a_question| {
        latest = Progress {
            done: p.done / samples_a_question.max(1),
            total,
            ..p
        };
        progress(latest);
    })?;

    let mut continuations = Vec::new();
    let mut contexts: Vec<String> = Vec::new();
    let mut measured_questions = 0;
    for (task, questions) in work.iter().filter(|(task, _)| task.kind().is_measured()) {
        let texts = render(engine, task, questions)?;
        let (requests, asked) = score_requests(engine, task, questions, &texts)?;
        continuations.extend(requests);
        contexts.extend(asked);
        measured_questions += questions.len();
    }
    let scores = engine.score(&continuations, &mut |p| {
        progress(Progress {
            // A question with choices is several requests.
            done: latest.done + p.done * measured_questions / p.total.max(1),
            total,
            prompt_tokens: latest.prompt_tokens + p.prompt_tokens,
            generated_tokens: latest.generated_tokens + p.generated_tokens,
        });
    })?;

    let mut written = written.into_iter();
    let mut scored = scores.into_iter();
    let mut contexts = contexts.into_iter();
    let mut judge = |task: &Task, question: &Question| match task.kind() {
        Kind::Generate => written
            .next()
            .map(|written| judged(task, question, written))
            .transpose(),
        Kind::LogLikelihood => Ok(scored.next().map(|score| Answer {
            prompt: contexts.next().unwrap_or_default(),
            ..measured(task, question, score)
        })),
        Kind::MultipleChoice | Kind::Blank => {
            let count = question.choices.len();
            let scores: Vec<Score> = scored.by_ref().take(count).collect();
            let unasked = if asks_without_question(task) { count } else { 0 };
            let unasked: Vec<Score> = scored.by_ref().take(unasked).collect();
            Ok(Some(Answer {
                question: question.id.clone(),
                prompt: contexts.next().unwrap_or_default(),
                ..Answer::chosen(task, question, &scores, &unasked)
            }))
        }
    };
    // The engine gives one result for each request, so nothing is left out here.
    work.iter()
        .map(|(task, questions)| questions.iter().filter_map(|q| judge(task, q).transpose()).collect())
        .collect()
}

/// What a model wrote to one question: the prompt, and each sample.
struct Written {
    prompt: String,
    samples: Vec<Generation>,
}

/// The outputs to all questions of tasks that generate, in one queue; thoughts of a bounded length are a queue of their own
/// before it.
fn write(
    engine: &mut dyn Answerer,
    work: &[(&Task, &[Question])],
    progress: &mut dyn FnMut(Progress, usize),
) -> Result<Vec<Written>, Error> {
    let mut prompts = Vec::new();
    let mut requests = Vec::new();
    let mut thinkers: Vec<(usize, &Task)> = Vec::new();
    for (task, questions) in work.iter().filter(|(task, _)| task.kind() == Kind::Generate) {
        let texts = render(engine, task, questions)?;
        let of_task = generation_requests(engine, task, questions, &texts)?;
        let budgeted = (requests.len()..)
            .take(of_task.len())
            .filter(|_| budget_of(task).is_some());
        thinkers.extend(budgeted.map(|i| (i, *task)));
        requests.extend(of_task);
        let samples = samples_of(task);
        prompts.extend(texts.into_iter().map(|text| (text, samples)));
    }
    let most = prompts.iter().map(|(_, samples)| *samples).max().unwrap_or(1);
    let mut thoughts = think(engine, &requests, &thinkers)?;
    let count = requests.len();
    // Who ended while thinking is not asked again.
    let asked = requests.into_iter().enumerate();
    let asked = asked.filter_map(|(i, request)| match thoughts.get(&i) {
        None => Some(request),
        Some(thought) => (!thought.ended).then(|| thought.answering.clone()),
    });
    let asked: Vec<Request> = asked.collect();
    let mut generations = engine.generate(&asked, &mut |p| progress(p, most))?.into_iter();
    let all = (0..count).map(|i| match thoughts.remove(&i) {
        None => generations.next(),
        Some(thought) if thought.ended => Some(thought.with_answer(None)),
        Some(thought) => Some(thought.with_answer(generations.next())),
    });
    let mut all = all.collect::<Vec<_>>().into_iter().flatten();
    let written = prompts.into_iter().map(|(prompt, samples)| Written {
        prompt,
        samples: all.by_ref().take(samples).collect(),
    });
    Ok(written.collect())
}

fn samples_of(task: &Task) -> usize {
    task.samples().map_or(1, |samples| samples.n)
}

fn budget_of(task: &Task) -> Option<usize> {
    task.think().and_then(|think| think.budget)
}

/// A thought that was given a number of tokens at most.
struct Thought {
    generation: Generation,
    /// What closed it, where the model did not.
    closing: String,
    /// The question again with the thought after it.
    answering: Request,
    ended: bool,
}

impl Thought {
    /// What was thought, and what was then said.
    fn with_answer(self, answer: Option<Generation>) -> Generation {
        let mut whole = self.generation;
        let Some(answer) = answer else { return whole };
        whole.text = format!("{}{}{}", whole.text, self.closing, answer.text);
        whole.token_ids.extend(answer.token_ids);
        whole.finish = answer.finish;
        whole
    }
}

/// Lets those whose thoughts are bounded think first: by the number of their request.
fn think(
    engine: &mut dyn Answerer,
    requests: &[Request],
    thinkers: &[(usize, &Task)],
) -> Result<BTreeMap<usize, Thought>, Error> {
    let thinking = thinkers.iter().filter_map(|(i, task)| {
        let (think, budget) = (task.think()?, budget_of(task)?);
        Some(Request {
            max_new_tokens: budget.min(requests[*i].max_new_tokens),
            stop_when: Some(think.until_closed()),
            ..requests[*i].clone()
        })
    });
    let thinking: Vec<Request> = thinking.collect();
    if thinking.is_empty() {
        return Ok(BTreeMap::new());
    }
    let generations = engine.generate(&thinking, &mut |_| {})?;
    let mut thoughts = BTreeMap::new();
    for ((i, task), generation) in thinkers.iter().zip(generations) {
        let Some(think) = task.think() else { continue };
        let closing = match generation.text.contains(&think.close) {
            true => String::new(),
            false => format!("\n{}\n\n", think.close),
        };
        let mut answering = requests[*i].clone();
        answering.prompt.extend(&generation.token_ids);
        if !closing.is_empty() {
            let tokens = engine.encode_alone(&[&closing])?;
            answering.prompt.extend(tokens.into_iter().flatten());
        }
        let spent = generation.token_ids.len();
        answering.max_new_tokens = answering.max_new_tokens.saturating_sub(spent).max(1);
        // What is said now begins after the thought.
        answering.stop_when = stop_when_said(task);
        // A model that answered without a thought has ended too.
        let ended = generation.finish == Finish::Eos || generation.finish == Finish::Loop;
        let thought = Thought {
            generation,
            closing,
            answering,
            ended,
        };
        thoughts.insert(*i, thought);
    }
    Ok(thoughts)
}

/// Ends an answer that follows its thought.
fn stop_when_said(task: &Task) -> Option<model::engine::StopWhen> {
    let (stops, answered) = (task.stop.clone(), task.stop_when());
    Some(Arc::new(move |text| {
        let stopped = stops
            .iter()
            .any(|stop| !stop.is_empty() && text.contains(stop.as_str()));
        stopped || answered.as_ref().is_some_and(|answered| answered(text))
    }))
}

fn judged(task: &Task, question: &Question, written: Written) -> Result<Answer, Error> {
    let Written { prompt, samples } = written;
    let output = |generation: &Generation| match task.think() {
        // Stops count in what is said, which is cut where it is judged.
        Some(think) => think.with_opening(&prompt, generation.text.clone()),
        None => task.cut(&generation.text).to_string(),
    };
    let outputs: Vec<String> = samples.iter().map(output).collect();
    Ok(Answer {
        question: question.id.clone(),
        token_count: samples.iter().map(|g| g.token_ids.len()).sum(),
        finish: finish_of(&samples).into(),
        prompt,
        ..Answer::judged(task, sampling::stored(&outputs)?, &question.gold)?
    })
}

/// How the samples ended: as the one that ended worst did.
fn finish_of(samples: &[Generation]) -> &'static str {
    const WORST_FIRST: [(Finish, &str); 4] = [
        (Finish::Loop, "loop"),
        (Finish::Length, "length"),
        (Finish::Stop, "stop"),
        (Finish::Eos, "eos"),
    ];
    let found = WORST_FIRST
        .iter()
        .find(|(finish, _)| samples.iter().any(|g| g.finish == *finish));
    found.map_or("", |(_, name)| name)
}

fn measured(task: &Task, question: &Question, score: Score) -> Answer {
    Answer {
        question: question.id.clone(),
        ..Answer::measured(task, &question.gold, score)
    }
}

/// The text that a model with this tokenizer gets when somebody says something to it.
///
/// # Errors
/// Its chat template refuses, or there is none.
pub fn said(tokenizer: &Tokenizer, said: &str, chat: &Chat) -> Result<String, Error> {
    let prompt = Prompt {
        question: said.into(),
        ..Prompt::default()
    };
    render_chat(&|messages| in_template(tokenizer, messages, chat), &prompt, chat)
}

/// The tokens that a model goes on from when it is to reply to the last of these messages: all of them in its chat template;
/// where it has none, the last one as it stands.
///
/// ```
/// use heterosis_engine::{Message, Tokenizer, tokenizer::TokenizerFiles};
///
/// let json = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
///     "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "user": 1, "How": 2, "many": 3, "assistant": 4}}}"#;
/// let tokenizer = |template: Option<&str>| Tokenizer::new(TokenizerFiles {
///     tokenizer_json: json.into(),
///     chat_template: template.map(str::to_owned),
///     ..TokenizerFiles::default()
/// });
/// let said = [Message::new("user", "How many")];
/// let template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant";
/// assert_eq!(heterosis_eval::reply_prompt(&tokenizer(Some(template))?, &said)?, [1, 2, 3, 4]);
/// assert_eq!(heterosis_eval::reply_prompt(&tokenizer(None)?, &said)?, [2, 3]);
/// # Ok::<(), heterosis_engine::Error>(())
/// ```
///
/// # Errors
/// The chat template refuses, or what it gives cannot be tokenised.
pub fn reply_prompt(tokenizer: &Tokenizer, messages: &[model::Message]) -> Result<Vec<u32>, model::Error> {
    if tokenizer.has_chat_template() {
        return tokenizer.encode_prompt(&tokenizer.apply_chat_template(messages, true)?);
    }
    tokenizer.encode_prompt(messages.last().map_or("", |message| &message.content))
}

/// The text that the model gets for each question.
fn render(engine: &dyn Answerer, task: &Task, questions: &[Question]) -> Result<Vec<String>, Error> {
    questions
        .iter()
        .map(|question| render_prompt(engine, task, &question.prompt))
        .collect()
}

fn render_prompt(engine: &dyn Answerer, task: &Task, prompt: &Prompt) -> Result<String, Error> {
    match spoken(task, engine.has_chat_template()) {
        None => Ok(prompt.text()),
        Some(chat) => render_chat(&|messages| engine.render_chat(messages, chat), prompt, chat),
    }
}

/// The text that a model with this tokenizer gets for a question.
///
/// # Errors
/// The chat template fails.
pub fn prompt_text(tokenizer: &Tokenizer, task: &Task, question: &Question) -> Result<String, Error> {
    match spoken(task, tokenizer.has_chat_template()) {
        None => Ok(question.prompt.text()),
        Some(chat) => render_chat(
            &|messages| in_template(tokenizer, messages, chat),
            &question.prompt,
            chat,
        ),
    }
}

/// How a task's questions are put to a chat model; `None` for plain text. A search asks a model without a chat template, a
/// base among chat models, in plain text; lm-eval refuses to.
fn spoken(task: &Task, has_chat_template: bool) -> Option<&Chat> {
    task.chat()
        .filter(|_| has_chat_template || task.profile() == Profile::Parity)
}

fn in_template(tokenizer: &Tokenizer, messages: &[Message], chat: &Chat) -> Result<String, model::Error> {
    let begun = messages
        .last()
        .filter(|m| m.role == "assistant")
        .map(|m| m.content.as_str());
    let messages = messages.iter().map(|m| model::Message::new(m.role, m.content.clone()));
    let messages: Vec<_> = messages.collect();
    let text = tokenizer.apply_chat_template_with(&messages, begun.is_none(), &chat.variables)?;
    Ok(match begun {
        Some(begun) => up_to_the_begun_answer(&text, begun).to_string(),
        None => text,
    })
}

/// A conversation without what its template writes after the last message: transformers' `continue_final_message`.
fn up_to_the_begun_answer<'t>(text: &'t str, begun: &str) -> &'t str {
    let Some(at) = text.rfind(begun.trim()) else {
        return text;
    };
    let (whole, trimmed) = (begun.trim_start(), begun.trim());
    let length = if text[at..].starts_with(whole) {
        whole.len()
    } else {
        trimmed.len()
    };
    &text[..at + length]
}

type Template<'a> = &'a dyn Fn(&[Message]) -> Result<String, model::Error>;

/// A template that refuses the system message is asked again without it, as in lm-eval.
fn render_chat(template: Template<'_>, prompt: &Prompt, chat: &Chat) -> Result<String, Error> {
    let mut messages = prompt.messages(chat);
    match template(&messages) {
        Err(_) if messages[0].role == "system" => {
            tracing::warn!("the model's chat template takes no system message; it is left out");
            messages.remove(0);
            Ok(template(&messages)?)
        }
        rendered => Ok(rendered?),
    }
}

/// Prompts as tokens, cut on the left so that the answer has room in the context.
fn generation_requests(
    engine: &dyn Answerer,
    task: &Task,
    questions: &[Question],
    texts: &[String],
) -> Result<Vec<Request>, Error> {
    let context = engine.context_length();
    let room = context
        .checked_sub(task.max_new_tokens)
        .filter(|room| *room > 0)
        .ok_or_else(|| Error::Context {
            task: task.name().into(),
            wanted: task.max_new_tokens,
            context,
        })?;
    let end = engine
        .end_text()
        .filter(|end| !task.stop.iter().any(|stop| stop == end));
    // Of a model that thinks, the task's stops count only in what it says.
    let own: &[String] = if task.think().is_some() { &[] } else { &task.stop };
    let stop: Arc<[String]> = own.iter().cloned().chain(end.map(String::from)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut cut = 0;
    let mut requests = Vec::new();
    for ((mut prompt, text), question) in engine.encode(&texts)?.into_iter().zip(&texts).zip(questions) {
        let excess = prompt.len().saturating_sub(room);
        cut += usize::from(excess > 0);
        prompt.drain(..excess);
        let request = Request {
            prompt,
            max_new_tokens: task.max_new_tokens,
            stop: stop.clone(),
            stop_when: match task.think() {
                Some(think) => Some(stop_when_thinking(task, think, text)),
                None => task.stop_when(),
            },
            loop_guard: task.profile() == Profile::Fitness,
            sampling: None,
        };
        let asked = question.prompt.text();
        requests.extend((0..samples_of(task)).map(|sample| Request {
            sampling: drawn(task, &asked, sample),
            ..request.clone()
        }));
    }
    warn_of_cut(task, cut, texts.len(), room);
    Ok(requests)
}

fn stop_when_thinking(task: &Task, think: &Think, prompt: &str) -> model::engine::StopWhen {
    let prompt_opens = prompt.trim_end().ends_with(&think.open);
    think.stop_when(prompt_opens, task.stop.clone(), task.stop_when())
}

/// How a sample is drawn: by the question, so that it is the same whatever else is asked.
fn drawn(task: &Task, asked: &str, sample: usize) -> Option<Sampling> {
    task.samples()?.of_question(asked, sample)
}

/// Whether a task's choices are measured without the question too.
fn asks_without_question(task: &Task) -> bool {
    task.metrics().contains(&Metric::AccMutualInfo)
}

/// Contexts and continuations as one sequence each. White space at the end of the context belongs to the continuation,
/// for the tokenizer joins it to the next word. Without a context, choices follow the first token of any text; of other texts
/// the first token is not scored. With them comes what stands before the first continuation of each question.
fn score_requests(
    engine: &dyn Answerer,
    task: &Task,
    questions: &[Question],
    texts: &[String],
) -> Result<(Vec<ScoreRequest>, Vec<String>), Error> {
    let mut first_contexts = Vec::new();
    let mut prompts: Vec<String> = Vec::new();
    let mut whole: Vec<String> = Vec::new();
    let chat = spoken(task, engine.has_chat_template());
    for (text, question) in texts.iter().zip(questions) {
        let delimiter = delimiter(task, chat, text, question);
        let first = prompts.len();
        for (continuation, asked) in continuations(question) {
            let context = match asked {
                Some(asked) => render_prompt(engine, task, &question.prompt.asking(asked))?,
                None => text.clone(),
            };
            whole.push(format!("{context}{delimiter}{continuation}"));
            prompts.push(context);
        }
        first_contexts.push(prompts.get(first).cloned().unwrap_or_default());
        if asks_without_question(task) {
            for choice in &question.choices {
                prompts.push(String::new());
                whole.push(format!("{delimiter}{}", choice.continuation));
            }
        }
    }
    let follows_a_token = task.kind() == Kind::MultipleChoice || task.is_of_harness();
    let is_alone = |prompt: &String| follows_a_token && prompt.is_empty();
    let alone: Vec<usize> = (0..prompts.len()).filter(|i| is_alone(&prompts[*i])).collect();
    let texts_alone: Vec<String> = alone.iter().map(|i| whole[*i].clone()).collect();
    let mut requests = sequences(engine, task, &prompts, whole)?;
    for (i, request) in alone.into_iter().zip(after_first_token(engine, task, &texts_alone)?) {
        requests[i] = request;
    }
    Ok((requests, first_contexts))
}

/// Texts that nothing stands before, as the harness measures them: after the first token that any text has.
fn after_first_token(engine: &dyn Answerer, task: &Task, texts: &[String]) -> Result<Vec<ScoreRequest>, Error> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let context_length = engine.context_length();
    let mut cut = 0;
    let first = engine.first_token();
    let encoded = engine.encode_alone(&texts)?.into_iter();
    let requests = encoded.map(|mut tokens| {
        if let Some(first) = first.filter(|first| tokens.first() != Some(first)) {
            tokens.insert(0, first);
        }
        let excess = tokens.len().saturating_sub(context_length);
        cut += usize::from(excess > 0);
        tokens.drain(..excess);
        ScoreRequest { tokens, from: 1 }
    });
    let requests = requests.collect();
    warn_of_cut(task, cut, texts.len(), context_length);
    Ok(requests)
}

/// Prompts with what is to follow each, as sequences of tokens that can be read: the question, the output as a model wrote it,
/// and whether the model ended it by itself, so that the end-of-sequence token belongs to it.
///
/// # Errors
/// Prompts that cannot be rendered or tokenised.
pub fn continued(
    engine: &dyn Answerer,
    task: &Task,
    outputs: &[(&Question, &str, bool)],
) -> Result<Vec<ScoreRequest>, Error> {
    let questions: Vec<Question> = outputs.iter().map(|(question, ..)| (*question).clone()).collect();
    let texts = render(engine, task, &questions)?;
    let spaced: Vec<String> = outputs
        .iter()
        .zip(&texts)
        .map(|((_, output, _), text)| format!("{text} {output}"))
        .collect();
    let contexts = engine.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let spaced = engine.encode(&spaced.iter().map(String::as_str).collect::<Vec<_>>())?;
    let whole = outputs.iter().zip(&texts).zip(spaced.iter().zip(&contexts));
    let whole = whole.map(|(((_, output, ended), text), (spaced, context))| {
        // Some tokenizers write a text without the space that it began with. Put to the prompt as it is, such an output
        // would run together with the prompt's last word, which no model ever wrote.
        let joins = !text.ends_with(char::is_whitespace) && !output.starts_with(char::is_whitespace);
        let loses_the_space = spaced.starts_with(context) && engine.decode(&spaced[context.len()..]) == *output;
        let between = if joins && loses_the_space { " " } else { "" };
        let end = if *ended { engine.end_text().unwrap_or("") } else { "" };
        format!("{text}{between}{output}{end}")
    });
    sequences(engine, task, &texts, whole.collect())
}

/// Prompts with what ought to follow: the gold text, the right choice, or the worked solution, of the questions that have one.
/// Comes with the place of each question.
///
/// # Errors
/// Prompts that cannot be rendered or tokenised.
pub fn solved(engine: &dyn Answerer, task: &Task, questions: &[Question]) -> Result<Vec<(usize, ScoreRequest)>, Error> {
    let mut places = Vec::new();
    let mut with_solution = Vec::new();
    let mut solutions = Vec::new();
    for (place, question) in questions.iter().enumerate() {
        let solution = match task.kind() {
            Kind::Generate => task.solution(question)?,
            Kind::LogLikelihood => Some(question.gold.as_str()),
            // Where the choices stand in the question, what follows is no answer to it.
            Kind::MultipleChoice | Kind::Blank => question
                .right_choice()
                .filter(|choice| choice.question.is_none())
                .map(|choice| choice.continuation.as_str()),
        };
        if let Some(solution) = solution {
            places.push(place);
            with_solution.push(question.clone());
            solutions.push(solution);
        }
    }
    let texts = render(engine, task, &with_solution)?;
    let chat = spoken(task, engine.has_chat_template());
    let whole = with_solution.iter().zip(&texts).zip(solutions);
    let whole =
        whole.map(|((question, text), solution)| format!("{text}{}{solution}", delimiter(task, chat, text, question)));
    let requests = sequences(engine, task, &texts, whole.collect())?;
    Ok(places.into_iter().zip(requests).collect())
}

/// What stands between a prompt and what follows it.
fn delimiter<'q>(task: &Task, chat: Option<&Chat>, context: &str, question: &'q Question) -> &'q str {
    let delimiter = question.prompt.target_delimiter.as_str();
    let begun = &question.prompt.answer_prefix;
    match (context, chat) {
        // The harness sets it before choices even where nothing is asked.
        ("", None) if task.is_of_harness() || task.kind() == Kind::MultipleChoice => delimiter,
        ("", _) => "",
        // The template stands between them, unless the answer is begun.
        (_, Some(_)) if begun.is_empty() || begun.ends_with(char::is_whitespace) => "",
        _ => delimiter,
    }
}

/// Whole texts as tokens, and where each goes on from its prompt.
fn sequences(
    engine: &dyn Answerer,
    task: &Task,
    prompts: &[String],
    whole: Vec<String>,
) -> Result<Vec<ScoreRequest>, Error> {
    let contexts: Vec<&str> = prompts.iter().map(|text| text.trim_end()).collect();
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    let context_length = engine.context_length();
    let mut cut = 0;
    let requests = engine
        .encode(&whole)?
        .into_iter()
        .zip(engine.encode(&contexts)?)
        .zip(&contexts)
        .map(|((mut tokens, context), text)| {
            let from = if text.is_empty() { 1 } else { context.len() };
            let excess = tokens.len().saturating_sub(context_length);
            cut += usize::from(excess > 0);
            tokens.drain(..excess);
            ScoreRequest {
                from: from.saturating_sub(excess).max(1),
                tokens,
            }
        })
        .collect();
    warn_of_cut(task, cut, whole.len(), context_length);
    Ok(requests)
}

/// What may follow the prompt, and what is asked before it if that depends on it: each choice, or else the gold text.
fn continuations(question: &Question) -> Vec<(&str, Option<&str>)> {
    match question.choices.as_slice() {
        [] => vec![(&question.gold, None)],
        choices => choices
            .iter()
            .map(|c| (c.continuation.as_str(), c.question.as_deref()))
            .collect(),
    }
}

fn warn_of_cut(task: &Task, cut: usize, n: usize, room: usize) {
    if cut > 0 {
        let name = task.name();
        tracing::warn!("{name}: {cut} of {n} prompts are longer than {room} tokens and are cut at their beginning");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDirs, Split, TaskOptions, task_file::TaskFile};

    /// A model that reads its answer out of the prompt: what follows the last `=>`. One token a character; a `z` has the
    /// log-likelihood -½, anything else -2.
    struct Script {
        context_length: usize,
        rejects_system: bool,
        is_base: bool,
        /// Writes a text without the space that it begins with, as tokenizers of the SentencePiece kind do.
        loses_space: bool,
        /// What it says next, one after the other, in place of what the prompt tells it.
        says: std::collections::VecDeque<&'static str>,
        calls: Vec<String>,
    }

    impl Script {
        fn new() -> Self {
            Script {
                context_length: 1000,
                rejects_system: false,
                is_base: false,
                loses_space: false,
                says: std::collections::VecDeque::new(),
                calls: Vec::new(),
            }
        }
    }

    fn text(tokens: &[u32]) -> String {
        tokens.iter().filter_map(|t| char::from_u32(*t)).collect()
    }

    impl Answerer for Script {
        fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error> {
            Ok(texts.iter().map(|text| text.chars().map(u32::from).collect()).collect())
        }

        fn decode(&self, tokens: &[u32]) -> String {
            let text = text(tokens);
            match text.strip_prefix(' ') {
                Some(rest) if self.loses_space => rest.into(),
                _ => text,
            }
        }

        fn has_chat_template(&self) -> bool {
            !self.is_base
        }

        fn encode_alone(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error> {
            self.encode(texts)
        }

        fn first_token(&self) -> Option<u32> {
            Some(u32::from('^'))
        }

        fn render_chat(&self, messages: &[Message], _: &Chat) -> Result<String, model::Error> {
            if self.rejects_system && messages[0].role == "system" {
                return Err(model::Error::NoChatTemplate { model: "script".into() });
            }
            Ok(messages.iter().map(|m| format!("[{}]{}", m.role, m.content)).collect())
        }

        fn end_text(&self) -> Option<&str> {
            Some("<end>")
        }

        fn context_length(&self) -> usize {
            self.context_length
        }

        fn generate(
            &mut self,
            requests: &[Request],
            progress: &mut dyn FnMut(Progress),
        ) -> Result<Vec<Generation>, Error> {
            let mut answers = Vec::new();
            for (done, request) in requests.iter().enumerate() {
                let prompt = text(&request.prompt);
                let told = prompt.rsplit("=>").next().unwrap_or("").to_string();
                // What is drawn follows from the seed alone.
                let drawn = request.sampling.map(|s| (s.seed % 3).to_string());
                let said = self.says.pop_front().map(String::from);
                let whole = said.or(drawn).unwrap_or(told);
                let output: String = whole.chars().take(request.max_new_tokens).collect();
                self.calls.push(prompt);
                assert!(request.stop.contains(&"<end>".to_string()));
                answers.push(Generation {
                    token_ids: output.chars().map(u32::from).collect(),
                    finish: if output == whole { Finish::Eos } else { Finish::Length },
                    text: output,
                });
                progress(Progress {
                    done: done + 1,
                    total: requests.len(),
                    ..Progress::default()
                });
            }
            Ok(answers)
        }

        fn score(
            &mut self,
            requests: &[ScoreRequest],
            progress: &mut dyn FnMut(Progress),
        ) -> Result<Vec<Score>, Error> {
            progress(Progress {
                done: requests.len(),
                total: requests.len(),
                ..Progress::default()
            });
            Ok(requests
                .iter()
                .map(|r| {
                    self.calls
                        .push(format!("{}|{}", text(&r.tokens[..r.from]), text(&r.tokens[r.from..])));
                    let tokens = r.tokens.len() - r.from;
                    let cheap = r.tokens[r.from..].iter().filter(|t| **t == u32::from('z')).count();
                    Score {
                        log_likelihood: -2.0 * tokens as f64 + 1.5 * cheap as f64,
                        tokens,
                        greedy: false,
                    }
                })
                .collect())
        }
    }

    fn task(dir: &std::path::Path, keys: &str, options: &TaskOptions) -> Task {
        let rows = "{\"q\": \"a =>5 STOP 6\", \"a\": \"5\"}\n{\"q\": \"b =>7\", \"a\": \"8\"}\n";
        std::fs::write(dir.join("rows.jsonl"), rows).unwrap();
        let yaml = format!("task: t\ndata: {{test: rows.jsonl}}\ntarget: '{{{{a}}}}'\n{keys}\n");
        let file = TaskFile::parse(&dir.join("t.yaml"), &yaml, Some(dir.into())).unwrap();
        Task::ready(file, "en".into(), options, &DataDirs::default()).unwrap()
    }

    const GENERATE: &str =
        "prompt: 'Q: {{q}}'\nstop: STOP\nmax_new_tokens: 10\nfilters: [{name: last, number: {otherwise: last}}]";
    const SCORE: &str = "type: loglikelihood\nprompt: 'Q: {{q}}  '";

    #[test]
    fn tasks_of_both_kinds_in_one_call() {
        let dir = tempfile::tempdir().unwrap();
        let options = TaskOptions::default();
        let generate = task(dir.path(), GENERATE, &options);
        let score = task(dir.path(), SCORE, &options);
        let questions = generate.questions(Split::Test).unwrap();
        let continuations = score.questions(Split::Test).unwrap();
        let mut model = Script::new();
        let mut seen = Vec::new();
        let work = [(&score, &continuations[..]), (&generate, &questions[..])];
        let answers = answer(&mut model, &work, &mut |p| seen.push((p.done, p.total))).unwrap();
        assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        let first = &answers[1][0];
        assert_eq!(
            (first.output.as_str(), first.correct, first.finish.as_str()),
            ("5 ", true, "eos")
        );
        assert_eq!(
            (first.question.as_str(), first.prompt.as_str()),
            ("rows/0", "Q: a =>5 STOP 6")
        );
        assert!(!answers[1][1].correct);
        assert_eq!((answers[0][0].score, answers[0][0].token_count), (-2.0, 4));
        assert_eq!(model.calls[2], "Q: a =>5 STOP 6|   5");
        assert_eq!(seen, [(1, 4), (2, 4), (4, 4)]);
    }

    #[test]
    fn an_output_is_read_as_it_was_written_with_the_space_that_its_tokenizer_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(dir.path(), GENERATE, &TaskOptions::default());
        let questions = task.questions(Split::Test).unwrap();
        let read = |loses_space: bool, output: &str, ended: bool| {
            let model = Script {
                loses_space,
                ..Script::new()
            };
            let request = continued(&model, &task, &[(&questions[1], output, ended)])
                .unwrap()
                .remove(0);
            (
                text(&request.tokens[..request.from]),
                text(&request.tokens[request.from..]),
            )
        };
        let prompt = String::from("Q: b =>7");
        assert_eq!(read(true, "8", true), (prompt.clone(), " 8<end>".into()));
        assert_eq!(read(true, " 8", false), (prompt.clone(), " 8".into()), "it is there");
        // This one would have written the space.
        assert_eq!(read(false, "8", true), (prompt, "8<end>".into()));
    }

    #[test]
    fn a_long_prompt_loses_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let options = TaskOptions::default();
        let task = task(dir.path(), GENERATE, &options);
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Script::new();
        model.context_length = 14;
        answer(&mut model, &[(&task, &questions)], &mut |_| {}).unwrap();
        assert_eq!(model.calls, ["OP 6", " =>7"]);
        model.context_length = 10;
        let message = answer(&mut model, &[(&task, &questions)], &mut |_| {})
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("10 tokens, but the model's context has 10"),
            "{message}"
        );
    }

    #[test]
    fn through_the_chat_template() {
        let dir = tempfile::tempdir().unwrap();
        let options = TaskOptions {
            chat: Some(Chat {
                system: Some("S".into()),
                ..Chat::default()
            }),
            ..TaskOptions::default()
        };
        let task = task(dir.path(), GENERATE, &options);
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Script::new();
        answer(&mut model, &[(&task, &questions[1..])], &mut |_| {}).unwrap();
        model.rejects_system = true;
        answer(&mut model, &[(&task, &questions[1..])], &mut |_| {}).unwrap();
        assert_eq!(model.calls, ["[system]S[user]Q: b =>7", "[user]Q: b =>7"]);
    }

    /// Each sample follows from the question and the seed, whatever else is asked; together they vote.
    #[test]
    fn samples_vote_and_are_the_same_in_any_company() {
        let dir = tempfile::tempdir().unwrap();
        let load = |keys: &str| task(dir.path(), &format!("{GENERATE}\n{keys}"), &TaskOptions::default());
        let voting = load("samples: 9\nsampling: {temperature: 1, seed: 5}");
        let questions = voting.questions(Split::Test).unwrap();
        let ask = |questions: &[Question]| {
            let mut answers = answer(&mut Script::new(), &[(&voting, questions)], &mut |_| {}).unwrap();
            answers.remove(0)
        };
        let (together, alone) = (ask(&questions), ask(&questions[1..]));
        assert_eq!(together[1].output, alone[0].output);
        let outputs: Vec<String> = serde_json::from_str(&alone[0].output).unwrap();
        assert_eq!((outputs.len(), alone[0].token_count), (9, 9));
        let count = |digit: &str| outputs.iter().filter(|o| *o == digit).count();
        let most = (0..3).map(|d| count(&d.to_string())).max().unwrap();
        let vote = &alone[0].filters["maj@9"].extracted;
        assert_eq!(count(vote), most);
        assert_eq!(voting.primary(), "maj@9");
        let judged = Answer::judged(&voting, alone[0].output.clone(), "2").unwrap();
        let right = count("2") as f64;
        assert!((judged.filters["pass@1"].exact_match - right / 9.0).abs() < 1e-12);
        assert_eq!(judged.filters["pass@9"].exact_match, 1.0);
        assert_eq!(
            judged.filters["last"].extracted, outputs[0],
            "the filter alone judges the first"
        );
        let other = load("samples: 9\nsampling: {temperature: 1, seed: 6}");
        let again = answer(&mut Script::new(), &[(&other, &questions[1..])], &mut |_| {}).unwrap();
        assert_ne!(again[0][0].output, alone[0].output);
        let options = TaskOptions {
            score: Some("pass@3".into()),
            ..TaskOptions::default()
        };
        let by_three = task(dir.path(), &format!("{GENERATE}\nsamples: 9"), &options);
        assert_eq!(by_three.primary(), "pass@3");
        let score = crate::TaskScore::of(&voting, &together);
        assert!(score.scores.contains_key("pass@4") && score.primary == "maj@9");
    }

    #[test]
    fn a_thought_is_closed_after_its_budget_and_not_judged() {
        let dir = tempfile::tempdir().unwrap();
        let keys = "prompt: 'Q: {{q}}'\nstop: STOP\nmax_new_tokens: 60\nfilters: [{name: last, number: {otherwise: last}}]\n\
                    think: {budget: 10}";
        let task = task(dir.path(), keys, &TaskOptions::default());
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Script::new();
        model.says = ["<think>5 STOP 6 or 7", "7", "5"].into();
        let answers = answer(&mut model, &[(&task, &questions)], &mut |_| {}).unwrap();
        // The second one ended by itself, so only the first is asked again.
        assert_eq!(model.calls.len(), 3);
        assert!(
            model.calls[2].ends_with("<think>5 S\n</think>\n\n"),
            "{}",
            model.calls[2]
        );
        let first = &answers[0][0];
        assert_eq!(
            (first.output.as_str(), first.correct),
            ("<think>5 S\n</think>\n\n5", true)
        );
        assert_eq!(first.token_count, 11, "the mark that closed it is not the model's");
        assert_eq!(answers[0][1].output, "7");
    }

    /// A base has no chat template as a rule; a search of chat models that asks it too must not end there.
    #[test]
    fn a_model_without_a_chat_template_is_asked_in_plain_text() {
        let dir = tempfile::tempdir().unwrap();
        let options = |profile| TaskOptions {
            chat: Some(Chat::default()),
            profile,
            ..TaskOptions::default()
        };
        let mut model = Script::new();
        model.is_base = true;
        for profile in [Profile::Fitness, Profile::Parity] {
            let task = task(dir.path(), GENERATE, &options(profile));
            let questions = task.questions(Split::Test).unwrap();
            answer(&mut model, &[(&task, &questions[1..])], &mut |_| {}).unwrap();
        }
        assert_eq!(
            model.calls,
            ["Q: b =>7", "[user]Q: b =>7"],
            "lm-eval's way is left to fail"
        );
    }

    #[test]
    fn plain_text_is_scored_from_its_second_token() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(
            dir.path(),
            "type: loglikelihood\ngold: '{{q}}'",
            &TaskOptions::default(),
        );
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Script::new();
        answer(&mut model, &[(&task, &questions[1..])], &mut |_| {}).unwrap();
        assert_eq!(model.calls, ["b| =>7"]);
    }

    #[test]
    fn the_likeliest_choice_by_sum_and_by_length() {
        let dir = tempfile::tempdir().unwrap();
        let rows = "{\"q\": \"1?\", \"options\": [\"zzzzzz\", \"b\"], \"label\": \"A\"}\n\
                    {\"q\": \"2?\", \"options\": [\"b\", \"é\", \"cc\"], \"label\": 1}\n";
        std::fs::write(dir.path().join("choices.jsonl"), rows).unwrap();
        let load = |keys: &str| {
            let yaml = format!("task: t\ndata: {{test: choices.jsonl}}\n{keys}\n");
            let file = TaskFile::parse(&dir.path().join("t.yaml"), &yaml, Some(dir.path().into())).unwrap();
            Task::ready(file, "en".into(), &TaskOptions::default(), &DataDirs::default()).unwrap()
        };
        let keys = "type: multiple_choice\nprompt: 'Q: {{q}}'\nchoices: options\ngold_position: '{{label}}'";
        let task = load(keys);
        let questions = task.questions(Split::Test).unwrap();
        assert_eq!(
            (questions[0].gold.as_str(), &questions[1].right[..]),
            ("zzzzzz", &[1][..])
        );
        let mut model = Script::new();
        let mut done = Vec::new();
        let answers = answer(&mut model, &[(&task, &questions)], &mut |p| {
            done.push((p.done, p.total))
        })
        .unwrap();
        assert_eq!(model.calls[..2], ["Q: 1?| zzzzzz", "Q: 1?| b"]);
        assert_eq!(done, [(2, 2)]);
        // Sums: -2 - 6/2 = -5 against -4; by characters -5/6 against -4.
        let first = &answers[0][0];
        assert_eq!(
            (
                first.filters["acc"].extracted.as_str(),
                first.filters["acc"].exact_match
            ),
            ("b", 0.0)
        );
        assert_eq!(
            (first.output.as_str(), first.correct, first.score),
            ("zzzzzz", true, 1.0)
        );
        assert_eq!((first.log_likelihood, first.token_count), (Some(-5.0), 7));
        // All alike but the last, which is longer: the first of equals is taken, and is wrong.
        let second = &answers[0][1];
        assert_eq!(
            (
                second.filters["acc"].extracted.as_str(),
                second.filters["acc_norm"].extracted.as_str()
            ),
            ("b", "cc")
        );
        let score = crate::TaskScore::of(&task, &answers[0]);
        assert_eq!(
            (score.primary.as_str(), score.fitness().value, score.scores["acc"].value),
            ("acc_norm", 0.5, 0.0)
        );
        // -5 of 7 tokens and -4 of 2.
        assert_eq!(score.scores["log_likelihood"].value, -1.0);
        assert_eq!(score.scores["perplexity"].value, 1f64.exp());
        assert_eq!(load(&format!("{keys}\nprimary: acc")).primary(), "acc");
    }

    #[test]
    fn the_least_perplexing_word_in_the_blank() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(
            dir.path(),
            "type: blank\nprompt: 'x {{choice}} y'\nchoices: ['zz', '{{a}}', 'zzzz']\ngold: zzzz",
            &TaskOptions::default(),
        );
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Script::new();
        let answers = answer(&mut model, &[(&task, &questions[..1])], &mut |_| {}).unwrap();
        // The whole text counts, but for its first token, which has nothing before it.
        assert_eq!(model.calls, ["x| zz y", "x| 5 y", "x| zzzz y"]);
        let answer = &answers[0][0];
        assert_eq!((answer.output.as_str(), answer.correct), ("zzzz", true));
        assert_eq!((answer.log_likelihood, answer.token_count), (Some(-8.0), 7));
        assert_eq!(task.primary(), "blank_ppl");
    }

    #[test]
    fn perplexity_of_a_text_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("book.txt"), "zzzz zzzz\nab\nzzz\n").unwrap();
        let yaml = "task: book\ntype: perplexity\ndata: {test: {file: book.txt, format: passages, passage: 10}}";
        let file = TaskFile::parse(&dir.path().join("t.yaml"), yaml, Some(dir.path().into())).unwrap();
        let task = Task::ready(file, "en".into(), &TaskOptions::default(), &DataDirs::default()).unwrap();
        let questions = task.questions(Split::Test).unwrap();
        let mut model = Script::new();
        let answers = answer(&mut model, &[(&task, &questions)], &mut |_| {}).unwrap();
        assert_eq!(model.calls, ["z|zzz zzzz\n", "a|b\nzzz\n"]);
        let score = crate::TaskScore::of(&task, &answers[0]);
        // 7 × ½ + 2 × 2 and 3 × ½ + 3 × 2, over 9 + 6 tokens.
        assert_eq!((score.n, score.fitness().value), (2, -1.0));
        assert_eq!(score.scores["perplexity"].value, 1f64.exp());
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(
            answer(&mut Script::new(), &[], &mut |_| {}).unwrap(),
            Vec::<Vec<Answer>>::new()
        );
    }
}
