//! Power of a server that nobody measures: from its description alone, or from the description and its idle and full
//! power. Pure: data in, watts out. The data is fitted by `make fit-power-model` (docs/power-model.md); this code and
//! `scripts/powermodel` say the same, and a test holds them together.
//!
//! A curve comes with a 90 % interval only for CPU families that were in the fit. For others there are watts, the word
//! that they are an extrapolation, and no interval.

mod data;
mod describe;
mod families;
pub mod lines;
mod regression;

pub use data::{Coefficients, PowerData};
pub use describe::Machine;
pub use families::Families;

use std::sync::OnceLock;

use describe::{Base, Known};

const MODEL: &str = include_str!("../../../data/power-model.json");
const FAMILIES: &str = include_str!("../../../data/cpu-families.json");

/// Steps of the curve: 0, 10, ... 100 % of full load.
const NODES: usize = 11;

/// Watts over load of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Watts at 0, 10, ... 100 % of full load, never falling.
    pub watts: [f64; NODES],
    /// Lower and upper bound in watts at the same loads, or nothing for a CPU family that was not in the fit.
    pub interval: Option<[[f64; 2]; NODES]>,
    /// Share of machines whose watts lie in the interval.
    pub coverage: f64,
    /// CPU family, as far as the name tells.
    pub family: Option<String>,
    /// Fields that were not given and were filled in from the others.
    pub guessed: Vec<&'static str>,
    /// Whether idle and full power were given.
    pub calibrated: bool,
    /// What the figures rest on, for people.
    pub basis: String,
}

impl Curve {
    /// Watts at a load between 0 and 1; what lies outside is taken as the end.
    pub fn watts_at(&self, load: f64) -> f64 {
        between(&self.watts, load)
    }

    /// Lower and upper bound in watts at a load between 0 and 1.
    pub fn interval_at(&self, load: f64) -> Option<[f64; 2]> {
        let interval = self.interval.as_ref()?;
        Some([between(&interval.map(|bounds| bounds[0]), load), between(&interval.map(|bounds| bounds[1]), load)])
    }
}

fn between(nodes: &[f64; NODES], load: f64) -> f64 {
    let place = if load.is_finite() { load.clamp(0.0, 1.0) * (NODES - 1) as f64 } else { 0.0 };
    let below = (place as usize).min(NODES - 2);
    nodes[below] + (nodes[below + 1] - nodes[below]) * (place - below as f64)
}

/// Why there is no estimate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EstimateError {
    /// Without a size there is nothing to estimate from.
    #[error("the machine has neither `cores` nor `threads`; give one of them")]
    NoSize,
    /// A field makes no sense.
    #[error("`{field}` is {value}; it must be {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it was.
        value: f64,
        /// What it should be.
        expected: &'static str,
    },
    /// Only one of the two calibration points was given.
    #[error("`idle_w` and `max_w` belong together; give both or none")]
    HalfCalibrated,
}

/// The power model with its data.
#[derive(Clone, Debug)]
pub struct Estimator {
    data: PowerData,
    families: Families,
}

impl Estimator {
    /// The model that is built in.
    pub fn shipped() -> &'static Self {
        static SHIPPED: OnceLock<Estimator> = OnceLock::new();
        SHIPPED.get_or_init(|| Self {
            data: PowerData::parse(MODEL).expect("the built-in power model is valid: a test reads it"),
            families: Families::parse(FAMILIES).expect("the built-in CPU families are valid: a test reads them"),
        })
    }

    /// CPU families it knows by name.
    pub fn families(&self) -> &Families {
        &self.families
    }

    /// Watts over load, from the description alone.
    ///
    /// # Errors
    /// When the description has no size, or a number in it makes no sense.
    pub fn estimate(&self, machine: &Machine) -> Result<Curve, EstimateError> {
        self.curve(machine, None)
    }

    /// Watts over load of a machine whose idle and full power, in watts, are known.
    ///
    /// # Errors
    /// When the description has no size, or a number makes no sense.
    pub fn calibrated(&self, machine: &Machine, idle_w: f64, max_w: f64) -> Result<Curve, EstimateError> {
        if !(idle_w.is_finite() && idle_w > 0.0) {
            return Err(EstimateError::Field { field: "idle_w", value: idle_w, expected: "larger than 0" });
        }
        if !(max_w.is_finite() && max_w > idle_w) {
            return Err(EstimateError::Field { field: "max_w", value: max_w, expected: "larger than idle_w" });
        }
        self.curve(machine, Some(Known { idle: idle_w, full: max_w }))
    }

    fn curve(&self, machine: &Machine, known: Option<Known>) -> Result<Curve, EstimateError> {
        machine.check()?;
        let family = self.families.find(machine);
        let fact = family.and_then(|family| self.families.fact(family));
        let mut base = Base::of(machine, family, fact).ok_or(EstimateError::NoSize)?;
        let guessed = base.complete(&self.data.guesses);
        let pool = family.map(|family| self.families.pool(family));
        let place = pool.and_then(|pool| self.data.pools.iter().position(|known| known == pool));
        let (task, coefficients, bounds) = match known {
            None => ("zero", &self.data.zero, &self.data.intervals.zero),
            Some(_) => ("two-point", &self.data.two_point, &self.data.intervals.two_point),
        };
        let watts = regression::curve(coefficients, &base, place, self.data.pools.len(), known);
        let interval = place.map(|_| {
            let mut out = watts.map(|watts| [watts; 2]);
            let bounds = bounds.tier(&guessed);
            // The two ends of a calibrated curve are given and have no error of their own.
            let first = usize::from(known.is_some());
            for (node, [low, high]) in out.iter_mut().skip(first).zip(bounds) {
                *node = [node[0] * low.exp(), node[1] * high.exp()];
            }
            out
        });
        let basis = self.basis(task, family, place, &guessed);
        let family = family.map(str::to_owned);
        Ok(Curve { watts, interval, coverage: self.data.coverage, family, guessed, calibrated: known.is_some(), basis })
    }

    fn basis(&self, task: &str, family: Option<&str>, place: Option<usize>, guessed: &[&str]) -> String {
        let mut text =
            format!("{task} power model, {}, fitted {}", self.data.provenance.text, self.data.provenance.fitted);
        match (place, family) {
            (Some(place), Some(family)) => {
                let pool = &self.data.pools[place];
                let machines = self.data.machines_of_pool.get(pool).copied().unwrap_or_default();
                text += &format!("; CPU family {family}, {machines} machines of its kind");
            }
            (_, Some(family)) => {
                text += &format!(
                    "; the model never saw a machine of CPU family {family}: no interval until a sensor calibrates it"
                );
            }
            (_, None) => text += "; the CPU family is unknown: no interval until a sensor calibrates it",
        }
        if !guessed.is_empty() {
            text += &format!("; filled in: {}", guessed.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests;
