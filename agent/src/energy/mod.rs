//! Energy of the node: where the figure comes from, what part of it is idle, and who used the rest.
//!
//! [`ledger`], [`idle`], [`calibrate`], [`counter`], [`gauge`], [`share`] and [`model`] are pure; [`powercap`], [`hwmon`],
//! [`battery`], [`dcmi`] and [`nvml`] read one kind of source each, and [`choose`] believes the best of them; [`cgroups`],
//! [`processes`] and [`memory`] know who used what; [`meter`] joins them and [`durable`] keeps the result. Energy is integer
//! microjoules everywhere, and what the ledger gives to pods, system and idle is exactly what the node took.

pub mod args;
pub mod battery;
pub mod calibrate;
pub mod cgroups;
pub mod choose;
pub mod counter;
pub mod dcmi;
pub mod durable;
pub mod estimator;
pub mod gauge;
pub mod hwmon;
pub mod idle;
pub mod ledger;
pub mod memory;
pub mod meter;
pub mod model;
pub mod nvml;
pub mod powercap;
pub mod processes;
pub mod share;
pub mod source;
pub mod wall;

pub use args::EnergyArgs;
pub use ledger::{Account, Ledger, Origin};
pub use meter::{EnergyView, Meter, Now};
pub use wall::WallBoard;
