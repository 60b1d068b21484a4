//! Joins sources, idle part and use into the ledger, once a second, and keeps the ledger over restarts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    args::EnergyArgs,
    battery::Batteries,
    calibrate::Lessons,
    cgroups::PodCpu,
    choose::{Choice, Faults},
    dcmi::{Dcmi, Device},
    durable::{Durable, Found},
    hwmon,
    idle::IdleBook,
    ledger::{Ledger, Origin},
    memory::MemoryTraffic,
    model::{PowerModel, plausible_watts},
    nvml::Nvml,
    powercap::Powercap,
    processes::Processes,
    share::{Moment, Sharing, interval_of},
    source::{Hints, Scope},
    wall::{Wall, WallBoard},
};
use crate::{
    clock,
    host::Root,
    sources::{CpuTimes, SourceBook},
    store::Store,
};

/// Time between two writings of the ledger, milliseconds: what was shown is on the disk, and the disk is written rarely.
const SAVE_EVERY_MS: u64 = 5_000;
/// A sample that comes later than this is a gap for sources that only know the present.
const GAP_MS: u64 = 10_000;
/// Sleep that is worth a gap of its own, milliseconds.
const SLEEP_MS: u64 = 1_000;
/// Samples between two looks for a better source or for cgroups that were not there.
const LOOK_AGAIN: u64 = 60;
/// Name of the model among the sources.
const MODEL: &str = "utilization-model";

/// The present on both clocks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since boot, suspend included.
    pub boot_ms: u64,
    /// Milliseconds since boot in which the machine was awake.
    pub awake_ms: u64,
}

impl Now {
    /// Reads both clocks. Neither follows the wall clock, so that setting that changes nothing here.
    pub fn read() -> Self {
        let awake = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(awake.tv_sec).unwrap_or(0);
        let millis = u64::try_from(awake.tv_nsec).unwrap_or(0) / 1_000_000;
        Self { boot_ms: clock::boot_ms(), awake_ms: seconds.saturating_mul(1000).saturating_add(millis) }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    ledger: Ledger,
    idle: IdleBook,
    lessons: Lessons,
    boot_id: String,
    saved_boot_ms: u64,
}

/// What is known about energy now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnergyView {
    /// The ledger as it was last saved: nothing is shown that a restart or power loss could take back.
    pub ledger: Arc<Ledger>,
    /// Origin of the present figures.
    pub origin: Option<Origin>,
    /// Why this source and no better one, and what it does not see.
    pub reason: String,
    /// Power now, watts.
    pub watts: Option<f64>,
    /// Idle part of it, watts.
    pub idle_watts: Option<f64>,
    /// Pods whose cgroup is there now, by UID.
    pub pods: Vec<String>,
    /// Faults of sensors, by source and word.
    pub faults: Faults,
    /// Sources that disagree, in words.
    pub conflicts: Vec<String>,
}

/// Meters one node.
pub struct Meter {
    root: Root,
    settings: EnergyArgs,
    durable: Durable,
    choice: Choice,
    wall: WallBoard,
    model: Option<PowerModel>,
    /// The model after what a sensor that is gone taught.
    calibrated: Option<PowerModel>,
    pods: Option<PodCpu>,
    processes: Processes,
    memory: Option<MemoryTraffic>,
    regime: String,
    limit_watts: u64,
    kept: Kept,
    last: Option<(Now, CpuTimes)>,
    carry: f64,
    samples: u64,
    view: EnergyView,
}

impl Meter {
    /// A meter that goes on where the last one of this node stopped.
    pub fn new(root: Root, store: &Store, settings: EnergyArgs, now: Now, book: &mut SourceBook) -> Self {
        let boot_id = root.boot_id();
        let mut durable = Durable::new(store.directory().map(std::path::Path::to_owned));
        let mut kept: Kept = match durable.load() {
            Found::Whole(kept) | Found::OneDamaged(kept) => kept,
            Found::Nothing | Found::Lost => Kept::default(),
        };
        if kept.saved_boot_ms > 0 && kept.boot_id == boot_id {
            kept.ledger.record_gap(now.boot_ms.saturating_sub(kept.saved_boot_ms));
        } else if kept.saved_boot_ms > 0 {
            // How long the node was off is not known; that it was, is.
            kept.ledger.record_gap(0);
        }
        kept.boot_id = boot_id;
        let mut meter = Self {
            limit_watts: plausible_watts(&root),
            processes: Processes::new(root.clone()),
            root,
            settings,
            durable,
            choice: Choice::default(),
            wall: WallBoard::default(),
            model: None,
            calibrated: None,
            pods: None,
            memory: None,
            regime: String::new(),
            kept,
            last: None,
            carry: 0.0,
            samples: 0,
            view: EnergyView::default(),
        };
        meter.look_for_sources(book);
        meter.view.ledger = Arc::new(meter.kept.ledger.clone());
        meter
    }

