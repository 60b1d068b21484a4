//! Power of this node where nothing measures it: what the node says about itself in /proc, given to the
//! [`estimator`](super::estimator). An estimate, and labelled as one.
//!
//! /proc tells neither design power nor power supplies, so that these are filled in and the interval is the widest of
//! the model's. A guest is charged with its share of a host, because it does not know its host.

use std::{collections::BTreeSet, io};

use serde::Serialize;

use super::estimator::{Curve, Estimator, Machine};
use crate::host::Root;

/// Threads of the two-socket host that a guest is assumed to be a part of. Larger guests are their own host.
const HOST_THREADS: f64 = 64.0;
/// Range of loads that has to be seen before idle and full power are taken from it.
const MIN_SPAN: f64 = 0.4;
/// Most that a machine draws without its processors, memory and accelerators, watts: a chassis full of disks.
const CHASSIS_WATTS: u64 = 2_000;
/// Most that a processor package draws, watts.
const PACKAGE_WATTS: u64 = 1_000;
/// Most that an accelerator draws, watts.
const ACCELERATOR_WATTS: u64 = 1_600;
/// PCI classes (first four digits) of accelerators: graphics, 3D, processing.
const ACCELERATOR_CLASSES: [&str; 3] = ["0x0300", "0x0302", "0x1200"];

/// Most that a machine is thought to draw, watts: a figure above it is no power. Generous, because a true figure that is
/// refused is worse than an absurd one that is ten times too large and refused anyway.
pub fn plausible_watts(root: &Root) -> u64 {
    let cpuinfo = root.read("proc/cpuinfo").unwrap_or_default();
    let packages = fields(&cpuinfo, "physical id").collect::<BTreeSet<&str>>().len().max(1) as u64;
    let gibibytes = root.read("proc/meminfo").ok().and_then(|text| gibibytes(&text)).unwrap_or_default();
    let accelerators = std::fs::read_dir(root.join("sys/bus/pci/devices"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|device| crate::host::read_bounded(&device.path().join("class")).ok())
        .filter(|class| ACCELERATOR_CLASSES.iter().any(|known| class.starts_with(known)))
        .count() as u64;
    CHASSIS_WATTS + PACKAGE_WATTS * packages + gibibytes as u64 + ACCELERATOR_WATTS * accelerators
}

/// Memory in /proc/meminfo.
fn gibibytes(meminfo: &str) -> Option<f64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.split_ascii_whitespace().next()?.parse::<f64>().ok().map(|kibibytes| kibibytes / f64::from(1 << 20))
}

/// The model of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerModel {
    /// Watts of an idle node.
    pub idle_watts: f64,
    /// Watts of a fully busy node.
    pub full_watts: f64,
    /// What the figures rest on.
    pub basis: String,
    #[serde(skip)]
    curve: Curve,
    #[serde(skip)]
    share: f64,
    #[serde(skip)]
    machine: Machine,
}

impl PowerModel {
    /// Builds the model from /proc/cpuinfo and /proc/meminfo.
    ///
    /// # Errors
    /// When there is no cpuinfo: without the number of threads there is nothing to estimate from.
    pub fn of(root: &Root) -> io::Result<Self> {
        let cpuinfo = root.read("proc/cpuinfo")?;
        let meminfo = root.read("proc/meminfo").unwrap_or_default();
        Self::from_cpuinfo(&cpuinfo, gibibytes(&meminfo))
    }

