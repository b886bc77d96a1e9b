//! Bring your own evaluator: a program that scores candidates, one JSON line in, one out; `docs/evaluators.md` is its page.
//!
//! It is started once (or as often as there are `workers`) and asked for one candidate at a time; `program.rs` is one copy
//! of it. A copy that scores one candidate and exits is started again. One that dies or speaks nonsense is started again
//! and asked a second time, since its bad moment may be the machine's; one that hangs is not, before `failures.rs` has seen
//! that others are scored. A thread merges for each copy and waits for its answer, so that a worker that is slow or hangs
//! holds nobody up but itself.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    time::Duration,
};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Crew, Evaluation, Evaluator, Exam, ExamTask, News, Sitting, Subject, Unscored,
    early::Early,
    genome::named,
    program::{Broke, Program, Reply, ReplyAnswer},
};
use crate::{
    event::{self, Answer},
    models::verbatim,
    programs::{self, Log},
    recipe::Recipe,
    space,
};

/// Writes the merged model of a recipe into a directory that does not exist yet.
pub type Materialize = Arc<dyn Fn(&Recipe, &Path) -> Result<(), Unscored> + Send + Sync>;

/// Merges a recipe, and has it answer under the name of its candidate.
pub type Serve = Arc<dyn Fn(&Recipe, &str) -> Result<Served, Unscored> + Send + Sync>;

/// What a command gets to see of a candidate's model; each worker's thread makes its own.
#[derive(Clone)]
pub enum Delivery {
    /// Nothing: the recipe or the genes are enough.
    Nothing,
    /// A directory below this one (absolute).
    Directory(PathBuf, Materialize),
    Endpoint(Serve),
}

/// A model that answers.
pub struct Served {
    pub endpoint: Endpoint,
    /// It answers as long as this lives.
    pub standing: Box<dyn Send>,
}

/// Where a model answers, in the words of OpenAI's clients.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    pub base_url: String,
    pub api_key: String,
    pub model: String,
}

/// Times that a candidate is asked for before a program that dies over it is believed to do so because of it.
const TRIES: usize = 2;

/// Before the second try.
const REST: Duration = Duration::from_secs(2);

/// Asks a command for scores.
pub struct External {
    settings: space::Command,
    /// What programs write to stderr goes here.
    log: PathBuf,
    delivery: Delivery,
    /// Short names and MODEL words: a program knows nothing of short names.
    words: BTreeMap<String, String>,
    /// By candidate: in a race some questions have been answered already.
    answered: HashMap<String, HashMap<Asked, Answer>>,
    /// What several workers bring before its turn.
    early: Early,
    workers: Vec<Worker>,
    to_me: Sender<Word>,
    words_back: Receiver<Word>,
    /// Those at work need not go on.
    closing: Arc<AtomicBool>,
    rest: Duration,
}

/// The place of one copy of the program.
#[derive(Default)]
struct Worker {
    /// `None` until it is needed, while it is asked, and after it has broken off.
    program: Option<Program>,
    job: Option<Job>,
}

/// What a worker is at.
struct Job {
    order: Arc<Order>,
    tries: usize,
    exam: Exam,
}

/// What a command is to score.
struct Order {
    id: String,
    /// By short names, as the merge knows them.
    recipe: Option<Recipe>,
    delivery: Delivery,
    /// By MODEL words, as the command knows them.
    told: Option<Recipe>,
    genotype: Value,
    split: String,
    questions: Option<Vec<Asked>>,
    /// Made by the first thread that is sent with it.
    made: Mutex<Option<Made>>,
}

/// The line that asks for a candidate, and the merged model that answers as long as this lives.
struct Made {
    request: String,
    _standing: Option<Box<dyn Send>>,
}

/// A worker's answer; its program comes back with it unless it broke off, or was not needed.
struct Word {
    worker: usize,
    answer: Result<(Reply, Option<Program>), Refusal>,
}

/// Why there is no answer.
enum Refusal {
    Broke(Broke),
    /// It was not even asked.
    Unasked(Unscored),
}

#[derive(Serialize)]
struct Request<'a> {
    id: &'a str,
    recipe: Option<&'a Recipe>,
    /// Absolute.
    model_dir: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a Endpoint>,
    genotype: &'a Value,
    /// `search`, or `selection` when finalists are asked again: the place for questions that the search has not seen.
    split: &'a str,
    /// What is to be answered one by one; only of a command that has named its questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    questions: Option<&'a [Asked]>,
}

/// One question before its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
struct Asked {
    task: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    lang: String,
    #[serde(skip)]
    split: String,
    id: String,
}

