//! Numbers as people and models write them: where one stands in a text, and what it is worth.
//!
//! Digits of any script, the separators of the answer's language, currency, signs, fractions, powers of ten, words such as
//! `million` or `万`, and LaTeX around all of it. Where two readings are in use, both stand: `1,234` in a German text is
//! 1.234 by its rules, and 1234 to the many who write as in English (MGSM's own German answers do). What is no finished
//! number has no value: `2-3`, `5 + 3`, `12:30`, `1.2.3`, `2¹⁰`.
//!
//! A text may be cut off anywhere. Each function that looks for an answer says whether it looked at the end of the text,
//! that is, whether more text could change what it found.

use std::ops::Range;

mod dates;
mod denials;
mod fractions;
mod joints;
mod quantities;
mod reader;
mod value;
mod words;

use joints::Joint;
pub(crate) use reader::digit;
use reader::{FRACTION, Reader, THIN_SPACE, is_currency, superscript, vulgar};
pub use value::Value;
pub use words::Style;

/// Symbols of punctuation and filling words before a number, at most.
const MOST_LEAD_IN: usize = 200;
/// Groups of digits with separators between them, at most: beyond, a text is no number, however it goes on.
const MOST_GROUPS: usize = 64;
/// Parts that are added up, at most: `1億2千万3百`.
const MOST_SUMMED: usize = 4;

/// A number in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Bytes, with sign and currency.
    pub range: Range<usize>,
    /// Nothing that could follow would change it.
    pub is_settled: bool,
}

/// What stands right after the words that announce an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    Number(Found),
    /// Something else: the number, if there is one, is further on.
    Words,
    /// The number of a heading or of a list's item: `#### 1. First …`.
    Ordinal,
}

/// What announces an answer, as far as it matters to what may follow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Announcement {
    /// It also opens headings: `####`.
    pub is_heading: bool,
    /// One word without a verb, such as `Answer`: a dash may stand for `is`.
    pub is_noun: bool,
}

/// The number that `text` opens with, after nothing but punctuation, markup, currency and words such as `about`.
///
/// A calculation gives its result: `9 * 2 = 18` is 18. One without a result, and a range, are found whole and have no
/// value. After what opens headings, a small number with a point and a word after it numbers a heading.
///
/// A dash directly before the number is its sign, and so is one with a space after it, `- 5`, where a sentence wants its
/// number: after `is`, a colon, an equals sign, an opening bracket, LaTeX's `$`, `####`. Two places are ambiguous, and the
/// dash is none there, for far more answers are positive: at the start of a line it is a list's (`- 5 eggs`), and right
/// after a noun it stands for `is` (`Answer - 5`). The character `−`, which is nothing but a minus, is a sign there too.
/// After a number a dash calculates or spans (`10 - 5`). Nor do brackets make a number negative, as an accountant's
/// `(5)` does: with other writers they are brackets.
pub fn announced(text: &str, style: Style, by: Announcement) -> Announced {
    let mut parser = Parser::of_a_number(text, style);
    parser.follows_a_marker = true;
    let Some(start) = parser.lead_in(0, by.is_noun) else {
        return Announced::Words;
    };
    let Some(mut first) = parser.term(start.digits) else {
        return Announced::Words;
    };
    parser.date(&mut first, start.digits);
    if parser.is_denied(start.from, first.to) {
        return Announced::Words;
    }
    if (by.is_heading || start.on_a_new_line) && parser.is_ordinal(&first) {
        return Announced::Ordinal;
    }
    let range = parser.answer(start.from, first);
    Announced::Number(Found {
        range: parser.bytes(range),
        is_settled: !parser.reader.ran_out,
    })
}

/// The first number of the first sentence after a marker, or else of the text; a calculation gives its result. What is numbered,
/// as in `Step 2: …`, does not count.
pub fn first(text: &str, style: Style) -> Option<Range<usize>> {
    let mut parser = Parser::new(text, style);
    parser.follows_a_marker = true;
    let mut at = 0;
    for to_the_end in [false, true] {
        while let Some((from, term)) = parser.next_term(&mut at, to_the_end) {
            let is_label = parser.reader.get(term.to) == Some(':') && parser.reader.get(term.to + 1) == Some(' ');
            if !is_label {
                let range = parser.answer(from, term);
                return Some(parser.bytes(range));
            }
        }
    }
    None
}

