//! What hardware counts: memory errors, heat, members of disk arrays, links that go up and down.

use std::{collections::BTreeMap, io, path::Path};

use super::{counters::Counters, thresholds::Figure};
use crate::host::{Root, read_number};

/// Devices of one class that are looked at.
const MAX_DEVICES: usize = 1024;
const MINUTE_MS: u64 = 60_000;

/// Counters of hardware, remembered.
#[derive(Debug)]
pub struct Hardware {
    hour: Counters,
    two_hours: Counters,
    heat: Counters,
    links: Counters,
}

impl std::default::Default for Hardware {
    fn default() -> Self {
        Self {
            hour: Counters::new(60 * MINUTE_MS),
            two_hours: Counters::new(120 * MINUTE_MS),
            heat: Counters::new(5 * MINUTE_MS),
            links: Counters::new(10 * MINUTE_MS),
        }
    }
}

/// Names in a directory, sorted; an error that says what the lack of it means.
fn list(root: &Root, path: &str, without: &str) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(root.join(path)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), without.to_owned()),
        _ => error,
    })?;
    let mut names: Vec<String> =
        entries.flatten().take(MAX_DEVICES).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn number(root: &Root, path: impl AsRef<Path>) -> io::Result<u64> {
    read_number(&root.join(path))
}

impl Hardware {
    /// Memory errors, by memory controller.
    ///
    /// # Errors
    /// When no controller counts any.
    pub fn memory_errors(&mut self, root: &Root, now_ms: u64) -> io::Result<Vec<Figure>> {
        const NONE: &str = "no memory controller reports errors (no EDAC driver)";
        let base = "sys/devices/system/edac/mc";
        let mut figures = Vec::new();
        for name in list(root, base, NONE)?.into_iter().filter(|name| name.starts_with("mc")) {
            let Ok(corrected) = number(root, format!("{base}/{name}/ce_count")) else { continue };
            let hour = self.hour.add(&name, corrected, now_ms);
            let before = self.two_hours.add(&name, corrected, now_ms).saturating_sub(hour);
            let figure = |measure, value: f64, says: String| Figure { measure, of: name.clone(), value, says };
            figures.push(figure(
                "edac.corrected.per-hour",
                hour as f64,
                format!("{name}: {hour} errors corrected in the last hour, {before} in the hour before"),
            ));
            figures.push(figure(
                "edac.corrected.trend",
                (hour + 1) as f64 / (before + 1) as f64,
                format!("{name}: {hour} errors corrected in the last hour, {before} in the hour before"),
            ));
            if let Ok(uncorrected) = number(root, format!("{base}/{name}/ue_count")) {
                let says = format!("{name}: {uncorrected} errors that could not be corrected");
                figures.push(figure("edac.uncorrected", uncorrected as f64, says));
            }
        }
        if figures.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, NONE)) } else { Ok(figures) }
    }

    /// Times that heat slowed CPUs down, by package.
    ///
    /// # Errors
    /// When no CPU counts any.
    pub fn heat(&mut self, root: &Root, now_ms: u64) -> io::Result<Vec<Figure>> {
        const NONE: &str = "no CPU counts how often heat slows it down";
        let base = "sys/devices/system/cpu";
        let mut packages: BTreeMap<u64, u64> = BTreeMap::new();
        for name in list(root, base, NONE)? {
            let digits = name.strip_prefix("cpu").unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let read = |file: &str| number(root, format!("{base}/{name}/{file}"));
            let Ok(package_count) = read("thermal_throttle/package_throttle_count") else { continue };
            let core_count = read("thermal_throttle/core_throttle_count").unwrap_or(0);
            // All CPUs of a package show the package's count; of cores the hottest one is enough to know.
            let most = packages.entry(read("topology/physical_package_id").unwrap_or(0)).or_default();
            *most = (*most).max(package_count.saturating_add(core_count));
        }
        if packages.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, NONE));
        }
        let figure = |(package, count): (u64, u64)| {
            let of = format!("package {package}");
            let added = self.heat.add(&of, count, now_ms);
            let says = format!("{of}: slowed down {added} times in the last 5 minutes");
            Figure { measure: "thermal.throttles", of, value: added as f64, says }
        };
        Ok(packages.into_iter().map(figure).collect())
    }

    /// Links of physical interfaces.
    ///
    /// # Errors
    /// When there is none.
    pub fn links(&mut self, root: &Root, now_ms: u64) -> io::Result<Vec<Figure>> {
        const NONE: &str = "no physical network interface";
        let base = "sys/class/net";
        let mut figures = Vec::new();
        for name in list(root, base, NONE)? {
            // Interfaces of pods and bridges have no device behind them.
            if !root.join(format!("{base}/{name}/device")).exists() {
                continue;
            }
            let Ok(changes) = number(root, format!("{base}/{name}/carrier_changes")) else { continue };
            let added = self.links.add(&name, changes, now_ms);
            let says = format!("{name}: the link changed {added} times in the last 10 minutes");
            figures.push(Figure { measure: "link.changes", of: name, value: added as f64, says });
        }
        let oldest = now_ms.saturating_sub(60 * MINUTE_MS);
        self.links.forget_before(oldest);
        if figures.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, NONE)) } else { Ok(figures) }
    }
}

