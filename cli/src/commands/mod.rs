//! One file per command.

pub mod approve;
mod approve_run;
pub mod audit;
pub mod bmc;
pub mod check;
pub mod completion;
pub mod crds;
pub mod datacenter;
pub mod drill;
pub mod failover;
pub mod pause;
pub mod plane;
pub mod playbook;
pub mod rehearse;
pub mod report;
pub mod status;
pub mod top;
pub mod twin;
pub mod version;

use tokio::signal::unix::{SignalKind, signal};

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

/// Ends when somebody presses Ctrl-C, closes the terminal, or asks with SIGTERM.
pub async fn asked_to_end() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        // Without a handler the signal ends this process by itself.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}
