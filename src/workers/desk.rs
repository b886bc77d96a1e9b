//! The coordinator's side of the network: hands out what the leases say, takes what comes back, and serves the documents.
//!
//! Everything that comes from outside is read by `protocol.rs` and compared with what the run is; what does not fit is counted
//! and changes nothing. The queue is never asked what is true: units are issued, withdrawn and believed by [`Leases`], and a
//! server that has lost its store is given all of it again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::Sender,
    },
    time::Duration,
};

use async_nats::{
    Client, Message as NatsMessage, Subscriber,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        message::PublishMessage,
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;

use super::{
    error::{Error, Refusal},
    leases::{Act, Job, Leases, Spent, Taken},
    link::{self, whole},
    plan::Library,
    protocol::{
        Ask, Came, Here, Kind, RunId, Sign, SignState, Subjects, Tell, Told, VERSION, Wanted, read, shortened, written,
    },
};
use crate::event::{Event, Level, Worker, WorkerState};

/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How often the coordinator says that it is there.
const HERE_EVERY: Duration = Duration::from_millis(500);

/// How often a worker that goes on as before is written down: after each tenth of its time here, within these bounds.
const TOLD_AT_MOST: Duration = Duration::from_secs(2);
const TOLD_AT_LEAST: Duration = Duration::from_secs(120);
/// All workers together are written down so often, whatever their number.
const TOLD_BY_ALL: Duration = Duration::from_millis(100);

/// Answers stay on the server for so long after they were taken: a coordinator that dies meanwhile finds them again.
const KEPT_FOR: Duration = Duration::from_secs(600);
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// Messages of one pull, and how long it waits.
const PULL: usize = 256;
const PULL_FOR: Duration = Duration::from_secs(2);

/// A clock that never goes back.
pub type Now = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What the search wants.
pub enum Command {
    Add(Job),
    /// All that is to be had at the moment has been added, by a search that has been told of so many answers.
    Go {
        told: u64,
    },
    Cancel(u64),
    /// Give up what nobody is at: the search is asked to stop.
    GiveUpUntaken,
    End {
        is_done: bool,
        ended: oneshot::Sender<()>,
    },
}

/// What the search is told.
pub enum Word {
    Answers {
        /// `None`: nobody waits for them any more, or this process never asked.
        job: Option<u64>,
        is_last: bool,
        weights: String,
        kind: Kind,
        answers: Vec<Told>,
        merge_ms: u64,
        evaluation_ms: u64,
    },
    Candidate {
        job: u64,
        reason: String,
    },
    Machine {
        job: u64,
        reason: String,
    },
    /// For the journal.
    Told(Event),
    /// For whoever looks on.
    Shown(Event),
    /// All that lay on the server has been told.
    CaughtUp,
}

impl Word {
    /// Whether a worker is free after it, and the search may have more for it.
    pub fn is_an_end(&self) -> bool {
        matches!(
            self,
            Self::Answers { .. } | Self::Candidate { .. } | Self::Machine { .. }
        )
    }
}

/// What comes to the desk.
pub enum In {
    Command(Command),
    /// Of the stream, at this place.
    Tell(u64, Vec<u8>),
    Issued {
        key: String,
        issue: u32,
        seq: Result<u64, String>,
    },
    Link(link::Word),
    CaughtUp,
}

/// What the desk is for.
pub struct Purpose {
    pub run: RunId,
    pub token: String,
    pub library: Library,
    pub now: Now,
    pub words: Sender<Word>,
    pub hands: Arc<AtomicUsize>,
    /// Those of them that have nothing to do.
    pub idle: Arc<AtomicUsize>,
    /// Tells this process's messages from those of an earlier one.
    pub epoch: u64,
}

pub struct Desk {
    purpose: Purpose,
    context: jetstream::Context,
    subjects: Subjects,
    to_me: mpsc::UnboundedSender<In>,
    leases: Leases,
    workers: BTreeMap<String, Known>,
    refused: BTreeMap<String, u64>,
    /// What the server has complained of.
    troubles: BTreeSet<String>,
    /// Places of the stream of answers, and when they were reached.
    reached: VecDeque<(u64, Duration)>,
    purged: Duration,
    here: Duration,
    mended: Option<Duration>,
    is_down: bool,
    /// Words of the kind after which the search has more to ask.
    told: u64,
}

struct Known {
    worker: Worker,
    told: Duration,
}

impl Desk {
    pub fn new(purpose: Purpose, context: jetstream::Context, to_me: mpsc::UnboundedSender<In>) -> Self {
        let plan = &purpose.library.plan;
        Self {
            subjects: Subjects::of(&purpose.run),
            leases: Leases::new(purpose.library.digest.clone(), !plan.mixed),
            purpose,
            context,
            to_me,
            workers: BTreeMap::new(),
            refused: BTreeMap::new(),
            troubles: BTreeSet::new(),
            reached: VecDeque::new(),
            purged: Duration::ZERO,
            here: Duration::ZERO,
            mended: None,
            is_down: false,
            told: 0,
        }
    }

    fn client(&self) -> Client {
        self.context.client()
    }

    fn now(&self) -> Duration {
        (self.purpose.now)()
    }

    fn say(&mut self, word: Word) {
        if word.is_an_end() {
            self.told += 1;
            self.leases.nothing_follows(false);
        }
        // Nobody listens any more when the search is over.
        let _ = self.purpose.words.send(word);
    }

    fn log(&mut self, level: Level, message: String) {
        self.say(Word::Told(Event::Log { level, message }));
    }

    /// Works until it is told that the run ends.
    pub async fn run(
        mut self,
        mut incoming: mpsc::UnboundedReceiver<In>,
        mut signs: Subscriber,
        mut wanted: Subscriber,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let acts = tokio::select! {
                Some(message) = incoming.recv() => match message {
                    In::Command(Command::End { is_done, ended }) => {
                        self.end(is_done).await;
                        let _ = ended.send(());
                        return;
                    }
                    message => self.takes(message),
                },
                Some(message) = signs.next() => self.sign(&message),
                Some(message) = wanted.next() => { self.serve(message).await; Vec::new() }
                _ = tick.tick() => self.tick().await,
                else => return,
            };
            self.perform(acts);
            self.purpose.hands.store(self.leases.hands(), Ordering::Relaxed);
            self.purpose.idle.store(self.leases.idle(), Ordering::Relaxed);
        }
    }

    fn takes(&mut self, message: In) -> Vec<Act> {
        let now = self.now();
        match message {
            In::Command(Command::Add(job)) => {
                self.leases.add(job);
                Vec::new()
            }
            In::Command(Command::Go { told }) => {
                self.leases.nothing_follows(told == self.told);
                self.leases.due(now)
            }
            In::Command(Command::Cancel(job)) => self.leases.cancel(job),
            In::Command(Command::GiveUpUntaken) => {
                let give_up = |job| Act::GiveUp {
                    job,
                    reason: "asked to stop before anybody took it".into(),
                };
                let untaken = self.leases.untaken();
                let mut acts: Vec<Act> = untaken.iter().flat_map(|job| self.leases.cancel(*job)).collect();
                acts.extend(untaken.into_iter().map(give_up));
                acts
            }
            In::Command(Command::End { .. }) => Vec::new(),
            In::Tell(seq, bytes) => {
                self.reached.push_back((seq, now));
                let acts = self.tell(&bytes);
                self.or_refused("tell", acts)
            }
            In::Issued {
                key,
                issue,
                seq: Ok(seq),
            } => self.leases.issued(&key, issue, seq),
            In::Issued {
                key,
                issue,
                seq: Err(reason),
            } => {
                self.leases.not_issued(&key, issue, now);
                self.mend(now, &reason);
                Vec::new()
            }
            In::Link(word) => {
                self.link(word);
                Vec::new()
            }
            In::CaughtUp => {
                self.say(Word::CaughtUp);
                Vec::new()
            }
        }
    }

    fn link(&mut self, word: link::Word) {
        match word {
            link::Word::Down if !self.is_down => {
                self.is_down = true;
                self.log(
                    Level::Warning,
                    "the NATS server does not answer; the search waits, and goes on when it is back".into(),
                );
            }
            link::Word::Up if self.is_down => {
                self.is_down = false;
                self.log(Level::Info, "the NATS server is back".into());
            }
            // Of a word that may not be said, for one: who set the server up must know.
            link::Word::Trouble(reason) if !self.troubles.contains(&reason) && self.troubles.len() < 16 => {
                self.log(Level::Warning, format!("the NATS server says: {}", shortened(&reason)));
                self.troubles.insert(reason);
            }
            _ => {}
        }
    }

    /// The server may have lost its store: what is missing is made again.
    fn mend(&mut self, now: Duration, reason: &str) {
        if self
            .mended
            .is_some_and(|at| now.saturating_sub(at) < Duration::from_secs(1))
        {
            return;
        }
        self.mended = Some(now);
        tracing::info!("the server took a unit of work not: {reason}");
        let (context, run) = (self.context.clone(), self.purpose.run.clone());
        tokio::spawn(async move {
            if let Err(e) = link::streams(&context, &run).await {
                tracing::info!("{e}");
            }
        });
    }

    fn or_refused(&mut self, subject: &str, acts: Result<Vec<Act>, Refusal>) -> Vec<Act> {
        acts.unwrap_or_else(|refusal| {
            self.refuse(subject, &refusal);
            Vec::new()
        })
    }

    /// Counts what is refused, and says so at the first and at each tenfold.
    fn refuse(&mut self, subject: &str, refusal: &Refusal) {
        let kind = format!("{subject}: {}", shortened(&refusal.to_string()));
        // Reasons may hold words of strangers: of so many different ones nobody wants to know.
        let kind = match self.refused.len() < 100 || self.refused.contains_key(&kind) {
            true => kind,
            false => format!("{subject}: other reasons"),
        };
        let n = self.refused.entry(kind.clone()).or_default();
        *n += 1;
        if 10_u64.pow(n.ilog10()) == *n {
            let n = *n;
            self.log(Level::Warning, format!("messages refused so far: {n} ({kind})"));
        }
    }

    /// What came of a unit of work.
    fn tell(&mut self, bytes: &[u8]) -> Result<Vec<Act>, Refusal> {
        let tell: Tell = read(bytes)?;
        let (library, now) = (&self.purpose.library, self.now());
        if tell.run != self.purpose.run {
            return Err(Refusal::OtherRun);
        }
        if tell.plan != library.digest {
            return Err(Refusal::OtherPlan);
        }
        if tell.token != self.purpose.token {
            return Err(Refusal::Token);
        }
        self.takes_kind(&tell.kind)?;
        match tell.came {
            Came::Answers {
                answers,
                merge_ms,
                evaluation_ms,
            } => {
                let places = self.places(&tell.key, &tell.weights, &answers)?;
                let spent = Spent {
                    merge: Duration::from_millis(merge_ms),
                    evaluation: Duration::from_millis(evaluation_ms),
                };
                let (taken, mut acts) = self.leases.answered(&tell.key, &places.unwrap_or_default(), spent);
                let (job, is_last) = match taken {
                    Taken::Of { job, is_last } => (Some(job), is_last),
                    // Of an earlier life of this run, or the second to come: facts all the same.
                    Taken::Late | Taken::Odd => (None, false),
                };
                self.say(Word::Answers {
                    job,
                    is_last,
                    weights: tell.weights,
                    kind: tell.kind,
                    answers,
                    merge_ms,
                    evaluation_ms,
                });
                acts.extend(self.leases.due(now));
                Ok(acts)
            }
            Came::Candidate { reason } => {
                let (job, acts) = self.leases.refused(&tell.key);
                if let Some(job) = job {
                    self.say(Word::Candidate { job, reason });
                }
                Ok(acts)
            }
            Came::Machine { reason } => {
                let (worker, reason) = (tell.worker, shortened(&reason));
                self.log(
                    Level::Warning,
                    format!("worker {worker} failed: {reason}; its work goes to another one"),
                );
                Ok(self.leases.failed(&tell.key, &worker, &reason, now))
            }
        }
    }

    /// Answers as places of a unit's questions; `None` if nobody waits for the unit.
    fn places(&self, key: &str, weights: &str, answers: &[Told]) -> Result<Option<Vec<(usize, usize)>>, Refusal> {
        let Some((_, asked, work)) = self.leases.unit(key) else {
            return Ok(None);
        };
        if asked != weights {
            return Err(Refusal::Unasked);
        }
        let place = |told: &Told| {
            let part = work
                .parts
                .iter()
                .position(|part| part.task == told.task && part.split == told.split)?;
            work.parts[part].items.binary_search(&told.item).ok()?;
            Some((part, told.item))
        };
        let places: Option<Vec<_>> = answers.iter().map(place).collect();
        places.map(Some).ok_or(Refusal::Unasked)
    }

    fn takes_kind(&self, kind: &Kind) -> Result<(), Refusal> {
        let plan = &self.purpose.library.plan;
        match kind.build == plan.kind.build && (plan.mixed || *kind == plan.kind) {
            true => Ok(()),
            false => Err(Refusal::Kind),
        }
    }

    fn sign(&mut self, message: &NatsMessage) -> Vec<Act> {
        let heard = read(&message.payload).and_then(|sign| self.hear(sign));
        self.or_refused("sign", heard)
    }

    /// A sign of life.
    fn hear(&mut self, sign: Sign) -> Result<Vec<Act>, Refusal> {
        let now = self.now();
        if sign.run != self.purpose.run {
            return Err(Refusal::OtherRun);
        }
        if sign.plan != self.purpose.library.digest {
            return Err(Refusal::OtherPlan);
        }
        let (state, doing, reason) = match &sign.state {
            SignState::Idle => (WorkerState::Idle, None, String::new()),
            SignState::Working { progress, .. } => (WorkerState::Working, Some(progress.clone()), String::new()),
            SignState::Left { reason } => (WorkerState::Left, None, reason.clone()),
            SignState::Unfit { reasons } => (WorkerState::Refused, None, reasons.join("; ")),
        };
        let worker = Worker {
            worker: sign.worker.clone(),
            host: sign.host.clone(),
            device: sign.device.clone(),
            dtype: sign.kind.dtype.clone(),
            instruction_set: sign.kind.instruction_set.clone(),
            state,
            doing,
            answers: sign.answers,
            busy_ms: sign.busy_ms,
            here_ms: sign.here_ms,
            reason,
        };
        match &sign.state {
            SignState::Unfit { .. } => {}
            _ => self.takes_kind(&sign.kind)?,
        }
        let is_news = match &sign.state {
            SignState::Idle => self.leases.heard(&sign.worker, None, now),
            SignState::Working { key, .. } => self.leases.heard(&sign.worker, Some(key), now),
            SignState::Left { .. } => {
                self.leases.left(&sign.worker, now);
                true
            }
            SignState::Unfit { .. } => false,
        };
        self.know(worker, now);
        // That time has passed is seen ten times a second; a thousand workers say so more often.
        Ok(if is_news { self.leases.due(now) } else { Vec::new() })
    }

    /// Tells who came, who went, and from time to time what they do.
    fn know(&mut self, worker: Worker, now: Duration) {
        let is_here = |state| matches!(state, WorkerState::Idle | WorkerState::Working);
        let before = self.workers.get(&worker.worker);
        let goes_on = before.is_some_and(|before| is_here(before.worker.state) == is_here(worker.state));
        let all = TOLD_BY_ALL * self.workers.len() as u32;
        let every = Duration::from_millis(worker.here_ms / 10)
            .clamp(TOLD_AT_MOST, TOLD_AT_LEAST)
            .max(all);
        let is_told = goes_on && before.is_some_and(|before| now.saturating_sub(before.told) < every);
        let told = match before {
            Some(before) if is_told => before.told,
            _ => now,
        };
        let event = Event::Worker(worker.clone());
        self.say(if is_told { Word::Shown(event) } else { Word::Told(event) });
        self.workers.insert(worker.worker.clone(), Known { worker, told });
    }

    /// Gives a piece of a document: eight bytes that say how long the whole is, then the piece.
    async fn serve(&mut self, message: NatsMessage) {
        let wanted: Result<Wanted, Refusal> = read(&message.payload);
        let (Ok(wanted), Some(reply)) = (&wanted, message.reply) else {
            let refusal = wanted.err().unwrap_or(Refusal::Unasked);
            return self.refuse("documents", &refusal);
        };
        match self.purpose.library.piece(&wanted.document, wanted.from) {
            Some((whole, piece)) if wanted.run == self.purpose.run => {
                let mut payload = (whole as u64).to_be_bytes().to_vec();
                payload.extend_from_slice(piece);
                let _ = self.client().publish(reply, payload.into()).await;
            }
            _ => self.refuse("documents", &Refusal::Unasked),
        }
    }

    async fn tick(&mut self) -> Vec<Act> {
        let now = self.now();
        if now.saturating_sub(self.here) >= HERE_EVERY {
            self.here = now;
            self.is_here(false).await;
        }
        self.purge(now);
        self.leases.due(now)
    }

    async fn is_here(&self, over: bool) {
        let here = Here {
            v: VERSION,
            run: self.purpose.run.clone(),
            name: self.purpose.library.plan.name.chars().take(32).collect(),
            plan: self.purpose.library.digest.clone(),
            over,
        };
        // While the server is away nobody hears it, and it must not pile up.
        if !self.is_down {
            let _ = self.client().publish(self.subjects.here(), written(&here).into()).await;
        }
    }

    fn purge(&mut self, now: Duration) {
        if now.saturating_sub(self.purged) < PURGE_EVERY {
            return;
        }
        self.purged = now;
        let mut upto = None;
        while let Some((seq, at)) = self.reached.front()
            && now.saturating_sub(*at) > KEPT_FOR
        {
            upto = Some(*seq);
            self.reached.pop_front();
        }
        let Some(upto) = upto else { return };
        let (context, stream) = (self.context.clone(), self.purpose.run.tell_stream());
        tokio::spawn(async move {
            if let Ok(stream) = context.get_stream(stream).await {
                let _ = stream.purge().sequence(upto + 1).await;
            }
        });
    }

    fn perform(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Issue { key, issue } => self.issue(key, issue),
                Act::Withdraw { seq } => self.withdraw(seq),
                Act::GiveUp { job, reason } => self.say(Word::Machine { job, reason }),
                Act::Lost { worker } => self.lose(&worker),
            }
        }
    }

    fn issue(&mut self, key: String, issue: u32) {
        let Some((id, weights, work)) = self.leases.unit(&key) else {
            return;
        };
        let ask = Ask {
            v: VERSION,
            run: self.purpose.run.clone(),
            plan: self.purpose.library.digest.clone(),
            token: self.purpose.token.clone(),
            key: key.clone(),
            id: id.into(),
            weights: weights.into(),
            recipe: work.recipe.clone(),
            guarded: work.is_guarded,
            parts: work.parts.clone(),
        };
        // A message that is sent twice is one; a unit that is issued again is another.
        let name = format!("{key}.{:x}.{issue}", self.purpose.epoch);
        let message = PublishMessage::build().payload(written(&ask).into()).message_id(name);
        let (context, subject, to_me) = (self.context.clone(), self.subjects.ask(), self.to_me.clone());
        tokio::spawn(async move {
            let published = async { context.send_publish(subject, message).await?.await };
            let seq = published.await.map(|ack| ack.sequence).map_err(|e| whole(&e));
            let _ = to_me.send(In::Issued { key, issue, seq });
        });
    }

    fn withdraw(&self, seq: u64) {
        let (context, stream) = (self.context.clone(), self.purpose.run.ask_stream());
        tokio::spawn(async move {
            if let Ok(stream) = context.get_stream_no_info(stream).await {
                // It may be gone already: whoever had it acknowledged it.
                let _ = stream.delete_message(seq).await;
            }
        });
    }

    fn lose(&mut self, worker: &str) {
        if let Some(known) = self.workers.get(worker) {
            let lost = Worker {
                state: WorkerState::Lost,
                doing: None,
                reason: "nothing is heard of it any more; its work goes to another one".into(),
                ..known.worker.clone()
            };
            let now = self.now();
            self.know(lost, now);
        }
    }

    /// Says that there will be no more work, and takes away what lies on the server, all of it if the run is done.
    async fn end(&mut self, is_done: bool) {
        self.is_here(true).await;
        if let Ok(stream) = self.context.get_stream(self.purpose.run.ask_stream()).await {
            let _ = stream.purge().await;
        }
        if is_done {
            for stream in [self.purpose.run.ask_stream(), self.purpose.run.tell_stream()] {
                let _ = self.context.delete_stream(stream).await;
            }
        }
        let _ = self.client().flush().await;
    }
}

