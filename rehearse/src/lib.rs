//! Rehearsal: what would happen if a node, a zone, a data center or a service were lost, tried on a copy of the fleet.
//!
//! - [`import`]: real clusters -> a [`snapshot`], read-only, never Secrets
//! - [`stage`]: one data center of a snapshot -> a twin
//! - [`play`]: a loss on that twin in virtual time, healed by the controller's own code
//! - [`trial`]: the runs of playbook tests on a twin in virtual time, healed by the same code
//! - [`failover`]: the only place that knows the controller's failover planner
//! - [`rehearsal`]: losses -> [`outcome`]s; [`report`]: the same as terminal table, HTML and JSON
//!
//! The same snapshot and flags give the same report: there is no wall clock here but the one that dates a snapshot.

pub mod check;
pub mod demo;
pub mod failover;
pub mod fleet;
pub mod import;
mod judge;
pub mod kinds;
mod ledger;
pub mod loss;
pub mod outcome;
pub mod play;
pub mod rehearsal;
mod remedy;
pub mod report;
pub mod snapshot;
pub mod stage;
pub mod trial;
mod trim;
pub mod words;

pub use import::{ImportError, import};
pub use loss::Loss;
pub use outcome::{Report, Verdict};
pub use rehearsal::{Plan, rehearse};
pub use snapshot::Snapshot;
pub use words::{Lang, Words};
