//! Moves traffic in steps: so much, then a soak, then more; back at once when an objective is breached. Pure.

use std::{collections::BTreeMap, time::Duration};

/// What a stepwise move has to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepObjectives {
    /// Largest share of failed requests, 0 to 1.
    pub max_error_ratio: Option<f64>,
    /// Largest latency at the 99th percentile.
    pub max_latency: Option<Duration>,
}

/// A stepwise move.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Percent of what is moved, rising, the last 100.
    pub percents: Vec<u32>,
    /// How long each step must hold.
    pub soak: Duration,
    /// What must hold.
    pub objectives: StepObjectives,
    /// An observation older than this says nothing.
    pub max_age: Duration,
}

/// What was observed at the sites that gain traffic, since the step was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Share of failed requests; none when nothing was asked.
    pub error_ratio: Option<f64>,
    /// Latency at the 99th percentile.
    pub latency: Option<Duration>,
    /// Age of this.
    pub age: Duration,
}

/// Where a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Place in `percents`; none before the first step.
    pub step: Option<usize>,
    /// How long the step has been in force at every actuator.
    pub held_for: Duration,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Make this step.
    Advance {
        /// Place in `percents`.
        step: usize,
        /// Percent moved then.
        percent: u32,
    },
    /// Stay, for this reason.
    Hold(String),
    /// Back to how it was: an objective is breached.
    Stop(String),
    /// All is moved and has held.
    Done,
}

/// Decides about the next step.
pub fn next(steps: &Steps, progress: Progress, seen: Option<Observation>) -> NextStep {
    let Some(step) = progress.step else {
        return match steps.percents.first() {
            Some(percent) => NextStep::Advance { step: 0, percent: *percent },
            None => NextStep::Done,
        };
    };
    let objectives = &steps.objectives;
    let watched = objectives.max_error_ratio.is_some() || objectives.max_latency.is_some();
    let fresh = seen.filter(|seen| seen.age <= steps.max_age);
    if let Some(why) = fresh.and_then(|seen| breach(objectives, &seen)) {
        return NextStep::Stop(why);
    }
    if progress.held_for < steps.soak {
        let left = steps.soak - progress.held_for;
        return NextStep::Hold(format!(
            "{} s of the soak are left",
            left.as_secs() + u64::from(left.subsec_nanos() > 0)
        ));
    }
    if watched && fresh.is_none() {
        // No news is no good news: nothing more is moved blind, and nothing is moved back for want of a measurement.
        return NextStep::Hold("the objectives cannot be judged: there is no fresh observation".into());
    }
    match steps.percents.get(step + 1) {
        Some(percent) => NextStep::Advance { step: step + 1, percent: *percent },
        None => NextStep::Done,
    }
}

fn breach(objectives: &StepObjectives, seen: &Observation) -> Option<String> {
    if let (Some(most), Some(ratio)) = (objectives.max_error_ratio, seen.error_ratio)
        && ratio > most
    {
        return Some(format!("{:.2} % of requests fail, at most {:.2} % may", ratio * 100.0, most * 100.0));
    }
    match (objectives.max_latency, seen.latency) {
        (Some(most), Some(latency)) if latency > most => {
            Some(format!("latency is {} ms, at most {} ms may be", latency.as_millis(), most.as_millis()))
        }
        _ => None,
    }
}

