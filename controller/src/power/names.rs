//! Names of what is published about BMCs; the host's own figures have their names in `evergreen_api`.

/// Gauge, W: what a BMC said last, whoever accounts for it.
pub(super) const BMC_POWER: &str = "evergreen.bmc.power";
/// Counter, J: energy that a BMC measured in this leader's term, whoever accounts for it. For comparison, never for sums.
pub(super) const BMC_ENERGY: &str = "evergreen.bmc.energy";
/// Gauge, 1: how asking a BMC went last; the word is an attribute.
pub(super) const BMC_STATE: &str = "evergreen.bmc.state";
/// Counter, s: time without a usable reading.
pub(super) const BMC_GAP: &str = "evergreen.bmc.gap";
/// Attribute: `ok`, what is odd about the sensor, or why there is no reading.
pub(super) const WORD: &str = "evergreen.bmc.word";
