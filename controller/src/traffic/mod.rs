//! Moves traffic between sites: one small file for each thing that can, behind one call.
//!
//! Nothing here decides who shall serve: a [`TrafficPlan`] says so under an epoch, and an actuator makes it so or says why
//! not. Each refuses a plan of an older epoch than the one it finds, never takes the last endpoint away, may be called again
//! at any time, is bounded by a time-out and never tries again by itself.

mod allow;
mod apply;
mod calls;
mod dns;
mod dns_endpoint;
mod error;
mod haproxy;
mod ingress;
mod object;
mod plan;
mod powerdns;
mod routes;
mod routing_table;
mod secrets;
mod service;
mod webhook;
mod wire;
mod writers;

pub use self::{
    allow::TrafficAllow,
    apply::{TrafficContext, apply},
    error::{Outcome, TrafficError},
    plan::TrafficPlan,
    writers::{ActuatorState, TrafficWriters},
};
pub(crate) use self::{
    calls::{Target, http},
    routing_table::publish,
};
