//! What is said not to be the answer: `not 5`, `more than 5`, `> 5`, `5ではない`.

use super::{
    MOST_LEAD_IN, Parser, is_currency, is_space, is_unspaced,
    reader::Reader,
    words::{Words, reads},
};

/// Words right before a number, in lower case; those of English stand in any language.
const BEFORE: &[(Words, &[&str])] = &[
    (
        Words::English,
        &[
            "never",
            "neither",
            "bigger than",
            "higher than",
            "different from",
            "not",
            "n't",
            "not equal to",
            "n't equal to",
            "more than",
            "greater than",
            "larger than",
            "above",
            "less than",
            "fewer than",
            "smaller than",
            "below",
            "other than",
        ],
    ),
    (
        Words::German,
        &[
            "höher als",
            "kein",
            "keine",
            "nicht",
            "nicht gleich",
            "mehr als",
            "weniger als",
            "größer als",
            "kleiner als",
        ],
    ),
    (
        Words::Spanish,
        &[
            "no es",
            "no son",
            "no es igual a",
            "no",
            "más de",
            "más que",
            "menos de",
            "menos que",
            "mayor que",
            "menor que",
            "mayor a",
            "menor a",
        ],
    ),
    (
        Words::French,
        &[
            "pas",
            "pas de",
            "pas égale à",
            "pas égal à",
            "plus de",
            "moins de",
            "supérieure à",
            "inférieure à",
            "supérieur à",
            "inférieur à",
        ],
    ),
    (
        Words::Russian,
        &[
            "не",
            "не равен",
            "не равно",
            "не равна",
            "больше",
            "меньше",
            "более",
            "менее",
            "больше чем",
            "меньше чем",
            "больше, чем",
            "меньше, чем",
        ],
    ),
    (Words::Swahili, &["si", "sio", "siyo", "zaidi ya", "chini ya"]),
];
/// With one of these before it a comparison gives the number: `no more than 5`.
const NEGATIONS: &[&str] = &[
    "never", "nothing", "nada", "nichts", "rien", "neither", "kein", "keine", "no", "not", "n't", "nicht", "pas", "не",
    "si", "sio", "siyo",
];
/// Of those above what compares and does not deny.
const COMPARING: &[&str] = &[
    "than",
    "above",
    "below",
    "als",
    "de",
    "que",
    "a",
    "à",
    "больше",
    "меньше",
    "более",
    "менее",
    "чем",
    "ya",
];
/// Denials right before a number in scripts that put no spaces between words, and comparisons.
const DENYING_UNSPACED: &[&str] = &["不为", "不為", "不是", "并非", "不等于", "不等於", "ไม่ใช่", "ไม่เท่ากับ"];
const COMPARING_UNSPACED: &[&str] = &[
    "不到",
    "不足",
    "เกิน",
    "ต่ำกว่า",
    "大于",
    "小于",
    "多于",
    "少于",
    "大於",
    "小於",
    "多於",
    "少於",
    "超过",
    "超過",
    "มากกว่า",
    "น้อยกว่า",
];
const NEGATIONS_UNSPACED: &[&str] = &["不", "没", "沒", "ไม่"];
/// Denials right after a number, or after a unit, and comparisons.
const DENYING_AFTER: &[&str] = &[
    "でない",
    "以外",
    "ではない",
    "ではありません",
    "ではなく",
    "じゃない",
    "নয়",
    "ন\u{9df}",
    "కాదు",
];
const COMPARING_AFTER: &[&str] = &[
    "を超える",
    "未満",
    "এর চেয়ে বেশি",
    "থেকে বেশি",
    "కు మించి",
    "より大きい",
    "より多い",
    "より小さい",
    "より少ない",
    "এর বেশি",
    "এর কম",
    "కంటే ఎక్కువ",
    "కంటే తక్కువ",
    "కన్నా ఎక్కువ",
    "కన్నా తక్కువ",
];
/// Letters of a unit or counter between a number and what is said of it.
const LONGEST_UNIT: usize = 12;
/// Symbols between an angle bracket and the one that closes it.
const LONGEST_BRACKET: usize = 24;

