//! A worker: waits for a run that it fits, takes a unit of work at a time, and says what came of it.
//!
//! Two threads: one computes ([`Hands`]), one speaks with the server, so that a long merge keeps nobody waiting for a sign of
//! life. An answer is told before its unit is acknowledged: what dies between the two is done again, and harms nobody. Whoever
//! asks the worker to end gets its unit finished within a grace, or handed back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        self, AckKind,
        consumer::{PullConsumer, pull},
        message::PublishMessage,
    },
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_stream::StreamExt;

use super::{
    desk::Now,
    error::{Error, Refusal},
    link::{self, ACK_WAIT, CONSUMER, Options, whole},
    plan::{MOST_DOCUMENT, PLAN, Plan, digest, read_list},
    protocol::{
        Ask, Came, EVERY_HERE, Here, Kind, RunId, Sign, SignState, Subjects, Tell, Told, VERSION, Wanted, key_of, read,
        shortened, written,
    },
};
use crate::{
    eval::{Question, Split},
    event,
    search::{Given, Part, Unscored, Work},
};

/// How often a worker says that it is there.
pub const SIGN_EVERY: Duration = Duration::from_secs(2);

/// How long one pull waits: short, since a pull may stall.
const PULL_FOR: Duration = Duration::from_secs(5);

/// How often it is looked at whether something has changed.
const LOOK: Duration = Duration::from_millis(100);

/// A coordinator that has been silent for so long is left for another one, if there is one.
const SILENT: Duration = Duration::from_secs(30);

/// How long the server and the coordinator are waited for before what they should take is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A machine that has failed so often in a row is broken, and must not have more.
const MOST_FAULTS: usize = 3;

/// Units whose outcome is kept: the server may hand one out twice.
const KEPT: usize = 16;

/// Bytes of answers in one message, of a server that takes 1 MiB.
const TELL_BYTES: usize = 384 << 10;

/// Who a worker is, and when it ends.
#[derive(Clone, Debug)]
pub struct Settings {
    pub nats: Options,
    /// Unique on the server.
    pub name: String,
    pub host: String,
    /// With its number.
    pub device: String,
    pub kind: Kind,
    pub engine_version: String,
    /// Without work for so long, it goes.
    pub idle_exit: Option<Duration>,
    /// How long a unit may go on after somebody asked the worker to end.
    pub grace: Duration,
    /// How often it says that it is there: [`SIGN_EVERY`], or oftener for a coordinator whose clock runs faster.
    pub sign_every: Duration,
}

/// Why a worker ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was no work for a while.
    Idle,
    /// Somebody asked for it.
    Asked,
}

/// What computes; another one is a double that sleeps, for a simulated fleet.
pub trait Hands: Send + 'static {
    /// Opens what a plan asks for and says so ([`Orders::ready`], [`Orders::unfit`]), then works until there are no more orders.
    fn work(&mut self, plan: &Plan, orders: Orders);
}

/// One thing to do.
pub enum Order {
    /// Questions that later work asks.
    List {
        task: usize,
        split: Split,
        questions: Vec<Question>,
    },
    Do {
        work: Work,
        progress: Seen,
        done: oneshot::Sender<Result<Given, Unscored>>,
    },
}

/// Where the one who computes says how far it is.
pub type Seen = Arc<Mutex<Option<event::Progress>>>;

/// What is to be done for one plan.
pub struct Orders {
    orders: mpsc::Receiver<Order>,
    opened: Option<oneshot::Sender<Result<(), Vec<String>>>>,
}

impl Orders {
    /// Everything is open.
    pub fn ready(&mut self) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
    }

    /// What is not as the plan wants it.
    pub fn unfit(mut self, reasons: Vec<String>) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(reasons));
        }
    }

    /// The next one; `None` when there will be no more.
    pub fn next(&self) -> Option<Order> {
        self.orders.recv().ok()
    }
}

/// A plan for the thread that computes.
type Assignment = (Plan, Orders);

