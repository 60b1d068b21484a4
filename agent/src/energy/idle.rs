//! The idle part of power, learned while the node works.
//!
//! Of the whole node: what it took at the least load that was seen for a while, times what the model says idle is of the
//! power at that load. On a node that rests at times that is the measured idle power itself; on one that never does it is
//! off by 7 % on average (make check-idle-split), where a straight line through the load is off by 37 %, because servers
//! fall into deep sleep below the loads that such a node shows.
//!
//! Of parts, whose idle share the model does not know: a straight line over the load as the model bends it, which meets
//! zero load at the idle power, and rest itself where it was seen. Either way idle is never more than the least power seen
//! for a while, nor less than nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Weight that a sample keeps for the next one: half is gone after about an hour at one sample a second.
const MEMORY: f64 = 0.9998;
/// Samples before a line is trusted.
const MIN_WEIGHT: f64 = 60.0;
/// Variance of the load before a line is trusted: a standard deviation of 3 %.
const MIN_VARIANCE: f64 = 0.0009;
/// How fast the least power seen creeps up again, per sample: 1 % in about three minutes, so that a node that draws more
/// for good (a disk was added) is believed.
const CREEP: f64 = 1.00005;
/// Smoothing of power before its least value is taken: one sample alone may be short by a late read.
const SMOOTH: f64 = 0.2;

/// Regimes of frequency that are remembered apart.
const MAX_LEARNERS: usize = 32;

/// Idle power by kind of part and regime of frequency: a governor or a limit changes what an idle machine takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IdleBook(BTreeMap<String, IdleLearner>);

impl IdleBook {
    /// What is learned about a kind of part under a regime.
    pub fn of(&mut self, kind: &str, regime: &str) -> &mut IdleLearner {
        let key = format!("{kind}|{regime}");
        if self.0.len() >= MAX_LEARNERS && !self.0.contains_key(&key) {
            self.0.clear();
        }
        self.0.entry(key).or_default()
    }
}

/// Upper ends of the classes of load whose power is remembered, finest where machines sleep.
const CLASSES: [f64; 10] = [0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0];
/// Samples before a class is believed.
const MIN_IN_CLASS: f64 = 20.0;
/// Classes at which a machine is at rest.
const AT_REST: usize = 2;

/// One look at a node or a part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Share of the time in which it worked.
    pub utilization: f64,
    /// The same, bent as the model bends power: 0 at rest, 1 at full load.
    pub load: f64,
    /// Power, watts.
    pub watts: f64,
    /// What a model says idle is of the power at this load.
    pub idle_ratio: f64,
    /// Whether the model speaks of just this (the whole node), not of something that holds it.
    pub modelled: bool,
}

/// What was learned so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IdleLearner {
    weight: f64,
    load: f64,
    watts: f64,
    load_squared: f64,
    product: f64,
    smooth: Option<f64>,
    least: Option<f64>,
    classes: [Class; CLASSES.len()],
}

/// Idle power as the looks of one class of load show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Class {
    weight: f64,
    idle_watts: f64,
}

impl IdleLearner {
    /// Takes one look and gives the idle power, watts.
    pub fn learn(&mut self, look: Look) -> f64 {
        let Look { utilization, load, watts, .. } = look;
        if !(utilization.is_finite() && load.is_finite() && watts.is_finite() && watts >= 0.0) {
            return self.least.unwrap_or(0.0);
        }
        let ratio = look.idle_ratio.clamp(0.0, 1.0);
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.load, load),
            (&mut self.watts, watts),
            (&mut self.load_squared, load * load),
            (&mut self.product, load * watts),
        ] {
            *sum = *sum * MEMORY + value;
        }
        let place = CLASSES.iter().position(|end| utilization < *end).unwrap_or(CLASSES.len() - 1);
        for (index, class) in self.classes.iter_mut().enumerate() {
            // Classes that are not seen grow old with the others: a disk that was added counts at rest, too.
            class.weight *= MEMORY;
            class.idle_watts *= MEMORY;
            if index == place {
                class.weight += 1.0;
                class.idle_watts += watts * if look.modelled || index >= AT_REST { ratio } else { 1.0 };
            }
        }
        let smooth = self.smooth.map_or(watts, |before| before + SMOOTH * (watts - before));
        self.smooth = Some(smooth);
        let least = self.least.map_or(smooth, |least| (least * CREEP).min(smooth));
        self.least = Some(least);
        let seen = self.classes.iter().position(|class| class.weight >= MIN_IN_CLASS);
        let of_class = seen.map(|index| self.classes[index].idle_watts / self.classes[index].weight);
        let idle = match seen {
            Some(index) if look.modelled || index < AT_REST => of_class,
            _ if look.modelled => None,
            _ => self.line_at_zero(),
        };
        idle.or(of_class).unwrap_or(watts * ratio).clamp(0.0, least)
    }

    fn line_at_zero(&self) -> Option<f64> {
        if self.weight < MIN_WEIGHT {
            return None;
        }
        let (mean_load, mean_watts) = (self.load / self.weight, self.watts / self.weight);
        let variance = self.load_squared / self.weight - mean_load * mean_load;
        let covariance = self.product / self.weight - mean_load * mean_watts;
        if variance < MIN_VARIANCE || covariance <= 0.0 {
            return None;
        }
        Some(mean_watts - covariance / variance * mean_load)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(utilization: f64, watts: f64, idle_ratio: f64, modelled: bool) -> Look {
        Look { utilization, load: utilization, watts, idle_ratio, modelled }
    }

    #[test]
    fn idle_power_of_a_part_is_found_although_it_never_rests() {
        let mut learner = IdleLearner::default();
        let mut idle = 0.0;
        for n in 0..600 {
            let utilization = 0.2 + 0.3 * f64::from(n % 60) / 60.0;
            idle = learner.learn(look(utilization, 80.0 + 120.0 * utilization, 0.9, false));
        }
        assert!((idle - 80.0).abs() < 2.0, "{idle}");
    }

    #[test]
    fn idle_power_of_a_node_that_rests_at_times_is_what_it_takes_then() {
        for modelled in [true, false] {
            let mut learner = IdleLearner::default();
            // Deep sleep: 40 W less than a line through the load says. The model is off by a fifth.
            let curve = |utilization: f64| if utilization < 0.01 { 60.0 } else { 100.0 + 120.0 * utilization };
            (0..100).for_each(|_| {
                learner.learn(look(0.0, 60.0, 1.0, modelled));
            });
            let busy = (0..600).map(|n| 0.2 + 0.3 * f64::from(n % 60) / 60.0);
            let idle = busy.map(|u| learner.learn(look(u, curve(u), 0.5, modelled))).last().unwrap();
            assert!((idle - 60.0).abs() < 1.0, "{idle}");
        }
    }

    #[test]
    fn with_constant_load_the_model_says_what_is_idle() {
        for modelled in [true, false] {
            let mut learner = IdleLearner::default();
            let idle = (0..600).map(|_| learner.learn(look(0.3, 100.0, 0.7, modelled))).last().unwrap();
            assert!((idle - 70.0).abs() < 1e-6, "{idle}");
        }
    }

    proptest! {
        #[test]
        fn idle_power_is_never_more_than_power_for_long_nor_negative(
            samples in proptest::collection::vec((0.0_f64..1.0, 0.0_f64..500.0, any::<bool>()), 1..200),
        ) {
            let mut learner = IdleLearner::default();
            for (utilization, watts, modelled) in samples {
                let idle = learner.learn(look(utilization, watts, 0.5, modelled));
                prop_assert!((0.0..=500.0).contains(&idle));
            }
        }
    }
}