impl External {
    pub fn new(settings: space::Command, words: &[(String, String)], log: &Path, delivery: Delivery) -> Self {
        let (to_me, words_back) = mpsc::channel();
        Self {
            workers: (0..settings.workers).map(|_| Worker::default()).collect(),
            settings,
            log: log.to_path_buf(),
            delivery,
            words: words.iter().cloned().collect(),
            answered: HashMap::new(),
            early: Early::open(&log.with_file_name("early.jsonl")),
            to_me,
            words_back,
            closing: Arc::default(),
            rest: REST,
        }
    }

    /// Takes answers of the journal, which nobody is asked for again.
    pub fn remember(&mut self, answers: &event::Answers) {
        let known = self.answered.entry(answers.id.clone()).or_default();
        known.extend(answers.answers.iter().map(|answer| {
            let asked = Asked {
                task: answers.task.clone(),
                lang: answers.lang.clone(),
                split: answers.split.clone(),
                id: answer.q.clone(),
            };
            (asked, answer.clone())
        }));
    }

    #[cfg(test)]
    pub fn without_rest(mut self) -> Self {
        self.rest = Duration::ZERO;
        self
    }

    fn order(&self, sitting: &Sitting<'_>) -> Order {
        let recipe = match sitting.subject {
            Subject::Recipe(recipe) => Some(recipe.clone()),
            Subject::Model(name) => Some(verbatim(name)),
            Subject::Genes => None,
        };
        let word = |name: &str| self.words.get(name).cloned().unwrap_or_else(|| name.to_string());
        Order {
            id: sitting.id.into(),
            told: recipe.as_ref().map(|recipe| recipe.with_models(word)),
            recipe,
            delivery: self.delivery.clone(),
            genotype: named(sitting.genes, sitting.genotype),
            split: sitting.exam.split.clone(),
            questions: (!sitting.exam.tasks.is_empty()).then(|| self.open(sitting)),
            made: Mutex::default(),
        }
    }

    /// The questions of an exam that a candidate has not answered yet.
    fn open(&self, sitting: &Sitting<'_>) -> Vec<Asked> {
        let known = self.answered.get(sitting.id);
        let is_open = |asked: &Asked| known.is_none_or(|known| !known.contains_key(asked));
        questions(sitting.exam).flatten().filter(is_open).collect()
    }

    /// What a reply says of a candidate.
    fn judge(&mut self, id: &str, exam: &Exam, reply: Reply) -> Result<Evaluation, Unscored> {
        if let Some(error) = reply.error {
            return Err(Unscored::candidate(format_args!("the command says: {error}")));
        }
        if exam.tasks.is_empty() {
            return named_scores(reply.scores);
        }
        let known = self.answered.entry(id.into()).or_default();
        let only = (exam.tasks.len() == 1).then(|| exam.tasks[0].task.clone());
        for answer in reply.answers.unwrap_or_default() {
            let (task, lang) = (answer.task.clone().or_else(|| only.clone()), answer.lang.clone());
            let of = |t: &&ExamTask| {
                task.as_ref().is_some_and(|task| *task == t.task) && (lang.is_empty() || lang == t.lang)
            };
            // Of a task that it was not asked about there is nothing to keep.
            let Some(task) = exam.tasks.iter().find(of) else {
                continue;
            };
            let (asked, answer) = plain(task, answer)?;
            known.insert(asked, answer);
        }
        let of_task = |of_task: Vec<Asked>| {
            let answer = |asked: Asked| match known.get(&asked) {
                Some(answer) => Ok(answer.clone()),
                None => Err(Unscored::candidate(format_args!(
                    "the command's reply has no answer to question '{}' of '{}'",
                    asked.id, asked.task
                ))),
            };
            let answers = of_task.into_iter().map(answer).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Unscored>((id.to_string(), answers))
        };
        Ok(Evaluation {
            answers: questions(exam)
                .map(|task| task.collect())
                .map(of_task)
                .collect::<Result<_, Unscored>>()?,
            ..Evaluation::default()
        })
    }