/// Members that disk arrays lack.
///
/// # Errors
/// When there is no array.
pub fn arrays(root: &Root) -> io::Result<Vec<Figure>> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "no disk arrays (md)");
    let text = root
        .read("proc/mdstat")
        .map_err(|error| if error.kind() == io::ErrorKind::NotFound { none() } else { error })?;
    let mut figures = Vec::new();
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
            let missing = wanted.saturating_sub(there);
            let says = format!("{name}: {there} of {wanted} members are there");
            figures.push(Figure { measure: "raid.missing", of: name.to_owned(), value: f64::from(missing), says });
            array = None;
        }
    }
    if figures.is_empty() { Err(none()) } else { Ok(figures) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{put, tree};

    fn value(figures: &[Figure], measure: &str) -> f64 {
        figures.iter().find(|figure| figure.measure == measure).unwrap().value
    }

    #[test]
    fn memory_errors_have_a_rate_and_a_trend() {
        let base = "sys/devices/system/edac/mc/mc0";
        let (kept, root) = tree(&[(&format!("{base}/ce_count"), "5\n"), (&format!("{base}/ue_count"), "0\n")]);
        let mut hardware = Hardware::default();
        hardware.memory_errors(&root, 0).unwrap();
        put(kept.path(), &format!("{base}/ce_count"), "6\n");
        hardware.memory_errors(&root, 50 * MINUTE_MS).unwrap();
        put(kept.path(), &format!("{base}/ce_count"), "46\n");
        put(kept.path(), &format!("{base}/ue_count"), "2\n");
        let figures = hardware.memory_errors(&root, 115 * MINUTE_MS).unwrap();
        assert_eq!(value(&figures, "edac.uncorrected"), 2.0);
        assert_eq!(value(&figures, "edac.corrected.per-hour"), 40.0);
        assert_eq!(value(&figures, "edac.corrected.trend"), 41.0 / 2.0);
    }

    #[test]
    fn heat_and_links_are_counted_within_their_windows() {
        let (kept, root) = tree(&[
            ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "3\n"),
            ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "1\n"),
            ("sys/devices/system/cpu/cpufreq/x", ""),
            ("sys/class/net/eth0/device/vendor", "x"),
            ("sys/class/net/eth0/carrier_changes", "2\n"),
            ("sys/class/net/veth1/carrier_changes", "900\n"),
        ]);
        let mut hardware = Hardware::default();
        assert_eq!(value(&hardware.heat(&root, 0).unwrap(), "thermal.throttles"), 0.0);
        assert_eq!(hardware.links(&root, 0).unwrap().len(), 1);
        put(kept.path(), "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "23\n");
        put(kept.path(), "sys/class/net/eth0/carrier_changes", "10\n");
        assert_eq!(value(&hardware.heat(&root, 10_000).unwrap(), "thermal.throttles"), 20.0);
        assert_eq!(value(&hardware.links(&root, 10_000).unwrap(), "link.changes"), 8.0);
        assert_eq!(value(&hardware.links(&root, 900_000).unwrap(), "link.changes"), 0.0);
    }

    #[test]
    fn an_array_that_lacks_a_member_is_found() {
        let (_kept, root) = tree(&[(
            "proc/mdstat",
            "Personalities : [raid1] [raid6]\nmd1 : active raid1 sdb2[1] sda2[0]\n      976 blocks super 1.2 [2/2] [UU]\n\nmd0 : active raid1 sda1[0]\n      97 blocks [2/1] [U_]\n      bitmap: 1/8 pages [4KB], 65536KB chunk\n\nunused devices: <none>\n",
        )]);
        let figures = arrays(&root).unwrap();
        let said: Vec<_> = figures.iter().map(|figure| (figure.of.as_str(), figure.value)).collect();
        assert_eq!(said, [("md1", 0.0), ("md0", 1.0)]);
    }

    #[test]
    fn a_tree_without_hardware_gives_reasons() {
        let (_kept, root) = tree(&[]);
        let mut hardware = Hardware::default();
        assert!(hardware.memory_errors(&root, 0).unwrap_err().to_string().contains("EDAC"));
        assert!(hardware.heat(&root, 0).is_err() && hardware.links(&root, 0).is_err() && arrays(&root).is_err());
    }
}
