//! Rules of the kernel log detector: the file format, its checks, and the compiled set.
//!
//! Rules are data: what a message means is said in the file, never here. A file is refused as a whole, with line and
//! column, when anything in it is wrong.

use std::{collections::HashSet, sync::OnceLock, time::Duration};

use evergreen_api::{HumanDuration, ProblemKind, Severity};
use regex::bytes::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::conditions::{ConditionType, MAX_NAME};

/// The rules that are built in.
pub const BUILT_IN: &str = include_str!("../../rules/kernel.yaml");
/// `format` that this version reads.
pub const FORMAT: &str = "evergreen.dev/kernel-rules/v1";

/// Largest rules file, so that a wrong path cannot eat the node's memory.
pub const MAX_FILE: usize = 1 << 20;
/// Largest compiled expression; a counted repetition of a counted repetition would pass any file size limit.
const MAX_COMPILED: usize = 1 << 20;
/// Cache of the automaton that all expressions share; it is thrown away and built anew when full.
const AUTOMATON_CACHE: usize = 1 << 20;

/// What is wrong with a rules file.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<String>,
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRule {
    id: Spanned<String>,
    kind: Spanned<String>,
    severity: Spanned<String>,
    crash_type: Option<String>,
    report: Option<Spanned<String>>,
    #[serde(rename = "match")]
    matches: Vec<Spanned<String>>,
    #[serde(default)]
    unless: Vec<Spanned<String>>,
    #[serde(default)]
    cancel: Vec<Spanned<String>>,
    rank: Option<i32>,
    #[serde(default)]
    refine: Vec<RawRefine>,
    threshold: Option<RawThreshold>,
    clear_after: Option<Spanned<String>>,
    condition: Option<bool>,
    name: Option<Spanned<String>>,
    summary: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRefine {
    #[serde(rename = "match")]
    matches: Spanned<String>,
    crash_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawThreshold {
    count: Spanned<u32>,
    within: Spanned<String>,
}

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

/// One rules file, checked and not yet compiled.
#[derive(Debug, Default)]
pub struct Part {
    rules: Vec<Rule>,
    cancel: Vec<(String, usize)>,
}

impl Part {
    /// Rules of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Reads a rules file.
    ///
    /// # Errors
    /// Everything that is wrong; a file whose shape is wrong yields that error alone.
    pub fn check(text: &str) -> Result<Self, Vec<RulesError>> {
        if text.len() > MAX_FILE {
            let message = format!("the file has {} bytes; at most {MAX_FILE} are read", text.len());
            return Err(vec![RulesError { line: 0, column: 0, message }]);
        }
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let (line, column) = error.location().map_or((0, 0), |location| (location.line(), location.column()));
            let message = error.to_string();
            // The position is told once, in front.
            let message = message.split(" at line ").next().unwrap_or(&message).trim().to_owned();
            vec![RulesError { line, column, message }]
        })?;
        let mut errors = Vec::new();
        if file.format.value != FORMAT {
            let message = format!("format `{}` is not known; write `{FORMAT}`", file.format.value);
            errors.push(at(&file.format, message));
        }
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(file.rules.len());
        let mut cancel = Vec::new();
        for raw in file.rules {
            if !names.insert(raw.id.value.clone()) {
                errors.push(at(&raw.id, format!("rule `{}` is there twice; ids are unique", raw.id.value)));
            }
            for pattern in &raw.cancel {
                check_pattern(pattern, &mut errors);
                cancel.push((pattern.value.clone(), rules.len()));
            }
            rules.push(raw.into_rule(&mut errors));
        }
        if errors.is_empty() { Ok(Self { rules, cancel }) } else { Err(errors) }
    }
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
                return Err(vec![RulesError { line: 0, column: 0, message }]);
            }
            whole.rules.extend(part.rules);
            whole.cancel.extend(part.cancel.into_iter().map(|(pattern, rule)| (pattern, rule + base)));
        }
        Self::compile(whole)
    }

    fn compile(Part { rules, cancel }: Part) -> Result<Self, Vec<RulesError>> {
        if rules.len() > usize::from(u16::MAX) {
            return Err(vec![RulesError { line: 0, column: 0, message: "more than 65535 rules".into() }]);
        }
        let (mut patterns, mut owner) = (Vec::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            for pattern in &rule.patterns {
                patterns.push(pattern.text.as_str());
                owner.push(u16::try_from(index).unwrap_or(u16::MAX));
            }
        }
        let whole = |error: regex::Error| vec![RulesError { line: 0, column: 0, message: error.to_string() }];
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

fn at<T>(place: &Spanned<T>, message: String) -> RulesError {
    RulesError { line: place.defined.line(), column: place.defined.column(), message }
}

fn check_pattern(pattern: &Spanned<String>, errors: &mut Vec<RulesError>) {
    if let Err(error) = compile(&pattern.value) {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        errors.push(at(pattern, format!("`{}` is no regular expression: {reason}", pattern.value)));
    }
}

fn duration(text: &Spanned<String>, errors: &mut Vec<RulesError>) -> Duration {
    text.value.parse::<HumanDuration>().map(HumanDuration::get).unwrap_or_else(|error| {
        errors.push(at(text, error.to_string()));
        Duration::ZERO
    })
}

impl RawRule {
    fn into_rule(self, errors: &mut Vec<RulesError>) -> Rule {
        let kind = self.kind.value.parse::<ProblemKind>().unwrap_or_else(|error| {
            let known: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.condition_type()).collect();
            errors.push(at(&self.kind, format!("{error}; known are {}", known.join(", "))));
            ProblemKind::Custom
        });
        let severity = match self.severity.value.as_str() {
            "info" => Severity::Info,
            "warning" => Severity::Warning,
            "degraded" => Severity::Degraded,
            "fatal" => Severity::Fatal,
            other => {
                let message = format!("severity `{other}` is not known; write info, warning, degraded or fatal");
                errors.push(at(&self.severity, message));
                Severity::Info
            }
        };
        let crash = match self.report.as_ref().map(|report| report.value.as_str()) {
            None | Some("event") => false,
            Some("crash") => true,
            Some(other) => {
                let place = self.report.as_ref().unwrap_or(&self.id);
                errors.push(at(place, format!("report `{other}` is not known; write crash or event")));
                false
            }
        };
        if self.matches.is_empty() {
            errors.push(at(&self.id, format!("rule `{}` matches nothing; give `match` an expression", self.id.value)));
        }
        let refine_patterns = self.refine.iter().map(|refine| &refine.matches);
        self.matches.iter().chain(&self.unless).chain(refine_patterns).for_each(|p| check_pattern(p, errors));
        let names: HashSet<String> = self
            .matches
            .iter()
            .filter_map(|pattern| compile(&pattern.value).ok())
            .flat_map(|regex| regex.capture_names().flatten().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for name in placeholders(&self.summary.value) {
            if name != "0" && !names.contains(name) {
                errors.push(at(&self.summary, format!("no expression of `match` has a group named `{name}`")));
            }
        }
        let threshold = self.threshold.map(|raw| {
            if raw.count.value == 0 || raw.count.value > 1000 {
                errors.push(at(&raw.count, "count is between 1 and 1000".into()));
            }
            Threshold { count: raw.count.value, within: duration(&raw.within, errors) }
        });
        let about = match &self.name {
            Some(name) if kind != ProblemKind::Custom => {
                errors.push(at(name, format!("only a rule of kind Custom has a name; the kind is {kind}")));
                ConditionType::Kind(kind)
            }
            Some(name) if !ConditionType::is_valid(&name.value) => {
                let message = format!("a name has letters and digits, a letter first, {MAX_NAME} at most");
                errors.push(at(name, message));
                ConditionType::Kind(kind)
            }
            Some(name) => ConditionType::named(&name.value),
            None => ConditionType::Kind(kind),
        };
        let clear_after = self.clear_after.as_ref().map(|text| duration(text, errors));
        let patterns = |list: Vec<Spanned<String>>| list.into_iter().map(|p| Pattern::new(p.value)).collect();
        Rule {
            id: self.id.value,
            kind,
            severity,
            crash_type: self.crash_type,
            crash,
            rank: self.rank.unwrap_or(50),
            threshold,
            clear_after,
            condition: self.condition.unwrap_or(true),
            about,
            summary: self.summary.value,
            patterns: patterns(self.matches),
            unless: patterns(self.unless),
            refine: self.refine.into_iter().map(|r| (Pattern::new(r.matches.value), r.crash_type)).collect(),
        }
    }
}

fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}').map(|(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "format: evergreen.dev/kernel-rules/v1
rules:
  - id: a
    kind: HungTask
    severity: degraded
    match: ['^a (?P<x>.*)']
    summary: 'x is {x}'
