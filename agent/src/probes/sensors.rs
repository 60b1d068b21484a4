//! Sensors of boards and chips: temperatures against the limits that their makers gave, and alarms.

use std::{collections::BTreeMap, io};

use super::source::{About, Findings, Look, Source, absent};
use crate::sources::series::{Reading, SeriesName};

/// Sensor files that are looked at in one pass: some sit behind slow buses.
const MAX_SENSORS: usize = 512;
/// Millidegrees that a sensor of a computer can show; what is outside is a sensor that lies or is not connected.
const PLAUSIBLE: std::ops::RangeInclusive<i64> = -40_000..=150_000;

/// What the chips of hwmon measure.
pub struct Hwmon;

impl Source for Hwmon {
    fn about(&self) -> &'static About {
        &About {
            name: "hwmon",
            reads: &["sys/class/hwmon/*/{name,temp*_*,fan*_*,in*_*,curr*_*}"],
            measures: &["sensor.heat", "sensor.alarm"],
            series: &["temp.*.celsius"],
            says: "temperatures against the critical ones, alarms of fans, voltages and currents",
            needs: "hwmon drivers; virtual machines have none",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let base = "sys/class/hwmon";
        let mut found = Findings::default();
        let mut left = MAX_SENSORS;
        for directory in look.list(base) {
            let mut at = format!("{base}/{directory}");
            let name = look.word(format!("{at}/name")).or_else(|| {
                // Old drivers keep their files one level below.
                at.push_str("/device");
                look.word(format!("{at}/name"))
            });
            let Some(name) = name else { continue };
            // Two chips of one kind have one name; the number tells them apart.
            let chip = format!("{name}-{}", directory.trim_start_matches("hwmon"));
            self.chip(look, &at, &chip, &mut left, &mut found);
        }
        found.or_absent("no sensors (no hwmon driver)")
    }
}

impl Hwmon {
    fn chip(&self, look: &Look<'_>, at: &str, chip: &str, left: &mut usize, found: &mut Findings) {
        let mut hottest: Option<i64> = None;
        for file in look.list(at) {
            let Some((sensor, what)) = file.split_once('_') else { continue };
            let kind = sensor.trim_end_matches(|c: char| c.is_ascii_digit());
            let relevant = match kind {
                "temp" => ["input", "crit_alarm", "emergency_alarm", "fault"].contains(&what),
                "fan" => ["alarm", "fault"].contains(&what),
                "in" | "curr" => ["crit_alarm", "lcrit_alarm"].contains(&what),
                _ => false,
            };
            if !relevant || *left == 0 {
                continue;
            }
            *left -= 1;
            let label = look.word(format!("{at}/{sensor}_label")).unwrap_or_else(|| sensor.to_owned());
            let of = format!("{chip} {label}");
            if what == "input" {
                let Some(milli) = look.integer(format!("{at}/{file}")) else { continue };
                if !PLAUSIBLE.contains(&milli) {
                    look.doubt(format!("{at}/{file}"), "shows what no sensor can");
                    continue;
                }
                hottest = Some(hottest.map_or(milli, |before| before.max(milli)));
                // Drivers that know no limit give zero or the largest number there is.
                let limit = look.word(format!("{at}/{sensor}_crit")).and_then(|text| text.parse::<i64>().ok());
                if let Some(limit) = limit.filter(|limit| (30_000..=150_000).contains(limit)) {
                    let says = format!("{of}: {} °C, critical is {} °C", milli / 1000, limit / 1000);
                    found.figure("sensor.heat", of, (milli as f64 / limit as f64).max(0.0), says);
                }
                continue;
            }
            // A fan that nobody said a least speed for cannot be too slow: boards raise its alarm nevertheless.
            if kind == "fan" && what == "alarm" && look.word(format!("{at}/{sensor}_min")).is_none_or(|min| min == "0")
            {
                continue;
            }
            let Some(alarm) = look.number(format!("{at}/{file}")) else { continue };
            let says = format!("{of}: {}", what.replace('_', " "));
            found.figure("sensor.alarm", format!("{of} {what}"), f64::from(u8::from(alarm != 0)), says);
        }
        if let Some(milli) = hottest {
            found.reading(Reading::level(SeriesName::of("temp", chip, "celsius"), milli as f64 / 1000.0));
        }
    }
}

/// Thermal zones of the kernel.
pub struct Zones;

