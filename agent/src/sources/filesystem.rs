//! How full the filesystems are. `statvfs` on a dead network mount may never return, so it runs on a helper thread; a
//! mount that does not answer is told as such, and its thread is left behind, at most a few of them.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use procfs::{FromBufRead, MountEntry};
use serde::Serialize;

use crate::host::Root;

/// A local filesystem answers in microseconds, a network one in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Threads that may hang at a time; behind that, mounts that do not answer are not asked again.
const MAX_STUCK: usize = 4;
/// Mounts that are looked at; pods mount the same disk over and over.
const MAX_MOUNTS: usize = 128;
/// Filesystems that hold data; all others are views of the kernel.
const REAL: [&str; 16] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "vfat", "nfs", "nfs4", "ceph", "cifs", "gfs2", "ocfs2",
    "lustre", "9p",
];

/// One mounted filesystem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Kind, as in `ext4`.
    pub kind: String,
    /// Whether it may not be written.
    pub read_only: bool,
    /// Bytes that it holds at most; absent when it does not answer.
    pub total: Option<u64>,
    /// Bytes that programs may still write.
    pub available: Option<u64>,
    /// Share in use, 0 to 1.
    pub utilization: Option<f64>,
    /// Share of inodes in use, 0 to 1; absent where there is no limit.
    pub inode_utilization: Option<f64>,
    /// Why there are no numbers.
    pub trouble: Option<String>,
    /// Whether it did not answer in time.
    pub silent: bool,
}

struct Usage {
    total: u64,
    available: u64,
    utilization: f64,
    inode_utilization: Option<f64>,
}

/// Reads filesystems; remembers which mounts hang.
#[derive(Debug)]
pub struct Filesystems {
    root: Root,
    stuck: HashMap<PathBuf, Arc<AtomicBool>>,
    answer_within: Duration,
    stat: fn(&std::path::Path) -> io::Result<Usage>,
}

impl Filesystems {
    /// A reader of the mounts below a root.
    pub fn new(root: Root) -> Self {
        Self { root, stuck: HashMap::new(), answer_within: ANSWER_WITHIN, stat: usage }
    }

    /// Reads all filesystems that hold data, each device once.
    ///
    /// # Errors
    /// When the mounts cannot be listed.
    pub fn read(&mut self) -> io::Result<Vec<Filesystem>> {
        self.stuck.retain(|_, done| !done.load(Ordering::Acquire));
        let text = ["proc/1/mounts", "proc/self/mounts", "proc/mounts"]
            .iter()
            .map(|path| self.root.read(path))
            .reduce(|found, next| found.or(next))
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
        let mut seen = std::collections::HashSet::new();
        let mut filesystems = Vec::new();
        for line in text.lines() {
            let Ok(entries) = Vec::<MountEntry>::from_buf_read(line.as_bytes()) else { continue };
            let Some(mount) = entries.into_iter().next() else { continue };
            if !REAL.contains(&mount.fs_vfstype.as_str()) || !seen.insert(mount.fs_spec.clone()) {
                continue;
            }
            if filesystems.len() >= MAX_MOUNTS {
                break;
            }
            filesystems.push(self.look(mount));
        }
        Ok(filesystems)
    }

    fn look(&mut self, mount: MountEntry) -> Filesystem {
        let usage = self.ask(self.root.join(&mount.fs_file));
        let silent = usage.as_ref().is_err_and(|reason| reason.kind() == io::ErrorKind::TimedOut);
        let (usage, trouble) = match usage {
            Ok(usage) => (Some(usage), None),
            Err(reason) => (None, Some(reason.to_string())),
        };
        Filesystem {
            mountpoint: mount.fs_file,
            kind: mount.fs_vfstype,
            read_only: mount.fs_mntops.contains_key("ro"),
            total: usage.as_ref().map(|usage| usage.total),
            available: usage.as_ref().map(|usage| usage.available),
            utilization: usage.as_ref().map(|usage| usage.utilization),
            inode_utilization: usage.as_ref().and_then(|usage| usage.inode_utilization),
            trouble,
            silent,
        }
    }

    fn ask(&mut self, path: PathBuf) -> io::Result<Usage> {
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "the mount does not answer");
        if self.stuck.contains_key(&path) {
            return Err(hangs());
        }
        if self.stuck.len() >= MAX_STUCK {
            return Err(io::Error::other("not asked, because other mounts do not answer"));
        }
        let (answer, answers) = mpsc::sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let (finished, target, stat) = (Arc::clone(&done), path.clone(), self.stat);
        thread::Builder::new().name("statvfs".into()).stack_size(64 << 10).spawn(move || {
            // Nobody listens any more when it took too long.
            let _ = answer.send(stat(&target));
            finished.store(true, Ordering::Release);
        })?;
        answers.recv_timeout(self.answer_within).unwrap_or_else(|_| {
            self.stuck.insert(path, done);
            Err(hangs())
        })
    }
}

fn usage(path: &std::path::Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(path)?;
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    let free = stat.f_bfree.saturating_mul(stat.f_frsize);
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    let used = total.saturating_sub(free);
    // As df counts: what root keeps for itself is neither used nor available.
    let usable = used.saturating_add(available);
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let inodes = (stat.f_files > 0).then(|| share(stat.f_files.saturating_sub(stat.f_ffree), stat.f_files));
    Ok(Usage { total, available, utilization: share(used, usable), inode_utilization: inodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with_mounts(text: &str) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("proc")).unwrap();
        std::fs::write(directory.path().join("proc/mounts"), text).unwrap();
        let root = Root::new(directory.path());
        (directory, root)
    }

    #[test]
    fn only_filesystems_that_hold_data_are_read_each_once() {
        let (directory, root) = root_with_mounts(
            "proc /proc proc rw 0 0\n/dev/vda / ext4 ro,relatime 0 0\n/dev/vda /var/lib/kubelet ext4 rw 0 0\nx /gone xfs rw 0 0\n",
        );
        let found = Filesystems::new(root).read().unwrap();
        drop(directory);
        assert_eq!(found.len(), 2);
        assert!(found[0].read_only && found[0].utilization.is_some_and(|share| (0.0..=1.0).contains(&share)));
        assert!(found[1].trouble.is_some());
    }

    #[test]
    fn a_mount_that_never_answers_hangs_neither_the_agent_nor_the_others() {
        let (_directory, root) = root_with_mounts("a /dead nfs rw 0 0\nb / ext4 rw 0 0\n");
        let mut filesystems = Filesystems::new(root);
        filesystems.answer_within = Duration::from_millis(400);
        filesystems.stat = |path| {
            if path.ends_with("dead") {
                thread::park_timeout(Duration::from_secs(5));
            }
            Ok(Usage { total: 2, available: 1, utilization: 0.5, inode_utilization: None })
        };
        for _ in 0..3 {
            let found = filesystems.read().unwrap();
            assert!(found[0].trouble.as_deref().is_some_and(|t| t.contains("does not answer")), "{found:?}");
            assert_eq!(found[1].utilization, Some(0.5));
        }
        assert_eq!(filesystems.stuck.len(), 1);
    }
}
