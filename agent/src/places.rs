//! What is wrong with a file that a person wrote, told with line and column; and the one way in which the agent reads
//! YAML and JSON from people: bounded in every direction, so that no file can eat the node's memory.

use std::{fmt, time::Duration};

use evergreen_api::HumanDuration;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

/// Largest file, so that a wrong path is refused early.
pub const MAX_FILE: usize = 1 << 20;
/// Values in a YAML file; the built-in rules have a tenth.
const MAX_NODES: usize = 50_000;
/// How deep values may lie in each other.
const MAX_DEPTH: usize = 32;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct RulesError {
    /// Line, counted from 1; 0 when it concerns the whole file.
    pub line: u64,
    /// Column, counted from 1.
    pub column: u64,
    /// What is wrong and what would be right.
    pub message: String,
}

impl RulesError {
    /// An error of the whole file.
    pub fn whole(message: impl fmt::Display) -> Self {
        Self { line: 0, column: 0, message: message.to_string() }
    }

    /// An error at a value of a YAML file.
    pub fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { line: place.defined.line(), column: place.defined.column(), message: message.into() }
    }

    /// An error at the value of a JSON text that has this path.
    pub fn in_json(text: &str, path: &[&str], message: impl Into<String>) -> Self {
        let (line, column) = locate(text, path);
        Self { line, column, message: message.into() }
    }
}

/// Reads YAML.
///
/// # Errors
/// The first thing that is wrong with its shape.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, RulesError> {
    small_enough(text)?;
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_aliases: 64,
            max_anchors: 64,
            max_total_scalar_bytes: MAX_FILE,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |location| (location.line(), location.column()));
        RulesError { line, column, message: without_place(&error.to_string()) }
    })
}

/// Reads JSON; a byte order mark in front is let pass.
///
/// # Errors
/// The first thing that is wrong with its shape.
pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, RulesError> {
    small_enough(text)?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| RulesError {
        line: error.line() as u64,
        column: error.column() as u64,
        message: without_place(&error.to_string()),
    })
}

/// The position is told once, in front.
fn without_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).trim().to_owned()
}

fn small_enough(text: &str) -> Result<(), RulesError> {
    if text.len() <= MAX_FILE {
        return Ok(());
    }
    Err(RulesError::whole(format!("the file has {} bytes; at most {MAX_FILE} are read", text.len())))
}

/// Reads a duration; zero and an error when it is none.
pub fn duration(text: &Spanned<String>, errors: &mut Vec<RulesError>) -> Duration {
    text.value.parse::<HumanDuration>().map(HumanDuration::get).unwrap_or_else(|error| {
        errors.push(RulesError::at(text, error.to_string()));
        Duration::ZERO
    })
}

/// Why an expression is none, in one line.
pub fn why_no_expression(pattern: &str, error: &regex::Error) -> String {
    let reason = error.to_string();
    let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
    format!("`{pattern}` is no regular expression: {reason}")
}

/// Line and column, counted from 1, of the value at a path of keys and indices in a JSON text; of the nearest one that is
/// there. Only for texts that a JSON parser has taken; on others the answer is merely of no use.
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

    #[derive(Debug, serde::Deserialize)]
    struct Any(#[allow(dead_code)] serde_json::Value);

    #[test]
    fn files_that_would_grow_without_end_are_refused() {
        let bomb = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
            let list = vec![format!("*a{}", n - 1); 10].join(",");
            format!("{text}a{n}: &a{n} [{list}]\n")
        });
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let wide = "- x\n".repeat(200_000);
        for text in [bomb.as_str(), deep.as_str(), wide.as_str(), &"a: 1\n---\n".repeat(9)] {
            assert!(from_yaml::<Any>(text).is_err(), "{}", &text[..40]);
        }
        assert!(from_json::<Any>(&deep).is_err());
        assert!(from_json::<Any>(&" ".repeat(MAX_FILE + 1)).unwrap_err().message.contains("bytes"));
    }
}
