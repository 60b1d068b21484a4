//! What the kernel does to groups of processes that have too much of something: kills for memory, over the node and by
//! pod, and pods whose process ids run out. Control groups of both versions, systemd and cgroupfs layouts.

use std::io;

use super::{
    counters::{Counters, MINUTE_MS},
    source::{About, Findings, Look, Source, absent, not_understood},
};
use crate::sources::series::{Reading, SeriesName};

const BASE: &str = "sys/fs/cgroup";
/// Pods that are looked at; the kubelet's own limit is 110 unless raised.
const MAX_PODS: usize = 512;
/// Where the pods are, by the kubelet's drivers and layouts.
const PODS: [&str; 4] = ["kubepods.slice", "kubepods", "kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods"];
/// Levels below that at which pods are.
const MAX_DEPTH: usize = 2;

/// Kills and reclaim of the whole node.
pub struct Vmstat {
    kills: Counters,
}

impl Default for Vmstat {
    fn default() -> Self {
        Self { kills: Counters::new(10 * MINUTE_MS) }
    }
}

fn value_of(text: &str, wanted: &str) -> Option<u64> {
    text.lines().take(4096).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(wanted)).then(|| words.next()?.parse().ok()).flatten()
    })
}

impl Source for Vmstat {
    fn about(&self) -> &'static About {
        &About {
            name: "vmstat",
            reads: &["proc/vmstat"],
            measures: &["oom.kills"],
            series: &["vm.oom_kills", "vm.major_faults", "vm.stalled_allocations"],
            says: "processes that the kernel killed for lack of memory, whether or not the kernel log can be read",
            needs: "Linux 4.13 for the kills",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let text = look.text("proc/vmstat")?;
        let mut found = Findings::default();
        if let Some(kills) = value_of(&text, "oom_kill") {
            let added = self.kills.add("node", kills, look.now_ms);
            let says = format!("{added} processes were killed for lack of memory in the last 10 minutes");
            found.figure("oom.kills", "", added as f64, says);
            found.reading(Reading::counts(SeriesName::node("vm", "oom_kills"), kills));
        }
        if let Some(faults) = value_of(&text, "pgmajfault") {
            found.reading(Reading::counts(SeriesName::node("vm", "major_faults"), faults));
        }
        let stalls = ["allocstall_dma32", "allocstall_normal", "allocstall_movable", "allocstall"];
        let stalls: Vec<u64> = stalls.iter().filter_map(|name| value_of(&text, name)).collect();
        if !stalls.is_empty() {
            let stalls = stalls.into_iter().fold(0, u64::saturating_add);
            found.reading(Reading::counts(SeriesName::node("vm", "stalled_allocations"), stalls));
        }
        if found.readings.is_empty() { Err(not_understood("proc/vmstat")) } else { Ok(found) }
    }
}

/// Pods' groups.
pub struct Cgroups {
    kills: Counters,
    /// Kills in the group of all pods when its pods were looked at last.
    looked_at: Option<u64>,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self { kills: Counters::new(10 * MINUTE_MS), looked_at: None }
    }
}

/// Where one resource of groups is found, and in which version.
struct Hierarchy {
    memory: String,
    pids: String,
    version: u8,
}

impl Hierarchy {
    fn find(look: &Look<'_>) -> Option<Self> {
        if look.has(format!("{BASE}/cgroup.controllers")) {
            return Some(Self { memory: BASE.into(), pids: BASE.into(), version: 2 });
        }
        let memory = format!("{BASE}/memory");
        look.has(&memory).then(|| Self { memory, pids: format!("{BASE}/pids"), version: 1 })
    }

    fn kills(&self, look: &Look<'_>, group: &str) -> Option<u64> {
        let file = if self.version == 2 { "memory.events" } else { "memory.oom_control" };
        value_of(&look.text(&format!("{}/{group}/{file}", self.memory)).ok()?, "oom_kill")
    }
}

