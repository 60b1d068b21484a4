//! A simulated host: the part of /proc, /sys and /dev that the agent reads, as a directory tree.
//!
//! Counters only ever move as the load and the power curve move them: CPU time is load times time, energy is the
//! integral of power, pods' CPU is part of the node's. Open files stay valid, because every file is written in place.

mod cgroup;
mod files;
pub mod power;
mod procfs;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::time::Instant;

use files::Files;
use power::PowerCurve;

/// What a host is made of.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Host name.
    pub hostname: String,
    /// Hardware threads.
    pub threads: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Power over utilisation.
    pub power: PowerCurve,
    /// Whether RAPL zones are there (`sys/class/powercap`).
    pub powercap: bool,
    /// Whether a sensor of the power at the wall is there (`sys/class/hwmon`, ACPI power meter).
    pub wall_sensor: bool,
    /// Cores that the system outside pods uses on average.
    pub background_cores: f64,
    /// Seed of boot IDs and of the noise in the background load.
    pub seed: u64,
}

impl HostSpec {
    /// A two-socket server of 32 threads and 64 GiB with RAPL.
    pub fn server(hostname: &str) -> Self {
        HostSpec {
            hostname: hostname.to_owned(),
            threads: 32,
            memory_bytes: 64 << 30,
            power: PowerCurve::server(),
            powercap: true,
            wall_sensor: false,
            background_cores: 0.6,
            seed: hostname.bytes().fold(17, |h, b| h * 31 + u64::from(b)),
        }
    }
}

/// What a pod used since the last step.
#[derive(Debug, Clone, PartialEq)]
pub struct PodUsage {
    /// UID.
    pub uid: String,
    /// `Guaranteed`, `Burstable` or `BestEffort`.
    pub qos: String,
    /// ID of its container.
    pub container_id: String,
    /// Cores on average since the last step.
    pub cpu_cores: f64,
    /// Memory now.
    pub memory_bytes: u64,
}

/// Counters since boot.
#[derive(Debug, Default)]
struct Counters {
    uptime: f64,
    busy_seconds: f64,
    system_seconds: f64,
    pods_seconds: f64,
    requests: u64,
    kmsg_sequence: u64,
    load_average: [f64; 3],
    pressure_total: f64,
    pods: BTreeMap<String, cgroup::PodCounters>,
    memory_used: u64,
}

#[derive(Debug)]
struct State {
    files: Files,
    counters: Counters,
    /// Microjoules at the wall since the host was made; never reset, unlike the host's own counters.
    wall_microjoules: f64,
    zones: power::Zones,
    boot_id: String,
    random: StdRng,
    last: Option<Instant>,
    background_cores: f64,
    utilisation: f64,
    root_read_only: bool,
    /// Uptime at the last writing of the files that nobody reads more than once a second.
    slow_written: Option<f64>,
}

#[derive(Debug)]
struct Inner {
    spec: HostSpec,
    root: PathBuf,
    state: Mutex<State>,
}

/// A handle on a simulated host. Clones share everything.
#[derive(Debug, Clone)]
pub struct SimulatedHost(Arc<Inner>);

