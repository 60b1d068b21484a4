//! The data center's clock. It follows tokio's time (also when that is paused), at a rate of its own if it is to be
//! wrong; or it is held, and moves only when it is told to.

use std::ops::{Add, AddAssign};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::objects::meta;

/// A point in a data center's own time: what has passed since its clock was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The moment that lies so far behind the clock's start.
    pub fn at(since_start: Duration) -> Self {
        Moment(since_start)
    }

    /// Time since the clock's start.
    pub fn since_start(self) -> Duration {
        self.0
    }

    /// Time since an earlier moment; zero if that is later.
    pub fn duration_since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment so much earlier, but not before the start.
    pub fn before(self, by: Duration) -> Moment {
        Moment(self.0.saturating_sub(by))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

#[derive(Debug, Clone, Copy)]
struct Hand {
    /// What was shown at `anchor`.
    shown: Duration,
    anchor: Instant,
    /// Seconds of this clock in a second of tokio's.
    rate: f64,
    held: bool,
    /// How much the wall time is off, without any effect on how time passes.
    offset: SignedDuration,
}

impl Hand {
    fn shown(&self) -> Duration {
        if self.held {
            return self.shown;
        }
        let passed = self.anchor.elapsed();
        #[expect(clippy::float_cmp, reason = "exactly one is the rate of a clock that is right")]
        let passed = if self.rate == 1.0 { passed } else { passed.mul_f64(self.rate) };
        self.shown.saturating_add(passed)
    }

    fn anchor_here(&mut self) {
        (self.shown, self.anchor) = (self.shown(), Instant::now());
    }
}

/// A wall clock. Clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock {
    base: Timestamp,
    started: Instant,
    hand: Arc<Mutex<Hand>>,
}

impl Clock {
    /// A clock that shows `base` now and runs.
    pub fn starting_at(base: Timestamp) -> Self {
        let now = Instant::now();
        let hand = Hand { shown: Duration::ZERO, anchor: now, rate: 1.0, held: false, offset: SignedDuration::ZERO };
        Clock { base, started: now, hand: Arc::new(Mutex::new(hand)) }
    }

    /// A clock that shows `base` and is held.
    pub fn held_at(base: Timestamp) -> Self {
        let clock = Clock::starting_at(base);
        clock.hold();
        clock.hand.lock().shown = Duration::ZERO;
        clock
    }

    /// Another clock that shows the same and is held.
    pub fn fork(&self) -> Self {
        let mut hand = *self.hand.lock();
        (hand.shown, hand.held) = (hand.shown(), true);
        Clock { base: self.base, started: self.started, hand: Arc::new(Mutex::new(hand)) }
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        let hand = self.hand.lock();
        self.wall(hand.shown(), hand.offset)
    }

    /// The wall time that it shows at a moment.
    pub fn wall_at(&self, moment: Moment) -> Timestamp {
        self.wall(moment.0, self.hand.lock().offset)
    }

    fn wall(&self, shown: Duration, offset: SignedDuration) -> Timestamp {
        let passed = SignedDuration::try_from(shown).unwrap_or(SignedDuration::MAX).saturating_add(offset);
        self.base.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    /// The present moment.
    pub fn moment(&self) -> Moment {
        Moment(self.hand.lock().shown())
    }

    /// The time in the API's format with seconds.
    pub fn seconds(&self) -> String {
        meta::seconds(self.now())
    }

    /// The time in the API's format with microseconds.
    pub fn micros(&self) -> String {
        meta::micros(self.now())
    }

    /// Whether it is held.
    pub fn is_held(&self) -> bool {
        self.hand.lock().held
    }

    /// Stops it at what it shows.
    pub fn hold(&self) {
        let mut hand = self.hand.lock();
        hand.anchor_here();
        hand.held = true;
    }

    /// Lets it run from what it shows.
    pub fn run(&self) {
        let mut hand = self.hand.lock();
        hand.anchor_here();
        hand.held = false;
    }

    /// Moves a held clock forward to a moment; a running one, and one that is past it, stays.
    pub fn move_to(&self, moment: Moment) {
        let mut hand = self.hand.lock();
        if hand.held {
            hand.shown = hand.shown.max(moment.0);
        }
    }

    /// Makes it run at another rate: 1.01 gains 36 s an hour. Clamped to 0.001 to 1,000.
    pub fn set_rate(&self, rate: f64) {
        let mut hand = self.hand.lock();
        hand.anchor_here();
        hand.rate = if rate.is_finite() { rate.clamp(0.001, 1000.0) } else { 1.0 };
    }

    /// Sets the wall time off by so much, as a step of NTP or a wrong RTC does; time passes as before.
    pub fn set_offset(&self, offset: SignedDuration) {
        self.hand.lock().offset = offset;
    }

    /// How long tokio's clock takes until this clock shows a moment; zero when it is past.
    pub(crate) fn until(&self, moment: Moment) -> Duration {
        let hand = self.hand.lock();
        moment.0.saturating_sub(hand.shown()).div_f64(hand.rate)
    }

    /// A moment on tokio's time line, for hosts.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.started + moment.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_follows_tokio_at_its_rate_and_a_held_one_waits_to_be_moved() {
        let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(clock.now().as_second(), 100);
        clock.set_rate(1.5);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(clock.now().as_second(), 250);
        assert_eq!(clock.until(Moment::at(Duration::from_secs(400))), Duration::from_secs(100));
        let fork = clock.fork();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(fork.now().as_second(), 250);
        fork.move_to(Moment::at(Duration::from_secs(300)));
        assert_eq!(fork.now().as_second(), 300);
        fork.set_offset(SignedDuration::from_secs(-30));
        assert_eq!((fork.now().as_second(), fork.moment()), (270, Moment::at(Duration::from_secs(300))));
    }
}
