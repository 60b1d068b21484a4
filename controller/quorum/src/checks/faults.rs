//! What a simulated fleet is like and what it has to live with.

use std::time::Duration;

use super::super::Timing;

/// What a fleet has to live with.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Share of messages lost between sites, and within a site.
    pub loss: f64,
    /// Longest delay of a message, milliseconds.
    pub delay_ms: u64,
    /// Share of messages that arrive twice.
    pub repeats: f64,
    /// Processes pause.
    pub pauses: bool,
    /// Processes crash and are started again.
    pub crashes: bool,
    /// Sites are cut off from registers, in one direction or both.
    pub cuts: bool,
    /// Leadership of replicas changes, with both or none believing in it for a while.
    pub elections: bool,
    /// Planners at all sites want arbitrary things; otherwise one planner moves the group every minute.
    pub arbitrary: bool,
    /// Records are deleted by hand, and whole registers installed anew.
    pub deletions: bool,
    /// Registers are restored from snapshots of any age, each after an interruption.
    pub restores: bool,
    /// The worst for safety: the first site has slow clocks, the others fast ones.
    pub worst_clocks: bool,
    /// The first site holds the group, and is cut off again and again from every register but its own.
    pub hunted: bool,
    /// Longest delay of an answer to the first site, or to its agents, if it is not that of the others.
    pub late_answers_ms: Option<u64>,
    /// Longest delay between an agent and its site, if it is not that between sites.
    pub inside_delay_ms: Option<u64>,
    /// Nobody wants the group anywhere else than where it is.
    pub settled: bool,
    /// Clocks that people set: forward and back by seconds, instead of monotonic ones.
    pub wall_clocks: bool,
}

impl Faults {
    pub const CALM: Self = Self {
        loss: 0.0,
        delay_ms: 20,
        repeats: 0.0,
        pauses: false,
        crashes: false,
        cuts: false,
        elections: false,
        arbitrary: false,
        deletions: false,
        restores: false,
        worst_clocks: false,
        hunted: false,
        late_answers_ms: None,
        inside_delay_ms: None,
        settled: false,
        wall_clocks: false,
    };
}

/// Shape and pace of a fleet.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub members: usize,
    pub witnesses: usize,
    pub timing: Timing,
    /// How often an agent asks.
    pub pull: Duration,
    /// Length of a step in real milliseconds.
    pub step_ms: u64,
    /// A restore interrupts a register for at least so long: longer than out of sight on the slowest clock.
    pub interruption_ms: u64,
}

impl Shape {
    pub fn sites(members: usize, witnesses: usize) -> Self {
        let timing = Timing::of_lease(Duration::from_secs(6));
        Self { members, witnesses, timing, pull: Duration::from_secs(1), step_ms: 50, interruption_ms: 5_600 }
    }

    /// Everything polls fast, so that nothing but the protocol's own waits keeps two writers apart.
    pub fn eager(members: usize, witnesses: usize) -> Self {
        let mut shape = Self::sites(members, witnesses);
        shape.timing.renew = Duration::from_millis(100);
        shape.timing.retry = Duration::from_millis(50);
        shape.pull = Duration::from_millis(100);
        shape.step_ms = 20;
        shape
    }

    /// As eager as a site with slow links allows without being taken for dead.
    pub fn hunting(members: usize, witnesses: usize) -> Self {
        let mut shape = Self::eager(members, witnesses);
        shape.timing.renew = Duration::from_millis(500);
        shape.timing.retry = Duration::from_millis(250);
        shape
    }
}
