//! A fleet without a network and without waiting: the coordinator's own table of who does what, and workers that are only numbers.
//!
//! ```text
//! cargo run --release --example fleet_plan -- WORKERS sync|async CANDIDATES GENERATION [SEEDS]
//! ```
//!
//! The workers are those of `examples/fleet`: a candidate's whole exam takes 5 s to 10 min (log-normal, clamped), a tenth of it its
//! merge; of the units 5 % take three times as long, over 1 % the worker dies, and another one comes after 30 s. The search is a
//! race of rungs of 24, 48 and 96 questions, of which half stay each time and whoever stays whatever the others answer begins with
//! the next rung; or one that is told of 96 answers a candidate as they come. So rules of [`Leases`] can be compared over many
//! runs in seconds.
//!
//! Prints means and standard errors over runs: how much of its time the fleet worked; how much went into units that counted; how
//! much would have done if every rung of a candidate had been one unit and no worker slow; and how long the runs took.

#![allow(clippy::unwrap_used)] // what cannot be done here ends the simulation

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use heterosis::{
    models::verbatim,
    search::{Part, Work},
    workers::{Act, Job, Leases, Ready, Spent, Taken},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "shared/exam_times.rs"]
mod exam_times;

use exam_times::{COMES_AFTER, DYING, STRAGGLES, STRAGGLING, WHOLE};

const RUNGS: [usize; 3] = [24, 48, 96];

/// Seconds between two signs of life.
const SIGN: f64 = 2.0;

/// As many candidates beyond the workers are out, one for so many of them, where answers are told as they come.
const WORKERS_A_SPARE: usize = 8;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [workers, kind, candidates, generation, rest @ ..] = words.as_slice() else {
        return eprintln!("fleet_plan WORKERS sync|async CANDIDATES GENERATION [SEEDS]");
    };
    let seeds: u64 = rest.first().map_or(8, |seeds| seeds.parse().unwrap());
    let search = |random: &mut ChaCha8Rng| {
        Search::new(
            kind == "async",
            candidates.parse().unwrap(),
            generation.parse().unwrap(),
            random.random(),
        )
    };
    let runs: Vec<[f64; 5]> = (0..seeds)
        .map(|seed| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let search = search(&mut random);
            Fleet::new(workers.parse().unwrap(), search, random).run()
        })
        .collect();
    let told = |place: usize| {
        let (n, all) = (runs.len() as f64, runs.iter().map(|run| run[place]));
        let mean = all.clone().sum::<f64>() / n;
        let deviation = (all.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        format!("{mean:.1} ± {:.1}", deviation / n.sqrt())
    };
    println!(
        "| {workers} | {kind} | {candidates} of {generation} | {} % | {} % | {} % | {} | {} s |",
        told(0),
        told(1),
        told(2),
        told(3),
        told(4)
    );
}

/// One candidate.
struct Candidate {
    /// Seconds of its whole exam.
    whole: f64,
    /// What it is worth on each rung.
    values: [f64; 3],
}

/// Seconds of so many questions of a candidate.
fn seconds(candidate: &Candidate, questions: usize) -> f64 {
    candidate.whole * exam_times::parts(questions).iter().sum::<f64>()
}

/// A search that asks for candidates and races them.
struct Search {
    is_async: bool,
    /// To be begun yet.
    left: usize,
    generation: usize,
    candidates: Vec<Candidate>,
    /// By number: candidate and rung.
    jobs: HashMap<u64, (usize, usize)>,
    next_job: u64,
    /// Of a generation: who stands on each rung so far, and what they are worth there.
    rungs: Vec<Vec<usize>>,
    known: Vec<HashMap<usize, f64>>,
    begun: HashSet<(usize, usize)>,
    /// Who stood on which rung: what they did there was not in vain.
    stood: HashSet<(usize, usize)>,
    /// Begun, and then the candidate did not stay.
    in_vain: Vec<u64>,
    random: ChaCha8Rng,
}

