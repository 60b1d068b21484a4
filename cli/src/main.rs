//! `evergreen`: the command line. It parses, hands over to one file per command, and turns the answer into an exit code.

mod args;
mod commands;
mod demo;
mod exit;
mod http;
mod plane;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    // The only TLS provider of the product; installing it twice is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    exit::report(cli.run())
}
