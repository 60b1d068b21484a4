//! Which pod a process of the host belongs to, from its cgroup; for work that is told per process.

use std::collections::HashMap;

use super::cgroups::pod_of_path;
use crate::host::Root;

/// Processes that are remembered; more than that use no accelerator of one host.
const MAX_KNOWN: usize = 4_096;

/// Pods of processes.
#[derive(Debug)]
pub struct Processes {
    root: Root,
    /// Pod by process, and whether it was asked for since the last tidying.
    known: HashMap<u32, (Option<String>, bool)>,
}

impl Processes {
    /// Processes of a host.
    pub fn new(root: Root) -> Self {
        Self { root, known: HashMap::new() }
    }

    /// UID of the pod that a process belongs to; `None` for the system's own and for those that are gone.
    pub fn pod_of(&mut self, pid: u32) -> Option<&str> {
        if !self.known.contains_key(&pid) {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            let pod = self.root.read(format!("proc/{pid}/cgroup")).ok().and_then(|text| pod_of_text(&text));
            self.known.insert(pid, (pod, true));
        }
        let (pod, asked) = self.known.get_mut(&pid)?;
        *asked = true;
        pod.as_deref()
    }

    /// Forgets processes that nobody asked for since the last call: their numbers are given to others.
    pub fn tidy(&mut self) {
        self.known.retain(|_, (_, asked)| std::mem::replace(asked, false));
    }
}

/// The pod in /proc/PID/cgroup: one line `N:controllers:path` a hierarchy.
fn pod_of_text(text: &str) -> Option<String> {
    text.lines().find_map(|line| pod_of_path(line.splitn(3, ':').nth(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b";

    #[test]
    fn the_pod_of_a_process_is_read_from_both_versions_and_from_inside_of_a_container() {
        let directory = tempfile::tempdir().unwrap();
        let write = |pid: u32, text: &str| {
            std::fs::create_dir_all(directory.path().join(format!("proc/{pid}"))).unwrap();
            std::fs::write(directory.path().join(format!("proc/{pid}/cgroup")), text).unwrap();
        };
        write(7, &format!("12:cpu,cpuacct:/kubepods/burstable/pod{UID}/4f1e\n0::/\n"));
        write(8, "0::/kubepods.slice/kubepods-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-ab.scope\n");
        write(9, "0::/../../kubepods-pod8d1f4a52_0c3e_4f5b_9a55_1c2d3e4f5a6b.slice/cri-containerd-ab.scope\n");
        write(10, "0::/system.slice/sshd.service\n");
        let mut processes = Processes::new(Root::new(directory.path()));
        for pid in [7, 8, 9] {
            assert_eq!(processes.pod_of(pid), Some(UID), "{pid}");
        }
        assert_eq!(processes.pod_of(10), None);
        assert_eq!(processes.pod_of(11), None);
        processes.tidy();
        write(7, "0::/system.slice\n");
        assert_eq!(processes.pod_of(7), Some(UID), "remembered");
        processes.tidy();
        processes.tidy();
        assert_eq!(processes.pod_of(7), None, "the number belongs to another process by now");
    }
}
