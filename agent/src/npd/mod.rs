//! Drop-in for node-problem-detector: its JSON configurations are read as they are and do here what they do there, except
//! that conditions end: those of a log with the next boot, those of a check when it succeeds.
//!
//! Conditions whose name is a kind of our taxonomy are of that kind; all others are of kind `Custom` under their own name.
//! The journal is read through journalctl; where that is missing a monitor on it is told as an absent source.

pub mod checks;
pub mod config;
pub mod files;
pub mod layout;
pub mod monitor;
