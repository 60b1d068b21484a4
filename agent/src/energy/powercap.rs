//! Energy counters of the kernel's powercap zones (RAPL), on Intel and AMD alike.
//!
//! Counted are the packages and, where it is a zone of its own, the memory beside them; cores and uncore are parts of a
//! package and are only shown, and psys is used only where there is no package. Zones that a second driver shows again
//! (the memory-mapped interface) count once. Power limits (`constraint_*`) are not looked at.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    counter::RangedCounter,
    source::{EnergySource, Fault, Hints, Part, PartKind, Reading, Scope},
};
use crate::host::{Root, read_bounded, read_number};

/// No zone draws more than this; a step that would need it is a reset of the counter, not a wrap.
const MAX_ZONE_WATTS: u64 = 4_000;

#[derive(Debug)]
struct Zone {
    kind: PartKind,
    id: String,
    path: PathBuf,
    counter: RangedCounter,
    /// A part of another zone.
    inside: bool,
}

/// The zones of a node that together are its energy.
#[derive(Debug)]
pub struct Powercap {
    zones: Vec<Zone>,
    platform: bool,
    /// Wraps seen so far.
    pub wraps: u64,
    /// Resets seen so far.
    pub resets: u64,
}

impl Powercap {
    /// Finds the zones below a root.
    ///
    /// # Errors
    /// When there are none, or their counters may not be read; the error says which and what would help.
    pub fn discover(root: &Root) -> io::Result<Self> {
        let directory = root.join("sys/class/powercap");
        let entries = fs::read_dir(&directory).map_err(|error| {
            io::Error::new(
                error.kind(),
                "no powercap zones here (a virtual machine, or not mounted into the container)",
            )
        })?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.contains(':'))
            .collect();
        // The memory-mapped interface shows the same packages again, so it comes last.
        names.sort_by_key(|name| (name.contains("mmio"), name.clone()));
        let (mut zones, mut psys, mut known) = (Vec::new(), Vec::new(), HashSet::new());
        let mut refused = None;
        for entry in names {
            let path = directory.join(&entry);
            let Ok(label) = read_bounded(&path.join("name")) else { continue };
            let label = label.trim().to_owned();
            let nested = entry.matches(':').count() > 1;
            let (kind, inside) = match (nested, label.as_str()) {
                (_, label) if label.starts_with("dram") => (PartKind::Memory, false),
                (false, label) if label.starts_with("package") => (PartKind::Cpu, false),
                (false, "psys") => (PartKind::Rest, false),
                (true, "core" | "uncore") => (PartKind::Cpu, true),
                _ => continue,
            };
            // Memory and cores are named alike in every package.
            let id = if nested { format!("{}/{label}", parent_label(&directory, &entry)) } else { label };
            if known.contains(&id) {
                continue;
            }
            match open(&path, kind, &id, inside) {
                Ok(zone) => {
                    known.insert(id);
                    if kind == PartKind::Rest { psys.push(zone) } else { zones.push(zone) }
                }
                Err(error) => refused = Some((entry, error)),
            }
        }
        let platform = zones.iter().all(|zone| zone.inside);
        if platform {
            zones = psys;
        }
        match (zones.is_empty(), refused) {
            (false, _) => Ok(Self { zones, platform, wraps: 0, resets: 0 }),
            (true, Some((entry, error))) => Err(io::Error::new(
                error.kind(),
                format!("powercap zone {entry} cannot be read ({error}); its counter may be read by uid 0 only"),
            )),
            (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "no powercap zone of a package")),
        }
    }

    /// Names of the zones that count.
    pub fn names(&self) -> Vec<&str> {
        self.zones.iter().filter(|zone| !zone.inside).map(|zone| zone.id.as_str()).collect()
    }
}

