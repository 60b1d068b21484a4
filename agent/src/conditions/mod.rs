//! The life of problems on a node: raised with evidence, seen again, cleared when quiet or rebooted, remembered over
//! restarts, gone with their rule. Pure: what is seen and when come in as values, what changed goes out.

mod name;

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::{Detection, Severity, resources::NodeProblem};
pub use name::{ConditionType, MAX_NAME};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// One raised problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What the API shows.
    pub shown: NodeProblem,
    /// Rule that raised it.
    pub rule: String,
    /// Quiet time that ends it, milliseconds; `None`: the next boot ends it.
    pub clear_after_ms: Option<u64>,
    /// Whether it is a condition of the Node; else it is told in NodeHealth, Events and metrics only.
    pub condition: bool,
    /// Reason that the condition gives, where the rule says one.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether somebody watches the cause itself and will tell its end.
    #[serde(default)]
    pub watched: bool,
    /// When it was last seen, milliseconds since boot.
    pub seen_boot_ms: u64,
    /// Report that was counted last, and how far.
    #[serde(skip)]
    counted: Option<(u64, u64)>,
}

/// A problem that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// When, RFC 3339.
    pub at: String,
    /// Why it is taken to be over.
    pub why: String,
    /// Trace of its incident.
    pub traceparent: Option<String>,
}

/// What a step changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A problem is new.
    Raised(ConditionType),
    /// It got worse, or its name changed.
    Changed(ConditionType),
    /// Its rule is gone, and it with it.
    Retired(ConditionType),
    /// Its count or its evidence grew.
    Counted(ConditionType),
    /// It ended.
    Cleared(ConditionType),
}

impl Change {
    /// Whether this must be written at once; counts may wait.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Self::Counted(_))
    }
}

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

/// What a condition says while nothing is wrong, as node-problem-detector's configurations give it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// Since when it is promised, RFC 3339.
    pub since: String,
}

/// A report of the detector, with what its rule says about the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Number of the report, so that its count is not added twice.
    pub report: u64,
    /// What was seen.
    pub detection: Detection,
    /// Rule that names it.
    pub rule: String,
    /// Quiet time that ends it.
    pub clear_after: Option<Duration>,
    /// Whether it becomes a condition of the Node.
    pub condition: bool,
    /// Type of the condition.
    pub about: ConditionType,
    /// Reason that the condition gives; one made of its type when left out.
    pub reason: Option<String>,
    /// Whether whoever tells this watches the cause itself and will tell its end.
    pub watched: bool,
}

/// By what rule a condition that nobody remembers lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foster {
    /// Rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Class of a kernel crash.
    pub crash_type: Option<String>,
    /// Quiet time that ends it.
    pub clear_after: Option<Duration>,
    /// Whether somebody watches its cause.
    pub watched: bool,
}