/// Works until there is nothing to do for a while, or somebody asks for the end. `stop` counts how often that was asked: the
/// first time a unit may still end, the second time it is handed back at once.
///
/// # Errors
/// No server, one that is too old, no run that this worker fits, or a machine that fails again and again.
pub fn work(
    settings: Settings,
    hands: impl Hands,
    stop: Arc<AtomicUsize>,
    now: Now,
    say: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Ended, Error> {
    let runtime = link::threads(1)?;
    let ended = runtime.block_on(working(settings, hands, stop, now, say));
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// As [`work`], in a runtime of the caller's, of which it needs time and network. Everything of the worker but the thread of its
/// hands ends with that runtime.
///
/// # Errors
/// As [`work`].
pub async fn working(
    settings: Settings,
    hands: impl Hands,
    stop: Arc<AtomicUsize>,
    now: Now,
    say: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Ended, Error> {
    let is_name = |name: &str| {
        let is_sound = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !name.is_empty() && name.len() <= 64 && name.bytes().all(is_sound)
    };
    if !is_name(&settings.name) {
        return Err(Error::Name { name: settings.name });
    }
    let (plans, assigned) = mpsc::channel::<Assignment>();
    let mut hands = hands;
    // It is left alone when the worker ends in the midst of a unit: there is no way to interrupt a kernel.
    std::thread::spawn(move || {
        for (plan, orders) in assigned {
            hands.work(&plan, orders);
        }
    });
    let say: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(say);
    let of_link = say.clone();
    let is_down = Mutex::new(false);
    let name = format!("heterosis worker {}", settings.name);
    let client = link::connect(&settings.nats, &name, move |word| {
        let mut is_down = is_down.lock().unwrap_or_else(PoisonError::into_inner);
        match word {
            link::Word::Down if !*is_down => {
                *is_down = true;
                of_link("the server does not answer; it is tried again and again");
            }
            link::Word::Up if *is_down => {
                *is_down = false;
                of_link("the server is back");
            }
            _ => {}
        }
    })
    .await?;
    let mut context = jetstream::new(client.clone());
    context.set_timeout(Duration::from_secs(5));
    let worker = Worker {
        runs: watched(&client, now.clone()).await?,
        settings,
        context,
        plans,
        stop,
        now,
        say,
        unfit: Vec::new(),
        last_unfit: None,
        faults: 0,
    };
    worker.go().await
}

/// Runs that have said that they are there, and when.
type Runs = BTreeMap<RunId, (Here, Duration)>;

/// Listens to all coordinators.
async fn watched(client: &Client, now: Now) -> Result<watch::Receiver<Runs>, Error> {
    let heres = client.subscribe(EVERY_HERE).await;
    let mut heres = heres.map_err(|e| Error::Refused {
        server: "this server".into(),
        what: "a subscription",
        reason: whole(&e),
    })?;
    let (seen, runs) = watch::channel(Runs::new());
    tokio::spawn(async move {
        while let Some(message) = heres.next().await {
            let Ok(here) = read::<Here>(&message.payload) else {
                continue;
            };
            if RunId::of_subject(&message.subject).as_ref() != Some(&here.run) {
                continue;
            }
            seen.send_modify(|runs| {
                // A stranger who makes up runs fills no memory.
                let now = now();
                runs.retain(|_, (_, at)| now.saturating_sub(*at) < 4 * SILENT);
                if runs.len() < 256 || runs.contains_key(&here.run) {
                    runs.insert(here.run.clone(), (here, now));
                }
            });
        }
    });
    Ok(runs)
}

struct Worker {
    settings: Settings,
    context: jetstream::Context,
    runs: watch::Receiver<Runs>,
    plans: mpsc::Sender<Assignment>,
    stop: Arc<AtomicUsize>,
    now: Now,
    say: Arc<dyn Fn(&str) + Send + Sync>,
    /// Plans that this worker does not fit.
    unfit: Vec<String>,
    last_unfit: Option<(String, String)>,
    /// Of this machine, since it last did something.
    faults: usize,
}

/// What the worker says of itself, whenever it says something.
struct Status {
    inner: Mutex<Inner>,
    seen: Seen,
    changed: Notify,
}

struct Inner {
    sign: Sign,
    joined: Duration,
    /// The unit that it is at, and since when.
    doing: Option<(String, String, Duration)>,
}

impl Status {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    fn sign(&self, now: Duration) -> Sign {
        let inner = self.inner();
        let mut sign = inner.sign.clone();
        sign.here_ms = ms(now.saturating_sub(inner.joined));
        if let Some((key, id, since)) = &inner.doing {
            sign.busy_ms += ms(now.saturating_sub(*since));
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let progress = seen.unwrap_or(event::Progress {
                id: String::new(),
                stage: "merge".into(),
                answered: 0,
                questions: 0,
                tokens: 0,
                tokens_per_s: 0.0,
            });
            sign.state = SignState::Working {
                key: key.clone(),
                progress: event::Progress {
                    id: id.clone(),
                    ..progress
                },
            };
        }
        sign
    }

    fn begins(&self, ask: &Ask, now: Duration) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.inner().doing = Some((ask.key.clone(), ask.id.clone(), now));
        self.changed.notify_one();
    }

    fn ends(&self, answers: usize, now: Duration) {
        let mut inner = self.inner();
        if let Some((_, _, since)) = inner.doing.take() {
            inner.sign.busy_ms += ms(now.saturating_sub(since));
        }
        inner.sign.answers += answers as u64;
        self.changed.notify_one();
    }
}

fn ms(time: Duration) -> u64 {
    time.as_millis() as u64
}

impl Worker {
    async fn go(mut self) -> Result<Ended, Error> {
        (self.say)("waiting for a run");
        let mut last_work = (self.now)();
        loop {
            if self.is_asked_to_end() {
                return Ok(Ended::Asked);
            }
            if self.has_idled(last_work) {
                return match self.last_unfit.take() {
                    Some((run, reasons)) => Err(Error::Unfit { run, reasons }),
                    None => Ok(Ended::Idle),
                };
            }
            match self.a_run() {
                Some(here) => {
                    self.serve(here, &mut last_work).await?;
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn is_asked_to_end(&self) -> bool {
        self.stop.load(Ordering::Relaxed) > 0
    }

    fn has_idled(&self, last_work: Duration) -> bool {
        let idle = (self.now)().saturating_sub(last_work);
        self.settings.idle_exit.is_some_and(|most| idle >= most)
    }

    /// A run that is there and that this worker may fit.
    fn a_run(&self) -> Option<Here> {
        let now = (self.now)();
        let runs = self.runs.borrow();
        let is_open = |(here, at): &&(Here, Duration)| {
            !here.over && now.saturating_sub(*at) < SILENT && !self.unfit.contains(&here.plan)
        };
        // Workers spread over the runs of a server.
        let place = |(here, _): &&(Here, Duration)| {
            let mut hasher = DefaultHasher::new();
            (&self.settings.name, &here.run).hash(&mut hasher);
            hasher.finish()
        };
        let chosen = runs.values().filter(is_open).min_by_key(place);
        chosen.map(|(here, _)| here.clone())
    }

    /// Works for a run as long as it is there.
    async fn serve(&mut self, here: Here, last_work: &mut Duration) -> Result<(), Error> {
        let subjects = Subjects::of(&here.run);
        let plan = match self.document(&subjects, &here.run, PLAN, &here.plan).await {
            Ok(bytes) => Plan::read(&bytes),
            Err(refusal) => Err(refusal),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(refusal) => {
                (self.say)(&format!("the plan of {} cannot be had: {refusal}", here.name));
                tokio::time::sleep(AGAIN).await;
                return Ok(());
            }
        };
        let status = Arc::new(self.status(&here));
        let (orders, given) = mpsc::channel();
        if let Err(reasons) = self.open(&plan, given).await {
            return self.does_not_fit(&here, &subjects, &status, reasons).await;
        }
        (self.say)(&format!(
            "works for {} ({}) on {} {}",
            here.name,
            here.run.name(),
            self.settings.device,
            self.settings.kind.dtype
        ));
        let signs = tokio::spawn(signs(
            self.context.client(),
            subjects.sign(),
            status.clone(),
            (self.now.clone(), self.settings.sign_every),
        ));
        let mut shift = Shift {
            worker: self,
            here,
            plan,
            subjects,
            status: status.clone(),
            orders,
            lists: BTreeSet::new(),
            kept: VecDeque::new(),
            refused: BTreeMap::new(),
        };
        let ended = shift.go(last_work).await;
        signs.abort();
        let reason = match &ended {
            Ok(reason) => reason.clone(),
            Err(e) => e.to_string(),
        };
        shift.leave(&reason).await;
        ended.map(drop)
    }

    fn status(&self, here: &Here) -> Status {
        let settings = &self.settings;
        let sign = Sign {
            v: VERSION,
            run: here.run.clone(),
            plan: here.plan.clone(),
            worker: settings.name.clone(),
            host: settings.host.clone(),
            device: settings.device.clone(),
            kind: settings.kind.clone(),
            state: SignState::Idle,
            answers: 0,
            busy_ms: 0,
            here_ms: 0,
        };
        Status {
            inner: Mutex::new(Inner {
                sign,
                joined: (self.now)(),
                doing: None,
            }),
            seen: Seen::default(),
            changed: Notify::new(),
        }
    }

    /// Opens models and tasks, in the thread that computes.
    async fn open(&self, plan: &Plan, given: mpsc::Receiver<Order>) -> Result<(), Vec<String>> {
        let misfits = plan.misfits(&self.settings.kind, &self.settings.engine_version);
        if !misfits.is_empty() {
            return Err(misfits);
        }
        let (opened, told) = oneshot::channel();
        let orders = Orders {
            orders: given,
            opened: Some(opened),
        };
        let broken = || vec!["what computes here has broken down".to_string()];
        self.plans.send((plan.clone(), orders)).map_err(|_| broken())?;
        told.await.unwrap_or_else(|_| Err(broken()))
    }

    async fn does_not_fit(
        &mut self,
        here: &Here,
        subjects: &Subjects,
        status: &Status,
        reasons: Vec<String>,
    ) -> Result<(), Error> {
        let reasons: Vec<String> = reasons.iter().take(16).map(|reason| shortened(reason)).collect();
        (self.say)(&format!("does not fit {}: {}", here.name, reasons.join("; ")));
        self.last_unfit = Some((here.name.clone(), reasons.join("; ")));
        self.unfit.push(here.plan.clone());
        let sign = Sign {
            state: SignState::Unfit { reasons },
            ..status.sign((self.now)())
        };
        let client = self.context.client();
        let _ = client.publish(subjects.sign(), written(&sign).into()).await;
        let _ = client.flush().await;
        Ok(())
    }

    /// Fetches a document of the coordinator's, piece by piece; it counts only if its digest is the one that is asked for.
    async fn document(
        &self,
        subjects: &Subjects,
        run: &RunId,
        document: &str,
        wanted: &str,
    ) -> Result<Vec<u8>, Refusal> {
        let malformed = |reason: &str| Refusal::Malformed { reason: reason.into() };
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            let request = Wanted {
                v: VERSION,
                run: run.clone(),
                document: document.into(),
                from: bytes.len(),
            };
            let client = self.context.client();
            let reply = client.request(subjects.documents(), written(&request).into());
            let reply = tokio::time::timeout(Duration::from_secs(5), reply).await;
            let reply = match reply {
                Ok(Ok(reply)) => reply,
                Ok(Err(e)) => return Err(malformed(&format!("the coordinator does not answer: {e}"))),
                Err(_) => return Err(malformed("the coordinator does not answer")),
            };
            let Some((length, piece)) = reply.payload.split_first_chunk::<8>() else {
                return Err(malformed("a piece of a document is too short"));
            };
            let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > MOST_DOCUMENT || bytes.len() + piece.len() > length || piece.is_empty() {
                return Err(malformed("a document is not as long as it says, or too long"));
            }
            bytes.extend_from_slice(piece);
            if bytes.len() == length {
                break;
            }
        }
        match digest(&bytes) == wanted {
            true => Ok(bytes),
            false => Err(malformed("a document has not the digest that it should have")),
        }
    }
}

/// Says every now and then that the worker is there, and at once when something has changed.
async fn signs(client: Client, subject: String, status: Arc<Status>, (now, every): (Now, Duration)) {
    loop {
        let sign = status.sign(now());
        let _ = client.publish(subject.clone(), written(&sign).into()).await;
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = status.changed.notified() => {}
        }
    }
}

/// A worker while it works for one plan.
struct Shift<'a> {
    worker: &'a mut Worker,
    here: Here,
    plan: Plan,
    subjects: Subjects,
    status: Arc<Status>,
    orders: mpsc::Sender<Order>,
    /// Lists of questions that the one who computes has.
    lists: BTreeSet<(usize, Split)>,
    kept: VecDeque<(String, Vec<Came>)>,
    refused: BTreeMap<String, u64>,
}

/// What became of a unit.
enum Outcome {
    Came(Result<Given, Unscored>),
    /// Handed back, since somebody asked for the end.
    HandedBack,
}

impl Shift<'_> {
    fn now(&self) -> Duration {
        (self.worker.now)()
    }

    fn say(&self, text: &str) {
        (self.worker.say)(text);
    }

    /// Takes units until the run is over, changes or falls silent, or the worker is to end; gives the reason.
    async fn go(&mut self, last_work: &mut Duration) -> Result<String, Error> {
        loop {
            if let Some(reason) = self.is_over(*last_work) {
                return Ok(reason);
            }
            let context = self.worker.context.clone();
            let consumer = context.get_consumer_from_stream::<pull::Config, _, _>(CONSUMER, self.here.run.ask_stream());
            let Ok(consumer) = consumer.await else {
                // The server is away, or has lost its store, which the coordinator mends.
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            while self.is_over(*last_work).is_none() {
                match self.pull(&consumer, *last_work).await {
                    Ok(Some(message)) => {
                        self.handle(&message).await?;
                        *last_work = self.now();
                    }
                    Ok(None) => {}
                    Err(e) => {
                        tracing::info!("a pull ended: {e}");
                        tokio::time::sleep(AGAIN).await;
                        break;
                    }
                }
            }
        }
    }

    fn is_over(&self, last_work: Duration) -> Option<String> {
        if self.worker.is_asked_to_end() {
            return Some("asked to end".into());
        }
        if self.worker.has_idled(last_work) {
            return Some("nothing to do for a while".into());
        }
        let runs = self.worker.runs.borrow();
        match runs.get(&self.here.run) {
            Some((here, _)) if here.over => Some("the run is over".into()),
            Some((here, _)) if here.plan != self.here.plan => Some("the run goes on with another plan".into()),
            // It may come back; but whoever is there comes first.
            Some((_, at)) if self.now().saturating_sub(*at) > SILENT => {
                drop(runs);
                let other = self.worker.a_run().filter(|other| other.run != self.here.run);
                other.map(|_| "its coordinator is silent".into())
            }
            _ => None,
        }
    }

    /// One unit, if one comes within a pull's time and nothing else happens.
    async fn pull(&self, consumer: &PullConsumer, last_work: Duration) -> Result<Option<jetstream::Message>, String> {
        let batch = consumer.batch().max_messages(1).expires(PULL_FOR).messages().await;
        let mut batch = batch.map_err(|e| whole(&e))?;
        let mut left = PULL_FOR + AGAIN;
        loop {
            match tokio::time::timeout(LOOK, batch.next()).await {
                Ok(Some(message)) => return message.map(Some).map_err(|e| e.to_string()),
                Ok(None) => return Ok(None),
                // A message that comes after this is handed out again when its acknowledgement is missing.
                Err(_) if left < LOOK || self.is_over(last_work).is_some() => return Ok(None),
                Err(_) => left -= LOOK,
            }
        }
    }

    /// A unit of work, from its message to its acknowledgement.
    async fn handle(&mut self, message: &jetstream::Message) -> Result<(), Error> {
        let ask = match self.read(&message.payload) {
            Ok(ask) => ask,
            Err(refusal) => {
                self.refuse(&refusal);
                let _ = message.ack_with(AckKind::Term).await;
                return Ok(());
            }
        };
        if let Some((_, came)) = self.kept.iter().find(|(key, _)| *key == ask.key) {
            let came = came.clone();
            self.tell(&ask, came, message).await;
            return Ok(());
        }
        if let Err(refusal) = self.fetch_lists(&ask).await {
            // Nobody is there to ask: the unit waits for somebody.
            tracing::info!("the questions of {} cannot be had: {refusal}", ask.id);
            let _ = message.ack_with(AckKind::Nak(Some(AGAIN))).await;
            tokio::time::sleep(AGAIN).await;
            return Ok(());
        }
        let began = self.now();
        self.status.begins(&ask, began);
        let outcome = self.compute(&ask, message).await?;
        let came = match outcome {
            Outcome::HandedBack => {
                let _ = message.ack_with(AckKind::Nak(None)).await;
                self.status.ends(0, self.now());
                return Ok(());
            }
            Outcome::Came(given) => came(&ask, given),
        };
        self.judge(&ask, &came, began);
        let answers = came.iter().map(answers_of).sum();
        self.kept.push_back((ask.key.clone(), came.clone()));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        self.tell(&ask, came.clone(), message).await;
        self.status.ends(answers, self.now());
        match came.first() {
            Some(Came::Machine { reason }) if self.worker.faults >= MOST_FAULTS => Err(Error::Broken {
                times: self.worker.faults,
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads a unit, and sees whether it is one of this plan.
    fn read(&self, payload: &[u8]) -> Result<Ask, Refusal> {
        let ask: Ask = read(payload)?;
        if ask.run != self.here.run {
            return Err(Refusal::OtherRun);
        }
        if ask.plan != self.here.plan {
            return Err(Refusal::OtherPlan);
        }
        if ask.key != key_of(&ask.plan, &ask.weights, &ask.work()) {
            return Err(Refusal::Key);
        }
        let is_listed = |part: &Part| {
            let list = self.plan.list(part.task, &part.split);
            list.is_some_and(|list| part.items.last().is_some_and(|last| *last < list.questions))
        };
        let is_known = |model: &&str| self.plan.models.iter().any(|known| known.name == *model);
        match ask.parts.iter().all(is_listed) && ask.recipe.models().iter().all(is_known) {
            true => Ok(ask),
            false => Err(Refusal::Malformed {
                reason: "it names questions or models that the plan has not".into(),
            }),
        }
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let reason = shortened(&refusal.to_string());
        let n = self.refused.entry(reason.clone()).or_default();
        *n += 1;
        if 10_u64.pow(n.ilog10()) == *n {
            let n = *n;
            self.say(&format!("units of work refused so far: {n} ({reason})"));
        }
    }

    /// The lists of questions that a unit needs, and the one who computes has not.
    async fn fetch_lists(&mut self, ask: &Ask) -> Result<(), Refusal> {
        let of_parts = ask
            .parts
            .iter()
            .filter_map(|part| self.plan.list(part.task, &part.split));
        let of_guard = self.plan.guards_lists().filter(|_| ask.guarded);
        let missing: Vec<_> = of_parts
            .chain(of_guard)
            .filter(|list| !self.lists.contains(&(list.task, list.split)))
            .cloned()
            .collect();
        for list in missing {
            let bytes = self
                .worker
                .document(&self.subjects, &self.here.run, &list.document(), &list.digest)
                .await?;
            let questions = read_list(&bytes)?;
            if questions.len() != list.questions {
                return Err(Refusal::Malformed {
                    reason: "a list of questions is not as long as the plan says".into(),
                });
            }
            if self.lists.insert((list.task, list.split)) {
                let _ = self.orders.send(Order::List {
                    task: list.task,
                    split: list.split,
                    questions,
                });
            }
        }
        Ok(())
    }

    /// Has a unit done, with a word to the server now and then.
    async fn compute(&mut self, ask: &Ask, message: &jetstream::Message) -> Result<Outcome, Error> {
        let (done, mut result) = oneshot::channel();
        let order = Order::Do {
            work: ask.work(),
            progress: self.status.seen.clone(),
            done,
        };
        let broken = || Error::Broken {
            times: 1,
            reason: "what computes here has broken down".into(),
        };
        self.orders.send(order).map_err(|_| broken())?;
        let (mut word, mut asked_to_end) = (self.now(), None);
        loop {
            tokio::select! {
                given = &mut result => match given {
                    Ok(given) => return Ok(Outcome::Came(given)),
                    Err(_) => {
                        let reason = "what computes here has broken down over it".into();
                        self.tell(ask, vec![Came::Machine { reason }], message).await;
                        return Err(broken());
                    }
                },
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = self.now();
            if now.saturating_sub(word) >= ACK_WAIT / 3 {
                word = now;
                let _ = message.ack_with(AckKind::Progress).await;
            }
            let times = self.worker.stop.load(Ordering::Relaxed);
            if times > 0 {
                let since = *asked_to_end.get_or_insert(now);
                if times > 1 || now.saturating_sub(since) >= self.worker.settings.grace {
                    return Ok(Outcome::HandedBack);
                }
            }
        }
    }

    /// Says what came of a unit, for people, and counts this machine's faults.
    fn judge(&mut self, ask: &Ask, came: &[Came], began: Duration) {
        let seconds = self.now().saturating_sub(began).as_secs_f64();
        match came.first() {
            Some(Came::Machine { reason }) => {
                self.worker.faults += 1;
                self.say(&format!("{}: this machine failed: {reason}", ask.id));
            }
            Some(Came::Candidate { reason }) => {
                self.worker.faults = 0;
                self.say(&format!("{}: has failed: {reason}", ask.id));
            }
            _ => {
                self.worker.faults = 0;
                let answers: usize = came.iter().map(answers_of).sum();
                self.say(&format!("{}: {answers} answers in {seconds:.1} s", ask.id));
            }
        }
    }

    /// Tells what came of a unit, however long the server is away, and only then acknowledges it.
    async fn tell(&self, ask: &Ask, came: Vec<Came>, message: &jetstream::Message) {
        let place = message.info().map_or(0, |info| info.stream_sequence);
        for (part, came) in came.into_iter().enumerate() {
            let tell = Tell {
                v: VERSION,
                run: ask.run.clone(),
                plan: ask.plan.clone(),
                token: ask.token.clone(),
                key: ask.key.clone(),
                worker: self.worker.settings.name.clone(),
                kind: self.worker.settings.kind.clone(),
                weights: ask.weights.clone(),
                came,
            };
            let payload = written(&tell);
            // A unit that is handed out again is told again, whatever the server remembers of the first time.
            let name = format!("{}.{}.{place}.{part}", ask.key, self.worker.settings.name);
            loop {
                let publish = PublishMessage::build()
                    .payload(payload.clone().into())
                    .message_id(&name);
                let context = &self.worker.context;
                let published = async { context.send_publish(self.subjects.tell(), publish).await?.await };
                match published.await {
                    Ok(_) => break,
                    // Nobody can be told, and nobody waits.
                    Err(e) if self.worker.stop.load(Ordering::Relaxed) > 1 => {
                        tracing::info!("an answer is lost: {e}");
                        return;
                    }
                    Err(e) => {
                        tracing::info!("an answer cannot be told yet: {e}");
                        let _ = message.ack_with(AckKind::Progress).await;
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }
        let acknowledged = message.double_ack();
        let _ = tokio::time::timeout(Duration::from_secs(5), acknowledged).await;
    }

    async fn leave(&self, reason: &str) {
        self.say(&format!("leaves {}: {reason}", self.here.name));
        let sign = Sign {
            state: SignState::Left {
                reason: shortened(reason),
            },
            ..self.status.sign(self.now())
        };
        let client = self.worker.context.client();
        let _ = client.publish(self.subjects.sign(), written(&sign).into()).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), client.flush()).await;
    }
}

fn answers_of(came: &Came) -> usize {
    match came {
        Came::Answers { answers, .. } => answers.len(),
        _ => 0,
    }
}

/// What is told of a unit, in messages that a server takes.
fn came(ask: &Ask, given: Result<Given, Unscored>) -> Vec<Came> {
    let given = match given {
        Ok(given) => given,
        Err(Unscored::Candidate { reason }) => {
            return vec![Came::Candidate {
                reason: shortened(&reason),
            }];
        }
        Err(Unscored::Machine { reason } | Unscored::Breakdown { reason }) => {
            return vec![Came::Machine {
                reason: shortened(&reason),
            }];
        }
    };
    let told = ask.parts.iter().zip(given.answers).flat_map(|(part, answers)| {
        part.items.iter().zip(answers).map(|(item, kept)| Told {
            task: part.task,
            split: part.split.clone(),
            item: *item,
            kept,
        })
    });
    let (mut messages, mut bytes): (Vec<Vec<Told>>, usize) = (vec![Vec::new()], 0);
    for told in told {
        let size = written(&told).len();
        if bytes > 0 && bytes + size > TELL_BYTES {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        messages
            .last_mut()
            .into_iter()
            .for_each(|message| message.push(told.clone()));
    }
    let first = messages.len();
    let of_message = |(place, answers): (usize, Vec<Told>)| Came::Answers {
        answers,
        // Told once.
        merge_ms: if place + 1 == first { given.merge_ms } else { 0 },
        evaluation_ms: if place + 1 == first { given.evaluation_ms } else { 0 },
    };
    messages.into_iter().enumerate().map(of_message).collect()
}
