//! Power and energy sensors of the kernel's hardware monitoring: ACPI power meters, power supplies, board rails, sockets
//! of AMD servers, graphics cards.
//!
//! What a sensor measures is told by its driver and its label. One that tells neither is not used: a rail of unknown
//! purpose is no energy of a node.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    counter::EndlessCounter,
    gauge::Gauge,
    source::{EnergySource, Fault, Hints, Part, PartKind, Reading, Scope},
};
use crate::host::{Root, read_bounded};

/// Sensors of a kind that are read at most.
const MAX_SENSORS: usize = 64;
/// Sensor numbers that a chip can have.
const MAX_CHANNELS: usize = 512;

/// What a sensor measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Meaning {
    /// ACPI's meter of the whole machine.
    Machine,
    /// Input of one power supply.
    Supply,
    /// Input of the board, behind the supply.
    Board,
    /// A socket.
    Socket,
    /// A graphics card.
    Card,
}

impl Meaning {
    fn source(self) -> &'static str {
        match self {
            Self::Machine => "acpi-power-meter",
            Self::Supply => "power-supplies",
            Self::Board => "board-sensor",
            Self::Socket => "socket-sensor",
            Self::Card => "gpu-sensor",
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::Machine | Self::Supply => Scope::Wall,
            Self::Board => Scope::Board,
            Self::Socket | Self::Card => Scope::Parts,
        }
    }
}

#[derive(Debug)]
enum Measure {
    /// Microwatts.
    Power(Gauge),
    /// Microjoules that only grow.
    Energy(EndlessCounter),
}

#[derive(Debug)]
struct Sensor {
    id: String,
    path: PathBuf,
    measure: Measure,
}

/// Sensors of one meaning, read together.
#[derive(Debug)]
pub struct HwmonSource {
    meaning: Meaning,
    sensors: Vec<Sensor>,
}

/// Finds the sources among the chips, best first.
///
/// # Errors
/// When there is none, with what was there instead.
pub fn discover(root: &Root) -> io::Result<Vec<HwmonSource>> {
    let mut found: Vec<(Meaning, Sensor)> = Vec::new();
    let mut unknown = Vec::new();
    for chip in entries(&root.join("sys/class/hwmon")) {
        let Ok(name) = read_bounded(&chip.join("name")) else { continue };
        let name = name.trim().to_owned();
        // Some drivers keep their files one level deeper.
        let folder = if has_sensor(&chip) { chip.clone() } else { chip.join("device") };
        for (meaning, sensor) in sensors_of(&folder, &name, &mut unknown) {
            if found.iter().filter(|(other, _)| *other == meaning).count() < MAX_SENSORS {
                found.push((meaning, sensor));
            }
        }
    }
    if !found.iter().any(|(meaning, _)| *meaning == Meaning::Machine) {
        // The same meter, where only ACPI's own folder is visible.
        for device in entries(&root.join("sys/bus/acpi/drivers/power_meter")) {
            found.extend(sensors_of(&device, "power_meter", &mut unknown));
        }
    }
    let meanings = [Meaning::Machine, Meaning::Supply, Meaning::Board, Meaning::Socket, Meaning::Card];
    let mut sources = Vec::new();
    for meaning in meanings {
        let (of_it, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|(other, _)| *other == meaning);
        found = rest;
        if !of_it.is_empty() {
            sources.push(HwmonSource { meaning, sensors: of_it.into_iter().map(|(_, sensor)| sensor).collect() });
        }
    }
    if !sources.is_empty() {
        return Ok(sources);
    }
    let reason = if unknown.is_empty() {
        "no sensor of power or energy in sys/class/hwmon".to_owned()
    } else {
        unknown.truncate(8);
        format!("what these sensors measure is not known: {}", unknown.join(", "))
    };
    Err(io::Error::new(io::ErrorKind::NotFound, reason))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn has_sensor(folder: &Path) -> bool {
    ["power1_input", "power1_average", "energy1_input", "name"].iter().any(|file| folder.join(file).exists())
}

fn sensors_of(folder: &Path, chip: &str, unknown: &mut Vec<String>) -> Vec<(Meaning, Sensor)> {
    let mut numbers: Vec<(usize, bool)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| channel(entry.file_name().to_str()?))
        .take(MAX_CHANNELS)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let place = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for (number, is_energy) in numbers {
        let quantity = if is_energy { "energy" } else { "power" };
        let label = read_bounded(&folder.join(format!("{quantity}{number}_label"))).unwrap_or_default();
        let label = label.trim().to_lowercase();
        let Some(meaning) = meaning(chip, &label, is_energy) else {
            unknown.push(format!("{chip} {quantity}{number} `{label}`"));
            continue;
        };
        // The average is what the hardware measured between two looks; the input is one moment of it.
        let files = ["average", "input"].map(|kind| folder.join(format!("{quantity}{number}_{kind}")));
        let Some(path) = files.into_iter().find(|path| path.exists()) else { continue };
        let id = if label.is_empty() { format!("{chip}-{place}-{number}") } else { format!("{chip}-{place}-{label}") };
        let measure = if is_energy {
            Measure::Energy(EndlessCounter::default())
        } else {
            let rests = matches!(meaning, Meaning::Card | Meaning::Supply);
            let gauge = if rests { Gauge::that_may_rest() } else { Gauge::default() };
            Measure::Power(if path.to_string_lossy().ends_with("average") { gauge.of_averages() } else { gauge })
        };
        found.push((meaning, Sensor { id, path, measure }));
    }
    // A card that counts energy needs no power beside it.
    if found.iter().any(|(_, sensor)| matches!(sensor.measure, Measure::Energy(_))) {
        found.retain(|(_, sensor)| matches!(sensor.measure, Measure::Energy(_)));
    }
    // A chip that names a total has its parts in it.
    if chip == "ina3221" && found.len() > 1 {
        found.truncate(1);
    }
    found
}

