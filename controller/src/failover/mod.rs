//! Multi-active failover of stateless services: facts in, a decision with its reasons out, executors that only execute.

mod facts;
mod gather;
mod incidents;
mod planner;
mod routes;
mod run;
mod status;
mod weights;

pub use self::{
    facts::{ServiceFacts, SiteFacts},
    gather::Peer,
    planner::{Actor, Cause, Decision, Verdict, plan},
    run::{FailoverContext, run},
    weights::weights,
};
