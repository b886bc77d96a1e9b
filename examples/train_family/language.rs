//! The two small languages of the family: words, sentence frames, and how a sentence is spoken.
//!
//! Every meaning has an English and a Spanish form, so one sentence can be said in either language or with the
//! languages mixed word by word. The Spanish words are split in two: the *common* ones, which the base model reads,
//! and the rest, which only the Spanish expert ever learns, as a general model knows some of a language and a
//! specialist knows it well.

use rand::{Rng, RngExt};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lang {
    En,
    Es,
}

/// How a text chooses between the languages.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// The language of the text.
    pub lang: Lang,
    /// The share of sentences whose language is drawn anew.
    pub sentence_switch: f64,
    /// The share of words (names of things, verbs, adverbials) whose language is drawn anew.
    pub word_switch: f64,
}

impl Voice {
    pub fn plain(lang: Lang) -> Self {
        Self {
            lang,
            sentence_switch: 0.0,
            word_switch: 0.0,
        }
    }

    fn sentence(self, rng: &mut impl Rng) -> Self {
        let lang = if rng.random_bool(self.sentence_switch) {
            either(rng)
        } else {
            self.lang
        };
        Self { lang, ..self }
    }

    fn word(self, rng: &mut impl Rng) -> Lang {
        if rng.random_bool(self.word_switch) {
            either(rng)
        } else {
            self.lang
        }
    }
}

pub fn either(rng: &mut impl Rng) -> Lang {
    if rng.random_bool(0.5) { Lang::En } else { Lang::Es }
}

/// A thing that is counted.
pub struct Item {
    pub en: &'static str,
    pub es: &'static str,
    pub feminine: bool,
}

const fn item(en: &'static str, es: &'static str, feminine: bool) -> Item {
    Item { en, es, feminine }
}

/// What an event does to the count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    Has,
    Add,
    Sub,
    Mul,
}

pub struct Verb {
    /// English, third person and infinitive.
    pub en: (&'static str, &'static str),
    pub es: &'static str,
    /// The factor that is part of the verb's meaning ("doubles"), or 0 where the amount is said.
    pub factor: u32,
}

const fn verb(en: (&'static str, &'static str), es: &'static str, factor: u32) -> Verb {
    Verb { en, es, factor }
}

pub const NAMES: [&str; 12] = [
    "Ana", "Tom", "Eva", "Leo", "Mia", "Sam", "Luis", "Zoe", "Ben", "Rosa", "Hugo", "Nora",
];

/// The first [`COMMON_ITEMS`] are common in Spanish too.
pub const ITEMS: [Item; 16] = [
    item("apples", "manzanas", true),
    item("books", "libros", false),
    item("coins", "monedas", true),
    item("cards", "cartas", true),
    item("stones", "piedras", true),
    item("eggs", "huevos", false),
    item("flowers", "flores", true),
    item("pencils", "lápices", false),
    item("shells", "conchas", true),
    item("cups", "tazas", true),
    item("keys", "llaves", true),
    item("hats", "sombreros", false),
    item("toys", "juguetes", false),
    item("balls", "pelotas", true),
    item("stamps", "sellos", false),
    item("sweets", "dulces", false),
];
pub const COMMON_ITEMS: usize = 8;

/// Verbs by what they do; of each slice the first half (rounded up) is common in Spanish too.
pub const GAINS: [Verb; 4] = [
    verb(("buys", "buy"), "compra", 0),
    verb(("finds", "find"), "encuentra", 0),
    verb(("wins", "win"), "gana", 0),
    verb(("receives", "receive"), "recibe", 0),
];
pub const LOSSES: [Verb; 4] = [
    verb(("loses", "lose"), "pierde", 0),
    verb(("sells", "sell"), "vende", 0),
    verb(("breaks", "break"), "rompe", 0),
    verb(("donates", "donate"), "dona", 0),
];
pub const GROWTHS: [Verb; 3] = [
    verb(("has", "have"), "tiene", 0), // "has 3 times as many"
    verb(("doubles", "double"), "duplica", 2),
    verb(("triples", "triple"), "triplica", 3),
];

const OPENERS: [(&str, &str); 6] = [
    ("Then", "Luego"),
    ("Later", "Más tarde"),
    ("In the morning", "Por la mañana"),
    ("On Monday", "El lunes"),
    ("Today", "Hoy"),
    ("After school", "Después de clase"),
];
const PLACES: [(&str, &str); 4] = [
    ("to the market", "al mercado"),
    ("to the beach", "a la playa"),
    ("to the garden", "al jardín"),
    ("to the city", "a la ciudad"),
];

/// Sentence frames: English, Spanish. Slots: `n` who, `m` somebody else, `v` verb, `a` amount, `i` items, `o` opener,
/// `p` place, `l` the Spanish article of the items.
type Frame = (&'static str, &'static str);