/// The last number of a text that has a value.
pub fn last(text: &str, style: Style) -> Option<Range<usize>> {
    let mut parser = Parser::new(text, style);
    let (mut at, mut last) = (0, None);
    while let Some((from, term)) = parser.next_term(&mut at, true) {
        let whole = parser.expression(term.clone(), Parser::joint);
        at = whole.to;
        if whole.is_value {
            last = Some(from..whole.first.to);
            at = whole.first.to;
        }
    }
    last.map(|range| parser.bytes(range))
}

/// What a text that is one number may mean; nothing if it is none. Punctuation, markup and currency around it, and a per
/// cent sign after it, do not count.
pub fn readings(text: &str, style: Style) -> Vec<Value> {
    let mut parser = Parser::of_a_number(text, style);
    let Some(start) = parser.lead_in(0, false) else {
        return Vec::new();
    };
    let Some(term) = parser.term(start.digits) else {
        return Vec::new();
    };
    let mut at = term.to;
    while let Some(c) = parser.reader.get(at) {
        let is_trimming = c.is_whitespace() || is_currency(c) || ".,%}])*\"'_。।॥円元".contains(c);
        if !is_trimming {
            return Vec::new();
        }
        at += 1;
    }
    let value = |value: Value| value.scaled(start.power).signed(start.is_negative);
    term.readings.into_iter().map(value).collect()
}

/// Where a number begins.
struct Start {
    /// Its sign, currency or scale, or the digits.
    from: usize,
    digits: usize,
    is_negative: bool,
    /// Of ten, by a word before it: Swahili `elfu 5`.
    power: u32,
    on_a_new_line: bool,
}

/// An unsigned number: a range of symbols, and what it may mean.
#[derive(Clone, Debug)]
struct Term {
    from: usize,
    to: usize,
    readings: Vec<Value>,
    /// Digits without separators, so that it can be part of a fraction.
    is_plain: bool,
}

impl Term {
    fn quotient(symbols: Range<usize>, numerator: u64, denominator: u64) -> Self {
        Term {
            from: symbols.start,
            to: symbols.end,
            readings: Value::ratio(numerator, denominator).into_iter().collect(),
            is_plain: false,
        }
    }
}

/// Terms joined by operators.
struct Expression {
    first: Term,
    to: usize,
    is_value: bool,
    /// More than one term.
    is_joined: bool,
}

/// What joins the term that ends at a place to the next one, and where that starts.
type NextJoint<'t> = fn(&mut Parser<'t>, usize) -> Option<(Joint, usize)>;

