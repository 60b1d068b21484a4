//! `evergreen demo`: the whole product on simulated data centers, in three stories.

mod balancer;
mod certs;
mod messages;
mod ports;
mod processes;
mod report;
mod result;
mod summary;
mod timeline;
mod traffic;
mod wait;

use clap::Args;

use crate::exit::Outcome;

/// Run the whole product.
#[derive(Debug, Args)]
pub struct DemoArgs {}

pub fn run(_: DemoArgs) -> Outcome {
    Ok(())
}
