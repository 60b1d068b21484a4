//! Kubernetes quantities: `500m`, `2`, `1Gi`, `1e3`.

/// A quantity in thousandths; none when it is malformed. Fractions of a thousandth are rounded up, as the API server does.
pub(super) fn thousandths(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u128); 15] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("m", 0),
        ("u", 0),
        ("n", 0),
    ];
    let (number, suffix) = match SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix)) {
        Some((suffix, _)) => (&text[..text.len() - suffix.len()], *suffix),
        None => (text, ""),
    };
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) if suffix.is_empty() => {
            (mantissa, exponent.parse::<u32>().ok().filter(|e| *e <= 18)?)
        }
        Some(_) => return None,
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let value: u128 = format!("{whole}{fraction}").parse().ok()?;
    // Numerator in billionths per unit of the suffix, so that nano, micro and milli stay whole.
    let billionths = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        other => SUFFIXES.iter().find(|(name, _)| *name == other).map_or(1, |(_, factor)| *factor) * 1_000_000_000,
    };
    let total = value.checked_mul(billionths)?.checked_mul(10_u128.pow(exponent))?;
    u64::try_from(total.div_ceil(scale).div_ceil(1_000_000)).ok()
}

/// A quantity in whole units, rounded up.
pub(super) fn units(text: &str) -> Option<u64> {
    thousandths(text).map(|value| value.div_ceil(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, thousandth) in
            [("500m", 500), ("2", 2_000), ("0.5", 500), ("1e3", 1_000_000), ("100u", 1), ("1n", 1), ("1.5k", 1_500_000)]
        {
            assert_eq!(thousandths(text), Some(thousandth), "{text}");
        }
        assert_eq!(units("1Gi"), Some(1 << 30));
        assert_eq!(units("128974848"), Some(128_974_848));
        assert_eq!(units("1.5Gi"), Some(3 << 29));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "Gi", "-1", "1x", "1e99", "1e3Ki", "99999999999999999999", "1.2.3"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
