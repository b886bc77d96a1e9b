//! What a number is worth: exact, of any length, in one spelling each, so that equality is equality.

/// A decimal number, or a fraction that no decimal number is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// ± `digits` × 10^`exponent`; the digits neither begin nor end in 0, those of zero are none.
    Decimal {
        is_negative: bool,
        digits: String,
        exponent: i64,
    },
    /// In lowest terms.
    Ratio {
        is_negative: bool,
        numerator: u64,
        denominator: u64,
    },
}

impl Value {
    /// Exponents beyond this are no numbers that anybody answers with.
    const LARGEST_EXPONENT: i64 = 400;

    /// From ASCII digits before and after the point.
    pub fn decimal(whole: &str, decimals: &str) -> Value {
        Value::from_digits(format!("{whole}{decimals}"), -(decimals.len() as i64))
    }

    fn from_digits(digits: String, exponent: i64) -> Value {
        let significant = digits.trim_end_matches('0');
        let dropped = digits.len() - significant.len();
        let significant = significant.trim_start_matches('0');
        Value::Decimal {
            is_negative: false,
            exponent: if significant.is_empty() {
                0
            } else {
                exponent + dropped as i64
            },
            digits: significant.into(),
        }
    }

    /// None if it divides by zero. A quotient that ends is a decimal number.
    pub fn ratio(numerator: u64, denominator: u64) -> Option<Value> {
        let divisor = gcd(numerator, denominator);
        if denominator == 0 {
            return None;
        }
        let (numerator, denominator) = (numerator / divisor, denominator / divisor);
        let mut shifted = u128::from(numerator);
        for exponent in 0..=18 {
            if shifted % u128::from(denominator) == 0 {
                let quotient = shifted / u128::from(denominator);
                return Some(Value::from_digits(quotient.to_string(), -exponent));
            }
            shifted = shifted.checked_mul(10)?;
        }
        Some(Value::Ratio {
            is_negative: false,
            numerator,
            denominator,
        })
    }

    /// One decimal number over another; none if that divides by zero, or if they are too long.
    pub fn over(&self, divisor: &Value) -> Option<Value> {
        let (Value::Decimal { is_negative: a, .. }, Value::Decimal { is_negative: b, .. }) = (self, divisor) else {
            return None;
        };
        let unit = self.exponent()?.min(divisor.exponent()?);
        let in_units = |value: &Value| value.integer(unit).and_then(|n| u64::try_from(n).ok());
        let quotient = Value::ratio(in_units(self)?, in_units(divisor)?)?;
        Some(quotient.signed(a != b))
    }

    /// A whole number that is not negative.
    pub fn natural(&self) -> Option<u64> {
        let Value::Decimal { is_negative: false, .. } = self else {
            return None;
        };
        u64::try_from(self.integer(0)?).ok()
    }

    fn exponent(&self) -> Option<i64> {
        match self {
            Value::Decimal { exponent, .. } => Some(*exponent),
            Value::Ratio { .. } => None,
        }
    }

    /// Times ten to a power; none where that is out of all bounds, and of a fraction.
    pub fn shifted(self, power: i64) -> Option<Value> {
        match self {
            Value::Decimal {
                is_negative,
                digits,
                exponent,
            } if power.abs() <= Value::LARGEST_EXPONENT => Some(Value::Decimal {
                is_negative,
                exponent: if digits.is_empty() { 0 } else { exponent + power },
                digits,
            }),
            _ => None,
        }
    }

    /// As [`Value::shifted`] by a scale word's power, for a value that has one.
    pub fn scaled(self, power: u32) -> Value {
        match self.clone().shifted(i64::from(power)) {
            Some(scaled) => scaled,
            None => self,
        }
    }

    /// With a sign before it, which turns one that it has; zero has none.
    pub fn signed(mut self, negative: bool) -> Value {
        match &mut self {
            Value::Decimal {
                is_negative, digits, ..
            } => *is_negative = (*is_negative != negative) && !digits.is_empty(),
            Value::Ratio { is_negative, .. } => *is_negative = *is_negative != negative,
        }
        self
    }

    /// Whether it is less than ten to a power.
    pub fn is_below(&self, power: u32) -> bool {
        match self {
            Value::Decimal { digits, exponent, .. } => digits.len() as i64 + exponent <= i64::from(power),
            Value::Ratio { .. } => false,
        }
    }

    /// The sum of two that are not negative, if it is of ordinary size.
    pub fn plus(&self, other: &Value) -> Option<Value> {
        let (Value::Decimal { exponent: a, .. }, Value::Decimal { exponent: b, .. }) = (self, other) else {
            return None;
        };
        let exponent = (*a).min(*b);
        let sum = self.integer(exponent)?.checked_add(other.integer(exponent)?)?;
        Some(Value::from_digits(sum.to_string(), exponent))
    }

    /// In units of ten to the exponent.
    fn integer(&self, unit: i64) -> Option<u128> {
        let Value::Decimal { digits, exponent, .. } = self else {
            return None;
        };
        let zeros = u32::try_from(exponent - unit).ok()?;
        let value: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        value.checked_mul(10u128.checked_pow(zeros)?)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}
