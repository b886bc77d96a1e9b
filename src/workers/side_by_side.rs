//! Several hands in one process: one thread for each device of this machine, to a search a crew like any other.
//!
//! Each hand has its own decoder; the parents, what is known of them, and the lists of questions are there once. A hand is given
//! questions of a candidate that nobody has answered and gives back what the model did. Who does what is what [`Leases`] say, as
//! on several machines: where fewer candidates than hands are left they are cut in pieces. Answers are judged, kept in the
//! cache and journalled where the search is, in its order, so that the run is the one that a single device would have made.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::Scope,
    time::Duration,
};

use super::{
    desk::Now,
    leases::{Act, Job, Leases, Ready, Spent, Taken},
};
use crate::{
    event::{self, Event, WorkerState},
    search::{Crew, Evaluation, Evaluator, Given, Lesson, MergeEvaluator, News, Open, Sitting, Unscored, Work},
    store::Cache,
};

/// How long the search waits before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Between two signs of a hand that works.
const SIGN: Duration = Duration::from_millis(500);

/// What a hand says.
struct Word {
    hand: usize,
    said: Said,
}

enum Said {
    Progress(event::Progress),
    Done(Result<Given, Unscored>),
}

/// One thread with a decoder.
struct Hand {
    orders: Sender<Work>,
    unit: Option<Unit>,
    since: Duration,
    signed: Duration,
    came: Duration,
    seen: event::Worker,
}

/// What a hand is at.
struct Unit {
    key: String,
    /// The candidate.
    id: String,
    weights: String,
    work: Work,
}

/// Several devices, as an evaluator. It is dropped before the scope of its threads ends.
pub struct SideBySide<'a> {
    /// Holds the questions and the cache; it learns, too.
    local: MergeEvaluator<'a>,
    hands: Vec<Hand>,
    /// Who does what: where fewer candidates are out than there are hands, they are cut in pieces.
    leases: Leases,
    ready: Ready,
    /// By the numbers of their jobs.
    out: HashMap<u64, (String, Open)>,
    next_job: u64,
    words: Receiver<Word>,
    news: VecDeque<News>,
    now: Now,
}

impl<'a> SideBySide<'a> {
    /// Puts evaluators to work, each on a thread of its own, for whoever coordinates.
    pub fn begin<'scope>(
        scope: &'scope Scope<'scope, '_>,
        local: MergeEvaluator<'a>,
        others: Vec<MergeEvaluator<'a>>,
        host: &str,
        now: Now,
    ) -> Self
    where
        'a: 'scope,
    {
        let (to_me, words) = mpsc::channel();
        let started = now();
        let hand = |(hand, evaluator): (usize, MergeEvaluator<'a>)| {
            let computation = evaluator.computation();
            let seen = event::Worker {
                worker: format!("{host}-{hand}"),
                host: host.into(),
                device: evaluator.device().to_string(),
                dtype: computation.dtype.name().into(),
                instruction_set: computation.instruction_set,
                ..event::Worker::default()
            };
            let (orders, work) = mpsc::channel();
            let to_me = to_me.clone();
            scope.spawn(move || give(hand, evaluator, &work, &to_me));
            Hand {
                orders,
                unit: None,
                since: started,
                signed: started,
                came: started,
                seen,
            }
        };
        let hands: Vec<Hand> = others.into_iter().enumerate().map(hand).collect();
        let told = hands.iter().map(|hand| News::Told(Event::Worker(hand.seen.clone())));
        Self {
            local,
            news: told.collect(),
            hands,
            leases: Leases::new(String::new(), true),
            ready: Ready::default(),
            out: HashMap::new(),
            next_job: 0,
            words,
            now,
        }
    }

    /// Gives those who are free what there is to do.
    fn hand_out(&mut self) {
        loop {
            let now = (self.now)();
            for hand in &self.hands {
                let doing = hand.unit.as_ref().map(|unit| unit.key.as_str());
                self.leases.heard(&hand.seen.worker, doing, now);
            }
            let acts = self.leases.due(now);
            self.perform(acts);
            let Some(hand) = self.hands.iter_mut().find(|hand| hand.unit.is_none()) else {
                return;
            };
            let Some(key) = self.ready.take() else { return };
            if let Some((id, weights, work)) = self.leases.unit(&key) {
                let (id, weights, work) = (id.into(), weights.into(), work.clone());
                let orders = hand.orders.send(work.clone());
                orders.expect("the hands live as long as this does");
                (hand.since, hand.seen.state) = (now, WorkerState::Working);
                hand.unit = Some(Unit { key, id, weights, work });
            }
        }
    }

    fn perform(&mut self, acts: Vec<Act>) {
        for act in self.ready.perform(&mut self.leases, acts) {
            // Nobody is lost: a thread is there as long as the search.
            if let Act::GiveUp { job, reason } = act {
                self.over(job, Unscored::machine(reason));
            }
        }
    }

    fn over(&mut self, job: u64, failure: Unscored) {
        if let Some((id, _)) = self.out.remove(&job) {
            self.news.push_back(News::Done(id, Err(failure)));
        }
    }

    fn hear(&mut self, Word { hand, said }: Word) -> News {
        let now = (self.now)();
        let hand = &mut self.hands[hand];
        let Some(unit) = hand.unit.take() else {
            return News::Nothing;
        };
        let given = match said {
            Said::Progress(progress) => {
                let id = unit.id.clone();
                hand.unit = Some(unit);
                return hand.sign(event::Progress { id, ..progress }, now);
            }
            Said::Done(given) => given,
        };
        hand.seen.busy_ms += ms(now - hand.since);
        hand.seen.here_ms = ms(now - hand.came);
        hand.seen.state = WorkerState::Idle;
        if let Ok(given) = &given {
            hand.seen.answers += given.answers.iter().map(Vec::len).sum::<usize>() as u64;
        }
        let seen = hand.seen.clone();
        match given {
            Ok(given) => self.take(&unit, &given),
            Err(failure) => {
                let (job, acts) = self.leases.refused(&unit.key);
                self.perform(acts);
                if let Some(job) = job {
                    self.over(job, failure);
                }
            }
        }
        News::Told(Event::Worker(seen))
    }

    /// Answers into the cache, and into the sitting that waits for them.
    fn take(&mut self, unit: &Unit, given: &Given) {
        let spent = Spent {
            merge: Duration::from_millis(given.merge_ms),
            evaluation: Duration::from_millis(given.evaluation_ms),
        };
        let parts = unit.work.parts.iter().enumerate();
        let asked = parts.flat_map(|(place, part)| part.items.iter().map(move |item| (place, *item)));
        let (taken, acts) = self.leases.answered(&unit.key, &asked.collect::<Vec<_>>(), spent);
        self.perform(acts);
        let mut sitting = match taken {
            Taken::Of { job, is_last } => self.out.remove(&job).map(|sitting| (job, is_last, sitting)),
            Taken::Late | Taken::Odd => None,
        };
        let mut judged = Ok(());
        for (part, answers) in unit.work.parts.iter().zip(&given.answers) {
            for (item, kept) in part.items.iter().zip(answers) {
                self.local.keep(&unit.weights, part.task, &part.split, *item, kept);
                if let (Some((_, _, (_, open))), Ok(())) = (&mut sitting, &judged) {
                    judged = self.local.answer(open, part.task, &part.split, *item, kept).map(drop);
                }
            }
        }
        let Some((job, is_last, (id, mut open))) = sitting else {
            return;
        };
        open.spent(given.merge_ms, given.evaluation_ms);
        let ended = match (judged, is_last, open.lacks()) {
            (Err(failure), ..) => {
                let acts = self.leases.cancel(job);
                self.perform(acts);
                Err(failure)
            }
            (Ok(()), true, 0) => Ok(open.evaluation()),
            (Ok(()), true, n) => Err(Unscored::machine(format_args!("{n} of its answers came from nowhere"))),
            (Ok(()), false, _) => {
                self.out.insert(job, (id, open));
                return;
            }
        };
        self.news.push_back(News::Done(id, ended));
    }
}

