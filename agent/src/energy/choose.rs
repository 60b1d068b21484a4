//! Which source is believed: the best that works and is not contradicted, with a reason that can be read.
//!
//! Order: the whole machine at the wall, the whole board, the sum of metered parts, a battery, and outside of this module
//! the model. A source that fails once makes a gap; one that fails for a while loses its turn until it was well again for
//! as long. Two that see the same thing and disagree by more than a fifth over a minute are a conflict: a machine cannot
//! take less than its parts, and otherwise the better rank is used.

use std::collections::BTreeMap;

use super::source::{EnergySource, Fault, Hints, Part, PartKind, Reading, Scope, Users};
use crate::sources::SourceBook;

/// Readings that have to fail, or to be well, before a source loses or gets its turn.
const PATIENCE: u32 = 10;
/// Awake time over which sources are compared, milliseconds.
const WINDOW_MS: u64 = 60_000;
/// Share of the window in which both have to have spoken.
const SPOKEN: f64 = 0.75;
/// Difference, as a share of the larger figure, that is a conflict.
const CONFLICT: f64 = 0.2;

struct Entry {
    source: Box<dyn EnergySource>,
    last: Result<Reading, Fault>,
    ever_good: bool,
    out: bool,
    good: u32,
    bad: u32,
    window_microjoules: u64,
    window_ms: u64,
    beaten: Option<String>,
    /// Why it is out, as it was said then: a text that changes with every reading would be news every second.
    why_out: String,
}

impl Entry {
    fn new(source: Box<dyn EnergySource>) -> Self {
        Self {
            source,
            last: Err(Fault::First),
            ever_good: false,
            out: false,
            good: 0,
            bad: 0,
            window_microjoules: 0,
            window_ms: 0,
            beaten: None,
            why_out: String::new(),
        }
    }

    /// Whether it has its turn: it works, or failed for a moment only.
    fn is_trusted(&self) -> bool {
        let asleep = matches!(self.last, Err(Fault::NotNow(_)));
        self.ever_good && !self.out && !asleep && self.beaten.is_none()
    }

    fn take(&mut self, outcome: Result<Reading, Fault>, elapsed_ms: u64) {
        match &outcome {
            Ok(reading) => {
                self.ever_good = true;
                (self.good, self.bad) = (self.good.saturating_add(1), 0);
                if self.out && self.good >= PATIENCE {
                    tracing::info!(source = self.source.name(), "an energy source is well again");
                    self.out = false;
                }
                let energy = reading.node.unwrap_or_else(|| reading.parts_microjoules());
                self.window_microjoules = self.window_microjoules.saturating_add(energy);
                self.window_ms = self.window_ms.saturating_add(elapsed_ms);
            }
            Err(fault) if fault.is_fault() => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                if !self.out && (!self.ever_good || self.bad >= PATIENCE) {
                    tracing::warn!(source = self.source.name(), %fault, "an energy source is not used");
                    self.out = true;
                    self.why_out = fault.to_string();
                } else if self.bad == 1 && !self.out {
                    tracing::warn!(source = self.source.name(), %fault, "an energy source failed; the interval is a gap");
                }
            }
            Err(_) => {}
        }
        self.last = outcome;
    }

    /// Mean watts of the window, when it spoke for most of it.
    fn window_watts(&self) -> Option<f64> {
        (self.window_ms as f64 >= WINDOW_MS as f64 * SPOKEN)
            .then(|| self.window_microjoules as f64 / self.window_ms as f64 / 1_000.0)
    }
}

/// What is believed about an interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked {
    /// Name of the source that sees the whole node, and its energy; `None` in it makes the interval a gap.
    pub whole: Option<(&'static str, Scope, Option<u64>)>,
    /// Names of the sources of parts that have their turn.
    pub part_sources: Vec<&'static str>,
    /// Parts, when all of those spoke.
    pub parts: Option<Vec<Part>>,
    /// Who used parts that CPU time says nothing about.
    pub users: Vec<Users>,
    /// Energy that wraps nobody saw may hide at most, microjoules.
    pub unsure_microjoules: u64,
}

impl Picked {
    /// Whether the processors are among the parts.
    pub fn has_processor(&self) -> bool {
        self.part_sources.iter().any(|name| matches!(*name, "powercap" | "socket-sensor"))
    }
}

/// Faults by source and word.
pub type Faults = BTreeMap<(&'static str, &'static str), u64>;

/// All sources of a node but the model.
#[derive(Default)]
pub struct Choice {
    entries: Vec<Entry>,
    window_ms: u64,
    faults: Faults,
}

