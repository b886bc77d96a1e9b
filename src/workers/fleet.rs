//! The evaluator whose hands are elsewhere: to a search it is a crew like any other.
//!
//! What the cache knows is never asked; what comes back goes into the cache first, question by question, then into the sitting
//! that waits for it. Whatever a worker or a server does, nobody is judged for it: only a worker that says of a candidate what
//! every worker would say (it cannot be merged, it has collapsed) fails it.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::Duration,
};

use async_nats::{Subscriber, jetstream};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::mpsc, sync::oneshot};

use super::{
    desk::{Command, Desk, In, Now, Purpose, Word, read_answers},
    error::Error,
    leases::{Job, WORKERS_A_SPARE},
    link::{self, Options, connect},
    plan::Library,
    protocol::{Kind, RunId, Subjects, Told},
};
use crate::{
    event,
    search::{
        Computation, Control, Crew, Evaluation, Evaluator, Lesson, MergeEvaluator, News, Open, Sitting, Unscored,
    },
};

/// How long the search waits before it looks whether it is to stop, or has more hands.
const LOOK: Duration = Duration::from_millis(100);

/// How long what lies on a server is waited for.
const CATCH_UP: Duration = Duration::from_secs(60);

/// How long the end of a run may take on the network.
const END: Duration = Duration::from_secs(5);

/// Times that the queue is tried to be opened, a second or more apart.
const OPENINGS: usize = 12;

/// Sittings that are out beyond the workers' number, so that none waits for the search.
const AHEAD: usize = 2;

/// A server that has answered, before there is a run.
pub struct Post {
    runtime: Runtime,
    context: jetstream::Context,
    words: Arc<Mutex<Option<mpsc::UnboundedSender<In>>>>,
}

/// What a run is called on a server, and the token that its answers bring back: in its directory, so that a resumed run
/// finds what its workers have answered meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub run: RunId,
    pub token: String,
}

impl Identity {
    /// Reads it, or makes a new one. The file is its owner's alone.
    ///
    /// # Errors
    /// The file cannot be written, or is none.
    pub fn of(file: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io {
            path: file.into(),
            source,
        };
        match fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| Error::Identity {
                file: file.into(),
                reason: e.to_string(),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let new = Self {
                    run: RunId::of(rand::random()),
                    token: format!("{:032x}", rand::random::<u128>()),
                };
                let mut options = fs::OpenOptions::new();
                let mut file = options
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(file)
                    .map_err(io)?;
                let text = serde_json::to_string(&new).expect("an identity is plain data") + "\n";
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(io)?;
                Ok(new)
            }
            Err(e) => Err(io(e)),
        }
    }
}

impl Post {
    /// Connects, and sees whether the server will do.
    ///
    /// # Errors
    /// Nobody answers, or the server is too old.
    pub fn connect(options: &Options) -> Result<Self, Error> {
        let runtime = link::threads(2)?;
        let words: Arc<Mutex<Option<mpsc::UnboundedSender<In>>>> = Arc::default();
        let listener = words.clone();
        let client = runtime.block_on(connect(options, "heterosis search", move |word| {
            let listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(desk) = &*listener {
                let _ = desk.send(In::Link(word));
            }
        }))?;
        // What it starts in the background belongs to this runtime.
        let inside = runtime.enter();
        let mut context = jetstream::new(client);
        context.set_timeout(Duration::from_secs(5));
        drop(inside);
        Ok(Self {
            runtime,
            context,
            words,
        })
    }

    /// Opens the queue of a run; whatever lay in it is thrown away, since the journal knows better, and what workers have
    /// answered is taken.
    ///
    /// # Errors
    /// The server has no JetStream, or refuses.
    pub fn open<'a>(self, asked: Opening<'a>) -> Result<Fleet<'a>, Error> {
        let (to_me, words) = channel();
        let (to_desk, incoming) = mpsc::unbounded_channel();
        let [hands, idle] = [0, 0].map(|n| Arc::new(AtomicUsize::new(n)));
        let Identity { run, token } = asked.identity;
        let plan = &asked.library.plan;
        let (own, mixed) = (plan.kind.clone(), plan.mixed);
        let purpose = Purpose {
            run: run.clone(),
            token,
            library: asked.library,
            now: asked.now,
            words: to_me,
            hands: hands.clone(),
            idle: idle.clone(),
            epoch: rand::random(),
        };
        let context = self.context.clone();
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = Some(to_desk.clone());
        self.runtime.block_on(async {
            let (signs, wanted) = queue(&context, &run).await?;
            tokio::spawn(read_answers(context.clone(), run.clone(), to_desk.clone()));
            tokio::spawn(Desk::new(purpose, context.clone(), to_desk.clone()).run(incoming, signs, wanted));
            Ok::<_, Error>(())
        })?;
        let mut fleet = Fleet {
            local: asked.evaluator,
            runtime: Some(self.runtime),
            desk: to_desk,
            words,
            hands,
            idle,
            own,
            mixed,
            kinds: asked.kinds,
            out: HashMap::new(),
            ready: VecDeque::new(),
            next_job: 0,
            told: 0,
            control: asked.control,
            is_asynchronous: asked.is_asynchronous,
        };
        fleet.catch_up();
        Ok(fleet)
    }
}

