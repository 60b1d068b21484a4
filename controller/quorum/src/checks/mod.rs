//! Checks of the protocol core: simulation over random faults, an exhaustive model of bounded faults, and the proof of
//! both: with any one rule left out they find two writers.

mod agent;
mod faults;
mod fleet;
mod hazards;
mod model;
mod numbers;
mod register;
mod simulation;
mod world;
