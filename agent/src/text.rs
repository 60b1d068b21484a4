//! Text from outside, made fit to be shown.

/// Bytes as one printable line of at most `limit` characters; what is cut is marked.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len().min(limit));
    for (count, character) in text.chars().enumerate() {
        if count == limit {
            line.push('…');
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_length_are_tamed() {
        assert_eq!(printable(b"a\x1b[0m\tb\xff", 80), "a [0m b\u{fffd}");
        assert_eq!(printable("常青常青".as_bytes(), 2), "常青…");
    }
}