/// An empty queue, and who listens to signs of life and to wishes for documents. A server that goes away just then is waited for
/// as one that goes away later.
async fn queue(context: &jetstream::Context, run: &RunId) -> Result<(Subscriber, Subscriber), Error> {
    for _ in 1..OPENINGS {
        match empty_queue(context, run).await {
            Err(e @ Error::Refused { .. }) => tracing::info!("{e}; once more"),
            opened => return opened,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    empty_queue(context, run).await
}

async fn empty_queue(context: &jetstream::Context, run: &RunId) -> Result<(Subscriber, Subscriber), Error> {
    let refused = |reason: String| Error::Refused {
        server: run.name().into(),
        what: "the run's queue",
        reason,
    };
    link::streams(context, run).await?;
    let stream = context.get_stream(run.ask_stream()).await;
    let stream = stream.map_err(|e| refused(e.to_string()))?;
    stream.purge().await.map_err(|e| refused(e.to_string()))?;
    let (client, subjects) = (context.client(), Subjects::of(run));
    let signs = client.subscribe(subjects.sign()).await;
    let wanted = client.subscribe(subjects.documents()).await;
    Ok((
        signs.map_err(|e| refused(e.to_string()))?,
        wanted.map_err(|e| refused(e.to_string()))?,
    ))
}

/// What a fleet is opened with.
pub struct Opening<'a> {
    pub identity: Identity,
    pub library: Library,
    /// Holds the questions and the cache; it learns, too.
    pub evaluator: MergeEvaluator<'a>,
    /// Other kinds of machines that have answered in this run.
    pub kinds: Vec<Computation>,
    pub control: Control,
    /// As many candidates are out as there are workers, and no more.
    pub is_asynchronous: bool,
    pub now: Now,
}

/// Workers elsewhere, as an evaluator.
pub struct Fleet<'a> {
    local: MergeEvaluator<'a>,
    /// Until the end.
    runtime: Option<Runtime>,
    desk: mpsc::UnboundedSender<In>,
    words: Receiver<Word>,
    hands: Arc<AtomicUsize>,
    idle: Arc<AtomicUsize>,
    own: Kind,
    mixed: bool,
    kinds: Vec<Computation>,
    out: HashMap<u64, (String, Open)>,
    ready: VecDeque<(String, Result<Evaluation, Unscored>)>,
    next_job: u64,
    /// Answers and the like that the search has been told of.
    told: u64,
    control: Control,
    is_asynchronous: bool,
}