impl SimulatedHost {
    /// Writes the tree of a freshly booted host below `dir`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(dir: &Path, spec: HostSpec) -> io::Result<Self> {
        let mut random = StdRng::seed_from_u64(spec.seed);
        let state = State {
            files: Files::new(dir.to_owned()),
            counters: Counters::default(),
            wall_microjoules: 0.0,
            zones: power::Zones::default(),
            boot_id: boot_id(&mut random),
            random,
            last: None,
            background_cores: spec.background_cores,
            utilisation: 0.0,
            root_read_only: false,
            slow_written: None,
        };
        let host = SimulatedHost(Arc::new(Inner { spec, root: dir.to_owned(), state: Mutex::new(state) }));
        {
            let mut state = host.0.state.lock();
            host.write_still(&mut state)?;
            host.write_moving(&mut state, &[])?;
        }
        Ok(host)
    }

    /// The directory to give to the agent as its root.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Hardware threads.
    pub fn threads(&self) -> u32 {
        self.0.spec.threads
    }

    /// The ID of this boot.
    pub fn boot_id(&self) -> String {
        self.0.state.lock().boot_id.clone()
    }

    /// Cores that the system outside pods uses now, with a little deterministic noise.
    pub fn background_cores(&self) -> f64 {
        let mut state = self.0.state.lock();
        let noise = f64::from(state.random.next_u32()) / f64::from(u32::MAX);
        state.background_cores * (0.8 + 0.4 * noise)
    }

    /// Changes the average of [`SimulatedHost::background_cores`].
    pub fn set_background_cores(&self, cores: f64) {
        self.0.state.lock().background_cores = cores.max(0.0);
    }

    /// Energy at the wall since the host was made, in microjoules: the truth that no sensor shows.
    pub fn wall_microjoules(&self) -> u64 {
        self.0.state.lock().wall_microjoules as u64
    }

    /// Power at the wall during the last step, in watts.
    pub fn watts(&self) -> f64 {
        self.0.spec.power.watts(self.0.state.lock().utilisation)
    }

    /// Lets time pass up to `now` with a load outside pods (in cores) and the pods' use. The first call only starts
    /// the clock. Load above the host's threads is cut off, the pods' part in proportion.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn tick(&self, now: Instant, system_cores: f64, pods: &[PodUsage]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let passed = state.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last)).as_secs_f64();
        state.last = Some(now);
        let threads = f64::from(self.0.spec.threads);
        let system = system_cores.clamp(0.0, threads);
        let asked: f64 = pods.iter().map(|p| p.cpu_cores.max(0.0)).sum();
        let share = if asked > threads - system { (threads - system) / asked } else { 1.0 };
        let pods: Vec<PodUsage> =
            pods.iter().map(|p| PodUsage { cpu_cores: p.cpu_cores.max(0.0) * share, ..p.clone() }).collect();
        let used = system + asked * share;
        state.utilisation = used / threads;
        let watts = self.0.spec.power.watts(state.utilisation);
        state.wall_microjoules += watts * passed * 1e6;
        let zones = self.0.spec.power.zones(state.utilisation);
        state.zones.advance(&zones, passed);
        let counters = &mut state.counters;
        counters.uptime += passed;
        counters.busy_seconds += used * passed;
        counters.system_seconds += system * passed;
        counters.pods_seconds += asked * share * passed;
        counters.requests += (used * passed * 200.0) as u64;
        counters.pressure_total += (used / threads - 0.7).max(0.0) * passed * 1e6;
        for (average, minutes) in counters.load_average.iter_mut().zip([1.0, 5.0, 15.0]) {
            let weight = (-passed / (60.0 * minutes)).exp();
            *average = *average * weight + used * (1.0 - weight);
        }
        self.write_moving(&mut state, &pods)?;
        cgroup::advance(&mut state, &pods, passed)
    }

    /// Lets time pass in which the host was off: nothing counts.
    pub fn skip_to(&self, now: Instant) {
        self.0.state.lock().last = Some(now);
    }

    /// Appends a record to the kernel log, as `dev/kmsg` would show it. `priority` is the syslog level 0 to 7.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kernel_log(&self, priority: u8, text: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let sequence = state.counters.kmsg_sequence;
        state.counters.kmsg_sequence += 1;
        let micros = (state.counters.uptime * 1e6) as u64;
        let record = format!("{},{sequence},{micros},-;{}\n", priority.min(7), text.replace('\n', "\\x0a"));
        state.files.append("dev/kmsg", &record)
    }

    /// Turns the root filesystem read-only (or back), as errors=remount-ro does.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn set_root_read_only(&self, read_only: bool) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.root_read_only = read_only;
        procfs::mounts(&mut state)
    }

    /// Boots the host anew: another boot ID, all counters from zero, an empty kernel log, no pods.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn reboot(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.counters = Counters::default();
        state.zones = power::Zones::default();
        state.root_read_only = false;
        state.last = None;
        state.slow_written = None;
        let id = boot_id(&mut state.random);
        state.boot_id = id;
        state.files.remove_dir("sys/fs/cgroup")?;
        self.write_still(&mut state)?;
        self.write_moving(&mut state, &[])
    }

    fn write_still(&self, state: &mut State) -> io::Result<()> {
        procfs::still(&self.0.spec, state)?;
        cgroup::still(&self.0.spec, state)?;
        power::still(&self.0.spec, state)
    }

    fn write_moving(&self, state: &mut State, pods: &[PodUsage]) -> io::Result<()> {
        procfs::fast(&self.0.spec, state, pods)?;
        let uptime = state.counters.uptime;
        if state.slow_written.is_none_or(|at| uptime - at >= 1.0) {
            state.slow_written = Some(uptime);
            procfs::slow(&self.0.spec, state, pods)?;
        }
        power::moving(&self.0.spec, state)
    }
}

