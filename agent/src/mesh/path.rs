//! Figures of one path: what became of the newest probes, how long they usually take, and how large a packet passes.
//! Knows no network; times come in.

use std::{collections::VecDeque, time::Duration};

use evergreen_api::mesh::{PathReport, WINDOW};

use super::mtu::Search;

/// A probe that was not answered after so long is lost.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Probes of which the first idea of the usual time is made.
const FIRST: usize = 5;
/// Probes between two notes of the median time: about a minute.
const NOTE_EVERY: u32 = 60;
/// Notes that the usual time is taken from: about an hour, so that a path that got longer for good is usual again after
/// most of one, and a fault of minutes never is.
const NOTES: usize = 60;
/// An echo is late when it takes more than so many times the usual time and [`LATE_BY`] more. Less than that is what a
/// busy host does to a packet.
const LATE_FACTOR: u32 = 3;
const LATE_BY: Duration = Duration::from_millis(10);

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Lost,
    Back(Duration),
}

/// One probe under way.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    number: u64,
    sent: Duration,
    /// Whether it is a large one, sent to learn how large a packet passes; its loss is none of the path's.
    packet: Option<u32>,
}

/// State of one path. Times are on one monotonic clock.
#[derive(Debug)]
pub struct Path {
    under_way: VecDeque<UnderWay>,
    window: VecDeque<Outcome>,
    notes: VecDeque<Duration>,
    since_note: u32,
    answered: Option<Duration>,
    /// How large a packet passes.
    pub mtu: Search,
}

impl Path {
    /// A path that was never probed.
    pub fn new(mtu: Search) -> Self {
        Self {
            under_way: VecDeque::new(),
            window: VecDeque::new(),
            notes: VecDeque::new(),
            since_note: 0,
            answered: None,
            mtu,
        }
    }

    /// A probe was sent; `packet` is the size of the whole IP packet when it is a large one.
    pub fn sent(&mut self, number: u64, now: Duration, packet: Option<u32>) {
        self.under_way.push_back(UnderWay { number, sent: now, packet });
    }

    /// An echo came back. Whether it is one of this path.
    pub fn back(&mut self, number: u64, now: Duration) -> bool {
        let Some(at) = self.under_way.iter().position(|probe| probe.number == number) else { return false };
        let Some(probe) = self.under_way.remove(at) else { return false };
        self.answered = Some(now);
        match probe.packet {
            Some(packet) => self.mtu.passed(packet, now),
            None => self.note(Outcome::Back(now.saturating_sub(probe.sent))),
        }
        true
    }

    /// Time passed: what was not answered in time is lost.
    pub fn expire(&mut self, now: Duration) {
        while let Some(probe) = self.under_way.front().filter(|probe| now.saturating_sub(probe.sent) >= PATIENCE) {
            match probe.packet {
                Some(packet) => self.mtu.vanished(packet, now),
                None => self.note(Outcome::Lost),
            }
            self.under_way.pop_front();
        }
    }

    /// A probe could not even be sent: the path fails here.
    pub fn unsent(&mut self) {
        self.note(Outcome::Lost);
    }

    fn note(&mut self, outcome: Outcome) {
        if self.window.len() >= WINDOW as usize {
            self.window.pop_front();
        }
        self.window.push_back(outcome);
        self.since_note += 1;
        let first = self.notes.is_empty() && self.times().len() >= FIRST;
        if first || self.since_note >= NOTE_EVERY {
            self.since_note = 0;
            if let Some(median) = middle(self.times(), 50) {
                if self.notes.len() >= NOTES {
                    self.notes.pop_front();
                }
                self.notes.push_back(median);
            }
        }
    }

    fn times(&self) -> Vec<Duration> {
        let back = self.window.iter().filter_map(|outcome| match outcome {
            Outcome::Back(time) => Some(*time),
            Outcome::Lost => None,
        });
        back.collect()
    }

    /// What the path usually takes: the lower quartile of the last hour's medians.
    fn usual(&self) -> Option<Duration> {
        middle(self.notes.iter().copied().collect(), 25)
    }

    /// Time that 99 of 100 probes stay within.
    pub fn slowest(&self) -> Option<Duration> {
        middle(self.times(), 99)
    }

