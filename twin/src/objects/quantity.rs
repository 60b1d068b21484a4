//! Quantities (`500m`, `1Gi`) in the one spelling that the API server stores.

/// Rewrites a quantity into its canonical form; `None` when it is none.
pub fn canonical(text: &str) -> Option<String> {
    let (digits, suffix) = split(text)?;
    let (scale, binary) = scale_of(suffix)?;
    // Nano units hold all that a quantity can say.
    let nanos = nanos_of(digits, scale)?;
    if nanos == 0 {
        return Some("0".to_owned());
    }
    if binary && nanos % NANO == 0 && nanos.abs() >= 1024 * NANO {
        return Some(shortest(
            nanos / NANO,
            &[
                ("Ei", 1 << 60),
                ("Pi", 1 << 50),
                ("Ti", 1 << 40),
                ("Gi", 1 << 30),
                ("Mi", 1 << 20),
                ("Ki", 1 << 10),
                ("", 1),
            ],
        ));
    }
    if suffix.starts_with(['e', 'E']) && suffix.len() > 1 {
        return Some(exponent(nanos));
    }
    Some(shortest(
        nanos,
        &[
            ("E", NANO * 1_000_000_000_000_000_000),
            ("P", NANO * 1_000_000_000_000_000),
            ("T", NANO * 1_000_000_000_000),
            ("G", NANO * 1_000_000_000),
            ("M", NANO * 1_000_000),
            ("k", NANO * 1000),
            ("", NANO),
            ("m", 1_000_000),
            ("u", 1000),
            ("n", 1),
        ],
    ))
}

const NANO: i128 = 1_000_000_000;

fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let plain = digits.trim_start_matches(['+', '-']);
    let fine = plain.chars().any(|c| c.is_ascii_digit())
        && plain.matches('.').count() <= 1
        && !plain.contains(['+', '-'])
        && digits.len() - plain.len() <= 1;
    fine.then_some((digits, suffix))
}

/// The factor as a power: (mantissa per unit in nanos, whether binary).
fn scale_of(suffix: &str) -> Option<(i128, bool)> {
    Some(match suffix {
        "n" => (1, false),
        "u" => (1000, false),
        "m" => (1_000_000, false),
        "" => (NANO, false),
        "k" => (NANO * 1000, false),
        "M" => (NANO * 1_000_000, false),
        "G" => (NANO * 1_000_000_000, false),
        "T" => (NANO * 1_000_000_000_000, false),
        "P" => (NANO * 1_000_000_000_000_000, false),
        "E" => (NANO * 1_000_000_000_000_000_000, false),
        "Ki" => (NANO << 10, true),
        "Mi" => (NANO << 20, true),
        "Gi" => (NANO << 30, true),
        "Ti" => (NANO << 40, true),
        "Pi" => (NANO << 50, true),
        "Ei" => (NANO << 60, true),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            if !(-9..=18).contains(&power) {
                return None;
            }
            (10i128.pow(u32::try_from(power + 9).ok()?), false)
        }
    })
}

fn nanos_of(digits: &str, scale: i128) -> Option<i128> {
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(18)];
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let divisor = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    // What is finer than a nano unit is rounded up, as the server does.
    let nanos = whole.checked_mul(scale)?.checked_add(part.checked_mul(scale)?.checked_add(divisor - 1)? / divisor)?;
    Some(if negative { -nanos } else { nanos })
}

fn shortest(amount: i128, units: &[(&str, i128)]) -> String {
    let (suffix, unit) = units.iter().find(|(_, unit)| amount % unit == 0).unwrap_or(&("", 1));
    format!("{}{suffix}", amount / unit)
}

fn exponent(nanos: i128) -> String {
    let mut power = -9;
    let mut mantissa = nanos;
    while mantissa % 1000 == 0 {
        (mantissa, power) = (mantissa / 1000, power + 3);
    }
    if power == 0 { mantissa.to_string() } else { format!("{mantissa}e{power}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_get_the_spelling_that_the_server_gives_them() {
        for (given, kept) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0", "0"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("64Mi", "64Mi"),
            ("1e3", "1e3"),
            ("-0.25", "-250m"),
            ("0.5Gi", "512Mi"),
            ("100000k", "100M"),
        ] {
            assert_eq!(canonical(given).as_deref(), Some(kept), "{given}");
        }
        for bad in ["", "lots", "1.2.3", "--1", "1Zi", "1e99"] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
    }
}