    fn from_cpuinfo(cpuinfo: &str, gibibytes: Option<f64>) -> io::Result<Self> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let mut machine = describe(cpuinfo, gibibytes);
        let threads = machine.threads.unwrap_or_default();
        if threads == 0.0 {
            return Err(invalid("proc/cpuinfo lists no processor".into()));
        }
        let guest = field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let mut share = 1.0;
        if guest && threads < HOST_THREADS {
            share = threads / HOST_THREADS;
            // The host's size is assumed; its memory, a guest's of which says little, is filled in by the model.
            machine = Machine { chips: Some(2.0), cores: None, threads: Some(HOST_THREADS), mem_gb: None, ..machine };
        }
        let curve = Estimator::shipped().estimate(&machine).map_err(|error| invalid(error.to_string()))?;
        let mut basis = format!("{threads} threads by the {}", curve.basis);
        if let Some([low, high]) = curve.interval_at(0.5) {
            basis += &format!(
                "; at half load {:.0} W, 90 % interval {:.0} to {:.0} W",
                curve.watts_at(0.5) * share,
                low * share,
                high * share
            );
        }
        if guest {
            basis += "; a virtual machine, charged with its share of a host";
        }
        Ok(Self {
            idle_watts: curve.watts_at(0.0) * share,
            full_watts: curve.watts_at(1.0) * share,
            basis,
            curve,
            share,
            machine,
        })
    }

    /// The same node once a sensor at the wall showed its power at some loads (load and watts, lowest load first).
    /// Where it saw enough of the range, idle and full power follow and the model bends the line between them; else the
    /// whole curve is scaled. Nothing without a point.
    pub fn calibrated(&self, points: &[(f64, f64)], teacher: &str) -> Option<Self> {
        let (first, last) = (points.first()?, points.last()?);
        let fitted = if last.0 - first.0 >= MIN_SPAN { self.between(*first, *last) } else { None };
        let curve = match fitted {
            Some((idle, full)) => Estimator::shipped().calibrated(&self.machine, idle, full).ok()?,
            None => {
                let modelled: f64 = points.iter().map(|(load, _)| self.curve.watts_at(*load)).sum();
                let gain = points.iter().map(|(_, watts)| watts).sum::<f64>() / modelled;
                let mut curve = self.curve.clone();
                curve.watts.iter_mut().for_each(|watts| *watts *= gain);
                // How good a scaled curve is was not measured.
                curve.interval = None;
                curve
            }
        };
        let basis = format!("{}; calibrated with what {teacher} said at {} loads", curve.basis, points.len());
        Some(Self {
            idle_watts: curve.watts_at(0.0),
            full_watts: curve.watts_at(1.0),
            basis,
            curve,
            share: 1.0,
            machine: self.machine.clone(),
        })
    }

    /// Idle and full power of a curve of this model's shape through two points.
    fn between(&self, low: (f64, f64), high: (f64, f64)) -> Option<(f64, f64)> {
        let (low_shape, high_shape) = (self.shape(low.0), self.shape(high.0));
        let dynamic = (high.1 - low.1) / (high_shape - low_shape);
        let idle = low.1 - dynamic * low_shape;
        (dynamic.is_finite() && dynamic > 0.0 && idle > 0.0).then_some((idle, idle + dynamic))
    }

    /// How far the power is on its way from idle to full at a utilisation: 0 to 1, never falling.
    pub fn shape(&self, utilization: f64) -> f64 {
        let range = self.full_watts - self.idle_watts;
        if range <= 0.0 {
            return utilization.clamp(0.0, 1.0);
        }
        ((self.watts(utilization) - self.idle_watts) / range).clamp(0.0, 1.0)
    }

    /// Watts at a utilisation between 0 and 1.
    pub fn watts(&self, utilization: f64) -> f64 {
        self.curve.watts_at(utilization) * self.share
    }

    /// What idle power is of the power at a utilisation.
    pub fn idle_ratio(&self, utilization: f64) -> f64 {
        let watts = self.watts(utilization);
        if watts > 0.0 { self.idle_watts / watts } else { 0.0 }
    }
}

fn fields<'a>(cpuinfo: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    cpuinfo.lines().filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn field<'a>(cpuinfo: &'a str, name: &'a str) -> Option<&'a str> {
    fields(cpuinfo, name).next()
}

fn describe(cpuinfo: &str, gibibytes: Option<f64>) -> Machine {
    let number = |name: &str| field(cpuinfo, name).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let cpu_name = field(cpuinfo, "model name").or_else(|| field(cpuinfo, "Model Name")).map(str::to_owned);
    let vendor = field(cpuinfo, "vendor_id").unwrap_or_default();
    let architecture = Estimator::shipped()
        .families()
        .of_cpuid(vendor, number("cpu family"), number("model"), number("stepping"))
        .or_else(|| implementer(field(cpuinfo, "CPU implementer")?));
    let packages: BTreeSet<&str> = fields(cpuinfo, "physical id").collect();
    let chips = packages.len().max(1) as f64;
    let per_chip = number("cpu cores");
    Machine {
        architecture: architecture.map(str::to_owned),
        cpu_make: match vendor {
            "AuthenticAMD" => Some("amd".into()),
            "GenuineIntel" => Some("intel".into()),
            _ => None,
        },
        ghz: cpu_name.as_deref().and_then(nominal_gigahertz),
        cpu_name,
        chips: Some(chips),
        cores: (per_chip > 0).then(|| f64::from(per_chip) * chips),
        threads: Some(fields(cpuinfo, "processor").filter(|text| text.parse::<u32>().is_ok()).count() as f64),
        mem_gb: gibibytes,
        ..Machine::default()
    }
}

/// The clock in names such as `Xeon(R) Gold 6140 CPU @ 2.30GHz`.
fn nominal_gigahertz(cpu_name: &str) -> Option<f64> {
    cpu_name.rsplit_once('@')?.1.trim().strip_suffix("GHz")?.trim().parse().ok()
}