    /// Takes the power that the site tells as a further source.
    #[must_use]
    pub fn with_wall(mut self, wall: WallBoard) -> Self {
        self.wall = wall;
        self
    }

    /// What is known now.
    pub fn view(&self) -> &EnergyView {
        &self.view
    }

    /// Takes one sample. `cpu` is absent when /proc/stat is.
    pub fn sample(&mut self, now: Now, cpu: Option<CpuTimes>, book: &mut SourceBook) {
        self.samples += 1;
        if self.samples.is_multiple_of(LOOK_AGAIN) {
            self.look_for_sources(book);
        }
        let pods = match &mut self.pods {
            Some(pods) => pods.advance().unwrap_or_default(),
            None => Vec::new(),
        };
        let (uids, pods_us): (Vec<String>, Vec<u64>) = pods.into_iter().unzip();
        self.view.pods.clone_from(&uids);
        let Some(cpu) = cpu else { return };
        let before = self.last.replace((now, cpu));
        let elapsed_ms = before.map_or(0, |(then, _)| now.boot_ms.saturating_sub(then.boot_ms));
        let awake_ms = before.map_or(0, |(then, _)| now.awake_ms.saturating_sub(then.awake_ms)).min(elapsed_ms);
        let utilization = before.and_then(|(_, then)| cpu.utilization_since(&then));
        let hints = Hints { elapsed_ms: awake_ms, limit_watts: self.limit_watts, utilization };
        self.choice.advance(&hints, book);
        self.view.faults.clone_from(self.choice.faults());
        let conflicts = std::mem::replace(&mut self.view.conflicts, self.choice.conflicts());
        let traffic = self.memory.as_mut().and_then(|memory| memory.advance(&mut self.processes));
        let Some((_, cpu_before)) = before else { return };
        if elapsed_ms == 0 {
            return;
        }
        let slept = elapsed_ms - awake_ms;
        if slept >= SLEEP_MS {
            tracing::info!(milliseconds = slept, "the machine slept; the time is a gap");
            self.kept.ledger.record_gap(slept);
        }
        self.record_parts();
        let moment = utilization.and_then(|utilization| self.moment(awake_ms, utilization));
        let Some(moment) = moment else {
            if !self.choice.is_empty() || self.model.is_some() {
                self.kept.ledger.record_gap(awake_ms);
            }
            self.view.watts = None;
            self.save(now);
            return;
        };
        self.learn(&moment);
        let busy_us = cpu.busy_us.saturating_sub(cpu_before.busy_us);
        let used: u64 = pods_us.iter().fold(0, |sum, us| sum.saturating_add(*us));
        let sharing = Sharing {
            pods: &uids,
            pods_us: &pods_us,
            // Ticks are coarser than cgroup counters: pods may seem to have used more than the whole node.
            system_us: busy_us.saturating_sub(used),
            traffic: traffic.as_ref(),
            model: self.calibrated.as_ref().or(self.model.as_ref()),
            regime: &self.regime,
        };
        let (interval, idle_watts) = interval_of(&moment, &sharing, &mut self.kept.idle, &mut self.processes);
        self.kept.ledger.record(&moment.origin, &interval);
        self.kept.ledger.unsure_microjoules =
            self.kept.ledger.unsure_microjoules.saturating_add(moment.unsure_microjoules);
        self.view.watts = Some(moment.watts());
        self.view.idle_watts = Some(idle_watts);
        if self.view.origin.as_ref() != Some(&moment.origin) || self.view.conflicts != conflicts {
            self.explain(&moment.origin, book);
        }
        self.view.origin = Some(moment.origin);
        self.save(now);
    }

    /// Writes the ledger now.
    pub fn flush(&mut self, now: Now) {
        self.kept.saved_boot_ms = 0;
        self.save(now);
    }

