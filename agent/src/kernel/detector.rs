//! Turns messages into reports: one for a crash whatever the number of its lines, one for a run of equal events.
//!
//! Streaming and bounded: at most one crash report and one report per rule are open at a time. Time is only ever taken
//! from the log itself, or handed in by [`Detector::close_all`]; the detector reads no clock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use evergreen_api::{Detection, Severity};

use super::{
    line::Message,
    rules::{Rule, RuleSet},
};
use crate::text::printable;

/// Lines kept as evidence of one report.
const MAX_EVIDENCE: usize = 12;
/// Characters kept of one line.
const MAX_EVIDENCE_LINE: usize = 240;
/// Log seconds within which a further crash message belongs to the crash before it: one fault prints several.
const SAME_CRASH: f64 = 10.0;
/// Log seconds within which equal problems, and hangs behind a crash or another hang, are one report: a stuck kernel
/// repeats itself every 20 to 120 s.
const SAME_EPISODE: f64 = 600.0;
/// Messages within which the same holds in logs without times.
const SAME_CRASH_MESSAGES: u32 = 400;
/// Messages at the beginning of a report in which a more exact rule may take over its name.
const NAMING_MESSAGES: u32 = 40;
/// Rank from which a rule names its report for good: below it, it is a symptom of what a later message may tell.
const NAMED: i32 = 50;
/// Messages behind the naming one that are kept as evidence.
const EVIDENCE_MESSAGES: u32 = 40;
/// Crash type of everything that hangs.
const HANG: &str = "HANG";

/// Number of a new report; no two reports of one agent have the same, whoever makes them.
pub fn next_report() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Where a report is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportPhase {
    /// Still growing.
    Open,
    /// Complete.
    Closed,
}

/// News of one report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Number of the report within this detector.
    pub id: u64,
    /// Where it is in its life.
    pub phase: ReportPhase,
    /// What is known by now.
    pub detection: Detection,
    /// Rule that names it.
    pub rule: usize,
}

/// What the detector says about a message.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A report ended.
    Closed(Report),
    /// A report began or grew; [`Detector::current`] tells it. Ten thousand of these a second must cost little.
    Grown(u64),
    /// A message ended the condition of a rule.
    Cancelled {
        /// The rule.
        rule: usize,
    },
}

#[derive(Debug)]
struct Open {
    id: u64,
    rule: usize,
    detection: Detection,
    last_clock: Option<f64>,
    messages: u32,
    since_match: u32,
    panicked: bool,
    /// The last line that matched, when all room for evidence was taken by earlier ones.
    latest: Vec<u8>,
}

/// State of one log.
#[derive(Debug)]
pub struct Detector {
    rules: Arc<RuleSet>,
    crash: Option<Open>,
    events: Vec<Option<Open>>,
    sightings: Vec<Vec<f64>>,
    messages: u64,
}

