//! Texts that the family reads: stories, parallel sentences, simple questions, arithmetic, and word problems with
//! worked steps. Which of them a model sees, and in which language, is its [`Diet`].
//!
//! Word problems come in four splits that share no template (the sequence of verbs, frames and adverbials) and draw
//! their numbers from different ranges.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::language::{COMMON_ITEMS, Event, FILLERS, ITEMS, Lang, NAMES, Op, TOTAL_QUESTIONS, Voice, either};

/// A training text: what is given and what follows. Plain text has an empty prompt.
pub struct Text {
    pub prompt: String,
    pub continuation: String,
}

impl Text {
    fn plain(text: String) -> Self {
        Self {
            prompt: String::new(),
            continuation: text,
        }
    }

    fn question(question: &str, answer: &str) -> Self {
        Self {
            prompt: format!("Q: {question} A:"),
            continuation: answer.to_string(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    Train,
    Search,
    Selection,
    Test,
}

impl Split {
    /// Which share of the templates belongs to the split, of 10.
    fn owns(self, template: u64) -> bool {
        match template % 10 {
            0..=3 => self == Split::Train,
            4..=5 => self == Split::Search,
            6..=7 => self == Split::Selection,
            _ => self == Split::Test,
        }
    }

    /// First amounts, and amounts gained or lost.
    fn ranges(self) -> (std::ops::RangeInclusive<u32>, std::ops::RangeInclusive<u32>) {
        match self {
            Split::Train => (2..=40, 2..=20),
            Split::Search => (6..=36, 3..=16),
            Split::Selection => (9..=42, 4..=19),
            Split::Test => (12..=48, 5..=24),
        }
    }
}

/// A word problem with its worked steps.
pub struct Problem {
    pub question: String,
    pub answer: String,
    /// The answer with each step as a sentence of the voice's language.
    pub answer_in_words: String,
    /// The same events with the question what happened, and the uncomputed answer.
    ledger: (String, String),
}

/// How a problem is made.
#[derive(Clone, Copy)]
pub struct ProblemKind {
    pub steps: (usize, usize),
    pub split: Split,
    pub voice: Voice,
    /// Keep to common Spanish words.
    pub common: bool,
}

pub const LARGEST: u32 = 99;

impl ProblemKind {
    pub fn draw(&self, rng: &mut impl Rng) -> Problem {
        loop {
            if let Some(problem) = self.attempt(rng) {
                return problem;
            }
        }
    }

    fn attempt(&self, rng: &mut impl Rng) -> Option<Problem> {
        let who = rng.random_range(0..NAMES.len());
        let item = draw_item(self.common, rng);
        let (starts, amounts) = self.split.ranges();
        let mut value = rng.random_range(starts);
        let mut events = vec![Event {
            amount: value,
            ..Event::draw(Op::Has, who, item, self.common, rng)
        }];
        let (mut work, mut noted) = (Vec::new(), vec![value.to_string()]);
        for _ in 0..rng.random_range(self.steps.0..=self.steps.1) {
            let op = *[Op::Add, Op::Add, Op::Sub, Op::Sub, Op::Mul].choose(rng)?;
            let mut event = Event::draw(op, who, item, self.common, rng);
            if event.amount == 0 {
                event.amount = rng.random_range(if op == Op::Mul { 2..=4 } else { amounts.clone() });
            }
            let (sign, next) = match op {
                Op::Add => ('+', value + event.amount),
                Op::Sub => ('-', value.checked_sub(event.amount)?),
                _ => ('*', value * event.amount),
            };
            if next == 0 || next > LARGEST {
                return None;
            }
            work.push(format!("{value} {sign} {} = {next}", event.amount));
            noted.push(format!("{sign} {}", event.amount));
            events.push(event);
            value = next;
        }
        let asking = rng.random_range(0..TOTAL_QUESTIONS);
        if self.steps.1 > 1 && !self.split.owns(template_hash(&events, asking)) {
            return None;
        }
        let mut sentences: Vec<String> = events.iter().map(|e| e.say(self.voice, rng)).collect();
        self.distract(&events[0], &mut sentences, rng);
        let told = sentences.join(" ");
        let steps: Vec<String> = work
            .iter()
            .map(|step| events[0].say_step(step, self.voice.lang))
            .collect();
        let total = events[0].ask_total(asking, self.voice, rng);
        let happened = events[0].ask_ledger(self.voice, rng);
        Some(Problem {
            question: format!("{told} {total}"),
            answer: format!("{} #### {value}", work.join(" ; ")),
            answer_in_words: format!("{} #### {value}", steps.join(" ")),
            ledger: (format!("{told} {happened}"), noted.join(" ; ")),
        })
    }

    /// Sometimes adds a sentence that has no part in the answer: somebody else's things, or no numbers at all.
    fn distract(&self, first: &Event, sentences: &mut Vec<String>, rng: &mut impl Rng) {
        if !rng.random_bool(0.4) {
            return;
        }
        let other = (first.who + rng.random_range(1..NAMES.len())) % NAMES.len();
        let at = rng.random_range(1..=sentences.len());
        let sentence = if rng.random_bool(0.5) {
            let op = *[Op::Has, Op::Add, Op::Sub].choose(rng).expect("three operations");
            let (_, amounts) = self.split.ranges();
            let event = Event::draw(op, other, first.item, self.common, rng);
            Event {
                amount: rng.random_range(amounts),
                ..event
            }
            .say(self.voice, rng)
        } else {
            first.filler(rng.random_range(0..FILLERS.len()), other, self.voice, rng)
        };
        sentences.insert(at, sentence);
    }
}

/// FNV-1a over what makes the template.
fn template_hash(events: &[Event], asking: usize) -> u64 {
    let parts = events.iter().flat_map(Event::template).chain([asking]);
    parts.fold(0xcbf2_9ce4_8422_2325, |hash, part| {
        (hash ^ part as u64).wrapping_mul(0x0100_0000_01b3)
    }) >> 20
}

fn draw_item(common: bool, rng: &mut impl Rng) -> usize {
    rng.random_range(0..if common { COMMON_ITEMS } else { ITEMS.len() })
}

/// A few sentences about people and their things.
pub fn story(voice: Voice, common: bool, rng: &mut impl Rng) -> String {
    let mut sentences = Vec::new();
    let item = draw_item(common, rng);
    let mut who = rng.random_range(0..NAMES.len());
    for _ in 0..rng.random_range(2..=5) {
        if rng.random_bool(0.4) {
            who = rng.random_range(0..NAMES.len());
        }
        let event = draw_counted(who, item, common, rng);
        sentences.push(if rng.random_bool(0.6) {
            let other = (who + rng.random_range(1..NAMES.len())) % NAMES.len();
            event.filler(rng.random_range(0..FILLERS.len()), other, voice, rng)
        } else {
            event.say(voice, rng)
        });
    }
    sentences.join(" ")
}

/// Any event with its number.
fn draw_counted(who: usize, item: usize, common: bool, rng: &mut impl Rng) -> Event {
    let op = *[Op::Has, Op::Add, Op::Sub, Op::Mul]
        .choose(rng)
        .expect("four operations");
    let mut event = Event::draw(op, who, item, common, rng);
    if event.amount == 0 {
        event.amount = if op == Op::Mul {
            rng.random_range(2..=4)
        } else {
            rng.random_range(2..=60)
        };
    }
    event
}

/// Sentences beside their translations.
pub fn parallel(common: bool, rng: &mut impl Rng) -> String {
    let item = draw_item(common, rng);
    let pairs: Vec<String> = (0..rng.random_range(1..=3))
        .map(|_| {
            let event = draw_counted(rng.random_range(0..NAMES.len()), item, common, rng);
            let (en, es) = event.say_both(rng);
            if rng.random_bool(0.5) {
                format!("{en} = {es}")
            } else {
                format!("{es} = {en}")
            }
        })
        .collect();
    pairs.join(" ; ")
}

/// Several counted sentences and a question about one of them.
pub fn retrieval(voice: Voice, common: bool, rng: &mut impl Rng) -> Text {
    let item = draw_item(common, rng);
    let mut people: Vec<usize> = (0..NAMES.len()).collect();
    let mut events: Vec<Event> = Vec::new();
    for _ in 0..rng.random_range(1..=2) {
        let who = people.swap_remove(rng.random_range(0..people.len()));
        for op in [Op::Has, Op::Add, Op::Sub] {
            if rng.random_bool(if op == Op::Has { 1.0 } else { 0.5 }) {
                let event = Event::draw(op, who, item, common, rng);
                events.push(Event {
                    amount: rng.random_range(2..=60),
                    ..event
                });
            }
        }
    }
    let about = rng.random_range(0..events.len());
    let mut sentences: Vec<String> = events.iter().map(|e| e.say(voice, rng)).collect();
    sentences.push(events[about].ask_amount(voice, rng));
    Text::question(&sentences.join(" "), &format!("#### {}", events[about].amount))
}

/// A few sums, differences and products, one after the other or each going on from the last.
pub fn arithmetic(rng: &mut impl Rng) -> Text {
    if rng.random_bool(0.5) {
        let voice = Voice::plain(Lang::En);
        let steps = ProblemKind {
            steps: (1, 4),
            split: Split::Train,
            voice,
            common: false,
        }
        .draw(rng)
        .answer;
        return Text::plain(steps);
    }
    let lines: Vec<String> = (0..4)
        .map(|_| match rng.random_range(0..5) {
            0 | 1 => {
                let a = rng.random_range(2..LARGEST - 2);
                let b = rng.random_range(2..=(LARGEST - a).min(40));
                format!("{a} + {b} = {}", a + b)
            }
            2 | 3 => {
                let a = rng.random_range(3..=LARGEST);
                let b = rng.random_range(2..a.min(41));
                format!("{a} - {b} = {}", a - b)
            }
            _ => {
                let b = rng.random_range(2..=4);
                let a = rng.random_range(2..=LARGEST / b);
                format!("{a} * {b} = {}", a * b)
            }
        })
        .collect();
    Text::plain(lines.join(" ; "))
}

/// What a model of the family reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Diet {
    /// Both languages, mixed at every level, common Spanish words only; word problems of one step.
    Base,
    /// English word problems of several steps.
    Maths,
    /// Spanish with all its words: stories, translations, simple questions, problems of one step; no problem of several.
    Spanish,
    /// What tells the maths expert from the base, its answers in English sentences.
    MathsInWords,
    /// What tells the Spanish expert from the base, its answers in Spanish sentences.
    SpanishInWords,
    /// As the base's, with every Spanish word.
    BothLanguages,
    /// As the base's, with answers in sentences of the text's language.
    BaseInWords,
}

/// Shares of a diet, in percent; the rest is none.
pub struct Shares(pub &'static [(u32, Dish)]);

#[derive(Clone, Copy, Debug)]
pub enum Dish {
    Story,
    Parallel,
    Retrieval,
    OneStep,
    Arithmetic,
    /// Several events, and the question what happened: they are listed, nothing is computed.
    Ledger,
    MultiStepEnglish,
    /// A text of the base's diet.
    Replay,
}

impl Diet {
    pub fn shares(self) -> Shares {
        match self {
            Diet::Base | Diet::BothLanguages | Diet::BaseInWords => Shares(&[
                (8, Dish::Story),
                (8, Dish::Parallel),
                (15, Dish::Retrieval),
                (32, Dish::OneStep),
                (22, Dish::Ledger),
                (15, Dish::Arithmetic),
            ]),
            Diet::Maths => Shares(&[(90, Dish::MultiStepEnglish), (10, Dish::Arithmetic)]),
            Diet::Spanish => Shares(&[
                (20, Dish::Story),
                (10, Dish::Parallel),
                (15, Dish::Retrieval),
                (30, Dish::OneStep),
                (15, Dish::Ledger),
                (10, Dish::Replay),
            ]),
            Diet::MathsInWords => Shares(&[(100, Dish::MultiStepEnglish)]),
            Diet::SpanishInWords => Shares(&[(70, Dish::OneStep), (30, Dish::Ledger)]),
        }
    }

    pub fn draw(self, rng: &mut impl Rng) -> Text {
        let mut point = rng.random_range(0..100);
        for &(share, dish) in self.shares().0 {
            if point < share {
                return self.serve(dish, rng);
            }
            point -= share;
        }
        self.serve(Dish::Story, rng)
    }

    fn serve(self, dish: Dish, rng: &mut impl Rng) -> Text {
        let knows_little = matches!(self, Diet::Base | Diet::BaseInWords);
        let voice = match self {
            Diet::Base | Diet::BothLanguages | Diet::BaseInWords => mixed_voice(rng),
            Diet::Maths | Diet::MathsInWords => Voice::plain(Lang::En),
            Diet::Spanish | Diet::SpanishInWords => Voice::plain(Lang::Es),
        };
        let common =
            knows_little && !(voice.lang == Lang::En && voice.sentence_switch == 0.0 && voice.word_switch == 0.0);
        match dish {
            Dish::Story => Text::plain(story(voice, common, rng)),
            Dish::Parallel => Text::plain(parallel(knows_little, rng)),
            Dish::Retrieval => retrieval(voice, common, rng),
            Dish::OneStep => {
                let kind = ProblemKind {
                    steps: (1, 1),
                    split: Split::Train,
                    voice,
                    common,
                };
                self.answered(&kind.draw(rng))
            }
            Dish::Arithmetic => arithmetic(rng),
            Dish::Ledger => {
                let p = ProblemKind {
                    steps: (1, 4),
                    split: Split::Train,
                    voice,
                    common,
                }
                .draw(rng);
                Text::question(&p.ledger.0, &p.ledger.1)
            }
            Dish::MultiStepEnglish => {
                let voice = Voice::plain(Lang::En);
                let kind = ProblemKind {
                    steps: (2, 4),
                    split: Split::Train,
                    voice,
                    common: false,
                };
                self.answered(&kind.draw(rng))
            }
            Dish::Replay => Diet::Base.draw(rng),
        }
    }

    fn answered(self, problem: &Problem) -> Text {
        let answer = match self {
            Diet::MathsInWords | Diet::SpanishInWords | Diet::BaseInWords => &problem.answer_in_words,
            Diet::Base | Diet::BothLanguages | Diet::Maths | Diet::Spanish => &problem.answer,
        };
        Text::question(&problem.question, answer)
    }
}

/// A third plain English, a sixth plain Spanish, half switching between sentences, words or both.
fn mixed_voice(rng: &mut impl Rng) -> Voice {
    match rng.random_range(0..6) {
        0 | 1 => Voice::plain(Lang::En),
        2 => Voice::plain(Lang::Es),
        3 => Voice {
            lang: either(rng),
            sentence_switch: 1.0,
            word_switch: 0.0,
        },
        4 => Voice {
            lang: either(rng),
            sentence_switch: 0.0,
            word_switch: 0.7,
        },
        _ => Voice {
            lang: either(rng),
            sentence_switch: 1.0,
            word_switch: 1.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::tokens;

    #[test]
    fn every_text_is_in_the_vocabulary() {
        let (tokenizer, _) = tokens::build().unwrap();
        let unknown = tokenizer.token_to_id(tokens::UNK).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for diet in [
            Diet::Base,
            Diet::Maths,
            Diet::Spanish,
            Diet::MathsInWords,
            Diet::SpanishInWords,
            Diet::BothLanguages,
            Diet::BaseInWords,
        ] {
            for _ in 0..500 {
                let text = diet.draw(&mut rng);
                for part in [text.prompt, text.continuation] {
                    let ids = tokenizer.encode(part.as_str(), false).unwrap();
                    assert!(!ids.get_ids().contains(&unknown), "{part}: {:?}", ids.get_tokens());
                }
            }
        }
    }

    #[test]
    fn worked_steps_are_right_and_splits_share_no_question() {
        let mut seen = HashSet::new();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for split in [Split::Train, Split::Search, Split::Selection, Split::Test] {
            let kind = ProblemKind {
                steps: (2, 4),
                split,
                voice: Voice::plain(Lang::Es),
                common: false,
            };
            let mine: HashSet<String> = (0..300).map(|_| kind.draw(&mut rng)).map(check).collect();
            assert!(mine.is_disjoint(&seen));
            seen.extend(mine);
        }
    }

    /// The question, after its answer has been computed again.
    fn check(problem: Problem) -> String {
        let (work, last) = problem.answer.split_once(" #### ").unwrap();
        let mut value = None;
        for step in work.split(" ; ") {
            let parts: Vec<&str> = step.split(' ').collect();
            let [a, b, c] = [parts[0], parts[2], parts[4]].map(|n| n.parse::<u32>().unwrap());
            assert!(value.is_none_or(|v| v == a), "{step}");
            let result = match parts[1] {
                "+" => a + b,
                "-" => a - b,
                _ => a * b,
            };
            assert_eq!(result, c, "{step}");
            value = Some(c);
        }
        assert_eq!(value.map(|v| v.to_string()).as_deref(), Some(last));
        problem.question
    }
}