struct Parser<'t> {
    reader: Reader<'t>,
    style: Style,
    /// Whether a plain space may stand between thousands. Where an answer is announced it may in any language: `1 234` is
    /// not 1.
    groups_with_spaces: bool,
    /// The text begins in mid-line, right after what announces an answer.
    follows_a_marker: bool,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, style: Style) -> Self {
        Parser {
            reader: Reader::new(text),
            style,
            groups_with_spaces: style.groups_with_spaces,
            follows_a_marker: false,
        }
    }

    /// For a text that is known to be, or to begin with, one number.
    fn of_a_number(text: &'t str, style: Style) -> Self {
        Parser {
            groups_with_spaces: true,
            ..Parser::new(text, style)
        }
    }

    fn bytes(&self, symbols: Range<usize>) -> Range<usize> {
        self.reader.bytes(symbols)
    }

    fn is_digit(&mut self, at: usize) -> bool {
        self.reader.get(at).is_some_and(|c| c.is_ascii_digit())
    }

    fn skip(&mut self, mut at: usize, skipped: impl Fn(char) -> bool) -> usize {
        while self.reader.get(at).is_some_and(&skipped) {
            at += 1;
        }
        at
    }

    fn spaces(&mut self, at: usize) -> usize {
        self.skip(at, is_space)
    }

    fn digits(&mut self, at: usize) -> usize {
        self.skip(at, |c| c.is_ascii_digit())
    }

    /// Whether a number (without sign and currency) starts here.
    fn starts(&mut self, at: usize) -> bool {
        match self.reader.get(at) {
            Some('.') => self.is_digit(at + 1),
            Some(c) => c.is_ascii_digit() || matches!(c, FRACTION | '√' | '±') || vulgar(c).is_some(),
            None => false,
        }
    }

    /// Skips what may stand between an announcement and its number. With `is_open`, a dash that comes next may be another
    /// mark than a sign.
    fn lead_in(&mut self, mut at: usize, mut is_open: bool) -> Option<Start> {
        let mut start = Start {
            from: at,
            digits: at,
            is_negative: false,
            power: 0,
            on_a_new_line: false,
        };
        let mut from = None;
        while at < MOST_LEAD_IN {
            if self.starts(at) {
                start.from = from.unwrap_or(at);
                start.digits = at;
                return Some(start);
            }
            let c = self.reader.get(at)?;
            let was_open = is_open;
            is_open = c == '\n' || (is_open && is_space(c));
            if is_currency(c) {
                from.get_or_insert(at);
                at += 1;
            } else if is_dash(c) && self.is_sign(at, was_open) {
                start.is_negative = true;
                from.get_or_insert(at);
                at += 1;
            } else if c == '+' {
                from.get_or_insert(at);
                at += 1;
            } else if matches!(c, '{' | '}') {
                // The currency sign may have been LaTeX's `$`.
                from = from.filter(|_| start.is_negative);
                at += 1;
            } else if is_lead_in(c) {
                start.on_a_new_line |= c == '\n';
                // A currency or sign before more punctuation belongs to no number.
                if !is_space(c) {
                    (from, start.is_negative, start.power) = (None, false, 0);
                }
                at += 1;
            } else if let Some((word, to)) = words::lead_in(&mut self.reader, at, self.style) {
                match word {
                    words::LeadIn::Minus => {
                        start.is_negative = true;
                        from.get_or_insert(at);
                    }
                    words::LeadIn::Power(power) => {
                        start.power += power;
                        from.get_or_insert(at);
                    }
                    words::LeadIn::Currency => {
                        from.get_or_insert(at);
                    }
                    words::LeadIn::Filler => (from, start.is_negative, start.power) = (None, false, 0),
                }
                at = to;
            } else if c.is_ascii_alphabetic() && self.is_variable(at) {
                (from, start.is_negative, start.power) = (None, false, 0);
                at += 1;
            } else {
                return None;
            }
        }
        None
    }

    /// `x = …`
    fn is_variable(&mut self, at: usize) -> bool {
        let to = self.spaces(at + 1);
        self.reader.get(to) == Some('=')
    }

    /// A dash with a number, or a currency and a number, after it: directly, or over spaces where it can be no other mark.
    fn is_sign(&mut self, dash: usize, may_be_a_mark: bool) -> bool {
        let to = self.skip(dash + 1, |c| is_currency(c) || c == '{');
        if self.starts(to) {
            return true;
        }
        let to = self.skip(to, |c| is_space(c) || is_currency(c) || c == '{');
        // Two are a dash as typewriters have it.
        let is_double = dash > 0 && self.reader.get(dash - 1) == Some('-');
        self.starts(to) && !is_double && (!may_be_a_mark || self.reader.is_written(dash, '−'))
    }

    /// `1. First`, `2) Second`
    fn is_ordinal(&mut self, term: &Term) -> bool {
        let small = term.is_plain && term.to - term.from <= 2;
        small
            && self.reader.get(term.to).is_some_and(|c| matches!(c, '.' | ')'))
            && self.reader.get(term.to + 1) == Some(' ')
            && self
                .reader
                .get(term.to + 2)
                .is_some_and(|c| c.is_alphabetic() || c == '*')
    }

    /// From a first number to the one that it comes to.
    fn answer(&mut self, from: usize, first: Term) -> Range<usize> {
        let alone = from..first.to;
        if let Some(to) = self.list(first.to) {
            return from..to;
        }
        let whole = self.expression(first, Self::joint);
        if whole.is_value && !whole.is_joined && !self.calculates_with_units(whole.to) {
            return alone;
        }
        match self.result(whole.to) {
            Some(result) => result,
            None if whole.is_value => alone,
            None => from..whole.to,
        }
    }

    /// The terms from the first on that are joined by operators, or by what else is given as a joint. It has a value if
    /// nothing calculates.
    fn expression(&mut self, first: Term, joint: NextJoint<'t>) -> Expression {
        let mut whole = Expression {
            to: first.to,
            is_value: !first.readings.is_empty(),
            is_joined: false,
            first,
        };
        let mut calculates = false;
        while let Some((joint, next)) = joint(self, whole.to) {
            // `30 + 160 or 190`: what a calculation comes to, said in words.
            if joint == Joint::Or && calculates {
                break;
            }
            whole.is_joined = true;
            calculates = joint == Joint::Operator;
            // A dash may be punctuation: then what follows is something else.
            let Some(term) = self.term(next).filter(|_| joint != Joint::Dash) else {
                break;
            };
            whole.is_value &= joint == Joint::Or && self.are_same(&whole.first, &term);
            whole.to = term.to;
        }
        whole
    }

    /// `9 eggs * $2`: up to two words, and a sign that can only calculate.
    fn calculates_with_units(&mut self, to: usize) -> bool {
        let mut at = self.skip(to, |c| is_space(c) || c == '}' || c == '{');
        for _ in 0..2 {
            let word = self.skip(at, |c| c.is_alphabetic() || is_mark(c));
            at = self.skip(word, |c| is_space(c) || c == '}' || c == '{');
        }
        let is_operator = self
            .reader
            .get(at)
            .is_some_and(|c| matches!(c, '×' | '·' | '*' | '+' | '÷' | '/'));
        let next = if is_operator {
            self.skip(at + 1, |c| is_space(c) || is_currency(c) || matches!(c, '{' | '('))
        } else {
            at
        };
        is_operator && self.starts(next)
    }

    /// The number after the sentence's last `=` that has one.
    fn result(&mut self, mut at: usize) -> Option<Range<usize>> {
        let mut result = None;
        while let Some(c) = self.reader.get(at) {
            if self.ends_sentence(at) {
                break;
            }
            at += 1;
            if !matches!(c, '=' | '≈') {
                continue;
            }
            let sign = self.skip(at, |c| is_space(c) || matches!(c, '{' | '*' | '≈'));
            let digits = self.skip(sign, |c| is_currency(c) || matches!(c, '{' | '-' | ' '));
            let Some(term) = self.starts(digits).then(|| self.term(digits)).flatten() else {
                continue;
            };
            // What a calculation comes to is one number, whatever words follow: `= 18 and 5 are left`.
            let whole = self.expression(term, Self::calculating);
            at = whole.to;
            if whole.is_value {
                result = Some(sign..whole.first.to);
            }
        }
        result
    }

    fn ends_sentence(&mut self, at: usize) -> bool {
        match self.reader.get(at) {
            Some('\n' | '。' | '।' | '॥') => true,
            Some('.' | '!' | '?') => self.reader.get(at + 1).is_none_or(|c| c.is_whitespace()),
            _ => false,
        }
    }

    /// The next number from `at` on, with the place of its sign or currency. Stops at the end of the sentence, unless
    /// it is to go on to the end of the text; `at` moves along.
    fn next_term(&mut self, at: &mut usize, to_the_end: bool) -> Option<(usize, Term)> {
        let before = *at;
        while self.reader.get(*at).is_some() {
            if !to_the_end && self.ends_sentence(*at) {
                *at += 1;
                return None;
            }
            if !self.starts(*at) {
                *at += 1;
                continue;
            }
            let digits = *at;
            let Some(mut term) = self.term(digits).filter(|_| !self.is_part_of_a_name(digits)) else {
                *at = self.digits(digits).max(digits + 1);
                continue;
            };
            self.date(&mut term, before);
            *at = term.to;
            let from = self.sign_start(term.from, before);
            if self.is_denied(from, term.to) {
                continue;
            }
            return Some((from, term));
        }
        None
    }

    /// `CO2`, `x2`, `x_2`, `m^2`, `three/4`: digits that are no number. `USD50` and a missing space, as in `is18`, are.
    fn is_part_of_a_name(&mut self, digits: usize) -> bool {
        let mut from = digits;
        while from > 0 && self.reader.get(from - 1).is_some_and(|c| c.is_ascii_alphabetic()) {
            from -= 1;
        }
        let Some(before) = digits.checked_sub(1).and_then(|i| self.reader.get(i)) else {
            return false;
        };
        if self.is_under_word(digits) {
            return true;
        }
        if from == digits {
            let inner = digits.checked_sub(2).and_then(|i| self.reader.get(i));
            return match before {
                '^' => true,
                '_' => inner.is_some_and(char::is_alphabetic),
                '/' => self.is_number_word(digits - 1),
                _ => false,
            };
        }
        let word: String = (from..digits).filter_map(|i| self.reader.get(i)).collect();
        (word.len() == 1 || before.is_ascii_uppercase()) && !words::is_currency_code(&word)
    }

    /// Whether a word for a small number ends here: `three/4`.
    fn is_number_word(&mut self, end: usize) -> bool {
        const NUMBERS: [&str; 12] = [
            "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        ];
        let from = self.back_over(end, 0, char::is_alphabetic);
        NUMBERS.contains(&self.text(from, end).to_lowercase().as_str())
    }

    /// Moves a number's start to the left over its currency and minus, not beyond `bound`. A minus is a sign only where
    /// a number can start: `5-3` has the numbers 5 and 3.
    fn sign_start(&mut self, digits: usize, bound: usize) -> usize {
        let currency = self.back_over(digits, bound, is_currency);
        let gap = self.back_over(currency, bound, is_space);
        let is_minus = gap > bound && self.reader.get(gap - 1).is_some_and(is_dash);
        if !is_minus {
            return words::power_before(&mut self.reader, currency, bound, self.style).unwrap_or(currency);
        }
        let outer = self.back_over(gap - 1, bound, is_currency);
        let is_sign = if gap == currency {
            self.is_free(outer)
        } else {
            outer < gap - 1 || self.is_wanting(outer, gap - 1)
        };
        if is_sign { outer } else { currency }
    }

    /// Whether nothing stands before a dash that it could calculate with.
    fn is_free(&mut self, dash: usize) -> bool {
        let before = if dash > 0 { self.reader.get(dash - 1) } else { None };
        // Where no spaces are written, a word may stand before a sign.
        let calculates = |c: char| (c.is_alphanumeric() && !is_unspaced(c)) || is_mark(c) || ").,%}".contains(c);
        !before.is_some_and(calculates)
    }

    /// Whether what stands before a dash wants a number, so that the dash is its sign though a space follows it. See
    /// [`announced`] for what is ambiguous.
    fn is_wanting(&mut self, from: usize, dash: usize) -> bool {
        let end = self.back_over(from, 0, is_space);
        match end.checked_sub(1).and_then(|i| self.reader.get(i)) {
            None | Some('\n') => self.reader.is_written(dash, '−'),
            Some('#') => self.back_over(end, 0, |c| c == '#') + 4 == end,
            Some(c) => "=≈:([{".contains(c),
        }
    }
}

