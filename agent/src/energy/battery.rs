//! Batteries, the last resort: what flows out of them is what the machine takes, but only while it runs on them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    gauge::Gauge,
    source::{EnergySource, Fault, Hints, Reading, Scope},
};
use crate::host::{Root, read_bounded, read_number};

/// Batteries that are read at most.
const MAX_BATTERIES: usize = 8;

/// All batteries of a machine.
#[derive(Debug)]
pub struct Batteries {
    paths: Vec<PathBuf>,
    gauge: Gauge,
}

impl Batteries {
    /// Finds the batteries of the machine itself; those of mice and keyboards are not.
    ///
    /// # Errors
    /// When there is none that tells its power.
    pub fn discover(root: &Root) -> io::Result<Self> {
        let is =
            |path: &Path, file: &str, word: &str| read_bounded(&path.join(file)).is_ok_and(|text| text.trim() == word);
        let mut paths: Vec<PathBuf> = fs::read_dir(root.join("sys/class/power_supply"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is(path, "type", "Battery") && !is(path, "scope", "Device") && microwatts(path).is_ok())
            .collect();
        paths.sort();
        paths.truncate(MAX_BATTERIES);
        if paths.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no battery that tells its power"));
        }
        Ok(Self { paths, gauge: Gauge::default() })
    }
}

/// Power of a battery: told as such, or as current times voltage.
fn microwatts(battery: &Path) -> io::Result<i64> {
    let signed = |file: &str| -> io::Result<i64> {
        read_bounded(&battery.join(file))?
            .trim()
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{file} is no number")))
    };
    // Drivers disagree about the sign while it discharges.
    if let Ok(power) = signed("power_now") {
        return Ok(power.saturating_abs());
    }
    let (current, voltage) = (signed("current_now")?, read_number(&battery.join("voltage_now"))?);
    let product = i128::from(current).abs() * i128::from(voltage) / 1_000_000;
    Ok(i64::try_from(product).unwrap_or(i64::MAX))
}

impl EnergySource for Batteries {
    fn name(&self) -> &'static str {
        "battery"
    }

    fn scope(&self) -> Scope {
        Scope::Battery
    }

    fn describes(&self) -> String {
        "the machine runs on its battery, which tells its power".into()
    }

    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault> {
        let mut sum = 0_i64;
        for path in &self.paths {
            let status = read_bounded(&path.join("status")).unwrap_or_default();
            match status.trim() {
                "Discharging" => {}
                // The other battery of two.
                "Not charging" | "Full" | "Unknown" if self.paths.len() > 1 => continue,
                _ => {
                    self.gauge.forget();
                    return Err(Fault::NotNow("the machine does not run on its battery"));
                }
            }
            match microwatts(path) {
                Ok(power) => sum = sum.saturating_add(power),
                Err(error) => {
                    self.gauge.forget();
                    return Err(Fault::Unreadable(error.to_string()));
                }
            }
        }
        self.gauge.take(sum, hints).map(Reading::whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: Hints = Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: None };

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join("sys/class/power_supply").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    #[test]
    fn a_battery_is_a_source_only_while_the_machine_runs_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "AC/type", "Mains");
        write(root, "hid-mouse/type", "Battery");
        write(root, "hid-mouse/scope", "Device");
        write(root, "hid-mouse/power_now", "1");
        assert!(Batteries::discover(&Root::new(root)).is_err());
        write(root, "BAT0/type", "Battery");
        write(root, "BAT0/status", "Discharging");
        write(root, "BAT0/current_now", "-1500000");
        write(root, "BAT0/voltage_now", "12000000");
        let mut batteries = Batteries::discover(&Root::new(root)).unwrap();
        assert_eq!(batteries.advance(&HINTS), Err(Fault::First));
        assert_eq!(batteries.advance(&HINTS), Ok(Reading::whole(18_000_000)));
        write(root, "BAT0/status", "Charging");
        assert!(matches!(batteries.advance(&HINTS), Err(Fault::NotNow(_))));
        write(root, "BAT0/status", "Discharging");
        assert_eq!(batteries.advance(&HINTS), Err(Fault::First), "charging is not the machine's power");
    }
}
