//! What is said not to be the answer: `not 5`, `more than 5`, `> 5`, `5ではない`.

use super::{
    Parser, is_currency, is_space,
    reader::Reader,
    words::{Words, reads},
};

/// Words right before a number, in lower case; those of English stand in any language.
const BEFORE: &[(Words, &[&str])] = &[
    (
        Words::English,
        &[
            "not",
            "isn't",
            "more than",
            "greater than",
            "less than",
            "fewer than",
            "other than",
        ],
    ),
    (
        Words::German,
        &["nicht", "mehr als", "weniger als", "größer als", "kleiner als"],
    ),
    (
        Words::Spanish,
        &[
            "no es",
            "no son",
            "más de",
            "más que",
            "menos de",
            "menos que",
            "mayor que",
            "menor que",
        ],
    ),
    (
        Words::French,
        &[
            "pas",
            "plus de",
            "moins de",
            "supérieure à",
            "inférieure à",
            "supérieur à",
            "inférieur à",
        ],
    ),
    (Words::Russian, &["не", "больше", "меньше", "более", "менее"]),
    (Words::Swahili, &["si", "zaidi ya", "chini ya"]),
];
/// With one of these before it a comparison gives the number: `no more than 5`.
const NEGATIONS: &[&str] = &["no", "not", "nicht", "pas", "не", "si"];
/// The same in scripts that put no spaces between words.
const BEFORE_UNSPACED: &[&str] = &[
    "不是",
    "并非",
    "大于",
    "小于",
    "多于",
    "少于",
    "ไม่ใช่",
    "มากกว่า",
    "น้อยกว่า",
];
/// Words right after a number.
const AFTER: &[&str] = &[
    "ではない",
    "ではありません",
    "じゃない",
    "より大きい",
    "より多い",
    "より小さい",
    "より少ない",
    "নয়",
    "নয়",
    "এর বেশি",
    "এর কম",
    "కాదు",
    "కంటే ఎక్కువ",
    "కంటే తక్కువ",
];

impl Parser<'_> {
    /// Whether the number that begins, with its sign or currency, at `from` and ends at `to` is denied or only compared.
    pub(super) fn is_denied(&mut self, from: usize, to: usize) -> bool {
        let dress = |c: char| is_space(c) || is_currency(c) || matches!(c, '*' | '_' | '{');
        let before = self.back_over(from, 0, dress);
        if self.is_compared_by_sign(before, to) || self.is_denied_before(before) {
            return true;
        }
        let after = self.skip(to, |c| is_space(c) || matches!(c, '*' | '_' | '}'));
        // Most texts have no such word: its first character decides.
        self.reader.get(after).is_some_and(|c| c > '\u{900}')
            && AFTER.iter().any(|text| reads(&mut self.reader, text, after))
    }

    /// `> 5`, `≠ 5`, `!= 5`; not `=> 5`, `<5>`, `<< 5`, nor a quotation mark of Markdown's at the start of a line.
    fn is_compared_by_sign(&mut self, end: usize, number_end: usize) -> bool {
        let Some(sign) = end.checked_sub(1) else { return false };
        let is_sign = match self.reader.get(sign) {
            Some('≠') => return true,
            Some('=') => return sign > 0 && self.reader.get(sign - 1) == Some('!'),
            Some('>') => !self.opens_line(sign),
            Some('<') => self.reader.get(number_end) != Some('>'),
            _ => false,
        };
        let stands_free = match sign.checked_sub(1).and_then(|i| self.reader.get(i)) {
            Some(c) => is_space(c) || c.is_ascii_digit(),
            None => self.follows_a_marker,
        };
        is_sign && stands_free
    }

    fn opens_line(&mut self, at: usize) -> bool {
        let start = self.back_over(at, 0, is_space);
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
            return BEFORE_UNSPACED
                .iter()
                .any(|text| ends(&mut self.reader, text, end).is_some());
        }
        let language = self.style.language;
        let known = BEFORE
            .iter()
            .filter(|(of, _)| *of == language || *of == Words::English)
            .flat_map(|(_, texts)| texts.iter());
        let mut denied = known.filter_map(|text| Some((*text, whole_word(&mut self.reader, text, end)?)));
        let Some((text, from)) = denied.next() else {
            return false;
        };
        if NEGATIONS.contains(&text) {
            return true;
        }
        let before = self.back_over(from, 0, is_space);
        let is_negated = |text: &&str| whole_word(&mut self.reader, text, before).is_some();
        !NEGATIONS.iter().any(is_negated)
    }
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
    (!is_inner).then_some(from)
}
