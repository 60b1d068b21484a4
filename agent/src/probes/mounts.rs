//! Mounted filesystems: how full, in bytes and inodes; whether they turned read-only; whether they answer. They were
//! asked by the collector, each within a bounded time.

use std::{collections::BTreeSet, io};

use super::source::{About, Findings, Look, Source, absent};
use crate::sources::{
    Filesystem,
    series::{Reading, SeriesName},
};

/// Filesystems whose earlier state is remembered.
const MAX_MOUNTS: usize = 256;

/// Remembers which filesystems could be written.
#[derive(Debug, Default)]
pub struct Mounts {
    writable: BTreeSet<String>,
}

impl Source for Mounts {
    fn about(&self) -> &'static About {
        &About {
            name: "mounts",
            reads: &["proc/1/mounts", "etc/fstab", "statvfs(2) of each mount below the root"],
            measures: &["filesystem.used", "filesystem.inodes.used", "filesystem.remounted", "filesystem.silent"],
            series: &["fs.*.used_bytes", "fs.*.used_inodes"],
            says: "how full filesystems are, those that turned read-only, and those that do not answer",
            needs: "a directory of each filesystem within the agent's reach for how full it is, wherever it is mounted; read-only remounts need proc alone",
        }
    }

    /// A filesystem counts as remounted when it could be written before, or the host's fstab says that it may be.
    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let sample = look.sample.ok_or_else(|| absent("the mounts were not read yet"))?;
        let filesystems = sample.filesystems.as_slice();
        if filesystems.is_empty() {
            return Err(absent("no filesystem that holds data is listed"));
        }
        let fstab = look.text("etc/fstab").unwrap_or_default();
        let expected = |mountpoint: &str| {
            fstab.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                let (at, options) = (fields.next(), fields.nth(1));
                at == Some(mountpoint) && options.is_some_and(|options| !options.split(',').any(|o| o == "ro"))
            })
        };
        let mut found = Findings::default();
        for filesystem in filesystems {
            let Filesystem { mountpoint, kind, read_only, .. } = filesystem;
            let mut figure = |measure, value: f64, says| found.figure(measure, mountpoint.clone(), value, says);
            if !read_only && self.writable.len() < MAX_MOUNTS {
                self.writable.insert(mountpoint.clone());
            }
            let remounted = *read_only && (self.writable.contains(mountpoint) || expected(mountpoint));
            let says = format!("{mountpoint} ({kind}) is read-only and could be written before");
            figure("filesystem.remounted", f64::from(u8::from(remounted)), says);
            let says = format!("{mountpoint} ({kind}) does not answer");
            figure("filesystem.silent", f64::from(u8::from(filesystem.silent)), says);
            // One that may not be written is as full as it was made: an image, a snapshot.
            if *read_only {
                continue;
            }
            if let Some(share) = filesystem.utilization {
                figure("filesystem.used", share, format!("{:.1} % of {mountpoint} ({kind}) is used", share * 100.0));
            }
            if let Some(share) = filesystem.inode_utilization {
                let says = format!("{:.1} % of the inodes of {mountpoint} ({kind}) are used", share * 100.0);
                figure("filesystem.inodes.used", share, says);
            }
            if let (Some(total), Some(available)) = (filesystem.total, filesystem.available) {
                // What programs may fill: used and available, not what root keeps for itself.
                let used = filesystem.used.unwrap_or_else(|| total.saturating_sub(available));
                let name = SeriesName::of("fs", mountpoint, "used_bytes");
                found.reading(Reading::fills(name, used, used.saturating_add(available)));
            }
            if let Some((used, total)) = filesystem.inodes {
                found.reading(Reading::fills(SeriesName::of("fs", mountpoint, "used_inodes"), used, total));
            }
        }
        // One that was unmounted may come back as it likes.
        self.writable.retain(|mountpoint| filesystems.iter().any(|f| f.mountpoint == *mountpoint));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        probes::tests::{Host, value},
        sources::Sample,
    };

    fn filesystem(mountpoint: &str, read_only: bool) -> Filesystem {
        Filesystem { mountpoint: mountpoint.into(), kind: "ext4".into(), read_only, ..Filesystem::default() }
    }

    #[test]
    fn a_filesystem_is_remounted_when_it_could_be_written_before_or_should() {
        let mut host =
            Host::of(&[("etc/fstab", "# x\nUUID=1 /data ext4 defaults 0 2\nUUID=2 /iso ext4 ro,noatime 0 2\n")]);
        let mut mounts = Mounts::default();
        let mut remounted = |filesystems: &[Filesystem]| {
            host.sample = Some(Arc::new(Sample { filesystems: filesystems.to_vec(), ..Sample::default() }));
            let figures = host.read(&mut mounts).unwrap().figures;
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

    #[test]
    fn how_full_it_is_is_told_against_what_programs_may_fill() {
        let mut host = Host::of(&[]);
        let full = Filesystem {
            total: Some(100),
            used: Some(80),
            available: Some(10),
            utilization: Some(80.0 / 90.0),
            inodes: Some((5, 50)),
            inode_utilization: Some(0.1),
            ..filesystem("/var", false)
        };
        let image = Filesystem { utilization: Some(1.0), ..filesystem("/snap/x", true) };
        host.sample = Some(Arc::new(Sample { filesystems: vec![full, image], ..Sample::default() }));
        let found = host.read(&mut Mounts::default()).unwrap();
        assert_eq!(value(&found, "filesystem.inodes.used"), 0.1);
        let told: Vec<_> = found.readings.iter().map(|r| (r.name.as_str(), r.value, r.limit.unwrap())).collect();
        assert_eq!(told, [("fs./var.used_bytes", 80.0, 90.0), ("fs./var.used_inodes", 5.0, 50.0)]);
        let used: Vec<_> = found.figures.iter().filter(|f| f.measure == "filesystem.used").map(|f| &f.of).collect();
        assert_eq!(used, ["/var"]);
    }
}