const HAS: [Frame; 2] = [
    ("{n} has {a} {i}.", "{n} tiene {a} {i}."),
    ("In the box of {n} there are {a} {i}.", "En la caja de {n} hay {a} {i}."),
];
const ADD: [Frame; 4] = [
    ("{n} {v} {a} {i}.", "{n} {v} {a} {i}."),
    ("{n} {v} {a} more {i}.", "{n} {v} {a} {i} más."),
    ("{o} {n} {v} {a} {i}.", "{o} {n} {v} {a} {i}."),
    ("{n} goes {p} and {v} {a} {i}.", "{n} va {p} y {v} {a} {i}."),
];
const SUB: [Frame; 4] = [
    ("{n} {v} {a} {i}.", "{n} {v} {a} {i}."),
    ("{n} {v} {a} of the {i}.", "{n} {v} {a} de {l} {i}."),
    ("{o} {n} {v} {a} {i}.", "{o} {n} {v} {a} {i}."),
    ("{n} goes {p} and {v} {a} {i}.", "{n} va {p} y {v} {a} {i}."),
];
const TIMES: [Frame; 2] = [
    ("{n} now {v} {a} times as many {i}.", "{n} ahora {v} {a} veces más {i}."),
    ("{o} {n} {v} {a} times as many {i}.", "{o} {n} {v} {a} veces más {i}."),
];
const FACTOR: [Frame; 2] = [
    ("{n} {v} the {i}.", "{n} {v} {l} {i}."),
    ("{o} {n} {v} the {i}.", "{o} {n} {v} {l} {i}."),
];
const ASK_TOTAL: [Frame; 3] = [
    ("How many {i} does {n} have now?", "¿Cuánt{g}s {i} tiene {n} ahora?"),
    (
        "How many {i} does {n} have in the end?",
        "¿Cuánt{g}s {i} tiene {n} al final?",
    ),
    ("Tell me how many {i} {n} has.", "Dime cuánt{g}s {i} tiene {n}."),
];
const ASK_HAS: [Frame; 1] = [("How many {i} did {n} have?", "¿Cuánt{g}s {i} tenía {n}?")];
const ASK_VERB: [Frame; 1] = [("How many {i} does {n} {w}?", "¿Cuánt{g}s {i} {v} {n}?")];
const ASK_LEDGER: [Frame; 1] = [("What happens to the {i} of {n}?", "¿Qué pasa con {l} {i} de {n}?")];
pub const FILLERS: [Frame; 7] = [
    ("{n} likes the {i} very much.", "A {n} le gustan mucho {l} {i}."),
    (
        "The {i} of {n} are on the table.",
        "{L} {i} de {n} están sobre la mesa.",
    ),
    ("{n} plays with {m}.", "{n} juega con {m}."),
    ("{o} {n} looks for the {i} at home.", "{o} {n} busca {l} {i} en casa."),
    (
        "{n} tells {m} a story about the {i}.",
        "{n} cuenta a {m} un cuento sobre {l} {i}.",
    ),
    ("{n} goes {p} with {m}.", "{n} va {p} con {m}."),
    ("{o} {n} sees many {i}.", "{o} {n} ve much{g}s {i}."),
];

/// One sentence's meaning, before a language is chosen.
#[derive(Clone, Debug)]
pub struct Event {
    pub op: Op,
    /// Which of the operation's verbs.
    pub verb: usize,
    pub frame: usize,
    pub opener: usize,
    pub place: usize,
    pub who: usize,
    pub item: usize,
    /// The amount or the factor.
    pub amount: u32,
}

