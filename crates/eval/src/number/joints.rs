//! What joins numbers: signs that calculate or span, words such as `to` and `or`, and the commas of a list.
//!
//! Numbers that are joined are no answer, unless an equals sign says what they come to. Words count only right between two
//! numbers: in `5 apples and 3 pears` the first number stands, for a list of unlike things is led by the thing asked for.

use super::{
    Parser, Term, Value, is_currency, is_mark, is_space,
    reader::Reader,
    words::{Style, Words, reads, word},
};

/// How sure it is that what stands between two numbers joins them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    Operator,
    /// A dash that may be punctuation.
    Dash,
    /// One number, if both are the same.
    Or,
}

impl Parser<'_> {
    /// What joins a term to another one, and where that one starts.
    pub(super) fn joint(&mut self, to: usize) -> Option<(Joint, usize)> {
        self.calculating(to).or_else(|| self.joining_word(to))
    }

    /// A sign that calculates or spans.
    pub(super) fn calculating(&mut self, to: usize) -> Option<(Joint, usize)> {
        let sign = self.skip(to, |c| is_space(c) || is_currency(c) || matches!(c, '%' | '}' | ')'));
        let is_spaced = sign > to && self.reader.get(sign - 1).is_some_and(is_space);
        let c = self
            .reader
            .get(sign)
            .filter(|c| "+÷×·±~*/xX:,-–—h時时点".contains(*c))?;
        let mut after = sign + 1;
        if c == '*' && self.reader.get(after) == Some('*') {
            // Two are bold type, unless they stand between digits.
            after += 1;
            return (sign == to && self.is_digit(after)).then_some((Joint::Operator, after));
        }
        let is_spaced_after = self.reader.get(after).is_some_and(is_space);
        let joint = match c {
            '+' | '÷' | '×' | '·' | '±' | '~' => Joint::Operator,
            '*' | '/' if is_spaced || !is_spaced_after => Joint::Operator,
            'x' | 'X' if is_spaced == is_spaced_after => Joint::Operator,
            ':' if sign == to && !is_spaced_after => Joint::Operator,
            ',' if sign == to && self.is_digit(after) && !self.reader.is_written(sign, '，') => Joint::Operator,
            '-' if is_spaced || !is_spaced_after => Joint::Operator,
            '–' | '—' if !is_spaced && !is_spaced_after => Joint::Operator,
            // `15h30`, `15 h 30`, `3時45分`
            'h' | '時' | '时' | '点' if is_spaced == is_spaced_after => Joint::Operator,
            '-' | '–' => Joint::Dash,
            _ => return None,
        };
        let next = self.skip(after, |c| is_space(c) || is_currency(c) || matches!(c, '{' | '(' | '-'));
        self.starts(next).then_some((joint, next))
    }

    /// `5 to 7`, `**5** or **7**`, `5 和 7`
    fn joining_word(&mut self, to: usize) -> Option<(Joint, usize)> {
        let is_dress = |c: char| is_space(c) || is_currency(c) || "%{}()*_".contains(c);
        let at = self.skip(to, is_dress);
        let (join, after) = join(&mut self.reader, at, self.style)?;
        let next = self.skip(after, |c| is_dress(c) || c == '-');
        let joint = if join == Join::Or { Joint::Or } else { Joint::Operator };
        self.starts(next).then_some((joint, next))
    }

    /// What follows the word `and`.
    pub(super) fn after_and(&mut self, to: usize) -> Option<usize> {
        let at = self.spaces(to);
        let (join, after) = join(&mut self.reader, at, self.style)?;
        (join == Join::And).then(|| self.spaces(after))
    }

    /// Where a list ends that a number with a comma after it begins: three numbers, or two and then nothing more.
    ///
    /// `18, 5 of which …` is no list: what follows the second number goes on in words.
    pub(super) fn list(&mut self, first: usize) -> Option<usize> {
        let mut next = self.listed(first)?;
        for count in 2..=3 {
            let to = self.term(next)?.to;
            if count == 3 || !self.goes_on(to) {
                return Some(to);
            }
            next = self.listed(to).or_else(|| Some(self.joining_word(to)?.1))?;
        }
        None
    }

    /// The number after a comma, and perhaps `and`.
    fn listed(&mut self, to: usize) -> Option<usize> {
        let comma = self.skip(to, |c| "%})*$".contains(c));
        self.reader.get(comma).filter(|c| ",、;".contains(*c))?;
        let next = self.skip(comma + 1, |c| is_space(c) || is_currency(c) || "{(*-".contains(c));
        if self.starts(next) {
            return Some(next);
        }
        Some(self.joining_word(comma + 1)?.1)
    }

    /// Whether more than the sentence's end follows: words or another sign.
    pub(super) fn goes_on(&mut self, to: usize) -> bool {
        let at = self.skip(to, |c| is_space(c) || "%{}*)".contains(c));
        let is_verb = ["です", "だ", "である", "でした"]
            .iter()
            .any(|verb| reads(&mut self.reader, verb, at));
        let is_more = |c: char| c.is_alphanumeric() || is_mark(c) || "+-–×·÷/=≈(,、;".contains(c);
        !is_verb && self.reader.get(at).is_some_and(is_more)
    }

    /// Whether two numbers are the same, though one may be per cent.
    pub(super) fn are_same(&mut self, a: &Term, b: &Term) -> bool {
        let mut hundredths = |term: &Term| if self.reader.get(term.to) == Some('%') { 0 } else { 2 };
        let (x, y) = (hundredths(a), hundredths(b));
        let shifted = |v: &Value, by: i64| v.clone().shifted(by);
        a.readings.iter().any(|v| {
            b.readings
                .iter()
                .any(|w| v == w || (x != y && shifted(v, x).is_some() && shifted(v, x) == shifted(w, y)))
        })
    }
}

