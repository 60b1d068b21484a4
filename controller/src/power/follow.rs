//! Follows one BMC: asks, judges, adds up, and lets a BMC in trouble rest.

use std::{sync::Arc, time::Duration};

use evergreen_bmc::{Access, Bmc, BmcError, Reading};
use rand::Rng;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    PowerContext,
    book::{Measured, PowerBook},
    inventory::Entry,
    judge::{Judge, Verdict},
    meter::{Meter, Point},
    secrets::Login,
};
use crate::site::BootClock;

/// One question with everything that belongs to it: logging in, finding the sensor, reading it.
const QUESTION: Duration = Duration::from_secs(25);
/// Giving the session back.
const FAREWELL: Duration = Duration::from_secs(2);
/// Longest pause after answers that failed to come.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Pause after what asking again does not mend: three wrong passwords lock the account on common BMCs, for minutes.
const LASTING_PAUSE: Duration = Duration::from_secs(900);
/// Readings up to so far apart are joined, at least; otherwise three intervals.
const APART: Duration = Duration::from_secs(30);

/// One BMC.
pub(super) struct Follower {
    entry: Entry,
    login: Arc<Login>,
    context: PowerContext,
    slots: Arc<Semaphore>,
    judge: Judge,
    meter: Meter,
    failures: u32,
    bmc: Option<Box<dyn Bmc>>,
}

impl Follower {
    pub(super) fn new(context: &PowerContext, entry: Entry, login: Arc<Login>, slots: Arc<Semaphore>) -> Self {
        let (judge, meter, context) = (Judge::default(), Meter::default(), context.clone());
        Self { entry, login, context, slots, judge, meter, failures: 0, bmc: None }
    }

    /// Asks until stopped, then gives the session back.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        // A thousand BMCs are not asked in the same moment.
        let mut pause = self.context.interval.mul_f64(rand::rng().random_range(0.0..1.0));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            let begin = tokio::time::Instant::now();
            let asked = tokio::select! {
                () = stop.cancelled() => break,
                asked = self.ask() => asked,
            };
            pause = self.take(asked).saturating_sub(begin.elapsed());
        }
        if let Some(mut bmc) = self.bmc.take() {
            let _ = tokio::time::timeout(FAREWELL, bmc.close()).await;
        }
    }

    async fn ask(&mut self) -> Result<Reading, BmcError> {
        let late = || BmcError::Unreachable(format!("no reading within {} s", QUESTION.as_secs()));
        let _slot = self.slots.clone().acquire_owned().await.map_err(|_| late())?;
        let bmc = match &mut self.bmc {
            Some(bmc) => bmc,
            none => {
                let target = self.entry.target(self.login.authority.as_deref());
                none.insert(evergreen_bmc::open(&target, &self.login.credentials, Access::Read, &self.context.allowed)?)
            }
        };
        tokio::time::timeout(QUESTION, bmc.power()).await.unwrap_or_else(|_| Err(late()))
    }

    /// Tells the book, and says when to ask again.
    fn take(&mut self, asked: Result<Reading, BmcError>) -> Duration {
        let (node, book): (&str, &PowerBook) = (&self.entry.node, &self.context.book);
        let interval = self.context.interval.mul_f64(rand::rng().random_range(0.95..1.05));
        let reading = match asked {
            Ok(reading) => reading,
            Err(error) => {
                book.failed(node, error.word(), &error.to_string());
                self.failures = self.failures.saturating_add(1);
                return rest(&error, self.failures, interval);
            }
        };
        self.failures = 0;
        let at = BootClock.now();
        let (milliwatts, word) = match self.judge.judge(&reading, at) {
            Verdict::Use(milliwatts) => (milliwatts, "ok"),
            Verdict::Stuck(milliwatts) => (milliwatts, "stuck"),
            Verdict::Refuse(lie) => {
                book.failed(node, lie.word(), lie.explained());
                return interval;
            }
        };
        let point = Point { at, milliwatts, energy_joules: reading.energy_joules };
        let added = self.meter.take(point, APART.max(self.context.interval * 3));
        book.measured(
            node,
            Measured { at, milliwatts, source: reading.source, state: reading.power_state, added, word },
        );
        interval
    }
}

/// The pause after a failure.
fn rest(error: &BmcError, failures: u32, interval: Duration) -> Duration {
    if error.is_lasting() {
        return LASTING_PAUSE;
    }
    // The first failure changes nothing: packets get lost.
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    interval.saturating_mul(doubled).min(LONGEST_PAUSE.max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_bmc_is_asked_ever_less_often_and_a_wrong_password_is_not_repeated_soon() {
        let interval = Duration::from_secs(10);
        let silent = BmcError::Unreachable(String::new());
        let pauses: Vec<u64> = (1..=7).map(|n| rest(&silent, n, interval).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(rest(&BmcError::Credentials, 1, interval), LASTING_PAUSE);
        assert_eq!(rest(&silent, u32::MAX, Duration::from_secs(600)), Duration::from_secs(600));
    }
}
