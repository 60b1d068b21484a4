//! Where a value stands in a JSON text, so that an error about its meaning can be told with line and column. Only for
//! texts that a JSON parser has already taken; on others the answer is merely of no use.

/// Line and column, counted from 1, of the value at a path of keys and indices; of the nearest one that is there.
pub fn locate(text: &str, path: &[&str]) -> (u64, u64) {
    let mut walker = Walker { bytes: text.as_bytes(), at: 0 };
    walker.blank();
    let mut found = walker.at;
    for step in path {
        match walker.enter(step) {
            Some(at) => found = at,
            None => break,
        }
    }
    let before = &text.as_bytes()[..found.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() as u64 + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    (line, (found - start) as u64 + 1)
}

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walker<'_> {
    /// Moves from the beginning of a value to the beginning of one inside it.
    fn enter(&mut self, step: &str) -> Option<usize> {
        let object = match self.bytes.get(self.at)? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        self.at += 1;
        let mut index = 0_usize;
        loop {
            self.blank();
            if matches!(self.bytes.get(self.at)?, b'}' | b']') {
                return None;
            }
            let mut wanted = !object && step.parse() == Ok(index);
            if object {
                let start = self.at + 1;
                self.skip();
                wanted = self.bytes.get(start..self.at.checked_sub(1)?)? == step.as_bytes();
                self.blank();
                // The colon.
                self.at += 1;
                self.blank();
            }
            if wanted {
                return Some(self.at);
            }
            self.skip();
            self.blank();
            if self.bytes.get(self.at) == Some(&b',') {
                self.at += 1;
            }
            index += 1;
        }
    }

    fn blank(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// Moves behind a value, always by at least one byte.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    while let Some(inner) = self.bytes.get(self.at) {
                        match inner {
                            b'\\' => self.at += 1,
                            b'"' => break,
                            _ => {}
                        }
                        self.at += 1;
                    }
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            let ends = matches!(self.bytes.get(self.at - 1), Some(b'"' | b'}' | b']'))
                || matches!(self.bytes.get(self.at), None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
            if depth == 0 && ends {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\n  \"a\": [1, \"x,]\\\"\", {\"b\": true}],\n  \"c\": {\"d\": -1.5e3}\n}";

    #[test]
    fn a_value_is_found_by_its_path() {
        assert_eq!(locate(TEXT, &["a", "1"]), (2, 12));
        assert_eq!(locate(TEXT, &["a", "2", "b"]), (2, 27));
        assert_eq!(locate(TEXT, &["c", "d"]), (3, 14));
    }

    #[test]
    fn a_value_that_is_not_there_is_told_by_what_it_would_be_in() {
        assert_eq!(locate(TEXT, &["c", "nothing"]), (3, 8));
        assert_eq!(locate("", &["a"]), (1, 1));
        assert_eq!(locate("{\"a\": [", &["a", "7"]).0, 1);
    }
}
