//! What every energy source gives: energy since the last look, by part of the machine, or a plain word why not.
//!
//! A source only reads; which one is believed is decided in [`choose`](super::choose). None of them may make up energy:
//! what cannot be true (0 W, less than nothing, more than the machine can draw) is a [`Fault`], and the interval is a gap.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a source sees of the node, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All of it, in front of the power supplies.
    Wall,
    /// All of it, behind the power supplies.
    Board,
    /// Some parts of it.
    Parts,
    /// All of it, while it runs on a battery.
    Battery,
}

/// Kind of a part, as `hw.type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// A processor package.
    Cpu,
    /// Memory that is metered beside the package.
    Memory,
    /// An accelerator.
    Gpu,
    /// Everything that no part accounts for: supplies, fans, disks, board; or the whole node where no part is metered.
    Rest,
}

impl PartKind {
    /// Value of `hw.type`; nothing for what is no piece of hardware.
    pub fn hw_type(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Memory => Some("memory"),
            Self::Gpu => Some("gpu"),
            Self::Rest => None,
        }
    }
}

/// Energy of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Which one, as in `package-0` or `package-0/dram`.
    pub id: String,
    /// Energy since the last look, microjoules.
    pub microjoules: u64,
}

/// What a source says about the time since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Energy of the whole node, microjoules, from sources that see all of it.
    pub node: Option<u64>,
    /// Parts that add up.
    pub parts: Vec<Part>,
    /// Parts of parts (cores, uncore), shown and never added.
    pub inside: Vec<Part>,
    /// Energy that wraps nobody saw may hide at most, microjoules. Not counted.
    pub unsure_microjoules: u64,
    /// Who used parts that CPU time says nothing about.
    pub users: Vec<Users>,
}

/// Who used a part, such as an accelerator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Which part.
    pub id: String,
    /// Share of the time in which it worked, percent.
    pub busy_percent: u32,
    /// Processes of the host with the work each of them did, in any unit.
    pub processes: Vec<(u32, u64)>,
}

impl Reading {
    /// A reading of the whole node.
    pub fn whole(microjoules: u64) -> Self {
        Self { node: Some(microjoules), ..Self::default() }
    }

    /// Sum of the parts, microjoules.
    pub fn parts_microjoules(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.microjoules))
    }
}

/// Why a source has nothing to say about an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no earlier reading to compare with; no fault of the sensor.
    First,
    /// It has nothing to say at present, and that is in order.
    NotNow(&'static str),
    /// It could not be read.
    Unreadable(String),
    /// A running machine never takes nothing.
    Zero,
    /// A power below zero.
    Negative,
    /// The same figure for minutes while the load changed.
    Stuck {
        /// For how long, seconds.
        seconds: u64,
    },
    /// More than this machine can draw.
    Absurd {
        /// What it said, watts.
        watts: u64,
        /// What is thought possible, watts.
        limit: u64,
    },
    /// The counter was set back, or jumped: what happened in between is not known.
    Reset,
    /// A counter without an end ran backwards.
    Backwards,
    /// The last reading is too old.
    Stale {
        /// Its age, seconds.
        seconds: u64,
    },
}

impl Fault {
    /// One word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::NotNow(_) => "not-now",
            Self::Unreadable(_) => "unreadable",
            Self::Zero => "zero",
            Self::Negative => "negative",
            Self::Stuck { .. } => "stuck",
            Self::Absurd { .. } => "absurd",
            Self::Reset => "reset",
            Self::Backwards => "backwards",
            Self::Stale { .. } => "stale",
        }
    }

    /// Whether the sensor is to blame.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::First | Self::NotNow(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => write!(f, "read once only"),
            Self::NotNow(why) => write!(f, "{why}"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::Zero => write!(f, "says 0 W, which no running machine takes"),
            Self::Negative => write!(f, "says less than 0 W"),
            Self::Stuck { seconds } => write!(f, "is stuck: the same figure for {seconds} s while the load changed"),
            Self::Absurd { watts, limit } => write!(f, "says {watts} W, more than the {limit} W this machine can draw"),
            Self::Reset => write!(f, "its counter was set back or jumped"),
            Self::Backwards => write!(f, "its counter ran backwards and has no end to wrap at"),
            Self::Stale { seconds } => write!(f, "its last reading is {seconds} s old"),
        }
    }
}

/// What helps a source to judge itself.
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// Time since the last look in which the machine was awake, milliseconds.
    pub elapsed_ms: u64,
    /// Most that the machine is thought to draw, watts.
    pub limit_watts: u64,
    /// Share of CPU time that was busy.
    pub utilization: Option<f64>,
}

/// A source of energy figures.
pub trait EnergySource: Send {
    /// Its name in figures, as in `powercap`.
    fn name(&self) -> &'static str;
    /// What it sees.
    fn scope(&self) -> Scope;
    /// What it reads, for people.
    fn describes(&self) -> String;
    /// Energy since the last call.
    ///
    /// # Errors
    /// The fault, when nothing can be said about the interval.
    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault>;
}
