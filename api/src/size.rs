//! Sizes as people write them in flags.

/// Reads `10GiB`, `512MiB`, `1073741824`: bytes, or a whole number of KiB, MiB, GiB or TiB.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let wrong =
        || format!("`{text}` is no size: write bytes, or a whole number with KiB, MiB, GiB or TiB, as in 10GiB");
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let shift = match text[digits..].trim() {
        "" | "B" => 0,
        "KiB" | "Ki" => 10,
        "MiB" | "Mi" => 20,
        "GiB" | "Gi" => 30,
        "TiB" | "Ti" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("512 MiB"), Ok(512 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
    }

    #[test]
    fn a_wrong_size_says_what_would_be_right() {
        for text in ["", "GiB", "10GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(parse_size(text).is_err_and(|e| e.contains("as in 10GiB")), "{text}");
        }
    }
}