fn ms(time: Duration) -> u64 {
    time.as_millis() as u64
}

impl Hand {
    /// How far it is, for whoever looks on, now and then.
    fn sign(&mut self, doing: event::Progress, now: Duration) -> News {
        if now - self.signed < SIGN {
            return News::Nothing;
        }
        self.signed = now;
        News::Shown(Event::Worker(event::Worker {
            state: WorkerState::Working,
            doing: Some(doing),
            busy_ms: self.seen.busy_ms + ms(now - self.since),
            here_ms: ms(now - self.came),
            ..self.seen.clone()
        }))
    }
}

/// What a hand does until there are no more orders.
fn give(hand: usize, mut evaluator: MergeEvaluator<'_>, orders: &Receiver<Work>, to_search: &Sender<Word>) {
    // Whoever listened is gone when the search has ended.
    let say = |said| drop(to_search.send(Word { hand, said }));
    for work in orders {
        let given = catch_unwind(AssertUnwindSafe(|| {
            // Who coordinates keeps what was answered.
            evaluator.set_cache(Cache::in_memory());
            evaluator.give(&work, &mut |progress| say(Said::Progress(progress)))
        }));
        let broke = |_| Err(Unscored::machine("the thread that evaluated it broke down"));
        say(Said::Done(given.unwrap_or_else(broke)));
    }
}

impl Evaluator for SideBySide<'_> {
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

impl Crew for SideBySide<'_> {
    fn size(&self) -> usize {
        self.hands.len()
    }

    fn idle(&self) -> usize {
        self.leases.idle()
    }

    fn give_up(&mut self, id: &str) -> bool {
        let of_it = self.out.extract_if(|_, (of, _)| of == id);
        let acts = of_it.flat_map(|(job, _)| self.leases.cancel(job)).collect();
        self.perform(acts);
        self.news.retain(|news| !matches!(news, News::Done(of, _) if of == id));
        true
    }

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let id = sitting.id.to_string();
        match self.local.open(sitting, &[]) {
            Ok(open) if open.is_whole() => self.news.push_back(News::Done(id, Ok(open.evaluation()))),
            Ok(open) => {
                let number = self.next_job;
                self.next_job += 1;
                self.leases.add(Job {
                    number,
                    id: id.clone(),
                    weights: open.weights.clone(),
                    work: open.work.clone(),
                });
                self.out.insert(number, (id, open));
            }
            Err(failure) => self.news.push_back(News::Done(id, Err(failure))),
        }
    }

    fn next(&mut self) -> News {
        if let Some(news) = self.news.pop_front() {
            return news;
        }
        // The search has begun with all that it has.
        self.hand_out();
        match self.words.recv_timeout(LOOK) {
            Ok(word) => self.hear(word),
            Err(RecvTimeoutError::Timeout) => News::Nothing,
            // A hand survives what breaks under it, and ends with its orders.
            Err(RecvTimeoutError::Disconnected) => unreachable!("the hands live as long as this does"),
        }
    }
}