impl Source for Cgroups {
    fn about(&self) -> &'static About {
        &About {
            name: "pod-cgroups",
            reads: &[
                "version 2: sys/fs/cgroup/kubepods*/**/{memory.events,memory.current,memory.max,pids.current,pids.max}",
                "version 1: sys/fs/cgroup/{memory,pids}/kubepods*/**/{memory.oom_control,memory.usage_in_bytes,pids.*}",
            ],
            measures: &["cgroup.oom-kills", "cgroup.pids.used"],
            series: &["pods.memory_bytes", "pods.pids"],
            says: "pods in which processes were killed for lack of memory, or may start hardly any more",
            needs: "a kubelet; kills by pod under version 1 need Linux 4.13",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let hierarchy = Hierarchy::find(look).ok_or_else(|| absent("no control groups are mounted"))?;
        let all = PODS.into_iter().find(|path| look.has(format!("{}/{path}", hierarchy.memory)));
        let all = all.ok_or_else(|| {
            absent(&format!("no pods in the control groups (version {}): this host has no kubelet", hierarchy.version))
        })?;
        let mut found = Findings::default();
        let (usage, most) = match hierarchy.version {
            2 => ("memory.current", "memory.max"),
            _ => ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        };
        let read =
            |file: &str| look.word(format!("{}/{all}/{file}", hierarchy.memory)).and_then(|w| w.parse::<u64>().ok());
        if let Some(used) = read(usage) {
            let name = SeriesName::node("pods", "memory_bytes");
            // No limit is the word `max`, and in version 1 the largest number of pages.
            found.reading(match read(most).filter(|limit| *limit < 1 << 60) {
                Some(limit) => Reading::fills(name, used, limit),
                None => Reading::level(name, used as f64),
            });
        }
        let mut pods = Vec::new();
        walk(look, &hierarchy.pids, all, 0, &mut pods);
        let mut in_all = 0_u64;
        for pod in &pods {
            let number = |file: &str| look.word(format!("{}/{pod}/{file}", hierarchy.pids));
            let Some(count) = number("pids.current").and_then(|word| word.parse::<u64>().ok()) else { continue };
            in_all = in_all.saturating_add(count);
            let Some(limit) = number("pids.max").and_then(|word| word.parse::<u64>().ok()) else { continue };
            let share = if limit == 0 { 1.0 } else { count as f64 / limit as f64 };
            let name = pod_name(pod);
            found.figure("cgroup.pids.used", name, share, format!("pod {name}: {count} of {limit} tasks"));
        }
        if !pods.is_empty() {
            found.reading(Reading::level(SeriesName::node("pods", "pids"), in_all as f64));
        }
        self.kills(look, &hierarchy, all, &pods, &mut found);
        found.or_absent("the pods' control groups tell nothing")
    }
}

impl Cgroups {
    fn kills(&mut self, look: &Look<'_>, hierarchy: &Hierarchy, all: &str, pods: &[String], found: &mut Findings) {
        // In version 2 a group counts those below it too: as long as that number stands, no pod need be asked.
        let total = if hierarchy.version == 2 { hierarchy.kills(look, all) } else { None };
        let ask = total.is_none() || total != self.looked_at;
        self.looked_at = total;
        for pod in pods {
            let name = pod_name(pod);
            let added = if ask {
                let Some(kills) = hierarchy.kills(look, pod) else { continue };
                self.kills.add(name, kills, look.now_ms)
            } else {
                self.kills.again(name, look.now_ms)
            };
            let says = format!("pod {name}: {added} processes were killed for lack of memory in the last 10 minutes");
            found.figure("cgroup.oom-kills", name, added as f64, says);
        }
        self.kills.forget_before(look.now_ms.saturating_sub(20 * MINUTE_MS));
    }
}

/// Finds the pods' groups: their names have `pod` and an id in them.
fn walk(look: &Look<'_>, base: &str, at: &str, depth: usize, pods: &mut Vec<String>) {
    for name in look.list(format!("{base}/{at}")) {
        if pods.len() >= MAX_PODS {
            return;
        }
        let path = format!("{at}/{name}");
        // `pod<id>` by cgroupfs, `kubepods-burstable-pod<id>.slice` by systemd, which has underscores in the id.
        let bare = name.trim_end_matches(".slice");
        let last = if bare.starts_with("pod") { bare } else { bare.rsplit('-').next().unwrap_or_default() };
        if last.strip_prefix("pod").is_some_and(|id| id.len() >= 32) {
            pods.push(path);
        } else if depth < MAX_DEPTH && (name.contains("besteffort") || name.contains("burstable")) {
            walk(look, base, &path, depth + 1, pods);
        }
    }
}

