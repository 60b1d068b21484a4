//! Joins source, idle part and CPU time into the ledger, once a second, and keeps the ledger over restarts.

use serde::{Deserialize, Serialize};

use super::{
    cgroups::PodCpu,
    idle::IdleLearner,
    ledger::{Interval, Ledger, Origin},
    model::PowerModel,
    powercap::Powercap,
};
use crate::{
    host::Root,
    sources::{CpuTimes, SourceBook},
    store::Store,
};

/// File of the ledger in the state directory.
const FILE: &str = "energy.json";
/// Every so many samples the ledger is flushed to the disk; in between it survives kill -9, but not power loss.
const DURABLE_EVERY: u64 = 30;
/// A sample that comes later than this is a gap: the node was suspended, or the agent was stopped.
const GAP_MS: u64 = 10_000;
/// Samples between two looks for a better source or for cgroups that were not there.
const LOOK_AGAIN: u64 = 60;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    ledger: Ledger,
    idle: IdleLearner,
    boot_id: String,
    saved_boot_ms: u64,
}

enum Source {
    Powercap(Powercap),
    Model,
    Absent,
}

/// What is known about energy now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnergyView {
    /// The ledger as it was last saved: nothing is shown that a restart could take back.
    pub ledger: Ledger,
    /// Origin of the present figures.
    pub origin: Option<Origin>,
    /// Why this source and no better one.
    pub reason: String,
    /// Power now, watts.
    pub watts: Option<f64>,
    /// Idle part of it, watts.
    pub idle_watts: Option<f64>,
    /// Pods whose cgroup is there now, by UID.
    pub pods: Vec<String>,
}

/// Meters one node.
pub struct Meter {
    root: Root,
    store: Store,
    source: Source,
    reason: String,
    model: Option<PowerModel>,
    pods: Option<PodCpu>,
    kept: Kept,
    last: Option<(u64, CpuTimes)>,
    carry: f64,
    samples: u64,
    view: EnergyView,
}

impl Meter {
    /// A meter that goes on where the last one of this node stopped.
    pub fn new(root: Root, store: Store, now_boot_ms: u64, sources: &mut SourceBook) -> Self {
        let boot_id = root.boot_id();
        let mut kept: Kept = store.load(FILE).unwrap_or_default();
        if kept.saved_boot_ms > 0 && kept.boot_id == boot_id {
            kept.ledger.record_gap(now_boot_ms.saturating_sub(kept.saved_boot_ms));
        } else if kept.saved_boot_ms > 0 {
            // How long the node was off is not known; that it was, is.
            kept.ledger.record_gap(0);
        }
        kept.boot_id = boot_id;
        let mut meter = Self {
            root,
            store,
            source: Source::Absent,
            reason: String::new(),
            model: None,
            pods: None,
            kept,
            last: None,
            carry: 0.0,
            samples: 0,
            view: EnergyView::default(),
        };
        meter.look_for_sources(sources);
        meter.view.ledger = meter.kept.ledger.clone();
        meter
    }

    /// What is known now.
    pub fn view(&self) -> &EnergyView {
        &self.view
    }

    /// Takes one sample. `cpu` is absent when /proc/stat is.
    pub fn sample(&mut self, now_boot_ms: u64, cpu: Option<CpuTimes>, sources: &mut SourceBook) {
        self.samples += 1;
        if self.samples.is_multiple_of(LOOK_AGAIN)
            && (self.pods.is_none() || !matches!(self.source, Source::Powercap(_)))
        {
            self.look_for_sources(sources);
        }
        let pods = match &mut self.pods {
            Some(pods) => pods.advance().unwrap_or_default(),
            None => Vec::new(),
        };
        self.view.pods = pods.iter().map(|(uid, _)| uid.clone()).collect();
        let Some(cpu) = cpu else { return };
        let before = self.last.replace((now_boot_ms, cpu));
        let elapsed_ms = before.map_or(0, |(then, _)| now_boot_ms.saturating_sub(then));
        let measured = match &mut self.source {
            Source::Powercap(powercap) => powercap.advance(elapsed_ms),
            _ => None,
        };
        let Some((_, cpu_before)) = before else { return };
        if elapsed_ms == 0 {
            return;
        }
        let utilization = cpu.utilization_since(&cpu_before);
        let energy = match (&self.source, &self.model, utilization) {
            (Source::Powercap(_), ..) => measured,
            // A model has nothing to say about a time in which nobody looked at the load.
            (Source::Model, Some(model), Some(utilization)) if elapsed_ms <= GAP_MS => {
                Some(self.estimated(model.watts(utilization), elapsed_ms))
            }
            _ => None,
        };
        let (Some(energy), Some(utilization)) = (energy, utilization) else {
            if !matches!(self.source, Source::Absent) {
                self.kept.ledger.record_gap(elapsed_ms);
            }
            self.view.watts = None;
            return;
        };
        self.enter(energy, utilization, elapsed_ms, pods, cpu.busy_us.saturating_sub(cpu_before.busy_us));
        self.save(now_boot_ms);
    }