    /// What the machine took in the last interval and by which source; nothing when that is not known.
    fn moment(&mut self, awake_ms: u64, utilization: f64) -> Option<Moment> {
        if awake_ms == 0 {
            return None;
        }
        let picked = self.choice.pick();
        let mut moment = Moment {
            origin: Origin { provenance: "measured".into(), source: String::new() },
            awake_ms,
            utilization,
            whole: None,
            parts: picked.parts.clone().unwrap_or_default(),
            users: picked.users.clone(),
            unsure_microjoules: picked.unsure_microjoules,
        };
        let sources = picked.part_sources.join("+");
        if let Some((name, _, energy)) = picked.whole {
            moment.whole = Some(energy?);
            moment.origin.source = name.into();
            return Some(moment);
        }
        // Without one of its meters the sum would be too small.
        if !picked.part_sources.is_empty() && picked.parts.is_none() {
            return None;
        }
        let (sum, cards) = Moment::processor_and_cards(&moment.parts);
        if picked.has_processor() {
            moment.origin.source = sources;
            if let Some(line) = self.kept.lessons.wall.line() {
                let watts = line.watts(sum as f64 / awake_ms as f64 / 1_000.0);
                moment.whole = Some(self.whole_microjoules(watts, awake_ms).saturating_add(cards));
                moment.origin =
                    Origin { provenance: "calibrated".into(), source: format!("{}+wall-line", moment.origin.source) };
            }
            return Some(moment);
        }
        // A model has nothing to say about a time in which nobody looked at the load.
        if awake_ms > GAP_MS {
            return None;
        }
        let model = self.calibrated.as_ref().or(self.model.as_ref())?;
        let watts = model.watts(utilization);
        let provenance = if self.calibrated.is_some() { "calibrated" } else { "estimated" };
        let source = if sources.is_empty() { MODEL.to_owned() } else { format!("{MODEL}+{sources}") };
        moment.whole = Some(self.whole_microjoules(watts, awake_ms).saturating_add(cards));
        moment.origin = Origin { provenance: provenance.into(), source };
        Some(moment)
    }

    /// Microjoules of a modelled power; what rounding leaves over goes into the next one.
    fn whole_microjoules(&mut self, watts: f64, elapsed_ms: u64) -> u64 {
        let microjoules = watts * elapsed_ms as f64 * 1_000.0 + self.carry;
        let whole = microjoules.floor().max(0.0);
        self.carry = (microjoules - whole).clamp(0.0, 1.0);
        whole as u64
    }

    fn record_parts(&mut self) {
        for (source, parts, inside) in self.choice.for_counters() {
            self.kept.ledger.record_parts(source, parts, false);
            self.kept.ledger.record_parts(source, inside, true);
        }
    }

    /// Lets what is measured at the wall teach what is used when that sensor is gone.
    fn learn(&mut self, moment: &Moment) {
        let (Some(whole), "measured") = (moment.whole, moment.origin.provenance.as_str()) else { return };
        if moment.awake_ms > GAP_MS {
            return;
        }
        let (sum, cards) = Moment::processor_and_cards(&moment.parts);
        let whole = whole.saturating_sub(cards);
        self.kept.lessons.learn(moment.awake_ms, whole, sum, moment.utilization, &moment.origin.source);
    }

    fn save(&mut self, now: Now) {
        let since = now.boot_ms.saturating_sub(self.kept.saved_boot_ms);
        if self.durable.is_kept() && self.kept.saved_boot_ms > 0 && since < SAVE_EVERY_MS {
            return;
        }
        self.kept.saved_boot_ms = now.boot_ms;
        match self.durable.save(&self.kept) {
            Ok(()) => self.view.ledger = Arc::new(self.kept.ledger.clone()),
            // What was shown stays: figures that a restart takes back would be counted twice.
            Err(error) => {
                tracing::warn!(%error, "the energy ledger could not be saved; counters stand still until it can")
            }
        }
    }

