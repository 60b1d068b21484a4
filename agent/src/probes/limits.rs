//! What is limited and may run out: open files, process ids, tracked connections, inodes; and mounts that turned
//! read-only or fell silent.

use std::collections::BTreeSet;
use std::io;

use super::thresholds::Figure;
use crate::{
    host::{Root, read_number},
    sources::Filesystem,
};

/// Filesystems whose earlier state is remembered.
const MAX_MOUNTS: usize = 256;

fn not_understood(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not understood"))
}

fn used(measure: &'static str, used: u64, limit: u64, what: &str) -> Figure {
    let value = if limit == 0 { 0.0 } else { used as f64 / limit as f64 };
    Figure { measure, of: String::new(), value, says: format!("{used} of {limit} {what}") }
}

/// Open files of the whole node.
///
/// # Errors
/// When proc does not tell.
pub fn file_descriptors(root: &Root) -> io::Result<Vec<Figure>> {
    const PATH: &str = "proc/sys/fs/file-nr";
    let text = root.read(PATH)?;
    let numbers: Vec<u64> = text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [allocated, free, limit] = numbers[..] else { return Err(not_understood(PATH)) };
    Ok(vec![used("file-descriptors.used", allocated.saturating_sub(free), limit, "open files")])
}

/// Ids of tasks.
///
/// # Errors
/// When proc does not tell.
pub fn pids(root: &Root) -> io::Result<Vec<Figure>> {
    const LOAD: &str = "proc/loadavg";
    let limit = |path: &str| read_number(&root.join(path));
    let limit = limit("proc/sys/kernel/pid_max")?.min(limit("proc/sys/kernel/threads-max").unwrap_or(u64::MAX));
    let load = root.read(LOAD)?;
    let tasks = load.split_ascii_whitespace().nth(3).and_then(|field| field.split_once('/'));
    let tasks: u64 = tasks.and_then(|(_, all)| all.parse().ok()).ok_or_else(|| not_understood(LOAD))?;
    Ok(vec![used("pids.used", tasks, limit, "tasks")])
}

/// Tracked connections.
///
/// # Errors
/// When the kernel tracks none.
pub fn conntrack(root: &Root) -> io::Result<Vec<Figure>> {
    let number = |name: &str| read_number(&root.join(format!("proc/sys/net/netfilter/nf_conntrack_{name}")));
    let count = number("count").map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(io::ErrorKind::NotFound, "the kernel tracks no connections"),
        _ => error,
    })?;
    Ok(vec![used("conntrack.used", count, number("max")?, "connections")])
}

/// Remembers which filesystems could be written.
#[derive(Debug, Default)]
pub struct Mounts {
    writable: BTreeSet<String>,
}

impl Mounts {
    /// Figures of mounts that were read, each within a bounded time. A filesystem counts as remounted when it could be
    /// written before, or the host's fstab says that it may be.
    pub fn figures(&mut self, root: &Root, filesystems: &[Filesystem]) -> Vec<Figure> {
        let fstab = root.read("etc/fstab").unwrap_or_default();
        let expected = |mountpoint: &str| {
            fstab.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                let (at, options) = (fields.next(), fields.nth(1));
                at == Some(mountpoint) && options.is_some_and(|options| !options.split(',').any(|o| o == "ro"))
            })
        };
        let mut figures = Vec::new();
        for filesystem in filesystems {
            let Filesystem { mountpoint, kind, read_only, .. } = filesystem;
            let figure = |measure, value: f64, says: String| Figure { measure, of: mountpoint.clone(), value, says };
            if !read_only && self.writable.len() < MAX_MOUNTS {
                self.writable.insert(mountpoint.clone());
            }
            let remounted = *read_only && (self.writable.contains(mountpoint) || expected(mountpoint));
            figures.push(figure(
                "filesystem.remounted",
                f64::from(u8::from(remounted)),
                format!("{mountpoint} ({kind}) is read-only and could be written before"),
            ));
            figures.push(figure(
                "filesystem.silent",
                f64::from(u8::from(filesystem.silent)),
                format!("{mountpoint} ({kind}) does not answer"),
            ));
            if let Some(share) = filesystem.inode_utilization {
                let says = format!("{:.1} % of the inodes of {mountpoint} ({kind}) are used", share * 100.0);
                figures.push(figure("filesystem.inodes.used", share, says));
            }
        }
        // One that was unmounted may come back as it likes.
        self.writable.retain(|mountpoint| filesystems.iter().any(|f| f.mountpoint == *mountpoint));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::tree;

    #[test]
    fn shares_are_read_from_a_recorded_tree() {
        let (_kept, root) = tree(&[
            ("proc/sys/fs/file-nr", "9000\t0\t10000\n"),
            ("proc/sys/kernel/pid_max", "32768\n"),
            ("proc/sys/kernel/threads-max", "1000\n"),
            ("proc/loadavg", "0.50 0.40 0.30 1/950 5678\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "250\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "1000\n"),
        ]);
        assert_eq!(file_descriptors(&root).unwrap()[0].value, 0.9);
        assert_eq!(pids(&root).unwrap()[0].value, 0.95);
        assert_eq!(conntrack(&root).unwrap()[0].says, "250 of 1000 connections");
    }

    #[test]
    fn files_that_lie_or_are_cut_are_reasons() {
        let (_kept, root) = tree(&[
            ("proc/sys/fs/file-nr", "-9000\t0"),
            ("proc/sys/kernel/pid_max", "99999999999999999999999\n"),
            ("proc/loadavg", "0.50 0.40"),
        ]);
        assert!(file_descriptors(&root).is_err() && pids(&root).is_err());
        assert!(conntrack(&root).unwrap_err().to_string().contains("tracks no connections"));
    }

    fn filesystem(mountpoint: &str, read_only: bool) -> Filesystem {
        Filesystem {
            mountpoint: mountpoint.into(),
            kind: "ext4".into(),
            read_only,
            total: None,
            available: None,
            utilization: None,
            inode_utilization: None,
            trouble: None,
            silent: false,
        }
    }

    #[test]
    fn a_filesystem_is_remounted_when_it_could_be_written_before_or_should() {
        let (_kept, root) =
            tree(&[("etc/fstab", "# x\nUUID=1 /data ext4 defaults 0 2\nUUID=2 /iso ext4 ro,noatime 0 2\n")]);
        let mut mounts = Mounts::default();
        let mut remounted = |filesystems: &[Filesystem]| {
            let figures = mounts.figures(&root, filesystems);
            let raised = figures.into_iter().filter(|f| f.measure == "filesystem.remounted" && f.value > 0.0);
            raised.map(|figure| figure.of).collect::<Vec<_>>()
        };
        assert_eq!(
            remounted(&[filesystem("/", false), filesystem("/iso", true), filesystem("/data", true)]),
            ["/data"]
        );
        assert_eq!(remounted(&[filesystem("/", true), filesystem("/iso", true)]), ["/"]);
        assert!(remounted(&[filesystem("/", false)]).is_empty());
    }
}
