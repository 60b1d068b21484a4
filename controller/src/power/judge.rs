//! What to think of a reading: sensors say 0, less than 0, the same for ever, or the absurd. Pure.

use std::{collections::VecDeque, time::Duration};

use evergreen_bmc::{PowerState, Reading};

/// More than any node takes: 50 kW.
const MOST_MILLIWATTS: i64 = 50_000_000;
/// Readings that a jump is compared with.
const RECENT: usize = 15;
/// Fewer say nothing about what is usual.
const ENOUGH: usize = 5;
/// A machine goes from idle to full load within a reading: 2 to 4 times as much on servers in the published results of
/// SPECpower; twice that is no load.
const JUMP: i64 = 8;
/// Two readings agree about a new level when they differ by no more than a third.
const AGREE: i64 = 3;
/// A machine that is on never takes exactly the same for so long.
const STUCK_AFTER: Duration = Duration::from_secs(1_800);

/// What is wrong with a reading that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// 0 W while the machine is on.
    Zero,
    /// Less than 0 W.
    Negative,
    /// More than the supplies can give, or than any machine takes.
    Absurd,
    /// A jump that the next reading has to confirm.
    Spike,
}

impl Lie {
    /// One word, for metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Negative => "negative",
            Self::Absurd => "absurd",
            Self::Spike => "spike",
        }
    }

    /// For people.
    pub const fn explained(self) -> &'static str {
        match self {
            Self::Zero => "the sensor says 0 W while the machine is on",
            Self::Negative => "the sensor says less than 0 W",
            Self::Absurd => "the sensor says more than the power supplies can give",
            Self::Spike => "the sensor jumped; the next reading has to confirm it",
        }
    }
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Used, milliwatts.
    Use(u64),
    /// Used and told: the sensor has said exactly this for half an hour.
    Stuck(u64),
    /// Not used.
    Refuse(Lie),
}

/// Remembers what a sensor said.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    recent: VecDeque<i64>,
    suspect: Option<i64>,
    state: Option<PowerState>,
    same: Option<(i64, Duration)>,
}

impl Judge {
    /// Judges a reading that came at `now`, on a clock of the caller's.
    pub fn judge(&mut self, reading: &Reading, now: Duration) -> Verdict {
        let milliwatts = reading.milliwatts;
        if self.state != reading.power_state {
            // Switched on or off: what was usual is not any more.
            self.state = reading.power_state;
            self.recent.clear();
            self.same = None;
            self.suspect = None;
        }
        let off = reading.power_state == Some(PowerState::Off);
        let most = reading.capacity_milliwatts.map_or(MOST_MILLIWATTS, |capacity| {
            // A little over is within the sensors' tolerance.
            capacity.saturating_add(capacity / 5).min(MOST_MILLIWATTS)
        });
        let lie = match milliwatts {
            ..0 => Some(Lie::Negative),
            0 if !off => Some(Lie::Zero),
            watts if watts > most => Some(Lie::Absurd),
            watts if self.jumped(watts) => Some(Lie::Spike),
            _ => None,
        };
        if let Some(lie) = lie {
            self.suspect = (lie == Lie::Spike).then_some(milliwatts);
            return Verdict::Refuse(lie);
        }
        if self.suspect.take().is_some() && self.recent.len() >= ENOUGH && self.far(milliwatts) {
            self.recent.clear();
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(milliwatts);
        let (value, since) = *self.same.get_or_insert((milliwatts, now));
        if value != milliwatts {
            self.same = Some((milliwatts, now));
        }
        // Negative ones were refused.
        let good = milliwatts.unsigned_abs();
        if value == milliwatts && !off && now.saturating_sub(since) >= STUCK_AFTER {
            return Verdict::Stuck(good);
        }
        Verdict::Use(good)
    }

    fn jumped(&self, milliwatts: i64) -> bool {
        let confirmed = self.suspect.is_some_and(|suspect| (suspect - milliwatts).abs() <= suspect / AGREE);
        self.recent.len() >= ENOUGH && self.far(milliwatts) && !confirmed
    }

    fn far(&self, milliwatts: i64) -> bool {
        let mut sorted: Vec<i64> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(milliwatts).max(1);
        milliwatts > usual.saturating_mul(JUMP) || milliwatts.saturating_mul(JUMP) < usual
    }
}

#[cfg(test)]
mod tests {
    use evergreen_bmc::Source;
    use proptest::prelude::*;

    use super::*;

