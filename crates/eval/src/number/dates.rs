//! Dates: the day and the year beside the name of a month are no answers to "how many".
//!
//! `May 5, 2020`, `5 de mayo de 2020`, `5. Mai`, `2020年5月5日`. What is written in figures alone (`5/5/2020`) is caught by
//! the grammar of numbers. A month alone is a word, and a year alone a number.

use std::ops::Range;

use super::{
    Parser, Term, is_mark, is_space,
    reader::Reader,
    words::{Style, Words, word},
};

impl Parser<'_> {
    /// Takes a number that is part of a date together with the rest of it, and its value from it. The month may begin
    /// before it, but not before `bound`.
    pub(super) fn date(&mut self, term: &mut Term, bound: usize) {
        if !term.is_plain || term.to - term.from > 4 {
            return;
        }
        let Some(dated) = self.named_date(term, bound).or_else(|| self.counted_date(term)) else {
            return;
        };
        term.from = dated.start;
        term.to = dated.end;
        term.readings.clear();
        term.is_plain = false;
    }

    /// With the name of its month.
    fn named_date(&mut self, term: &Term, bound: usize) -> Option<Range<usize>> {
        let day = self.day_end(term.to);
        let gap = self.back_over(term.from, bound, |c| is_space(c) || c == '.');
        if let Some(from) = month_before(&mut self.reader, gap, bound, self.style) {
            return Some(from..self.year(day).unwrap_or(day));
        }
        let month = self.over_word(day, &["of", "de"]);
        let to = month_after(&mut self.reader, month, self.style)?;
        Some(term.from..self.year(to).unwrap_or(to))
    }

    /// Over the ending of an ordinal: `5th`, `5.`, `1er`, `5º`.
    fn day_end(&mut self, at: usize) -> usize {
        let (word, to) = word(&mut self.reader, at);
        match word.as_str() {
            "st" | "nd" | "rd" | "th" | "er" | "º" | "ª" => to,
            // In other languages the point ends the sentence: `5. May I …`.
            _ if self.style.language == Words::German && self.reader.get(at) == Some('.') => at + 1,
            _ => at,
        }
    }

    /// Where a year ends that follows, if one does: `, 2020`, ` de 2020`.
    fn year(&mut self, at: usize) -> Option<usize> {
        let comma = at + usize::from(self.reader.get(at) == Some(','));
        let from = self.over_word(comma, &["of", "de", "del"]);
        let to = self.digits(from);
        (from > comma && to == from + 4).then_some(to)
    }

    /// Over spaces, and one of some words and the spaces after it if it is there.
    fn over_word(&mut self, at: usize, words: &[&str]) -> usize {
        let from = self.spaces(at);
        let (word, to) = word(&mut self.reader, from);
        let is_one = words.contains(&word.as_str());
        if is_one { self.spaces(to) } else { from }
    }

    /// With the signs for year, month and day. `12月` alone may be twelve months.
    fn counted_date(&mut self, term: &Term) -> Option<Range<usize>> {
        let mut to = term.to;
        if self.reader.get(to) == Some('年') {
            let month = self.spaces(to + 1);
            to = self.digits(month);
            (to > month && term.to - term.from == 4).then_some(())?;
        }
        (self.reader.get(to) == Some('月')).then_some(())?;
        let day = self.spaces(to + 1);
        let day_end = self.digits(day);
        let has_day = day_end > day && self.reader.get(day_end).is_some_and(|c| "日号號".contains(c));
        match (has_day, to > term.to) {
            (true, _) => Some(term.from..day_end + 1),
            (false, true) => Some(term.from..to + 1),
            (false, false) => None,
        }
    }

    /// Back from a place over some symbols, not beyond `bound`.
    pub(super) fn back_over(&mut self, mut at: usize, bound: usize, skipped: impl Fn(char) -> bool) -> usize {
        while at > bound && self.reader.get(at - 1).is_some_and(&skipped) {
            at -= 1;
        }
        at
    }
}

/// Months, as they stand beside the day of a date, in lower case; those of English stand in any language.
const MONTHS: [(Words, &str); 9] = [
    (
        Words::English,
        "january february march april may june july august september october november december",
    ),
    (
        Words::German,
        "januar jänner februar märz mai juni juli oktober dezember",
    ),
    (
        Words::Spanish,
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    ),
    (
        Words::French,
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    ),
    (
        Words::Russian,
        "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    ),
    (
        Words::Swahili,
        "januari februari machi aprili mei julai agosti septemba oktoba novemba desemba",
    ),
    (
        Words::Other,
        "জানুয়ারি জানুয়ারি ফেব্রুয়ারি ফেব্রুয়ারি মার্চ এপ্রিল মে জুন জুলাই আগস্ট সেপ্টেম্বর অক্টোবর নভেম্বর ডিসেম্বর",
    ),
    (
        Words::Other,
        "జనవరి ఫిబ్రవరి మార్చి ఏప్రిల్ మే జూన్ జూలై ఆగస్టు సెప్టెంబర్ అక్టోబర్ నవంబర్ డిసెంబర్",
    ),
    (
        Words::Other,
        "มกราคม กุมภาพันธ์ มีนาคม เมษายน พฤษภาคม มิถุนายน กรกฎาคม สิงหาคม กันยายน ตุลาคม พฤศจิกายน ธันวาคม",
    ),
];

fn months(style: Style) -> impl Iterator<Item = &'static str> {
    let is_known = move |language: Words| language == style.language || language == Words::English;
    let known = MONTHS.iter().filter(move |(language, _)| is_known(*language));
    known.flat_map(|(_, names)| names.split(' '))
}

/// Months whose names are other words too, where they do not begin with a capital.
const CAPITAL_MONTHS: &[&str] = &["may", "march"];

/// Where the month begins that ends at a place, not before `bound`.
fn month_before(reader: &mut Reader<'_>, at: usize, bound: usize, style: Style) -> Option<usize> {
    let is_inner = |reader: &mut Reader<'_>, i: usize| reader.get(i).is_some_and(is_word);
    if at <= bound || !is_inner(reader, at - 1) {
        return None;
    }
    let mut starts = months(style).filter_map(|month| {
        let from = at.checked_sub(month.chars().count())?;
        (from >= bound).then_some((from, month))
    });
    starts.find_map(|(from, month)| {
        let is_whole = from == 0 || !is_inner(reader, from - 1);
        (is_whole && is_month(reader, from, month)).then_some(from)
    })
}

/// Where the month ends that begins at a place.
fn month_after(reader: &mut Reader<'_>, at: usize, style: Style) -> Option<usize> {
    reader.get(at).filter(|c| c.is_alphabetic())?;
    months(style).find_map(|month| {
        let to = at + month.chars().count();
        (is_month(reader, at, month) && !reader.get(to).is_some_and(is_word)).then_some(to)
    })
}

fn is_month(reader: &mut Reader<'_>, at: usize, month: &str) -> bool {
    let is_small = reader.get(at).is_some_and(char::is_lowercase);
    let lower = |c: char| c.to_lowercase().next();
    let reads = month
        .chars()
        .zip(at..)
        .all(|(c, i)| reader.get(i).and_then(lower) == Some(c));
    reads && !(is_small && CAPITAL_MONTHS.contains(&month))
}

/// Letters, and the vowel signs that belong to them.
fn is_word(c: char) -> bool {
    c.is_alphabetic() || is_mark(c)
}
