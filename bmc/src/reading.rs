//! What is asked of a BMC and what it answers, in units that hold no rounding of ours: milliwatts and joules.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

/// Where a figure came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Source {
    /// Redfish.
    #[serde(rename = "redfish")]
    Redfish,
    /// IPMI with the DCMI extension.
    #[serde(rename = "ipmi-dcmi")]
    IpmiDcmi,
}

impl Source {
    /// As in `evergreen.energy.source`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redfish => "redfish",
            Self::IpmiDcmi => "ipmi-dcmi",
        }
    }
}

/// Whether a machine is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// On.
    On,
    /// Off. Only what says so plainly is off.
    Off,
    /// On its way from one to the other, paused, or not told.
    Unknown,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

/// What a machine can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Switch on.
    On,
    /// Switch off at once, without asking the operating system.
    ForceOff,
    /// Ask the operating system to shut down.
    GracefulShutdown,
    /// Off and on again.
    PowerCycle,
    /// Hard reset, power stays on.
    Reset,
}

impl PowerAction {
    /// Name, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::ForceOff => "force off",
            Self::GracefulShutdown => "graceful shutdown",
            Self::PowerCycle => "power cycle",
            Self::Reset => "reset",
        }
    }

    /// Whether the second of two orders changes nothing, so that one whose answer was lost can be sent again.
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::On | Self::ForceOff | Self::GracefulShutdown)
    }
}

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Maker, as the BMC says.
    pub manufacturer: Option<String>,
    /// Model of the machine.
    pub model: Option<String>,
    /// Firmware of the BMC or its protocol version.
    pub firmware: Option<String>,
    /// How the session is secured.
    pub security: String,
}

/// The BMC's own statistics over its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Milliwatts.
    pub minimum_milliwatts: Option<i64>,
    /// Milliwatts.
    pub maximum_milliwatts: Option<i64>,
    /// Milliwatts.
    pub average_milliwatts: Option<i64>,
    /// Length of the window.
    #[serde(rename = "window_seconds", serialize_with = "seconds")]
    pub window: Option<Duration>,
}

fn seconds<S: Serializer>(window: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    window.map(|window| window.as_secs_f64()).serialize(serializer)
}

/// One reading.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Protocol.
    pub source: Source,
    /// What the sensor said, milliwatts. It may be negative or absurd: sensors lie.
    pub milliwatts: i64,
    /// Which sensor, in the BMC's words.
    pub sensor: String,
    /// Statistics, where it keeps them.
    pub statistics: Option<Statistics>,
    /// The BMC's own energy counter, joules, where it has one.
    pub energy_joules: Option<f64>,
    /// The power limit that is set, milliwatts.
    pub limit_milliwatts: Option<i64>,
    /// What the power supplies can give, milliwatts.
    pub capacity_milliwatts: Option<i64>,
    /// Whether the machine is on, where the same question answered that.
    pub power_state: Option<PowerState>,
}