/// The grammar of one number.
impl Parser<'_> {
    fn term(&mut self, at: usize) -> Option<Term> {
        let mut term = match self.reader.get(at)? {
            FRACTION => self.latex_fraction(at)?,
            '√' | '±' => self.operation(at),
            c if vulgar(c).is_some() => {
                let (n, d) = vulgar(c)?;
                Term::quotient(at..at + 1, n, d)
            }
            _ => self.plain(at)?,
        };
        self.fraction(&mut term);
        self.power_of_ten(&mut term);
        self.power(&mut term);
        if self.reader.get(term.to).is_some_and(|c| matches!(c, '√' | 'π')) {
            // `2√3`, `2\\pi`: the number is a factor.
            term.readings.clear();
            term.to += 1;
        }
        self.scale(&mut term, MOST_SUMMED);
        self.quantity(&mut term);
        Some(term)
    }

    /// `\sqrt{16}`, `\log_2 8`, `±5`: what is done to the number makes it another one, or two.
    fn operation(&mut self, at: usize) -> Term {
        let mut to = at + 1;
        for _ in 0..3 {
            let from = self.skip(to, |c| is_space(c) || matches!(c, '_' | '^'));
            let end = match self.reader.get(from) {
                Some('{' | '(' | '[') => self.closing(from).unwrap_or(from),
                _ => self.digits(from),
            };
            if end == from {
                break;
            }
            to = end;
        }
        Term {
            from: at,
            to,
            readings: Vec::new(),
            is_plain: false,
        }
    }

    /// Digits with their separators.
    fn plain(&mut self, at: usize) -> Option<Term> {
        let mut to = self.digits(at);
        let mut groups = vec![self.text(at, to)];
        let mut separators: Vec<char> = Vec::new();
        while let Some(separator) = self.reader.get(to).filter(|c| ",.٫٬'_ \u{2009}".contains(*c)) {
            let next = self.digits(to + 1);
            let length = next - (to + 1);
            let continues = match separator {
                // A full-width comma is a sentence's, unless it groups: `72，3个剩下`.
                ',' if self.reader.is_written(to, '，') => length == 3,
                ',' | '.' | '٫' | '٬' => length > 0,
                '\'' | '_' | THIN_SPACE => length == 3,
                ' ' => length == 3 && self.groups_with_spaces && !self.is_compound(next),
                _ => false,
            };
            // Only like separators group, and only after one to three digits.
            let groups_on = |c: char| {
                let like = |s: &char| *s == c || (is_space(*s) && is_space(c));
                matches!(groups[0].len(), 1..=3) && separators.iter().all(like)
            };
            if groups.len() == MOST_GROUPS {
                return Some(Term {
                    from: at,
                    to,
                    readings: Vec::new(),
                    is_plain: false,
                });
            }
            if !continues || (!matches!(separator, ',' | '.' | '٫' | '٬') && !groups_on(separator)) {
                break;
            }
            groups.push(self.text(to + 1, next));
            separators.push(separator);
            to = next;
        }
        if groups.len() == 1 && groups[0].is_empty() {
            return None;
        }
        Some(Term {
            from: at,
            to,
            readings: self.style.readings(&groups, &separators),
            is_plain: separators.is_empty(),
        })
    }

    /// `100-dollar bills`: a number of its own, whatever number stands before it.
    fn is_compound(&mut self, to: usize) -> bool {
        self.reader.get(to) == Some('-') && self.reader.get(to + 1).is_some_and(char::is_alphabetic)
    }

    fn text(&mut self, from: usize, to: usize) -> String {
        (from..to).filter_map(|i| self.reader.get(i)).collect()
    }

    /// `1.5e3`, `1.5 × 10^3`, `1.5 \times 10^{3}`, `1.5·10³`
    fn power_of_ten(&mut self, term: &mut Term) {
        let found = match self.reader.get(term.to) {
            Some('e' | 'E') => {
                let found = self.exponent(term.to + 1, &['+', '-']);
                // `5e3x` is a name, `5 eggs` a word.
                found.filter(|(_, to)| !self.reader.get(*to).is_some_and(char::is_alphanumeric))
            }
            _ => {
                let sign = self.spaces(term.to);
                let is_times = self
                    .reader
                    .get(sign)
                    .is_some_and(|c| matches!(c, '×' | 'x' | '*' | '·'));
                let ten = if is_times { self.spaces(sign + 1) } else { sign };
                (is_times && self.text(ten, ten + 2) == "10")
                    .then(|| self.raised(ten + 2))
                    .flatten()
            }
        };
        if let Some((exponent, to)) = found {
            let values = term.readings.drain(..);
            term.readings = values.filter_map(|v| v.shifted(exponent)).collect();
            term.to = to;
            term.is_plain = false;
        }
    }

    /// `^3`, `^{-3}`, `³`
    fn raised(&mut self, at: usize) -> Option<(i64, usize)> {
        if self.reader.get(at)? == '^' {
            let braced = self.reader.get(at + 1) == Some('{');
            let (exponent, to) = self.exponent(at + 1 + usize::from(braced), &['-'])?;
            let closed = !braced || self.reader.get(to) == Some('}');
            return closed.then_some((exponent, to + usize::from(braced)));
        }
        let negative = self.reader.get(at) == Some('⁻');
        let from = at + usize::from(negative);
        let to = self.skip(from, |c| superscript(c).is_some());
        let digits: String = (from..to)
            .filter_map(|i| self.reader.get(i).and_then(superscript))
            .collect();
        let exponent: i64 = digits.parse().ok()?;
        Some((if negative { -exponent } else { exponent }, to))
    }

    fn exponent(&mut self, at: usize, signs: &[char]) -> Option<(i64, usize)> {
        let sign = self.reader.get(at).filter(|c| signs.contains(c));
        let from = at + usize::from(sign.is_some());
        let to = self.digits(from);
        let exponent: i64 = self.text(from, to).parse().ok()?;
        Some((if sign == Some('-') { -exponent } else { exponent }, to))
    }

    /// `10³` is a thousand; of other bases a power is left uncalculated.
    fn power(&mut self, term: &mut Term) {
        let Some((exponent, to)) = self.raised(term.to) else {
            return;
        };
        let is_ten = term.is_plain && self.text(term.from, term.to) == "10";
        let value = Value::decimal("1", "").shifted(exponent).filter(|_| is_ten);
        term.readings = value.into_iter().collect();
        term.to = to;
        term.is_plain = false;
    }

    /// `11万`, `1.5 million`, `2 mil millones`, `1万2千`, `২ লাখ ৫০ হাজার`
    fn scale(&mut self, term: &mut Term, parts: usize) {
        let (mut power, mut to) = (0, term.to);
        let mut is_summed = false;
        while let Some(scale) = words::scale(&mut self.reader, to, self.style) {
            power += scale.power;
            is_summed = scale.is_summed;
            to = scale.to;
        }
        if power == 0 {
            return;
        }
        let values = term.readings.drain(..);
        term.readings = values.filter_map(|v| v.shifted(i64::from(power))).collect();
        (term.to, term.is_plain) = (to, false);
        if !is_summed || parts == 1 {
            return;
        }
        let rest = self.spaces(to);
        let Some(rest) = self.is_digit(rest).then(|| self.plain(rest)).flatten() else {
            return;
        };
        let mut rest = rest;
        self.scale(&mut rest, parts - 1);
        let below = |value: &Value| value.is_below(power);
        if let ([whole], [part]) = (term.readings.as_slice(), rest.readings.as_slice())
            && below(part)
            && let Some(sum) = whole.plus(part)
        {
            term.readings = vec![sum];
            term.to = rest.to;
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | THIN_SPACE)
}

/// What may be a minus, as the reader evens it out; as an exponent's a superscript one is looked for before.
fn is_dash(c: char) -> bool {
    matches!(c, '-' | '–' | '⁻')
}

/// Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, ideographs.
pub fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}')
}

/// Vowel signs and the like, which are parts of words.
pub fn is_mark(c: char) -> bool {
    let is_stop = matches!(c, '।' | '॥');
    matches!(c, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{dff}' | '\u{e30}'..='\u{e4e}') && !c.is_alphabetic() && !is_stop
}

/// Punctuation and markup that may stand before an answer.
fn is_lead_in(c: char) -> bool {
    c.is_whitespace() || ":=≈~*_`\"'“”„«»‘’「『《<>|([#,、→⇒—–⁻-".contains(c)
}

#[cfg(test)]
mod tests;
