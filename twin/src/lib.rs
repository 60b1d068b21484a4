//! Simulated data centers: an API server, nodes, workloads, a network edge and faults, in one process.
//!
//! Start with [`Twin::builder`]. The published deviations from a real cluster are in [`DEVIATIONS`].
//! This crate knows Kubernetes and the product's nouns; it never knows the controller.

pub mod apiserver;
pub mod faults;
pub mod gateway;
pub mod host;
pub mod objects;
pub mod sim;
mod transport;
mod twin;

pub use faults::{Answer, Faults, Loss, Matcher};
pub use host::power::PowerCurve;
pub use host::{HostSpec, PodUsage, SimulatedHost};
pub use sim::Timing;
pub use transport::Served;
pub use twin::{NodeSpec, Twin, TwinBuilder};

/// Ways in which a twin is not a Kubernetes cluster. Shown wherever its results are.
pub const DEVIATIONS: &[&str] = &[
    "no authentication and no authorization: the bearer token names the client, everything is allowed",
    "request bodies are JSON or YAML; protobuf is answered with 415",
    "unknown fields of built-in kinds are kept, not pruned or warned about",
    "CEL rules of CustomResourceDefinitions are not evaluated; conversion between versions only renames apiVersion",
    "no admission webhooks, quotas, limit ranges or Pod security",
    "StatefulSets, Jobs, CronJobs, Ingresses, volumes and quotas are stored and do nothing",
    "the scheduler knows requests, taints, cordon, node selector and affinity and pod anti-affinity; no spread, no preemption",
    "a container starts, becomes ready and stops after set times; it never fails by itself and has no probes",
    "one EndpointSlice a Service; the simulation's controllers write no Events; names of template hashes differ",
    "no exec, attach, port-forward, logs or service account tokens",
    "a replace never creates an object",
    "writes of the simulation's own controllers leave no managedFields",
];