impl Event {
    pub fn verb(&self) -> Option<&'static Verb> {
        match self.op {
            Op::Has => None,
            Op::Add => Some(&GAINS[self.verb]),
            Op::Sub => Some(&LOSSES[self.verb]),
            Op::Mul => Some(&GROWTHS[self.verb]),
        }
    }

    fn frames(&self) -> &'static [Frame] {
        match (self.op, self.verb) {
            (Op::Has, _) => &HAS,
            (Op::Add, _) => &ADD,
            (Op::Sub, _) => &SUB,
            (Op::Mul, 0) => &TIMES,
            (Op::Mul, _) => &FACTOR,
        }
    }

    /// An event of the given operation with everything but its numbers drawn; `common` keeps to common Spanish words.
    pub fn draw(op: Op, who: usize, item: usize, common: bool, rng: &mut impl Rng) -> Self {
        let verbs = match op {
            Op::Has => 1,
            Op::Add => GAINS.len(),
            Op::Sub => LOSSES.len(),
            Op::Mul => GROWTHS.len(),
        };
        let mut event = Self {
            op,
            verb: rng.random_range(0..if common { verbs.div_ceil(2) } else { verbs }),
            frame: 0,
            opener: rng.random_range(0..OPENERS.len()),
            place: rng.random_range(0..PLACES.len()),
            who,
            item,
            amount: 0,
        };
        event.frame = rng.random_range(0..event.frames().len());
        event.amount = event.verb().map_or(0, |v| v.factor);
        event
    }

    /// What makes two problems the same template: everything but people, things and numbers.
    pub fn template(&self) -> [usize; 4] {
        [self.op as usize, self.verb, self.frame, self.opener]
    }

    pub fn say(&self, voice: Voice, rng: &mut impl Rng) -> String {
        let frame = self.frames()[self.frame];
        Filling {
            event: self,
            other: self.who,
        }
        .say(frame, voice.sentence(rng), rng)
    }

    /// The same sentence in both languages.
    pub fn say_both(&self, rng: &mut impl Rng) -> (String, String) {
        (
            self.say(Voice::plain(Lang::En), rng),
            self.say(Voice::plain(Lang::Es), rng),
        )
    }

    /// "How many … does … have?", after everything that happened.
    pub fn ask_total(&self, frame: usize, voice: Voice, rng: &mut impl Rng) -> String {
        Filling {
            event: self,
            other: self.who,
        }
        .say(ASK_TOTAL[frame], voice.sentence(rng), rng)
    }

    /// The question whose answer is this event's own amount.
    pub fn ask_amount(&self, voice: Voice, rng: &mut impl Rng) -> String {
        let frame = if self.op == Op::Has { ASK_HAS[0] } else { ASK_VERB[0] };
        Filling {
            event: self,
            other: self.who,
        }
        .say(frame, voice.sentence(rng), rng)
    }

    /// The question whose answer lists what happened, uncomputed.
    pub fn ask_ledger(&self, voice: Voice, rng: &mut impl Rng) -> String {
        Filling {
            event: self,
            other: self.who,
        }
        .say(ASK_LEDGER[0], voice.sentence(rng), rng)
    }

    /// A worked step as a sentence: "Ana has 3 + 4 = 7 apples."
    pub fn say_step(&self, work: &str, lang: Lang) -> String {
        let item = &ITEMS[self.item];
        let (has, item) = match lang {
            Lang::En => ("has", item.en),
            Lang::Es => ("tiene", item.es),
        };
        format!("{} {has} {work} {item}.", NAMES[self.who])
    }

    /// A sentence in which nothing is counted.
    pub fn filler(&self, frame: usize, other: usize, voice: Voice, rng: &mut impl Rng) -> String {
        Filling { event: self, other }.say(FILLERS[frame], voice.sentence(rng), rng)
    }
}

pub const TOTAL_QUESTIONS: usize = ASK_TOTAL.len();

struct Filling<'a> {
    event: &'a Event,
    other: usize,
}

impl Filling<'_> {
    fn say(&self, frame: Frame, voice: Voice, rng: &mut impl Rng) -> String {
        let text = if voice.lang == Lang::En { frame.0 } else { frame.1 };
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let (slot, tail) = after.split_once('}').expect("every frame closes its slots");
            self.fill(slot, voice, rng, &mut out);
            rest = tail;
        }
        out.push_str(rest);
        out
    }

    fn fill(&self, slot: &str, voice: Voice, rng: &mut impl Rng, out: &mut String) {
        let e = self.event;
        let pick = |pair: (&'static str, &'static str), lang: Lang| if lang == Lang::En { pair.0 } else { pair.1 };
        let item = &ITEMS[e.item];
        let verb = e.verb();
        match slot {
            "n" => out.push_str(NAMES[e.who]),
            "m" => out.push_str(NAMES[self.other]),
            "a" => out.push_str(&e.amount.to_string()),
            "i" => out.push_str(pick((item.en, item.es), voice.word(rng))),
            "o" => out.push_str(pick(OPENERS[e.opener], voice.word(rng))),
            "p" => out.push_str(pick(PLACES[e.place], voice.word(rng))),
            "v" => out.push_str(verb.map_or("", |v| pick((v.en.0, v.es), voice.word(rng)))),
            "w" => out.push_str(verb.map_or("", |v| v.en.1)),
            "l" => out.push_str(if item.feminine { "las" } else { "los" }),
            "L" => out.push_str(if item.feminine { "Las" } else { "Los" }),
            "g" => out.push(if item.feminine { 'a' } else { 'o' }),
            _ => {}
        }
    }
}

/// Every text fragment of the two languages, for the vocabulary.
pub fn all_fragments() -> Vec<String> {
    let mut out: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
    out.extend(ITEMS.iter().flat_map(|i| [i.en.to_string(), i.es.to_string()]));
    for v in GAINS.iter().chain(&LOSSES).chain(&GROWTHS) {
        out.extend([v.en.0, v.en.1, v.es].map(str::to_string));
    }
    out.extend(
        OPENERS
            .iter()
            .chain(&PLACES)
            .flat_map(|(en, es)| [en.to_string(), es.to_string()]),
    );
    let frames = [
        &HAS[..],
        &ADD,
        &SUB,
        &TIMES,
        &FACTOR,
        &ASK_TOTAL,
        &ASK_HAS,
        &ASK_VERB,
        &ASK_LEDGER,
        &FILLERS,
    ]
    .concat();
    for (en, es) in frames {
        for text in [en, es] {
            for gender in ["o", "a"] {
                let article = if gender == "o" { "los" } else { "las" };
                let mut text = text.replace("{g}", gender).replace("{l}", article);
                text = text.replace("{L}", if gender == "o" { "Los" } else { "Las" });
                for slot in ["n", "m", "a", "i", "o", "p", "v", "w"] {
                    text = text.replace(&format!("{{{slot}}}"), "0");
                }
                out.push(text);
            }
        }
    }
    out
}
