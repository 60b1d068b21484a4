//! The files below proc/, and dev/kmsg.

use std::fmt::Write as _;
use std::io;

use super::{HostSpec, PodUsage, State};

/// Clock ticks a second, as every Linux shows CPU time.
const HZ: f64 = 100.0;
/// Processes of the system outside pods.
const SYSTEM_PROCESSES: usize = 180;

pub(super) fn still(spec: &HostSpec, state: &mut State) -> io::Result<()> {
    let files = &mut state.files;
    let mut cpuinfo = String::new();
    for cpu in 0..spec.threads {
        let _ = write!(
            cpuinfo,
            "processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Intel(R) Xeon(R) Gold 6346 CPU @ 3.10GHz\n\
             stepping\t: 6\ncpu MHz\t\t: 3100.000\nphysical id\t: {}\nsiblings\t: {}\ncore id\t\t: {}\ncpu cores\t: {}\n\n",
            cpu % 2,
            spec.threads / 2,
            cpu / 4,
            (spec.threads / 4).max(1)
        );
    }
    files.write("proc/cpuinfo", &cpuinfo)?;
    files.write("proc/version", "Linux version 6.6.0-twin (twin@evergreen) #1 SMP\n")?;
    files.write("proc/sys/kernel/osrelease", "6.6.0-twin\n")?;
    files.write("proc/sys/kernel/ostype", "Linux\n")?;
    files.write("proc/sys/kernel/hostname", &format!("{}\n", spec.hostname))?;
    files.write("proc/sys/kernel/pid_max", "4194304\n")?;
    files.write("proc/sys/kernel/threads-max", "513934\n")?;
    files.write("proc/sys/kernel/random/boot_id", &format!("{}\n", state.boot_id))?;
    files.write("proc/sys/fs/file-nr", "2048\t0\t9223372036854775807\n")?;
    files.write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n")?;
    files.write("proc/sys/net/netfilter/nf_conntrack_count", "312\n")?;
    files.write("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro\n")?;
    files.write("proc/mdstat", "Personalities : \nunused devices: <none>\n")?;
    files.write("proc/modules", "")?;
    files.write("etc/hostname", &format!("{}\n", spec.hostname))?;
    files.write("sys/block/vda/size", "419430400\n")?;
    files.write("sys/class/net/eth0/operstate", "up\n")?;
    files.write("sys/class/net/eth0/carrier", "1\n")?;
    files.write("sys/class/net/eth0/carrier_changes", "1\n")?;
    files.empty("dev/kmsg")?;
    files.append("dev/kmsg", "5,0,0,-;Linux version 6.6.0-twin (twin@evergreen) #1 SMP\n")?;
    state.counters.kmsg_sequence = 1;
    mounts(state)
}

pub(super) fn mounts(state: &mut State) -> io::Result<()> {
    let mode = if state.root_read_only { "ro" } else { "rw" };
    let text = format!(
        "/dev/vda1 / ext4 {mode},relatime,errors=remount-ro 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n\
         sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0\n"
    );
    for path in ["proc/mounts", "proc/self/mounts", "proc/1/mounts"] {
        state.files.write(path, &text)?;
    }
    Ok(())
}

/// Processes there are: the system's, and two a pod.
fn processes(pods: &[PodUsage]) -> usize {
    SYSTEM_PROCESSES + pods.len() * 2
}

/// The files with the counters that rates are made of.
pub(super) fn fast(spec: &HostSpec, state: &mut State, pods: &[PodUsage]) -> io::Result<()> {
    let threads = f64::from(spec.threads);
    let c = &state.counters;
    // Of busy time 70 % user, 25 % system, 5 % soft interrupts; the same on every thread.
    let line = |name: &str, busy: f64, all: f64| {
        let ticks = |seconds: f64| (seconds * HZ) as u64;
        let idle = (all - busy).max(0.0);
        format!(
            "{name} {} 0 {} {} {} 0 {} 0 0 0\n",
            ticks(busy * 0.70),
            ticks(busy * 0.25),
            ticks(idle * 0.998),
            ticks(idle * 0.002),
            ticks(busy * 0.05)
        )
    };
    let mut stat = line("cpu ", c.busy_seconds, c.uptime * threads);
    for cpu in 0..spec.threads {
        stat.push_str(&line(&format!("cpu{cpu}"), c.busy_seconds / threads, c.uptime));
    }
    let processes = processes(pods);
    let running = (state.utilisation * threads).ceil() as u64;
    let _ = write!(
        stat,
        "intr {0}\nctxt {1}\nbtime 1700000000\nprocesses {2}\nprocs_running {running}\nprocs_blocked 0\n",
        c.requests * 3,
        c.requests * 5,
        processes as u64 + c.requests / 50
    );
    state.files.write("proc/stat", &stat)?;
    state
        .files
        .write("proc/uptime", &format!("{:.2} {:.2}\n", c.uptime, (c.uptime * threads - c.busy_seconds).max(0.0)))?;
    Ok(())
}