impl Fleet<'_> {
    fn command(&self, command: Command) {
        // A desk that has died is found out when its word is waited for.
        let _ = self.desk.send(In::Command(command));
    }

    /// Takes what workers have answered while nobody coordinated.
    fn catch_up(&mut self) {
        while let Ok(word) = self.words.recv_timeout(CATCH_UP) {
            match word {
                Word::CaughtUp => return,
                word => {
                    let _ = self.hear(word);
                }
            }
        }
    }

    /// What a word means for the search.
    fn hear(&mut self, word: Word) -> News {
        self.told += u64::from(word.is_an_end());
        match word {
            Word::Answers {
                job,
                is_last,
                weights,
                kind,
                answers,
                merge_ms,
                evaluation_ms,
            } => {
                let job = job.and_then(|job| Some((job, self.out.remove(&job)?)));
                let Some((number, (id, mut open))) = job else {
                    if kind == self.own {
                        self.keep(&weights, &answers);
                    }
                    return News::Nothing;
                };
                let taken = self.take(&mut open, &weights, &kind, &answers);
                open.spent(merge_ms, evaluation_ms);
                if let Err(failure) = taken {
                    self.command(Command::Cancel(number));
                    return News::Done(id, Err(failure));
                }
                match (is_last, open.lacks()) {
                    (true, 0) => News::Done(id, Ok(open.evaluation())),
                    (true, n) => {
                        let reason = format!("{n} of its answers came from nowhere");
                        News::Done(id, Err(Unscored::machine(reason)))
                    }
                    (false, _) => {
                        self.out.insert(number, (id, open));
                        News::Nothing
                    }
                }
            }
            Word::Candidate { job, reason } => self.over(job, Unscored::candidate(reason)),
            Word::Machine { job, reason } => self.over(job, Unscored::machine(reason)),
            Word::Told(event) => News::Told(event),
            Word::Shown(event) => News::Shown(event),
            Word::CaughtUp => News::Nothing,
        }
    }

    fn over(&mut self, job: u64, failure: Unscored) -> News {
        match self.out.remove(&job) {
            Some((id, _)) => News::Done(id, Err(failure)),
            None => News::Nothing,
        }
    }

    fn keep(&self, weights: &str, answers: &[Told]) {
        for told in answers {
            self.local.keep(weights, told.task, &told.split, told.item, &told.kept);
        }
    }

    fn take(&mut self, open: &mut Open, weights: &str, kind: &Kind, answers: &[Told]) -> Result<(), Unscored> {
        match kind.computation().filter(|_| *kind != self.own) {
            None => self.keep(weights, answers),
            Some(computation) => {
                let theirs = self.local.weights_by(&computation, &open.work.recipe);
                self.keep(&theirs, answers);
                open.computed_by(theirs, kind.words());
                if !self.kinds.contains(&computation) {
                    self.kinds.push(computation);
                }
            }
        }
        for told in answers {
            self.local.answer(open, told.task, &told.split, told.item, &told.kept)?;
        }
        Ok(())
    }

    /// The run ends here: workers are told, and if it is done nothing of it stays on the server.
    pub fn end(mut self, is_done: bool) {
        let (ended, told) = oneshot::channel();
        self.command(Command::End { is_done, ended });
        if let Some(runtime) = self.runtime.take() {
            let _ = runtime.block_on(async { tokio::time::timeout(END, told).await });
            runtime.shutdown_timeout(Duration::from_millis(200));
        }
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Evaluator for Fleet<'_> {
    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, Unscored> {
        self.alone(sitting)
    }

    fn learns(&self) -> bool {
        self.local.learns()
    }

    fn learn(
        &mut self,
        lesson: &Lesson<'_>,
        see: &mut dyn FnMut(event::Learning) -> bool,
    ) -> Result<event::Learned, Unscored> {
        self.local.learn(lesson, see)
    }

    fn crew(&mut self) -> Option<&mut dyn Crew> {
        Some(self)
    }
}

impl Crew for Fleet<'_> {
    fn size(&self) -> usize {
        let hands = self.hands.load(Ordering::Relaxed).max(1);
        match self.is_asynchronous {
            // One more for so many lies ready, so that whoever is done need not wait until the next is thought of.
            true => hands + hands / WORKERS_A_SPARE,
            false => AHEAD * (hands + 1),
        }
    }

    fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    fn give_up(&mut self, id: &str) -> bool {
        let of_it: Vec<u64> = self.out.extract_if(|_, (of, _)| of == id).map(|(job, _)| job).collect();
        of_it.into_iter().for_each(|job| self.command(Command::Cancel(job)));
        self.ready.retain(|(of, _)| of != id);
        true
    }

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let id = sitting.id.to_string();
        // Until the desk has counted anew.
        let _ = self
            .idle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |idle| idle.checked_sub(1));
        let others = if self.mixed { self.kinds.as_slice() } else { &[] };
        match self.local.open(sitting, others) {
            Err(failure) => self.ready.push_back((id, Err(failure))),
            Ok(open) if open.is_whole() => self.ready.push_back((id, Ok(open.evaluation()))),
            Ok(open) => {
                let number = self.next_job;
                self.next_job += 1;
                self.command(Command::Add(Job {
                    number,
                    id: id.clone(),
                    weights: open.weights.clone(),
                    work: open.work.clone(),
                }));
                self.out.insert(number, (id, open));
            }
        }
    }

    fn next(&mut self) -> News {
        if let Some((id, evaluation)) = self.ready.pop_front() {
            return News::Done(id, evaluation);
        }
        if self.control.stop.load(Ordering::Relaxed) {
            self.command(Command::GiveUpUntaken);
        }
        // What has come already may be what the desk waits for; of all else it hears when there is nothing more.
        if let Ok(word) = self.words.try_recv() {
            return self.hear(word);
        }
        self.command(Command::Go { told: self.told });
        match self.words.recv_timeout(LOOK) {
            Ok(word) => self.hear(word),
            Err(RecvTimeoutError::Timeout) => News::Nothing,
            Err(RecvTimeoutError::Disconnected) => match self.out.keys().next().copied() {
                Some(job) => self.over(job, Unscored::machine("the way to the workers has broken down")),
                None => News::Nothing,
            },
        }
    }
}
