//! What may be said about energy on the command line.

use std::path::PathBuf;

use clap::Args;

/// Settings of the energy sources.
#[derive(Clone, Debug, Default, Args)]
pub struct EnergyArgs {
    /// NVIDIA's management library; looked for where the host has the driver when left out.
    #[arg(long, env = "EVERGREEN_NVML_LIBRARY", value_name = "FILE")]
    pub nvml_library: Option<PathBuf>,
}