/// All other files that move.
pub(super) fn slow(spec: &HostSpec, state: &mut State, pods: &[PodUsage]) -> io::Result<()> {
    let c = &state.counters;
    let processes = processes(pods);
    let running = ((state.utilisation * f64::from(spec.threads)).ceil() as u64).max(1);
    let [one, five, fifteen] = c.load_average;
    state.files.write(
        "proc/loadavg",
        &format!("{one:.2} {five:.2} {fifteen:.2} {}/{} {}\n", running, processes * 3, 4000 + processes),
    )?;

    let used = (spec.memory_bytes / 16 + pods.iter().map(|p| p.memory_bytes).sum::<u64>()).min(spec.memory_bytes);
    let cached = ((spec.memory_bytes - used) / 5) / 1024;
    let (total, free) = (spec.memory_bytes / 1024, (spec.memory_bytes - used) / 1024 - cached);
    state.counters.memory_used = used;
    let c = &state.counters;
    let mut meminfo = String::new();
    for (name, kib) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free + cached),
        ("Buffers", cached / 10),
        ("Cached", cached - cached / 10),
        ("SwapCached", 0),
        ("Active", used / 2048),
        ("Inactive", cached / 2),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 64),
        ("Writeback", 0),
        ("AnonPages", used / 2048),
        ("Mapped", 65_536),
        ("Shmem", 4096),
        ("KReclaimable", cached / 20),
        ("Slab", 131_072),
        ("SReclaimable", cached / 20),
        ("SUnreclaim", 65_536),
        ("CommitLimit", total / 2),
        ("Committed_AS", used / 1024),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 65_536),
        ("VmallocChunk", 0),
        ("HugePages_Total", 0),
        ("HugePages_Free", 0),
        ("Hugepagesize", 2048),
    ] {
        let unit = if name.starts_with("HugePages_") { "" } else { " kB" };
        let _ = writeln!(meminfo, "{:<15} {kib:>8}{unit}", format!("{name}:"));
    }
    state.files.write("proc/meminfo", &meminfo)?;
    let io = c.requests;
    state.files.write(
        "proc/vmstat",
        &format!(
            "nr_free_pages {}\npgpgin {}\npgpgout {}\npswpin 0\npswpout 0\npgfault {}\npgmajfault {}\noom_kill 0\nallocstall_normal 0\n",
            free / 4, io * 8, io * 16, io * 40, io / 100
        ),
    )?;
    state.files.write(
        "proc/diskstats",
        &format!(
            " 253       0 vda {} 0 {} {} {} 0 {} {} 0 {} {}\n",
            io / 4,
            io * 2,
            io / 8,
            io / 2,
            io * 4,
            io / 4,
            io / 6,
            io / 3
        ),
    )?;
    let (rx, tx) = (c.requests * 900, c.requests * 1400);
    state.files.write(
        "proc/net/dev",
        &format!(
            "Inter-|   Receive                                                |  Transmit\n\
             \x20face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
             \x20   lo: {0} {1} 0 0 0 0 0 0 {0} {1} 0 0 0 0 0 0\n  eth0: {rx} {1} 0 0 0 0 0 0 {tx} {2} 0 0 0 0 0 0\n",
            rx / 10, c.requests * 2, c.requests * 2
        ),
    )?;
    let pressure = (state.utilisation - 0.7).max(0.0) * 100.0;
    let some = |percent: f64, total: f64| {
        format!("avg10={percent:.2} avg60={percent:.2} avg300={percent:.2} total={total:.0}")
    };
    let quiet = some(0.0, 0.0);
    let busy = some(pressure, c.pressure_total);
    state.files.write("proc/pressure/cpu", &format!("some {busy}\nfull {quiet}\n"))?;
    for resource in ["memory", "io"] {
        state.files.write(&format!("proc/pressure/{resource}"), &format!("some {quiet}\nfull {quiet}\n"))?;
    }
    Ok(())
}
