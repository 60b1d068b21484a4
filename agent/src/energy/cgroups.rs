//! CPU time of pods, from their cgroups: version 1 and 2, systemd and cgroupfs layouts, whatever the runtime.
//!
//! The pod's UID is in the path; nothing here asks the kubelet. What a pod used before it ended between two readings is
//! lost to the rest of the node, never to another pod.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::host::{Root, read_bounded};

/// Levels below the cgroup root at which a pod may be: kubelet slice, kubepods, QoS class, pod.
const MAX_DEPTH: usize = 5;
/// Pods that are looked at; the kubelet's own limit is 110 unless raised.
const MAX_PODS: usize = 2_000;

/// Reads the CPU time of pods.
#[derive(Debug)]
pub struct PodCpu {
    hierarchy: PathBuf,
    version: Version,
    last: HashMap<String, u64>,
    started: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl PodCpu {
    /// Finds the hierarchy that counts CPU time.
    ///
    /// # Errors
    /// When neither version is mounted below the root.
    pub fn discover(root: &Root) -> io::Result<Self> {
        let base = root.join("sys/fs/cgroup");
        let candidates = [
            (base.clone(), Version::Two, "cgroup.controllers"),
            (base.join("cpu,cpuacct"), Version::One, "cpuacct.usage"),
            (base.join("cpuacct"), Version::One, "cpuacct.usage"),
            (base.join("cpuacct,cpu"), Version::One, "cpuacct.usage"),
            (base.join("unified"), Version::Two, "cgroup.controllers"),
        ];
        let found = candidates.into_iter().find(|(path, _, proof)| path.join(proof).exists() || has_kubepods(path));
        let Some((hierarchy, version, _)) = found else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy that counts CPU time"));
        };
        Ok(Self { hierarchy, version, last: HashMap::new(), started: false })
    }

    /// CPU time of each pod since the last call, microseconds, by UID. A pod that is new since then counts from its
    /// beginning; at the first call nobody used anything.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    pub fn advance(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut usage = HashMap::new();
        walk(&self.hierarchy, 0, self.version, &mut usage)?;
        let mut used: Vec<(String, u64)> = usage
            .iter()
            .map(|(uid, now)| {
                let delta = match self.last.get(uid) {
                    Some(before) => now.saturating_sub(*before),
                    None if self.started => *now,
                    None => 0,
                };
                (uid.clone(), delta)
            })
            .collect();
        used.sort();
        self.last = usage;
        self.started = true;
        Ok(used)
    }
}

fn has_kubepods(path: &Path) -> bool {
    ["kubepods", "kubepods.slice"].iter().any(|name| path.join(name).is_dir())
}

fn walk(directory: &Path, depth: usize, version: Version, usage: &mut HashMap<String, u64>) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if let Some(uid) = pod_uid(&name) {
            if usage.len() < MAX_PODS
                && let Some(used) = usage_of(&path, version)
            {
                usage.insert(uid, used);
            }
        } else if depth < MAX_DEPTH && leads_to_pods(&name) && path.is_dir() {
            // A slice that vanishes while it is read had no pods worth a failure.
            let _ = walk(&path, depth + 1, version, usage);
        }
    }
    Ok(())
}

/// Slices on the way to pods: the kubelet's, and those that nested clusters and users put above it.
fn leads_to_pods(name: &str) -> bool {
    [
        "kubepods",
        "kubelet",
        "besteffort",
        "burstable",
        "guaranteed",
        "k8s",
        "kube.slice",
        "docker",
        "system.slice",
        "machine.slice",
    ]
    .iter()
    .any(|part| name.contains(part))
}

/// UID in the name of a pod's cgroup: `pod<uid>` or `kubepods-burstable-pod<uid with _>.slice`.
pub fn pod_uid(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let at = name.rfind("pod")?;
    let before = &name[..at];
    if !(before.is_empty() || before.ends_with('-')) {
        return None;
    }
    let uid = name[at + 3..].replace('_', "-");
    let plain: String = uid.chars().filter(|c| *c != '-').collect();
    let hexadecimal = plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit());
    // Static pods have the hash of their manifest for a UID.
    let dashes = uid.len() - plain.len();
    (hexadecimal && (dashes == 4 || dashes == 0)).then_some(uid)
}

fn usage_of(pod: &Path, version: Version) -> Option<u64> {
    read_usage(pod, version).or_else(|| {
        let containers = fs::read_dir(pod).ok()?.flatten().filter(|entry| entry.path().is_dir());
        containers.filter_map(|entry| read_usage(&entry.path(), version)).reduce(u64::saturating_add)
    })
}

fn read_usage(cgroup: &Path, version: Version) -> Option<u64> {
    match version {
        Version::Two => {
            let stat = read_bounded(&cgroup.join("cpu.stat")).ok()?;
            stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
        }
        Version::One => {
            let nanoseconds: u64 = read_bounded(&cgroup.join("cpuacct.usage")).ok()?.trim().parse().ok()?;
            Some(nanoseconds / 1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join("sys/fs/cgroup").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_uid_is_read_from_every_layout() {
        for name in [
            "pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b",
            "kubepods-besteffort-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice",
            "kubepods-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice",
            "kubelet-kubepods-burstable-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice",
        ] {
            assert_eq!(pod_uid(name).as_deref(), Some(UID), "{name}");
        }
        assert_eq!(pod_uid("pod0123456789abcdef0123456789abcdef").unwrap().len(), 32);
        for name in ["kubepods", "kubepods.slice", "podman", "pod", "libpod-123", "poddle-8d1f4a52"] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn version_two_is_read_at_the_pod_or_its_containers() {
        let directory = tempfile::tempdir().unwrap();
        let pod = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice";
        write(directory.path(), "cgroup.controllers", "cpu memory\n");
        write(directory.path(), &format!("{pod}/cri-containerd-a.scope/cpu.stat"), "usage_usec 100\nuser_usec 1\n");
        write(directory.path(), &format!("{pod}/cri-containerd-b.scope/cpu.stat"), "usage_usec 50\n");
        let mut pods = PodCpu::discover(&Root::new(directory.path())).unwrap();
        assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 0)]);
        write(directory.path(), &format!("{pod}/cpu.stat"), "usage_usec 450\n");
        assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 300)]);
    }

    #[test]
    fn version_one_is_read_and_a_new_pod_counts_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "cpu,cpuacct/cpuacct.usage", "1\n");
        let mut pods = PodCpu::discover(&Root::new(directory.path())).unwrap();
        assert!(pods.advance().unwrap().is_empty());
        write(directory.path(), &format!("cpu,cpuacct/kubepods/burstable/pod{UID}/cpuacct.usage"), "7000000\n");
        assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 7000)]);
        fs::remove_dir_all(directory.path().join("sys/fs/cgroup/cpu,cpuacct/kubepods")).unwrap();
        assert!(pods.advance().unwrap().is_empty());
    }
}
