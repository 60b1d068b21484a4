//! NVIDIA GPUs through the driver's own library, which is looked for while running: a node without one has no such
//! source. What the driver writes to the kernel log (XID) is found there.

use std::{ffi::OsString, io};

use nvml_wrapper::{
    Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold},
    error::NvmlError,
};

use super::source::{About, Findings, Look, Source, absent};
use crate::sources::series::{Reading, SeriesName};

/// How long until a library that could not be loaded is tried again.
const RETRY_MS: u64 = 300_000;
/// Where the driver shows its GPUs.
const DRIVER: &str = "proc/driver/nvidia/gpus";

/// What one GPU says.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    name: String,
    /// Why it cannot be used any more.
    lost: Option<String>,
    celsius: Option<u32>,
    /// Temperature at which it slows down.
    slowdown_celsius: Option<u32>,
    corrected: Option<u64>,
    uncorrected: Option<u64>,
    /// Whether its hardware slows it down: heat or power.
    slowed: Option<bool>,
    /// Whether pages of its memory wait to be retired at its next start.
    pending: Option<bool>,
}

/// GPUs.
#[derive(Default)]
pub struct Gpus {
    library: Option<Nvml>,
    refused: Option<(u64, String)>,
}

impl Source for Gpus {
    fn about(&self) -> &'static About {
        &About {
            name: "gpu",
            reads: &["NVML (libnvidia-ml.so.1)", "proc/driver/nvidia/gpus"],
            measures: &["gpu.lost", "gpu.uncorrected", "gpu.slowed", "gpu.heat", "gpu.pages-pending"],
            series: &["gpu.*.ecc_corrected", "gpu.*.ecc_uncorrected", "gpu.*.celsius"],
            says: "GPUs that fell off the bus, errors of their memory, GPUs slowed down by heat or power",
            needs: "NVIDIA's driver and its library within the agent's reach; XID errors come from the kernel log without it",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let named = look.settings.nvml_library.clone();
        if named.is_none() && !look.has(DRIVER) {
            return Err(absent("no NVIDIA driver (no proc/driver/nvidia)"));
        }
        if named.is_none() && !look.root.is_this_kernel() {
            return Err(absent("GPUs are not asked through a recorded tree"));
        }
        if let Some((since, why)) = &self.refused
            && look.now_ms.saturating_sub(*since) < RETRY_MS
        {
            return Err(io::Error::new(io::ErrorKind::Unsupported, why.clone()));
        }
        let library = match self.library.take() {
            Some(library) => library,
            None => load(named.map(Into::into)).map_err(|why| {
                self.refused = Some((look.now_ms, why.clone()));
                io::Error::new(io::ErrorKind::Unsupported, why)
            })?,
        };
        self.refused = None;
        let states = ask(&library).map_err(|error| io::Error::other(format!("NVML: {error}")))?;
        // After a failure it is loaded anew: the driver may have been replaced.
        self.library = Some(library);
        if states.is_empty() {
            return Err(absent("the NVIDIA driver knows no GPU"));
        }
        let mut found = Findings::default();
        states.iter().enumerate().for_each(|(index, state)| tell(index, state, &mut found));
        Ok(found)
    }
}

fn load(named: Option<OsString>) -> Result<Nvml, String> {
    let name = named.unwrap_or_else(|| "libnvidia-ml.so.1".into());
    Nvml::builder().lib_path(&name).init().map_err(|error| {
        let shown = name.to_string_lossy();
        match error {
            NvmlError::LibloadingError(_) => {
                format!(
                    "the NVIDIA driver is there, but its library {shown} cannot be loaded; name it with --nvml-library"
                )
            }
            other => format!("{shown}: {other}"),
        }
    })
}

fn ask(library: &Nvml) -> Result<Vec<State>, NvmlError> {
    (0..library.device_count()?).map(|index| device(library, index)).collect()
}