impl Detector {
    /// A detector that has seen nothing.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        let count = rules.rules().len();
        Self {
            rules,
            crash: None,
            events: (0..count).map(|_| None).collect(),
            sightings: vec![Vec::new(); count],
            messages: 0,
        }
    }

    /// Goes on with other rules: what is open is closed and told, what was counted towards a threshold stays counted.
    pub fn change_rules(&mut self, rules: Arc<RuleSet>) -> Vec<News> {
        let news = self.close_all();
        let before = std::mem::replace(self, Self::new(rules));
        for (rule, seen) in before.rules.rules().iter().zip(before.sightings) {
            if let Some(index) = self.rules.rules().iter().position(|now| now.id == rule.id) {
                self.sightings[index] = seen;
            }
        }
        self.messages = before.messages;
        news
    }

    /// The rules it works by.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Takes the next message of the log.
    pub fn push(&mut self, message: &Message<'_>) -> Vec<News> {
        let mut news = Vec::new();
        if !message.from_kernel || message.text.is_empty() {
            return news;
        }
        self.messages += 1;
        let rules = Arc::clone(&self.rules);
        for rule in rules.cancelled(message.text) {
            // What comes behind its end is another occurrence.
            if let Some(done) = self.events[rule].take() {
                news.push(News::Closed(done.into_report()));
            }
            news.push(News::Cancelled { rule });
        }
        match rules.classify(message.text) {
            Some(index) if rules.rule(index).crash => self.crash_line(index, &rules, message, &mut news),
            Some(index) => self.event_line(index, &rules, message, &mut news),
            None => self.other_line(&rules, message, &mut news),
        }
        news
    }

    /// What is known by now about a report that is still open.
    pub fn current(&self, id: u64) -> Option<Report> {
        let mut open = self.crash.iter().chain(self.events.iter().flatten());
        open.find(|report| report.id == id).map(Open::as_report)
    }

    /// Ends every open report: the log is over, or has been quiet for long.
    pub fn close_all(&mut self) -> Vec<News> {
        let mut open: Vec<Open> = self.events.iter_mut().filter_map(Option::take).collect();
        open.sort_by_key(|report| report.id);
        // A crash is told before what merely went with it.
        let crash = self.crash.take().into_iter();
        crash.chain(open).map(|report| News::Closed(report.into_report())).collect()
    }

    fn crash_line(&mut self, index: usize, rules: &RuleSet, message: &Message<'_>, news: &mut Vec<News>) {
        let rule = rules.rule(index);
        if let Some(open) = &mut self.crash {
            if open.continues(rules, rule, message) {
                open.join(index, rules, message);
                news.push(News::Grown(open.id));
                return;
            }
            if let Some(done) = self.crash.take() {
                news.push(News::Closed(done.into_report()));
            }
        }
        let open = self.open(index, rule, message, 1);
        news.push(News::Grown(open.id));
        self.crash = Some(open);
    }

    fn event_line(&mut self, index: usize, rules: &RuleSet, message: &Message<'_>, news: &mut Vec<News>) {
        let rule = rules.rule(index);
        if let Some(crash) = &mut self.crash {
            crash.follow(rules, message);
        }
        // Rules of one type speak of one problem: `invoked oom-killer` and `Killed process` are one kill.
        let same_kind = |open: &Open| rules.rule(open.rule).about == rule.about;
        if let Some(slot) = self.events.iter_mut().find(|slot| slot.as_ref().is_some_and(same_kind))
            && let Some(open) = slot
        {
            // Behind its quiet time the condition is over, and what comes then is news.
            let episode = rule.clear_after.map_or(SAME_EPISODE, |quiet| quiet.as_secs_f64().min(SAME_EPISODE));
            if open.within(message, episode, u32::MAX) {
                let again = open.rule == index;
                open.see(message, again);
                if rule.severity > open.detection.severity {
                    open.detection.severity = rule.severity;
                    open.rename(index, rule, message);
                }
                news.push(News::Grown(open.id));
                return;
            }
            if let Some(done) = slot.take() {
                news.push(News::Closed(done.into_report()));
            }
        }
        let count = match rule.threshold {
            None => 1,
            Some(threshold) => {
                // Without times every message counts as close.
                let now = message.clock.unwrap_or(0.0);
                let seen = &mut self.sightings[index];
                seen.push(now);
                let within = threshold.within.as_secs_f64();
                seen.retain(|earlier| now - earlier <= within);
                if seen.len() < threshold.count as usize {
                    return;
                }
                seen.drain(..).count() as u64
            }
        };
        let open = self.open(index, rule, message, count);
        news.push(News::Grown(open.id));
        self.events[index] = Some(open);
    }

    fn other_line(&mut self, rules: &RuleSet, message: &Message<'_>, news: &mut Vec<News>) {
        if let Some(open) = &mut self.crash
            && open.follow(rules, message)
        {
            news.push(News::Grown(open.id));
        }
    }

    fn open(&self, index: usize, rule: &Rule, message: &Message<'_>, count: u64) -> Open {
        let id = next_report();
        let line = printable(message.text, MAX_EVIDENCE_LINE);
        Open {
            id,
            rule: index,
            detection: Detection {
                kind: rule.kind,
                severity: rule.severity,
                crash_type: rule.refined(message.text).map(str::to_owned).or_else(|| rule.crash_type.clone()),
                summary: rule.summarize(message.text),
                first_line: line.clone(),
                evidence: vec![line],
                count,
                at: printable(message.at, 40),
            },
            last_clock: message.clock,
            messages: 0,
            since_match: 0,
            panicked: false,
            latest: Vec::new(),
        }
    }
}

impl Open {
    /// Whether a message is close enough to the last one of this report.
    fn within(&self, message: &Message<'_>, seconds: f64, messages: u32) -> bool {
        match (self.last_clock, message.clock) {
            // A clock that went back a little is two CPUs printing at once; a boot is told by its own banner.
            (Some(last), Some(now)) => (-SAME_CRASH..=seconds).contains(&(now - last)),
            _ => self.since_match <= messages,
        }
    }

