//! `evergreen datacenter`: what binds data centers into a fleet.

mod join;
mod kubeconfig;
mod place;

use clap::Subcommand;

use crate::{commands::block_on, exit::Outcome};

/// Commands about data centers.
#[derive(Debug, Subcommand)]
pub enum DataCenterCommand {
    /// Let data centers reach each other: kubeconfigs with no more rights than controllers need, made and stored.
    Join(join::JoinArgs),
}

/// Runs the command.
///
/// # Errors
/// What could not be done, with the remedy.
pub fn run(command: DataCenterCommand) -> Outcome {
    match command {
        DataCenterCommand::Join(args) => block_on(join::run(&args)),
    }
}
