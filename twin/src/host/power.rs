//! Power over utilisation, and the sensors that show parts of it.

use std::io;

use super::{HostSpec, State};

/// RAPL counters wrap at this value on many servers, in microjoules (`max_energy_range_uj`).
const MAX_ENERGY_RANGE: u64 = 262_143_328_850;

/// Watts at the wall at 0, 10, ... 100 % utilisation, straight lines between.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerCurve {
    /// The eleven points, in watts.
    pub watts: [f64; 11],
}

/// Average watts that the RAPL zones of all sockets together show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZonePower {
    /// Packages.
    pub package: f64,
    /// Memory.
    pub dram: f64,
}

impl PowerCurve {
    /// Idle and full power with the concave shape between them that servers show: P = idle + (max - idle)(2u - u^1.4)
    /// (Fan, Weber and Barroso, 2007).
    pub fn concave(idle_watts: f64, max_watts: f64) -> Self {
        let mut watts = [0.0; 11];
        for (index, point) in watts.iter_mut().enumerate() {
            let u = index as f64 / 10.0;
            *point = idle_watts + (max_watts - idle_watts) * (2.0 * u - u.powf(1.4));
        }
        PowerCurve { watts }
    }

    /// A two-socket server: 110 W idle, 420 W at full load.
    pub fn server() -> Self {
        PowerCurve::concave(110.0, 420.0)
    }

    /// Watts at the wall at a utilisation between 0 and 1.
    pub fn watts(&self, utilisation: f64) -> f64 {
        let place = utilisation.clamp(0.0, 1.0) * 10.0;
        let index = (place as usize).min(9);
        let part = place - index as f64;
        self.watts[index] * (1.0 - part) + self.watts[index + 1] * part
    }

    /// What RAPL shows of it: of the idle power 40 % package and 8 % memory, of the load's power 72 % and 9 %. The
    /// rest is power supplies, fans, disks and boards, which RAPL does not see.
    pub fn zones(&self, utilisation: f64) -> ZonePower {
        let idle = self.watts[0];
        let load = self.watts(utilisation) - idle;
        ZonePower { package: 0.40 * idle + 0.72 * load, dram: 0.08 * idle + 0.09 * load }
    }
}

/// Energy of the zones since boot, in microjoules.
#[derive(Debug, Default)]
pub(super) struct Zones {
    package: f64,
    dram: f64,
}

impl Zones {
    pub(super) fn advance(&mut self, power: &ZonePower, seconds: f64) {
        self.package += power.package * seconds * 1e6;
        self.dram += power.dram * seconds * 1e6;
    }
}

/// Sockets: the load is shared equally.
const SOCKETS: u64 = 2;

pub(super) fn still(spec: &HostSpec, state: &mut State) -> io::Result<()> {
    if spec.powercap {
        for socket in 0..SOCKETS {
            for (zone, name) in [
                (format!("intel-rapl:{socket}"), format!("package-{socket}")),
                (format!("intel-rapl:{socket}:0"), "dram".to_owned()),
            ] {
                let folder = format!("sys/class/powercap/{zone}");
                state.files.write(&format!("{folder}/name"), &format!("{name}\n"))?;
                state.files.write(&format!("{folder}/max_energy_range_uj"), &format!("{MAX_ENERGY_RANGE}\n"))?;
                state.files.write(&format!("{folder}/enabled"), "1\n")?;
            }
        }
    }
    if spec.wall_sensor {
        state.files.write("sys/class/hwmon/hwmon0/name", "power_meter\n")?;
        state.files.write("sys/class/hwmon/hwmon0/power1_average_interval", "1000\n")?;
    }
    Ok(())
}

pub(super) fn moving(spec: &HostSpec, state: &mut State) -> io::Result<()> {
    if spec.powercap {
        for socket in 0..SOCKETS {
            for (zone, total) in [
                (format!("intel-rapl:{socket}"), state.zones.package),
                (format!("intel-rapl:{socket}:0"), state.zones.dram),
            ] {
                let shown = (total as u64 / SOCKETS) % (MAX_ENERGY_RANGE + 1);
                state.files.write(&format!("sys/class/powercap/{zone}/energy_uj"), &format!("{shown}\n"))?;
            }
        }
    }
    if spec.wall_sensor {
        let microwatts = spec.power.watts(state.utilisation) * 1e6;
        state.files.write("sys/class/hwmon/hwmon0/power1_average", &format!("{microwatts:.0}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn more_load_never_takes_less_power_and_sensors_never_show_more_than_the_wall(a in 0.0f64..1.0, b in 0.0f64..1.0) {
            let curve = PowerCurve::server();
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(curve.watts(low) <= curve.watts(high) + 1e-9);
            let zones = curve.zones(high);
            prop_assert!(zones.package + zones.dram < curve.watts(high));
        }
    }
}