impl EnergySource for Powercap {
    fn name(&self) -> &'static str {
        "powercap"
    }

    fn scope(&self) -> Scope {
        if self.platform { Scope::Board } else { Scope::Parts }
    }

    fn describes(&self) -> String {
        format!("powercap zones {} are readable", self.names().join(", "))
    }

    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault> {
        let mut reading = Reading::default();
        let mut fault = None;
        for zone in &mut self.zones {
            let taken = match read_number(&zone.path) {
                Ok(now) => zone.counter.take(now, hints.elapsed_ms, MAX_ZONE_WATTS),
                Err(error) => {
                    zone.counter.forget();
                    Err(Fault::Unreadable(format!("zone {}: {error}", zone.id)))
                }
            };
            match taken {
                Ok((microjoules, wrapped, unseen)) => {
                    let part = Part { kind: zone.kind, id: zone.id.clone(), microjoules };
                    if zone.inside {
                        reading.inside.push(part);
                    } else {
                        self.wraps += u64::from(wrapped);
                        reading.unsure_microjoules = reading.unsure_microjoules.saturating_add(unseen);
                        reading.parts.push(part);
                    }
                }
                // What is only shown does not spoil what counts.
                Err(_) if zone.inside => {}
                Err(other) => {
                    self.resets += u64::from(other == Fault::Reset);
                    // The word that says most: a first reading is no fault.
                    fault = fault.filter(Fault::is_fault).or(Some(other));
                }
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        if self.platform {
            reading.node = Some(reading.parts_microjoules());
            reading.parts.clear();
        }
        Ok(reading)
    }
}

fn parent_label(directory: &Path, entry: &str) -> String {
    let parent = entry.rsplit_once(':').map_or(entry, |(parent, _)| parent);
    read_bounded(&directory.join(parent).join("name"))
        .map(|label| label.trim().to_owned())
        .unwrap_or_else(|_| parent.to_owned())
}

fn open(path: &Path, kind: PartKind, id: &str, inside: bool) -> io::Result<Zone> {
    let counter = path.join("energy_uj");
    read_number(&counter)?;
    let range = read_number(&path.join("max_energy_range_uj"))?;
    if range == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its range is zero"));
    }
    Ok(Zone { kind, id: id.to_owned(), path: counter, counter: RangedCounter::new(range), inside })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: Hints = Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: None };

    fn zone(root: &Path, entry: &str, name: &str, energy: u64) {
        let path = root.join("sys/class/powercap").join(entry);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), format!("{name}\n")).unwrap();
        fs::write(path.join("energy_uj"), format!("{energy}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), "262143328850\n").unwrap();
        // A limit that looks like energy.
        fs::write(path.join("constraint_0_power_limit_uw"), "125000000\n").unwrap();
    }

    fn host(zones: &[(&str, &str)]) -> (tempfile::TempDir, Powercap) {
        let directory = tempfile::tempdir().unwrap();
        for (entry, name) in zones {
            zone(directory.path(), entry, name, 1_000);
        }
        let powercap = Powercap::discover(&Root::new(directory.path())).unwrap();
        (directory, powercap)
    }

    #[test]
    fn packages_and_memory_count_and_their_parts_do_not() {
        let (directory, mut powercap) = host(&[
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:1:0", "dram"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ]);
        assert_eq!(powercap.names(), ["package-0", "package-0/dram", "package-1", "package-1/dram"]);
        assert_eq!(powercap.advance(&HINTS), Err(Fault::First));
        zone(directory.path(), "intel-rapl:0", "package-0", 1_600);
        zone(directory.path(), "intel-rapl:0:0", "core", 1_200);
        zone(directory.path(), "intel-rapl:1:0", "dram", 1_050);
        zone(directory.path(), "intel-rapl-mmio:0", "package-0", 99_000);
        let reading = powercap.advance(&HINTS).unwrap();
        assert_eq!((reading.parts_microjoules(), reading.node), (650, None));
        let cores = Part { kind: PartKind::Cpu, id: "package-0/core".into(), microjoules: 200 };
        assert_eq!(reading.inside, [cores]);
    }

    #[test]
    fn amd_shows_a_package_and_its_cores_through_the_same_driver() {
        let (directory, mut powercap) = host(&[("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core")]);
        // 32 bits of 15.3 microjoules.
        let range = directory.path().join("sys/class/powercap/intel-rapl:0/max_energy_range_uj");
        fs::write(range, "65532610987\n").unwrap();
        assert_eq!(powercap.names(), ["package-0"]);
        let _ = powercap.advance(&HINTS);
        zone(directory.path(), "intel-rapl:0", "package-0", 61_000);
        assert_eq!(powercap.advance(&HINTS).unwrap().parts[0].microjoules, 60_000);
    }

    #[test]
    fn dies_of_one_package_and_a_memory_zone_of_its_own_count() {
        let (_directory, powercap) =
            host(&[("intel-rapl:0", "package-0-die-0"), ("intel-rapl:1", "package-0-die-1"), ("intel-rapl:2", "dram")]);
        assert_eq!(powercap.names(), ["package-0-die-0", "package-0-die-1", "dram"]);
    }

    #[test]
    fn the_platform_zone_is_the_whole_board_where_there_is_no_package() {
        let (directory, mut powercap) = host(&[("intel-rapl:0", "psys")]);
        assert_eq!(powercap.scope(), Scope::Board);
        let _ = powercap.advance(&HINTS);
        zone(directory.path(), "intel-rapl:0", "psys", 5_000);
        assert_eq!(powercap.advance(&HINTS).unwrap(), Reading::whole(4_000));
    }

    #[test]
    fn the_memory_mapped_interface_serves_where_the_other_may_not_be_read() {
        let directory = tempfile::tempdir().unwrap();
        zone(directory.path(), "intel-rapl:0", "package-0", 1);
        fs::remove_file(directory.path().join("sys/class/powercap/intel-rapl:0/energy_uj")).unwrap();
        zone(directory.path(), "intel-rapl-mmio:0", "package-0", 1);
        let powercap = Powercap::discover(&Root::new(directory.path())).unwrap();
        assert_eq!(powercap.names(), ["package-0"]);
    }

    #[test]
    fn a_zone_that_vanishes_makes_the_interval_unknown_and_says_which() {
        let (directory, mut powercap) = host(&[("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")]);
        let _ = powercap.advance(&HINTS);
        fs::remove_dir_all(directory.path().join("sys/class/powercap/intel-rapl:1")).unwrap();
        let fault = powercap.advance(&HINTS).unwrap_err();
        assert!(fault.to_string().contains("zone package-1"), "{fault}");
        zone(directory.path(), "intel-rapl:1", "package-1", 2_000);
        assert_eq!(powercap.advance(&HINTS), Err(Fault::First), "what it counted meanwhile is not known");
        assert!(powercap.advance(&HINTS).is_ok());
    }

    #[test]
    fn without_zones_the_reason_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Powercap::discover(&Root::new(directory.path())).unwrap_err().to_string().contains("virtual machine"));
        zone(directory.path(), "intel-rapl:0", "package-0", 1);
        fs::write(directory.path().join("sys/class/powercap/intel-rapl:0/energy_uj"), "-5\n").unwrap();
        let error = Powercap::discover(&Root::new(directory.path())).unwrap_err().to_string();
        assert!(error.contains("`-5` is no number"), "{error}");
    }
}
