//! Memory traffic of pods, where the kernel counts it for them (resctrl monitoring groups). Where nobody made such
//! groups, memory energy is divided by CPU time like the rest.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::{cgroups::pod_uid, processes::Processes};
use crate::host::{Root, read_bounded, read_number};

/// Groups that are read at most: processors have a few hundred monitoring numbers.
const MAX_GROUPS: usize = 512;

/// Reads the traffic.
#[derive(Debug)]
pub struct MemoryTraffic {
    folder: PathBuf,
    last: HashMap<PathBuf, u64>,
}

/// Traffic since the last look, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By pod UID.
    pub pods: HashMap<String, u64>,
    /// Of everything that has no group of its own.
    pub others: u64,
}

impl MemoryTraffic {
    /// The host's groups, where resctrl is mounted and somebody made a group.
    pub fn discover(root: &Root) -> Option<Self> {
        let folder = root.join("sys/fs/resctrl");
        let traffic = Self { folder, last: HashMap::new() };
        (!traffic.groups().is_empty()).then_some(traffic)
    }

    fn groups(&self) -> Vec<PathBuf> {
        let mut groups: Vec<PathBuf> = fs::read_dir(self.folder.join("mon_groups"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("mon_data").is_dir())
            .take(MAX_GROUPS)
            .collect();
        groups.sort();
        groups
    }

    /// Traffic since the last call; nothing at the first one, or when no group is there any more.
    pub fn advance(&mut self, processes: &mut Processes) -> Option<Traffic> {
        let mut now = HashMap::new();
        let mut traffic = Traffic::default();
        let mut grouped = 0_u64;
        for group in self.groups() {
            let Some(bytes) = bytes_of(&group) else { continue };
            let used = self.last.get(&group).map_or(0, |before| bytes.saturating_sub(*before));
            grouped = grouped.saturating_add(used);
            let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let pod = pod_uid(name).or_else(|| {
                let tasks = read_bounded(&group.join("tasks")).ok()?;
                processes.pod_of(tasks.lines().next()?.trim().parse().ok()?).map(str::to_owned)
            });
            match pod {
                Some(uid) => {
                    let sum = traffic.pods.entry(uid).or_default();
                    *sum = sum.saturating_add(used);
                }
                None => traffic.others = traffic.others.saturating_add(used),
            }
            now.insert(group, bytes);
        }
        // The root's own figure holds that of its groups.
        let whole = bytes_of(&self.folder)?;
        let used = self.last.get(&self.folder).map_or(0, |before| whole.saturating_sub(*before));
        traffic.others = traffic.others.saturating_add(used.saturating_sub(grouped));
        now.insert(self.folder.clone(), whole);
        let first = self.last.is_empty();
        self.last = now;
        (!first && !traffic.pods.is_empty()).then_some(traffic)
    }
}

/// Bytes that a group moved to and from memory, over all sockets.
fn bytes_of(group: &Path) -> Option<u64> {
    let domains = fs::read_dir(group.join("mon_data")).ok()?.flatten();
    domains.filter_map(|domain| read_number(&domain.path().join("mbm_total_bytes")).ok()).reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b";

    #[test]
    fn traffic_is_known_for_pods_that_have_a_group() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(MemoryTraffic::discover(&root).is_none());
        let set = |named: u64, by_task: u64, all: u64| {
            write(
                &format!("sys/fs/resctrl/mon_groups/pod{UID}/mon_data/mon_L3_00/mbm_total_bytes"),
                &named.to_string(),
            );
            write("sys/fs/resctrl/mon_groups/g7/mon_data/mon_L3_00/mbm_total_bytes", &by_task.to_string());
            write("sys/fs/resctrl/mon_data/mon_L3_00/mbm_total_bytes", &all.to_string());
        };
        write("sys/fs/resctrl/mon_groups/g7/tasks", "70\n71\n");
        write("proc/70/cgroup", "0::/kubepods/pod0123456789abcdef0123456789abcdef/ab\n");
        set(100, 10, 200);
        let mut processes = Processes::new(root.clone());
        let mut traffic = MemoryTraffic::discover(&root).unwrap();
        assert_eq!(traffic.advance(&mut processes), None);
        set(400, 60, 1_000);
        let seen = traffic.advance(&mut processes).unwrap();
        assert_eq!((seen.pods[UID], seen.pods["0123456789abcdef0123456789abcdef"], seen.others), (300, 50, 450));
        fs::remove_dir_all(directory.path().join("sys/fs/resctrl")).unwrap();
        assert_eq!(traffic.advance(&mut processes), None);
    }
}
