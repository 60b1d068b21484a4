//! The cgroup v2 tree: pods below kubepods.slice as kubelet and containerd name them, the rest in system.slice.

use std::io;

use super::{HostSpec, PodUsage, State};

const ROOT: &str = "sys/fs/cgroup";

/// Counters of a pod since it started.
#[derive(Debug)]
pub(super) struct PodCounters {
    folder: String,
    scope: String,
    cpu_seconds: f64,
    memory_bytes: u64,
}

pub(super) fn still(spec: &HostSpec, state: &mut State) -> io::Result<()> {
    state.files.write(&format!("{ROOT}/cgroup.controllers"), "cpuset cpu io memory hugetlb pids\n")?;
    state.files.write(&format!("{ROOT}/cgroup.subtree_control"), "cpuset cpu io memory pids\n")?;
    state.files.write(&format!("{ROOT}/kubepods.slice/memory.max"), &format!("{}\n", spec.memory_bytes))?;
    state.counters.pods.clear();
    write_totals(state)
}

/// Adds what was used and brings the pods' folders in line with the pods there are.
pub(super) fn advance(state: &mut State, pods: &[PodUsage], seconds: f64) -> io::Result<()> {
    let gone: Vec<String> =
        state.counters.pods.keys().filter(|uid| !pods.iter().any(|p| p.uid == **uid)).cloned().collect();
    for uid in gone {
        if let Some(counters) = state.counters.pods.remove(&uid) {
            state.files.remove_dir(&counters.folder)?;
        }
    }
    for pod in pods {
        let counters = state.counters.pods.entry(pod.uid.clone()).or_insert_with(|| PodCounters::new(pod));
        counters.cpu_seconds += pod.cpu_cores * seconds;
        counters.memory_bytes = pod.memory_bytes;
        let (folder, scope) = (counters.folder.clone(), counters.scope.clone());
        let (cpu, memory) = (counters.cpu_seconds, counters.memory_bytes);
        write_group(state, &folder, cpu, memory)?;
        write_group(state, &scope, cpu, memory)?;
    }
    write_totals(state)
}

impl PodCounters {
    fn new(pod: &PodUsage) -> Self {
        let uid = pod.uid.replace('-', "_");
        let folder = match pod.qos.as_str() {
            "Guaranteed" => format!("{ROOT}/kubepods.slice/kubepods-pod{uid}.slice"),
            "Burstable" => format!("{ROOT}/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"),
            _ => format!("{ROOT}/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice"),
        };
        let scope = format!("{folder}/cri-containerd-{}.scope", pod.container_id);
        PodCounters { folder, scope, cpu_seconds: 0.0, memory_bytes: 0 }
    }
}

/// The totals hold the past of pods that are gone, too.
fn write_totals(state: &mut State) -> io::Result<()> {
    let c = &state.counters;
    let (pods_seconds, system_seconds, all_seconds) = (c.pods_seconds, c.system_seconds, c.busy_seconds);
    let pods_memory: u64 = c.pods.values().map(|p| p.memory_bytes).sum();
    let system_memory = c.memory_used.saturating_sub(pods_memory);
    write_group(state, ROOT, all_seconds, pods_memory + system_memory)?;
    write_group(state, &format!("{ROOT}/kubepods.slice"), pods_seconds, pods_memory)?;
    write_group(state, &format!("{ROOT}/system.slice"), system_seconds, system_memory)
}

fn write_group(state: &mut State, folder: &str, cpu_seconds: f64, memory_bytes: u64) -> io::Result<()> {
    let usage = (cpu_seconds * 1e6).round() as u64;
    let user = usage * 7 / 10;
    state.files.write(
        &format!("{folder}/cpu.stat"),
        &format!(
            "usage_usec {usage}\nuser_usec {user}\nsystem_usec {}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            usage - user
        ),
    )?;
    state.files.write(&format!("{folder}/memory.current"), &format!("{memory_bytes}\n"))
}
