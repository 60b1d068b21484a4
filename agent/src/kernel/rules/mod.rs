//! Rules of the kernel log detector: what a rule is, and the compiled set.
//!
//! Rules are data: what a message means is said in the file, never here.

mod file;

use std::{sync::OnceLock, time::Duration};

use evergreen_api::{ProblemKind, Severity};
pub use file::Part;
use regex::bytes::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::conditions::ConditionType;
pub use crate::places::{MAX_FILE, RulesError};

/// The rules that are built in.
pub const BUILT_IN: &str = include_str!("../../../rules/kernel.yaml");
/// `format` that this version reads.
pub const FORMAT: &str = "evergreen.dev/kernel-rules/v1";

/// Largest compiled expression; a counted repetition of a counted repetition would pass any file size limit.
const MAX_COMPILED: usize = 1 << 20;
/// Cache of the automaton that all expressions share; it is thrown away and built anew when full.
const AUTOMATON_CACHE: usize = 1 << 20;

/// Raise only when seen often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Occurrences that it takes.
    pub count: u32,
    /// Time within which they must fall.
    pub within: Duration,
}

/// One rule, compiled.
#[derive(Debug)]
pub struct Rule {
    /// Unique name.
    pub id: String,
    /// What it raises.
    pub kind: ProblemKind,
    /// How bad it is.
    pub severity: Severity,
    /// Class of a kernel crash.
    pub crash_type: Option<String>,
    /// Whether the lines that follow belong to the report.
    pub crash: bool,
    /// Which rule names a report that several rules match.
    pub rank: i32,
    /// When it takes more than one occurrence.
    pub threshold: Option<Threshold>,
    /// Quiet time that ends the condition; `None`: it ends with the next boot.
    pub clear_after: Option<Duration>,
    /// Whether it becomes a condition of the Node, which playbooks act on; else it is only told.
    pub condition: bool,
    /// Type of the condition.
    pub about: ConditionType,
    summary: String,
    patterns: Vec<Pattern>,
    unless: Vec<Pattern>,
    refine: Vec<(Pattern, String)>,
}

/// An expression that is compiled when it is first needed: most rules never match on most nodes.
#[derive(Debug)]
struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(text: String) -> Self {
        Self { text, compiled: OnceLock::new() }
    }

    fn regex(&self) -> Option<&Regex> {
        self.compiled.get_or_init(|| compile(&self.text).ok()).as_ref()
    }

    fn is_match(&self, text: &[u8]) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).unicode(false).size_limit(MAX_COMPILED).dfa_size_limit(AUTOMATON_CACHE / 4).build()
}

/// All rules, ready to match.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    set: RegexSet,
    /// Rule of each expression of the set.
    owner: Vec<u16>,
    cancel: RegexSet,
    cancels: Vec<u16>,
}

impl RuleSet {
    /// The built-in rules.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in rules are checked by a test")
    }

    /// Reads a rules file.
    ///
    /// # Errors
    /// The first thing that is wrong, with line and column.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        Self::check(text).map_err(|mut errors| errors.swap_remove(0))
    }

    /// As [`Self::parse`], with everything that is wrong; a file whose shape is wrong yields that error alone.
    ///
    /// # Errors
    /// At least one error.
    pub fn check(text: &str) -> Result<Self, Vec<RulesError>> {
        Self::compile(Part::check(text)?)
    }

    /// Puts several checked files together; an id may be in one of them only.
    ///
    /// # Errors
    /// When all expressions together are too much, or an id is there twice.
    pub fn merge(parts: Vec<Part>) -> Result<Self, Vec<RulesError>> {
        let mut whole = Part::default();
        for part in parts {
            let base = whole.rules.len();
            if let Some(twice) = part.rules.iter().find(|rule| whole.rules.iter().any(|known| known.id == rule.id)) {
                let message = format!("rule `{}` is in another rules file too; ids are unique", twice.id);
                return Err(vec![RulesError::whole(message)]);
            }
            whole.rules.extend(part.rules);
            whole.cancel.extend(part.cancel.into_iter().map(|(pattern, rule)| (pattern, rule + base)));
        }
        Self::compile(whole)
    }

    fn compile(Part { rules, cancel }: Part) -> Result<Self, Vec<RulesError>> {
        if rules.len() > usize::from(u16::MAX) {
            return Err(vec![RulesError::whole("more than 65535 rules")]);
        }
        let (mut patterns, mut owner) = (Vec::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            for pattern in &rule.patterns {
                patterns.push(pattern.text.as_str());
                owner.push(u16::try_from(index).unwrap_or(u16::MAX));
            }
        }
        let whole = |error: regex::Error| vec![RulesError::whole(error)];
        let set = RegexSetBuilder::new(patterns)
            .unicode(false)
            .size_limit(8 * MAX_COMPILED)
            .dfa_size_limit(AUTOMATON_CACHE)
            .build()
            .map_err(whole)?;
        let (cancel, cancels): (Vec<String>, Vec<usize>) = cancel.into_iter().unzip();
        let cancel =
            RegexSetBuilder::new(cancel).unicode(false).dfa_size_limit(AUTOMATON_CACHE / 4).build().map_err(whole)?;
        let cancels = cancels.into_iter().map(|rule| u16::try_from(rule).unwrap_or(u16::MAX)).collect();
        Ok(Self { rules, set, owner, cancel, cancels })
    }

    /// The rules, in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule that names this message best: highest rank, then first in the file.
    pub fn classify(&self, text: &[u8]) -> Option<usize> {
        let mut best: Option<usize> = None;
        for pattern in &self.set.matches(text) {
            let index = usize::from(self.owner[pattern]);
            if best == Some(index) {
                continue;
            }
            let rule = &self.rules[index];
            if best.is_none_or(|best| rule.rank > self.rules[best].rank)
                && !rule.unless.iter().any(|pattern| pattern.is_match(text))
            {
                best = Some(index);
            }
        }
        best
    }

    /// Rules whose condition this message ends.
    pub fn cancelled(&self, text: &[u8]) -> Vec<usize> {
        if self.cancels.is_empty() {
            return Vec::new();
        }
        self.cancel.matches(text).iter().map(|pattern| usize::from(self.cancels[pattern])).collect()
    }

    /// One rule.
    pub fn rule(&self, index: usize) -> &Rule {
        &self.rules[index]
    }
}

impl Rule {
    /// One line for people about a message that this rule matched.
    pub fn summarize(&self, text: &[u8]) -> String {
        let captures = self.patterns.iter().find_map(|pattern| pattern.regex()?.captures(text));
        fill(&self.summary, captures.as_ref())
    }

    /// The more exact crash type that a line of the report tells, if it does.
    pub fn refined(&self, text: &[u8]) -> Option<&str> {
        self.refine.iter().find(|(pattern, _)| pattern.is_match(text)).map(|(_, crash_type)| crash_type.as_str())
    }
}

/// Fills `{name}`; a group that did not take part is written as `?`.
fn fill(template: &str, captures: Option<&Captures<'_>>) -> String {
    let mut filled = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        let Some(close) = rest[open..].find('}') else { break };
        let name = &rest[open + 1..open + close];
        let group = captures.and_then(|captures| if name == "0" { captures.get(0) } else { captures.name(name) });
        match group {
            Some(group) => filled.push_str(&crate::text::printable(group.as_bytes(), 160)),
            None => filled.push('?'),
        }
        rest = &rest[open + close + 1..];
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests;
