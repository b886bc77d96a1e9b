//! Who does what, by the coordinator's own clock: the truth about a run's units of work, of which the queue is only told.
//!
//! Work comes as jobs, one for each sitting, and goes out as units, the longest first: a job is cut into several where more
//! workers are free than there are jobs, or where its end would be waited for when all else is done. A unit that nobody takes, or
//! whose worker is not heard of any more, is issued again. When nothing else is left to do, the questions of a slow unit are
//! shared among those who are free; what cannot be shared is issued twice. Whoever answers a question first is believed, and what
//! comes later changes nothing. A worker that fails, or dies, is no verdict: its unit goes to others, and when several have failed
//! over it the job is given up as a fault of the machines.
//!
//! Nothing here knows of a network or a clock: moments are passed in, and what is to be done is given back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::protocol::{MOST_QUESTIONS, key_of};
use crate::search::{Part, Work};

/// A worker that has not been heard of for so long is lost. They say a word every two seconds.
pub const LOST: Duration = Duration::from_secs(12);

/// A unit that nobody has taken for so long, while somebody is free, is issued again: pulls have been known to stall.
pub const UNTAKEN: Duration = Duration::from_secs(15);

/// After a server took no unit, or lost its queue.
const AGAIN: Duration = Duration::from_secs(1);

/// A unit that takes so many times as long as is expected of it is slow: how much is left of it is not known. For a candidate of
/// which nothing is known that is said later, since one candidate takes much longer than another.
const SLOW: f64 = 1.1;
const SLOW_IF_UNKNOWN: f64 = 1.5;

/// Where nothing can be gained by sharing its questions, it is issued a second time after so many times as long.
const HUNG: f64 = 3.0;

/// Nothing of a unit is done twice before it has taken so long: for less, loading a model twice is not worth it.
const SLOW_AT_LEAST: Duration = Duration::from_secs(2);

/// Units that tell what is usual, and candidates of which it is known what they take.
const KNOWN_UNITS: usize = 64;
const KNOWN_CANDIDATES: usize = 4096;

/// The fewest questions of a piece of a job; and of one that is done twice, when nobody has anything else to do.
const LEAST_PIECE: usize = 8;
const LEAST_SHARE: usize = 4;

/// A piece may take so many times as long as all that is to be done, shared evenly, would take: guided self-scheduling
/// (Polychronopoulos & Kuck 1987), by which pieces get shorter as less is left. Their factor is 1; every piece merges anew, and
/// a search that is told of answers as they come always has little left: by simulated fleets (`examples/fleet_plan`), 2 loses
/// nothing there and is as good as 1 where generations are waited for.
const GUIDED: f64 = 2.0;

/// Workers that may fail over a unit, and workers that may be lost over it, before it is given up.
const MOST_FAULTS: usize = 4;
const MOST_LOSSES: usize = 6;

/// One of these for so many workers lies ready in the queue, so that whoever is done need not wait for the coordinator.
pub const WORKERS_A_SPARE: usize = 8;

/// A sitting that is to be done elsewhere.
#[derive(Clone, Debug)]
pub struct Job {
    pub number: u64,
    /// The candidate.
    pub id: String,
    pub weights: String,
    pub work: Work,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Put a unit into the queue.
    Issue { key: String, issue: u32 },
    /// Take a message out of the queue, if it is still there.
    Withdraw { seq: u64 },
    /// A job cannot be done, through no fault of its own.
    GiveUp { job: u64, reason: String },
    /// A worker is not heard of any more.
    Lost { worker: String },
}

/// What an answer was good for.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// Of this job; whether that was the last of it.
    Of { job: u64, is_last: bool },
    /// Nobody waits for it any more.
    Late,
    /// It answers other questions than were asked.
    Odd,
}

/// The table.
pub struct Leases {
    plan: String,
    /// A unit may be cut, and done by several; not where their answers may differ.
    may_cut: bool,
    waiting: VecDeque<Job>,
    jobs: HashMap<u64, JobState>,
    units: BTreeMap<String, Unit>,
    /// Units that are done, or nobody waits for: second answers to them are no surprise.
    over: HashSet<String>,
    workers: BTreeMap<String, Worker>,
    /// What the last units took, and the candidates that were met, by their weights.
    usual: VecDeque<Pace>,
    paces: HashMap<String, Pace>,
    /// The search has heard of all that is done, and has nothing more to ask until more comes back.
    nothing_follows: bool,
    /// Units that were answered, those issued again, and answers that came too late.
    pub done: u64,
    pub reissued: u64,
    pub late: u64,
}

/// What a worker spent on a unit, by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    pub merge: Duration,
    pub evaluation: Duration,
}

/// Seconds that a candidate takes: its merge, and each of its questions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    merge: f64,
    question: f64,
}

impl Pace {
    fn of(&self, questions: usize) -> f64 {
        self.merge + self.question * questions as f64
    }

    fn times(&self, factor: f64) -> Self {
        Self {
            merge: self.merge * factor,
            question: self.question * factor,
        }
    }
}

struct JobState {
    id: String,
    units: BTreeSet<String>,
}

struct Unit {
    job: u64,
    weights: String,
    work: Work,
    /// What has not been answered, as part and question.
    missing: BTreeSet<(usize, usize)>,
    issues: Vec<Issue>,
    next_issue: u32,
    takers: BTreeMap<String, Duration>,
    faults: BTreeMap<String, String>,
    losses: usize,
    /// When it last went out, or lost its last taker.
    alone_since: Duration,
    /// Others are at its questions too.
    is_shared: bool,
}

struct Issue {
    number: u32,
    seq: Option<u64>,
    failed_at: Option<Duration>,
}

