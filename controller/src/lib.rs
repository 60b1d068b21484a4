//! One data center's controller: observe, plan, execute, record.
//!
//! Planners and the protocol core are pure; executors make no choices. The controllers of a fleet meet only over the
//! registers in each other's API servers: there is no hub.

pub mod quorum;