    /// Whether an echo ever came back. Until then nobody can tell a path that fails from one that was never there.
    pub fn is_known(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether it carried an echo within the last seconds.
    pub fn is_well(&self, now: Duration) -> bool {
        self.answered.is_some_and(|at| now.saturating_sub(at) < 4 * PATIENCE)
    }

    /// The figures now.
    pub fn report(&self, node: &str, site: &str, now: Duration) -> PathReport {
        let usual = self.usual();
        let limit = usual.map(|usual| usual * LATE_FACTOR + LATE_BY);
        let times = self.times();
        let late = times.iter().filter(|time| limit.is_some_and(|limit| **time > limit)).count();
        let micros =
            |time: Option<Duration>| time.map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1));
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        PathReport {
            node: node.to_owned(),
            site: site.to_owned(),
            sent: count(self.window.len()),
            lost: count(self.window.len() - times.len()),
            late: count(late),
            rtt_us: micros(middle(times, 50)),
            usual_us: micros(usual),
            mtu: self.mtu.known(),
            answered_ms: self.answered.map(|at| u32::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u32::MAX)),
        }
    }
}

/// The value that `percent` of the values do not exceed.
fn middle(mut times: Vec<Duration>, percent: usize) -> Option<Duration> {
    times.sort_unstable();
    times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Probes once a second; `takes` answers how long the echo takes, `None` loses it.
    fn run(path: &mut Path, from: u64, count: u64, takes: impl Fn(u64) -> Option<u64>) {
        for number in from..from + count {
            let now = millis(number * 1_000);
            path.expire(now);
            path.sent(number, now, None);
            if let Some(after) = takes(number) {
                path.back(number, now + millis(after));
            }
        }
        path.expire(millis((from + count + 5) * 1_000));
    }

    #[test]
    fn loss_and_median_are_of_the_newest_thirty_probes() {
        let mut path = Path::new(Search::absent("test"));
        run(&mut path, 0, 100, |_| None);
        assert!(!path.is_known());
        let report = path.report("n", "", millis(100_000));
        assert_eq!((report.sent, report.lost, report.rtt_us, report.answered_ms), (30, 30, 0, None));
        run(&mut path, 100, 30, |number| (number % 3 != 0).then_some(number % 2 + 1));
        let report = path.report("n", "dc-b", millis(129_002));
        assert_eq!((report.sent, report.lost, report.late), (30, 10, 0));
        assert_eq!(report.site, "dc-b");
        assert!(matches!(report.rtt_us, 1_000 | 2_000), "{report:?}");
        assert!(path.is_known());
        assert_eq!(report.check(), Ok(()));
    }

    #[test]
    fn an_echo_that_comes_too_late_or_twice_or_from_nowhere_counts_for_nothing() {
        let mut path = Path::new(Search::absent("test"));
        path.sent(1, millis(0), None);
        path.expire(millis(1_000));
        assert!(!path.back(1, millis(1_001)));
        path.sent(2, millis(2_000), None);
        assert!(path.back(2, millis(2_010)) && !path.back(2, millis(2_020)) && !path.back(3, millis(2_030)));
        let report = path.report("n", "", millis(2_100));
        assert_eq!((report.sent, report.lost), (2, 1));
    }

    #[test]
    fn a_path_that_became_slow_is_late_and_after_most_of_an_hour_that_is_usual() {
        let mut path = Path::new(Search::absent("test"));
        run(&mut path, 0, 120, |_| Some(2));
        run(&mut path, 200, 30, |_| Some(60));
        let report = path.report("n", "", millis(400_000));
        assert_eq!((report.late, report.usual_us, report.rtt_us), (30, 2_000, 60_000));
        run(&mut path, 300, 15 * 60, |_| Some(60));
        assert_eq!(path.report("n", "", millis(2_000_000)).late, 0, "a quarter of an hour after two minutes");
        let mut path = Path::new(Search::absent("test"));
        run(&mut path, 0, 3_600, |_| Some(2));
        run(&mut path, 4_000, 30 * 60, |_| Some(60));
        assert_eq!(path.report("n", "", millis(9_000_000)).late, 30, "half an hour after an hour");
        run(&mut path, 6_000, 20 * 60, |_| Some(60));
        assert_eq!(path.report("n", "", millis(9_000_000)).late, 0, "fifty minutes");
    }

    #[test]
    fn a_few_milliseconds_more_are_what_a_busy_host_does() {
        let mut path = Path::new(Search::absent("test"));
        run(&mut path, 0, 30, |_| Some(1));
        run(&mut path, 30, 30, |_| Some(12));
        assert_eq!(path.report("n", "", millis(90_000)).late, 0);
    }
}