    /// Writes the ledger so that it survives power loss too.
    pub fn flush(&mut self, now_boot_ms: u64) {
        self.samples = 0;
        self.save(now_boot_ms);
    }

    /// Microjoules of an estimate; what rounding leaves over goes into the next one.
    fn estimated(&mut self, watts: f64, elapsed_ms: u64) -> u64 {
        let microjoules = watts * elapsed_ms as f64 * 1_000.0 + self.carry;
        let whole = microjoules.floor().max(0.0);
        self.carry = microjoules - whole;
        whole as u64
    }

    fn enter(&mut self, energy: u64, utilization: f64, elapsed_ms: u64, pods: Vec<(String, u64)>, busy_us: u64) {
        let watts = energy as f64 / elapsed_ms as f64 / 1_000.0;
        let idle_ratio = self.model.as_ref().map_or(0.5, |model| model.idle_ratio(utilization));
        let idle_watts = match (&self.source, &self.model) {
            // A model's idle power is known, not learned.
            (Source::Model, Some(model)) => model.idle_watts.min(watts),
            _ => self.kept.idle.learn(utilization, watts, idle_ratio).min(watts),
        };
        let idle_microjoules = ((idle_watts * elapsed_ms as f64 * 1_000.0).round().max(0.0) as u64).min(energy);
        let pods_us = pods.iter().fold(0_u64, |sum, (_, cpu_us)| sum.saturating_add(*cpu_us));
        // Ticks are coarser than cgroup counters: pods may seem to have used more than the whole node.
        let system_us = busy_us.saturating_sub(pods_us);
        let origin = self.origin();
        self.kept.ledger.record(&origin, &Interval { energy_microjoules: energy, idle_microjoules, pods, system_us });
        self.view.watts = Some(watts);
        self.view.idle_watts = Some(idle_watts);
        self.view.origin = Some(origin);
    }

    fn origin(&self) -> Origin {
        match &self.source {
            Source::Powercap(_) => Origin { provenance: "measured".into(), source: "powercap".into() },
            _ => Origin { provenance: "estimated".into(), source: "utilization-model".into() },
        }
    }

    fn save(&mut self, now_boot_ms: u64) {
        self.kept.saved_boot_ms = now_boot_ms;
        let durable = self.samples.is_multiple_of(DURABLE_EVERY);
        if let Err(error) = self.store.save(FILE, &self.kept, durable) {
            // The figures go on; after a restart they would begin again at the last ones saved.
            tracing::warn!(%error, "the energy ledger could not be saved");
        }
        self.view.ledger = self.kept.ledger.clone();
    }