impl Source for Zones {
    fn about(&self) -> &'static About {
        &About {
            name: "thermal-zones",
            reads: &["sys/class/thermal/thermal_zone*/{type,temp,trip_point_*_type,trip_point_*_temp}"],
            measures: &["zone.heat"],
            series: &["temp.*.celsius"],
            says: "temperatures of zones against the trip point at which the kernel powers the machine off",
            needs: "thermal zones; most servers on x86 and arm64 have some, virtual machines none",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let base = "sys/class/thermal";
        let mut found = Findings::default();
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        for zone in look.list(base).into_iter().filter(|name| name.starts_with("thermal_zone")).take(MAX_SENSORS) {
            let at = format!("{base}/{zone}");
            let Some(milli) = look.integer(format!("{at}/temp")) else { continue };
            if !PLAUSIBLE.contains(&milli) {
                look.doubt(format!("{at}/temp"), "shows what no sensor can");
                continue;
            }
            let kind = look.word(format!("{at}/type")).unwrap_or_else(|| zone.clone());
            let count = names.entry(kind.clone()).or_default();
            let of = if *count == 0 { kind } else { format!("{kind}-{count}") };
            *count += 1;
            found.reading(Reading::level(SeriesName::of("temp", &of, "celsius"), milli as f64 / 1000.0));
            let trips = (0..16).map_while(|index| {
                let kind = look.word(format!("{at}/trip_point_{index}_type"))?;
                let celsius = look.word(format!("{at}/trip_point_{index}_temp")).and_then(|t| t.parse::<i64>().ok());
                Some((kind, celsius))
            });
            let deadly = trips.filter(|(kind, _)| kind == "critical" || kind == "hot").filter_map(|(_, milli)| milli);
            if let Some(limit) = deadly.filter(|limit| (30_000..=150_000).contains(limit)).min() {
                let says = format!("{of}: {} °C, the trip point is at {} °C", milli / 1000, limit / 1000);
                found.figure("zone.heat", of, (milli as f64 / limit as f64).max(0.0), says);
            }
        }
        if found.readings.is_empty() { Err(absent("no thermal zones")) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{Host, value};

    const CHIP: &str = "sys/class/hwmon/hwmon2";

    #[test]
    fn heat_is_told_against_the_critical_temperature_and_alarms_by_name() {
        let mut host = Host::of(&[
            (&format!("{CHIP}/name"), "coretemp\n"),
            (&format!("{CHIP}/temp1_input"), "45000\n"),
            (&format!("{CHIP}/temp1_label"), "Package id 0\n"),
            (&format!("{CHIP}/temp1_crit"), "100000\n"),
            (&format!("{CHIP}/temp1_crit_alarm"), "0\n"),
            (&format!("{CHIP}/fan1_alarm"), "1\n"),
            (&format!("{CHIP}/fan2_alarm"), "1\n"),
            (&format!("{CHIP}/fan2_min"), "900\n"),
            (&format!("{CHIP}/in0_min_alarm"), "1\n"),
        ]);
        let found = host.read(&mut Hwmon).unwrap();
        assert_eq!(value(&found, "sensor.heat"), 0.45);
        let alarms: Vec<_> = found.figures.iter().filter(|f| f.measure == "sensor.alarm" && f.value > 0.0).collect();
        assert_eq!(alarms.iter().map(|f| f.says.as_str()).collect::<Vec<_>>(), ["coretemp-2 fan2: alarm"]);
        assert_eq!((found.readings[0].name.as_str(), found.readings[0].value), ("temp.coretemp-2.celsius", 45.0));
        host.put(&format!("{CHIP}/temp1_input"), "99000\n");
        assert_eq!(
            host.read(&mut Hwmon).unwrap().figures[2].says,
            "coretemp-2 Package id 0: 99 °C, critical is 100 °C"
        );
    }

    #[test]
    fn sensors_that_lie_are_left_out_and_counted() {
        let mut host = Host::of(&[(&format!("{CHIP}/name"), "lm75\n"), (&format!("{CHIP}/temp1_crit"), "-273150\n")]);
        for lie in ["-128000\n", "9223372036854775808\n", "255000\n", "hot", ""] {
            host.put(&format!("{CHIP}/temp1_input"), lie);
            let before = host.trouble().count;
            assert!(host.read(&mut Hwmon).is_err(), "{lie}");
            assert_eq!(host.trouble().count, before + 1, "{lie}");
        }
        host.put(&format!("{CHIP}/temp1_input"), "30000\n");
        assert!(host.read(&mut Hwmon).unwrap().figures.is_empty());
    }

    #[test]
    fn zones_are_told_against_the_trip_point_that_ends_it() {
        let zone = "sys/class/thermal/thermal_zone0";
        let host = Host::of(&[
            (&format!("{zone}/type"), "soc-thermal\n"),
            (&format!("{zone}/temp"), "90000\n"),
            (&format!("{zone}/trip_point_0_type"), "passive\n"),
            (&format!("{zone}/trip_point_0_temp"), "70000\n"),
            (&format!("{zone}/trip_point_1_type"), "critical\n"),
            (&format!("{zone}/trip_point_1_temp"), "100000\n"),
            ("sys/class/thermal/cooling_device0/type", "fan"),
        ]);
        let found = host.read(&mut Zones).unwrap();
        assert_eq!(value(&found, "zone.heat"), 0.9);
        assert!(Host::of(&[]).read(&mut Zones).is_err());
    }
}
