//! Several hands in one process: one thread for each device of this machine, to a search a crew like any other.
//!
//! Each hand has its own decoder; the parents, what is known of them, and the lists of questions are there once. A hand is given
//! the questions of a candidate that nobody has answered and gives back what the model did; answers are judged, kept in the
//! cache and journalled where the search is, in its order, so that the run is the one that a single device would have made.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::Scope,
    time::Duration,
};

use super::desk::Now;
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
    sitting: Option<(String, Open)>,
    since: Duration,
    signed: Duration,
    came: Duration,
    seen: event::Worker,
}

/// Several devices, as an evaluator. It is dropped before the scope of its threads ends.
pub struct SideBySide<'a> {
    /// Holds the questions and the cache; it learns, too.
    local: MergeEvaluator<'a>,
    hands: Vec<Hand>,
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
                sitting: None,
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
            words,
            now,
        }
    }

    fn hear(&mut self, Word { hand, said }: Word) -> News {
        let now = (self.now)();
        let hand = &mut self.hands[hand];
        let Some((id, mut open)) = hand.sitting.take() else {
            return News::Nothing;
        };
        let given = match said {
            Said::Progress(progress) => {
                hand.sitting = Some((id.clone(), open));
                return hand.sign(event::Progress { id, ..progress }, now);
            }
            Said::Done(given) => given,
        };
        hand.seen.busy_ms += ms(now - hand.since);
        hand.seen.here_ms = ms(now - hand.came);
        hand.seen.state = WorkerState::Idle;
        let taken = given.and_then(|given| {
            hand.seen.answers += given.answers.iter().map(Vec::len).sum::<usize>() as u64;
            take(&self.local, &mut open, &given)?;
            Ok(open.evaluation())
        });
        self.news.push_back(News::Done(id, taken));
        News::Told(Event::Worker(hand.seen.clone()))
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

/// Answers into the cache and into the sitting that waits for them.
fn take(local: &MergeEvaluator<'_>, open: &mut Open, given: &Given) -> Result<(), Unscored> {
    open.spent(given.merge_ms, given.evaluation_ms);
    let parts = open.work.parts.clone();
    for (part, answers) in parts.iter().zip(&given.answers) {
        for (item, kept) in part.items.iter().zip(answers) {
            local.keep(&open.weights, part.task, &part.split, *item, kept);
            local.answer(open, part.task, &part.split, *item, kept)?;
        }
    }
    match open.lacks() {
        0 => Ok(()),
        n => Err(Unscored::machine(format_args!("{n} of its answers came from nowhere"))),
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

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let id = sitting.id.to_string();
        let open = match self.local.open(sitting, &[]) {
            Ok(open) if open.is_whole() => return self.news.push_back(News::Done(id, Ok(open.evaluation()))),
            Ok(open) => open,
            Err(failure) => return self.news.push_back(News::Done(id, Err(failure))),
        };
        let free = self.hands.iter_mut().find(|hand| hand.sitting.is_none());
        let hand = free.expect("at most as many candidates are out as there are hands");
        (hand.since, hand.seen.state) = ((self.now)(), WorkerState::Working);
        let orders = hand.orders.send(open.work.clone());
        orders.expect("the hands live as long as this does");
        hand.sitting = Some((id, open));
    }

    fn next(&mut self) -> News {
        if let Some(news) = self.news.pop_front() {
            return news;
        }
        match self.words.recv_timeout(LOOK) {
            Ok(word) => self.hear(word),
            Err(RecvTimeoutError::Timeout) => News::Nothing,
            // A hand survives what breaks under it, and ends with its orders.
            Err(RecvTimeoutError::Disconnected) => unreachable!("the hands live as long as this does"),
        }
    }
}
