//! All problems of a node, and what becomes of them as things are seen, time goes by, rules and boots change.

use std::collections::BTreeMap;

use evergreen_api::{Severity, resources::NodeProblem};
use serde::{Deserialize, Serialize};

use super::{Adopted, Change, Cleared, ConditionType, Foster, Problem, Promised, Sighting};
use crate::clock::Moment;

/// All problems of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConditionBook {
    boot_id: String,
    problems: BTreeMap<ConditionType, Problem>,
    cleared: BTreeMap<ConditionType, Cleared>,
    /// Kinds whose rule is gone: their condition is taken off the node.
    retired: Vec<ConditionType>,
    /// What the Node shows of conditions that were promised and are not raised.
    #[serde(skip)]
    promised: BTreeMap<ConditionType, Promised>,
}

impl ConditionBook {
    /// An empty book of one boot.
    pub fn new(boot_id: impl Into<String>) -> Self {
        Self { boot_id: boot_id.into(), ..Self::default() }
    }

    /// Takes up a book that was kept, under the rules of now and the boot of now.
    pub fn resume(mut self, boot_id: &str, knows: impl Fn(&str) -> bool, now: &Moment) -> (Self, Vec<Change>) {
        let mut changes = self.keep_rules(knows);
        changes.extend(self.boot(boot_id, now));
        (self, changes)
    }

    /// Lets the conditions of rules go that are no longer there.
    pub fn keep_rules(&mut self, knows: impl Fn(&str) -> bool) -> Vec<Change> {
        // What ended goes as well: nobody is left who would say it anew. (Older states do not know whose it was.)
        let ended = self.cleared.iter().filter(|(_, cleared)| !cleared.rule.is_empty() && !knows(&cleared.rule));
        let ended: Vec<ConditionType> = ended.map(|(about, _)| *about).collect();
        ended.into_iter().for_each(|about| self.retire(about));
        let gone: Vec<ConditionType> =
            self.problems.iter().filter(|(_, problem)| !knows(&problem.rule)).map(|(about, _)| *about).collect();
        gone.into_iter()
            .map(|about| {
                self.problems.remove(&about);
                self.retire(about);
                Change::Retired(about)
            })
            .collect()
    }

    /// Takes over what conditions say while nothing is wrong; those that are promised no longer go from the Node.
    pub fn promise(&mut self, promised: impl IntoIterator<Item = (ConditionType, String, String)>, now: &Moment) {
        let before = std::mem::take(&mut self.promised);
        for (about, reason, message) in promised {
            let since = before.get(&about).map_or_else(|| now.rfc3339(), |known| known.since.clone());
            self.retired.retain(|retired| *retired != about);
            self.promised.insert(about, Promised { reason, message, since });
        }
        let gone: Vec<_> = before.into_keys().filter(|about| !self.promised.contains_key(about)).collect();
        for about in gone {
            if !self.problems.contains_key(&about) {
                self.retire(about);
            }
        }
    }

    fn retire(&mut self, about: ConditionType) {
        self.cleared.remove(&about);
        if !self.promised.contains_key(&about) && !self.retired.contains(&about) {
            self.retired.push(about);
        }
    }

    /// Takes up a condition that an earlier agent raised and this one does not remember: it lives on by its kind's
    /// rule, unless it is older than this boot.
    pub fn adopt(&mut self, adopted: Adopted, foster: Foster, now: &Moment) -> Option<Change> {
        if self.problems.contains_key(&adopted.about) || self.cleared.contains_key(&adopted.about) {
            return None;
        }
        let kind = adopted.about;
        let booted = now.wall.as_millisecond() - i64::try_from(now.boot_ms).unwrap_or(i64::MAX);
        let since = adopted.since.unwrap_or(now.wall);
        let watched = foster.watched;
        let shown = NodeProblem {
            kind: kind.kind(),
            condition: kind.name().map(str::to_owned),
            severity: foster.severity,
            crash_type: foster.crash_type,
            summary: adopted.message,
            evidence: Vec::new(),
            count: 1,
            first_seen: since.to_string(),
            last_seen: since.to_string(),
            traceparent: Some(adopted.traceparent),
        };
        let clear_after_ms = foster.clear_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let problem = Problem {
            shown,
            rule: foster.rule,
            clear_after_ms,
            condition: true,
            reason: None,
            watched,
            seen_boot_ms: now.boot_ms,
            counted: None,
        };
        self.problems.insert(kind, problem);
        if since.as_millisecond() < booted && !watched {
            return Some(self.clear(kind, "the node was started anew".into(), now));
        }
        Some(Change::Counted(kind))
    }

