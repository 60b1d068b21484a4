//! One data center's controller: observe, plan, execute, record.
//!
//! Planners and the protocol core are pure; executors make no choices. The controllers of a fleet meet only over the
//! registers in each other's API servers: there is no hub.

mod args;
pub mod consent;
pub mod drill;
pub mod energy_report;
pub mod failover;
pub mod healing;
pub mod leader;
mod members;
pub mod mesh;
mod metrics;
pub mod nodes;
pub mod power;
mod run;
pub mod site;
pub mod traffic;

pub use evergreen_quorum as quorum;

pub use self::{args::Args, run::run};
