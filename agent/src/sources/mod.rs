//! What the agent reads on a node, and whether it could: one [`Sample`] of all sources.
//!
//! A source that cannot be read is absent with its reason and stops nothing else. Nothing here decides what is wrong.

mod cpu;
mod filesystem;
mod pressure;
mod rates;
pub mod series;

use std::{collections::BTreeMap, io, time::Duration};

pub use cpu::CpuTimes;
use evergreen_api::resources::SourceStatus;
use procfs::{FromRead, LoadAverage};
use serde::Serialize;

pub use self::{
    filesystem::{Filesystem, Filesystems},
    pressure::Pressure,
    rates::{Disk, Interface},
};
use crate::host::Root;

/// Everything that was read at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// Share of CPU time that was not idle, 0 to 1; absent until two readings are there.
    pub cpu_utilization: Option<f64>,
    /// Logical CPUs.
    pub cpus: usize,
    /// Memory, bytes.
    pub memory: Option<Memory>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
    /// Pressure stall information.
    pub pressure: Vec<Pressure>,
    /// Filesystems on disks.
    pub filesystems: Vec<Filesystem>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub network: Vec<Interface>,
    /// Number of processes.
    pub processes: Option<u64>,
}

/// Memory of the node, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What the kernel manages.
    pub total: u64,
    /// What programs could still get.
    pub available: u64,
}

impl Memory {
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

/// Which sources are there, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceBook(BTreeMap<&'static str, Result<(), String>>);

impl SourceBook {
    /// Notes how reading a source went, and gives its value when it went well.
    pub fn note<T, E: std::fmt::Display>(&mut self, name: &'static str, outcome: Result<T, E>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.0.insert(name, Ok(()));
                Some(value)
            }
            Err(reason) => {
                let reason = reason.to_string();
                if self.0.get(name) != Some(&Err(reason.clone())) {
                    tracing::info!(source = name, %reason, "source is absent");
                }
                self.0.insert(name, Err(reason));
                None
            }
        }
    }

    /// As the custom resource shows it.
    pub fn statuses(&self) -> Vec<SourceStatus> {
        self.0
            .iter()
            .map(|(name, outcome)| SourceStatus {
                name: (*name).to_owned(),
                present: outcome.is_ok(),
                reason: outcome.as_ref().err().cloned(),
            })
            .collect()
    }

    /// Whether a source is there.
    pub fn is_present(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Result::is_ok)
    }
}

/// Reads the sources of one host, and remembers what rates need.
#[derive(Debug)]
pub struct Collector {
    root: Root,
    cpu: Option<CpuTimes>,
    disks: rates::DiskRates,
    network: rates::NetworkRates,
    filesystems: Filesystems,
    sample: Sample,
    /// How each source went.
    pub sources: SourceBook,
}

impl Collector {
    /// A collector that has read nothing yet.
    pub fn new(root: Root) -> Self {
        Self {
            filesystems: Filesystems::new(root.clone()),
            root,
            cpu: None,
            disks: rates::DiskRates::default(),
            network: rates::NetworkRates::default(),
            sample: Sample::default(),
            sources: SourceBook::default(),
        }
    }

    /// Reads what changes every second; `elapsed` is the time since the last call.
    pub fn read_fast(&mut self, elapsed: Duration) {
        let times = self.root.read("proc/stat").and_then(|text| CpuTimes::parse(&text));
        if let Some(times) = self.sources.note("cpu", times) {
            self.sample.cpu_utilization =
                self.cpu.and_then(|before| times.utilization_since(&before)).or(self.sample.cpu_utilization);
            self.sample.cpus = times.cpus;
            self.cpu = Some(times);
        }
        let memory = self.root.read("proc/meminfo").and_then(|text| {
            memory(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "proc/meminfo is not understood"))
        });
        self.sample.memory = self.sources.note("memory", memory);
        let load = self.parse::<LoadAverage>("proc/loadavg");
        self.sample.load =
            self.sources.note("load", load).map(|load| [load.one, load.five, load.fifteen].map(f64::from));
        let pressure = pressure::read(&self.root);
        self.sample.pressure = self.sources.note("pressure", pressure).unwrap_or_default();
        let disks = self.root.read("proc/diskstats").map(|text| self.disks.advance(&self.root, &text, elapsed));
        self.sample.disks = self.sources.note("disks", disks).unwrap_or_default();
        let network = self.root.read_net("dev").map(|text| self.network.advance(&text, elapsed));
        self.sample.network = self.sources.note("network", network).unwrap_or_default();
    }

    /// Reads what is slow or dear: filesystems and the number of processes.
    pub fn read_slow(&mut self) {
        let filesystems = self.filesystems.read();
        self.sample.filesystems = self.sources.note("filesystems", filesystems).unwrap_or_default();
        let processes = count_processes(&self.root);
        self.sample.processes = self.sources.note("processes", processes);
    }

    /// The last reading of all sources.
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// CPU time so far, for attribution.
    pub fn cpu_times(&self) -> Option<CpuTimes> {
        self.cpu
    }

    fn parse<T: FromRead>(&self, path: &str) -> io::Result<T> {
        let text = self.root.read(path)?;
        // The parser's own error names a file of this machine; ours may be elsewhere.
        T::from_read(text.as_bytes())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not understood")))
    }
}

