//! What processors and memory count: errors that memory corrected, and times that heat slowed a CPU down.

use std::{collections::BTreeMap, io};

use super::{
    counters::{Counters, MINUTE_MS},
    source::{About, Findings, Look, Source, absent},
};
use crate::sources::series::{Reading, SeriesName};

/// Errors of memory controllers, remembered.
pub struct MemoryErrors {
    hour: Counters,
    two_hours: Counters,
}

impl Default for MemoryErrors {
    fn default() -> Self {
        Self { hour: Counters::new(60 * MINUTE_MS), two_hours: Counters::new(120 * MINUTE_MS) }
    }
}

impl Source for MemoryErrors {
    fn about(&self) -> &'static About {
        &About {
            name: "edac",
            reads: &[
                "sys/devices/system/edac/mc/mc*/{ce_count,ue_count}",
                "…/{dimm*,rank*}/{dimm_label,dimm_ce_count}",
            ],
            measures: &["edac.corrected.per-hour", "edac.corrected.trend", "edac.uncorrected"],
            series: &["edac.*.ce", "edac.*.ue"],
            says: "memory errors that ECC corrected or could not, by controller, with the module that has most of them",
            needs: "ECC memory and an EDAC driver",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        const NONE: &str = "no memory controller reports errors (no EDAC driver)";
        let base = "sys/devices/system/edac/mc";
        let mut found = Findings::default();
        for name in look.list(base).into_iter().filter(|name| name.starts_with("mc")) {
            let Some(corrected) = look.number(format!("{base}/{name}/ce_count")) else { continue };
            let hour = self.hour.add(&name, corrected, look.now_ms);
            let before = self.two_hours.add(&name, corrected, look.now_ms).saturating_sub(hour);
            let worst = if hour > 0 { worst_module(look, &format!("{base}/{name}")) } else { None };
            let at = worst.map(|module| format!(", most of them at {module}")).unwrap_or_default();
            let says = format!("{name}: {hour} errors corrected in the last hour, {before} in the hour before{at}");
            let trend = hour.saturating_add(1) as f64 / before.saturating_add(1) as f64;
            found.figure("edac.corrected.per-hour", &name, hour as f64, says.clone());
            found.figure("edac.corrected.trend", &name, trend, says);
            found.reading(Reading::counts(SeriesName::of("edac", &name, "ce"), corrected));
            if let Some(uncorrected) = look.number(format!("{base}/{name}/ue_count")) {
                let says = format!("{name}: {uncorrected} errors that could not be corrected");
                found.figure("edac.uncorrected", &name, uncorrected as f64, says);
                found.reading(Reading::counts(SeriesName::of("edac", &name, "ue"), uncorrected));
            }
        }
        found.or_absent(NONE)
    }
}

/// The memory module that counts most errors, by the label that is printed on the board where the driver knows it.
fn worst_module(look: &Look<'_>, controller: &str) -> Option<String> {
    let modules = look.list(controller).into_iter().filter(|name| name.starts_with("dimm") || name.starts_with("rank"));
    let counted = modules.filter_map(|name| {
        let count = look.number(format!("{controller}/{name}/dimm_ce_count")).filter(|count| *count > 0)?;
        Some((count, look.word(format!("{controller}/{name}/dimm_label")).unwrap_or(name)))
    });
    counted.max().map(|(_, label)| label)
}

/// Times that heat slowed CPUs down, by package.
pub struct Throttles(Counters);

impl Default for Throttles {
    fn default() -> Self {
        Self(Counters::new(5 * MINUTE_MS))
    }
}