    /// Sends a worker about its job, after a rest, and leaves a thread to wait for the answer.
    fn send(&mut self, worker: usize, rest: Duration) {
        let Worker { program, job } = &mut self.workers[worker];
        let Some(job) = job else { return };
        let (program, order) = (program.take(), job.order.clone());
        let (to_me, closing) = (self.to_me.clone(), self.closing.clone());
        let (command, file) = (self.settings.command.clone(), self.log.clone());
        let timeout = Duration::from_secs_f64(self.settings.timeout);
        std::thread::spawn(move || {
            std::thread::sleep(rest);
            let start = || {
                let no_log = |e| Broke::CannotStart(format!("{} cannot be written: {e}", file.display()));
                Program::start(&command, worker, Log::open(&file).map_err(no_log)?)
            };
            let request = match closing.load(Ordering::Relaxed) {
                true => Err(Refusal::Broke(Broke::Closing)),
                false => order.request().map_err(Refusal::Unasked),
            };
            let answer = request.and_then(|request| {
                let answer = program.map_or_else(start, Ok).and_then(|mut program| {
                    let reply = program.ask(request, &order.id, timeout, &closing)?;
                    Ok((reply, Some(program)))
                });
                answer.map_err(Refusal::Broke)
            });
            // Its model goes with the job, which ends when this is heard.
            drop(order);
            // Nobody listens any more when the search is over.
            let _ = to_me.send(Word { worker, answer });
        });
    }

    /// Waits for whoever is done first.
    fn finished(&mut self) -> (String, Result<Evaluation, Unscored>) {
        loop {
            let word = self.words_back.recv().expect("this end is open as long as the other");
            let worker = word.worker;
            if let Some(result) = self.result(word) {
                let job = self.workers[worker].job.take().expect("an answer follows a question");
                job.order.clear_up();
                return (job.order.id.clone(), result);
            }
        }
    }
    /// What a worker brought back; `None` if it was sent again.
    fn result(&mut self, Word { worker, answer }: Word) -> Option<Result<Evaluation, Unscored>> {
        let log = self.log.display();
        let job = self.workers[worker].job.as_mut()?;
        let broke = match answer {
            Ok((reply, program)) => {
                let (order, exam) = (job.order.clone(), job.exam.clone());
                // A reply that an earlier process was given stands in the file already.
                let is_new = program.is_some();
                if is_new {
                    self.workers[worker].program = program;
                }
                let others_are_out = self.workers.iter().filter(|worker| worker.job.is_some()).count() > 1;
                let kept = (is_new && others_are_out).then(|| reply.clone());
                let judged = self.judge(&order.id, &exam, reply);
                // A failure may be the program's, which somebody repairs.
                if let (Some(reply), Ok(_)) = (kept, &judged) {
                    self.early.keep(order.asked(), &order.split, reply);
                }
                return Some(judged);
            }
            Err(Refusal::Unasked(failure)) => return Some(Err(failure)),
            Err(Refusal::Broke(broke)) => broke,
        };
        let again = match broke {
            // It had done all it was asked before, and is gone as it should be.
            Broke::Left => Duration::ZERO,
            Broke::CannotStart(_) | Broke::Down(_) if job.tries < TRIES => {
                job.tries += 1;
                self.rest
            }
            Broke::CannotStart(reason) => return Some(Err(Unscored::machine(reason))),
            Broke::Down(reason) | Broke::Hung(reason) => {
                return Some(Err(Unscored::breakdown(format_args!(
                    "{reason}; its messages are in {log}"
                ))));
            }
            Broke::Closing => return Some(Err(Unscored::machine("the search is over"))),
        };
        self.send(worker, again);
        None
    }
}

impl Order {
    /// The line that asks for the candidate, with its model made where the command wants one; made once. Whoever waits for the
    /// answer hears of a panic too.
    fn request(&self) -> Result<String, Unscored> {
        let made = catch_unwind(AssertUnwindSafe(|| self.made_request()));
        made.unwrap_or_else(|_| Err(Unscored::machine("the merge panicked; please report this")))
    }

    /// Without a model.
    fn bare_request(&self) -> Request<'_> {
        Request {
            id: &self.id,
            recipe: self.told.as_ref(),
            model_dir: None,
            endpoint: None,
            genotype: &self.genotype,
            split: &self.split,
            questions: self.questions.as_deref(),
        }
    }

    /// What is asked, in whatever process.
    fn asked(&self) -> String {
        Early::digest(&self.bare_request())
    }

    fn made_request(&self) -> Result<String, Unscored> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(made.request.clone());
        }
        let (mut model_dir, mut served) = (None, None);
        match (&self.recipe, &self.delivery) {
            (Some(recipe), Delivery::Directory(parent, write)) => {
                let dir = parent.join(&self.id);
                write(recipe, &dir)?;
                model_dir = Some(dir);
            }
            (Some(recipe), Delivery::Endpoint(serve)) => served = Some(serve(recipe, &self.id)?),
            (None, _) | (_, Delivery::Nothing) => {}
        }
        let request = Request {
            model_dir: model_dir.as_deref(),
            endpoint: served.as_ref().map(|served| &served.endpoint),
            ..self.bare_request()
        };
        let request = serde_json::to_string(&request).expect("a request is plain data") + "\n";
        *made = Some(Made {
            request: request.clone(),
            _standing: served.map(|served| served.standing),
        });
        Ok(request)
    }

    /// Removes the merged model, or what there is of it: the next candidate needs the room.
    fn clear_up(&self) {
        if let (Some(_), Delivery::Directory(parent, _)) = (&self.recipe, &self.delivery) {
            let _ = std::fs::remove_dir_all(parent.join(&self.id)); // it may not be there
        }
    }
}