/// Family by Arm's list of implementers: such CPUs have no name in /proc/cpuinfo.
fn implementer(code: &str) -> Option<&'static str> {
    match code {
        "0x41" | "0xc0" | "0x6d" => Some("neoverse"),
        "0x48" => Some("kunpeng"),
        "0x70" => Some("phytium"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(vendor: &str, family: u32, threads: usize, flags: &str) -> String {
        let one = |n: usize| {
            format!(
                "processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 85\nstepping\t: 4\n\
                 physical id\t: {}\ncpu cores\t: {}\nflags\t\t: fpu sse{flags}\n\n",
                n % 2,
                threads / 4
            )
        };
        (0..threads).map(one).collect()
    }

    #[test]
    fn more_load_never_takes_less_power() {
        let model = PowerModel::from_cpuinfo(&cpuinfo("GenuineIntel", 6, 32, ""), Some(128.0)).unwrap();
        let watts: Vec<f64> = (0..=100).map(|percent| model.watts(f64::from(percent) / 100.0)).collect();
        assert!(watts.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!((watts[0] - model.idle_watts).abs() < 1e-9 && (watts[100] - model.full_watts).abs() < 1e-9);
        assert!(model.basis.contains("skylake") && model.basis.contains("90 % interval"), "{}", model.basis);
    }

    #[test]
    fn the_node_says_what_it_is_made_of() {
        let machine = describe(&cpuinfo("GenuineIntel", 6, 32, ""), Some(64.0));
        assert_eq!((machine.chips, machine.cores, machine.threads), (Some(2.0), Some(16.0), Some(32.0)));
        assert_eq!(nominal_gigahertz("Intel(R) Xeon(R) Gold 6140 CPU @ 2.30GHz"), Some(2.3));
        assert_eq!(nominal_gigahertz("AMD EPYC 7742 64-Core Processor"), None);
    }

    #[test]
    fn an_unknown_architecture_says_so() {
        let model = PowerModel::from_cpuinfo(&cpuinfo("HygonGenuine", 24, 8, ""), Some(16.0)).unwrap();
        assert!(model.basis.contains("no interval"), "{}", model.basis);
        let arm = "processor\t: 0\nBogoMIPS\t: 200.00\nCPU implementer\t: 0x48\nCPU part\t: 0xd01\n\n";
        let model = PowerModel::from_cpuinfo(arm, None).unwrap();
        assert!(model.basis.contains("never saw a machine of CPU family kunpeng"), "{}", model.basis);
    }

    #[test]
    fn a_guest_is_charged_with_its_share_of_a_host() {
        let guest =
            |threads| PowerModel::from_cpuinfo(&cpuinfo("GenuineIntel", 6, threads, " hypervisor"), None).unwrap();
        let (small, large) = (guest(4), guest(16));
        assert!((large.full_watts / small.full_watts - 4.0).abs() < 1e-9);
        assert!(large.basis.contains("share of a host"));
    }

    #[test]
    fn no_processor_is_no_model() {
        assert!(PowerModel::from_cpuinfo("", Some(1.0)).is_err());
        assert!(PowerModel::from_cpuinfo("model name\t: x\n", None).is_err());
    }

    #[test]
    fn a_sensor_that_is_gone_has_calibrated_the_model() {
        let model = PowerModel::from_cpuinfo(&cpuinfo("GenuineIntel", 6, 32, ""), Some(128.0)).unwrap();
        let narrow = model.calibrated(&[(0.1, 2.0 * model.watts(0.1))], "ipmi-dcmi").unwrap();
        assert!((narrow.watts(0.5) - 2.0 * model.watts(0.5)).abs() < 1e-6, "scaled");
        let wide = model.calibrated(&[(0.05, 105.0), (0.5, 200.0), (0.95, 295.0)], "ipmi-dcmi").unwrap();
        assert!((wide.watts(0.05) - 105.0).abs() < 8.0 && (wide.watts(0.95) - 295.0).abs() < 8.0, "{wide:?}");
        assert!(wide.basis.contains("calibrated with what ipmi-dcmi said at 3 loads"), "{}", wide.basis);
        assert!(model.calibrated(&[], "ipmi-dcmi").is_none());
    }

    #[test]
    fn what_a_machine_can_draw_grows_with_what_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let empty = plausible_watts(&root);
        for n in 0..8 {
            let device = directory.path().join(format!("sys/bus/pci/devices/0000:0{n}:00.0"));
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("class"), "0x030200\n").unwrap();
        }
        assert_eq!(plausible_watts(&root), empty + 8 * 1_600);
    }

    #[test]
    fn a_bare_machine_of_one_thread_takes_more_when_it_works() {
        let model = PowerModel::from_cpuinfo(
            &cpuinfo("GenuineIntel", 6, 4, "").split_inclusive("\n\n").take(1).collect::<String>(),
            Some(2.0),
        )
        .unwrap();
        let watts: Vec<f64> = (0..=10).map(|tenth| model.watts(f64::from(tenth) / 10.0)).collect();
        assert!(watts.windows(2).all(|pair| pair[0] < pair[1]), "{watts:?}");
        assert!(model.idle_ratio(0.1) < 1.0);
    }
}