    /// Enters a sighting.
    pub fn observe(&mut self, sighting: Sighting, now: &Moment) -> Change {
        let Sighting { report, detection, rule, clear_after, condition, about: kind, reason, watched } = sighting;
        let clear_after_ms = clear_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let ended = self.cleared.remove(&kind);
        self.retired.retain(|retired| *retired != kind);
        let Some(problem) = self.problems.get_mut(&kind) else {
            let shown = NodeProblem {
                kind: kind.kind(),
                condition: kind.name().map(str::to_owned),
                severity: detection.severity,
                crash_type: detection.crash_type,
                summary: detection.summary,
                evidence: detection.evidence,
                count: 0,
                first_seen: now.rfc3339(),
                last_seen: now.rfc3339(),
                traceparent: None,
            };
            let counted = ended.and_then(|ended| ended.counted);
            let seen_boot_ms = now.boot_ms;
            let mut problem =
                Problem { shown, rule, clear_after_ms, condition, reason, watched, seen_boot_ms, counted };
            problem.count(report, detection.count);
            problem.shown.count = problem.shown.count.max(1);
            self.problems.insert(kind, problem);
            return Change::Raised(kind);
        };
        let grown = problem.counted.is_some_and(|(id, _)| id == report);
        problem.count(report, detection.count);
        // Whoever watches the cause knows when it is less bad; a log only ever tells of worse.
        let eased = watched && problem.watched && problem.rule == rule && detection.severity < problem.shown.severity;
        let shown = &mut problem.shown;
        shown.last_seen = now.rfc3339();
        let worse = detection.severity > shown.severity || (condition && !problem.condition);
        problem.condition |= condition;
        let renamed = grown && (shown.crash_type != detection.crash_type || shown.summary != detection.summary);
        let changed = worse || renamed || eased;
        if changed {
            shown.severity = if eased { detection.severity } else { shown.severity.max(detection.severity) };
            shown.crash_type = detection.crash_type;
            shown.summary = detection.summary;
            problem.reason = reason;
        }
        if grown || changed {
            shown.evidence = detection.evidence;
        }
        // Who watches the cause decides about the end; else, of several causes under one type, the one that lasts longest.
        if watched {
            problem.watched = true;
            problem.rule = rule;
            problem.clear_after_ms = clear_after_ms;
        } else if !problem.watched {
            if changed {
                problem.rule = rule;
            }
            problem.clear_after_ms = match (problem.clear_after_ms, clear_after_ms) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        problem.seen_boot_ms = now.boot_ms;
        if changed { Change::Changed(kind) } else { Change::Counted(kind) }
    }

    /// Ends what has been quiet for long enough.
    pub fn expire(&mut self, now: &Moment) -> Vec<Change> {
        let quiet = |problem: &Problem| {
            problem.clear_after_ms.is_some_and(|limit| now.boot_ms.saturating_sub(problem.seen_boot_ms) >= limit)
        };
        let over: Vec<_> =
            self.problems.iter().filter(|(_, p)| quiet(p)).map(|(kind, p)| (*kind, p.clear_after_ms)).collect();
        over.into_iter()
            .map(|(kind, limit)| {
                let limit = evergreen_api::HumanDuration::millis(limit.unwrap_or(0));
                self.clear(kind, format!("not seen for {limit}"), now)
            })
            .collect()
    }

    /// Ends what a rule raised: its cause was seen to end.
    pub fn cancel(&mut self, rule: &str, why: &str, now: &Moment) -> Vec<Change> {
        let over: Vec<_> = self.problems.iter().filter(|(_, p)| p.rule == rule).map(|(kind, _)| *kind).collect();
        over.into_iter().map(|kind| self.clear(kind, why.to_owned(), now)).collect()
    }

    /// Notes the boot of now; another one than before ends every problem of the kernel that ran before. A cause that
    /// somebody watches may outlive a boot, as a full disk does: its watcher will tell.
    pub fn boot(&mut self, boot_id: &str, now: &Moment) -> Vec<Change> {
        if self.boot_id == boot_id {
            return Vec::new();
        }
        boot_id.clone_into(&mut self.boot_id);
        for problem in self.problems.values_mut() {
            problem.seen_boot_ms = now.boot_ms;
        }
        let over: Vec<_> = self.problems.iter().filter(|(_, p)| !p.watched).map(|(kind, _)| *kind).collect();
        over.into_iter().map(|kind| self.clear(kind, "the node was started anew".into(), now)).collect()
    }

    fn clear(&mut self, kind: ConditionType, why: String, now: &Moment) -> Change {
        let (mut traceparent, mut rule, mut counted) = (None, String::new(), None);
        if let Some(problem) = self.problems.remove(&kind) {
            (traceparent, rule, counted) = (problem.shown.traceparent, problem.rule, problem.counted);
        }
        self.cleared.insert(kind, Cleared { at: now.rfc3339(), why, traceparent, rule, counted });
        Change::Cleared(kind)
    }

    /// Notes the trace of a problem's incident.
    pub fn set_trace(&mut self, about: impl Into<ConditionType>, traceparent: String) {
        if let Some(problem) = self.problems.get_mut(&about.into()) {
            problem.shown.traceparent = Some(traceparent);
        }
    }

    /// Problems that are raised now, by the type of their condition.
    pub fn raised(&self) -> &BTreeMap<ConditionType, Problem> {
        &self.problems
    }

    /// What conditions say that were promised, while nothing is wrong.
    pub fn promised(&self) -> &BTreeMap<ConditionType, Promised> {
        &self.promised
    }

    /// Problems that are raised now.
    pub fn problems(&self) -> impl Iterator<Item = &NodeProblem> {
        self.problems.values().map(|problem| &problem.shown)
    }

    /// Raised problems that are no conditions of the Node.
    pub fn only_told(&self) -> Vec<ConditionType> {
        self.problems.iter().filter(|(_, problem)| !problem.condition).map(|(kind, _)| *kind).collect()
    }

    /// One raised problem.
    pub fn get(&self, about: impl Into<ConditionType>) -> Option<&Problem> {
        self.problems.get(&about.into())
    }

    /// Problems that ended and whose end is still to be shown.
    pub fn cleared(&self) -> &BTreeMap<ConditionType, Cleared> {
        &self.cleared
    }

    /// Kinds whose condition is taken off the node.
    pub fn retired(&self) -> &[ConditionType] {
        &self.retired
    }

    /// Boot that the book speaks of.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// `ok`, or the severity of the worst problem.
    pub fn verdict(&self) -> &'static str {
        self.problems.values().map(|problem| problem.shown.severity).max().map_or("ok", Severity::as_str)
    }
}
