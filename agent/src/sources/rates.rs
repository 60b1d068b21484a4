//! Disks and network interfaces: counters turned into rates. A counter that went back (a device was taken out and put
//! in again) gives no rate for that interval.

use std::{collections::HashMap, time::Duration};

use procfs::{DiskStat, FromBufRead, net::InterfaceDeviceStatus};
use serde::Serialize;

use crate::host::Root;

/// Sectors of /proc/diskstats have 512 bytes whatever the disk's own.
const SECTOR: u64 = 512;
/// Devices that are looked at; a node with more has virtual ones by the thousand.
const MAX_DEVICES: usize = 256;

/// One disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disk {
    /// Name, as in `nvme0n1`.
    pub name: String,
    /// Bytes read each second.
    pub read_bytes_per_second: f64,
    /// Bytes written each second.
    pub written_bytes_per_second: f64,
    /// Share of time in which it had something to do, 0 to 1.
    pub busy: f64,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interface {
    /// Name, as in `eth0`.
    pub name: String,
    /// Bytes received each second.
    pub received_bytes_per_second: f64,
    /// Bytes sent each second.
    pub sent_bytes_per_second: f64,
    /// Errors and drops so far, both ways.
    pub errors: u64,
}

#[derive(Debug, Default)]
pub(super) struct DiskRates(HashMap<String, [u64; 3]>);

impl DiskRates {
    pub(super) fn advance(&mut self, root: &Root, text: &str, elapsed: Duration) -> Vec<Disk> {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let mut next = HashMap::new();
        let mut disks = Vec::new();
        for stat in text.lines().filter_map(|line| DiskStat::from_line(line).ok()) {
            if next.len() >= MAX_DEVICES || !is_disk(root, &stat.name) {
                continue;
            }
            let now = [stat.sectors_read, stat.sectors_written, stat.time_in_progress];
            let before = self.0.get(&stat.name).copied().unwrap_or(now);
            let delta = |index: usize| now[index].saturating_sub(before[index]) as f64 / seconds;
            disks.push(Disk {
                name: stat.name.clone(),
                read_bytes_per_second: delta(0) * SECTOR as f64,
                written_bytes_per_second: delta(1) * SECTOR as f64,
                busy: (delta(2) / 1000.0).min(1.0),
            });
            next.insert(stat.name, now);
        }
        self.0 = next;
        disks
    }
}

/// A disk is what sysfs lists as a block device; in a tree without sysfs, what is not plainly virtual.
fn is_disk(root: &Root, name: &str) -> bool {
    let made_up = ["loop", "ram", "zram", "fd", "sr", "nbd"].iter().any(|prefix| name.starts_with(prefix));
    !made_up && (!root.join("sys/block").is_dir() || root.join("sys/block").join(name).exists())
}

#[derive(Debug, Default)]
pub(super) struct NetworkRates(HashMap<String, [u64; 2]>);

impl NetworkRates {
    pub(super) fn advance(&mut self, text: &str, elapsed: Duration) -> Vec<Interface> {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let devices = InterfaceDeviceStatus::from_buf_read(text.as_bytes()).map(|status| status.0).unwrap_or_default();
        let mut interfaces: Vec<Interface> = Vec::new();
        let mut next = HashMap::new();
        for (name, device) in devices {
            if name == "lo" || next.len() >= MAX_DEVICES {
                continue;
            }
            let now = [device.recv_bytes, device.sent_bytes];
            let before = self.0.get(&name).copied().unwrap_or(now);
            let delta = |index: usize| now[index].saturating_sub(before[index]) as f64 / seconds;
            let errors = [device.recv_errs, device.recv_drop, device.sent_errs, device.sent_drop];
            interfaces.push(Interface {
                name: name.clone(),
                received_bytes_per_second: delta(0),
                sent_bytes_per_second: delta(1),
                errors: errors.into_iter().fold(0, u64::saturating_add),
            });
            next.insert(name, now);
        }
        self.0 = next;
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces
    }
}
