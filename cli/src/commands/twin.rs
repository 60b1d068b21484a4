//! `evergreen twin`: simulated data centers.

use clap::Subcommand;

use crate::exit::Outcome;

/// Simulated data centers.
#[derive(Debug, Subcommand)]
pub enum TwinCommand {}

pub fn run(command: TwinCommand) -> Outcome {
    match command {}
}