struct Worker {
    heard: Duration,
    doing: Option<String>,
}

/// The queue of workers that are in this process: units that lie ready, by their places.
#[derive(Default)]
pub struct Ready {
    units: VecDeque<(String, u64)>,
    next_place: u64,
}

impl Ready {
    /// Puts units in and takes them out as the leases say; what else they say is given back, to be done by the caller.
    pub fn perform(&mut self, leases: &mut Leases, acts: Vec<Act>) -> Vec<Act> {
        let mut rest = Vec::new();
        for act in acts {
            match act {
                Act::Issue { key, issue } => {
                    self.next_place += 1;
                    self.units.push_back((key.clone(), self.next_place));
                    let acts = leases.issued(&key, issue, self.next_place);
                    rest.extend(self.perform(leases, acts));
                }
                Act::Withdraw { seq } => self.units.retain(|(_, place)| *place != seq),
                act @ (Act::GiveUp { .. } | Act::Lost { .. }) => rest.push(act),
            }
        }
        rest
    }

    /// Takes out the key of the unit that lies first.
    pub fn take(&mut self) -> Option<String> {
        self.units.pop_front().map(|(key, _)| key)
    }
}

impl Leases {
    pub fn new(plan: String, may_cut: bool) -> Self {
        Self {
            plan,
            may_cut,
            waiting: VecDeque::new(),
            jobs: HashMap::new(),
            units: BTreeMap::new(),
            over: HashSet::new(),
            workers: BTreeMap::new(),
            usual: VecDeque::new(),
            paces: HashMap::new(),
            nothing_follows: true,
            done: 0,
            reissued: 0,
            late: 0,
        }
    }

