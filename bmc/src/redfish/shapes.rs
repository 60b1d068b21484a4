//! What Redfish documents say about power. Pure; makers differ, so nothing is taken for granted.
//!
//! DMTF DSP0268: EnvironmentMetrics (newer), Power with PowerControl (older, still the most common), PowerSubsystem with
//! its supplies. Quirks seen in the field: a reading that is null while the machine starts, numbers written as text,
//! several PowerControl entries of which one is the machine and others are its processors and memory, one chassis for
//! four machines.

use std::time::Duration;

use serde_json::Value;

use crate::{BmcError, PowerAction, PowerState, Reading, Source, Statistics};

/// Parts of a machine: their power is a part of its own.
const PARTS: [&str; 16] = [
    "CPU",
    "CPUSubsystem",
    "Memory",
    "MemorySubsystem",
    "GPU",
    "GPUSubsystem",
    "Accelerator",
    "ASIC",
    "FPGA",
    "StorageDevice",
    "StorageSubsystem",
    "NetworkingDevice",
    "Fan",
    "CoolingSubsystem",
    "SystemBoard",
    "ComputeBay",
];

/// A number, also where it is written as text; never an infinite one.
pub(super) fn number(value: Option<&Value>) -> Option<f64> {
    let number = match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Watts to whole milliwatts.
fn milliwatts(value: Option<&Value>) -> Option<i64> {
    // Beyond 10 GW nothing is a machine; the cast would saturate anyway.
    number(value).filter(|watts| watts.abs() < 1e10).map(|watts| (watts * 1e3).round() as i64)
}

/// `@odata.id` of a link.
pub(super) fn link<'a>(document: &'a Value, name: &str) -> Option<&'a str> {
    document.get(name)?.get("@odata.id")?.as_str()
}

/// `@odata.id` of every link of a list.
pub(super) fn links(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|item| item.get("@odata.id")?.as_str()).map(|id| id.trim_end_matches('/').to_owned()).collect()
}

pub(super) fn power_state(system: &Value) -> PowerState {
    match system.get("PowerState").and_then(Value::as_str) {
        Some("On") => PowerState::On,
        Some("Off") => PowerState::Off,
        _ => PowerState::Unknown,
    }
}

/// Machines that a chassis feeds.
pub(super) fn machines(chassis: &Value) -> usize {
    links(chassis.pointer("/Links/ComputerSystems")).len()
}

fn reading(milliwatts: i64, sensor: String) -> Reading {
    Reading {
        source: Source::Redfish,
        milliwatts,
        sensor,
        statistics: None,
        energy_joules: None,
        limit_milliwatts: None,
        capacity_milliwatts: None,
        power_state: None,
    }
}

/// The reading in EnvironmentMetrics.
pub(super) fn environment(document: &Value) -> Result<Reading, BmcError> {
    let power = document.get("PowerWatts").ok_or_else(|| BmcError::Unsupported("PowerWatts".into()))?;
    let watts = milliwatts(power.get("Reading"))
        .ok_or_else(|| BmcError::NoFigure("EnvironmentMetrics.PowerWatts.Reading is null".into()))?;
    let mut reading = reading(watts, "EnvironmentMetrics.PowerWatts".into());
    // The lifetime figure is never reset; the plain one may be, by anyone.
    let counter = |name: &str, joules: f64| {
        let counter = document.get(name)?;
        let value = number(counter.get("LifetimeReading")).or_else(|| number(counter.get("Reading")))?;
        Some(value * joules).filter(|joules| *joules > 0.0)
    };
    reading.energy_joules = counter("EnergyJoules", 1.0).or_else(|| counter("EnergykWh", 3.6e6));
    reading.limit_milliwatts = milliwatts(document.pointer("/PowerLimitWatts/SetPoint"));
    Ok(reading)
}

