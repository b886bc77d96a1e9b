//! Fractions: with a slash or LaTeX's commands, mixed with a whole number, and in the order of Chinese and Japanese.
//!
//! What is written over something else than a number is found whole, and has no value: `3/x`, `\frac{a}{4}`.

use super::{
    FRACTION, MOST_LEAD_IN, Parser, Term, Value, is_currency, is_space,
    reader::{OVER, vulgar},
    words,
};

/// A fraction between numbers, and where it ends.
struct Part {
    /// Numerator and denominator; none if they are no plain numbers.
    natural: Option<(u64, u64)>,
    to: usize,
}

impl Parser<'_> {
    /// `\frac{3}{4}`, `\frac {-3} 4`, `\frac34`
    pub(super) fn latex_fraction(&mut self, at: usize) -> Option<Term> {
        let (numerator, to) = self.argument(at + 1)?;
        let (denominator, to) = self.argument(to)?;
        Some(Term {
            from: at,
            to,
            readings: quotients(&numerator, &denominator),
            is_plain: false,
        })
    }

    /// What the argument of a command may be worth, and where it ends.
    fn argument(&mut self, at: usize) -> Option<(Vec<Value>, usize)> {
        let at = self.spaces(at);
        let c = self.reader.get(at)?;
        if c != '{' {
            let digit = c.is_ascii_digit().then(|| Value::decimal(&c.to_string(), ""));
            return Some((digit.into_iter().collect(), at + 1));
        }
        let to = self.closing(at)?;
        let inner = self.skip(at + 1, |c| is_space(c) || is_currency(c) || c == '{');
        let negative = self.reader.get(inner) == Some('-');
        let digits = self.spaces(inner + usize::from(negative));
        let number = self.plain(digits).filter(|_| digits < to);
        let Some(number) = number else {
            return Some((Vec::new(), to));
        };
        let is_all = self.skip(number.to, |c| is_space(c) || c == '}') >= to;
        let signed = |value: Value| value.signed(negative);
        let readings = number.readings.into_iter().filter(|_| is_all).map(signed);
        Some((readings.collect(), to))
    }

    /// Right after the bracket that closes the one at a place, if it is near.
    pub(super) fn closing(&mut self, at: usize) -> Option<usize> {
        let mut depth = 0;
        for i in at..at + MOST_LEAD_IN {
            match self.reader.get(i)? {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' if depth == 1 => return Some(i + 1),
                '}' | ')' | ']' => depth -= 1,
                _ => {}
            }
        }
        None
    }

    /// What a number is over or under: the number becomes the quotient, or grows by it.
    pub(super) fn fraction(&mut self, term: &mut Term) {
        if self.is_over_unknown(term.to) {
            term.readings.clear();
            (term.to, term.is_plain) = (term.to + 2, false);
        } else if let Some((divisor, to)) = self.latex_over(term.to) {
            term.readings = quotients(&term.readings, &divisor);
            (term.to, term.is_plain) = (to, false);
        } else if term.is_plain {
            self.plain_fraction(term);
        }
    }

    /// `3/4`, `4分の3`, `1 3/4`, `2½`, `2\frac12`. `1/2/3` has no value.
    fn plain_fraction(&mut self, term: &mut Term) {
        let written = |parser: &mut Self, from, to| parser.text(from, to).parse::<u64>().ok();
        if let Some(part) = self.mixed(term.to) {
            let whole = written(self, term.from, term.to);
            let sum = part
                .natural
                .and_then(|(n, d)| Value::ratio(whole?.checked_mul(d)?.checked_add(n)?, d));
            term.readings = sum.into_iter().collect();
            (term.to, term.is_plain) = (part.to, false);
        } else if let Some((numerator, to)) = self.under(term.to) {
            let denominator = written(self, term.from, term.to);
            let value = denominator.and_then(|d| Value::ratio(numerator, d));
            term.readings = value.into_iter().collect();
            (term.to, term.is_plain) = (to, false);
        } else if let Some((denominator, to)) = self.over(term.to) {
            let is_date = self.over(to).is_some();
            let numerator = written(self, term.from, term.to).filter(|_| !is_date);
            let value = numerator.and_then(|n| Value::ratio(n, denominator));
            term.readings = value.into_iter().collect();
            (term.to, term.is_plain) = (to, false);
        }
    }

    /// The part of one that follows a whole number: ` 3/4`, `½`, ` and 3/4`, ` and a half`.
    fn mixed(&mut self, to: usize) -> Option<Part> {
        if let Some((n, d, to)) = words::part(&mut self.reader, to) {
            let natural = Some((n, d));
            return Some(Part { natural, to });
        }
        let gap = to + usize::from(self.reader.get(to) == Some(' '));
        if let Some(part) = self.symbol(gap) {
            return Some(part);
        }
        let proper = |part: &Part| part.natural.is_some_and(|(n, d)| n < d);
        if gap > to
            && let Some(part) = self.slashed(gap)
        {
            return Some(part).filter(proper);
        }
        let next = self.after_and(to)?;
        let part = self.symbol(next).or_else(|| self.slashed(next))?;
        Some(part).filter(proper)
    }

    /// `¾`, `\frac34`
    fn symbol(&mut self, at: usize) -> Option<Part> {
        let c = self.reader.get(at)?;
        if c != FRACTION {
            let natural = Some(vulgar(c)?);
            return Some(Part { natural, to: at + 1 });
        }
        let (numerator, to) = self.argument(at + 1)?;
        let (denominator, to) = self.argument(to)?;
        let natural = |values: &[Value]| values.first().and_then(Value::natural);
        let natural = natural(&numerator).zip(natural(&denominator));
        Some(Part { natural, to })
    }

    /// `3/4`, `4分の3`
    fn slashed(&mut self, at: usize) -> Option<Part> {
        let end = self.digits(at);
        let first = self.text(at, end).parse::<u64>().ok()?;
        let (natural, to) = match self.over(end) {
            Some((denominator, to)) => ((first, denominator), to),
            None => self.under(end).map(|(numerator, to)| ((numerator, first), to))?,
        };
        Some(Part {
            natural: Some(natural),
            to,
        })
    }

    /// The digits directly after a slash.
    fn over(&mut self, at: usize) -> Option<(u64, usize)> {
        (self.reader.get(at)? == '/').then_some(())?;
        let to = self.digits(at + 1);
        Some((self.text(at + 1, to).parse().ok()?, to))
    }

    /// `分の3`: the denominator stands first.
    fn under(&mut self, at: usize) -> Option<(u64, usize)> {
        let at = self.spaces(at);
        let is_under = ["分の", "分之"]
            .iter()
            .any(|text| words::reads(&mut self.reader, text, at));
        let from = is_under.then(|| self.spaces(at + 2))?;
        let to = self.digits(from);
        Some((self.text(from, to).parse().ok()?, to))
    }

    /// `\over 4`
    fn latex_over(&mut self, at: usize) -> Option<(Vec<Value>, usize)> {
        let sign = self.skip(at, |c| is_space(c) || c == '}');
        (self.reader.get(sign)? == OVER).then_some(())?;
        let from = self.skip(sign + 1, |c| is_space(c) || c == '{');
        let divisor = self.is_digit(from).then(|| self.plain(from)).flatten();
        Some(divisor.map_or((Vec::new(), sign + 1), |divisor| (divisor.readings, divisor.to)))
    }

    /// `/x`, `/(`: not by a number. A letter that is a unit's is none, `5/h` is five an hour.
    fn is_over_unknown(&mut self, at: usize) -> bool {
        if self.reader.get(at) != Some('/') {
            return false;
        }
        let is_letter = self
            .reader
            .get(at + 1)
            .is_some_and(|c| c.is_ascii_alphabetic() && !"hdwsmglLM".contains(c));
        let is_alone = !self.reader.get(at + 2).is_some_and(char::is_alphanumeric);
        (is_letter && is_alone) || self.reader.get(at + 1).is_some_and(|c| matches!(c, '(' | 'π'))
    }

    /// `四分の3`: the numerator of a fraction whose denominator is a word.
    pub(super) fn is_under_word(&mut self, digits: usize) -> bool {
        let Some(from) = digits.checked_sub(3) else {
            return false;
        };
        let is_denominator = self
            .reader
            .get(from)
            .is_some_and(|c| "二三四五六七八九十千万".contains(c));
        is_denominator
            && ["分の", "分之"]
                .iter()
                .any(|text| words::reads(&mut self.reader, text, from + 1))
    }
}

/// All that one of some numbers over one of others may be.
fn quotients(numerators: &[Value], denominators: &[Value]) -> Vec<Value> {
    let over = |n: &Value| denominators.iter().filter_map(|d| n.over(d)).collect::<Vec<_>>();
    numerators.iter().flat_map(over).collect()
}
