//! What the suites that cross rooms share: the product's own programs as processes, a real control plane, nodes without
//! machines, and the honest word for a check that could not run.
//!
//! It links none of the programs that it tests; they are met as users meet them: over their flags, Kubernetes objects,
//! OTLP and HTTP.

pub mod agent;
pub mod chart;
pub mod collector;
pub mod controller;
pub mod fleet;
pub mod hooks;
pub mod http;
pub mod kubernetes;
pub mod lossy;
pub mod node;
pub mod parts;
pub mod plane;
pub mod postgres;
pub mod programs;
pub mod real;
pub mod register;
pub mod rights;
pub mod site_tls;
pub mod skip;
pub mod wait;
pub mod workload;

use std::path::PathBuf;

/// Root of the source tree.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
