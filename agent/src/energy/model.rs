//! Power of a node that nobody measures, from what it is made of and how busy it is. An estimate, and labelled as one.
//!
//! watts(u) = idle + (full - idle) x shape(u); idle and full are straight lines in threads and memory. The coefficients
//! are our own fit (least relative error) to published SPECpower results of some 260 one-node servers of 2012 to 2022:
//! the median error is 8 to 19 % on these machines, and unknown on others. No machine of the ARM or other
//! architectures was in that fit: their row is a guess, and says so in the reason.

use std::io;

use serde::Serialize;

use crate::host::Root;

/// Threads of the host that a guest is assumed to be a part of: its share of the host's fixed power is its share of these.
const HOST_THREADS: f64 = 64.0;

/// Linear coefficients: watts, watts per thread, watts per gibibyte.
type Line = [f64; 3];

struct Class {
    name: &'static str,
    idle: Line,
    full: Line,
}

const AMD_ZEN: Class = Class { name: "AMD, 2017 and later", idle: [38.0, 0.04, 0.19], full: [75.0, 0.94, 0.45] };
const INTEL_RECENT: Class = Class { name: "Intel, 2017 and later", idle: [14.0, 0.16, 0.16], full: [28.0, 3.3, 0.23] };
const INTEL_OLDER: Class = Class { name: "Intel, before 2017", idle: [50.0, 0.1, 0.19], full: [120.0, 2.5, 0.47] };
const AMD_OLDER: Class = Class { name: "AMD, before 2017", idle: [50.0, 0.96, 0.2], full: [96.0, 4.1, 1.26] };
const OTHER: Class =
    Class { name: "an architecture without measured machines", idle: [20.0, 0.3, 0.19], full: [40.0, 1.6, 0.3] };

/// Share of the dynamic range at 0, 10, ... 100 % load: the median of the same machines.
const SHAPE: [f64; 11] = [0.0, 0.13, 0.22, 0.31, 0.39, 0.48, 0.57, 0.66, 0.76, 0.88, 1.0];

/// The model of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerModel {
    /// Watts of an idle node.
    pub idle_watts: f64,
    /// Watts of a fully busy node.
    pub full_watts: f64,
    /// What the figures rest on.
    pub basis: String,
}

impl PowerModel {
    /// Builds the model from /proc/cpuinfo and /proc/meminfo.
    ///
    /// # Errors
    /// When there is no cpuinfo: without the number of threads there is nothing to estimate from.
    pub fn of(root: &Root) -> io::Result<Self> {
        let cpuinfo = root.read("proc/cpuinfo")?;
        let meminfo = root.read("proc/meminfo").unwrap_or_default();
        let gibibytes = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_ascii_whitespace().next()?.parse::<f64>().ok())
            .map_or(0.0, |kibibytes| kibibytes / f64::from(1 << 20));
        Self::from_cpuinfo(&cpuinfo, gibibytes)
    }

    fn from_cpuinfo(cpuinfo: &str, gibibytes: f64) -> io::Result<Self> {
        let field = |name: &str| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim())
            })
        };
        let number = |name: &str| field(name).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let threads =
            cpuinfo.lines().filter(|line| line.split(':').next().is_some_and(|key| key.trim() == "processor")).count();
        if threads == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "proc/cpuinfo lists no processor"));
        }
        let (family, model) = (number("cpu family"), number("model"));
        let class = match field("vendor_id") {
            Some("AuthenticAMD") if family >= 0x17 => &AMD_ZEN,
            Some("AuthenticAMD") => &AMD_OLDER,
            // Skylake server is family 6 model 85; earlier servers have lower numbers.
            Some("GenuineIntel") if family > 6 || model >= 85 => &INTEL_RECENT,
            Some("GenuineIntel") => &INTEL_OLDER,
            _ => &OTHER,
        };
        let guest = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let threads = threads as f64;
        let part = if guest { (threads / HOST_THREADS).min(1.0) } else { 1.0 };
        let watts = |line: &Line| line[0] * part + line[1] * threads + line[2] * gibibytes;
        let idle_watts = watts(&class.idle);
        let basis = format!(
            "{} threads and {gibibytes:.1} GiB of {}{}",
            threads,
            class.name,
            if guest { "; a virtual machine, charged with its share of a host" } else { "" }
        );
        Ok(Self { idle_watts, full_watts: watts(&class.full).max(idle_watts), basis })
    }

    /// Watts at a utilisation between 0 and 1.
    pub fn watts(&self, utilization: f64) -> f64 {
        self.idle_watts + (self.full_watts - self.idle_watts) * shape(utilization)
    }

    /// What idle power is of the power at a utilisation.
    pub fn idle_ratio(&self, utilization: f64) -> f64 {
        let watts = self.watts(utilization);
        if watts > 0.0 { self.idle_watts / watts } else { 0.0 }
    }
}

fn shape(utilization: f64) -> f64 {
    let place = if utilization.is_finite() { utilization.clamp(0.0, 1.0) * 10.0 } else { 0.0 };
    let below = (place as usize).min(9);
    let part = place - below as f64;
    SHAPE[below] + (SHAPE[below + 1] - SHAPE[below]) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(vendor: &str, family: u32, threads: usize) -> String {
        (0..threads)
            .map(|n| format!("processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 85\nflags\t\t: fpu sse\n\n"))
            .collect()
    }

    #[test]
    fn more_load_never_takes_less_power() {
        let model = PowerModel::from_cpuinfo(&cpuinfo("GenuineIntel", 6, 32), 128.0).unwrap();
        let watts: Vec<f64> = (0..=100).map(|percent| model.watts(f64::from(percent) / 100.0)).collect();
        assert!(watts.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!((watts[0] - model.idle_watts).abs() < 1e-9 && (watts[100] - model.full_watts).abs() < 1e-9);
    }

    #[test]
    fn an_unknown_architecture_says_so() {
        let model = PowerModel::from_cpuinfo(&cpuinfo("HygonGenuine", 24, 8), 16.0).unwrap();
        assert!(model.basis.contains("without measured machines"));
    }

    #[test]
    fn no_processor_is_no_model() {
        assert!(PowerModel::from_cpuinfo("", 1.0).is_err());
    }
}
