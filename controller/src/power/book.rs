//! The latest of every BMC: for the answers to heartbeats, and for the metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evergreen_api::{
    heartbeat::WallPower,
    telemetry::{attribute, metric},
};
use evergreen_bmc::{PowerState, Source};
use evergreen_telemetry::{KeyValue, Meter};
use parking_lot::Mutex;

use super::{account::is_the_sites, meter::Added, names};
use crate::site::BootClock;

/// A reading older than this is nobody's present power.
const FRESH: Duration = Duration::from_secs(30);
/// A counter shows 0 for so long after it began, so that every reader sees that it began anew and loses nothing: longer
/// than the usual interval of exports and scrapes.
const SHOW_ZERO: Duration = Duration::from_secs(30);

/// What is known of the BMCs of this site. Cheap to clone; empty while this replica does not lead.
#[derive(Clone, Debug, Default)]
pub struct PowerBook {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    leads: bool,
    nodes: BTreeMap<String, Known>,
    agents: BTreeSet<String>,
    heard: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    word: &'static str,
    why: String,
    last: Option<Last>,
    energy: Counter,
    /// What the site accounts for.
    site: Counter,
    gap: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: Duration,
    milliwatts: u64,
    source: Source,
    off: bool,
}

/// A counter that shows 0 at first.
#[derive(Debug, Default)]
struct Counter {
    microjoules: u64,
    shown_since: Option<Duration>,
}

impl Counter {
    fn add(&mut self, microjoules: u64) {
        self.microjoules = self.microjoules.saturating_add(microjoules);
    }

    /// Joules to be shown now.
    fn joules(&mut self, now: Duration) -> f64 {
        let since = *self.shown_since.get_or_insert(now);
        if now.saturating_sub(since) < SHOW_ZERO { 0.0 } else { self.microjoules as f64 / 1e6 }
    }
}

/// A good reading and what it added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) at: Duration,
    pub(super) milliwatts: u64,
    pub(super) source: Source,
    pub(super) state: Option<PowerState>,
    pub(super) added: Added,
    pub(super) word: &'static str,
}

impl PowerBook {
    pub(super) fn begin_term(&self) {
        *self.inner.lock() = Inner { leads: true, ..Inner::default() };
    }

    pub(super) fn end_term(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// Only these nodes have BMCs.
    pub(super) fn keep(&self, nodes: &[String]) {
        let mut inner = self.inner.lock();
        let listed: BTreeSet<&String> = nodes.iter().collect();
        inner.nodes.retain(|node, _| listed.contains(node));
    }

    /// Only these nodes have agents.
    pub(super) fn agents(&self, nodes: Vec<String>) {
        self.inner.lock().agents = nodes.into_iter().collect();
    }

    /// A node's agent is heard. Does nothing while this replica does not lead.
    pub fn heard(&self, node: &str) {
        let mut inner = self.inner.lock();
        if inner.leads && inner.nodes.contains_key(node) && !inner.heard.contains(node) {
            inner.heard.insert(node.to_owned());
        }
    }

    /// There is no reading, or none that can be used.
    pub(super) fn failed(&self, node: &str, word: &'static str, why: &str) {
        let mut inner = self.inner.lock();
        let known = inner.known(node);
        if known.word != word {
            tracing::warn!(node, word, why, "no usable power reading from the node's BMC");
        }
        (known.word, known.why) = (word, why.to_owned());
    }

    pub(super) fn measured(&self, node: &str, measured: Measured) {
        let mut inner = self.inner.lock();
        let has_agent = inner.has_agent(node);
        let known = inner.known(node);
        if known.word != measured.word {
            match measured.word {
                "stuck" => tracing::warn!(node, "the BMC has said exactly the same power for half an hour"),
                _ => tracing::info!(node, milliwatts = measured.milliwatts, "the node's BMC gives its power"),
            }
        }
        (known.word, known.why) = (measured.word, String::new());
        let off = measured.state == Some(PowerState::Off);
        let off_all_the_time = off && known.last.is_some_and(|last| last.off);
        known.last = Some(Last { at: measured.at, milliwatts: measured.milliwatts, source: measured.source, off });
        known.energy.add(measured.added.microjoules);
        known.gap += measured.added.gap;
        if is_the_sites(has_agent, off_all_the_time) {
            known.site.add(measured.added.microjoules);
        }
    }

    /// A node's power as its BMC sees it now, for its agent.
    pub fn wall(&self, node: &str) -> Option<WallPower> {
        let inner = self.inner.lock();
        let last = inner.nodes.get(node)?.last?;
        let age = BootClock.now().saturating_sub(last.at);
        (age <= FRESH).then(|| WallPower {
            milliwatts: last.milliwatts,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            source: last.source.name().to_owned(),
        })
    }

    /// Registers what is published.
    pub fn register(&self, meter: &Meter) {
        self.gauge(meter, names::BMC_POWER, "W", "Power that a node's BMC said last.", |known, _, now| {
            known.fresh(now).map(|last| (last.milliwatts as f64 / 1e3, Some(last.source), Vec::new()))
        });
        self.gauge(
            meter,
            metric::HOST_POWER,
            "W",
            "Power of a node that has no agent to say it.",
            |known, agent, now| {
                let last = known.fresh(now).filter(|last| is_the_sites(agent, last.off))?;
                Some((
                    last.milliwatts as f64 / 1e3,
                    Some(last.source),
                    vec![KeyValue::new(attribute::PROVENANCE, "measured")],
                ))
            },
        );
        self.gauge(meter, names::BMC_STATE, "1", "How asking a node's BMC went last, as a word.", |known, _, _| {
            Some((1.0, None, vec![KeyValue::new(names::WORD, known.word)]))
        });
        self.counter(meter, names::BMC_ENERGY, "J", "Energy that a node's BMC measured, whoever accounts for it.", {
            |known, _, now| Some((known.energy.joules(now), Vec::new()))
        });
        self.counter(meter, names::BMC_GAP, "s", "Time without a usable reading.", |known, _, _| {
            Some((known.gap.as_secs_f64(), Vec::new()))
        });
        self.counter(meter, metric::HOST_ENERGY, "J", "Energy of nodes that have no agent to account for it.", {
            |known, agent, now| {
                let shown = !agent || known.site.microjoules > 0;
                shown.then(|| (known.site.joules(now), vec![KeyValue::new(attribute::PROVENANCE, "measured")]))
            }
        });
    }

    fn gauge(
        &self,
        meter: &Meter,
        name: &'static str,
        unit: &'static str,
        about: &'static str,
        look: impl Fn(&Known, bool, Duration) -> Option<(f64, Option<Source>, Vec<KeyValue>)> + Send + Sync + 'static,
    ) {
        let book = self.clone();
        let instrument = meter.f64_observable_gauge(name).with_unit(unit).with_description(about);
        let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            let now = BootClock.now();
            book.each(|node, known, agent| {
                if let Some((value, source, mut labels)) = look(known, agent, now) {
                    labels.push(KeyValue::new(attribute::NODE, node.to_owned()));
                    labels.extend(source.map(|source| KeyValue::new(attribute::ENERGY_SOURCE, source.name())));
                    observer.observe(value, &labels);
                }
            });
        };
        instrument.with_callback(callback).build();
    }

