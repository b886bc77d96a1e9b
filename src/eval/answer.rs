//! The runner: all questions of all tasks through one engine, in one queue.
//!
//! Prompts are rendered, put through the chat template where asked, tokenised and cut as lm-eval does; then the engine
//! answers everything together, so that a long tail of one task is filled with the questions of another.

use std::sync::Arc;

use super::{Answer, Chat, Error, Kind, Message, Profile, Prompt, Question, Task};
use crate::model::{self, Engine, Finish, Generation, Progress, Request, Score, ScoreRequest, Tokenizer};

/// What the runner needs of a model. The other implementation is a double with a script, for tests without weights.
pub trait Answerer {
    /// Tokens of each text. A text that opens with the BOS token's text gets no second one.
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error>;
    /// Tokens as a text: what an output would be that consists of them.
    fn decode(&self, tokens: &[u32]) -> String;
    fn has_chat_template(&self) -> bool;
    fn render_chat(&self, messages: &[Message]) -> Result<String, model::Error>;
    /// The text of the end-of-sequence token, which counts as a stop string.
    fn end_text(&self) -> Option<&str>;
    /// Longest sequence in tokens.
    fn context_length(&self) -> usize;
    fn generate(
        &mut self,
        requests: &[Request],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Generation>, model::Error>;
    fn score(
        &mut self,
        requests: &[ScoreRequest],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Score>, model::Error>;
}

impl Answerer for Engine {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, model::Error> {
        self.tokenizer().encode_prompts(texts)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer().decode(tokens)
    }

    fn has_chat_template(&self) -> bool {
        self.tokenizer().has_chat_template()
    }

    fn render_chat(&self, messages: &[Message]) -> Result<String, model::Error> {
        in_template(self.tokenizer(), messages)
    }

    fn end_text(&self) -> Option<&str> {
        self.tokenizer()
            .special_token("eos_token")
            .filter(|eos| !eos.is_empty())
    }

    fn context_length(&self) -> usize {
        self.decoder().spec().max_positions
    }

    fn generate(
        &mut self,
        requests: &[Request],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Generation>, model::Error> {
        Engine::generate(self, requests, progress)
    }

    fn score(
        &mut self,
        requests: &[ScoreRequest],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Score>, model::Error> {
        Engine::score_with(self, requests, progress)
    }
}

/// Answers the questions of each task; the answers come in the same order.
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
    let mut prompts = Vec::new();
    let mut requests = Vec::new();
    for (task, questions) in work.iter().filter(|(task, _)| task.kind() == Kind::Generate) {
        let texts = render(engine, task, questions)?;
        requests.extend(generation_requests(engine, task, &texts)?);
        prompts.extend(texts);
    }
    let mut latest = Progress::default();
    let generations = engine.generate(&requests, &mut |p| {
        latest = Progress { total, ..p };
        progress(latest);
    })?;

    let mut continuations = Vec::new();
    let mut measured_questions = 0;
    for (task, questions) in work.iter().filter(|(task, _)| task.kind() != Kind::Generate) {
        let texts = render(engine, task, questions)?;
        continuations.extend(score_requests(engine, task, questions, &texts)?);
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

    let mut generated = prompts.into_iter().zip(generations);
    let mut scored = scores.into_iter();
    let mut judge = |task: &Task, question: &Question| match task.kind() {
        Kind::Generate => generated
            .next()
            .map(|(prompt, g)| judged(task, question, prompt, g))
            .transpose(),
        Kind::LogLikelihood => Ok(scored.next().map(|score| measured(question, score))),
        Kind::MultipleChoice | Kind::Blank => {
            let scores: Vec<Score> = scored.by_ref().take(question.choices.len()).collect();
            Ok(Some(Answer {
                question: question.id.clone(),
                ..Answer::chosen(task, question, &scores)
            }))
        }
    };
    // The engine gives one result for each request, so nothing is left out here.
    work.iter()
        .map(|(task, questions)| questions.iter().filter_map(|q| judge(task, q).transpose()).collect())
        .collect()
}

fn judged(task: &Task, question: &Question, prompt: String, generation: Generation) -> Result<Answer, Error> {
    let output = task.cut(&generation.text).to_string();
    Ok(Answer {
        question: question.id.clone(),
        prompt,
        token_count: generation.token_ids.len(),
        finish: match generation.finish {
            Finish::Eos => "eos",
            Finish::Length => "length",
            Finish::Stop => "stop",
            Finish::Loop => "loop",
        }
        .into(),
        ..Answer::judged(task, output, &question.gold)?
    })
}

fn measured(question: &Question, score: Score) -> Answer {
    Answer {
        question: question.id.clone(),
        ..Answer::measured(&question.gold, score.log_likelihood, score.tokens)
    }
}

/// The text that a model with this tokenizer gets when somebody says something to it.
///
/// # Errors
/// Its chat template refuses, or there is none.
pub fn said(tokenizer: &Tokenizer, said: &str, chat: &Chat) -> Result<String, Error> {
    let prompt = Prompt {
        shots: Vec::new(),
        question: said.into(),
        target_delimiter: String::new(),
        fewshot_delimiter: String::new(),
    };
    render_chat(&|messages| in_template(tokenizer, messages), &prompt, chat)
}

/// The text that the model gets for each question.
fn render(engine: &dyn Answerer, task: &Task, questions: &[Question]) -> Result<Vec<String>, Error> {
    let chat = spoken(task, engine.has_chat_template());
    let text = |question: &Question| match chat {
        None => Ok(question.prompt.text()),
        Some(chat) => render_chat(&|messages| engine.render_chat(messages), &question.prompt, chat),
    };
    questions.iter().map(text).collect()
}

/// The text that a model with this tokenizer gets for a question.
///
/// # Errors
/// The chat template fails.
pub fn prompt_text(tokenizer: &Tokenizer, task: &Task, question: &Question) -> Result<String, Error> {
    match spoken(task, tokenizer.has_chat_template()) {
        None => Ok(question.prompt.text()),
        Some(chat) => render_chat(&|messages| in_template(tokenizer, messages), &question.prompt, chat),
    }
}

/// How a task's questions are put to a chat model; `None` for plain text. A search asks a model without a chat template, a
/// base among chat models, in plain text; lm-eval refuses to.
fn spoken(task: &Task, has_chat_template: bool) -> Option<&Chat> {
    task.chat()
        .filter(|_| has_chat_template || task.profile() == Profile::Parity)
}

fn in_template(tokenizer: &Tokenizer, messages: &[Message]) -> Result<String, model::Error> {
    let messages = messages.iter().map(|m| model::Message::new(m.role, m.content.clone()));
    tokenizer.apply_chat_template(&messages.collect::<Vec<_>>(), true)
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
fn generation_requests(engine: &dyn Answerer, task: &Task, texts: &[String]) -> Result<Vec<Request>, Error> {
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
    let stop: Arc<[String]> = match end {
        None => task.stop.clone(),
        Some(end) => task.stop.iter().cloned().chain([end.to_string()]).collect(),
    };
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut cut = 0;
    let requests = engine
        .encode(&texts)?
        .into_iter()
        .map(|mut prompt| {
            let excess = prompt.len().saturating_sub(room);
            cut += usize::from(excess > 0);
            prompt.drain(..excess);
            Request {
                prompt,
                max_new_tokens: task.max_new_tokens,
                stop: stop.clone(),
                stop_when: task.stop_when(),
                loop_guard: task.profile() == Profile::Fitness,
                sampling: None,
            }
        })
        .collect();
    warn_of_cut(task, cut, texts.len(), room);
    Ok(requests)
}

/// Contexts and continuations as one sequence each. White space at the end of the context belongs to the continuation,
/// for the tokenizer joins it to the next word. Without a context the first token is not scored.
fn score_requests(
    engine: &dyn Answerer,
    task: &Task,
    questions: &[Question],
    texts: &[String],
) -> Result<Vec<ScoreRequest>, Error> {
    let mut prompts: Vec<String> = Vec::new();
    let mut whole: Vec<String> = Vec::new();
    let chat = spoken(task, engine.has_chat_template());
    for (text, question) in texts.iter().zip(questions) {
        let delimiter = delimiter(chat, text, question);
        for continuation in continuations(question) {
            prompts.push(text.clone());
            whole.push(format!("{text}{delimiter}{continuation}"));
        }
    }
    sequences(engine, task, &prompts, whole)
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
            Kind::MultipleChoice | Kind::Blank => question.choices.get(question.right).map(|c| c.continuation.as_str()),
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
        whole.map(|((question, text), solution)| format!("{text}{}{solution}", delimiter(chat, text, question)));
    let requests = sequences(engine, task, &texts, whole.collect())?;
    Ok(places.into_iter().zip(requests).collect())
}

/// What stands between a prompt and what follows it.
fn delimiter<'q>(chat: Option<&Chat>, context: &str, question: &'q Question) -> &'q str {
    match (context, chat) {
        ("", _) | (_, Some(_)) => "",
        _ => &question.prompt.target_delimiter,
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

/// What may follow the prompt: each choice, or else the gold text.
fn continuations(question: &Question) -> Vec<&str> {
    match question.choices.as_slice() {
        [] => vec![&question.gold],
        choices => choices.iter().map(|choice| choice.continuation.as_str()).collect(),
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
    use crate::eval::{DataDirs, Split, TaskOptions, task_file::TaskFile};

    /// A model that reads its answer out of the prompt: what follows the last `=>`. One token a character; a `z` has the
    /// log-likelihood -½, anything else -2.
    struct Script {
        context_length: usize,
        rejects_system: bool,
        is_base: bool,
        /// Writes a text without the space that it begins with, as tokenizers of the SentencePiece kind do.
        loses_space: bool,
        calls: Vec<String>,
    }

    impl Script {
        fn new() -> Self {
            Script {
                context_length: 1000,
                rejects_system: false,
                is_base: false,
                loses_space: false,
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

        fn render_chat(&self, messages: &[Message]) -> Result<String, model::Error> {
            if self.rejects_system && messages[0].role == "system" {
                return Err(model::Error::NoChatTemplate { file: "script".into() });
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
        ) -> Result<Vec<Generation>, model::Error> {
            let mut answers = Vec::new();
            for (done, request) in requests.iter().enumerate() {
                let prompt = text(&request.prompt);
                let output = prompt.rsplit("=>").next().unwrap_or("").to_string();
                self.calls.push(prompt);
                assert!(request.stop.contains(&"<end>".to_string()));
                answers.push(Generation {
                    token_ids: output.chars().map(u32::from).collect(),
                    text: output,
                    finish: Finish::Eos,
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
        ) -> Result<Vec<Score>, model::Error> {
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
                one_message: false,
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
        assert_eq!((questions[0].gold.as_str(), questions[1].right), ("zzzzzz", 1));
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
        let score = crate::eval::TaskScore::of(&task, &answers[0]);
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
        let score = crate::eval::TaskScore::of(&task, &answers[0]);
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