impl Choice {
    /// Adds a source, unless there is one of its name that works.
    pub fn add(&mut self, source: Box<dyn EnergySource>) {
        let name = source.name();
        self.entries.retain(|entry| entry.source.name() != name);
        self.entries.push(Entry::new(source));
        self.entries.sort_by_key(|entry| (entry.source.scope(), rank(entry.source.name())));
    }

    /// Whether a source of that name is there and does not keep failing: a new look for it would be in vain.
    pub fn works(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.source.name() == name && !entry.out)
    }

    /// Whether there is any source.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Faults so far.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Conflicts between sources, in words.
    pub fn conflicts(&self) -> Vec<String> {
        self.entries
            .iter()
            .filter_map(|entry| Some(format!("{} {}", entry.source.name(), entry.beaten.as_ref()?)))
            .collect()
    }

    /// Reads every source, and notes how each went.
    pub fn advance(&mut self, hints: &Hints, book: &mut SourceBook) {
        for entry in &mut self.entries {
            let outcome = entry.source.advance(hints);
            if let Err(fault) = &outcome
                && fault.is_fault()
            {
                *self.faults.entry((entry.source.name(), fault.word())).or_default() += 1;
            }
            entry.take(outcome, hints.elapsed_ms);
        }
        self.window_ms = self.window_ms.saturating_add(hints.elapsed_ms);
        if self.window_ms >= WINDOW_MS {
            self.compare();
        }
        for entry in &self.entries {
            let outcome = match (&entry.beaten, &entry.last) {
                (Some(beaten), _) => Err(beaten.clone()),
                (None, _) if entry.out => Err(entry.why_out.clone()),
                (None, Err(Fault::NotNow(why))) => Err((*why).to_owned()),
                _ => Ok(()),
            };
            book.note(entry.source.name(), outcome);
        }
    }

    /// Compares what sources said over the window.
    fn compare(&mut self) {
        let parts: f64 = self
            .entries
            .iter()
            .filter(|entry| {
                entry.source.scope() == Scope::Parts && !entry.out && entry.source.name() != "socket-sensor"
            })
            .filter_map(Entry::window_watts)
            .sum();
        let mut verdicts: Vec<Option<String>> = vec![None; self.entries.len()];
        let mut best: Option<(&'static str, f64)> = None;
        let mut processor: Option<(&'static str, f64)> = None;
        for (entry, verdict) in self.entries.iter().zip(&mut verdicts) {
            let Some(watts) = entry.window_watts().filter(|_| !entry.out) else {
                // Nothing new was heard: what was said before still stands.
                verdict.clone_from(&entry.beaten);
                continue;
            };
            let name = entry.source.name();
            let rival = match entry.source.scope() {
                Scope::Parts if matches!(name, "powercap" | "socket-sensor") => &mut processor,
                Scope::Parts | Scope::Battery => continue,
                Scope::Wall | Scope::Board if watts < parts * (1.0 - CONFLICT) => {
                    *verdict = Some(format!(
                        "says {watts:.0} W where parts of the machine alone take {parts:.0} W: a conflict, and not used"
                    ));
                    continue;
                }
                Scope::Wall | Scope::Board => &mut best,
            };
            match rival {
                None => *rival = Some((name, watts)),
                Some((other, said)) if (watts - *said).abs() > CONFLICT * watts.max(*said) => {
                    *verdict =
                        Some(format!("says {watts:.0} W where {other} says {said:.0} W: a conflict, and not used"));
                }
                Some(_) => {}
            }
        }
        for (entry, verdict) in self.entries.iter_mut().zip(verdicts) {
            match (&entry.beaten, &verdict) {
                (None, Some(why)) => {
                    tracing::warn!(source = entry.source.name(), why, "energy sources disagree by more than a fifth");
                }
                (Some(_), None) => tracing::info!(source = entry.source.name(), "energy sources agree again"),
                _ => {}
            }
            entry.beaten = verdict;
            (entry.window_microjoules, entry.window_ms) = (0, 0);
        }
        self.window_ms = 0;
    }

    /// What is believed about the last interval.
    pub fn pick(&self) -> Picked {
        let mut picked = Picked::default();
        let trusted = || self.entries.iter().filter(|entry| entry.is_trusted());
        let mut parts = Some(Vec::new());
        for entry in trusted().filter(|entry| entry.source.scope() == Scope::Parts) {
            let name = entry.source.name();
            // The same packages by another driver.
            if name == "socket-sensor" && picked.has_processor() {
                continue;
            }
            picked.part_sources.push(name);
            match (&entry.last, &mut parts) {
                (Ok(reading), Some(parts)) => {
                    parts.extend(reading.parts.iter().cloned());
                    picked.users.extend(reading.users.iter().cloned());
                    picked.unsure_microjoules = picked.unsure_microjoules.saturating_add(reading.unsure_microjoules);
                }
                (Err(_), _) => parts = None,
                (Ok(_), None) => {}
            }
        }
        let whole = |scope: fn(Scope) -> bool| trusted().find(|entry| scope(entry.source.scope()));
        let found = whole(|scope| matches!(scope, Scope::Wall | Scope::Board))
            .or_else(|| if picked.has_processor() { None } else { whole(|scope| scope == Scope::Battery) });
        if let Some(entry) = found {
            let energy = entry.last.as_ref().ok().and_then(|reading| reading.node);
            if let Ok(reading) = &entry.last {
                picked.unsure_microjoules = picked.unsure_microjoules.saturating_add(reading.unsure_microjoules);
            }
            picked.whole = Some((entry.source.name(), entry.source.scope(), energy));
        }
        picked.parts = parts.filter(|_| !picked.part_sources.is_empty());
        picked
    }

    /// Parts that every trusted source metered, for their own counters, and parts of parts.
    pub fn for_counters(&self) -> Vec<(&'static str, &[Part], &[Part])> {
        let trusted = self.entries.iter().filter(|entry| entry.is_trusted());
        trusted
            .filter_map(|entry| {
                let reading = entry.last.as_ref().ok()?;
                let shown = !reading.parts.is_empty() || !reading.inside.is_empty();
                shown.then(|| (entry.source.name(), &reading.parts[..], &reading.inside[..]))
            })
            .collect()
    }

    /// What the sources that have their turn read, by name.
    pub fn describe(&self, name: &str) -> String {
        let found = self.entries.iter().find(|entry| entry.source.name() == name);
        found.map_or_else(String::new, |entry| entry.source.describes())
    }
}

/// Order of sources of the same scope: the controller's own meter is calibrated and sees all supplies.
fn rank(name: &str) -> u8 {
    match name {
        "ipmi-dcmi" | "redfish" | "powercap" => 0,
        "acpi-power-meter" => 1,
        "power-supplies" => 2,
        _ => 3,
    }
}

/// Sum of the parts of a kind, microjoules.
pub fn sum_of(parts: &[Part], kind: PartKind) -> u64 {
    parts.iter().filter(|part| part.kind == kind).fold(0, |sum, part| sum.saturating_add(part.microjoules))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    type Script = Arc<Mutex<Result<u64, Fault>>>;

    struct Scripted(&'static str, Scope, Script);

    impl EnergySource for Scripted {
        fn name(&self) -> &'static str {
            self.0
        }

        fn scope(&self) -> Scope {
            self.1
        }

        fn describes(&self) -> String {
            format!("{} by script", self.0)
        }

        fn advance(&mut self, _: &Hints) -> Result<Reading, Fault> {
            let microjoules = self.2.lock().clone()?;
            if self.1 == Scope::Parts {
                let part = Part { kind: PartKind::Cpu, id: "package-0".into(), microjoules };
                return Ok(Reading { parts: vec![part], ..Reading::default() });
            }
            Ok(Reading::whole(microjoules))
        }
    }

    struct Bench {
        choice: Choice,
        book: SourceBook,
    }

    impl Bench {
        fn new(sources: &[(&'static str, Scope, u64)]) -> (Self, Vec<Script>) {
            let mut choice = Choice::default();
            let scripts: Vec<Script> =
                sources.iter().map(|(_, _, watts)| Arc::new(Mutex::new(Ok(watts * 1_000_000)))).collect();
            for ((name, scope, _), script) in sources.iter().zip(&scripts) {
                choice.add(Box::new(Scripted(name, *scope, Arc::clone(script))));
            }
            (Self { choice, book: SourceBook::default() }, scripts)
        }

        fn run(&mut self, seconds: u32) -> Picked {
            for _ in 0..seconds {
                let hints = Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: None };
                self.choice.advance(&hints, &mut self.book);
            }
            self.choice.pick()
        }

        fn reason(&self, name: &str) -> Option<String> {
            self.book.statuses().into_iter().find(|status| status.name == name)?.reason
        }
    }

    #[test]
    fn the_wall_is_better_than_the_board_and_the_board_than_parts() {
        let (mut bench, _) = Bench::new(&[
            ("powercap", Scope::Parts, 60),
            ("battery", Scope::Battery, 100),
            ("board-sensor", Scope::Board, 95),
            ("acpi-power-meter", Scope::Wall, 101),
            ("ipmi-dcmi", Scope::Wall, 102),
        ]);
        let picked = bench.run(1);
        assert_eq!(picked.whole, Some(("ipmi-dcmi", Scope::Wall, Some(102_000_000))));
        assert_eq!(picked.parts.unwrap()[0].microjoules, 60_000_000);
    }

    #[test]
    fn one_failure_is_a_gap_and_many_are_the_end_of_its_turn() {
        let (mut bench, scripts) = Bench::new(&[("ipmi-dcmi", Scope::Wall, 102), ("powercap", Scope::Parts, 60)]);
        bench.run(1);
        *scripts[0].lock() = Err(Fault::Zero);
        assert_eq!(bench.run(1).whole, Some(("ipmi-dcmi", Scope::Wall, None)), "a gap, not other figures at once");
        assert_eq!(bench.run(PATIENCE).whole, None);
        assert!(bench.reason("ipmi-dcmi").unwrap().contains("says 0 W"));
        assert_eq!(bench.choice.faults()[&("ipmi-dcmi", "zero")], u64::from(PATIENCE) + 1);
        *scripts[0].lock() = Ok(102_000_000);
        assert_eq!(bench.run(PATIENCE - 1).whole, None, "not before it was well for as long");
        assert!(bench.run(1).whole.is_some());
        assert_eq!(bench.reason("ipmi-dcmi"), None);
    }

    #[test]
    fn a_sensor_that_lies_from_the_beginning_is_never_used() {
        let (mut bench, scripts) = Bench::new(&[("acpi-power-meter", Scope::Wall, 1), ("powercap", Scope::Parts, 60)]);
        *scripts[0].lock() = Err(Fault::Negative);
        let picked = bench.run(1);
        assert_eq!((picked.whole, picked.has_processor()), (None, true));
    }

    #[test]
    fn two_that_disagree_by_more_than_a_fifth_are_a_conflict_and_the_better_is_used() {
        let (mut bench, scripts) = Bench::new(&[("ipmi-dcmi", Scope::Wall, 200), ("power-supplies", Scope::Wall, 300)]);
        let picked = bench.run(61);
        assert_eq!(picked.whole.unwrap().0, "ipmi-dcmi");
        assert_eq!(bench.choice.conflicts().len(), 1);
        let reason = bench.reason("power-supplies").unwrap();
        assert!(reason.contains("says 300 W where ipmi-dcmi says 200 W"), "{reason}");
        // It is not used in the better one's place either.
        *scripts[0].lock() = Err(Fault::Zero);
        assert_eq!(bench.run(PATIENCE).whole, None);
        *scripts[0].lock() = Ok(290_000_000);
        bench.run(61 + PATIENCE);
        bench.run(61);
        assert_eq!(bench.choice.conflicts(), [""; 0]);
    }

    #[test]
    fn a_machine_that_takes_less_than_its_parts_is_not_believed() {
        let (mut bench, _) = Bench::new(&[
            ("ipmi-dcmi", Scope::Wall, 40),
            ("acpi-power-meter", Scope::Wall, 110),
            ("powercap", Scope::Parts, 80),
        ]);
        assert_eq!(bench.run(61).whole.unwrap().0, "acpi-power-meter");
        let reason = bench.reason("ipmi-dcmi").unwrap();
        assert!(reason.contains("says 40 W where parts of the machine alone take 80 W"), "{reason}");
    }

    #[test]
    fn a_difference_of_a_tenth_is_none_and_what_rests_does_not_quarrel() {
        let (mut bench, scripts) = Bench::new(&[
            ("ipmi-dcmi", Scope::Wall, 200),
            ("acpi-power-meter", Scope::Wall, 220),
            ("battery", Scope::Battery, 5),
        ]);
        *scripts[2].lock() = Err(Fault::NotNow("the machine does not run on its battery"));
        bench.run(200);
        assert_eq!(bench.choice.conflicts(), [""; 0]);
    }

    #[test]
    fn a_battery_is_the_last_resort() {
        let (mut bench, scripts) = Bench::new(&[("battery", Scope::Battery, 20), ("powercap", Scope::Parts, 9)]);
        assert_eq!(bench.run(1).whole, None, "the processor's own counter is better");
        *scripts[1].lock() = Err(Fault::Unreadable("gone".into()));
        assert_eq!(bench.run(PATIENCE).whole.unwrap().0, "battery");
    }
}