/// The questions of an exam, task by task.
fn questions(exam: &Exam) -> impl Iterator<Item = impl Iterator<Item = Asked>> {
    exam.tasks.iter().map(|task| {
        task.items
            .iter()
            .map(move |item| asked(task, &task.catalogue.ids[*item]))
    })
}

fn asked(task: &ExamTask, id: &str) -> Asked {
    Asked {
        task: task.task.clone(),
        lang: task.lang.clone(),
        split: task.split.clone(),
        id: id.into(),
    }
}

/// A reply's answer as the journal keeps it.
fn plain(task: &ExamTask, answer: ReplyAnswer) -> Result<(Asked, Answer), Unscored> {
    let score = match (answer.score, answer.correct) {
        (Some(score), None) if is_score(score) => score,
        (None, Some(correct)) => f64::from(u8::from(correct)),
        _ => {
            return Err(Unscored::candidate(format_args!(
                "the command's answer to question '{}' needs either 'score', a number within ±1e100, or 'correct'",
                answer.id
            )));
        }
    };
    let question = asked(task, &answer.id);
    let answer = Answer {
        q: answer.id,
        out: answer.output,
        got: String::new(),
        gold: String::new(),
        score,
        finish: String::new(),
        language_ok: true,
        tokens: 1,
    };
    Ok((question, answer))
}

/// Sums and squares of scores have to be numbers too, or nobody could read the journal.
fn is_score(score: f64) -> bool {
    score.abs() <= 1e100
}

fn named_scores(scores: Option<Map<String, Value>>) -> Result<Evaluation, Unscored> {
    let scores = match scores {
        Some(scores) if scores.is_empty() => return Err(Unscored::candidate("the command gave no score")),
        Some(scores) => scores,
        None => {
            let reason = "the command's answer has neither 'scores' nor 'error'";
            return Err(Unscored::candidate(reason));
        }
    };
    let number = |(name, score): (String, Value)| match score.as_f64().filter(|score| is_score(*score)) {
        Some(score) => Ok((name, score)),
        None => Err(Unscored::candidate(format_args!(
            "the command's score '{name}' is {score}, and no number within ±1e100; of what cannot be scored give an 'error'"
        ))),
    };
    let mut scores = scores.into_iter().map(number).collect::<Result<Vec<_>, _>>()?;
    scores.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Evaluation {
        scores,
        ..Evaluation::default()
    })
}

impl Evaluator for External {
    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, Unscored> {
        self.begin(sitting);
        self.finished().1
    }

    fn forget(&mut self, id: &str) {
        self.answered.remove(id);
    }

    fn told(&mut self, id: &str, split: &str) {
        self.early.told(id, split);
    }

    fn crew(&mut self) -> Option<&mut dyn Crew> {
        (self.workers.len() > 1).then_some(self as &mut dyn Crew)
    }
}

impl Crew for External {
    fn size(&self) -> usize {
        self.workers.len()
    }

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let free = self.workers.iter().position(|worker| worker.job.is_none());
        let worker = free.expect("at most as many candidates are out as there are workers");
        let order = Arc::new(self.order(sitting));
        let known = self.early.take(|| order.asked());
        self.workers[worker].job = Some(Job {
            order,
            tries: 1,
            exam: sitting.exam.clone(),
        });
        match known {
            Some(reply) => {
                let answer = Ok((reply, None));
                let _ = self.to_me.send(Word { worker, answer });
            }
            None => self.send(worker, Duration::ZERO),
        }
    }

    fn next(&mut self) -> News {
        let (id, evaluation) = self.finished();
        News::Done(id, evaluation)
    }
}

impl Drop for External {
    /// Closing its stdin tells a well-behaved program to end; the other kind, and one that is still at work, is ended.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        let out = self.workers.iter().filter(|worker| worker.job.is_some()).count();
        let mut idle: Vec<Program> = self.workers.iter_mut().filter_map(|w| w.program.take()).collect();
        programs::leave(idle.iter_mut().map(Program::process).collect());
        // Their programs are ended by the threads that wait for them.
        for _ in 0..out {
            let _ = self.words_back.recv_timeout(REST);
        }
    }
}
