//! The playbook language and its runner, without a world: what a playbook file means, which playbooks may start now, and
//! which step of a run comes next.
//!
//! Everything here is a pure function of values. There is no Kubernetes client, no runtime, no clock and no random
//! source: the time is an argument, the world is an argument, and the caller does what is decided, no more and no less.
//!
//! - [`parse`]: a file -> a playbook, or every error with its line and column
//! - [`expression`]: CEL over nodes, objects, events, alerts, predictions
//! - [`steps`] and [`kinds`]: what is true of each kind of step, and of each kind of object that steps may change
//! - [`board`]: what was seen -> which triggers are raised, for whom and since when
//! - [`schedule`] and [`windows`]: times at which playbooks start, and at which nothing is changed
//! - [`planner`]: facts -> which runs start, which do not, and why
//! - [`runner`]: one run -> the next intent, act, outcome or wait
//! - [`library`]: the playbooks that ship, with their tests
//! - [`catalogue`]: a page that lists playbooks by area
//! - [`explain`] and [`testing`]: what a playbook would do, in words; and the tests next to a playbook

pub mod board;
pub mod catalogue;
pub mod explain;
pub mod expression;
pub mod kinds;
pub mod library;
pub mod parse;
pub mod planner;
pub mod runner;
pub mod schedule;
pub mod steps;
pub mod testing;
pub mod view;
pub mod windows;

pub use parse::{Diagnostic, check_spec, lint_file};