    fn look_for_sources(&mut self, book: &mut SourceBook) {
        if !self.choice.works("powercap")
            && let Some(found) = book.note("powercap", Powercap::discover(&self.root))
        {
            self.choice.add(Box::new(found));
        }
        let sensors = ["acpi-power-meter", "power-supplies", "board-sensor", "socket-sensor", "gpu-sensor"];
        if !sensors.iter().any(|name| self.choice.works(name)) {
            for found in book.note("hwmon", hwmon::discover(&self.root)).unwrap_or_default() {
                self.choice.add(Box::new(found));
            }
        }
        if !self.choice.works("ipmi-dcmi") {
            let found = Device::find(&self.root).and_then(|device| {
                let place = device.path().display().to_string();
                Dcmi::start(device, place)
            });
            if let Some(found) = book.note("ipmi-dcmi", found) {
                self.choice.add(Box::new(found));
            }
        }
        if let Some(name) = self.wall.fresh()
            && !self.choice.works(name)
        {
            self.choice.add(Box::new(Wall::new(self.wall.clone(), name)));
        }
        if !self.choice.works("nvml") {
            let found = Nvml::discover(&self.root, self.settings.nvml_library.as_deref());
            if let Some(found) = book.note("nvml", found) {
                self.choice.add(Box::new(found));
            }
        }
        if !self.choice.works("battery")
            && let Ok(found) = Batteries::discover(&self.root)
        {
            self.choice.add(Box::new(found));
        }
        self.model = self.model.take().or_else(|| PowerModel::of(&self.root).ok());
        let points = self.kept.lessons.load.points();
        self.calibrated =
            self.model.as_ref().and_then(|model| model.calibrated(&points, &self.kept.lessons.load.teacher));
        self.limit_watts = plausible_watts(&self.root);
        self.regime = regime(&self.root);
        if self.pods.is_none() {
            self.pods = book.note("cgroups", PodCpu::discover(&self.root));
        }
        self.memory = self.memory.take().or_else(|| MemoryTraffic::discover(&self.root));
        self.processes.tidy();
        if self.view.origin.is_none() {
            self.view.reason = self.absences(book);
        }
    }

    /// Says which source is used, why no better one is, and what it does not see. Built when the choice changes only:
    /// a text that changes with every reading would be news every second.
    fn explain(&mut self, origin: &Origin, book: &SourceBook) {
        let picked = self.choice.pick();
        let mut said: Vec<String> = Vec::new();
        if let Some((name, scope, _)) = picked.whole {
            said.push(self.choice.describe(name));
            match scope {
                Scope::Board => said.push("it does not see what the power supply loses".into()),
                Scope::Battery => said.push("nothing better can be read".into()),
                Scope::Wall | Scope::Parts => {}
            }
        } else {
            said.extend(picked.part_sources.iter().map(|name| self.choice.describe(name)));
            let line = self.kept.lessons.wall.line().filter(|_| picked.has_processor());
            match (picked.has_processor(), line) {
                (true, Some(line)) => said.push(format!(
                    "power at the wall by a line that {} taught: {:.0} W and {:.2} times what the parts take, {:.1} W off on average",
                    self.kept.lessons.wall.teacher, line.base_watts, line.slope, line.error_watts
                )),
                (true, None) => {
                    said.push("it does not see power supplies, fans and disks".into());
                    said.push(self.absences(book));
                }
                (false, _) => {
                    said.push(self.absences(book));
                    let basis = self.calibrated.as_ref().or(self.model.as_ref()).map(|model| model.basis.as_str());
                    said.push(format!("{} from {}", origin.provenance, basis.unwrap_or_default()));
                }
            }
        }
        said.extend(self.choice.conflicts());
        said.retain(|text| !text.is_empty());
        self.view.reason = said.join("; ");
    }

    /// Why better sources are absent.
    fn absences(&self, book: &SourceBook) -> String {
        let better = ["ipmi-dcmi", "acpi-power-meter", "power-supplies", "hwmon", "powercap"];
        let absent = book.statuses().into_iter().filter(|status| better.contains(&status.name.as_str()));
        let reasons: Vec<String> =
            absent.filter_map(|status| Some(format!("{}: {}", status.name, status.reason?))).collect();
        reasons.join("; ")
    }
}

/// What the kernel is told about frequencies: an idle machine takes another power under another governor.
fn regime(root: &Root) -> String {
    let read = |file: &str| {
        root.read(format!("sys/devices/system/cpu/{file}")).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    format!(
        "{}/{}/{}",
        read("cpu0/cpufreq/scaling_governor"),
        read("cpu0/cpufreq/scaling_max_freq"),
        read("intel_pstate/no_turbo")
    )
}

#[cfg(test)]
mod tests;
