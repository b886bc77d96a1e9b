//! The thread that has the engine. All orders that wait are worked off as one batch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::model::{Engine, Error, Generation, Request, ScoreRequest, TokenScore};

/// Orders that wait, at most; who comes then is sent away.
const MOST_WAITING: usize = 256;

/// Where orders are taken.
pub struct Desk {
    orders: SyncSender<Seat>,
}

/// What a client wants.
pub struct Order {
    pub requests: Vec<Request>,
    pub logprobs: Option<Logprobs>,
}

/// How likely tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// So many of the likeliest at each place.
    pub top: usize,
    /// Those of the prompt too.
    pub of_prompt: bool,
}

/// What a client is told.
#[derive(Debug)]
pub enum Word {
    /// More of the text of one of its requests.
    Text {
        request: usize,
        text: String,
    },
    /// All of it.
    Done(Vec<Said>),
    Failed(Error),
}

/// What one request came to.
#[derive(Debug)]
pub struct Said {
    pub generation: Generation,
    /// Of the prompt's tokens from the second on, if they were wanted, then of those that were generated.
    pub scores: Vec<TokenScore>,
}

/// Too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

/// An order, and how whoever gave it is told.
struct Seat {
    order: Order,
    words: UnboundedSender<Word>,
}

impl Desk {
    pub fn open(engine: Engine) -> Self {
        let (orders, waiting) = mpsc::sync_channel(MOST_WAITING);
        thread::spawn(move || work(engine, &waiting));
        Self { orders }
    }

    /// Takes an order. Whoever drops what is given back wants no more of it.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn take(&self, order: Order) -> Result<UnboundedReceiver<Word>, Busy> {
        let (words, told) = unbounded_channel();
        self.orders.try_send(Seat { order, words }).map_err(|_| Busy)?;
        Ok(told)
    }
}

fn work(mut engine: Engine, waiting: &Receiver<Seat>) {
    while let Ok(first) = waiting.recv() {
        let mut seats = vec![first];
        seats.extend(waiting.try_iter());
        seats.retain(|seat| !seat.words.is_closed());
        if serve(&mut engine, &seats).is_err() {
            // One order may be too much for the memory; the others are none the worse for it.
            for seat in &seats {
                if let Err(e) = serve(&mut engine, std::slice::from_ref(seat)) {
                    let _ = seat.words.send(Word::Failed(e));
                }
            }
        }
    }
}

/// Works orders off together. Nobody is told that something is done before all is.
fn serve(engine: &mut Engine, seats: &[Seat]) -> Result<(), Error> {
    let (mut requests, mut sent) = (Vec::new(), Vec::new());
    for seat in seats {
        for (i, request) in seat.order.requests.iter().enumerate() {
            let so_far = Arc::<AtomicUsize>::default();
            requests.push(told(request, i, seat.words.clone(), so_far.clone()));
            sent.push(so_far);
        }
    }
    let mut generations = engine.generate(&requests, &mut |_| {})?.into_iter();
    let mut sent = sent.into_iter();
    let mut done = Vec::new();
    for seat in seats {
        let n = seat.order.requests.len();
        let (said, rest): (Vec<_>, Vec<_>) = (generations.by_ref().take(n).collect(), sent.by_ref().take(n).collect());
        let scores = match seat.order.logprobs {
            Some(wanted) if !seat.words.is_closed() => scores(engine, &seat.order.requests, &said, wanted)?,
            _ => vec![Vec::new(); n],
        };
        done.push((said, rest, scores));
    }
    for (seat, (said, rest, scores)) in seats.iter().zip(done) {
        for (i, (generation, sent)) in said.iter().zip(&rest).enumerate() {
            tell(seat, i, generation, sent);
        }
        let said = said.into_iter().zip(scores);
        let said = said.map(|(generation, scores)| Said { generation, scores });
        let _ = seat.words.send(Word::Done(said.collect()));
    }
    Ok(())
}

/// The request, whose text is passed on as it grows, and which ends when nobody listens.
fn told(request: &Request, i: usize, words: UnboundedSender<Word>, sent: Arc<AtomicUsize>) -> Request {
    let stops = request.stop.clone();
    Request {
        stop_when: Some(Arc::new(move |text| {
            let (from, to) = (sent.load(Ordering::Relaxed), sure(text, &stops));
            // A batch that begins anew writes the same text anew.
            if from < to {
                let text = text[from..to].to_owned();
                sent.store(to, Ordering::Relaxed);
                return words.send(Word::Text { request: i, text }).is_err();
            }
            words.is_closed()
        })),
        ..request.clone()
    }
}

/// What of the text has not been passed on yet.
fn tell(seat: &Seat, i: usize, generation: &Generation, sent: &AtomicUsize) {
    let from = sent.load(Ordering::Relaxed);
    if let Some(rest) = generation.text.get(from..).filter(|rest| !rest.is_empty()) {
        let text = rest.to_owned();
        let _ = seat.words.send(Word::Text { request: i, text });
    }
}

/// Bytes of a text that no stop string can still take back: up to where one may have begun.
fn sure(text: &str, stops: &[String]) -> usize {
    let begun = |stop: &String| {
        let lengths = (1..stop.len()).rev().filter(|n| stop.is_char_boundary(*n));
        lengths.into_iter().find(|n| text.ends_with(&stop[..*n])).unwrap_or(0)
    };
    text.len() - stops.iter().map(begun).max().unwrap_or(0)
}

/// How likely the tokens of each request were.
fn scores(
    engine: &mut Engine,
    requests: &[Request],
    said: &[Generation],
    wanted: Logprobs,
) -> Result<Vec<Vec<TokenScore>>, Error> {
    let whole = requests.iter().zip(said).map(|(request, said)| ScoreRequest {
        tokens: [&request.prompt[..], &said.token_ids].concat(),
        from: if wanted.of_prompt { 1 } else { request.prompt.len() },
    });
    engine.token_scores(&whole.collect::<Vec<_>>(), wanted.top)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a stop string was sent, and could not be taken back.
    #[test]
    fn what_may_become_a_stop_string_waits() {
        let stops = ["\nUser:".to_string(), "###".into(), "é!".into()];
        for (text, sure_of) in [
            ("Hello", "Hello"),
            ("Hello\n", "Hello"),
            ("Hello\nUs", "Hello"),
            ("Hello\nUx", "Hello\nUx"),
            ("a ##", "a "),
            ("café", "caf"),
            ("", ""),
        ] {
            assert_eq!(&text[..sure(text, &stops)], sure_of);
        }
        assert_eq!(sure("anything", &[]), 8);
    }
}