impl Source for Throttles {
    fn about(&self) -> &'static About {
        &About {
            name: "thermal-throttle",
            reads: &["sys/devices/system/cpu/cpu*/thermal_throttle/{package,core}_throttle_count"],
            measures: &["thermal.throttles"],
            series: &["thermal.*.throttles"],
            says: "times that heat slowed a CPU down, by package",
            needs: "an x86 CPU of Intel's that is not virtual",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let base = "sys/devices/system/cpu";
        let mut packages: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for name in look.list(base) {
            let digits = name.strip_prefix("cpu").unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let at = format!("{base}/{name}");
            let Some(package_count) = look.number(format!("{at}/thermal_throttle/package_throttle_count")) else {
                // The first CPU can only count when the others do: no need to ask hundreds of them.
                if name == "cpu0" && !look.has(format!("{at}/thermal_throttle")) {
                    break;
                }
                continue;
            };
            let core_count = look.number(format!("{at}/thermal_throttle/core_throttle_count")).unwrap_or(0);
            // All CPUs of a package show the package's count; of cores the hottest one is enough to know.
            let package = look.word(format!("{at}/topology/physical_package_id")).and_then(|id| id.parse().ok());
            let most = packages.entry(package.unwrap_or(0)).or_default();
            *most = (most.0.max(package_count), most.1.max(core_count));
        }
        let mut found = Findings::default();
        for (package, (of_package, of_cores)) in packages {
            let (of, count) = (format!("package{package}"), of_package.saturating_add(of_cores));
            let added = self.0.add(&of, count, look.now_ms);
            let says = format!("package {package}: slowed down {added} times in the last 5 minutes");
            found.figure("thermal.throttles", &of, added as f64, says);
            found.reading(Reading::counts(SeriesName::of("thermal", &of, "throttles"), count));
        }
        if found.figures.is_empty() { Err(absent("no CPU counts how often heat slows it down")) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{Host, value};

    const MC: &str = "sys/devices/system/edac/mc/mc0";
    const CPU: &str = "sys/devices/system/cpu";

    #[test]
    fn memory_errors_have_a_rate_a_trend_and_a_module() {
        let mut host = Host::of(&[
            (&format!("{MC}/ce_count"), "5\n"),
            (&format!("{MC}/ue_count"), "0\n"),
            (&format!("{MC}/dimm0/dimm_label"), "CPU_SrcID#0_Ha#0_Chan#0_DIMM#0\n"),
            (&format!("{MC}/dimm0/dimm_ce_count"), "40\n"),
            (&format!("{MC}/dimm1/dimm_ce_count"), "1\n"),
        ]);
        let mut source = MemoryErrors::default();
        host.read(&mut source).unwrap();
        host.put(&format!("{MC}/ce_count"), "6\n");
        host.now_ms = 50 * MINUTE_MS;
        host.read(&mut source).unwrap();
        host.put(&format!("{MC}/ce_count"), "46\n");
        host.put(&format!("{MC}/ue_count"), "2\n");
        host.now_ms = 115 * MINUTE_MS;
        let found = host.read(&mut source).unwrap();
        assert_eq!(value(&found, "edac.uncorrected"), 2.0);
        assert_eq!(value(&found, "edac.corrected.per-hour"), 40.0);
        assert_eq!(value(&found, "edac.corrected.trend"), 41.0 / 2.0);
        assert!(found.figures[0].says.contains("Chan#0_DIMM#0"), "{}", found.figures[0].says);
        assert_eq!(found.readings[0].name.as_str(), "edac.mc0.ce");
    }

    #[test]
    fn counters_that_overflow_or_go_back_are_no_errors_of_memory() {
        let mut host =
            Host::of(&[(&format!("{MC}/ce_count"), "18446744073709551615\n"), (&format!("{MC}/ue_count"), "-1\n")]);
        let mut source = MemoryErrors::default();
        let found = host.read(&mut source).unwrap();
        assert_eq!(value(&found, "edac.corrected.per-hour"), 0.0);
        assert_eq!(host.trouble().count, 1);
        host.put(&format!("{MC}/ce_count"), "3\n");
        host.now_ms = 1000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "edac.corrected.trend"), 1.0);
    }

    #[test]
    fn heat_is_counted_within_its_window() {
        let mut host = Host::of(&[
            (&format!("{CPU}/cpu0/thermal_throttle/package_throttle_count"), "3\n"),
            (&format!("{CPU}/cpu0/thermal_throttle/core_throttle_count"), "1\n"),
            (&format!("{CPU}/cpufreq/x"), ""),
        ]);
        let mut source = Throttles::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "thermal.throttles"), 0.0);
        host.put(&format!("{CPU}/cpu0/thermal_throttle/package_throttle_count"), "23\n");
        host.now_ms = 10_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "thermal.throttles"), 20.0);
        host.now_ms = 400_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "thermal.throttles"), 0.0);
    }

    #[test]
    fn a_tree_without_hardware_gives_reasons() {
        let host = Host::of(&[(&format!("{CPU}/cpu0/online"), "1")]);
        assert!(host.read(&mut MemoryErrors::default()).unwrap_err().to_string().contains("EDAC"));
        assert!(host.read(&mut Throttles::default()).is_err());
    }
}
