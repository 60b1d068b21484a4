//! Simulated data centers: an API server, nodes, workloads, a network edge and faults, in one process.
//!
//! Start with [`Twin::builder`]. The published deviations from a real cluster are in [`DEVIATIONS`].
//! This crate knows Kubernetes and the product's nouns; it never knows the controller.

pub mod access;
pub mod apiserver;
mod deviations;
pub mod faults;
pub mod gateway;
pub mod host;
pub mod objects;
pub mod sim;
pub mod story;
mod transport;
mod twin;

pub use deviations::{Deviation, Example, Measured, Origin, deviations, measured};
pub use faults::{Answer, Faults, Loss, Matcher};
pub use host::power::PowerCurve;
pub use host::{HostSpec, PodUsage, SimulatedHost};
pub use sim::Timing;
pub use transport::Served;
pub use twin::{NodeSpec, Twin, TwinBuilder};

/// Ways in which a twin is not a Kubernetes cluster. Shown wherever its results are.
pub const DEVIATIONS: &[&str] = &[
    "no authorization: whoever is known may do everything; served over TLS a twin asks for its own tokens or certificates, in process and over plain loopback the bearer token names the client",
    "answers are JSON, whatever else is accepted; CustomResourceDefinitions in protobuf are refused",
    "CEL rules of CustomResourceDefinitions are not evaluated; conversion between versions only renames apiVersion",
    "no admission webhooks, quotas, limit ranges or Pod security; of the built-in admission only tolerations are added",
    "validation of built-in kinds knows types, required basics and immutable fields, not every rule",
    "Ingresses, volumes, autoscalers and certificate requests are stored and do nothing; claims of StatefulSets are bound at once",
    "the scheduler decides what is feasible; of its scoring only soft spread, spread of one owner's pods and least requested CPU; no host ports, no namespace selectors in affinity but the empty one",
    "containers start, become ready, crash and stop after set times (probes add their initial delays, annotations twin.evergreen.dev/... the rest); no probe is carried out",
    "one EndpointSlice a Service; the simulation's controllers write no Events; names of template hashes differ",
    "no exec, attach, port-forward or logs; tokens of service accounts are signed with a key that nobody else can check",
    "writes of the simulation's own controllers leave no managedFields",
    "heartbeats that nobody watches are written when somebody reads them: a node's Lease is right when read, but its resourceVersion counts only the renewals that were written",
];