    fn counter(
        &self,
        meter: &Meter,
        name: &'static str,
        unit: &'static str,
        about: &'static str,
        look: impl Fn(&mut Known, bool, Duration) -> Option<(f64, Vec<KeyValue>)> + Send + Sync + 'static,
    ) {
        let book = self.clone();
        let instrument = meter.f64_observable_counter(name).with_unit(unit).with_description(about);
        let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            let now = BootClock.now();
            book.each(|node, known, agent| {
                let Some(source) = known.last.map(|last| last.source) else { return };
                if let Some((value, mut labels)) = look(known, agent, now) {
                    labels.push(KeyValue::new(attribute::NODE, node.to_owned()));
                    labels.push(KeyValue::new(attribute::ENERGY_SOURCE, source.name()));
                    observer.observe(value, &labels);
                }
            });
        };
        instrument.with_callback(callback).build();
    }

    fn each(&self, mut look: impl FnMut(&str, &mut Known, bool)) {
        let mut inner = self.inner.lock();
        let Inner { nodes, agents, heard, .. } = &mut *inner;
        for (node, known) in nodes {
            look(node, known, agents.contains(node) || heard.contains(node));
        }
    }
}

impl Known {
    fn fresh(&self, now: Duration) -> Option<Last> {
        self.last.filter(|last| now.saturating_sub(last.at) <= FRESH)
    }
}

impl Inner {
    fn has_agent(&self, node: &str) -> bool {
        self.agents.contains(node) || self.heard.contains(node)
    }

    fn known(&mut self, node: &str) -> &mut Known {
        self.nodes.entry(node.to_owned()).or_insert_with(|| Known {
            word: "new",
            why: String::new(),
            last: None,
            energy: Counter::default(),
            site: Counter::default(),
            gap: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(at: Duration, microjoules: u64, state: PowerState) -> Measured {
        let added = Added { microjoules, ..Added::default() };
        Measured { at, milliwatts: 200_000, source: Source::Redfish, state: Some(state), added, word: "ok" }
    }

    fn site(book: &PowerBook, node: &str) -> u64 {
        book.inner.lock().nodes[node].site.microjoules
    }

    #[test]
    fn the_site_accounts_for_nodes_without_agent_and_for_machines_that_are_off() {
        let book = PowerBook::default();
        book.begin_term();
        let now = BootClock.now();
        book.measured("bare", measured(now, 5, PowerState::On));
        assert_eq!(site(&book, "bare"), 5);
        book.heard("bare");
        book.measured("bare", measured(now, 5, PowerState::On));
        assert_eq!(site(&book, "bare"), 5, "its agent accounts from now on");
        book.measured("bare", measured(now, 3, PowerState::Off));
        assert_eq!(site(&book, "bare"), 5, "it was on at the beginning of the interval");
        book.measured("bare", measured(now, 3, PowerState::Off));
        assert_eq!(site(&book, "bare"), 8);
        book.agents(vec!["new".into()]);
        book.measured("new", measured(now, 5, PowerState::On));
        assert_eq!(site(&book, "new"), 0);
    }

    #[test]
    fn an_agent_is_given_a_fresh_reading_only() {
        let book = PowerBook::default();
        book.begin_term();
        let now = BootClock.now();
        assert_eq!(book.wall("n"), None);
        book.measured("n", measured(now, 0, PowerState::On));
        let wall = book.wall("n").unwrap();
        assert_eq!((wall.milliwatts, wall.source.as_str()), (200_000, "redfish"));
        book.measured("n", measured(now.saturating_sub(FRESH + Duration::from_secs(1)), 0, PowerState::On));
        assert_eq!(book.wall("n"), None);
        book.keep(&[]);
        book.end_term();
        book.heard("n");
        assert!(book.inner.lock().heard.is_empty(), "who does not lead remembers nothing");
    }

    #[test]
    fn a_counter_begins_at_zero_for_every_reader() {
        let mut counter = Counter::default();
        counter.add(7_000_000);
        assert_eq!(counter.joules(Duration::from_secs(100)), 0.0);
        assert_eq!(counter.joules(Duration::from_secs(129)), 0.0);
        assert_eq!(counter.joules(Duration::from_secs(130)), 7.0);
    }
}
