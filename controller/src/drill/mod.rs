//! Drills: facts in, what to do next out, an executor that only executes.

pub mod calendar;
#[cfg(test)]
mod checks;
mod facts;
mod planner;

pub use self::{
    facts::{DrillFacts, DrillServiceFacts, ProbeFacts, TicketFacts},
    planner::{ABORT_WITHIN, Next, next},
};
