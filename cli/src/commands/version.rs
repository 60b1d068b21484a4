//! `evergreen version`.

use clap::Args;
use serde_json::json;

use crate::exit::Outcome;

/// Print the version.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

pub fn run(args: &VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let api = format!("{}/{}", evergreen_api::names::GROUP, evergreen_api::names::VERSION);
    if args.json {
        println!("{}", json!({"version": version, "api": api}));
    } else {
        println!("evergreen {version} ({api})");
    }
    Ok(())
}