    /// Whether a crash message belongs to this report.
    fn continues(&self, rules: &RuleSet, rule: &Rule, message: &Message<'_>) -> bool {
        if self.within(message, SAME_CRASH, SAME_CRASH_MESSAGES) {
            return true;
        }
        let hang = rule.crash_type.as_deref() == Some(HANG);
        let broken = self.detection.severity >= Severity::Degraded;
        let consequence = rules.rule(self.rule).about == rule.about || (hang && broken);
        consequence && self.within(message, SAME_EPISODE, u32::MAX)
    }

    /// A further crash message of this report.
    fn join(&mut self, index: usize, rules: &RuleSet, message: &Message<'_>) {
        let rule = rules.rule(index);
        let again = index == self.rule;
        let naming = self.messages < NAMING_MESSAGES && !self.panicked;
        self.see(message, again);
        self.panicked |= rule.severity == Severity::Fatal;
        self.detection.severity = self.detection.severity.max(rule.severity);
        let named = rules.rule(self.rule).rank;
        if naming && named < NAMED && rule.rank > named {
            self.rename(index, rule, message);
        } else if naming && let Some(crash_type) = rules.rule(self.rule).refined(message.text) {
            self.detection.crash_type = Some(crash_type.to_owned());
        }
    }

    fn rename(&mut self, index: usize, rule: &Rule, message: &Message<'_>) {
        self.rule = index;
        self.detection.kind = rule.kind;
        self.detection.crash_type = rule.refined(message.text).map(str::to_owned).or_else(|| rule.crash_type.clone());
        self.detection.summary = rule.summarize(message.text);
    }

    fn see(&mut self, message: &Message<'_>, again: bool) {
        self.last_clock = message.clock.or(self.last_clock);
        self.messages = self.messages.saturating_add(1);
        self.since_match = 0;
        self.detection.count = self.detection.count.saturating_add(u64::from(again));
        if self.detection.evidence.len() < MAX_EVIDENCE {
            self.keep(message);
        } else {
            // Made printable only when somebody asks: a storm is long.
            self.latest.clear();
            self.latest.extend_from_slice(&message.text[..message.text.len().min(4 * MAX_EVIDENCE_LINE)]);
        }
    }

    /// A message that no rule knows but that stands in the report; true when it made the report more exact.
    fn follow(&mut self, rules: &RuleSet, message: &Message<'_>) -> bool {
        self.messages = self.messages.saturating_add(1);
        self.since_match = self.since_match.saturating_add(1);
        if self.since_match > EVIDENCE_MESSAGES || !self.within(message, SAME_CRASH, SAME_CRASH_MESSAGES) {
            return false;
        }
        self.keep(message);
        let refined = rules.rule(self.rule).refined(message.text);
        match refined {
            Some(crash_type) if self.detection.crash_type.as_deref() != Some(crash_type) => {
                self.detection.crash_type = Some(crash_type.to_owned());
                true
            }
            _ => false,
        }
    }

    fn keep(&mut self, message: &Message<'_>) {
        let ruler = message.text.iter().all(|b| matches!(b, b'=' | b'-' | b' ' | b'*'));
        if self.detection.evidence.len() < MAX_EVIDENCE && !ruler {
            self.detection.evidence.push(printable(message.text, MAX_EVIDENCE_LINE));
        }
    }

    fn as_report(&self) -> Report {
        let mut detection = self.detection.clone();
        self.end_with_latest(&mut detection.evidence);
        Report { id: self.id, phase: ReportPhase::Open, detection, rule: self.rule }
    }

    fn into_report(mut self) -> Report {
        let mut evidence = std::mem::take(&mut self.detection.evidence);
        self.end_with_latest(&mut evidence);
        self.detection.evidence = evidence;
        Report { id: self.id, phase: ReportPhase::Closed, detection: self.detection, rule: self.rule }
    }

    /// The last occurrence is evidence too, whatever the number of lines before it.
    fn end_with_latest(&self, evidence: &mut [String]) {
        if let Some(last) = evidence.last_mut().filter(|_| !self.latest.is_empty()) {
            *last = printable(&self.latest, MAX_EVIDENCE_LINE);
        }
    }
}

#[cfg(test)]
mod tests;
