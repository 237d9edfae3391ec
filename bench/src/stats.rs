//! What is said of several rounds: the median and the extremes.

use std::fmt;

use serde::Serialize;

/// Median and extremes of one figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; of none, all are NaN.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            min: at(0),
            max: at(last),
        }
    }

    /// The quotients of two figures, round by round.
    pub(crate) fn of_ratios(a: &[f64], b: &[f64]) -> Self {
        Self::of(a.iter().zip(b).map(|(a, b)| a / b))
    }
}

impl fmt::Display for Spread {
    /// `median (min–max)`; a precision applies to all three.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = f.precision().unwrap_or(2);
        let Self { median, min, max } = self;
        write!(f, "{median:.p$} ({min:.p$}–{max:.p$})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 8.0]);
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 3.0, 8.0));
        assert_eq!(format!("{spread:.1}"), "3.0 (1.0–8.0)");
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let spread = Spread::of_ratios(&[1.0, 9.0, 4.0], &[2.0, 3.0, 4.0]);
        assert_eq!((spread.min, spread.median, spread.max), (0.5, 1.0, 3.0));
    }

    #[test]
    fn nothing_has_no_median() {
        assert!(Spread::of([]).median.is_nan());
    }

    proptest! {
        #[test]
        fn half_of_the_values_lie_on_either_side(values in prop::collection::vec(-1e9..1e9, 1..40)) {
            let spread = Spread::of(values.iter().copied());
            let below = values.iter().filter(|v| **v < spread.median).count();
            let above = values.iter().filter(|v| **v > spread.median).count();
            prop_assert!(below * 2 <= values.len() && above * 2 <= values.len());
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
        }
    }
}