    fn reading(milliwatts: i64, state: PowerState) -> Reading {
        Reading {
            source: Source::Redfish,
            milliwatts,
            sensor: String::new(),
            statistics: None,
            energy_joules: None,
            limit_milliwatts: None,
            capacity_milliwatts: None,
            power_state: Some(state),
        }
    }

    fn on(judge: &mut Judge, watts: i64, at_s: u64) -> Verdict {
        judge.judge(&reading(watts * 1_000, PowerState::On), Duration::from_secs(at_s))
    }

    #[test]
    fn each_lie_has_its_word() {
        let mut judge = Judge::default();
        assert_eq!(on(&mut judge, 0, 0), Verdict::Refuse(Lie::Zero));
        assert_eq!(on(&mut judge, -5, 10), Verdict::Refuse(Lie::Negative));
        assert_eq!(on(&mut judge, 60_000, 20), Verdict::Refuse(Lie::Absurd));
        let mut small = reading(1_000_000, PowerState::On);
        small.capacity_milliwatts = Some(800_000);
        assert_eq!(judge.judge(&small, Duration::from_secs(30)), Verdict::Refuse(Lie::Absurd));
        small.milliwatts = 900_000;
        assert_eq!(judge.judge(&small, Duration::from_secs(40)), Verdict::Use(900_000));
    }

    #[test]
    fn a_machine_that_is_off_may_take_nothing() {
        let off = reading(0, PowerState::Off);
        assert_eq!(Judge::default().judge(&off, Duration::ZERO), Verdict::Use(0));
    }

    #[test]
    fn a_spike_is_left_out_and_a_new_level_is_believed_at_the_second_reading() {
        let mut judge = Judge::default();
        for n in 0..6 {
            assert!(matches!(on(&mut judge, 200 + n, n as u64 * 10), Verdict::Use(_)));
        }
        assert_eq!(on(&mut judge, 9_000, 60), Verdict::Refuse(Lie::Spike));
        assert_eq!(on(&mut judge, 203, 70), Verdict::Use(203_000));
        assert_eq!(on(&mut judge, 9_000, 80), Verdict::Refuse(Lie::Spike), "the one before it was refuted");
        assert_eq!(on(&mut judge, 9_100, 90), Verdict::Use(9_100_000));
        assert_eq!(on(&mut judge, 9_050, 100), Verdict::Use(9_050_000));
        assert_eq!(on(&mut judge, 800, 110), Verdict::Use(800_000), "too few are known of the new level");
    }

    #[test]
    fn load_is_no_spike_and_neither_is_being_switched_off() {
        let mut judge = Judge::default();
        for n in 0..6 {
            on(&mut judge, 100 + n, n as u64);
        }
        assert_eq!(on(&mut judge, 450, 10), Verdict::Use(450_000));
        assert_eq!(judge.judge(&reading(8_000, PowerState::Off), Duration::from_secs(20)), Verdict::Use(8_000));
        assert_eq!(on(&mut judge, 300, 30), Verdict::Use(300_000));
    }

    #[test]
    fn the_same_for_half_an_hour_is_told_and_one_watt_more_ends_it() {
        let mut judge = Judge::default();
        assert_eq!(on(&mut judge, 112, 0), Verdict::Use(112_000));
        assert_eq!(on(&mut judge, 112, 1_790), Verdict::Use(112_000));
        assert_eq!(on(&mut judge, 112, 1_800), Verdict::Stuck(112_000));
        assert_eq!(on(&mut judge, 113, 1_810), Verdict::Use(113_000));
        assert_eq!(on(&mut judge, 113, 1_820), Verdict::Use(113_000));
    }

    proptest! {
        #[test]
        fn whatever_a_sensor_says_only_plausible_power_is_used(readings in proptest::collection::vec((any::<i64>(), proptest::option::of(any::<i64>()), 0_u8..3), 1..60)) {
            let mut judge = Judge::default();
            for (n, (milliwatts, capacity, state)) in readings.into_iter().enumerate() {
                let mut said = reading(milliwatts, [PowerState::On, PowerState::Off, PowerState::Unknown][usize::from(state)]);
                said.capacity_milliwatts = capacity;
                if let Verdict::Use(used) | Verdict::Stuck(used) = judge.judge(&said, Duration::from_secs(n as u64)) {
                    prop_assert_eq!(i64::try_from(used), Ok(milliwatts));
                    prop_assert!(used <= 50_000_000);
                }
            }
        }
    }
}