impl Parser<'_> {
    /// Whether the number that begins, with its sign or currency, at `from` and ends at `to` is denied or only compared.
    pub(super) fn is_denied(&mut self, from: usize, to: usize) -> bool {
        let dress = |c: char| is_space(c) || is_currency(c) || matches!(c, '*' | '_' | '{');
        let before = self.back_over(from, near(from), dress);
        if self.is_compared_by_sign(before, to) || self.is_denied_before(before) {
            return true;
        }
        self.is_denied_after(to)
    }

    fn is_denied_after(&mut self, to: usize) -> bool {
        let gap = |c: char| is_space(c) || matches!(c, '*' | '_' | '}' | '-');
        let after = self.skip(to, gap);
        let Some(next) = self.reader.get(after) else {
            return false;
        };
        // `5個ではない`, `৫টি নয়`: in these languages alone a denial follows.
        let behind_unit = match next {
            '\u{980}'..='\u{9ff}' | '\u{c00}'..='\u{c7f}' => {
                let unit = (after..after + LONGEST_UNIT).find(|at| !self.reader.get(*at).is_some_and(is_of_word));
                unit.map(|unit| self.skip(unit, gap)).into_iter().collect()
            }
            _ if self.style.language == Words::Japanese && is_unspaced(next) => vec![after + 1, after + 2],
            _ => return false,
        };
        let begins = std::iter::once(after).chain(behind_unit);
        let mut known = |texts: &[&str], at: usize| {
            let found = texts.iter().find(|text| reads(&mut self.reader, text, at));
            found.map(|text| at + text.chars().count())
        };
        for at in begins {
            if let Some(end) = known(DENYING_AFTER, at) {
                // `5ではないでしょうか`: is it not five?
                return known(&["でしょうか", "か"], end).is_none();
            }
        }
        // `৫ এর বেশি নয়`: no more than five.
        let Some(end) = known(COMPARING_AFTER, after) else {
            return false;
        };
        let end = self.skip(end, is_space);
        !DENYING_AFTER.iter().any(|text| reads(&mut self.reader, text, end))
    }

    /// `> 5`, `≠ 5`, `!= 5`; not `=> 5`, `<5>`, `<< 5`, nor a quotation mark of Markdown's at the start of a line.
    fn is_compared_by_sign(&mut self, end: usize, number_end: usize) -> bool {
        let Some(sign) = end.checked_sub(1) else { return false };
        let is_sign = match self.reader.get(sign) {
            Some('≠') => return true,
            Some('=') => return sign > 0 && self.reader.get(sign - 1) == Some('!'),
            Some('>') => !self.opens_line(sign) && self.reader.get(number_end) != Some('<'),
            Some('<') => !self.is_closed(number_end),
            _ => false,
        };
        let stands_free = match sign.checked_sub(1).and_then(|i| self.reader.get(i)) {
            Some(c) => is_space(c) || matches!(c, '{' | '(' | '$'),
            None => self.follows_a_marker,
        };
        is_sign && stands_free
    }

    /// `<18 apples>`: a bracket, and no sign.
    fn is_closed(&mut self, from: usize) -> bool {
        let to = (from..from + LONGEST_BRACKET).find(|at| self.reader.get(*at).is_none_or(|c| matches!(c, '>' | '\n')));
        to.is_some_and(|at| self.reader.get(at) == Some('>'))
    }

    fn opens_line(&mut self, at: usize) -> bool {
        let start = self.back_over(at, near(at), |c| is_space(c) || c == '>');
        match start.checked_sub(1) {
            Some(before) => self.reader.get(before) == Some('\n'),
            None => !self.follows_a_marker,
        }
    }

    fn is_denied_before(&mut self, end: usize) -> bool {
        let Some(last) = end.checked_sub(1).and_then(|i| self.reader.get(i)) else {
            return false;
        };
        if !last.is_alphabetic() && !super::is_mark(last) {
            return false;
        }
        if last > '\u{900}' {
            let mut known =
                |texts: &[&str], end: usize| texts.iter().find_map(|text| ends(&mut self.reader, text, end));
            let is_compared =
                known(COMPARING_UNSPACED, end).is_some_and(|from| known(NEGATIONS_UNSPACED, from).is_none());
            return is_compared || known(DENYING_UNSPACED, end).is_some();
        }
        let language = self.style.language;
        let known = BEFORE
            .iter()
            .filter(|(of, _)| *of == language || *of == Words::English)
            .flat_map(|(_, texts)| texts.iter());
        // Most words deny nothing: the last letter tells.
        let last = last.to_lowercase().next();
        let known = known.filter(|text| text.chars().next_back() == last);
        let denied = known.filter_map(|text| Some((*text, whole_word(&mut self.reader, text, end)?)));
        // The longest says most: `no es igual a`.
        let Some((text, from)) = denied.min_by_key(|(_, from)| *from) else {
            return false;
        };
        let is_comparison = text.rsplit(' ').next().is_some_and(|word| COMPARING.contains(&word));
        let begins_denied = text.split(' ').next().is_some_and(|word| NEGATIONS.contains(&word));
        if begins_denied || !is_comparison {
            return true;
        }
        let before = self.back_over(from, near(from), is_space);
        let is_negated = |text: &&str| whole_word(&mut self.reader, text, before).is_some();
        !NEGATIONS.iter().any(is_negated)
    }
}

/// What stands further before a place than this says nothing of it.
fn near(at: usize) -> usize {
    at.saturating_sub(MOST_LEAD_IN)
}

/// Letters and vowel signs.
fn is_of_word(c: char) -> bool {
    c.is_alphabetic() || super::is_mark(c)
}

/// Where a text begins that ends at a place, in upper or lower case.
fn ends(reader: &mut Reader<'_>, text: &str, end: usize) -> Option<usize> {
    let from = end.checked_sub(text.chars().count())?;
    let lower = |c: char| c.to_lowercase().next();
    let is_it = text
        .chars()
        .zip(from..)
        .all(|(c, i)| reader.get(i).and_then(lower) == Some(c));
    is_it.then_some(from)
}

/// As [`ends`], where no letter stands before it.
fn whole_word(reader: &mut Reader<'_>, text: &str, end: usize) -> Option<usize> {
    let from = ends(reader, text, end)?;
    let is_inner = from > 0 && reader.get(from - 1).is_some_and(char::is_alphanumeric);
    (!is_inner || text.starts_with("n't")).then_some(from)
}