/// What a word between two numbers says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Join {
    /// From the one to the other, or the one over the other.
    To,
    /// Either: one number, if both are the same.
    Or,
    And,
}

/// Words between numbers, of alphabets that separate words; looked up whole, in lower case.
const JOINS: &[(&str, Join, Words)] = &[
    ("to", Join::To, Words::English),
    ("through", Join::To, Words::English),
    ("until", Join::To, Words::English),
    ("over", Join::To, Words::English),
    ("or", Join::Or, Words::English),
    ("and", Join::And, Words::English),
    ("bis", Join::To, Words::German),
    ("oder", Join::Or, Words::German),
    ("und", Join::And, Words::German),
    ("a", Join::To, Words::Spanish),
    ("hasta", Join::To, Words::Spanish),
    ("o", Join::Or, Words::Spanish),
    ("u", Join::Or, Words::Spanish),
    ("ó", Join::Or, Words::Spanish),
    ("y", Join::And, Words::Spanish),
    ("e", Join::And, Words::Spanish),
    ("à", Join::To, Words::French),
    ("sur", Join::To, Words::French),
    ("ou", Join::Or, Words::French),
    ("et", Join::And, Words::French),
    ("до", Join::To, Words::Russian),
    ("или", Join::Or, Words::Russian),
    ("и", Join::And, Words::Russian),
    ("hadi", Join::To, Words::Swahili),
    ("mpaka", Join::To, Words::Swahili),
    ("au", Join::Or, Words::Swahili),
    ("na", Join::And, Words::Swahili),
];

/// Such words where no spaces need to stand around them.
const JOIN_BEGINNINGS: &[(&str, Join)] = &[
    ("から", Join::To),
    ("到", Join::To),
    ("至", Join::To),
    ("または", Join::Or),
    ("又は", Join::Or),
    ("あるいは", Join::Or),
    ("か", Join::Or),
    ("或者", Join::Or),
    ("或", Join::Or),
    ("と", Join::And),
    ("や", Join::And),
    ("和", Join::And),
    ("与", Join::And),
    ("與", Join::And),
    ("又", Join::And),
    ("থেকে", Join::To),
    ("অথবা", Join::Or),
    ("বা", Join::Or),
    ("এবং", Join::And),
    ("ও", Join::And),
    ("నుండి", Join::To),
    ("నుంచి", Join::To),
    ("లేదా", Join::Or),
    ("మరియు", Join::And),
    ("ถึง", Join::To),
    ("หรือ", Join::Or),
    ("และ", Join::And),
    ("กับ", Join::And),
];

/// The word at a place that joins what stands before it to what follows, and where it ends.
fn join(reader: &mut Reader<'_>, at: usize, style: Style) -> Option<(Join, usize)> {
    let first = reader.get(at).filter(|c| c.is_alphabetic())?;
    if first < '\u{530}' {
        let is_glued = at > 0 && reader.get(at - 1).is_some_and(char::is_alphanumeric);
        let (word, to) = word(reader, at);
        let fits = |(known, _, language): &&(&str, Join, Words)| *known == word && *language == style.language;
        let found = JOINS.iter().find(fits).filter(|_| !is_glued);
        return found.map(|(_, join, _)| (*join, to));
    }
    let (known, join) = JOIN_BEGINNINGS.iter().find(|(known, _)| reads(reader, known, at))?;
    Some((*join, at + known.chars().count()))
}