/// A condition of ours that is on the Node though this agent has no memory of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Type.
    pub about: ConditionType,
    /// Its message.
    pub message: String,
    /// Since when it is raised.
    pub since: Option<jiff::Timestamp>,
    /// Trace of its incident.
    pub traceparent: String,
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
        let shown = NodeProblem {
            kind: kind.kind(),
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
            watched: foster.watched,
            seen_boot_ms: now.boot_ms,
            counted: None,
        };
        self.problems.insert(kind, problem);
        if since.as_millisecond() < booted {
            return Some(self.clear(kind, "the node was started anew".into(), now));
        }
        Some(Change::Counted(kind))
    }

    /// Enters a sighting.
    pub fn observe(&mut self, sighting: Sighting, now: &Moment) -> Change {
        let Sighting { report, detection, rule, clear_after, condition, about: kind, reason, watched } = sighting;
        let clear_after_ms = clear_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.cleared.remove(&kind);
        self.retired.retain(|retired| *retired != kind);
        let Some(problem) = self.problems.get_mut(&kind) else {
            let shown = NodeProblem {
                kind: kind.kind(),
                severity: detection.severity,
                crash_type: detection.crash_type,
                summary: detection.summary,
                evidence: detection.evidence,
                count: detection.count,
                first_seen: now.rfc3339(),
                last_seen: now.rfc3339(),
                traceparent: None,
            };
            let counted = Some((report, detection.count));
            let seen_boot_ms = now.boot_ms;
            let problem = Problem { shown, rule, clear_after_ms, condition, reason, watched, seen_boot_ms, counted };
            self.problems.insert(kind, problem);
            return Change::Raised(kind);
        };
        let already = problem.counted.filter(|(id, _)| *id == report).map_or(0, |(_, count)| count);
        let shown = &mut problem.shown;
        shown.count = shown.count.saturating_add(detection.count.saturating_sub(already));
        shown.last_seen = now.rfc3339();
        let worse = detection.severity > shown.severity || (condition && !problem.condition);
        problem.condition |= condition;
        let renamed = already > 0 && (shown.crash_type != detection.crash_type || shown.summary != detection.summary);
        if worse || renamed {
            shown.severity = shown.severity.max(detection.severity);
            shown.crash_type = detection.crash_type;
            shown.summary = detection.summary;
            problem.reason = reason;
        }
        if already > 0 || worse {
            shown.evidence = detection.evidence;
        }
        // Who watches the cause decides about the end; else, of several causes under one type, the one that lasts longest.
        if watched {
            problem.watched = true;
            problem.rule = rule;
            problem.clear_after_ms = clear_after_ms;
        } else if !problem.watched {
            if worse || renamed {
                problem.rule = rule;
            }
            problem.clear_after_ms = match (problem.clear_after_ms, clear_after_ms) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        problem.seen_boot_ms = now.boot_ms;
        problem.counted = Some((report, detection.count));
        if worse || renamed { Change::Changed(kind) } else { Change::Counted(kind) }
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

    /// Notes the boot of now; another one than before ends every problem of the kernel that ran before.
    pub fn boot(&mut self, boot_id: &str, now: &Moment) -> Vec<Change> {
        if self.boot_id == boot_id {
            return Vec::new();
        }
        boot_id.clone_into(&mut self.boot_id);
        let all: Vec<_> = self.problems.keys().copied().collect();
        all.into_iter().map(|kind| self.clear(kind, "the node was started anew".into(), now)).collect()
    }

    fn clear(&mut self, kind: ConditionType, why: String, now: &Moment) -> Change {
        let traceparent = self.problems.remove(&kind).and_then(|problem| problem.shown.traceparent);
        self.cleared.insert(kind, Cleared { at: now.rfc3339(), why, traceparent });
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

#[cfg(test)]
mod tests {
    use evergreen_api::ProblemKind;

    use super::*;

    fn at(boot_ms: u64) -> Moment {
        Moment { boot_ms, wall: jiff::Timestamp::from_millisecond(1_700_000_000_000 + boot_ms as i64).unwrap() }
    }

    fn sighting(kind: ProblemKind, report: u64, count: u64, clear_after: Option<u64>) -> Sighting {
        Sighting {
            report,
            detection: Detection {
                kind,
                severity: Severity::Warning,
                crash_type: None,
                summary: "s".into(),
                first_line: "l".into(),
                evidence: vec!["l".into()],
                count,
                at: String::new(),
            },
            rule: "r".into(),
            clear_after: clear_after.map(Duration::from_secs),
            condition: true,
            about: kind.into(),
            reason: None,
            watched: false,
        }
    }

    use ProblemKind::{HungTask, KernelOops, OutOfMemory};

    #[test]
    fn a_problem_is_raised_once_and_then_counted() {
        let mut book = ConditionBook::new("b");
        assert_eq!(book.observe(sighting(HungTask, 1, 1, Some(60)), &at(0)), Change::Raised(HungTask.into()));
        assert_eq!(book.observe(sighting(HungTask, 1, 3, Some(60)), &at(1)), Change::Counted(HungTask.into()));
        assert_eq!(book.observe(sighting(HungTask, 2, 2, Some(60)), &at(2)), Change::Counted(HungTask.into()));
        assert_eq!(book.get(HungTask).unwrap().shown.count, 5);
    }

    #[test]
    fn a_problem_ends_when_it_was_quiet_for_its_time_and_not_before() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(HungTask, 1, 1, Some(60)), &at(0));
        book.observe(sighting(HungTask, 2, 1, Some(60)), &at(30_000));
        assert!(book.expire(&at(89_999)).is_empty());
        assert_eq!(book.expire(&at(90_000)), [Change::Cleared(HungTask.into())]);
        assert!(book.cleared()[&HungTask.into()].why.contains("1m"));
        assert_eq!(book.verdict(), "ok");
    }

    #[test]
    fn what_only_a_boot_ends_stays_for_ever_and_ends_with_the_boot() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(KernelOops, 1, 1, None), &at(0));
        assert!(book.expire(&at(u64::MAX)).is_empty());
        assert!(book.boot("b", &at(1)).is_empty());
        assert_eq!(book.boot("c", &at(2)), [Change::Cleared(KernelOops.into())]);
    }

    #[test]
    fn a_harmless_cause_does_not_shorten_the_life_of_a_lasting_one() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(KernelOops, 1, 1, None), &at(0));
        book.observe(sighting(KernelOops, 2, 1, Some(1)), &at(0));
        assert!(book.expire(&at(1_000_000)).is_empty());
    }

    #[test]
    fn what_gets_worse_is_told_at_once() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(OutOfMemory, 1, 1, Some(60)), &at(0));
        let mut worse = sighting(OutOfMemory, 2, 1, Some(60));
        worse.detection.severity = Severity::Fatal;
        let change = book.observe(worse, &at(1));
        assert!(change.is_urgent());
        assert_eq!(book.verdict(), "fatal");
    }

    #[test]
    fn a_restart_of_the_agent_forgets_nothing_and_a_removed_rule_takes_its_condition_along() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(HungTask, 1, 1, Some(60)), &at(0));
        book.set_trace(HungTask, "00-x".into());
        let kept = serde_json::to_string(&book).unwrap();
        let (again, changes) =
            serde_json::from_str::<ConditionBook>(&kept).unwrap().resume("b", |rule| rule == "r", &at(10));
        assert!(changes.is_empty());
        assert_eq!(again.get(HungTask).unwrap().shown.traceparent.as_deref(), Some("00-x"));
        let (without, _) =
            serde_json::from_str::<ConditionBook>(&kept).unwrap().resume("b", |rule| rule == "other", &at(10));
        assert_eq!(without.retired(), [HungTask]);
        assert!(without.get(HungTask).is_none());
    }

    #[test]
    fn a_problem_that_returns_is_raised_anew() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(HungTask, 1, 1, Some(1)), &at(0));
        book.expire(&at(5_000));
        assert_eq!(book.observe(sighting(HungTask, 2, 1, Some(1)), &at(6_000)), Change::Raised(HungTask.into()));
        assert!(book.cleared().is_empty());
    }

    #[test]
    fn a_rule_that_says_it_is_over_ends_its_problem() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(HungTask, 1, 1, None), &at(0));
        assert!(book.cancel("other", "over", &at(1)).is_empty());
        assert_eq!(book.cancel("r", "over", &at(1)), [Change::Cleared(HungTask.into())]);
    }

    #[test]
    fn who_watches_the_cause_ends_what_the_kernel_log_began() {
        let mut book = ConditionBook::new("b");
        book.observe(sighting(HungTask, 1, 1, None), &at(0));
        let mut watching = sighting(HungTask, 2, 1, None);
        (watching.rule, watching.watched) = ("w".into(), true);
        book.observe(watching, &at(1));
        book.observe(sighting(HungTask, 3, 1, None), &at(2));
        assert_eq!(book.cancel("w", "remounted", &at(3)), [Change::Cleared(HungTask.into())]);
        assert_eq!(book.cleared()[&HungTask.into()].why, "remounted");
    }

    #[test]
    fn a_promised_condition_goes_when_nobody_promises_it_any_more() {
        let mut book = ConditionBook::new("b");
        let about = ConditionType::named("FrequentThing");
        book.promise([(about, "NoThing".into(), "all is well".into())], &at(0));
        assert_eq!(book.promised()[&about].reason, "NoThing");
        book.promise([], &at(1));
        assert_eq!(book.retired(), [about]);
    }
}