/// Number and kind of a file such as `power2_input` or `energy1_input`.
fn channel(file: &str) -> Option<(usize, bool)> {
    let (rest, is_energy) = match file.strip_prefix("power") {
        Some(rest) => (rest, false),
        None => (file.strip_prefix("energy")?, true),
    };
    let (number, kind) = rest.split_once('_')?;
    (kind == "input" || kind == "average").then_some((number.parse().ok()?, is_energy))
}

fn meaning(chip: &str, label: &str, is_energy: bool) -> Option<Meaning> {
    const CARDS: [&str; 4] = ["amdgpu", "i915", "xe", "nouveau"];
    let one_of = |words: &[&str]| words.iter().any(|word| label.contains(word));
    match chip {
        "power_meter" => Some(Meaning::Machine),
        "amd_energy" => (is_energy && label.starts_with("esocket")).then_some(Meaning::Socket),
        "fam15h_power" => (!is_energy).then_some(Meaning::Socket),
        // Newer cards count the package beside the card it sits on; the card has both.
        _ if CARDS.contains(&chip) => (!label.contains("pkg")).then_some(Meaning::Card),
        // Power monitors on the board's input; modules name it.
        "ina3221" => one_of(&["vdd_in", "pom_5v_in", "sys_5v"]).then_some(Meaning::Board),
        _ if chip.starts_with("ina2") => {
            (label.is_empty() || one_of(&["in", "total", "board", "system"])).then_some(Meaning::Board)
        }
        "occ" => one_of(&["system"]).then_some(Meaning::Board),
        "corsairpsu" => one_of(&["total"]).then_some(Meaning::Supply),
        // Drivers of the power management bus call a supply's input pin; its output (pout) is the same energy again.
        _ => match label {
            "pin" | "pin1" => Some(Meaning::Supply),
            "total power" | "system power" => Some(Meaning::Board),
            _ => None,
        },
    }
}

