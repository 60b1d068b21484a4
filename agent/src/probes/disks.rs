//! Disks as the kernel sees them: their state, their I/O errors, requests that do not end, members that arrays lack.

use std::{collections::BTreeMap, io};

use super::{
    counters::{Counters, MINUTE_MS},
    source::{About, Findings, Look, Source, absent},
};
use crate::sources::series::{Reading, SeriesName};

/// Disks that are looked at.
const MAX_DISKS: usize = 512;

/// State and errors of block devices.
pub struct Blocks {
    errors: Counters,
    /// Requests completed, and since when in milliseconds that is so although some are under way.
    stalled: BTreeMap<String, (u64, u64)>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { errors: Counters::new(60 * MINUTE_MS), stalled: BTreeMap::new() }
    }
}

/// What is no disk of its own: memory, files, other disks.
fn is_made_up(name: &str) -> bool {
    ["loop", "ram", "zram", "fd", "sr", "nbd", "dm-", "md"].iter().any(|prefix| name.starts_with(prefix))
}

impl Source for Blocks {
    fn about(&self) -> &'static About {
        &About {
            name: "block",
            reads: &["sys/block/*/{stat,device/state,device/ioerr_cnt}"],
            measures: &["disk.offline", "disk.io-errors", "disk.stalled"],
            series: &["disk.*.io_errors"],
            says: "disks that the kernel took offline, their I/O errors, requests under way of which none ends",
            needs: "SCSI or SATA for state and errors",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        let mut waiting = BTreeMap::new();
        for name in look.list("sys/block").into_iter().filter(|name| !is_made_up(name)).take(MAX_DISKS) {
            let at = |file: &str| format!("sys/block/{name}/{file}");
            if let Some(state) = look.word(at("device/state")) {
                let offline = matches!(state.as_str(), "offline" | "transport-offline" | "blocked" | "cancel" | "dead");
                let says = format!("{name}: the kernel has it as `{state}`");
                found.figure("disk.offline", &name, f64::from(u8::from(offline)), says);
            }
            if let Some(errors) = look.number(at("device/ioerr_cnt")) {
                let added = self.errors.add(&name, errors, look.now_ms);
                let says = format!("{name}: {added} I/O errors in the last hour");
                found.figure("disk.io-errors", &name, added as f64, says);
                found.reading(Reading::counts(SeriesName::of("disk", &name, "io_errors"), errors));
            }
            let Ok(stat) = look.text(&at("stat")) else { continue };
            let fields: Vec<u64> = stat.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
            // Reads completed is field 1, writes 5, requests under way 9 (Documentation/block/stat.rst).
            let [reads, _, _, _, writes, _, _, _, under_way, ..] = fields[..] else {
                look.doubt(at("stat"), "is not understood");
                continue;
            };
            let completed = reads.saturating_add(writes);
            let before = self.stalled.get(&name).filter(|(known, _)| *known == completed);
            let since = before.map_or(look.now_ms, |(_, since)| *since);
            let stalled = if under_way == 0 { 0 } else { look.now_ms.saturating_sub(since) / 1000 };
            if under_way > 0 {
                waiting.insert(name.clone(), (completed, since));
            }
            let says = format!("{name}: requests are under way and none has ended for {stalled} s");
            found.figure("disk.stalled", &name, stalled as f64, says);
        }
        self.stalled = waiting;
        found.or_absent("no disks (no sys/block)")
    }
}

/// Controllers of NVMe disks.
pub struct Nvme;

impl Source for Nvme {
    fn about(&self) -> &'static About {
        &About {
            name: "nvme",
            reads: &["sys/class/nvme/*/state"],
            measures: &["nvme.not-live"],
            series: &[],
            says: "NVMe controllers that are dead or resetting",
            needs: "an NVMe disk",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        for name in look.list("sys/class/nvme") {
            let Some(state) = look.word(format!("sys/class/nvme/{name}/state")) else { continue };
            let says = format!("{name}: the controller is `{state}`");
            found.figure("nvme.not-live", &name, f64::from(u8::from(state != "live")), says);
        }
        found.or_absent("no NVMe disks")
    }
}

/// Disk arrays of the kernel.
pub struct Arrays;

