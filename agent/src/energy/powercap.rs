//! Energy counters of the kernel's powercap zones (RAPL), with wrap and reset told apart.
//!
//! Counted are the packages and, where it is a zone of its own, the memory beside them; cores and uncore are parts of a
//! package, and psys is used only where there is no package. Zones that a second driver shows again count once.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::host::{Root, read_bounded, read_number};

/// No zone draws more than this; a step that would need it is a reset of the counter, not a wrap.
const MAX_ZONE_WATTS: u64 = 4_000;
/// Leave for late reads when a step is judged.
const SLACK_MS: u64 = 2_000;

/// How a counter moved between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It grew by this many microjoules; whether it passed its end on the way.
    Grew {
        /// Energy, microjoules.
        microjoules: u64,
        /// It began again at zero in between.
        wrapped: bool,
    },
    /// It was set back, or jumped: what happened in between is not known.
    Reset,
}

/// Judges two readings of a counter that ends at `range`, taken `elapsed_ms` apart.
pub fn step(before: u64, now: u64, range: u64, elapsed_ms: u64) -> Step {
    // Microjoules in a millisecond at a watt: 1,000.
    let most = MAX_ZONE_WATTS.saturating_mul(1_000).saturating_mul(elapsed_ms.saturating_add(SLACK_MS));
    let (microjoules, wrapped) = if now >= before {
        (now - before, false)
    } else if range >= before {
        (range - before + now, true)
    } else {
        return Step::Reset;
    };
    if microjoules > most { Step::Reset } else { Step::Grew { microjoules, wrapped } }
}

#[derive(Debug)]
struct Zone {
    name: String,
    counter: PathBuf,
    range: u64,
    last: Option<u64>,
}

/// The zones of a node that together are its energy.
#[derive(Debug)]
pub struct Powercap {
    zones: Vec<Zone>,
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
            let wanted = if nested {
                label.starts_with("dram")
            } else {
                label.starts_with("package") || label.starts_with("dram")
            };
            // Memory is named alike in every package.
            let place = if nested { format!("{}/{label}", parent_label(&directory, &entry)) } else { label.clone() };
            let is_psys = !nested && label == "psys";
            if !(wanted || is_psys) || !known.insert(place.clone()) {
                continue;
            }
            match open(&path, place) {
                Ok(zone) if is_psys => psys.push(zone),
                Ok(zone) => zones.push(zone),
                Err(error) => refused = Some((entry, error)),
            }
        }
        if zones.is_empty() {
            zones = psys;
        }
        match (zones.is_empty(), refused) {
            (false, _) => Ok(Self { zones, wraps: 0, resets: 0 }),
            (true, Some((entry, error))) => Err(io::Error::new(
                error.kind(),
                format!("powercap zone {entry} cannot be read ({error}); its counter may be read by uid 0 only"),
            )),
            (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "no powercap zone of a package")),
        }
    }

    /// Names of the zones.
    pub fn names(&self) -> Vec<&str> {
        self.zones.iter().map(|zone| zone.name.as_str()).collect()
    }

    /// Energy since the last call, microjoules; `None` when it is not known: at the first call, after a reset, or when a
    /// zone could not be read.
    pub fn advance(&mut self, elapsed_ms: u64) -> Option<u64> {
        let mut total = 0_u64;
        let mut known = true;
        for zone in &mut self.zones {
            let Ok(now) = read_number(&zone.counter) else {
                zone.last = None;
                known = false;
                continue;
            };
            match zone.last.replace(now).map(|before| step(before, now, zone.range, elapsed_ms)) {
                Some(Step::Grew { microjoules, wrapped }) => {
                    self.wraps += u64::from(wrapped);
                    total = total.saturating_add(microjoules);
                }
                Some(Step::Reset) => {
                    self.resets += 1;
                    tracing::warn!(zone = zone.name, "an energy counter was set back; the interval is a gap");
                    known = false;
                }
                None => known = false,
            }
        }
        known.then_some(total)
    }
}

fn parent_label(directory: &Path, entry: &str) -> String {
    let parent = entry.rsplit_once(':').map_or(entry, |(parent, _)| parent);
    read_bounded(&directory.join(parent).join("name"))
        .map(|label| label.trim().to_owned())
        .unwrap_or_else(|_| parent.to_owned())
}

fn open(path: &Path, name: String) -> io::Result<Zone> {
    let counter = path.join("energy_uj");
    read_number(&counter)?;
    let range = read_number(&path.join("max_energy_range_uj"))?;
    if range == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its range is zero"));
    }
    Ok(Zone { name, counter, range, last: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(root: &Path, entry: &str, name: &str, energy: u64) {
        let path = root.join("sys/class/powercap").join(entry);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), format!("{name}\n")).unwrap();
        fs::write(path.join("energy_uj"), format!("{energy}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), "262143328850\n").unwrap();
    }

    #[test]
    fn packages_and_memory_count_and_their_parts_do_not() {
        let directory = tempfile::tempdir().unwrap();
        for (entry, name) in [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:1:0", "dram"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ] {
            zone(directory.path(), entry, name, 100);
        }
        let mut powercap = Powercap::discover(&Root::new(directory.path())).unwrap();
        assert_eq!(powercap.names(), ["package-0", "package-0/dram", "package-1", "package-1/dram"]);
        assert_eq!(powercap.advance(1000), None);
        zone(directory.path(), "intel-rapl:0", "package-0", 600);
        zone(directory.path(), "intel-rapl:1:0", "dram", 150);
        assert_eq!(powercap.advance(1000), Some(550));
    }

    #[test]
    fn a_wrap_is_counted_and_a_reset_is_a_gap() {
        assert_eq!(step(90, 20, 100, 1000), Step::Grew { microjoules: 30, wrapped: true });
        assert_eq!(step(90, 95, 100, 1000), Step::Grew { microjoules: 5, wrapped: false });
        // The counter began anew half way through its range: no node takes 131 kJ in a second.
        assert_eq!(step(131_000_000_000, 5, 262_143_328_850, 1000), Step::Reset);
        assert_eq!(step(500, 5, 100, 1000), Step::Reset);
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

    proptest! {
        #[test]
        fn no_energy_is_lost_over_wraps(start in 0_u64..1_000_000, steps in proptest::collection::vec(0_u64..1_000_000, 1..200)) {
            let range = 1_000_000;
            let (mut counter, mut seen, mut spent) = (start, 0_u64, 0_u64);
            for used in steps {
                // Less than one range between two readings; the counter ends at its range and begins at zero.
                let used = used % range;
                let next = if counter + used > range { counter + used - range } else { counter + used };
                match step(counter, next, range, 1000) {
                    Step::Grew { microjoules, .. } => seen += microjoules,
                    Step::Reset => prop_assert!(false, "a wrap was taken for a reset"),
                }
                spent += used;
                counter = next;
            }
            prop_assert_eq!(seen, spent);
        }
    }
}
