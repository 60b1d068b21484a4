//! One file per command.

pub mod completion;
pub mod crds;
pub mod playbook;
pub mod report;
pub mod top;
pub mod twin;
pub mod version;

use crate::exit::{Failure, Outcome};

/// Runs an async command on a small runtime of its own.
///
/// # Errors
/// What the command returns, or that no runtime could be started.
pub fn block_on<F: Future<Output = Outcome>>(command: F) -> Outcome {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::unreachable(format_args!("cannot start the runtime: {error}")))?
        .block_on(command)
}
