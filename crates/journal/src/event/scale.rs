//! Axes with round numbers, the same in the terminal and in the report's pictures.

/// Data coordinates of the edges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Left or lower edge.
    pub low: f64,
    /// Right or upper edge; never below the other one.
    pub high: f64,
}

impl Range {
    /// Spans finite values with a margin (a share of their spread) on both sides; `None` without any.
    pub fn around(values: impl IntoIterator<Item = f64>, margin: f64) -> Option<Self> {
        let finite = values.into_iter().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return None;
        }
        let spread = if high > low {
            high - low
        } else {
            high.abs().max(1.0) * 0.1
        };
        Some(Self {
            low: low - margin * spread,
            high: high + margin * spread,
        })
    }

    /// 0 at the low edge, 1 at the high one; a range without width puts everything in its middle.
    pub fn fraction(self, value: f64) -> f64 {
        if self.high > self.low {
            (value - self.low) / (self.high - self.low)
        } else {
            0.5
        }
    }

    /// Round values inside the range, about `count` of them.
    ///
    /// **Source**: steps of 1, 2 or 5 times a power of ten (Heckbert, Graphics Gems, 1990).
    pub fn ticks(self, count: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / count.max(1) as f64;
        if !(rough.is_finite() && rough > 0.0) {
            return vec![self.low];
        }
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .iter()
            .map(|m| m * power)
            .find(|s| *s >= rough)
            .unwrap_or(10.0 * power);
        let first = (self.low / step).ceil();
        (0..=2 * count as u32 + 2)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|t| *t <= self.high + 1e-9 * step)
            .map(|t| if t == 0.0 { 0.0 } else { t })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(Range { low: 0.21, high: 0.78 }.ticks(3), [0.4, 0.6000000000000001]);
        assert_eq!(Range { low: 0.0, high: 99.0 }.ticks(4), [0.0, 50.0]);
        assert_eq!(Range { low: 1.0, high: 1.0 }.ticks(4), [1.0]);
        assert_eq!(
            Range {
                low: f64::NAN,
                high: 1.0
            }
            .ticks(2)
            .len(),
            1
        );
    }

    #[test]
    fn a_range_around_one_value_has_a_width() {
        let range = Range::around([0.0], 0.1).expect("a value");
        assert!(range.low < 0.0 && range.high > 0.0);
        assert_eq!(Range::around([f64::NAN], 0.1), None);
    }
}
