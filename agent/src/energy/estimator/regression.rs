//! The fitted regression: features, pool and random waves to the coefficients of a curve, and those to watts.

use super::{
    NODES,
    data::Coefficients,
    describe::{Base, Known},
};

/// Watts at 0, 10, ... 100 % of full load; more load never takes less.
pub(super) fn curve(
    model: &Coefficients,
    base: &Base,
    pool: Option<usize>,
    pools: usize,
    known: Option<Known>,
) -> [f64; NODES] {
    let features: Vec<f64> = model
        .features
        .iter()
        .map(|(name, mean, factor, low, high)| {
            // An unknown name counts as the mean; the test of the shipped data makes sure that there is none.
            base.feature(name, known).map_or(0.0, |value| (value.clamp(*low, *high) - mean) * factor)
        })
        .collect();
    let mut place: Vec<f64> = features.iter().map(|x| x / model.length).collect();
    place.extend((0..pools).map(|n| if Some(n) == pool { model.pool_distance / model.length } else { 0.0 }));
    let angles: Vec<f64> = model.directions().iter().map(|direction| dot(direction, &place)).collect();
    let waves: Vec<f64> = angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect();
    let rows = model.intercepts.iter().zip(&model.feature_coefficients).zip(&model.pool_coefficients);
    let blocks: Vec<f64> = rows
        .zip(&model.wave_coefficients)
        .map(|(((constant, by_feature), by_pool), by_wave)| {
            let step = pool.and_then(|n| by_pool.get(n)).copied().unwrap_or_default();
            constant + dot(by_feature, &features) + step + dot(by_wave, &waves)
        })
        .collect();
    let mut watts: [f64; NODES] = std::array::from_fn(|node| {
        let share = node as f64 / (NODES - 1) as f64;
        match known {
            None => base.tdp() * dot(&blocks, &level_terms(share)).exp(),
            Some(Known { idle, full }) => {
                idle + (full - idle) * (share + dot(&blocks, &height_terms(share))).clamp(0.0, 1.0)
            }
        }
    });
    if known.is_none() {
        // Nowhere near the data the step between idle and the rest is a guess: waking takes at least half of what the
        // next tenth takes, as it does on 393 of 398 published servers.
        watts[0] = f64::min(watts[0], watts[1] - 0.5 * f64::max(watts[2] - watts[1], 0.0));
    }
    for node in 1..NODES {
        watts[node] = f64::max(watts[node], watts[node - 1]);
    }
    watts
}

/// Building blocks of the logarithm of the watts; idle has a step of its own, because sleeping cores wake below 10 %.
fn level_terms(share: f64) -> [f64; 5] {
    [1.0, share, share.powi(2), share.powi(3), if share == 0.0 { 1.0 } else { 0.0 }]
}

/// Building blocks of the height above the straight line between idle and full.
fn height_terms(share: f64) -> [f64; 4] {
    let arch = share * (1.0 - share);
    [arch, arch * share, arch * share.powi(2), arch * share.powi(3)]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
