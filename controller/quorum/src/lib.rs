//! The protocol core: who may serve what, decided over registers in several data centers without a hub.
//!
//! Everything here is a pure state machine over values: it is told the time and the registers' answers and says which
//! requests to send and what may be granted. It imports no Kubernetes, no runtime, no clock and no random source, so
//! that the very code that runs in production is what simulations and models check.
//!
//! The rules carry the numbers R1 to R10 of docs/protocol.md.

mod core;
mod edges;
mod incarnation;
mod lease;
mod map;
mod mutants;
mod record;
mod round;
mod timing;
mod view;

#[cfg(test)]
mod checks;

pub use self::{
    core::{Core, CoreConfig, Goal, GoalState, Grantable, Standing},
    edges::Edges,
    incarnation::Incarnation,
    map::{AssignmentMap, Entry, Holder},
    record::{
        Accepted, Answer, Ballot, LeaseVersion, Mark, Marks, Observed, Operation, RegisterContent, RegisterState,
        Request, RequestId, SiteRecord, StateVersion,
    },
    timing::{Mono, Timing},
};
