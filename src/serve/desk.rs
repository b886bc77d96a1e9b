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
    /// Bytes of each request's text that were passed on: a batch that begins anew writes the same texts anew.
    sent: Vec<Sent>,
}

type Sent = Arc<AtomicUsize>;

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
        let sent = order.requests.iter().map(|_| Sent::default()).collect();
        self.orders.try_send(Seat { order, words, sent }).map_err(|_| Busy)?;
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
    let mut requests = Vec::new();
    for seat in seats {
        for (i, (request, sent)) in seat.order.requests.iter().zip(&seat.sent).enumerate() {
            requests.push(told(request, i, seat.words.clone(), sent.clone()));
        }
    }
    let mut generations = engine.generate(&requests, &mut |_| {})?.into_iter();
    let mut done = Vec::new();
    for seat in seats {
        let n = seat.order.requests.len();
        let said: Vec<Generation> = generations.by_ref().take(n).collect();
        let scores = match seat.order.logprobs {
            Some(wanted) if !seat.words.is_closed() => scores(engine, &seat.order.requests, &said, wanted)?,
            _ => vec![Vec::new(); n],
        };
        done.push((said, scores));
    }
    for (seat, (said, scores)) in seats.iter().zip(done) {
        for (i, (generation, sent)) in said.iter().zip(&seat.sent).enumerate() {
            pass_on(&seat.words, i, &generation.text, generation.text.len(), sent);
        }
        let said = said.into_iter().zip(scores);
        let said = said.map(|(generation, scores)| Said { generation, scores });
        let _ = seat.words.send(Word::Done(said.collect()));
    }
    Ok(())
}

/// The request, whose text is passed on as it grows, and which ends when nobody listens.
fn told(request: &Request, i: usize, words: UnboundedSender<Word>, sent: Sent) -> Request {
    let stops = request.stop.clone();
    Request {
        stop_when: Some(Arc::new(move |text| {
            pass_on(&words, i, text, sure(text, &stops), &sent);
            words.is_closed()
        })),
        ..request.clone()
    }
}

/// What of a text up to `to` has not been passed on yet.
fn pass_on(words: &UnboundedSender<Word>, request: usize, text: &str, to: usize, sent: &Sent) {
    let from = sent.load(Ordering::Relaxed);
    if let Some(more) = text.get(from..to).filter(|more| !more.is_empty()) {
        sent.store(to, Ordering::Relaxed);
        let text = more.to_owned();
        let _ = words.send(Word::Text { request, text });
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

    /// A batch that failed was worked off once more, and a client that is streamed to read its text twice.
    #[test]
    fn a_text_that_is_written_anew_is_not_sent_anew() {
        let (words, mut received) = unbounded_channel();
        let (sent, request) = (Sent::default(), Request::new(vec![1], 8));
        for texts in [&["He", "Hello"][..], &["H", "Hello", "Hello there"]] {
            let told = told(&request, 0, words.clone(), sent.clone());
            let grows = told.stop_when.unwrap();
            assert!(texts.iter().all(|text| !grows(text)));
        }
        drop(words);
        let mut whole = String::new();
        while let Ok(Word::Text { text, .. }) = received.try_recv() {
            whole += &text;
        }
        assert_eq!(whole, "Hello there");
    }

    #[test]
    fn a_request_ends_when_nobody_listens() {
        let (words, received) = unbounded_channel();
        let grows = told(&Request::new(vec![1], 8), 0, words, Sent::default())
            .stop_when
            .unwrap();
        assert!(!grows("a"));
        drop(received);
        assert!(grows("ab"));
    }
}
