//! Energy of the node: where the figure comes from, what part of it is idle, and who used the rest.
//!
//! [`ledger`], [`idle`] and [`model`] are pure; [`powercap`] and [`cgroups`] read files; [`meter`] joins them. Energy is
//! integer microjoules everywhere, and what the ledger gives to pods, system and idle is exactly what the node took.

pub mod cgroups;
pub mod estimator;
pub mod idle;
pub mod ledger;
pub mod meter;
pub mod model;
pub mod powercap;

pub use ledger::{Account, Ledger, Origin};
pub use meter::{EnergyView, Meter};
