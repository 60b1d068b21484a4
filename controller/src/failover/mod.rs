//! Multi-active failover: facts in, a decision with its reasons out, executors that only execute.

mod advise;
mod answer;
mod assemble;
mod conditions;
mod data_centers;
mod data_gate;
mod database;
mod facts;
mod gather;
mod incidents;
mod memory;
mod order;
mod planner;
mod record;
mod route;
mod routing;
mod run;
mod status;
mod weights;
mod window;

pub(crate) use self::gather::Kept;
pub use self::{
    data_gate::GateClient,
    facts::{
        AcceptedLoss, Approved, Consent, DRILL_APPROVALS, DataFacts, DataPosition, DatabaseFacts, DependencyFacts,
        DrillMark, HookAnswer, HookCall, HookToken, HookTrouble, HookVerb, HookWish, MoveRequest, Room, ServiceFacts,
        SiteFacts, WorkloadFacts,
    },
    gather::Peer,
    planner::{Actor, Cause, DatabaseDuty, Decision, Proposal, Verdict, duty, headroom, plan, plan_all},
    record::{BREAK_GLASS, BrokenGlass, DECISION, Decided},
    run::{FailoverContext, run},
    weights::weights,
    window::{Look, Seen, Window},
};