impl Search {
    fn new(is_async: bool, candidates: usize, generation: usize, seed: u64) -> Self {
        Self {
            is_async,
            left: candidates,
            generation,
            candidates: Vec::new(),
            jobs: HashMap::new(),
            next_job: 0,
            rungs: Vec::new(),
            known: Vec::new(),
            begun: HashSet::new(),
            stood: HashSet::new(),
            in_vain: Vec::new(),
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// What it has to ask now, with so many workers.
    fn asks(&mut self, workers: usize) -> Vec<Job> {
        if self.is_async {
            let room = workers + workers / WORKERS_A_SPARE;
            let n = room.saturating_sub(self.jobs.len()).min(self.left);
            return (0..n).map(|_| self.begin(0, WHOLE)).collect();
        }
        if self.rungs.is_empty() {
            let n = self.generation.min(self.left);
            let jobs: Vec<Job> = (0..n).map(|_| self.begin(0, RUNGS[0])).collect();
            self.rungs = vec![jobs.iter().map(|job| self.jobs[&job.number].0).collect()];
            self.known = vec![HashMap::new()];
            return jobs;
        }
        self.sure()
    }

    /// A new candidate.
    fn begin(&mut self, rung: usize, questions: usize) -> Job {
        self.left -= 1;
        let whole = exam_times::whole(&mut self.random);
        let worth: f64 = self.random.random();
        let values = [0.5, 0.3, 0.1].map(|noise| worth + noise * self.random.random::<f64>());
        self.candidates.push(Candidate { whole, values });
        self.stood.insert((self.candidates.len() - 1, rung));
        self.job(self.candidates.len() - 1, rung, 0..questions)
    }

    fn job(&mut self, candidate: usize, rung: usize, items: std::ops::Range<usize>) -> Job {
        let number = self.next_job;
        self.next_job += 1;
        self.jobs.insert(number, (candidate, rung));
        self.begun.insert((candidate, rung));
        Job {
            number,
            id: format!("c{candidate}"),
            weights: candidate.to_string(),
            work: Work {
                recipe: verbatim("m"),
                is_guarded: true,
                parts: vec![Part {
                    task: 0,
                    split: "search".into(),
                    items: items.collect(),
                }],
            },
        }
    }

    /// Whoever stays on the next rung whatever the others answer; a rung whose end has come is followed by the next one.
    fn sure(&mut self) -> Vec<Job> {
        let rung = self.rungs.len() - 1;
        let (standing, known) = (&self.rungs[rung], &self.known[rung]);
        let out = standing.len() - known.len();
        if rung + 1 == RUNGS.len() {
            if out == 0 {
                self.rungs.clear();
                return match self.left {
                    0 => Vec::new(),
                    _ => self.asks(0),
                };
            }
            return Vec::new();
        }
        let most = self.rungs[0].len().div_ceil(2 << rung);
        let mut ranked: Vec<usize> = known.keys().copied().collect();
        ranked.sort_by(|a, b| known[b].total_cmp(&known[a]).then(a.cmp(b)));
        ranked.truncate(most.saturating_sub(out));
        if out == 0 {
            self.rungs.push(ranked.clone());
            self.known.push(HashMap::new());
            self.stood.extend(ranked.iter().map(|candidate| (*candidate, rung + 1)));
            let stood = &self.stood;
            let in_vain = self.jobs.extract_if(|_, job| !stood.contains(job));
            self.in_vain.extend(in_vain.map(|(number, _)| number));
        }
        let new = ranked
            .into_iter()
            .filter(|candidate| !self.begun.contains(&(*candidate, rung + 1)));
        let new: Vec<usize> = new.collect();
        let items = RUNGS[rung]..RUNGS[rung + 1];
        let mut jobs: Vec<Job> = new.into_iter().map(|c| self.job(c, rung + 1, items.clone())).collect();
        // Some of the next rung may have answered before it began.
        if out == 0 {
            let early: Vec<usize> = self.rungs[rung + 1].clone();
            let values = early
                .iter()
                .filter(|c| !self.jobs.values().any(|job| *job == (**c, rung + 1)));
            let values: Vec<(usize, f64)> = values.map(|c| (*c, self.candidates[*c].values[rung + 1])).collect();
            self.known[rung + 1].extend(values);
            jobs.extend(self.sure());
        }
        jobs
    }

    /// Of those who would stay if nobody else answered any more the best, for workers who would wait for the last of a rung.
    fn likely(&mut self, most: usize) -> Vec<Job> {
        let rung = self.rungs.len().wrapping_sub(1);
        if self.is_async || rung.wrapping_add(2) > RUNGS.len() || rung == usize::MAX {
            return Vec::new();
        }
        let known = &self.known[rung];
        let mut ranked: Vec<usize> = known.keys().copied().collect();
        ranked.sort_by(|a, b| known[b].total_cmp(&known[a]).then(a.cmp(b)));
        ranked.truncate(self.rungs[0].len().div_ceil(2 << rung));
        ranked.retain(|candidate| !self.begun.contains(&(*candidate, rung + 1)));
        ranked.truncate(most);
        let items = RUNGS[rung]..RUNGS[rung + 1];
        ranked
            .into_iter()
            .map(|c| self.job(c, rung + 1, items.clone()))
            .collect()
    }

    /// Seconds of all that was not in vain, each candidate's rung in one piece.
    fn needed(&self) -> f64 {
        let of = |(candidate, rung): &(usize, usize)| {
            let before = if *rung == 0 { 0 } else { RUNGS[rung - 1] };
            let questions = if self.is_async { WHOLE } else { RUNGS[*rung] - before };
            seconds(&self.candidates[*candidate], questions)
        };
        self.stood.iter().map(of).sum()
    }

    fn has_answered(&mut self, job: u64) {
        let (candidate, rung) = self.jobs.remove(&job).unwrap();
        if let Some(known) = self.known.get_mut(rung) {
            known.insert(candidate, self.candidates[candidate].values[rung]);
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.jobs.is_empty() && (self.is_async || self.rungs.is_empty())
    }
}

/// A worker's place.
struct Worker {
    life: usize,
    unit: Option<Unit>,
    dead_until: Option<f64>,
    next_sign: f64,
}

/// What it is at.
#[derive(Clone)]
struct Unit {
    key: String,
    questions: usize,
    began: f64,
    ends: f64,
    dies: bool,
}

struct Fleet {
    leases: Leases,
    looks_further: bool,
    search: Search,
    workers: Vec<Worker>,
    ready: Ready,
    now: f64,
    units: usize,
    busy: f64,
    /// Seconds of units that counted, by candidate and rung.
    useful: HashMap<(usize, usize), f64>,
    random: ChaCha8Rng,
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl Fleet {
    fn new(workers: usize, search: Search, random: ChaCha8Rng) -> Self {
        let worker = |n: usize| Worker {
            life: 0,
            unit: None,
            dead_until: None,
            next_sign: SIGN * n as f64 / workers as f64,
        };
        let mut leases = Leases::new("plan".into(), true);
        for n in 0..workers {
            leases.heard(&name(n, 0), None, at(0.0));
        }
        Self {
            leases,
            looks_further: std::env::var_os("NO_LOOK").is_none(),
            search,
            workers: (0..workers).map(worker).collect(),
            ready: Ready::default(),
            now: 0.0,
            units: 0,
            busy: 0.0,
            useful: HashMap::new(),
            random,
        }
    }

    /// Percent busy, useful and needed, units, and seconds.
    fn run(mut self) -> [f64; 5] {
        while !self.search.is_over() {
            let jobs = self.search.asks(self.workers.len());
            jobs.into_iter().for_each(|job| self.leases.add(job));
            for number in std::mem::take(&mut self.search.in_vain) {
                let acts = self.leases.cancel(number);
                self.perform(acts);
            }
            if self.search.is_over() {
                break;
            }
            self.hand_out();
            let free = self
                .workers
                .iter()
                .filter(|w| w.unit.is_none() && w.dead_until.is_none())
                .count();
            if self.looks_further && free > 0 {
                let likely = self.search.likely(free);
                likely.into_iter().for_each(|job| self.leases.add(job));
                self.hand_out();
            }
            self.pass();
        }
        let at_work = self.workers.iter().filter_map(|worker| worker.unit.as_ref());
        self.busy += at_work.map(|unit| self.now - unit.began).sum::<f64>();
        let percent = |seconds: f64| 100.0 * seconds / (self.workers.len() as f64 * self.now);
        let needed = percent(self.search.needed());
        let useful = self.useful.iter().filter(|(of, _)| self.search.stood.contains(of));
        [
            percent(self.busy),
            percent(useful.map(|(_, seconds)| seconds).sum()),
            needed,
            self.units as f64,
            self.now,
        ]
    }

    fn hand_out(&mut self) {
        loop {
            let acts = self.leases.due(at(self.now));
            self.perform(acts);
            if !self.take() {
                break;
            }
        }
    }

    fn perform(&mut self, acts: Vec<Act>) {
        for act in self.ready.perform(&mut self.leases, acts) {
            if let Act::GiveUp { reason, .. } = act {
                panic!("{reason}");
            }
        }
    }

    /// Whoever is free takes what lies first in the queue; whether anybody did.
    fn take(&mut self) -> bool {
        let mut has_taken = false;
        for n in 0..self.workers.len() {
            if self.workers[n].unit.is_some() || self.workers[n].dead_until.is_some() {
                continue;
            }
            let Some(key) = self.ready.take() else { break };
            let Some((_, weights, work)) = self.leases.unit(&key) else {
                continue;
            };
            let questions = work.parts.iter().map(|part| part.items.len()).sum();
            let mut takes = seconds(&self.search.candidates[weights.parse::<usize>().unwrap()], questions);
            if self.random.random_bool(STRAGGLING) {
                takes *= STRAGGLES;
            }
            let dies = self.random.random_bool(DYING);
            if dies {
                takes *= self.random.random::<f64>();
            }
            self.leases
                .heard(&name(n, self.workers[n].life), Some(&key), at(self.now));
            self.workers[n].unit = Some(Unit {
                key,
                questions,
                began: self.now,
                ends: self.now + takes,
                dies,
            });
            has_taken = true;
        }
        has_taken
    }

    /// Time passes until something happens, a second at most.
    fn pass(&mut self) {
        let ends = self
            .workers
            .iter()
            .filter_map(|w| w.unit.as_ref().map(|unit| unit.ends).or(w.dead_until));
        self.now = ends.fold(self.now + 1.0, f64::min).max(self.now + 1e-6);
        for n in 0..self.workers.len() {
            let worker = &mut self.workers[n];
            if worker.dead_until.is_some_and(|until| until <= self.now) {
                (worker.dead_until, worker.life, worker.next_sign) = (None, worker.life + 1, self.now);
            }
            if let Some(unit) = worker.unit.take_if(|unit| unit.ends <= self.now) {
                self.ends(n, &unit);
            }
            let worker = &mut self.workers[n];
            if worker.dead_until.is_none() && worker.next_sign <= self.now {
                worker.next_sign = self.now + SIGN;
                let doing = worker.unit.as_ref().map(|unit| unit.key.as_str());
                self.leases.heard(&name(n, worker.life), doing, at(self.now));
            }
        }
    }

    fn ends(&mut self, n: usize, unit: &Unit) {
        let spent = self.now - unit.began;
        self.units += 1;
        self.busy += spent;
        if unit.dies {
            self.workers[n].dead_until = Some(self.now + COMES_AFTER);
            return;
        }
        let answers: Vec<(usize, usize)> = match self.leases.unit(&unit.key) {
            Some((_, _, work)) => work.parts[0].items.iter().map(|item| (0, *item)).collect(),
            None => Vec::new(),
        };
        let [merge, evaluation] = exam_times::parts(unit.questions);
        let merge = spent * merge / (merge + evaluation);
        let told = Spent {
            merge: at(merge),
            evaluation: at(spent - merge),
        };
        let (taken, acts) = self.leases.answered(&unit.key, &answers, told);
        self.perform(acts);
        self.leases.heard(&name(n, self.workers[n].life), None, at(self.now));
        if let Taken::Of { job, is_last } = taken {
            *self.useful.entry(self.search.jobs[&job]).or_default() += spent;
            if is_last {
                self.search.has_answered(job);
            }
        }
    }
}

fn name(worker: usize, life: usize) -> String {
    format!("w{worker}-{life}")
}
