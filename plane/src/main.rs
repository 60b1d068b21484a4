//! The process `evergreen-plane`: reads its arguments and runs the plane until it is told to stop.

use clap::Parser;
use evergreen_plane::args::Args;

fn main() -> std::process::ExitCode {
    evergreen_plane::main(Args::parse())
}