/// Reads the stream of answers from its beginning, for ever; a consumer that stalls or vanishes is replaced.
pub async fn read_answers(context: jetstream::Context, run: RunId, to_desk: mpsc::UnboundedSender<In>) {
    let (mut last, mut is_caught_up) = (0_u64, false);
    loop {
        let pulled = pull_answers(&context, &run, &mut last, &to_desk, &mut is_caught_up).await;
        if let Err(e) = pulled {
            if to_desk.is_closed() {
                return;
            }
            tracing::info!("the stream of answers: {e}");
            tokio::time::sleep(Duration::from_millis(500)).await;
            // The server may have lost it.
            let _ = link::streams(&context, &run).await;
        }
    }
}

/// Pulls until something goes wrong.
async fn pull_answers(
    context: &jetstream::Context,
    run: &RunId,
    last: &mut u64,
    to_desk: &mpsc::UnboundedSender<In>,
    is_caught_up: &mut bool,
) -> Result<(), Error> {
    let refused = |reason: String| Error::Refused {
        server: "this run".into(),
        what: "to read",
        reason,
    };
    let stream = context
        .get_stream(run.tell_stream())
        .await
        .map_err(|e| refused(whole(&e)))?;
    let state = &stream.cached_info().state;
    // A stream that was made anew counts from the beginning.
    *last = (*last).min(state.last_sequence);
    let until = state.last_sequence;
    let mut tell_if_caught_up = |last: u64, is_empty: bool| {
        if !*is_caught_up && (last >= until || is_empty) {
            *is_caught_up = true;
            let _ = to_desk.send(In::CaughtUp);
        }
    };
    tell_if_caught_up(*last, state.messages == 0);
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: *last + 1,
        },
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(60),
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.create_consumer(config).await.map_err(|e| refused(whole(&e)))?;
    loop {
        let batch = consumer.batch().max_messages(PULL).expires(PULL_FOR).messages().await;
        let mut batch = batch.map_err(|e| refused(whole(&e)))?;
        while let Some(message) = batch.next().await {
            let message = message.map_err(|e| refused(e.to_string()))?;
            let seq = message.info().map_err(|e| refused(e.to_string()))?.stream_sequence;
            *last = seq;
            if to_desk.send(In::Tell(seq, message.payload.to_vec())).is_err() {
                return Err(refused("the run is over".into()));
            }
            tell_if_caught_up(seq, false);
        }
        // A pull that ended with nothing: all there is has been read.
        tell_if_caught_up(*last, true);
        if to_desk.is_closed() {
            return Err(refused("the run is over".into()));
        }
    }
}
