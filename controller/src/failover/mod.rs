//! Multi-active failover: facts in, a decision with its reasons out, executors that only execute.

mod answer;
mod assemble;
mod data_gate;
mod facts;
mod gather;
mod incidents;
mod memory;
mod planner;
mod record;
mod route;
mod run;
mod status;
mod weights;

pub(crate) use self::gather::Kept;
pub use self::{
    data_gate::GateClient,
    facts::{
        AcceptedLoss, Approved, Consent, DataFacts, DataPosition, DependencyFacts, MoveRequest, Room, ServiceFacts,
        SiteFacts, WorkloadFacts,
    },
    gather::Peer,
    planner::{Actor, Cause, Decision, Proposal, Verdict, headroom, plan, plan_all},
    record::{DECISION, Decided},
    run::{FailoverContext, run},
    weights::weights,
};