fn boot_id(random: &mut StdRng) -> String {
    let mut bytes = [0u8; 16];
    random.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(host: &SimulatedHost, file: &str) -> u64 {
        std::fs::read_to_string(host.root().join(file)).unwrap().trim().parse().unwrap()
    }

    fn cgroup_usage(host: &SimulatedHost, folder: &str) -> u64 {
        let text = std::fs::read_to_string(host.root().join("sys/fs/cgroup").join(folder).join("cpu.stat")).unwrap();
        text.lines().find_map(|l| l.strip_prefix("usage_usec ")).unwrap().trim().parse().unwrap()
    }

    fn busy_ticks(host: &SimulatedHost) -> u64 {
        let text = std::fs::read_to_string(host.root().join("proc/stat")).unwrap();
        let fields: Vec<u64> =
            text.lines().next().unwrap().split_whitespace().skip(1).map(|f| f.parse().unwrap()).collect();
        fields[0] + fields[1] + fields[2] + fields[6]
    }

    fn pod(uid: &str, cores: f64) -> PodUsage {
        PodUsage {
            uid: uid.into(),
            qos: "Burstable".into(),
            container_id: "c".repeat(64),
            cpu_cores: cores,
            memory_bytes: 1 << 20,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn energy_and_cpu_time_are_integrals_and_pods_are_part_of_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let spec = HostSpec { powercap: true, wall_sensor: true, ..HostSpec::server("n1") };
        let curve = spec.power.clone();
        let host = SimulatedHost::create(dir.path(), spec).unwrap();
        let start = Instant::now();
        host.tick(start, 2.0, &[]).unwrap();
        for step in 1..=50u32 {
            host.tick(start + Duration::from_millis(200) * step, 2.0, &[pod("u-1", 6.0)]).unwrap();
        }
        let seconds = 10.0;
        let expected = curve.watts(8.0 / 32.0) * seconds * 1e6;
        assert!((host.wall_microjoules() as f64 - expected).abs() < 1e4, "{} {expected}", host.wall_microjoules());
        let package = number(&host, "sys/class/powercap/intel-rapl:0/energy_uj")
            + number(&host, "sys/class/powercap/intel-rapl:1/energy_uj");
        assert!((package as f64) < expected && package > 0, "RAPL sees only a part of the wall");
        let pods = cgroup_usage(&host, "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice");
        assert!((pods as f64 / 1e6 - 60.0).abs() < 0.01, "{pods}");
        assert_eq!(pods, cgroup_usage(&host, "kubepods.slice"));
        let node = cgroup_usage(&host, "");
        assert!((node as f64 / 1e6 - 80.0).abs() < 0.01, "{node}");
        assert!(busy_ticks(&host).abs_diff(8_000) <= 64, "{}", busy_ticks(&host));
    }

    #[tokio::test(start_paused = true)]
    async fn pods_never_use_more_than_the_node_has() {
        let dir = tempfile::tempdir().unwrap();
        let host = SimulatedHost::create(dir.path(), HostSpec::server("n1")).unwrap();
        let start = Instant::now();
        host.tick(start, 0.0, &[]).unwrap();
        host.tick(start + Duration::from_secs(1), 8.0, &[pod("a", 100.0), pod("b", 20.0)]).unwrap();
        let node = cgroup_usage(&host, "");
        assert_eq!(node, 32_000_000);
        assert!(cgroup_usage(&host, "kubepods.slice") <= 24_000_000);
    }

    #[test]
    fn the_kernel_log_has_records_and_a_reboot_starts_it_anew() {
        let dir = tempfile::tempdir().unwrap();
        let host = SimulatedHost::create(dir.path(), HostSpec::server("n1")).unwrap();
        let before = host.boot_id();
        host.kernel_log(3, "EXT4-fs error").unwrap();
        host.kernel_log(6, "second").unwrap();
        let text = std::fs::read_to_string(dir.path().join("dev/kmsg")).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("6,") && last.ends_with(";second"), "{last}");
        host.reboot().unwrap();
        assert_ne!(host.boot_id(), before);
        let text = std::fs::read_to_string(dir.path().join("dev/kmsg")).unwrap();
        assert!(!text.contains("second"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_gone_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let host = SimulatedHost::create(dir.path(), HostSpec::server("n1")).unwrap();
        host.tick(Instant::now(), 0.1, &[pod("a-b", 0.1)]).unwrap();
        let folder =
            dir.path().join("sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice");
        assert!(folder.join(format!("cri-containerd-{}.scope/cpu.stat", "c".repeat(64))).exists());
        host.tick(Instant::now(), 0.1, &[]).unwrap();
        assert!(!folder.exists());
    }
}
