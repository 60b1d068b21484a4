//! CPU time of pods, from their cgroups: version 1 and 2, systemd and cgroupfs layouts, whatever the runtime.
//!
//! The pod's UID is in the path; nothing here asks the kubelet. What a pod used before it ended between two readings is
//! lost to the rest of the node, never to another pod. A pod inside of a pod belongs to the outer one.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use crate::host::{Root, read_bounded};

/// Levels below the cgroup root that are searched for the kubelet's folders: nested clusters have containers above them.
const MAX_DEPTH: usize = 8;
/// Folders that one search looks at; the rest of a host outside of pods has a few hundred.
const MAX_FOLDERS: usize = 20_000;
/// Levels inside of the kubelet's folder: QoS class, pod.
const CLASS_DEPTH: usize = 2;
/// Pods that are looked at; the kubelet's own limit is 110 unless raised.
const MAX_PODS: usize = 2_000;
/// Readings between two searches for folders of kubelets.
const SEARCH_EVERY: u32 = 30;

/// Reads the CPU time of pods.
#[derive(Debug)]
pub struct PodCpu {
    hierarchy: PathBuf,
    version: Version,
    /// Folders of kubelets, and whether their pods were read before.
    folders: BTreeMap<PathBuf, bool>,
    last: HashMap<PathBuf, u64>,
    readings: u32,
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
        Ok(Self { hierarchy, version, folders: BTreeMap::new(), last: HashMap::new(), readings: 0 })
    }

    /// CPU time of each pod since the last call, microseconds, by UID. A pod that is new since then counts from its
    /// beginning; when a kubelet's folder is read for the first time nobody in it used anything.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    pub fn advance(&mut self) -> io::Result<Vec<(String, u64)>> {
        if self.folders.is_empty() || self.readings.is_multiple_of(SEARCH_EVERY) {
            self.search()?;
        }
        self.readings = self.readings.wrapping_add(1);
        let mut pods: BTreeMap<String, u64> = BTreeMap::new();
        let mut last = HashMap::with_capacity(self.last.len() + 16);
        for (folder, known) in &mut self.folders {
            let mut usage = Vec::new();
            walk(folder, 0, self.version, &mut usage);
            for (uid, path, now) in usage {
                let used = match self.last.get(&path) {
                    Some(before) => now.saturating_sub(*before),
                    None if *known => now,
                    None => 0,
                };
                if pods.len() < MAX_PODS || pods.contains_key(&uid) {
                    let sum = pods.entry(uid).or_default();
                    *sum = sum.saturating_add(used);
                    last.insert(path, now);
                }
            }
            *known = true;
        }
        self.last = last;
        Ok(pods.into_iter().collect())
    }

    /// Looks for folders of kubelets: there is one, or as many as there are nested clusters.
    fn search(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        let mut left = MAX_FOLDERS;
        find_folders(&self.hierarchy, 0, &mut left, &mut found)?;
        self.folders.retain(|folder, _| found.contains(folder));
        for folder in found {
            self.folders.entry(folder).or_insert(false);
        }
        Ok(())
    }
}

fn has_kubepods(path: &Path) -> bool {
    ["kubepods", "kubepods.slice"].iter().any(|name| path.join(name).is_dir())
}

/// Collects folders in which pods are: the kubelet's own, and any other one that holds pods at once, which happens where
/// kubelet and runtime disagree about the cgroup driver.
fn find_folders(directory: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // In a recorded tree links may lead anywhere, in a cgroup there are none.
        if *left == 0 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        *left -= 1;
        let path = entry.path();
        if name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice") {
            found.push(path);
        } else if pod_uid(&name).is_some() {
            if found.last().map(PathBuf::as_path) != Some(directory) {
                found.push(directory.to_owned());
            }
        } else if depth < MAX_DEPTH {
            // A folder that vanishes while it is read had no pods worth a failure.
            let _ = find_folders(&path, depth + 1, left, found);
        }
    }
    Ok(())
}

fn walk(directory: &Path, depth: usize, version: Version, usage: &mut Vec<(String, PathBuf, u64)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some(uid) = pod_uid(&name) {
            let path = entry.path();
            match read_usage(&path, version) {
                Some(used) => usage.push((uid, path, used)),
                // The pod's own folder counts nothing: those of its containers do.
                None => {
                    for container in fs::read_dir(&path).into_iter().flatten().flatten() {
                        if let Some(used) = read_usage(&container.path(), version) {
                            usage.push((uid.clone(), container.path(), used));
                        }
                    }
                }
            }
        } else if depth < CLASS_DEPTH && is_class(&name) {
            walk(&entry.path(), depth + 1, version, usage);
        }
    }
}

/// Folders of QoS classes; guaranteed pods are beside them, or in one of their own.
fn is_class(name: &str) -> bool {
    ["besteffort", "burstable", "guaranteed"].iter().any(|class| name.contains(class))
}

/// UID of the outermost pod in a cgroup's path.
pub fn pod_of_path(path: &str) -> Option<String> {
    path.split('/').find_map(pod_uid)
}