impl Source for Arrays {
    fn about(&self) -> &'static About {
        &About {
            name: "mdstat",
            reads: &["proc/mdstat"],
            measures: &["raid.missing"],
            series: &[],
            says: "members that a disk array lacks",
            needs: "md arrays",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        const NONE: &str = "no disk arrays (md)";
        let text = look.text("proc/mdstat").map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => absent(NONE),
            _ => error,
        })?;
        let mut found = Findings::default();
        for (array, wanted, there) in arrays(&text) {
            let missing = wanted.saturating_sub(there);
            let says = format!("{array}: {there} of {wanted} members are there");
            found.figure("raid.missing", array, f64::from(missing), says);
        }
        found.or_absent(NONE)
    }
}

/// Arrays of `mdstat`, with members wanted and there.
fn arrays(text: &str) -> Vec<(&str, u32, u32)> {
    let mut arrays = Vec::new();
    let mut array: Option<&str> = None;
    for line in text.lines() {
        if let Some((name, _)) = line.split_once(" : ").filter(|(name, _)| name.starts_with("md")) {
            array = Some(name.trim());
        }
        // `[2/1]`: two wanted, one there.
        let counts = line.split('[').skip(1).find_map(|part| {
            let (wanted, there) = part.split_once(']')?.0.split_once('/')?;
            Some((wanted.parse::<u32>().ok()?, there.parse::<u32>().ok()?))
        });
        if let (Some(name), Some((wanted, there))) = (array, counts) {
            arrays.push((name, wanted, there));
            array = None;
        }
        if arrays.len() >= MAX_DISKS {
            break;
        }
    }
    arrays
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::tests::{Host, value};

    #[test]
    fn an_array_that_lacks_a_member_is_found() {
        let host = Host::of(&[(
            "proc/mdstat",
            "Personalities : [raid1] [raid6]\nmd1 : active raid1 sdb2[1] sda2[0]\n      976 blocks super 1.2 [2/2] [UU]\n\nmd0 : active raid1 sda1[0]\n      97 blocks [2/1] [U_]\n      bitmap: 1/8 pages [4KB], 65536KB chunk\n\nunused devices: <none>\n",
        )]);
        let found = host.read(&mut Arrays).unwrap();
        let said: Vec<_> = found.figures.iter().map(|figure| (figure.of.as_str(), figure.value)).collect();
        assert_eq!(said, [("md1", 0.0), ("md0", 1.0)]);
        assert!(Host::of(&[("proc/mdstat", "Personalities :\nunused devices: <none>\n")]).read(&mut Arrays).is_err());
    }

    #[test]
    fn a_disk_that_is_offline_fails_or_stalls_is_told() {
        let mut host = Host::of(&[
            ("sys/block/sda/device/state", "running\n"),
            ("sys/block/sda/device/ioerr_cnt", "0x2\n"),
            ("sys/block/sda/stat", "10 0 80 1 20 0 160 2 0 3 3\n"),
            ("sys/block/loop0/stat", "1 0 8 1 2 0 16 2 9 3 3\n"),
        ]);
        let mut source = Blocks::default();
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "disk.offline"), value(&found, "disk.stalled")), (0.0, 0.0));
        assert_eq!(found.figures.len(), 3);
        host.put("sys/block/sda/device/state", "offline\n");
        host.put("sys/block/sda/device/ioerr_cnt", "0x20\n");
        host.put("sys/block/sda/stat", "10 0 80 1 20 0 160 2 4 3 3\n");
        host.now_ms = 10_000;
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "disk.offline"), value(&found, "disk.io-errors")), (1.0, 30.0));
        host.now_ms = 55_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "disk.stalled"), 45.0);
        host.put("sys/block/sda/stat", "11 0 80 1 20 0 160 2 4 3 3\n");
        assert_eq!(value(&host.read(&mut source).unwrap(), "disk.stalled"), 0.0);
    }

    #[test]
    fn an_nvme_controller_is_live_or_a_problem() {
        let mut host = Host::of(&[("sys/class/nvme/nvme0/state", "live\n")]);
        assert_eq!(value(&host.read(&mut Nvme).unwrap(), "nvme.not-live"), 0.0);
        host.put("sys/class/nvme/nvme0/state", "dead\n");
        assert_eq!(value(&host.read(&mut Nvme).unwrap(), "nvme.not-live"), 1.0);
        assert!(Host::of(&[]).read(&mut Nvme).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(md[0-9] : |\\[[0-9_U/-]{0,30}\\]|[ -~\n]){0,60}") {
            let _ = arrays(&text);
            let mut host = Host::of(&[("sys/block/sda/stat", &text), ("sys/block/sda/device/ioerr_cnt", &text)]);
            let mut source = Blocks::default();
            for now in [5, 0, u64::MAX] {
                host.now_ms = now;
                let _ = host.read(&mut source);
            }
        }
    }
}