impl EnergySource for HwmonSource {
    fn name(&self) -> &'static str {
        self.meaning.source()
    }

    fn scope(&self) -> Scope {
        self.meaning.scope()
    }

    fn describes(&self) -> String {
        let ids: Vec<&str> = self.sensors.iter().map(|sensor| sensor.id.as_str()).collect();
        format!("{} reads {}", self.name(), ids.join(", "))
    }

    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault> {
        let mut reading = Reading::default();
        let mut fault = None;
        let mut nothing_flows = true;
        for sensor in &mut self.sensors {
            let taken = match read_signed(&sensor.path) {
                Ok(now) => {
                    nothing_flows &= now == 0;
                    match &mut sensor.measure {
                        Measure::Power(gauge) => gauge.take(now, hints),
                        Measure::Energy(counter) => match u64::try_from(now) {
                            Ok(now) => counter.take(now, hints.elapsed_ms, hints.limit_watts),
                            Err(_) => Err(Fault::Negative),
                        },
                    }
                }
                Err(error) => {
                    match &mut sensor.measure {
                        Measure::Power(gauge) => gauge.forget(),
                        Measure::Energy(counter) => counter.forget(),
                    }
                    Err(Fault::Unreadable(format!("{}: {error}", sensor.id)))
                }
            };
            let kind = if self.meaning == Meaning::Card { PartKind::Gpu } else { PartKind::Cpu };
            match taken {
                Ok(microjoules) => reading.parts.push(Part { kind, id: sensor.id.clone(), microjoules }),
                Err(other) => fault = fault.filter(Fault::is_fault).or(Some(other)),
            }
        }
        // One of two supplies may rest; both may not.
        if self.meaning == Meaning::Supply && nothing_flows && fault.is_none() {
            fault = Some(Fault::Zero);
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        if self.meaning.scope() != Scope::Parts {
            reading.node = Some(reading.parts_microjoules());
            reading.parts.clear();
        }
        Ok(reading)
    }
}

