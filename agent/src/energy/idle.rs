//! The idle part of power, learned while the node works.
//!
//! Method: a straight line of watts over utilisation, fitted by least squares with exponential forgetting, meets zero
//! utilisation at the idle power. Where utilisation hardly moved there is no line; then the model's own ratio of idle to
//! present power is used. Either way idle is never more than the least power seen for a while, nor less than nothing.

use serde::{Deserialize, Serialize};

/// Weight that a sample keeps for the next one: half is gone after about an hour at one sample a second.
const MEMORY: f64 = 0.9998;
/// Samples before a line is trusted.
const MIN_WEIGHT: f64 = 60.0;
/// Variance of utilisation before a line is trusted: a standard deviation of 3 %.
const MIN_VARIANCE: f64 = 0.0009;
/// How fast the least power seen creeps up again, per sample: 1 % in about three minutes, so that a node that draws more
/// for good (a disk was added) is believed.
const CREEP: f64 = 1.00005;
/// Smoothing of power before its least value is taken: one sample alone may be short by a late read.
const SMOOTH: f64 = 0.2;

/// What was learned so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IdleLearner {
    weight: f64,
    utilization: f64,
    watts: f64,
    utilization_squared: f64,
    product: f64,
    smooth: Option<f64>,
    least: Option<f64>,
}

impl IdleLearner {
    /// Takes one sample and gives the idle power, watts. `idle_ratio` is what a model says idle is of present power.
    pub fn learn(&mut self, utilization: f64, watts: f64, idle_ratio: f64) -> f64 {
        if !(utilization.is_finite() && watts.is_finite() && watts >= 0.0) {
            return self.least.unwrap_or(0.0);
        }
        for sum in
            [&mut self.weight, &mut self.utilization, &mut self.watts, &mut self.utilization_squared, &mut self.product]
        {
            *sum *= MEMORY;
        }
        self.weight += 1.0;
        self.utilization += utilization;
        self.watts += watts;
        self.utilization_squared += utilization * utilization;
        self.product += utilization * watts;
        let smooth = self.smooth.map_or(watts, |before| before + SMOOTH * (watts - before));
        self.smooth = Some(smooth);
        let least = self.least.map_or(smooth, |least| (least * CREEP).min(smooth));
        self.least = Some(least);
        self.line_at_zero().unwrap_or(watts * idle_ratio.clamp(0.0, 1.0)).clamp(0.0, least)
    }

    fn line_at_zero(&self) -> Option<f64> {
        if self.weight < MIN_WEIGHT {
            return None;
        }
        let (mean_utilization, mean_watts) = (self.utilization / self.weight, self.watts / self.weight);
        let variance = self.utilization_squared / self.weight - mean_utilization * mean_utilization;
        let covariance = self.product / self.weight - mean_utilization * mean_watts;
        if variance < MIN_VARIANCE || covariance <= 0.0 {
            return None;
        }
        Some(mean_watts - covariance / variance * mean_utilization)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn idle_power_is_found_on_a_node_that_is_never_idle() {
        let mut learner = IdleLearner::default();
        let mut idle = 0.0;
        for n in 0..600 {
            let utilization = 0.2 + 0.3 * f64::from(n % 60) / 60.0;
            idle = learner.learn(utilization, 80.0 + 120.0 * utilization, 0.9);
        }
        assert!((idle - 80.0).abs() < 2.0, "{idle}");
    }

    #[test]
    fn with_constant_load_the_model_says_what_is_idle() {
        let mut learner = IdleLearner::default();
        let idle = (0..600).map(|_| learner.learn(0.3, 100.0, 0.7)).last().unwrap();
        assert!((idle - 70.0).abs() < 1e-6, "{idle}");
    }

    proptest! {
        #[test]
        fn idle_power_is_never_more_than_power_for_long_nor_negative(samples in proptest::collection::vec((0.0_f64..1.0, 0.0_f64..500.0), 1..200)) {
            let mut learner = IdleLearner::default();
            for (utilization, watts) in samples {
                let idle = learner.learn(utilization, watts, 0.5);
                prop_assert!((0.0..=500.0).contains(&idle));
            }
        }
    }
}
