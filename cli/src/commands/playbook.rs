//! `evergreen playbook`: check self-healing playbooks.

use clap::Subcommand;

use crate::exit::Outcome;

/// Check self-healing playbooks.
#[derive(Debug, Subcommand)]
pub enum PlaybookCommand {}

pub fn run(command: PlaybookCommand) -> Outcome {
    match command {}
}
