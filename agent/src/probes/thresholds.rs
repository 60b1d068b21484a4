//! Thresholds: when a figure is a problem and when it no longer is. Data in a file; this reads it and keeps, for each
//! threshold and each thing measured, whether it is over.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::{Detection, HumanDuration, ProblemKind, Severity};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{
    conditions::{ConditionType, Foster, Sighting},
    kernel::detector::next_report,
    places::{RulesError, from_yaml},
    signal::Signal,
};

/// The thresholds that are built in.
pub const BUILT_IN: &str = include_str!("../../rules/thresholds.yaml");
/// `format` that this version reads.
pub const FORMAT: &str = "evergreen.dev/thresholds/v1";
/// How the names of rules begin that thresholds have in conditions.
pub const RULE_PREFIX: &str = "threshold/";
/// Figures that are kept as evidence of one problem.
const MAX_EVIDENCE: usize = 8;

/// What a threshold may be about.
pub const MEASURES: [&str; 56] = [
    "file-descriptors.used",
    "pids.used",
    "conntrack.used",
    "conntrack.dropped",
    "memory.left",
    "memory.stalled",
    "io.stalled",
    "oom.kills",
    "cgroup.oom-kills",
    "cgroup.pids.used",
    "filesystem.used",
    "filesystem.inodes.used",
    "filesystem.remounted",
    "filesystem.silent",
    "disk.offline",
    "disk.io-errors",
    "disk.stalled",
    "nvme.not-live",
    "smart.failing",
    "smart.worn",
    "smart.spare-gone",
    "raid.missing",
    "edac.corrected.per-hour",
    "edac.corrected.trend",
    "edac.uncorrected",
    "thermal.throttles",
    "sensor.heat",
    "sensor.alarm",
    "zone.heat",
    "link.changes",
    "link.errors",
    "link.slower",
    "link.half-duplex",
    "bond.missing",
    "infiniband.down",
    "infiniband.errors",
    "infiniband.link-downed",
    "tcp.retransmits",
    "tcp.listen-drops",
    "udp.overruns",
    "softnet.dropped",
    "route.missing",
    "gateway.unreachable",
    "clock.unsynchronised",
    "clock.error",
    "clock.jump",
    "kubelet.failing",
    "runtime.failing",
    "dns.failing",
    "certificate.days",
    "gpu.lost",
    "gpu.uncorrected",
    "gpu.slowed",
    "gpu.heat",
    "gpu.pages-pending",
    "agent.memory",
];

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured, one of [`MEASURES`].
    pub measure: &'static str,
    /// Of which thing, where there are several; as in `eth0`.
    pub of: String,
    /// How much.
    pub value: f64,
    /// For people, with unit.
    pub says: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<String>,
    thresholds: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    measure: Spanned<String>,
    kind: Spanned<String>,
    name: Option<Spanned<String>>,
    severity: Spanned<String>,
    raise: Spanned<f64>,
    clear: Spanned<f64>,
    #[serde(default)]
    below: bool,
    lasting: Option<Spanned<String>>,
    condition: Option<bool>,
    summary: String,
}

/// One threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    measure: &'static str,
    /// Type of the condition.
    pub about: ConditionType,
    severity: Severity,
    raise: f64,
    clear: f64,
    below: bool,
    lasting: Duration,
    condition: bool,
    summary: String,
}

impl Threshold {
    /// How bad what it raises is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    fn is_raised_by(&self, value: f64) -> bool {
        if self.below { value <= self.raise } else { value >= self.raise }
    }

    fn is_cleared_by(&self, value: f64) -> bool {
        if self.below { value >= self.clear } else { value <= self.clear }
    }
}

/// Reads thresholds.
///
/// # Errors
/// Everything that is wrong, with places.
pub fn parse(text: &str) -> Result<Vec<Threshold>, Vec<RulesError>> {
    let file: File = from_yaml(text).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    if file.format.value != FORMAT {
        refuse(&mut errors, &file.format, format!("format `{}` is not known; write `{FORMAT}`", file.format.value));
    }
    let thresholds: Vec<Threshold> = file.thresholds.into_iter().map(|raw| read(raw, &mut errors)).collect();
    if errors.is_empty() { Ok(thresholds) } else { Err(errors) }
}