/// Shares on the way from one split to another: `percent` of the difference is moved. They sum to 100 exactly; a site that
/// shall gain anything gains at least 1 once `percent` is more than 0.
pub fn blend(from: &BTreeMap<String, u32>, to: &BTreeMap<String, u32>, percent: u32) -> BTreeMap<String, u32> {
    let total = |shares: &BTreeMap<String, u32>| shares.values().map(|share| u64::from(*share)).sum::<u64>().max(1);
    let (from_total, to_total) = (total(from), total(to));
    let percent = u64::from(percent.min(100));
    let sites: std::collections::BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    // Parts of from_total x to_total x 100.
    let exact: Vec<(&String, u64)> = sites
        .into_iter()
        .map(|site| {
            let old = u64::from(from.get(site).copied().unwrap_or(0)) * to_total * (100 - percent);
            let new = u64::from(to.get(site).copied().unwrap_or(0)) * from_total * percent;
            (site, old + new)
        })
        .collect();
    let whole = from_total * to_total;
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    let mut rests: Vec<(u64, &String)> = Vec::new();
    for (site, part) in &exact {
        shares.insert((*site).clone(), u32::try_from(part / whole).unwrap_or(100));
        rests.push((part % whole, site));
    }
    // Largest remainder; of equals the first by name.
    rests.sort_by_key(|(rest, site)| (std::cmp::Reverse(*rest), (*site).clone()));
    let mut left = 100 - shares.values().sum::<u32>().min(100);
    for (rest, site) in rests {
        if left == 0 || rest == 0 {
            break;
        }
        *shares.entry(site.clone()).or_default() += 1;
        left -= 1;
    }
    for (site, part) in exact {
        if part > 0 && shares.get(site) == Some(&0) {
            let largest = shares.iter().max_by_key(|(name, share)| (**share, std::cmp::Reverse((*name).clone())));
            if let Some(largest) = largest.map(|(name, _)| name.clone()) {
                *shares.entry(largest).or_default() -= 1;
                *shares.entry(site.clone()).or_default() += 1;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps() -> Steps {
        Steps {
            percents: vec![5, 25, 100],
            soak: Duration::from_secs(60),
            objectives: StepObjectives { max_error_ratio: Some(0.01), max_latency: Some(Duration::from_millis(300)) },
            max_age: Duration::from_secs(10),
        }
    }

    fn seen(ratio: f64, age: u64) -> Option<Observation> {
        Some(Observation { error_ratio: Some(ratio), latency: None, age: Duration::from_secs(age) })
    }

    fn at(step: usize, seconds: u64) -> Progress {
        Progress { step: Some(step), held_for: Duration::from_secs(seconds) }
    }

    #[test]
    fn steps_follow_each_other_after_their_soak() {
        let steps = steps();
        let first = next(&steps, Progress { step: None, held_for: Duration::ZERO }, None);
        assert_eq!(first, NextStep::Advance { step: 0, percent: 5 });
        assert!(matches!(next(&steps, at(0, 59), seen(0.0, 1)), NextStep::Hold(_)));
        assert_eq!(next(&steps, at(0, 60), seen(0.0, 1)), NextStep::Advance { step: 1, percent: 25 });
        assert_eq!(next(&steps, at(2, 60), seen(0.0, 1)), NextStep::Done);
    }

    #[test]
    fn a_breach_stops_at_once_and_silence_holds() {
        let steps = steps();
        assert!(matches!(next(&steps, at(1, 1), seen(0.02, 1)), NextStep::Stop(why) if why.contains("2.00 %")));
        assert!(matches!(next(&steps, at(1, 60), seen(0.02, 11)), NextStep::Hold(_)));
        assert!(matches!(next(&steps, at(1, 60), None), NextStep::Hold(_)));
        let slow = Observation { error_ratio: None, latency: Some(Duration::from_millis(301)), age: Duration::ZERO };
        assert!(matches!(next(&steps, at(0, 1), Some(slow)), NextStep::Stop(_)));
    }

    fn shares(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
        pairs.iter().map(|(site, share)| ((*site).to_owned(), *share)).collect()
    }

    #[test]
    fn a_part_of_the_difference_is_moved() {
        let (a, b) = (shares(&[("a", 100), ("b", 0)]), shares(&[("a", 0), ("b", 100)]));
        assert_eq!(blend(&a, &b, 5), shares(&[("a", 95), ("b", 5)]));
        assert_eq!(blend(&a, &b, 100), shares(&[("a", 0), ("b", 100)]));
        let thirds = shares(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(blend(&a, &thirds, 1), shares(&[("a", 98), ("b", 1), ("c", 1)]));
    }

    proptest! {
        #[test]
        fn shares_always_sum_to_a_hundred(a in 0u32..256, b in 0u32..256, c in 1u32..256, x in 0u32..256, y in 1u32..256, percent in 0u32..=100) {
            let from = shares(&[("a", a), ("b", b), ("c", c)]);
            let to = shares(&[("a", x), ("b", y), ("c", 0)]);
            let blended = blend(&from, &to, percent);
            prop_assert_eq!(blended.values().sum::<u32>(), 100);
        }
    }
}
