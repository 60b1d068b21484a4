//! Whether the clock is kept in step, how far off it may be, and whether it jumped.

use std::{collections::VecDeque, io};

use super::source::{About, Findings, Look, Source, absent};
use crate::sources::series::{Reading, SeriesName};

/// The kernel's own word on its clock (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelClock {
    /// Whether somebody keeps it in step.
    pub synchronised: bool,
    /// What is still to be corrected, nanoseconds.
    pub offset_ns: i64,
    /// How far off it is at most, microseconds.
    pub max_error_us: u64,
}

/// Bits of `timex.status` and the state that stands for an error (`linux/timex.h`).
const STA_UNSYNC: i32 = 0x0040;
const STA_NANO: i32 = 0x2000;
const TIME_ERROR: i32 = 5;
/// Where systemd-timesyncd leaves a mark when it has set the clock.
const TIMESYNC: &str = "run/systemd/timesync";
/// A jump is told for so long.
const JUMP_TOLD_MS: u64 = 600_000;
/// Smaller differences are the time between two readings, and slewing.
const JUMP_MS: i64 = 500;

/// Asks this kernel. Changes nothing: no mode is set.
fn ask_kernel() -> io::Result<KernelClock> {
    let mut asked = rtime_clock::adjtime::Timex::new();
    let state = rtime_clock::adjtime::adjtimex(&mut asked)?;
    let timex = asked.0;
    let unit = if timex.status & STA_NANO != 0 { 1 } else { 1000 };
    Ok(KernelClock {
        synchronised: state != TIME_ERROR && timex.status & STA_UNSYNC == 0,
        offset_ns: timex.offset.saturating_mul(unit),
        max_error_us: u64::try_from(timex.maxerror).unwrap_or(0),
    })
}

/// The clock.
pub struct Clock {
    ask: fn() -> io::Result<KernelClock>,
    wall_ms: fn() -> i64,
    /// Wall clock less time since boot, at the last reading.
    apart: Option<i64>,
    /// Jumps: when, and how far.
    jumps: VecDeque<(u64, i64)>,
}

impl Default for Clock {
    fn default() -> Self {
        let wall_ms = || jiff::Timestamp::now().as_millisecond();
        Self { ask: ask_kernel, wall_ms, apart: None, jumps: VecDeque::new() }
    }
}

impl Source for Clock {
    fn about(&self) -> &'static About {
        &About {
            name: "clock",
            reads: &["adjtimex(2)", "run/systemd/timesync/synchronized where that is not allowed"],
            measures: &["clock.unsynchronised", "clock.error", "clock.jump"],
            series: &["clock.offset_ms", "clock.max_error_ms"],
            says: "whether the clock is kept in step, how far off it is at most, and whether it was set to another time",
            needs: "the kernel that the agent runs on; a recorded tree has no clock",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        let marked = look.has(TIMESYNC).then(|| look.has(format!("{TIMESYNC}/synchronized")));
        if !look.root.is_this_kernel() && marked.is_none() {
            return Err(absent("a recorded tree has no clock"));
        }
        let kernel = if look.root.is_this_kernel() { Some((self.ask)()) } else { None };
        let synchronised = match (&kernel, marked) {
            (Some(Ok(clock)), _) => clock.synchronised,
            (_, Some(marked)) => marked,
            (Some(Err(error)), None) => return Err(io::Error::new(error.kind(), format!("adjtimex(2): {error}"))),
            (None, None) => return Err(absent("nothing tells about the clock")),
        };
        let says = "nobody keeps the clock in step";
        found.figure("clock.unsynchronised", "", f64::from(u8::from(!synchronised)), says);
        if let Some(Ok(clock)) = kernel {
            found.reading(Reading::level(SeriesName::node("clock", "offset_ms"), clock.offset_ns as f64 / 1e6));
            // The kernel lets the bound grow while nobody keeps the clock in step, up to 16 s: it says nothing then.
            if clock.synchronised {
                let seconds = clock.max_error_us as f64 / 1e6;
                found.figure("clock.error", "", seconds, format!("the clock may be {seconds:.3} s off"));
                let name = SeriesName::node("clock", "max_error_ms");
                found.reading(Reading::level(name, seconds * 1000.0));
            }
            let furthest = self.jumps(look.now_ms);
            let says = format!("the clock was set {:.1} s", furthest as f64 / 1000.0);
            found.figure("clock.jump", "", furthest.unsigned_abs() as f64 / 1000.0, says);
        }
        Ok(found)
    }
}

impl Clock {
    /// The furthest jump of the last minutes, milliseconds; forwards is above zero.
    fn jumps(&mut self, now_ms: u64) -> i64 {
        let apart = (self.wall_ms)().saturating_sub(i64::try_from(now_ms).unwrap_or(i64::MAX));
        if let Some(before) = self.apart.replace(apart) {
            let jump = apart.saturating_sub(before);
            if jump.saturating_abs() >= JUMP_MS {
                self.jumps.push_back((now_ms, jump));
            }
        }
        while self.jumps.len() > 16
            || self.jumps.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) > JUMP_TOLD_MS)
        {
            self.jumps.pop_front();
        }
        self.jumps.iter().map(|(_, jump)| *jump).max_by_key(|jump| jump.saturating_abs()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::{
        host::Root,
        probes::tests::{Host, value},
    };

    #[test]
    fn this_kernels_clock_is_asked_without_changing_it() {
        let clock = ask_kernel().unwrap();
        assert!(clock.max_error_us <= 16_000_000, "the kernel stops at 16 s: {clock:?}");
    }

    #[test]
    fn a_recorded_tree_has_the_mark_of_timesyncd_or_no_clock() {
        let mut host = Host::of(&[]);
        assert!(host.read(&mut Clock::default()).unwrap_err().to_string().contains("recorded"));
        host.put("run/systemd/timesync/clock", "");
        assert_eq!(value(&host.read(&mut Clock::default()).unwrap(), "clock.unsynchronised"), 1.0);
        host.put("run/systemd/timesync/synchronized", "");
        assert_eq!(value(&host.read(&mut Clock::default()).unwrap(), "clock.unsynchronised"), 0.0);
    }

    #[test]
    fn a_clock_that_is_off_or_jumps_is_told() {
        static WALL: AtomicI64 = AtomicI64::new(1_000_000);
        let mut host = Host::of(&[]);
        host.root = Root::new("/");
        let ask = || Ok(KernelClock { synchronised: true, offset_ns: -3_000_000, max_error_us: 2_500_000 });
        let mut source = Clock { ask, wall_ms: || WALL.load(Ordering::Relaxed), ..Clock::default() };
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "clock.error"), value(&found, "clock.jump")), (2.5, 0.0));
        assert_eq!(found.readings[0].value, -3.0);
        for (now_ms, wall, jump) in [(10_000, 1_010_100, 0.0), (20_000, 420_000, 600.1), (700_000, 1_100_000, 0.0)] {
            WALL.store(wall, Ordering::Relaxed);
            host.now_ms = now_ms;
            assert_eq!(value(&host.read(&mut source).unwrap(), "clock.jump"), jump);
        }
    }

    #[test]
    fn where_the_kernel_may_not_be_asked_the_reason_is_told() {
        let mut host = Host::of(&[]);
        host.root = Root::new("/");
        let ask = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let outcome = host.read(&mut Clock { ask, ..Clock::default() });
        // A machine with systemd-timesyncd still tells.
        assert!(outcome.map_or_else(|error| error.to_string().contains("adjtimex"), |found| found.figures.len() == 1));
    }
}