/// Total and available bytes of /proc/meminfo. Not by `procfs`, which panics on names and sizes that no kernel writes.
fn memory(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = bytes("MemTotal")?;
    // MemAvailable came with Linux 3.14.
    let available = bytes("MemAvailable").or_else(|| bytes("MemFree")?.checked_add(bytes("Cached")?))?;
    Some(Memory { total, available: available.min(total) })
}

/// Numbered directories below proc: cheaper than reading a thousand processes to count them.
fn count_processes(root: &Root) -> io::Result<u64> {
    let entries = std::fs::read_dir(root.join("proc"))?;
    let is_process =
        |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let listed = entries.flatten().filter(|entry| is_process(&entry.file_name())).count() as u64;
    if listed > 0 || root.is_this_machine() {
        return Ok(listed);
    }
    // A recorded tree holds no processes, but the scheduler's count of entities is in its load average.
    let load = LoadAverage::from_read(root.read("proc/loadavg")?.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "proc/loadavg is not understood"))?;
    Ok(u64::from(load.max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn a_recorded_tree_is_read_like_a_machine() {
        let directory = tree(&[
            ("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\n"),
            ("proc/meminfo", MEMINFO),
            ("proc/loadavg", "0.50 0.40 0.30 1/234 5678\n"),
            ("proc/pressure/cpu", "some avg10=1.50 avg60=0.12 avg300=0.00 total=391926\n"),
            ("proc/diskstats", " 253 0 vda 100 0 800 10 50 0 400 5 0 20 15\n 7 0 loop0 1 0 1 1 1 0 1 1 0 1 1\n"),
            ("proc/net/dev", NET_DEV),
        ]);
        let mut collector = Collector::new(Root::new(directory.path()));
        collector.read_fast(Duration::from_secs(1));
        std::fs::write(directory.path().join("proc/stat"), "cpu  150 0 150 900 0 0 0 0 0 0\ncpu0 1 0 1 1\n").unwrap();
        collector.read_fast(Duration::from_secs(1));
        collector.read_slow();
        let sample = collector.sample();
        assert_eq!(sample.cpu_utilization, Some(0.5));
        assert_eq!(sample.memory.unwrap(), Memory { total: 16_000_000 * 1024, available: 12_000_000 * 1024 });
        assert_eq!(sample.load.unwrap()[0], 0.5);
        assert_eq!(sample.pressure[0].share, 0.015);
        assert_eq!(sample.disks.len(), 1);
        assert_eq!(sample.network.len(), 1);
        assert_eq!(sample.processes, Some(234));
    }

    #[test]
    fn memory_of_old_kernels_is_told_and_what_no_kernel_writes_is_not() {
        let old = memory("MemTotal: 100 kB\nMemFree: 10 kB\nCached: 20 kB\n");
        assert_eq!(old, Some(Memory { total: 102_400, available: 30_720 }));
        assert_eq!(memory("Zswapped\u{fffd} 1 kB\nMemTotal: 1 kB\n"), None);
        assert_eq!(memory(&format!("MemTotal: {} kB\nMemAvailable: 1 kB\n", u64::MAX)), None);
        assert_eq!(memory("MemTotal: -1 kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn an_empty_tree_has_no_sources_but_reasons() {
        let directory = tempfile::tempdir().unwrap();
        let mut collector = Collector::new(Root::new(directory.path()));
        collector.read_fast(Duration::from_secs(1));
        collector.read_slow();
        let statuses = collector.sources.statuses();
        assert_eq!(statuses.len(), 8);
        assert!(statuses.iter().all(|source| !source.present && source.reason.is_some()), "{statuses:?}");
    }

    #[test]
    fn files_cut_short_are_absent_sources_and_no_panic() {
        for cut in 0..40 {
            let short = |text: &str| text.chars().take(cut).collect::<String>();
            let directory = tree(&[
                ("proc/stat", &short("cpu  100 0 100 800 0 0 0 0 0 0\n")),
                ("proc/meminfo", &short(MEMINFO)),
                ("proc/loadavg", &short("0.50 0.40 0.30 1/234 5678\n")),
                ("proc/pressure/cpu", &short("some avg10=1.50 avg60=0.12 avg300=0.00 total=391926\n")),
                ("proc/diskstats", &short(" 253 0 vda 100 0 800 10 50 0 400 5 0 20 15\n")),
                ("proc/net/dev", &NET_DEV[..NET_DEV.len() - cut]),
                ("proc/mounts", &short("/dev/vda / ext4 rw,relatime 0 0\n")),
            ]);
            let mut collector = Collector::new(Root::new(directory.path()));
            collector.read_fast(Duration::from_secs(1));
            collector.read_slow();
        }
    }

    const MEMINFO: &str = "MemTotal:       16000000 kB\nMemFree:         8000000 kB\nMemAvailable:   12000000 kB\nBuffers:          100000 kB\nCached:          4000000 kB\nSwapCached:            0 kB\nActive:           100000 kB\nInactive:         100000 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\nDirty:                 0 kB\nWriteback:             0 kB\nMapped:           100000 kB\nSlab:             100000 kB\nCommitted_AS:     100000 kB\nVmallocTotal:     100000 kB\nVmallocUsed:      100000 kB\nVmallocChunk:          0 kB\n";
    const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  eth0: 1000000    1000    0    0    0     0          0         0   500000     500    0    0    0     0       0          0\n";
}