    fn look_for_sources(&mut self, sources: &mut SourceBook) {
        let powercap = sources.note("powercap", Powercap::discover(&self.root));
        self.model = self.model.take().or_else(|| PowerModel::of(&self.root).ok());
        (self.source, self.reason) = match (powercap, &self.model) {
            (Some(powercap), _) => {
                let reason = format!("powercap zones {} are readable", powercap.names().join(", "));
                (Source::Powercap(powercap), reason)
            }
            (None, Some(model)) => {
                let absent =
                    sources.statuses().into_iter().find(|source| source.name == "powercap").and_then(|s| s.reason);
                (Source::Model, format!("{}; estimated from {}", absent.unwrap_or_default(), model.basis))
            }
            (None, None) => (Source::Absent, "neither powercap zones nor proc/cpuinfo can be read".into()),
        };
        self.view.reason.clone_from(&self.reason);
        self.view.origin = (!matches!(self.source, Source::Absent)).then(|| self.origin());
        if self.pods.is_none() {
            self.pods = sources.note("cgroups", PodCpu::discover(&self.root));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn cpu(busy_us: u64, total_us: u64) -> Option<CpuTimes> {
        Some(CpuTimes { busy_us, total_us, cpus: 2 })
    }

    fn host(energy: Option<u64>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        write(
            directory.path(),
            "proc/cpuinfo",
            "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 106\nflags : fpu hypervisor\n",
        );
        write(directory.path(), "proc/sys/kernel/random/boot_id", "boot-1\n");
        if let Some(energy) = energy {
            zone(directory.path(), energy);
        }
        directory
    }

    fn zone(root: &Path, energy: u64) {
        write(root, "sys/class/powercap/intel-rapl:0/name", "package-0\n");
        write(root, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
        write(root, "sys/class/powercap/intel-rapl:0/energy_uj", &format!("{energy}\n"));
    }

    #[test]
    fn a_readable_counter_is_measured_and_told_as_such() {
        let host = host(Some(1_000));
        let mut sources = SourceBook::default();
        let mut meter = Meter::new(Root::new(host.path()), Store::none(), 0, &mut sources);
        meter.sample(1_000, cpu(0, 1_000_000), &mut sources);
        zone(host.path(), 50_001_000);
        meter.sample(2_000, cpu(500_000, 2_000_000), &mut sources);
        let view = meter.view();
        assert_eq!(view.watts, Some(50.0));
        let (origin, account) = view.ledger.accounts().iter().next().unwrap();
        assert_eq!(origin.provenance, "measured");
        assert_eq!((account.node_microjoules, account.residual()), (50_000_000, 0));
    }

    #[test]
    fn without_a_counter_the_model_estimates_and_says_why() {
        let host = host(None);
        let mut sources = SourceBook::default();
        let mut meter = Meter::new(Root::new(host.path()), Store::none(), 0, &mut sources);
        meter.sample(1_000, cpu(0, 1_000_000), &mut sources);
        meter.sample(2_000, cpu(500_000, 2_000_000), &mut sources);
        let view = meter.view();
        assert_eq!(view.origin.as_ref().unwrap().provenance, "estimated");
        assert!(view.reason.contains("virtual machine"), "{}", view.reason);
        assert!(view.watts.unwrap() > view.idle_watts.unwrap());
    }

    #[test]
    fn counters_go_on_after_a_restart_and_the_time_between_is_a_gap() {
        let host = host(None);
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let mut sources = SourceBook::default();
        let mut first = Meter::new(Root::new(host.path()), store.clone(), 0, &mut sources);
        first.sample(1_000, cpu(0, 1_000_000), &mut sources);
        first.sample(2_000, cpu(500_000, 2_000_000), &mut sources);
        let shown = first.view().ledger.clone();
        drop(first);
        let mut second = Meter::new(Root::new(host.path()), store, 7_000, &mut sources);
        second.sample(7_000, cpu(500_000, 7_000_000), &mut sources);
        second.sample(8_000, cpu(600_000, 8_000_000), &mut sources);
        let ledger = &second.view().ledger;
        assert_eq!((ledger.gaps, ledger.gap_ms), (1, 5_000));
        let origin = shown.accounts().keys().next().unwrap();
        assert!(ledger.accounts()[origin].node_microjoules > shown.accounts()[origin].node_microjoules);
        assert_eq!(ledger.accounts()[origin].residual(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_node_is_the_sum_of_its_parts_through_wraps_and_resets(counters in proptest::collection::vec(0_u64..262_143_328_850, 2..30)) {
            let host = host(Some(counters[0]));
            let mut sources = SourceBook::default();
            let mut meter = Meter::new(Root::new(host.path()), Store::none(), 0, &mut sources);
            for (n, counter) in counters.iter().enumerate() {
                zone(host.path(), *counter);
                let n = n as u64 + 1;
                meter.sample(n * 1_000, cpu(n * 300_000, n * 1_000_000), &mut sources);
                for account in meter.view().ledger.accounts().values() {
                    prop_assert_eq!(account.residual(), 0);
                }
            }
        }
    }
}
