//! Exact decimal figures from whole numbers: no binary fraction comes between a microjoule and the printed digit.

/// Microjoules in a kilowatt-hour.
pub const MICROJOULES_PER_KWH: u128 = 3_600_000_000_000;

/// `value * numerator / denominator`, rounded half to even.
pub fn scale(value: u128, numerator: u128, denominator: u128) -> u128 {
    let product = value * numerator;
    let (quotient, twice_rest) = (product / denominator, product % denominator * 2);
    match twice_rest.cmp(&denominator) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + quotient % 2,
    }
}

/// A whole number of millionths as text with six decimals.
pub fn millionths(value: u128) -> String {
    format!("{}.{:06}", value / 1_000_000, value % 1_000_000)
}

/// Kilowatt-hours with six decimals (a milliwatt-hour, 3.6 J).
pub fn kwh(microjoules: u128) -> String {
    millionths(scale(microjoules, 1_000_000, MICROJOULES_PER_KWH))
}

/// Reads a non-negative decimal with at most six decimals as millionths.
pub fn parse_millionths(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 12 || fraction.len() > 6 || !digits(whole) || !digits(fraction) {
        return None;
    }
    Some(whole.parse::<u128>().ok()? * 1_000_000 + format!("{fraction:0<6}").parse::<u128>().ok()?)
}

/// Parts of a whole in percent with one decimal, which add up to exactly 100.0: largest remainders get the rest, the
/// earlier part first. All zero when the whole is zero.
pub fn percent_shares<const N: usize>(parts: [u128; N]) -> [String; N] {
    let whole: u128 = parts.iter().sum();
    let exact = |part: u128| Some(((part * 1000).checked_div(whole)?, (part * 1000).checked_rem(whole)?));
    let Some(exact) = parts.iter().map(|part| exact(*part)).collect::<Option<Vec<_>>>() else {
        return std::array::from_fn(|_| "0.0".to_owned());
    };
    let mut tenths: [u128; N] = std::array::from_fn(|index| exact[index].0);
    let mut by_remainder: Vec<usize> = (0..N).collect();
    by_remainder.sort_by_key(|index| (std::cmp::Reverse(exact[*index].1), *index));
    let missing = 1000 - tenths.iter().sum::<u128>();
    for index in by_remainder.into_iter().take(usize::try_from(missing).unwrap_or(0)) {
        tenths[index] += 1;
    }
    tenths.map(|t| format!("{}.{}", t / 10, t % 10))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kilowatt_hour_is_three_million_six_hundred_thousand_joules() {
        assert_eq!(kwh(MICROJOULES_PER_KWH), "1.000000");
        assert_eq!(kwh(3_600_000), "0.000001");
        assert_eq!(kwh(u128::from(u64::MAX)), "5124095.576030");
    }

    #[test]
    fn halves_round_to_even() {
        assert_eq!((scale(1, 1, 2), scale(3, 1, 2), scale(5, 1, 2)), (0, 2, 2));
    }

    #[test]
    fn reads_decimals_and_refuses_the_rest() {
        assert_eq!(parse_millionths("0.5306"), Some(530_600));
        assert_eq!(parse_millionths("1"), Some(1_000_000));
        for text in ["", ".5", "1.2345678", "-1", "1e3", "1,5", "0x1"] {
            assert_eq!(parse_millionths(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn shares_add_up_to_a_hundred(parts in proptest::array::uniform3(0_u64..u64::MAX / 4)) {
            let parts = parts.map(u128::from);
            let sum: u128 = percent_shares(parts).iter().map(|p| parse_millionths(p).unwrap()).sum();
            prop_assert_eq!(sum, if parts.iter().sum::<u128>() == 0 { 0 } else { 100_000_000 });
        }
    }
}
