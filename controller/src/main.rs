//! `evergreen-controller`: one a data center.

use std::process::ExitCode;

use clap::Parser;
use evergreen_controller::{Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("evergreen-controller: a second TLS provider was installed");
        return ExitCode::from(2);
    }
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evergreen-controller: {error:#}");
            ExitCode::from(3)
        }
    }
}