fn refuse<T>(errors: &mut Vec<RulesError>, place: &Spanned<T>, message: String) {
    errors.push(RulesError::at(place, message));
}

fn read(raw: Raw, errors: &mut Vec<RulesError>) -> Threshold {
    let measure = MEASURES.into_iter().find(|known| *known == raw.measure.value).unwrap_or_else(|| {
        let message = format!("measure `{}` is not known; known are {}", raw.measure.value, MEASURES.join(", "));
        refuse(errors, &raw.measure, message);
        MEASURES[0]
    });
    let kind = raw.kind.value.parse::<ProblemKind>().unwrap_or_else(|error| {
        refuse(errors, &raw.kind, error.to_string());
        ProblemKind::Custom
    });
    let about = match &raw.name {
        Some(name) if kind != ProblemKind::Custom || !ConditionType::is_valid(&name.value) => {
            let message = "a name is for the kind Custom, and has letters and digits only, 50 at most";
            refuse(errors, name, message.to_owned());
            kind.into()
        }
        Some(name) => ConditionType::named(&name.value),
        None => kind.into(),
    };
    let severity = [Severity::Info, Severity::Warning, Severity::Degraded, Severity::Fatal]
        .into_iter()
        .find(|severity| severity.as_str() == raw.severity.value)
        .unwrap_or_else(|| {
            refuse(errors, &raw.severity, "severity is info, warning, degraded or fatal".to_owned());
            Severity::Info
        });
    let (raise, clear) = (raw.raise.value, raw.clear.value);
    let apart = if raw.below { clear > raise } else { clear < raise };
    if !apart {
        let side = if raw.below { "above" } else { "below" };
        refuse(errors, &raw.clear, format!("`clear` is {side} `raise`, else the condition flaps"));
    }
    let lasting = raw.lasting.as_ref().map_or(Duration::ZERO, |text| match text.value.parse::<HumanDuration>() {
        Ok(time) => time.get(),
        Err(error) => {
            refuse(errors, text, error.to_string());
            Duration::ZERO
        }
    });
    let (below, condition, summary) = (raw.below, raw.condition.unwrap_or(true), raw.summary);
    Threshold { measure, about, severity, raise, clear, below, lasting, condition, summary }
}

/// Name of the rule that a condition of thresholds has.
pub fn rule_id(about: ConditionType) -> String {
    format!("{RULE_PREFIX}{about}")
}

/// By what rule a condition of thresholds lives on that nobody remembers.
pub fn foster(about: ConditionType) -> Foster {
    Foster { rule: rule_id(about), severity: Severity::Warning, crash_type: None, clear_after: None, watched: true }
}

/// Where one threshold stands for one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Over the figure since then, not long enough yet.
    Waiting(u64),
    Raised,
}

/// Which thresholds are passed.
#[derive(Debug, Default)]
pub struct Watch {
    states: BTreeMap<(usize, String), State>,
    /// Report of each condition that is raised.
    raised: BTreeMap<ConditionType, u64>,
    /// Conditions whose first good answer was told, so that what an earlier agent raised ends.
    settled: std::collections::BTreeSet<ConditionType>,
}

impl Watch {
    /// Forgets where each threshold stood: others take their place. What was raised is told to be over if it is.
    pub fn change_thresholds(&mut self) {
        self.states.clear();
        self.settled.clear();
    }

