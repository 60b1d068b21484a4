//! The playbook language and its runner, without a world: what a playbook file means, which playbooks may start now, and
//! which step of a run comes next.
//!
//! Everything here is a pure function of values. There is no Kubernetes client, no runtime, no clock and no random
//! source: the time is an argument, the world is an argument, and the caller does what is decided, no more and no less.
//!
//! - [`parse`]: a file -> a playbook, or every error with its line and column
//! - [`expression`]: CEL over `node` and `before`
//! - [`planner`]: facts -> which runs start, which do not, and why
//! - [`runner`]: one run -> the next intent, act, outcome or wait
//! - [`library`]: the playbooks that ship, with their tests
//! - [`explain`] and [`testing`]: what a playbook would do, in words; and the tests next to a playbook

pub mod explain;
pub mod expression;
pub mod library;
pub mod parse;
pub mod planner;
pub mod runner;
pub mod testing;
pub mod view;

pub use parse::{Diagnostic, check_spec, lint_file};