/// The reading of one machine in a Power document. `shared` says how many machines the chassis feeds.
pub(super) fn power_control(
    document: &Value,
    system: &str,
    chassis: &str,
    machines: usize,
) -> Result<Reading, BmcError> {
    let entries: Vec<&Value> = document.get("PowerControl").and_then(Value::as_array).into_iter().flatten().collect();
    let whole = |entry: &&&Value| {
        let context = entry.get("PhysicalContext").and_then(Value::as_str).unwrap_or_default();
        !PARTS.contains(&context)
    };
    let related = |entry: &Value| links(entry.get("RelatedItem"));
    let own = |entry: &&&Value| {
        let related = related(entry);
        let systems = related.iter().filter(|id| id.contains("/Systems/")).count();
        systems == 1 && related.iter().any(|id| id == system)
    };
    let candidates: Vec<&&Value> = entries.iter().filter(whole).collect();
    let entry = match candidates.iter().copied().find(|entry| own(entry)) {
        Some(entry) => entry,
        None if machines > 1 => return Err(BmcError::Shared { chassis: chassis.to_owned(), machines }),
        None => {
            let first = candidates.iter().find(|entry| milliwatts(entry.get("PowerConsumedWatts")).is_some());
            first.or(candidates.first()).ok_or_else(|| BmcError::Unsupported("PowerControl".into()))?
        }
    };
    let name = entry.get("Name").and_then(Value::as_str).unwrap_or("PowerControl");
    let watts = milliwatts(entry.get("PowerConsumedWatts"))
        .ok_or_else(|| BmcError::NoFigure("PowerControl.PowerConsumedWatts is null".into()))?;
    let mut reading = reading(watts, format!("PowerControl `{}`", name.chars().take(60).collect::<String>()));
    if let Some(metrics) = entry.get("PowerMetrics").filter(|metrics| metrics.is_object()) {
        let minutes = number(metrics.get("IntervalInMin")).filter(|minutes| *minutes > 0.0 && *minutes < 1e7);
        reading.statistics = Some(Statistics {
            minimum_milliwatts: milliwatts(metrics.get("MinConsumedWatts")),
            maximum_milliwatts: milliwatts(metrics.get("MaxConsumedWatts")),
            average_milliwatts: milliwatts(metrics.get("AverageConsumedWatts")),
            window: minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        });
    }
    reading.limit_milliwatts = milliwatts(entry.pointer("/PowerLimit/LimitInWatts"));
    reading.capacity_milliwatts = milliwatts(entry.get("PowerCapacityWatts")).filter(|watts| *watts > 0);
    Ok(reading)
}

/// What one supply takes from the wall: a PowerSupplyMetrics document.
pub(super) fn supply_input(metrics: &Value) -> Option<i64> {
    milliwatts(metrics.pointer("/InputPowerWatts/Reading"))
}

/// The sum of what the supplies take.
pub(super) fn of_supplies(inputs: &[Option<i64>]) -> Result<Reading, BmcError> {
    // A supply without a figure may carry half of the load: a sum without it would be half of the truth.
    let sum: Option<i64> = inputs.iter().copied().sum();
    match sum {
        Some(sum) if !inputs.is_empty() => Ok(reading(sum, format!("input of {} power supplies", inputs.len()))),
        _ => Err(BmcError::NoFigure("not every power supply says what it takes".into())),
    }
}

/// Where a machine is switched, and with which word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) target: String,
    /// Where the allowed words are listed, if not here.
    pub(super) info: Option<String>,
    pub(super) allowed: Vec<String>,
}

pub(super) fn reset(system: &Value) -> Option<Reset> {
    let action = system.pointer("/Actions/#ComputerSystem.Reset")?;
    let text = |name: &str| action.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Reset {
        target: text("target")?,
        info: text("@Redfish.ActionInfo"),
        allowed: words(action.get("ResetType@Redfish.AllowableValues")),
    })
}

/// The allowed words in an ActionInfo document.
pub(super) fn allowed(info: &Value) -> Vec<String> {
    let parameters = info.get("Parameters").and_then(Value::as_array).into_iter().flatten();
    let of_type = parameters.filter(|parameter| parameter.get("Name").and_then(Value::as_str) == Some("ResetType"));
    of_type.flat_map(|parameter| words(parameter.get("AllowableValues"))).collect()
}

fn words(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The word for an action, among those that are allowed; with no list, the usual one.
pub(super) fn word(action: PowerAction, allowed: &[String]) -> Result<&'static str, BmcError> {
    let usual: &[&'static str] = match action {
        PowerAction::On => &["On", "ForceOn"],
        PowerAction::ForceOff => &["ForceOff"],
        PowerAction::GracefulShutdown => &["GracefulShutdown"],
        PowerAction::PowerCycle => &["PowerCycle"],
        PowerAction::Reset => &["ForceRestart"],
    };
    let found = usual.iter().find(|word| allowed.is_empty() || allowed.iter().any(|allowed| allowed == *word));
    found.copied().ok_or_else(|| {
        let offered: Vec<String> = allowed.iter().take(12).map(|word| word.chars().take(40).collect()).collect();
        BmcError::Unsupported(format!("the reset type for `{}`; it offers {}", action.name(), offered.join(", ")))
    })
}