    /// Takes the figures of now, at milliseconds since boot. A thing that is measured no longer is no problem any more,
    /// unless its measure is in `troubled`: then it may be among what was left out. A measure that could not be taken at
    /// all (`missing`) ends nothing that it raised.
    pub fn take(
        &mut self,
        thresholds: &[Threshold],
        figures: &[Figure],
        missing: &[&str],
        troubled: &[&str],
        now_ms: u64,
    ) -> Vec<Signal> {
        let mut worst: BTreeMap<ConditionType, Option<(&Threshold, Vec<String>)>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for (index, threshold) in thresholds.iter().enumerate() {
            let of_measure = || figures.iter().filter(|figure| figure.measure == threshold.measure);
            let is_troubled = troubled.contains(&threshold.measure);
            let mut hidden = self.states.iter().filter(|((owner, of), state)| {
                *owner == index && **state == State::Raised && !of_measure().any(|figure| figure.of == *of)
            });
            if missing.contains(&threshold.measure) {
                if hidden.next().is_some() || (is_troubled && !self.settled.contains(&threshold.about)) {
                    unknown.push(threshold.about);
                }
                continue;
            }
            if is_troubled {
                if hidden.next().is_some() {
                    unknown.push(threshold.about);
                }
            } else {
                self.states.retain(|(owner, of), _| *owner != index || of_measure().any(|figure| figure.of == *of));
            }
            let mut evidence = Vec::new();
            for figure in of_measure() {
                let key = (index, figure.of.clone());
                let next = match self.states.get(&key) {
                    Some(State::Raised) if threshold.is_cleared_by(figure.value) => None,
                    Some(State::Raised) => Some(State::Raised),
                    _ if !threshold.is_raised_by(figure.value) => None,
                    earlier => {
                        let since = if let Some(State::Waiting(since)) = earlier { *since } else { now_ms };
                        let long = u128::from(now_ms.saturating_sub(since)) >= threshold.lasting.as_millis();
                        Some(if long { State::Raised } else { State::Waiting(since) })
                    }
                };
                if next == Some(State::Raised) {
                    evidence.push(figure.says.clone());
                }
                match next {
                    Some(state) => self.states.insert(key, state),
                    None => self.states.remove(&key),
                };
            }
            let known = worst.entry(threshold.about).or_default();
            if evidence.is_empty() {
                continue;
            }
            match known {
                Some((holder, all)) => {
                    if threshold.severity > holder.severity {
                        *holder = threshold;
                    }
                    all.extend(evidence);
                }
                None => *known = Some((threshold, evidence)),
            }
        }
        let mut signals = Vec::new();
        for (about, held) in worst {
            match held {
                Some((threshold, mut evidence)) => {
                    evidence.dedup();
                    evidence.truncate(MAX_EVIDENCE);
                    let report = *self.raised.entry(about).or_insert_with(next_report);
                    signals.push(Signal::Seen(sighting(report, threshold, evidence)));
                }
                None if unknown.contains(&about) => {}
                None => {
                    if self.raised.remove(&about).is_some() | self.settled.insert(about) {
                        let why = "what is measured is back where it should be".to_owned();
                        signals.push(Signal::Over { rule: rule_id(about), why });
                    }
                }
            }
        }
        signals
    }
}

