//! Energy out of counters: whole microjoules that add up exactly over adjacent windows, by provenance, with gaps told.

pub mod counter;
pub mod green;
pub mod ledger;
pub mod query;
pub mod series;
pub mod window;

use evergreen_api::telemetry::metric;

/// Counters that are rolled up and kept, in millionths of their unit: joules, and litres of a data center's water.
pub const COUNTERS: [&str; 5] =
    [metric::HOST_ENERGY, metric::NODE_ENERGY, metric::POD_ENERGY, metric::FACILITY_ENERGY, metric::FACILITY_WATER];

/// Roll-up step of recent energy, milliseconds.
pub const FIVE_MINUTES_MS: i64 = 300_000;
/// Roll-up step of old energy, milliseconds.
pub const HOUR_MS: i64 = 3_600_000;

/// Export interval of a counter that has shown too few points to learn it from, milliseconds.
pub fn default_interval_ms(name: &str) -> i64 {
    if name == metric::POD_ENERGY { 60_000 } else { 10_000 }
}
