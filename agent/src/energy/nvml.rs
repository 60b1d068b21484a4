//! NVIDIA accelerators through the driver's management library, which is loaded at run time and may be absent.
//!
//! Each card counts its own energy in millijoules. Who used a card is told per process; which pod a process belongs to is
//! looked up elsewhere. The library is only tried where the host has the driver, or where its path was given.

use std::{io, path::Path};

use nvml_wrapper::{Device, Nvml as Library, enums::device::UsedGpuMemory, error::NvmlError};

use super::{
    counter::EndlessCounter,
    gauge::Gauge,
    source::{EnergySource, Fault, Hints, Part, PartKind, Reading, Scope, Users},
};
use crate::host::Root;

/// Signs that the host has the driver.
const DRIVER: [&str; 2] = ["proc/driver/nvidia/version", "sys/module/nvidia/version"];
/// Cards that are read at most.
const MAX_CARDS: u32 = 64;
/// No card draws more, watts.
const MAX_CARD_WATTS: u64 = 3_000;
/// Energy of a moment is asked once a second; processes, which cost more, every so many looks.
const USERS_EVERY: u64 = 2;

#[derive(Debug)]
enum Measure {
    /// Millijoules since the driver was loaded.
    Energy(EndlessCounter),
    /// Milliwatts, on cards that do not count.
    Power(Gauge),
}

#[derive(Debug)]
struct Card {
    index: u32,
    id: String,
    name: String,
    measure: Measure,
    seen_us: u64,
    users: Users,
}

/// All cards of a host.
pub struct Nvml {
    library: Library,
    cards: Vec<Card>,
    looks: u64,
}

impl Nvml {
    /// Loads the library and finds the cards.
    ///
    /// # Errors
    /// When the host has no driver, the library cannot be loaded, or no card tells its energy.
    pub fn discover(root: &Root, library: Option<&Path>) -> io::Result<Self> {
        if library.is_none() && !DRIVER.iter().any(|file| root.join(file).exists()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no NVIDIA driver on this host"));
        }
        let loaded = match library {
            Some(path) => Library::builder().lib_path(path.as_os_str()).init(),
            // The name without a version is only there where the driver's development files are.
            None => Library::builder().lib_path("libnvidia-ml.so.1".as_ref()).init().or_else(|_| Library::init()),
        };
        let library = loaded.map_err(|error| {
            io::Error::other(format!(
                "libnvidia-ml cannot be used ({error}); mount it with the driver, or give --nvml-library"
            ))
        })?;
        let mut cards = Vec::new();
        let mut refused = None;
        for index in 0..library.device_count().map_err(io::Error::other)?.min(MAX_CARDS) {
            match card(&library, index) {
                Ok(card) => cards.push(card),
                Err(error) => refused = Some(format!("card {index}: {error}")),
            }
        }
        if cards.is_empty() {
            let reason = refused.unwrap_or_else(|| "the driver shows no card".into());
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        }
        Ok(Self { library, cards, looks: 0 })
    }

    /// Number of cards.
    pub fn cards(&self) -> usize {
        self.cards.len()
    }
}

fn card(library: &Library, index: u32) -> Result<Card, NvmlError> {
    let device = library.device_by_index(index)?;
    // Cards before Volta count no energy.
    let measure = match device.total_energy_consumption() {
        Ok(_) => Measure::Energy(EndlessCounter::default()),
        Err(_) => device.power_usage().map(|_| Measure::Power(Gauge::that_may_rest()))?,
    };
    let id = device.uuid().unwrap_or_else(|_| format!("gpu-{index}"));
    let name = device.name().unwrap_or_else(|_| "NVIDIA".into());
    Ok(Card { index, users: Users { id: id.clone(), ..Users::default() }, id, name, measure, seen_us: 0 })
}

impl Card {
    fn advance(&mut self, device: &Device<'_>, hints: &Hints) -> Result<u64, Fault> {
        let unreadable = |error: NvmlError| Fault::Unreadable(error.to_string());
        match &mut self.measure {
            Measure::Energy(counter) => match device.total_energy_consumption() {
                Ok(millijoules) => counter.take(millijoules.saturating_mul(1_000), hints.elapsed_ms, MAX_CARD_WATTS),
                Err(error) => {
                    counter.forget();
                    Err(unreadable(error))
                }
            },
            Measure::Power(gauge) => match device.power_usage() {
                Ok(milliwatts) => gauge.take(i64::from(milliwatts) * 1_000, hints),
                Err(error) => {
                    gauge.forget();
                    Err(unreadable(error))
                }
            },
        }
    }

    /// Notes who used the card since the last look.
    fn look_at_users(&mut self, device: &Device<'_>) {
        self.users.busy_percent = device.utilization_rates().map_or(0, |rates| rates.gpu);
        let processes = match device.process_utilization_stats(self.seen_us) {
            Ok(samples) => {
                self.seen_us = samples.iter().map(|sample| sample.timestamp).max().unwrap_or(self.seen_us);
                let work = |sample: &nvml_wrapper::struct_wrappers::device::ProcessUtilizationSample| {
                    u64::from(sample.sm_util) + u64::from(sample.enc_util) + u64::from(sample.dec_util)
                };
                samples.iter().map(|sample| (sample.pid, work(sample))).collect()
            }
            // No process worked.
            Err(NvmlError::NotFound) => Vec::new(),
            // Not told on this card (shared in hardware): by the memory that each of them holds.
            Err(_) => device
                .running_compute_processes()
                .unwrap_or_default()
                .into_iter()
                .map(|process| match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => (process.pid, (bytes >> 20).max(1)),
                    UsedGpuMemory::Unavailable => (process.pid, 1),
                })
                .collect(),
        };
        self.users.processes = processes;
    }
}

impl EnergySource for Nvml {
    fn name(&self) -> &'static str {
        "nvml"
    }

    fn scope(&self) -> Scope {
        Scope::Parts
    }

    fn describes(&self) -> String {
        let names: Vec<&str> = self.cards.iter().map(|card| card.name.as_str()).collect();
        format!("accelerators count their own energy: {}", names.join(", "))
    }

    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault> {
        let look = self.looks.is_multiple_of(USERS_EVERY);
        self.looks += 1;
        let mut reading = Reading::default();
        let mut fault = None;
        for card in &mut self.cards {
            let taken = self
                .library
                .device_by_index(card.index)
                .map_err(|error| Fault::Unreadable(error.to_string()))
                .and_then(|device| {
                    if look {
                        card.look_at_users(&device);
                    }
                    card.advance(&device, hints)
                });
            match taken {
                Ok(microjoules) => {
                    reading.parts.push(Part { kind: PartKind::Gpu, id: card.id.clone(), microjoules });
                    reading.users.push(card.users.clone());
                }
                Err(other) => fault = fault.filter(Fault::is_fault).or(Some(other)),
            }
        }
        fault.map_or(Ok(reading), Err)
    }
}