/// What one GPU says; what it does not support is left out. One that is lost answers nothing, which is its state.
fn device(library: &Nvml, index: u32) -> Result<State, NvmlError> {
    let device = match library.device_by_index(index) {
        Ok(device) => device,
        Err(error @ (NvmlError::GpuLost | NvmlError::Unknown)) => {
            return Ok(State { lost: Some(error.to_string()), ..State::default() });
        }
        Err(error) => return Err(error),
    };
    let slowing =
        ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    let celsius = device.temperature(TemperatureSensor::Gpu);
    let lost = matches!(celsius, Err(NvmlError::GpuLost)).then(|| NvmlError::GpuLost.to_string());
    Ok(State {
        name: device.name().unwrap_or_default(),
        lost,
        celsius: celsius.ok(),
        slowdown_celsius: device.temperature_threshold(TemperatureThreshold::Slowdown).ok(),
        corrected: device.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile).ok(),
        uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        slowed: device.current_throttle_reasons().ok().map(|reasons| reasons.intersects(slowing)),
        pending: device.are_pages_pending_retired().ok(),
    })
}

fn tell(index: usize, state: &State, found: &mut Findings) {
    let of = index.to_string();
    let name = if state.name.is_empty() {
        String::new()
    } else {
        format!(" ({})", crate::text::printable(state.name.as_bytes(), 40))
    };
    let yes = |holds: bool| f64::from(u8::from(holds));
    let why = state.lost.as_deref().unwrap_or("answers");
    found.figure("gpu.lost", &of, yes(state.lost.is_some()), format!("GPU {of}{name}: {why}"));
    if let Some(errors) = state.uncorrected {
        let says = format!("GPU {of}{name}: {errors} memory errors could not be corrected since it was started");
        found.figure("gpu.uncorrected", &of, errors as f64, says);
        found.reading(Reading::counts(SeriesName::of("gpu", &of, "ecc_uncorrected"), errors));
    }
    if let Some(errors) = state.corrected {
        found.reading(Reading::counts(SeriesName::of("gpu", &of, "ecc_corrected"), errors));
    }
    if let Some(slowed) = state.slowed {
        found.figure("gpu.slowed", &of, yes(slowed), format!("GPU {of}{name}: its hardware slows it down"));
    }
    if let Some(pending) = state.pending {
        let says = format!("GPU {of}{name}: pages of its memory wait to be retired at its next start");
        found.figure("gpu.pages-pending", &of, yes(pending), says);
    }
    if let Some(celsius) = state.celsius.filter(|celsius| *celsius <= 150) {
        found.reading(Reading::level(SeriesName::of("gpu", &of, "celsius"), f64::from(celsius)));
        if let Some(limit) = state.slowdown_celsius.filter(|limit| (30..=150).contains(limit)) {
            let says = format!("GPU {of}{name}: {celsius} °C, it slows down at {limit} °C");
            found.figure("gpu.heat", &of, f64::from(celsius) / f64::from(limit), says);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{Host, value};

    #[test]
    fn a_node_without_driver_or_library_says_which_of_them_it_lacks() {
        let mut host = Host::of(&[]);
        let mut source = Gpus::default();
        assert!(host.read(&mut source).unwrap_err().to_string().contains("no NVIDIA driver"));
        host.settings.nvml_library = Some("/nowhere/libnvidia-ml.so.1".into());
        let reason = host.read(&mut source).unwrap_err();
        assert!(reason.to_string().contains("cannot be loaded") && reason.kind() == io::ErrorKind::Unsupported);
        assert_eq!(host.read(&mut source).unwrap_err().to_string(), reason.to_string(), "not tried at each pass");
    }

    #[test]
    fn what_a_gpu_says_becomes_figures_and_series() {
        let mut found = Findings::default();
        let state = State {
            name: "H100".into(),
            celsius: Some(88),
            slowdown_celsius: Some(92),
            corrected: Some(7),
            uncorrected: Some(1),
            slowed: Some(true),
            ..State::default()
        };
        tell(0, &state, &mut found);
        tell(1, &State { lost: Some("fell off".into()), ..State::default() }, &mut found);
        assert_eq!((value(&found, "gpu.uncorrected"), value(&found, "gpu.slowed")), (1.0, 1.0));
        assert!(value(&found, "gpu.heat") > 0.95);
        let lost: Vec<_> = found.figures.iter().filter(|figure| figure.measure == "gpu.lost").collect();
        assert_eq!((lost[0].value, lost[1].value, lost[1].says.as_str()), (0.0, 1.0, "GPU 1: fell off"));
        assert!(found.readings.iter().any(|reading| reading.name.as_str() == "gpu.0.ecc_corrected"));
    }
}
