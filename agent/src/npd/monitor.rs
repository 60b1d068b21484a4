//! Matches log lines against a system log monitor's rules as node-problem-detector does: over the last lines joined, a
//! match ending with the newest. Pure and bounded: the buffer holds as many lines as the file says.

use std::{collections::VecDeque, sync::Arc};

use evergreen_api::{Detection, Severity};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::config::{LogConfig, LogRule};
use crate::{
    conditions::{Foster, Sighting},
    kernel::detector::next_report,
    text::printable,
};

/// A temporary problem ends when it was not seen for this long; it is an event, told again when it returns.
pub const TEMPORARY: std::time::Duration = std::time::Duration::from_secs(300);
/// Lines kept as evidence.
const MAX_EVIDENCE: usize = 12;
/// Bytes of one line.
const MAX_LINE: usize = 1024;
/// Automaton of all rules of a monitor.
const AUTOMATON: usize = 1 << 20;

/// A monitor at work.
#[derive(Debug)]
pub struct Monitor {
    config: Arc<LogConfig>,
    set: Option<RegexSet>,
    lines: VecDeque<Vec<u8>>,
    text: Vec<u8>,
}

/// Name of a rule of a monitor.
pub fn rule_id(source: &str, reason: &str) -> String {
    format!("{source}/{reason}")
}

impl Monitor {
    /// A monitor that has read nothing.
    pub fn new(config: Arc<LogConfig>) -> Self {
        let patterns = config.rules.iter().map(|rule| rule.closed.as_str());
        let set =
            RegexSetBuilder::new(patterns).unicode(false).size_limit(8 * AUTOMATON).dfa_size_limit(AUTOMATON).build();
        if let Err(error) = &set {
            tracing::warn!(source = config.source, %error, "all expressions together are too large; they are tried one by one");
        }
        Self { config, set: set.ok(), lines: VecDeque::new(), text: Vec::new() }
    }

    /// The same log under other rules: the lines before are remembered.
    pub fn change(self, config: Arc<LogConfig>) -> Self {
        let mut lines = self.lines;
        while lines.len() > config.buffer {
            lines.pop_front();
        }
        Self { lines, ..Self::new(config) }
    }

    /// What it works by.
    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// Takes the next line, and hands over what it raises.
    pub fn push(&mut self, line: &[u8], at: &str, mut raise: impl FnMut(Sighting)) {
        let mut kept = if self.lines.len() >= self.config.buffer {
            self.lines.pop_front().unwrap_or_default()
        } else {
            Vec::new()
        };
        kept.clear();
        kept.extend_from_slice(&line[..line.len().min(MAX_LINE)]);
        self.lines.push_back(kept);
        self.text.clear();
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                self.text.push(b'\n');
            }
            self.text.extend_from_slice(line);
        }
        let config = Arc::clone(&self.config);
        match &self.set {
            Some(set) => {
                for index in &set.matches(&self.text) {
                    raise(self.sighting(&config.rules[index], at));
                }
            }
            None => {
                for rule in &config.rules {
                    if rule.pattern.find_iter(&self.text).any(|found| found.end() == self.text.len()) {
                        raise(self.sighting(rule, at));
                    }
                }
            }
        }
    }

    fn sighting(&self, rule: &LogRule, at: &str) -> Sighting {
        let lines = self.matched(rule);
        let effect = &rule.effect;
        let evidence: Vec<String> = lines.iter().map(|line| printable(line, 240)).take(MAX_EVIDENCE).collect();
        let first_line = evidence.first().cloned().unwrap_or_default();
        let suffix = if rule.suffix.is_empty() { String::new() } else { format!(" {}", rule.suffix) };
        Sighting {
            report: next_report(),
            detection: Detection {
                kind: effect.about.kind(),
                severity: severity(effect.permanent),
                crash_type: None,
                summary: format!("{} ({}){suffix}", effect.reason, self.config.source),
                first_line,
                evidence,
                count: 1,
                at: at.to_owned(),
            },
            rule: rule_id(&self.config.source, &effect.reason),
            clear_after: (!effect.permanent).then_some(TEMPORARY),
            condition: effect.permanent,
            about: effect.about,
            reason: Some(effect.reason.clone()),
            watched: false,
        }
    }

    /// Lines that the match spans: those from where it begins to the newest.
    fn matched(&self, rule: &LogRule) -> Vec<&[u8]> {
        let from =
            rule.pattern.find_iter(&self.text).find(|found| found.end() == self.text.len()).map(|found| found.start());
        let mut begin = 0;
        let mut lines = Vec::new();
        for line in &self.lines {
            let end = begin + line.len();
            if from.is_some_and(|from| end >= from) {
                lines.push(line.as_slice());
            }
            begin = end + 1;
        }
        if lines.is_empty() { self.lines.back().map(Vec::as_slice).into_iter().collect() } else { lines }
    }
}

/// How bad what a monitor finds is; its configuration does not say.
fn severity(permanent: bool) -> Severity {
    if permanent { Severity::Degraded } else { Severity::Warning }
}

/// By what rule a condition of a monitor lives on that nobody remembers.
pub fn foster(source: &str, reason: &str, watched: bool) -> Foster {
    Foster { rule: rule_id(source, reason), severity: severity(true), crash_type: None, clear_after: None, watched }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npd::config::{Config, parse};

    fn monitor(rules: &str) -> Monitor {
        let text = format!(
            r#"{{"plugin": "kmsg", "bufferSize": 4, "source": "k", "conditions": [{{"type": "Deep", "reason": "NotDeep", "message": "m"}}], "rules": [{rules}]}}"#
        );
        let Config::Log(log) = parse(&text).unwrap() else { panic!("a log monitor") };
        Monitor::new(Arc::new(log))
    }

    fn raised(monitor: &mut Monitor, lines: &[&str]) -> Vec<(String, Vec<String>)> {
        let mut raised = Vec::new();
        for line in lines {
            monitor.push(line.as_bytes(), "", |s| raised.push((s.reason.unwrap_or_default(), s.detection.evidence)));
        }
        raised
    }

    #[test]
    fn a_pattern_may_span_lines_and_ends_with_the_newest() {
        let mut monitor = monitor(
            r#"{"type": "permanent", "condition": "Deep", "reason": "Two", "pattern": "first \\d\\nsecond .*"}"#,
        );
        let found = raised(&mut monitor, &["before", "first 1", "second x", "after", "second y"]);
        assert_eq!(found, [("Two".to_owned(), vec!["first 1".to_owned(), "second x".to_owned()])]);
    }

    #[test]
    fn lines_further_apart_than_the_buffer_are_not_one_match() {
        let mut monitor = monitor(r#"{"type": "temporary", "reason": "Far", "pattern": "(?s)begin.*end"}"#);
        assert_eq!(raised(&mut monitor, &["begin", "1", "2", "3", "end"]).len(), 0);
        assert_eq!(raised(&mut monitor, &["begin", "1", "2", "end"]).len(), 1);
    }

    #[test]
    fn a_pattern_that_does_not_reach_the_end_of_the_line_does_not_match() {
        let mut monitor = monitor(r#"{"type": "temporary", "reason": "Short", "pattern": "lost carrier"}"#);
        assert_eq!(raised(&mut monitor, &["eth0: lost carrier today", "eth0: lost carrier"]).len(), 1);
    }

    #[test]
    fn alternatives_are_closed_as_a_whole() {
        let mut monitor = monitor(r#"{"type": "temporary", "reason": "Either", "pattern": "one|two"}"#);
        assert_eq!(raised(&mut monitor, &["one more", "one", "two"]).len(), 2);
    }
}
