//! The fitted numbers, as the fit writes them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Everything in `data/power-model.json` that predictions need.
#[derive(Clone, Debug, Deserialize)]
pub struct PowerData {
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// Share of machines inside the interval.
    pub coverage: f64,
    /// How many machines of each pool of CPU families were in the fit.
    pub machines_of_pool: BTreeMap<String, u32>,
    /// Coefficients that fill in what a description leaves out, by field.
    pub guesses: Guesses,
    /// Bounds of ln(measured / predicted).
    pub intervals: Intervals,
    /// Pools in the order of their coefficients.
    pub pools: Vec<String>,
    /// The model of a described machine.
    pub zero: Coefficients,
    /// The model of a machine whose idle and full power are known.
    pub two_point: Coefficients,
}

/// Where the numbers come from.
#[derive(Clone, Debug, Deserialize)]
pub struct Provenance {
    /// In a sentence.
    pub text: String,
    /// Date of the fit.
    pub fitted: String,
}

/// One list of coefficients a field.
#[derive(Clone, Debug, Deserialize)]
pub struct Guesses {
    /// Nominal clock.
    pub ghz: Vec<f64>,
    /// Thermal design power of a chip.
    pub tdp_w: Vec<f64>,
    /// Memory.
    pub mem_gb: Vec<f64>,
    /// Rating of all power supplies.
    pub psu_w: Vec<f64>,
}

/// Bounds of both models.
#[derive(Clone, Debug, Deserialize)]
pub struct Intervals {
    /// At 0, 10, ... 100 %.
    pub zero: Tiers,
    /// At 10, 20, ... 90 %.
    pub two_point: Tiers,
}

/// Bounds by what the description holds: the less, the wider.
#[derive(Clone, Debug, Deserialize)]
pub struct Tiers {
    described: Vec<[f64; 2]>,
    without_tdp: Vec<[f64; 2]>,
    without_psu: Vec<[f64; 2]>,
    processor_only: Vec<[f64; 2]>,
}

impl Tiers {
    /// The bounds for a description with these fields missing.
    pub fn tier(&self, guessed: &[&str]) -> &[[f64; 2]] {
        match (guessed.contains(&"tdp_w"), guessed.contains(&"psu_w")) {
            (true, true) => &self.processor_only,
            (true, false) => &self.without_tdp,
            (false, true) => &self.without_psu,
            (false, false) => &self.described,
        }
    }
}

/// One fitted model: one row of coefficients for each building block of the curve.
#[derive(Clone, Debug, Deserialize)]
pub struct Coefficients {
    /// Name, mean, factor, smallest and largest value of each feature.
    pub features: Vec<(String, f64, f64, f64, f64)>,
    /// Divisor of everything that goes into the waves.
    pub length: f64,
    /// How far apart two pools are for the waves.
    pub pool_distance: f64,
    /// Number of random waves.
    pub waves: usize,
    /// Share of the features and pools that a wave sees.
    pub share: f64,
    /// Seed of their directions.
    pub seed: u64,
    /// Constants.
    pub intercepts: Vec<f64>,
    /// By feature.
    pub feature_coefficients: Vec<Vec<f64>>,
    /// By pool.
    pub pool_coefficients: Vec<Vec<f64>>,
    /// By wave: all cosines, then all sines.
    pub wave_coefficients: Vec<Vec<f64>>,
    #[serde(skip)]
    directions: Vec<Vec<f64>>,
}

impl Coefficients {
    /// Directions of the waves, one row each.
    pub fn directions(&self) -> &[Vec<f64>] {
        &self.directions
    }
}

impl PowerData {
    /// Reads the data.
    ///
    /// # Errors
    /// When it is no JSON of this form.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let mut data: Self = serde_json::from_str(text)?;
        let pools = data.pools.len();
        for model in [&mut data.zero, &mut data.two_point] {
            model.directions = directions(model.seed, model.waves, model.features.len() + pools, model.share);
        }
        Ok(data)
    }
}

/// Random directions: SplitMix64, each entry the sum of 12 uniform numbers less 6, kept with the probability `share`.
/// Drawn again instead of shipped.
fn directions(seed: u64, count: usize, width: usize, share: f64) -> Vec<Vec<f64>> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / 9_007_199_254_740_992.0
    };
    let mut entry = || {
        let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        if uniform() < share { normal } else { 0.0 }
    };
    (0..count).map(|_| (0..width).map(|_| entry()).collect()).collect()
}