/// UID in the name of a pod's cgroup: `pod<uid>`, `kubepods-burstable-pod<uid with _>.slice`, or the latter with the
/// runtime and the container behind colons.
pub fn pod_uid(name: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or(name);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let at = name.rfind("pod")?;
    let before = &name[..at];
    if !(before.is_empty() || before.ends_with('-')) {
        return None;
    }
    let uid = name[at + 3..].replace('_', "-");
    let plain = uid.bytes().filter(|b| *b != b'-').count();
    let hexadecimal = plain == 32 && uid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    // Static pods have the hash of their manifest for a UID.
    let dashes = uid.len() - plain;
    (hexadecimal && (dashes == 4 || dashes == 0)).then_some(uid)
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
        write(directory.path(), &format!("{pod}/cri-containerd-a.scope/cpu.stat"), "usage_usec 350\n");
        write(directory.path(), &format!("{pod}/cri-containerd-c.scope/cpu.stat"), "usage_usec 50\n");
        assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 300)]);
    }

    #[test]
    fn version_one_is_read_and_a_new_pod_counts_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "cpu,cpuacct/kubepods/cpuacct.usage", "1\n");
        let mut pods = PodCpu::discover(&Root::new(directory.path())).unwrap();
        assert!(pods.advance().unwrap().is_empty());
        write(directory.path(), &format!("cpu,cpuacct/kubepods/burstable/pod{UID}/cpuacct.usage"), "7000000\n");
        assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 7000)]);
        fs::remove_dir_all(directory.path().join("sys/fs/cgroup/cpu,cpuacct/kubepods")).unwrap();
        assert!(pods.advance().unwrap().is_empty());
    }

    /// The same pod in the layouts of all runtimes and drivers, below the hierarchy, with its container.
    const LAYOUTS: [&str; 17] = [
        // cgroupfs: containerd, CRI-O, dockershim, microk8s; burstable, best effort, guaranteed.
        "kubepods/burstable/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/4f1e9",
        "kubepods/besteffort/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/crio-4f1e9",
        "kubepods/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/4f1e9",
        // systemd: containerd, CRI-O, docker.
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-4f1e9.scope",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/crio-4f1e9.scope",
        "kubepods.slice/kubepods-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/docker-4f1e9.scope",
        // Kubelets below another folder: kind seen from inside of its node.
        "kubelet/kubepods/burstable/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/4f1e9",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-4f1e9.scope",
        // kind, k3d and minikube seen from the host: docker and podman, both drivers.
        "docker/0a1b2c3d/kubelet/kubepods/burstable/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/4f1e9",
        "system.slice/docker-0a1b2c3d.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-4f1e9.scope",
        "machine.slice/libpod-0a1b2c3d.scope/container/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/crio-4f1e9.scope",
        // k3s: as a service, and without root.
        "k3s/kubepods/burstable/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/4f1e9",
        "user.slice/user-1000.slice/user@1000.service/k3s-rootless.service/kubepods/besteffort/pod8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b/4f1e9",
        // In a system container.
        "lxc.payload.node1/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-4f1e9.scope",
        // Kubelet by systemd, containerd by cgroupfs.
        "system.slice/containerd.service/kubepods-burstable-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice:cri-containerd:4f1e9",
        "system.slice/kubepods-besteffort-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice:cri-containerd:4f1e9",
        // A folder above that an administrator chose (--cgroup-root).
        "workload.slice/workload-kubepods.slice/workload-kubepods-burstable.slice/workload-kubepods-burstable-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-4f1e9.scope",
    ];

    #[test]
    fn pods_are_found_in_the_layouts_of_all_runtimes_on_both_versions() {
        for layout in LAYOUTS {
            for (version, prefix, file) in [(2, "", "cpu.stat"), (1, "cpu,cpuacct/", "cpuacct.usage")] {
                let directory = tempfile::tempdir().unwrap();
                let value =
                    |us: u64| if version == 2 { format!("usage_usec {us}\n") } else { format!("{}\n", us * 1000) };
                write(
                    directory.path(),
                    if version == 2 { "cgroup.controllers" } else { "cpu,cpuacct/cpuacct.usage" },
                    "1\n",
                );
                let container = format!("{prefix}{layout}/{file}");
                write(directory.path(), &container, &value(10));
                // Counted at the pod, where it has a folder of its own, and not at the container again.
                let pod = match layout.rsplit_once('/') {
                    Some((pod, _)) if !layout.contains(':') => format!("{prefix}{pod}/{file}"),
                    _ => container.clone(),
                };
                write(directory.path(), &pod, &value(100));
                let mut pods = PodCpu::discover(&Root::new(directory.path())).unwrap();
                assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 0)], "{layout}, version {version}");
                write(directory.path(), &pod, &value(350));
                assert_eq!(pods.advance().unwrap(), [(UID.to_owned(), 250)], "{layout}, version {version}");
                assert_eq!(pod_of_path(layout).as_deref(), Some(UID), "{layout}");
            }
        }
    }

    #[test]
    fn a_kubelet_that_is_found_late_does_not_bring_its_past_along() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "cgroup.controllers", "cpu\n");
        write(directory.path(), "kubepods/pod0123456789abcdef0123456789abcdef/cpu.stat", "usage_usec 5\n");
        let mut pods = PodCpu::discover(&Root::new(directory.path())).unwrap();
        assert_eq!(pods.advance().unwrap().len(), 1);
        write(directory.path(), &format!("docker/0a1b/kubepods/pod{UID}/cpu.stat"), "usage_usec 9000000\n");
        for _ in 0..=SEARCH_EVERY {
            assert!(pods.advance().unwrap().iter().all(|(_, used)| *used == 0));
        }
        assert_eq!(pods.advance().unwrap().len(), 2);
        // One that starts in a known folder counts from its beginning.
        write(directory.path(), "kubepods/pod1123456789abcdef0123456789abcdef/cpu.stat", "usage_usec 7\n");
        let used: Vec<u64> = pods.advance().unwrap().into_iter().map(|(_, used)| used).collect();
        assert_eq!(used, [0, 7, 0]);
    }
}