/// Reads a number that may be negative.
fn read_signed(path: &Path) -> io::Result<i64> {
    let text = read_bounded(path)?;
    let text = text.trim();
    text.parse::<i64>().map_err(|_| {
        let shown = crate::text::printable(text.as_bytes(), 40);
        io::Error::new(io::ErrorKind::InvalidData, format!("`{shown}` is no number"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: Hints = Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: None };

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            files.iter().for_each(|(path, text)| tree.write(path, text));
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join("sys").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        fn sources(&self) -> io::Result<Vec<HwmonSource>> {
            discover(&Root::new(self.0.path()))
        }

        fn one(&self) -> HwmonSource {
            let mut sources = self.sources().unwrap();
            assert_eq!(sources.len(), 1);
            sources.remove(0)
        }
    }

    fn twice(source: &mut HwmonSource) -> Result<Reading, Fault> {
        let _ = source.advance(&HINTS);
        source.advance(&HINTS)
    }

    #[test]
    fn an_acpi_power_meter_is_the_whole_machine() {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon0/name", "acpitz"),
            ("class/hwmon/hwmon0/temp1_input", "27800"),
            ("class/hwmon/hwmon3/name", "power_meter"),
            ("class/hwmon/hwmon3/power1_average", "216000000"),
            ("class/hwmon/hwmon3/power1_average_interval", "1000"),
        ]);
        let mut meter = tree.one();
        assert_eq!((meter.name(), meter.scope()), ("acpi-power-meter", Scope::Wall));
        assert_eq!(twice(&mut meter), Ok(Reading::whole(216_000_000)));
        tree.write("class/hwmon/hwmon3/power1_average", "0");
        assert_eq!(meter.advance(&HINTS), Err(Fault::Zero));
        tree.write("class/hwmon/hwmon3/power1_average", "-1");
        assert_eq!(meter.advance(&HINTS), Err(Fault::Negative));
        tree.write("class/hwmon/hwmon3/power1_average", "n/a");
        assert!(matches!(meter.advance(&HINTS), Err(Fault::Unreadable(_))));
    }

    #[test]
    fn the_same_meter_is_found_in_acpis_own_folder() {
        let tree = Tree::new(&[("bus/acpi/drivers/power_meter/ACPI000D:00/power1_average", "98000000")]);
        assert_eq!(twice(&mut tree.one()), Ok(Reading::whole(98_000_000)));
    }

    #[test]
    fn inputs_of_all_supplies_are_the_machine_and_their_outputs_are_not_added() {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon4/name", "cffps1"),
            ("class/hwmon/hwmon4/power1_label", "pin"),
            ("class/hwmon/hwmon4/power1_input", "160000000"),
            ("class/hwmon/hwmon4/power2_label", "pout1"),
            ("class/hwmon/hwmon4/power2_input", "150000000"),
            ("class/hwmon/hwmon5/name", "cffps1"),
            ("class/hwmon/hwmon5/power1_label", "pin"),
            ("class/hwmon/hwmon5/power1_input", "0"),
        ]);
        let mut supplies = tree.one();
        assert_eq!((supplies.name(), supplies.scope()), ("power-supplies", Scope::Wall));
        assert_eq!(twice(&mut supplies), Ok(Reading::whole(160_000_000)), "one of the two rests");
        tree.write("class/hwmon/hwmon4/power1_input", "0");
        let _ = supplies.advance(&HINTS);
        assert_eq!(supplies.advance(&HINTS), Err(Fault::Zero), "both cannot");
    }

    #[test]
    fn sockets_of_amd_servers_count_and_their_cores_do_not() {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon1/name", "amd_energy"),
            ("class/hwmon/hwmon1/energy1_label", "Ecore000"),
            ("class/hwmon/hwmon1/energy1_input", "5"),
            ("class/hwmon/hwmon1/energy65_label", "Esocket0"),
            ("class/hwmon/hwmon1/energy65_input", "1000"),
            ("class/hwmon/hwmon1/energy66_label", "Esocket1"),
            ("class/hwmon/hwmon1/energy66_input", "1000"),
        ]);
        let mut sockets = tree.one();
        let _ = sockets.advance(&HINTS);
        tree.write("class/hwmon/hwmon1/energy65_input", "90001000");
        let reading = sockets.advance(&HINTS).unwrap();
        assert_eq!((reading.parts.len(), reading.parts_microjoules()), (2, 90_000_000));
        tree.write("class/hwmon/hwmon1/energy65_input", "7");
        assert_eq!(sockets.advance(&HINTS), Err(Fault::Backwards));
    }

    #[test]
    fn rails_of_known_purpose_are_used_and_others_are_named() {
        let board = Tree::new(&[("class/hwmon/hwmon0/name", "ina226"), ("class/hwmon/hwmon0/power1_input", "6500000")]);
        assert_eq!(twice(&mut board.one()), Ok(Reading::whole(6_500_000)));
        let rails = Tree::new(&[
            ("class/hwmon/hwmon0/name", "lm25066"),
            ("class/hwmon/hwmon0/power1_label", "pout7"),
            ("class/hwmon/hwmon0/power1_input", "6500000"),
        ]);
        let error = rails.sources().unwrap_err().to_string();
        assert!(error.contains("lm25066 power1 `pout7`"), "{error}");
        assert!(Tree::new(&[]).sources().unwrap_err().to_string().contains("no sensor of power"));
    }

    #[test]
    fn graphics_cards_are_parts_and_may_rest() {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon2/name", "amdgpu"),
            ("class/hwmon/hwmon2/power1_label", "PPT"),
            ("class/hwmon/hwmon2/power1_average", "0"),
            ("class/hwmon/hwmon6/name", "xe"),
            ("class/hwmon/hwmon6/energy1_label", "card"),
            ("class/hwmon/hwmon6/energy1_input", "1000"),
            ("class/hwmon/hwmon6/energy2_label", "pkg"),
            ("class/hwmon/hwmon6/energy2_input", "900"),
        ]);
        let reading = twice(&mut tree.one()).unwrap();
        assert_eq!((reading.parts.len(), reading.node), (2, None));
        assert!(reading.parts.iter().all(|part| part.kind == PartKind::Gpu && part.microjoules == 0));
    }
}
