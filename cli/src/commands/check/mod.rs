//! `evergreen check`: whether a release is as it should be, and whether it may go. What `helm test` and the guard of
//! `helm uninstall` run, and what a person types first when something looks odd.

mod facts;
mod install;
mod uninstall;

use clap::Subcommand;

use crate::{commands::block_on, exit::Outcome};

/// Checks of a release.
#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// Whether the release at a data center is complete and works: definitions, pods, register, data centers.
    Install(install::InstallArgs),
    /// Whether the release may be uninstalled without taking a service's grants away.
    Uninstall(uninstall::UninstallArgs),
}

/// Runs the check.
///
/// # Errors
/// What is not as it should be, with the remedy.
pub fn run(command: CheckCommand) -> Outcome {
    match command {
        CheckCommand::Install(args) => block_on(install::run(&args)),
        CheckCommand::Uninstall(args) => block_on(uninstall::run(&args)),
    }
}