fn sighting(report: u64, threshold: &Threshold, evidence: Vec<String>) -> Sighting {
    Sighting {
        report,
        detection: Detection {
            kind: threshold.about.kind(),
            severity: threshold.severity,
            crash_type: None,
            summary: threshold.summary.clone(),
            first_line: evidence.first().cloned().unwrap_or_default(),
            evidence,
            count: 1,
            at: String::new(),
        },
        rule: rule_id(threshold.about),
        clear_after: None,
        condition: threshold.condition,
        about: threshold.about,
        reason: None,
        watched: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "format: evergreen.dev/thresholds/v1
thresholds:
  - measure: pids.used
    kind: PidsExhausted
    severity: degraded
    raise: 0.9
    clear: 0.8
    lasting: 10s
    summary: s
";

    fn step(watch: &mut Watch, thresholds: &[Threshold], value: Option<f64>, seconds: u64) -> &'static str {
        let figure = value.map(|value| Figure { measure: "pids.used", of: String::new(), value, says: "x".into() });
        match watch.take(thresholds, figure.as_slice(), &[], &[], seconds * 1000).as_slice() {
            [] => "",
            [Signal::Seen(_)] => "raised",
            [Signal::Over { .. }] => "over",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_built_in_thresholds_are_sound_and_use_every_measure() {
        let thresholds = parse(BUILT_IN).unwrap();
        for measure in MEASURES {
            assert!(thresholds.iter().any(|threshold| threshold.measure == measure), "{measure}");
            assert!(BUILT_IN.contains(&format!("#   {measure}")), "{measure} is not described");
        }
    }

    #[test]
    fn a_figure_between_the_two_changes_nothing() {
        let thresholds = parse(&GOOD.replace("10s", "0s")).unwrap();
        let mut watch = Watch::default();
        let steps = [(0.85, "over"), (0.9, "raised"), (0.85, "raised"), (0.8, "over"), (0.85, ""), (0.95, "raised")];
        for (second, (value, expected)) in steps.into_iter().enumerate() {
            assert_eq!(step(&mut watch, &thresholds, Some(value), second as u64), expected, "{value}");
        }
        assert_eq!(step(&mut watch, &thresholds, None, 9), "over");
    }

    #[test]
    fn what_must_last_is_raised_after_its_time_and_a_break_begins_it_anew() {
        let thresholds = parse(GOOD).unwrap();
        let mut watch = Watch::default();
        let steps =
            [(0, 0.95, "over"), (5, 0.95, ""), (6, 0.5, ""), (7, 0.95, ""), (16, 0.95, ""), (17, 0.95, "raised")];
        for (second, value, expected) in steps {
            assert_eq!(step(&mut watch, &thresholds, Some(value), second), expected, "{second}");
        }
    }

    #[test]
    fn a_measure_that_could_not_be_taken_ends_nothing() {
        let thresholds = parse(&GOOD.replace("10s", "0s")).unwrap();
        let mut watch = Watch::default();
        assert_eq!(step(&mut watch, &thresholds, Some(1.0), 0), "raised");
        assert!(watch.take(&thresholds, &[], &["pids.used"], &[], 1000).is_empty());
        assert!(
            watch.take(&thresholds, &[], &[], &["pids.used"], 1500).is_empty(),
            "it may be among what was left out"
        );
        assert_eq!(step(&mut watch, &thresholds, Some(0.1), 2), "over");
    }

    #[test]
    fn a_condition_of_two_measures_ends_although_the_other_one_is_not_there() {
        let second = GOOD.lines().skip(2).collect::<Vec<_>>().join("\n").replace("pids.used", "conntrack.used");
        let thresholds = parse(&format!("{}{second}\n", GOOD).replace("10s", "0s")).unwrap();
        let mut watch = Watch::default();
        let figure = |value| [Figure { measure: "pids.used", of: String::new(), value, says: "x".into() }];
        let mut take = |value, missing: &[&str], troubled: &[&str], now| match watch
            .take(&thresholds, &figure(value), missing, troubled, now)
            .as_slice()
        {
            [] => "",
            [Signal::Seen(_)] => "raised",
            [Signal::Over { .. }] => "over",
            other => panic!("{other:?}"),
        };
        let other = ["conntrack.used"];
        assert_eq!(take(0.1, &other, &other, 0), "", "an earlier agent may have raised it by what cannot be read now");
        assert_eq!(take(0.1, &other, &[], 1), "over");
        assert_eq!(take(0.95, &other, &[], 2), "raised");
        assert_eq!(take(0.1, &other, &other, 3), "over");
    }

    #[test]
    fn each_mistake_is_told_with_line_and_column() {
        for (from, to, line, says) in [
            ("pids.used", "pids.usd", 3, "measure `pids.usd`"),
            ("PidsExhausted", "Pids", 4, "no problem kind"),
            ("degraded", "bad", 5, "severity is"),
            ("clear: 0.8", "clear: 0.95", 7, "flaps"),
            ("10s", "ten", 8, ""),
            ("summary", "sumary", 9, "sumary"),
        ] {
            let errors = parse(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!(errors[0].line, line, "{errors:?}");
            assert!(errors[0].column > 0 && errors[0].message.contains(says), "{errors:?}");
        }
    }
}
