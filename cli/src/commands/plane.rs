//! `evergreen plane`: looks a plane's data over or copies it. The program `evergreen-plane` does it, which alone knows the
//! database; this finds it, hands over, and ends as it ended.

use std::process::Command;

use clap::Subcommand;

use crate::{
    demo::find_program,
    exit::{Failure, Outcome},
};

/// A plane's data, also while it runs. Arguments are those of `evergreen-plane check` and `evergreen-plane backup`.
#[derive(Debug, Subcommand)]
pub enum PlaneCommand {
    /// Read the whole database and say what is wrong with it: --data-dir DIR [--json].
    #[command(disable_help_flag = true)]
    Check(Handed),
    /// Copy the database while the plane goes on: --data-dir DIR --to FILE [--json].
    #[command(disable_help_flag = true)]
    Backup(Handed),
}

/// What is handed over.
#[derive(Debug, clap::Args)]
pub struct Handed {
    /// Arguments; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<std::ffi::OsString>,
}

/// Runs it.
///
/// # Errors
/// When there is no `evergreen-plane`, or it ended otherwise than well.
pub fn run(command: &PlaneCommand) -> Outcome {
    let (name, handed) = match command {
        PlaneCommand::Check(handed) => ("check", handed),
        PlaneCommand::Backup(handed) => ("backup", handed),
    };
    let program = find_program("evergreen-plane")?;
    let status = Command::new(&program)
        .arg(name)
        .args(&handed.arguments)
        .status()
        .map_err(|error| Failure::unreachable(format_args!("{} cannot be started: {error}", program.display())))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(Failure::no("the plane's data is not sound; what is wrong stands above")),
        Some(2) => Err(Failure::usage("evergreen-plane does not take these arguments")),
        _ => Err(Failure::unreachable("the plane's data could not be used; the reason stands above")),
    }
}
