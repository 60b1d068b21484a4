//! Drills: facts in, what to do next out, an executor that only executes.

pub mod calendar;
mod card;
#[cfg(test)]
mod checks;
mod facts;
mod observe;
mod planner;
mod probe;
mod record;
mod run;
mod statements;

pub use self::{
    facts::{DrillFacts, DrillServiceFacts, ProbeFacts, TicketFacts},
    planner::{ABORT_WITHIN, Next, next},
    record::{DRILL_DECISION, DrillDecided},
    run::{DrillContext, run},
};