    /// Takes a job; it goes out with the next [`Self::due`].
    pub fn add(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// Whether the search has nothing to add before it hears of another answer: a worker who is free only until the next
    /// candidate is thought of is given nobody else's work.
    pub fn nothing_follows(&mut self, nothing_follows: bool) {
        self.nothing_follows = nothing_follows;
    }

    /// Workers that are there.
    pub fn hands(&self) -> usize {
        self.workers.len()
    }

    /// Workers for whom there is nothing to do until the search hears of another answer.
    pub fn idle(&self) -> usize {
        match self.nothing_follows && self.waiting.is_empty() {
            true => self.workers.len().saturating_sub(self.outstanding()),
            false => 0,
        }
    }

    /// A unit's work, to be written down.
    pub fn unit(&self, key: &str) -> Option<(&str, &str, &Work)> {
        let unit = self.units.get(key)?;
        let id = &self.jobs.get(&unit.job)?.id;
        Some((id, &unit.weights, &unit.work))
    }

    /// A unit is in the queue at this place.
    pub fn issued(&mut self, key: &str, issue: u32, seq: u64) -> Vec<Act> {
        match self.units.get_mut(key) {
            Some(unit) => {
                let issue = unit.issues.iter_mut().find(|known| known.number == issue);
                issue.into_iter().for_each(|issue| issue.seq = Some(seq));
                Vec::new()
            }
            // It was answered before its place was known.
            None => vec![Act::Withdraw { seq }],
        }
    }

    /// The server took it not.
    pub fn not_issued(&mut self, key: &str, issue: u32, now: Duration) {
        let unit = self.units.get_mut(key);
        let issues = unit.into_iter().flat_map(|unit| &mut unit.issues);
        issues
            .filter(|known| known.number == issue)
            .for_each(|issue| issue.failed_at = Some(now));
    }

    /// A worker said that it is there, and what it does; whether that is anything new.
    pub fn heard(&mut self, worker: &str, doing: Option<&str>, now: Duration) -> bool {
        let is_new = !self.workers.contains_key(worker);
        let known = self.workers.entry(worker.into()).or_insert(Worker {
            heard: now,
            doing: None,
        });
        known.heard = now;
        let before = std::mem::replace(&mut known.doing, doing.map(String::from));
        let has_changed = before.as_deref() != doing;
        if let Some(before) = before.filter(|before| Some(before.as_str()) != doing) {
            self.leaves(worker, &before, now);
        }
        if let Some(unit) = doing.and_then(|key| self.units.get_mut(key)) {
            unit.takers.entry(worker.into()).or_insert(now);
        }
        is_new || has_changed
    }

    /// A worker has gone, of its own will.
    pub fn left(&mut self, worker: &str, now: Duration) {
        if let Some(Worker { doing: Some(key), .. }) = self.workers.remove(worker) {
            self.leaves(worker, &key, now);
        }
    }

    fn leaves(&mut self, worker: &str, key: &str, now: Duration) {
        if let Some(unit) = self.units.get_mut(key)
            && unit.takers.remove(worker).is_some()
            && unit.takers.is_empty()
        {
            unit.alone_since = now;
        }
    }

    /// Answers to a unit, as pairs of part and question; they count for every unit that asks the same of the candidate.
    pub fn answered(&mut self, key: &str, answers: &[(usize, usize)], spent: Spent) -> (Taken, Vec<Act>) {
        let Some(unit) = self.units.get(key) else {
            let taken = match self.over.contains(key) {
                true => Taken::Late,
                false => Taken::Odd,
            };
            self.late += u64::from(taken == Taken::Late);
            return (taken, Vec::new());
        };
        let is_asked = |(part, item): &(usize, usize)| {
            let part = unit.work.parts.get(*part);
            part.is_some_and(|part| part.items.binary_search(item).is_ok())
        };
        if !answers.iter().all(is_asked) {
            return (Taken::Odd, Vec::new());
        }
        let (job, weights, questions) = (unit.job, unit.weights.clone(), count(&unit.work));
        let given: Vec<(Part, usize)> = answers
            .iter()
            .map(|(part, item)| (without_items(&unit.work.parts[*part]), *item))
            .collect();
        self.learn(weights, questions, spent);
        let keys = self.jobs.get(&job).map(|job| job.units.clone()).unwrap_or_default();
        let whole: Vec<String> = keys.into_iter().filter(|key| self.strike(key, &given)).collect();
        if whole.is_empty() {
            return (Taken::Of { job, is_last: false }, Vec::new());
        }
        self.done += whole.len() as u64;
        let acts = whole.iter().flat_map(|key| self.close(key)).collect();
        let is_last = self.jobs.get(&job).is_some_and(|job| job.units.is_empty())
            && self.waiting.iter().all(|waiting| waiting.number != job);
        if is_last {
            self.jobs.remove(&job);
        }
        (Taken::Of { job, is_last }, acts)
    }

    /// A unit asks no more what has been answered; whether that was all of it.
    fn strike(&mut self, key: &str, given: &[(Part, usize)]) -> bool {
        let Some(unit) = self.units.get_mut(key) else {
            return false;
        };
        let parts: Vec<Part> = unit.work.parts.iter().map(without_items).collect();
        for (part, item) in given {
            let places = (0..parts.len()).filter(|place| parts[*place] == *part);
            places.for_each(|place| {
                unit.missing.remove(&(place, *item));
            });
        }
        unit.missing.is_empty()
    }

    /// What a candidate takes; the least that any unit of it took tells most, since workers may be slow too.
    fn learn(&mut self, weights: String, questions: usize, spent: Spent) {
        // Of a unit that is told in several messages the last one says it.
        if spent == Spent::default() {
            return;
        }
        let pace = Pace {
            merge: spent.merge.as_secs_f64(),
            question: spent.evaluation.as_secs_f64() / questions.max(1) as f64,
        };
        self.usual.push_back(pace);
        if self.usual.len() > KNOWN_UNITS {
            self.usual.pop_front();
        }
        if self.paces.len() >= KNOWN_CANDIDATES {
            self.paces.clear();
        }
        let known = self.paces.entry(weights).or_insert(pace);
        if pace.question < known.question {
            *known = pace;
        }
    }

    /// The candidate of a unit has failed: all of its job is over. The job, if anybody still waits for it.
    pub fn refused(&mut self, key: &str) -> (Option<u64>, Vec<Act>) {
        match self.units.get(key).map(|unit| unit.job) {
            Some(job) => (Some(job), self.cancel(job)),
            None => (None, Vec::new()),
        }
    }

    /// A worker could not do a unit, through no fault of the candidate's.
    pub fn failed(&mut self, key: &str, worker: &str, reason: &str, now: Duration) -> Vec<Act> {
        let Some(unit) = self.units.get_mut(key) else {
            return Vec::new();
        };
        unit.takers.remove(worker);
        unit.faults.insert(worker.into(), reason.into());
        if unit.faults.len() >= MOST_FAULTS {
            let (n, job) = (unit.faults.len(), unit.job);
            return self.give_up(
                job,
                format!("{n} workers failed over it, {worker} the last of them: {reason}"),
            );
        }
        self.issue_again(key, now)
    }

    /// Nobody waits for a job any more.
    pub fn cancel(&mut self, job: u64) -> Vec<Act> {
        self.waiting.retain(|waiting| waiting.number != job);
        let units = self.jobs.remove(&job).map(|job| job.units).unwrap_or_default();
        units.iter().flat_map(|key| self.close(key)).collect()
    }

    /// Jobs that no worker is at.
    pub fn untaken(&self) -> Vec<u64> {
        let is_taken = |job: &&u64| {
            let units = self.jobs.get(job).into_iter().flat_map(|job| &job.units);
            units
                .filter_map(|key| self.units.get(key))
                .any(|unit| !unit.takers.is_empty())
        };
        let mut jobs: Vec<u64> = self.jobs.keys().filter(|job| !is_taken(job)).copied().collect();
        let waits = self.waiting.iter().map(|job| job.number);
        jobs.extend(waits.filter(|number| !self.jobs.contains_key(number)));
        jobs.sort_unstable();
        jobs
    }

    fn give_up(&mut self, job: u64, reason: String) -> Vec<Act> {
        let mut acts = self.cancel(job);
        acts.push(Act::GiveUp { job, reason });
        acts
    }

    /// A unit is over, however.
    fn close(&mut self, key: &str) -> Vec<Act> {
        let Some(unit) = self.units.remove(key) else {
            return Vec::new();
        };
        if let Some(job) = self.jobs.get_mut(&unit.job) {
            job.units.remove(key);
        }
        self.over.insert(key.into());
        withdraw(unit.issues)
    }

    fn issue_again(&mut self, key: &str, now: Duration) -> Vec<Act> {
        let Some(unit) = self.units.get_mut(key) else {
            return Vec::new();
        };
        self.reissued += 1;
        let mut acts = withdraw(std::mem::take(&mut unit.issues));
        acts.push(unit.issue(key, now));
        acts
    }

    /// What the time that has passed, and the workers that have come, call for.
    pub fn due(&mut self, now: Duration) -> Vec<Act> {
        let mut acts = self.lose(now);
        acts.extend(self.hand_out(now));
        acts.extend(self.remind(now));
        acts.extend(self.share(now));
        acts
    }

    /// Workers that are silent.
    fn lose(&mut self, now: Duration) -> Vec<Act> {
        let is_lost = |worker: &Worker| now.saturating_sub(worker.heard) > LOST;
        let lost: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, worker)| is_lost(worker))
            .map(|(name, _)| name.clone())
            .collect();
        let mut acts = Vec::new();
        for worker in lost {
            let doing = self.workers.remove(&worker).and_then(|worker| worker.doing);
            acts.push(Act::Lost { worker: worker.clone() });
            let Some((key, unit)) = doing.and_then(|key| self.units.get_mut(&key).map(|unit| (key, unit))) else {
                continue;
            };
            unit.takers.remove(&worker);
            unit.losses += 1;
            if unit.losses >= MOST_LOSSES {
                let (n, job) = (unit.losses, unit.job);
                acts.extend(self.give_up(job, format!("{n} workers were lost over it, {worker} the last of them")));
            } else if unit.takers.is_empty() {
                acts.extend(self.issue_again(&key, now));
            }
        }
        acts
    }

    /// Copies of units that somebody is at, or may take.
    fn outstanding(&self) -> usize {
        let copies = |unit: &Unit| unit.issues.len().max(unit.takers.len());
        self.units.values().map(copies).sum()
    }

    /// Jobs go out as long as there may be somebody to take them, the longest first.
    fn hand_out(&mut self, now: Duration) -> Vec<Act> {
        let hands = self.workers.len();
        let room = hands.max(1) + (hands / WORKERS_A_SPARE).max(1);
        let mut outstanding = self.outstanding();
        let mut acts = Vec::new();
        if outstanding >= room || self.waiting.is_empty() {
            return acts;
        }
        let mean = mean(&self.usual);
        while outstanding < room
            && let Some(job) = self.longest(mean)
        {
            let free = hands.saturating_sub(outstanding);
            let share = free / (self.waiting.len() + 1);
            let most = self.piece(&job, share.max(1), mean, now);
            for work in cut(&job.work, most) {
                acts.extend(self.open(&job, work, now));
                outstanding += 1;
            }
        }
        acts
    }

    /// The job that is expected to take longest; of equals, or where nothing is known, the one that came first.
    fn longest(&mut self, mean: Option<Pace>) -> Option<Job> {
        let Some(mean) = mean else {
            return self.waiting.pop_front();
        };
        let seconds = |job: &Job| self.paces.get(&job.weights).unwrap_or(&mean).of(count(&job.work));
        let waiting = self.waiting.iter().map(seconds).enumerate();
        let (place, _) = waiting.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        self.waiting.remove(place)
    }

    /// The most questions of a piece of a job, for so many who are free.
    fn piece(&self, job: &Job, share: usize, mean: Option<Pace>, now: Duration) -> usize {
        let n = count(&job.work);
        if !self.may_cut {
            return MOST_QUESTIONS;
        }
        let guided = match mean {
            None => n,
            Some(mean) => {
                let pace = self.paces.get(&job.weights).unwrap_or(&mean);
                let even = self.seconds_left(job, mean, now) / self.workers.len().max(1) as f64;
                ((GUIDED * even - pace.merge) / pace.question.max(f64::MIN_POSITIVE)).clamp(0.0, n as f64) as usize
            }
        };
        let most = guided.min(n.div_ceil(share)).max(LEAST_PIECE).min(n);
        // Pieces of one length.
        n.div_ceil(n.div_ceil(most)).min(MOST_QUESTIONS)
    }

    /// What this job, those that wait and what is out will take of the workers' time.
    fn seconds_left(&self, job: &Job, mean: Pace, now: Duration) -> f64 {
        let seconds = |weights: &str, work: &Work| self.paces.get(weights).unwrap_or(&mean).of(count(work));
        let waiting = self.waiting.iter().chain([job]);
        let waits: f64 = waiting.map(|job| seconds(&job.weights, &job.work)).sum();
        let at_work = self.units.values().map(|unit| {
            let taken = unit.taken(now).unwrap_or_default().as_secs_f64();
            (seconds(&unit.weights, &unit.work) - taken).max(0.0)
        });
        waits + at_work.sum::<f64>()
    }

    fn open(&mut self, job: &Job, work: Work, now: Duration) -> Option<Act> {
        let key = key_of(&self.plan, &job.weights, &work);
        let state = self.jobs.entry(job.number).or_insert_with(|| JobState {
            id: job.id.clone(),
            units: BTreeSet::new(),
        });
        if self.units.contains_key(&key) {
            return None; // two candidates of one recipe are never out at a time for the same questions
        }
        state.units.insert(key.clone());
        self.over.remove(&key);
        let missing = work.parts.iter().zip(0..).flat_map(|(part, place)| {
            let items = part.items.iter();
            items.map(move |item| (place, *item))
        });
        let mut unit = Unit {
            job: job.number,
            weights: job.weights.clone(),
            missing: missing.collect(),
            work,
            issues: Vec::new(),
            next_issue: 0,
            takers: BTreeMap::new(),
            faults: BTreeMap::new(),
            losses: 0,
            alone_since: now,
            is_shared: false,
        };
        let act = unit.issue(&key, now);
        self.units.insert(key, unit);
        Some(act)
    }

    /// Units that lie in the queue though somebody is free, and those that the server did not take.
    fn remind(&mut self, now: Duration) -> Vec<Act> {
        let is_free = self.workers.values().any(|worker| worker.doing.is_none());
        let is_due = |unit: &Unit| {
            let failed = unit
                .issues
                .iter()
                .all(|issue| issue.failed_at.is_some_and(|at| now.saturating_sub(at) > AGAIN));
            let lies = is_free && now.saturating_sub(unit.alone_since) > UNTAKEN;
            unit.takers.is_empty() && (failed || lies)
        };
        let due: Vec<String> = self
            .units
            .iter()
            .filter(|(_, unit)| is_due(unit))
            .map(|(key, _)| key.clone())
            .collect();
        due.iter().flat_map(|key| self.issue_again(key, now)).collect()
    }

    /// The questions of the slowest units once more, in pieces, where somebody is free and nothing else is left: those that would
    /// otherwise be waited for longest come first.
    fn share(&mut self, now: Duration) -> Vec<Act> {
        let mut free = self.idle();
        if free == 0 {
            return Vec::new();
        }
        let Some(usual) = median(&self.usual) else {
            return Vec::new();
        };
        let mut slowest: Vec<Late> = self
            .units
            .iter()
            .filter(|(_, unit)| !unit.is_shared)
            .filter_map(|(key, unit)| self.late(key, unit, usual, now))
            .collect();
        slowest.sort_by(|a, b| b.left.total_cmp(&a.left).then_with(|| a.key.cmp(&b.key)));
        let mut acts = Vec::new();
        for late in slowest {
            if free == 0 {
                break;
            }
            let issued = self.share_one(&late, free, now);
            free = free.saturating_sub(issued.len());
            acts.extend(issued);
        }
        acts
    }

    /// How late a unit is that somebody is at.
    fn late(&self, key: &str, unit: &Unit, usual: Pace, now: Duration) -> Option<Late> {
        let taken = unit.taken(now).filter(|taken| *taken > SLOW_AT_LEAST)?.as_secs_f64();
        let known = self.paces.get(&unit.weights).copied();
        let (pace, slow) = known.map_or((usual, SLOW_IF_UNKNOWN), |known| (known, SLOW));
        let expected = pace.of(count(&unit.work));
        let is_slow = taken > slow * expected;
        // What has taken long is expected to take as long again.
        let whole = if is_slow { 2.0 * taken } else { expected };
        let factor = match known {
            // It may be the candidate that is slow, whoever is at it.
            None if is_slow => whole / expected.max(f64::MIN_POSITIVE),
            _ => 1.0,
        };
        Some(Late {
            key: key.into(),
            left: whole - taken,
            is_hung: taken > HUNG * expected,
            pace: pace.times(factor),
        })
    }

    /// Shares a unit among some of those who are free, if they are expected to be done before it; else, if it seems to hang,
    /// issues it a second time.
    fn share_one(&mut self, late: &Late, free: usize, now: Duration) -> Vec<Act> {
        let Some((job, is_untouched)) = self.rest(&late.key) else {
            return Vec::new();
        };
        let n = count(&job.work);
        let pieces = match self.may_cut {
            true => free.min(n / LEAST_SHARE).max(1),
            false => 1,
        };
        let most = n.div_ceil(pieces);
        let is_gain = late.pace.of(most) < late.left;
        // Of what can be shared no second copy is made for want of hands: more may be free in a moment.
        let hangs = late.is_hung && !(self.may_cut && n >= 2 * LEAST_SHARE);
        let Some(unit) = self.units.get_mut(&late.key).filter(|_| is_gain || hangs) else {
            return Vec::new();
        };
        unit.is_shared = true;
        self.reissued += 1;
        if pieces == 1 && is_untouched {
            return vec![unit.issue(&late.key, now)];
        }
        let pieces = cut(&job.work, most).into_iter();
        pieces.filter_map(|work| self.open(&job, work, now)).collect()
    }

    /// What of a unit nobody has answered, and whether that is all of it.
    fn rest(&self, key: &str) -> Option<(Job, bool)> {
        let unit = self.units.get(key)?;
        let missing = |place: usize| {
            let of_part = unit.missing.range((place, 0)..(place + 1, 0));
            of_part.map(|(_, item)| *item).collect::<Vec<_>>()
        };
        let parts = unit.work.parts.iter().enumerate().map(|(place, part)| Part {
            items: missing(place),
            ..part.clone()
        });
        let work = Work {
            parts: parts.filter(|part| !part.items.is_empty()).collect(),
            ..unit.work.clone()
        };
        let is_untouched = work == unit.work;
        let job = Job {
            number: unit.job,
            id: self.jobs.get(&unit.job)?.id.clone(),
            weights: unit.weights.clone(),
            work,
        };
        Some((job, is_untouched))
    }
}