/// A pod's id in its group's name, with underscores where systemd allows no dashes.
fn pod_name(path: &str) -> &str {
    let last = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".slice");
    last.rsplit_once("pod").map_or(last, |(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{Host, value};

    const POD: &str = "pod11111111_2222_3333_4444_555555555555";

    #[test]
    fn kills_and_ids_of_pods_are_read_under_version_two() {
        let all = "sys/fs/cgroup/kubepods.slice";
        let pod = format!("{all}/kubepods-burstable.slice/kubepods-burstable-{POD}.slice");
        let mut host = Host::of(&[
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
            (&format!("{all}/memory.events"), "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"),
            (&format!("{all}/memory.current"), "1048576\n"),
            (&format!("{all}/memory.max"), "max\n"),
            (&format!("{pod}/memory.events"), "low 0\noom 0\noom_kill 0\n"),
            (&format!("{pod}/pids.current"), "95\n"),
            (&format!("{pod}/pids.max"), "100\n"),
        ]);
        let mut source = Cgroups::default();
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "cgroup.pids.used"), value(&found, "cgroup.oom-kills")), (0.95, 0.0));
        assert_eq!(found.readings[0].limit, None);
        host.put(&format!("{pod}/memory.events"), "low 0\noom 3\noom_kill 3\n");
        host.now_ms = 10_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "cgroup.oom-kills"), 0.0, "the group above did not count");
        host.put(&format!("{all}/memory.events"), "oom 3\noom_kill 3\n");
        host.now_ms = 20_000;
        let found = host.read(&mut source).unwrap();
        assert_eq!(value(&found, "cgroup.oom-kills"), 3.0);
        assert!(found.figures.last().unwrap().says.starts_with("pod 11111111_2222"), "{:?}", found.figures);
        host.now_ms = 700_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "cgroup.oom-kills"), 0.0);
    }

    #[test]
    fn kills_and_ids_of_pods_are_read_under_version_one() {
        let pod = "kubepods/besteffort/pod11111111-2222-3333-4444-555555555555";
        let mut host = Host::of(&[
            ("sys/fs/cgroup/memory/kubepods/memory.usage_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/kubepods/memory.limit_in_bytes", "9223372036854771712\n"),
            (
                &format!("sys/fs/cgroup/memory/{pod}/memory.oom_control"),
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            (&format!("sys/fs/cgroup/pids/{pod}/pids.current"), "3\n"),
            (&format!("sys/fs/cgroup/pids/{pod}/pids.max"), "max\n"),
        ]);
        let mut source = Cgroups::default();
        host.read(&mut source).unwrap();
        host.put(&format!("sys/fs/cgroup/memory/{pod}/memory.oom_control"), "under_oom 0\noom_kill 2\n");
        host.now_ms = 1000;
        let found = host.read(&mut source).unwrap();
        assert_eq!(value(&found, "cgroup.oom-kills"), 1.0);
        assert!(found.figures.iter().all(|figure| figure.measure != "cgroup.pids.used"));
        assert_eq!(found.readings.last().unwrap().value, 3.0);
    }

    #[test]
    fn hosts_without_groups_or_pods_give_reasons() {
        assert!(Host::of(&[]).read(&mut Cgroups::default()).unwrap_err().to_string().contains("mounted"));
        let host = Host::of(&[("sys/fs/cgroup/cgroup.controllers", "")]);
        assert!(host.read(&mut Cgroups::default()).unwrap_err().to_string().contains("version 2"));
    }

    #[test]
    fn kills_of_the_node_are_counted_and_an_older_kernel_has_none() {
        let mut host =
            Host::of(&[("proc/vmstat", "pgmajfault 10\nallocstall_normal 4\nallocstall_movable 5\noom_kill 7\n")]);
        let mut source = Vmstat::default();
        host.read(&mut source).unwrap();
        host.put("proc/vmstat", "pgmajfault 10\noom_kill 9\n");
        host.now_ms = 1;
        assert_eq!(value(&host.read(&mut source).unwrap(), "oom.kills"), 2.0);
        host.put("proc/vmstat", "pgmajfault 10\n");
        assert!(host.read(&mut source).unwrap().figures.is_empty());
        host.put("proc/vmstat", "pgmajfault -3\noom_kill x");
        assert!(host.read(&mut source).is_err());
    }
}
