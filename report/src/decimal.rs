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

/// A declared amount in millionths; binary noise beyond six decimals is dropped.
pub fn of_f64(value: f64) -> Option<u128> {
    (value.is_finite() && value >= 0.0).then(|| parse_millionths(&format!("{value:.6}"))).flatten()
}

/// Whole microjoules of kWh in millionths.
pub fn microjoules_of_kwh(millionths: u128) -> u128 {
    millionths * (MICROJOULES_PER_KWH / 1_000_000)
}

/// `part / whole` with `decimals` (at most six) decimals; none when the whole is zero.
pub fn ratio(part: u128, whole: u128, decimals: u32) -> Option<String> {
    let one = 10_u128.pow(decimals);
    let scaled = (whole > 0).then(|| scale(part, one, whole))?;
    if decimals == 0 {
        return Some(scaled.to_string());
    }
    Some(format!("{}.{:0width$}", scaled / one, scaled % one, width = decimals as usize))
}

/// Percent of `part` in `whole` with one decimal.
pub fn percent(part: u128, whole: u128) -> Option<String> {
    ratio(part * 100, whole, 1)
}

/// Change from `before` to `after` in percent with one decimal and its sign.
pub fn change(before: u128, after: u128) -> Option<String> {
    let (sign, difference) = if after >= before { ("+", after - before) } else { ("-", before - after) };
    percent(difference, before).map(|text| format!("{sign}{text}"))
}

/// A decimal without the zeros at its end.
pub fn trim(decimal: &str) -> &str {
    if decimal.contains('.') { decimal.trim_end_matches('0').trim_end_matches('.') } else { decimal }
}

/// A decimal as people read it: groups of three, and no more decimals than its size asks for. The exact figure is in the
/// JSON and CSV forms.
pub fn display(decimal: &str) -> String {
    let (sign, digits) = match decimal.strip_prefix(['-', '+']) {
        Some(rest) => (&decimal[..1], rest),
        None => ("", decimal),
    };
    let Some(value) = parse_millionths(digits) else { return decimal.to_owned() };
    let has = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let wanted = match value {
        0..1_000_000 => 6,
        1_000_000..1_000_000_000 => 3,
        _ => 1,
    };
    let keep = has.min(wanted);
    let step = 10_u128.pow(6 - u32::try_from(keep).unwrap_or(6));
    let rounded = scale(value, 1, step);
    let one = 10_u128.pow(u32::try_from(keep).unwrap_or(0));
    let whole = (rounded / one).to_string();
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if keep == 0 { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{:0keep$}", rounded % one) }
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

    #[test]
    fn figures_are_shown_in_groups_and_no_longer_than_needed() {
        for (exact, shown) in [
            ("1234567.891234", "1,234,567.9"),
            ("12.345678", "12.346"),
            ("0.005215", "0.005215"),
            ("-3.2", "-3.2"),
            ("+100.0", "+100.0"),
            ("1.30", "1.30"),
            ("365", "365"),
            ("n/a", "n/a"),
        ] {
            assert_eq!(display(exact), shown);
        }
        assert_eq!((ratio(1, 3, 3).as_deref(), ratio(1, 0, 3)), (Some("0.333"), None));
        assert_eq!((change(200, 150).as_deref(), change(0, 1)), (Some("-25.0"), None));
        assert_eq!((of_f64(1.25), of_f64(f64::NAN), of_f64(-1.0)), (Some(1_250_000), None, None));
        assert_eq!((trim("1.250000"), trim("100"), trim("3.0")), ("1.25", "100", "3"));
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