/// A unit that is waited for.
struct Late {
    key: String,
    /// Seconds that it is expected to take yet.
    left: f64,
    is_hung: bool,
    /// What it is expected to take of others.
    pace: Pace,
}

fn mean(paces: &VecDeque<Pace>) -> Option<Pace> {
    let n = (!paces.is_empty()).then_some(paces.len() as f64)?;
    Some(Pace {
        merge: paces.iter().map(|pace| pace.merge).sum::<f64>() / n,
        question: paces.iter().map(|pace| pace.question).sum::<f64>() / n,
    })
}

fn median(paces: &VecDeque<Pace>) -> Option<Pace> {
    let of = |seconds: fn(&Pace) -> f64| {
        let mut all: Vec<f64> = paces.iter().map(seconds).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    Some(Pace {
        merge: of(|pace| pace.merge)?,
        question: of(|pace| pace.question)?,
    })
}

/// Questions of a unit.
fn count(work: &Work) -> usize {
    work.parts.iter().map(|part| part.items.len()).sum()
}

/// Which list a part is of.
fn without_items(part: &Part) -> Part {
    Part {
        items: Vec::new(),
        ..part.clone()
    }
}

impl Unit {
    /// How long somebody has been at it.
    fn taken(&self, now: Duration) -> Option<Duration> {
        let began = self.takers.values().min()?;
        Some(now.saturating_sub(*began))
    }

    fn issue(&mut self, key: &str, now: Duration) -> Act {
        let issue = self.next_issue;
        self.next_issue += 1;
        self.issues.push(Issue {
            number: issue,
            seq: None,
            failed_at: None,
        });
        self.alone_since = now;
        Act::Issue { key: key.into(), issue }
    }
}

fn withdraw(issues: Vec<Issue>) -> Vec<Act> {
    let places = issues.into_iter().filter_map(|issue| issue.seq);
    places.map(|seq| Act::Withdraw { seq }).collect()
}

/// A unit's questions in pieces of at most `most`, in their order.
fn cut(work: &Work, most: usize) -> Vec<Work> {
    let mut pieces: Vec<Vec<Part>> = vec![Vec::new()];
    let mut room = most;
    for part in &work.parts {
        let mut items = part.items.as_slice();
        while !items.is_empty() {
            if room == 0 {
                (room, _) = (most, pieces.push(Vec::new()));
            }
            let (here, rest) = items.split_at(room.min(items.len()));
            room -= here.len();
            items = rest;
            if let Some(piece) = pieces.last_mut() {
                piece.push(Part {
                    items: here.to_vec(),
                    ..part.clone()
                });
            }
        }
    }
    let of_parts = |parts: Vec<Part>| Work { parts, ..work.clone() };
    pieces
        .into_iter()
        .filter(|parts| !parts.is_empty())
        .map(of_parts)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::verbatim;

    fn job(number: u64, questions: usize) -> Job {
        Job {
            number,
            id: format!("c{number:04}"),
            weights: format!("{number:x}"),
            work: Work {
                recipe: verbatim("maths"),
                is_guarded: true,
                parts: vec![Part {
                    task: 0,
                    split: "search".into(),
                    items: (0..questions).collect(),
                }],
            },
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn issued(acts: &[Act]) -> Vec<String> {
        let key = |act: &Act| match act {
            Act::Issue { key, .. } => Some(key.clone()),
            _ => None,
        };
        acts.iter().filter_map(key).collect()
    }

    fn all_of(leases: &Leases, key: &str) -> Vec<(usize, usize)> {
        leases.units[key].missing.iter().copied().collect()
    }

    /// All of a unit that has taken so many seconds.
    fn answer(leases: &mut Leases, key: &str, seconds: u64) -> (Taken, Vec<Act>) {
        let answers = all_of(leases, key);
        leases.answered(key, &answers, spent(seconds))
    }

    /// A tenth of a time is the merge.
    fn spent(seconds: u64) -> Spent {
        Spent {
            merge: at(seconds) / 10,
            evaluation: at(seconds) * 9 / 10,
        }
    }

    /// Workers that are at a unit each.
    fn at_work(leases: &mut Leases, keys: &[String], now: Duration) {
        for (n, key) in keys.iter().enumerate() {
            leases.heard(&format!("w{n}"), Some(key), now);
        }
    }

    fn questions_of(leases: &Leases, keys: &[String]) -> Vec<usize> {
        keys.iter().map(|key| count(&leases.units[key].work)).collect()
    }

    #[test]
    fn a_unit_whose_worker_falls_silent_is_issued_again_and_its_first_answer_counts() {
        let mut leases = Leases::new("plan".into(), true);
        leases.heard("a", None, at(0));
        leases.heard("b", None, at(0));
        leases.add(job(1, 4));
        let key = issued(&leases.due(at(0))).remove(0);
        assert_eq!(leases.issued(&key, 0, 7), []);
        leases.heard("a", Some(&key), at(1));
        for second in 2..14 {
            leases.heard("b", None, at(second));
            assert!(!leases.due(at(second)).contains(&Act::Withdraw { seq: 7 }), "{second}");
        }
        leases.heard("b", None, at(14));
        let acts = leases.due(at(14));
        assert!(acts.contains(&Act::Lost { worker: "a".into() }), "{acts:?}");
        assert!(
            acts.contains(&Act::Withdraw { seq: 7 }) && issued(&acts) == [key.clone()],
            "{acts:?}"
        );
        let (taken, _) = answer(&mut leases, &key, 1);
        assert_eq!(taken, Taken::Of { job: 1, is_last: true });
        assert_eq!(leases.answered(&key, &[(0, 0)], spent(15)).0, Taken::Late);
        assert_eq!((leases.done, leases.late, leases.reissued), (1, 1, 1));
        // Its place in the queue was told too late: it is taken out.
        assert_eq!(leases.issued(&key, 1, 9), [Act::Withdraw { seq: 9 }]);
    }

    #[test]
    fn jobs_are_cut_where_more_are_free_and_come_back_whole() {
        let mut leases = Leases::new("plan".into(), true);
        (0..8).for_each(|n| {
            leases.heard(&format!("w{n}"), None, at(0));
        });
        leases.add(job(1, 64));
        leases.add(job(2, 64));
        let keys = issued(&leases.due(at(0)));
        assert_eq!(keys.len(), 8, "four pieces each");
        let lasts: Vec<bool> = keys
            .iter()
            .map(|key| matches!(answer(&mut leases, key, 1).0, Taken::Of { is_last: true, .. }))
            .collect();
        assert_eq!(lasts.iter().filter(|is_last| **is_last).count(), 2);
        assert!(lasts[7]);

        let mut whole = Leases::new("plan".into(), false);
        (0..8).for_each(|n| {
            whole.heard(&format!("w{n}"), None, at(0));
        });
        whole.add(job(1, 64));
        assert_eq!(
            issued(&whole.due(at(0))).len(),
            1,
            "answers of several kinds are not mixed"
        );
    }

    #[test]
    fn every_question_is_in_one_piece() {
        let work = Work {
            parts: vec![
                Part {
                    task: 0,
                    split: "search".into(),
                    items: (0..10).collect(),
                },
                Part {
                    task: 1,
                    split: "test".into(),
                    items: (5..12).collect(),
                },
            ],
            ..job(1, 1).work
        };
        for most in 1..20 {
            let pieces = cut(&work, most);
            let all: Vec<(usize, usize)> = pieces
                .iter()
                .flat_map(|piece| &piece.parts)
                .flat_map(|part| part.items.iter().map(|item| (part.task, *item)))
                .collect();
            let expected: Vec<_> = (0..10).map(|i| (0, i)).chain((5..12).map(|i| (1, i))).collect();
            assert_eq!(all, expected, "{most}");
            assert!(
                pieces
                    .iter()
                    .all(|p| p.parts.iter().map(|p| p.items.len()).sum::<usize>() <= most)
            );
        }
    }

    /// A message stays in the queue after `max_deliver`, a pull may stall, a server may have lost its store.
    #[test]
    fn what_nobody_takes_and_what_the_server_refuses_is_issued_again() {
        let mut leases = Leases::new("plan".into(), true);
        leases.add(job(1, 4));
        let key = issued(&leases.due(at(0))).remove(0);
        leases.issued(&key, 0, 1);
        assert_eq!(
            issued(&leases.due(at(100))),
            Vec::<String>::new(),
            "nobody is there to take it"
        );
        leases.heard("a", None, at(100));
        assert_eq!(
            leases.due(at(101)),
            [
                Act::Withdraw { seq: 1 },
                Act::Issue {
                    key: key.clone(),
                    issue: 1
                }
            ]
        );
        leases.not_issued(&key, 1, at(101));
        leases.heard("a", None, at(103));
        assert_eq!(issued(&leases.due(at(103))), [key]);
    }

    /// A machine may hang over what cannot be shared.
    #[test]
    fn what_hangs_and_cannot_be_shared_is_issued_twice_and_once_only() {
        let mut leases = Leases::new("plan".into(), true);
        for worker in ["w0", "w1", "w2"] {
            leases.heard(worker, None, at(0));
        }
        (1..4).for_each(|number| leases.add(job(number, 4)));
        let keys = issued(&leases.due(at(0)));
        at_work(&mut leases, &keys, at(0));
        answer(&mut leases, &keys[0], 4);
        answer(&mut leases, &keys[1], 4);
        for second in 5..=12 {
            for worker in ["w0", "w1"] {
                leases.heard(worker, None, at(second));
            }
            leases.heard("w2", Some(&keys[2]), at(second));
            assert_eq!(issued(&leases.due(at(second))), Vec::<String>::new(), "{second}");
        }
        assert_eq!(issued(&leases.due(at(13))), [keys[2].clone()]);
        leases.heard("w0", Some(&keys[2]), at(14));
        assert_eq!(issued(&leases.due(at(15))), Vec::<String>::new());
        assert_eq!(answer(&mut leases, &keys[2], 2).0, Taken::Of { job: 3, is_last: true });
    }

    /// Two workers began a whole job each; the first was quick, and how quick the other one's candidate is nobody knows.
    fn one_of_two_is_done() -> (Leases, Vec<String>) {
        let mut leases = Leases::new("plan".into(), true);
        leases.add(job(1, 24));
        leases.add(job(2, 24));
        (0..2).for_each(|n| {
            leases.heard(&format!("w{n}"), None, at(0));
        });
        let keys = issued(&leases.due(at(0)));
        assert_eq!(questions_of(&leases, &keys), [24, 24]);
        at_work(&mut leases, &keys, at(0));
        answer(&mut leases, &keys[0], 10);
        (leases, keys)
    }

    /// The last unit of a generation was done twice, from its beginning and whole, while sixty workers had nothing to do.
    #[test]
    fn a_slow_unit_is_shared_among_all_who_are_free_and_every_question_counts_once() {
        let (mut leases, keys) = one_of_two_is_done();
        (0..10).for_each(|n| {
            leases.heard(&format!("w{n}"), if n == 1 { Some(&keys[1]) } else { None }, at(10));
        });
        assert_eq!(issued(&leases.due(at(10))), Vec::<String>::new(), "as long as is usual");
        (0..10).for_each(|n| {
            leases.heard(&format!("w{n}"), if n == 1 { Some(&keys[1]) } else { None }, at(20));
        });
        let pieces = issued(&leases.due(at(20)));
        assert_eq!(questions_of(&leases, &pieces), [4; 6]);
        assert_eq!(issued(&leases.due(at(21))), Vec::<String>::new(), "once");

        // Half of it comes by pieces; then the slow one is done, and the other pieces are called back.
        for (place, key) in pieces.iter().enumerate() {
            assert_eq!(leases.issued(key, 0, 100 + place as u64), []);
        }
        for key in &pieces[..3] {
            assert_eq!(answer(&mut leases, key, 3).0, Taken::Of { job: 2, is_last: false });
        }
        assert_eq!(all_of(&leases, &keys[1]).len(), 12);
        let whole: Vec<(usize, usize)> = (0..24).map(|item| (0, item)).collect();
        let (taken, acts) = leases.answered(&keys[1], &whole, spent(30));
        assert_eq!(taken, Taken::Of { job: 2, is_last: true });
        let withdrawn = |seq| acts.contains(&Act::Withdraw { seq });
        assert!((103..106).all(withdrawn), "{acts:?}");
        assert_eq!(leases.answered(&pieces[4], &[(0, 16)], spent(3)).0, Taken::Late);
        assert!(leases.units.is_empty() && leases.jobs.is_empty());
    }

    /// The other way round: pieces that cover a unit close it, and whoever hangs over it is late.
    #[test]
    fn pieces_that_cover_a_unit_end_its_job() {
        let (mut leases, keys) = one_of_two_is_done();
        (0..4).for_each(|n| {
            leases.heard(&format!("w{n}"), if n == 1 { Some(&keys[1]) } else { None }, at(25));
        });
        let pieces = issued(&leases.due(at(25)));
        assert_eq!(questions_of(&leases, &pieces), [8; 3], "three are free");
        let taken: Vec<Taken> = pieces.iter().map(|key| answer(&mut leases, key, 4).0).collect();
        let of = |is_last| Taken::Of { job: 2, is_last };
        assert_eq!(taken, [of(false), of(false), of(true)]);
        assert_eq!(leases.answered(&keys[1], &[(0, 0)], spent(90)).0, Taken::Late);
    }

    /// A slow candidate began last, and was waited for.
    #[test]
    fn the_longest_job_goes_first() {
        let mut leases = Leases::new("plan".into(), true);
        ["w0", "w1"].iter().for_each(|worker| {
            leases.heard(worker, None, at(0));
        });
        for (number, seconds) in [(1, 4), (2, 40)] {
            leases.add(job(number, 8));
            let keys = issued(&leases.due(at(0)));
            answer(&mut leases, &keys[0], seconds);
        }
        (1..4).for_each(|number| leases.add(job(number, 16)));
        let jobs: Vec<u64> = issued(&leases.due(at(0)))
            .iter()
            .map(|key| leases.units[key].job)
            .collect();
        assert_eq!(jobs, [2, 3, 1], "of the third nothing is known");
    }

    /// What went out last, and whole, was waited for by everybody.
    #[test]
    fn pieces_get_shorter_as_less_is_left() {
        for (second, sizes) in [(0, vec![64]), (20, vec![16; 4])] {
            let mut leases = Leases::new("plan".into(), true);
            leases.heard("w0", None, at(0));
            // 0.8 s for the merge, 0.9 s for each question.
            leases.add(job(0, 8));
            let keys = issued(&leases.due(at(0)));
            answer(&mut leases, &keys[0], 8);
            (0..8).for_each(|n| {
                leases.heard(&format!("w{n}"), None, at(0));
            });
            (1..9).for_each(|number| leases.add(job(number, 24)));
            let keys = issued(&leases.due(at(0)));
            assert_eq!(questions_of(&leases, &keys), [24; 8]);
            at_work(&mut leases, &keys, at(0));
            at_work(&mut leases, &keys, at(second));
            leases.add(job(9, 64));
            let keys = issued(&leases.due(at(second)));
            assert_eq!(questions_of(&leases, &keys), sizes, "after {second} s");
        }
    }

    /// Of a simulated fleet's time a quarter went into units that another worker was at: whoever had answered was given the
    /// slowest unit once more before the search could say what came next.
    #[test]
    fn who_is_free_until_the_next_candidate_comes_is_given_no_second_copy() {
        let mut leases = Leases::new("plan".into(), true);
        ["w0", "w1"].iter().for_each(|worker| {
            leases.heard(worker, None, at(0));
        });
        (1..3).for_each(|number| leases.add(job(number, 4)));
        let keys = issued(&leases.due(at(0)));
        at_work(&mut leases, &keys, at(0));
        answer(&mut leases, &keys[0], 3);
        leases.nothing_follows(false);
        leases.heard("w0", None, at(10));
        assert_eq!(issued(&leases.due(at(10))), Vec::<String>::new());
        leases.nothing_follows(true);
        assert_eq!(issued(&leases.due(at(10))), [keys[1].clone()]);
    }

    #[test]
    fn faults_of_workers_end_in_no_verdict() {
        let mut leases = Leases::new("plan".into(), true);
        leases.add(job(1, 4));
        let key = issued(&leases.due(at(0))).remove(0);
        for worker in ["a", "b", "c"] {
            let acts = leases.failed(&key, worker, "no memory", at(1));
            assert_eq!(issued(&acts), std::slice::from_ref(&key));
        }
        let acts = leases.failed(&key, "d", "no memory", at(1));
        assert!(
            matches!(acts.as_slice(), [Act::GiveUp { job: 1, reason }] if reason.contains("no memory")),
            "{acts:?}"
        );
        assert!(leases.untaken().is_empty());
    }

    #[test]
    fn answers_to_other_questions_change_nothing() {
        let mut leases = Leases::new("plan".into(), true);
        leases.add(job(1, 4));
        let key = issued(&leases.due(at(0))).remove(0);
        assert_eq!(leases.answered(&key, &[(0, 0), (0, 4)], spent(1)).0, Taken::Odd);
        assert_eq!(leases.answered(&key, &[(1, 0)], spent(1)).0, Taken::Odd);
        assert_eq!(leases.answered("abc", &[], spent(1)).0, Taken::Odd);
        assert_eq!(all_of(&leases, &key).len(), 4);
    }

    #[test]
    fn a_refusal_ends_the_whole_job() {
        let mut leases = Leases::new("plan".into(), true);
        (0..4).for_each(|n| {
            leases.heard(&format!("w{n}"), None, at(0));
        });
        leases.add(job(1, 64));
        let keys = issued(&leases.due(at(0)));
        assert_eq!(keys.len(), 4);
        leases.issued(&keys[1], 0, 5);
        assert_eq!(leases.refused(&keys[0]), (Some(1), vec![Act::Withdraw { seq: 5 }]));
        assert_eq!(leases.refused(&keys[1]), (None, Vec::new()));
        assert_eq!(leases.answered(&keys[2], &[(0, 0)], spent(1)).0, Taken::Late);
    }
}
