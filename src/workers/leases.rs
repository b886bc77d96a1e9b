//! Who does what, by the coordinator's own clock: the truth about a run's units of work, of which the queue is only told.
//!
//! Work comes as jobs, one for each sitting, and goes out as units: a job is cut into several where more workers are free than
//! there are jobs. A unit that nobody takes, or whose worker is not heard of any more, is issued again; the slowest ones are
//! issued twice when nothing else is left to do. Whoever answers first is believed, and what comes later changes nothing. A
//! worker that fails, or dies, is no verdict: its unit goes to others, and when several have failed over it the job is given
//! up as a fault of the machines.
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

/// A unit that takes so many times as long as usual is issued a second time, if somebody is free.
const SLOW: f64 = 1.5;

/// And not before it has taken so long: for less, loading a model twice is not worth it.
const SLOW_AT_LEAST: Duration = Duration::from_secs(2);

/// Times of units that tell what is usual.
const KNOWN_TIMES: usize = 64;

/// The fewest questions of a piece of a job.
const LEAST_PIECE: usize = 8;

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
    times: VecDeque<Duration>,
    /// The search has heard of all that is done, and has nothing more to ask until more comes back.
    nothing_follows: bool,
    /// Units that were answered, those issued again, and answers that came too late.
    pub done: u64,
    pub reissued: u64,
    pub late: u64,
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
    is_doubled: bool,
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
            times: VecDeque::new(),
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

    /// A worker said that it is there, and what it does.
    pub fn heard(&mut self, worker: &str, doing: Option<&str>, now: Duration) {
        let known = self.workers.entry(worker.into()).or_insert(Worker {
            heard: now,
            doing: None,
        });
        known.heard = now;
        let before = std::mem::replace(&mut known.doing, doing.map(String::from));
        if let Some(before) = before.filter(|before| Some(before.as_str()) != doing) {
            self.leaves(worker, &before, now);
        }
        if let Some(unit) = doing.and_then(|key| self.units.get_mut(key)) {
            unit.takers.entry(worker.into()).or_insert(now);
        }
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

    /// Answers to a unit, as pairs of part and question.
    pub fn answered(
        &mut self,
        key: &str,
        worker: &str,
        answers: &[(usize, usize)],
        now: Duration,
    ) -> (Taken, Vec<Act>) {
        let Some(unit) = self.units.get_mut(key) else {
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
        answers.iter().for_each(|answer| {
            unit.missing.remove(answer);
        });
        let job = unit.job;
        if !unit.missing.is_empty() {
            return (Taken::Of { job, is_last: false }, Vec::new());
        }
        let began = unit.takers.get(worker).copied().unwrap_or(unit.alone_since);
        self.times.push_back(now.saturating_sub(began));
        if self.times.len() > KNOWN_TIMES {
            self.times.pop_front();
        }
        self.done += 1;
        let acts = self.close(key);
        let is_last = self.jobs.get(&job).is_some_and(|job| job.units.is_empty())
            && self.waiting.iter().all(|waiting| waiting.number != job);
        if is_last {
            self.jobs.remove(&job);
        }
        (Taken::Of { job, is_last }, acts)
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
        acts.extend(self.double(now));
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

    /// Jobs go out as long as there may be somebody to take them.
    fn hand_out(&mut self, now: Duration) -> Vec<Act> {
        let hands = self.workers.len();
        let room = hands.max(1) + (hands / WORKERS_A_SPARE).max(1);
        let mut outstanding = self.outstanding();
        let mut acts = Vec::new();
        while outstanding < room
            && let Some(job) = self.waiting.pop_front()
        {
            let free = hands.saturating_sub(outstanding);
            let share = free / (self.waiting.len() + 1);
            for work in self.cut(&job.work, share.max(1)) {
                acts.extend(self.open(&job, work, now));
                outstanding += 1;
            }
        }
        acts
    }

    /// A job in about so many pieces.
    fn cut(&self, work: &Work, share: usize) -> Vec<Work> {
        let n: usize = work.parts.iter().map(|part| part.items.len()).sum();
        let pieces = match self.may_cut {
            true => share.clamp(1, (n / LEAST_PIECE).max(1)),
            false => 1,
        };
        cut(work, n.div_ceil(pieces.max(1)).min(MOST_QUESTIONS))
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
            is_doubled: false,
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

    /// The slowest units once more, where somebody is free and nothing else is left.
    fn double(&mut self, now: Duration) -> Vec<Act> {
        let mut free = self.workers.len().saturating_sub(self.outstanding());
        if !self.nothing_follows || !self.waiting.is_empty() || free == 0 {
            return Vec::new();
        }
        let slow = self.usual().mul_f64(SLOW).max(SLOW_AT_LEAST);
        let since = |unit: &Unit| unit.takers.values().min().map(|began| now.saturating_sub(*began));
        let mut slowest: Vec<(Duration, String)> = self
            .units
            .iter()
            .filter(|(_, unit)| !unit.is_doubled)
            .filter_map(|(key, unit)| Some((since(unit)?, key.clone())))
            .filter(|(taken, _)| *taken > slow)
            .collect();
        slowest.sort();
        let mut acts = Vec::new();
        while free > 0
            && let Some((_, key)) = slowest.pop()
        {
            if let Some(unit) = self.units.get_mut(&key) {
                unit.is_doubled = true;
                self.reissued += 1;
                acts.push(unit.issue(&key, now));
                free -= 1;
            }
        }
        acts
    }

    /// The median of what units took.
    fn usual(&self) -> Duration {
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(Duration::MAX / 4)
    }
}

impl Unit {
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

    fn answer(leases: &mut Leases, key: &str, worker: &str, now: Duration) -> (Taken, Vec<Act>) {
        let answers = all_of(leases, key);
        leases.answered(key, worker, &answers, now)
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
        let (taken, _) = answer(&mut leases, &key, "b", at(15));
        assert_eq!(taken, Taken::Of { job: 1, is_last: true });
        assert_eq!(leases.answered(&key, "a", &[(0, 0)], at(16)).0, Taken::Late);
        assert_eq!((leases.done, leases.late, leases.reissued), (1, 1, 1));
        // Its place in the queue was told too late: it is taken out.
        assert_eq!(leases.issued(&key, 1, 9), [Act::Withdraw { seq: 9 }]);
    }

    #[test]
    fn jobs_are_cut_where_more_are_free_and_come_back_whole() {
        let mut leases = Leases::new("plan".into(), true);
        (0..8).for_each(|n| leases.heard(&format!("w{n}"), None, at(0)));
        leases.add(job(1, 64));
        leases.add(job(2, 64));
        let keys = issued(&leases.due(at(0)));
        assert_eq!(keys.len(), 8, "four pieces each");
        let lasts: Vec<bool> = keys
            .iter()
            .map(|key| matches!(answer(&mut leases, key, "w0", at(1)).0, Taken::Of { is_last: true, .. }))
            .collect();
        assert_eq!(lasts.iter().filter(|is_last| **is_last).count(), 2);
        assert!(lasts[7]);

        let mut whole = Leases::new("plan".into(), false);
        (0..8).for_each(|n| whole.heard(&format!("w{n}"), None, at(0)));
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

    #[test]
    fn the_slowest_is_issued_twice_at_the_end_and_once_only() {
        let mut leases = Leases::new("plan".into(), true);
        for worker in ["a", "b", "c"] {
            leases.heard(worker, None, at(0));
        }
        (1..4).for_each(|number| leases.add(job(number, 4)));
        let keys = issued(&leases.due(at(0)));
        for (worker, key) in ["a", "b", "c"].iter().zip(&keys) {
            leases.heard(worker, Some(key), at(0));
        }
        answer(&mut leases, &keys[0], "a", at(4));
        answer(&mut leases, &keys[1], "b", at(4));
        for worker in ["a", "b"] {
            leases.heard(worker, None, at(5));
        }
        leases.heard("c", Some(&keys[2]), at(5));
        assert_eq!(issued(&leases.due(at(5))), Vec::<String>::new(), "not slow yet");
        leases.heard("c", Some(&keys[2]), at(8));
        assert_eq!(issued(&leases.due(at(8))), [keys[2].clone()]);
        leases.heard("a", Some(&keys[2]), at(9));
        assert_eq!(issued(&leases.due(at(10))), Vec::<String>::new());
        assert_eq!(
            answer(&mut leases, &keys[2], "a", at(11)).0,
            Taken::Of { job: 3, is_last: true }
        );
    }

    /// Of a simulated fleet's time a quarter went into units that another worker was at: whoever had answered was given the
    /// slowest unit once more before the search could say what came next.
    #[test]
    fn who_is_free_until_the_next_candidate_comes_is_given_no_second_copy() {
        let mut leases = Leases::new("plan".into(), true);
        ["a", "b"].iter().for_each(|worker| leases.heard(worker, None, at(0)));
        (1..3).for_each(|number| leases.add(job(number, 4)));
        let keys = issued(&leases.due(at(0)));
        leases.heard("a", Some(&keys[0]), at(0));
        leases.heard("b", Some(&keys[1]), at(0));
        answer(&mut leases, &keys[0], "a", at(4));
        leases.nothing_follows(false);
        leases.heard("a", None, at(9));
        assert_eq!(issued(&leases.due(at(9))), Vec::<String>::new());
        leases.nothing_follows(true);
        assert_eq!(issued(&leases.due(at(9))), [keys[1].clone()]);
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
        assert_eq!(leases.answered(&key, "x", &[(0, 0), (0, 4)], at(1)).0, Taken::Odd);
        assert_eq!(leases.answered(&key, "x", &[(1, 0)], at(1)).0, Taken::Odd);
        assert_eq!(leases.answered("abc", "x", &[], at(1)).0, Taken::Odd);
        assert_eq!(all_of(&leases, &key).len(), 4);
    }

    #[test]
    fn a_refusal_ends_the_whole_job() {
        let mut leases = Leases::new("plan".into(), true);
        (0..4).for_each(|n| leases.heard(&format!("w{n}"), None, at(0)));
        leases.add(job(1, 64));
        let keys = issued(&leases.due(at(0)));
        assert_eq!(keys.len(), 4);
        leases.issued(&keys[1], 0, 5);
        assert_eq!(leases.refused(&keys[0]), (Some(1), vec![Act::Withdraw { seq: 5 }]));
        assert_eq!(leases.refused(&keys[1]), (None, Vec::new()));
        assert_eq!(leases.answered(&keys[2], "w2", &[(0, 0)], at(1)).0, Taken::Late);
    }
}