";

    #[test]
    fn the_built_in_rules_are_sound() {
        let rules = RuleSet::check(BUILT_IN).unwrap();
        assert!(rules.rules().len() > 50);
    }

    #[test]
    fn a_rule_fills_its_summary_from_the_match() {
        let rules = RuleSet::parse(GOOD).unwrap();
        let rule = rules.classify(b"a b c").unwrap();
        assert_eq!(rules.rule(rule).summarize(b"a b c"), "x is b c");
    }

    #[test]
    fn each_mistake_is_told_with_line_and_column() {
        for (from, to, line, says) in [
            ("HungTask", "HungTusk", 4, "no problem kind"),
            ("degraded", "bad", 5, "severity `bad`"),
            ("'^a (?P<x>.*)'", "'^a ('", 6, "no regular expression"),
            ("{x}", "{y}", 7, "group named `y`"),
            ("severity:", "severty:", 5, "severty"),
            ("kernel-rules/v1", "kernel-rules/v9", 1, "is not known"),
            ("id: a", "id: [a]", 3, ""),
        ] {
            let error = RuleSet::parse(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.column > 0 && error.message.contains(says), "{error}");
        }
    }

    #[test]
    fn the_same_id_twice_is_refused() {
        let twice = format!("{GOOD}{}", &GOOD[GOOD.find("  - id").unwrap()..]);
        assert!(RuleSet::parse(&twice).unwrap_err().message.contains("twice"));
    }

    #[test]
    fn the_highest_rank_names_a_message() {
        let rules = RuleSet::built_in();
        let named = |text: &str| rules.classify(text.as_bytes()).map(|rule| rules.rule(rule).id.as_str());
        assert_eq!(named("BUG: KASAN: use-after-free in f+0x1/0x2"), Some("kasan-use-after-free"));
        assert_eq!(named("BUG: something new"), Some("other-bug"));
        assert_eq!(named("Kernel panic - not syncing: hung_task: blocked tasks"), Some("hung-task-panic"));
        assert_eq!(named("traps: app[12] general protection fault ip:1 sp:2 error:0"), None);
    }
}
