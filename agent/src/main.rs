//! The binary `evergreen-agent`: reads the command line and does what it says.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Fails only when a provider is installed already, and there is no other.
    let _ = rustls::crypto::ring::default_provider().install_default();
    evergreen_agent::run::main(evergreen_agent::args::Args::parse())
}
