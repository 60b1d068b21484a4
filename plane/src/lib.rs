//! The unified monitoring plane: OTLP in; incidents, fleet and energy out, as JSON and as a page.
//!
//! One process, one SQLite file. It learns of the world by OTLP alone and never talks to a cluster, so any OTLP
//! backend can stand in its place and any OTLP sender can feed it.
//!
//! - [`ingest`]: the doors of OTLP; answers only what is on disk.
//! - [`store`]: the database and its one writer.
//! - [`live`], [`fleet`]: what is now.
//! - [`incidents`]: what a trace says of an incident.
//! - [`energy`]: exact joules out of counters.
//! - [`predictions`]: what agents expect of their nodes.
//! - [`security`]: who people are, what they may do, and what they did.
//! - [`api`], [`page`]: what people and programs see.

pub mod api;
pub mod args;
pub mod clock;
pub mod energy;
pub mod fleet;
pub mod incidents;
pub mod ingest;
pub mod live;
pub mod mesh;
pub mod model;
pub mod page;
pub mod predictions;
pub mod security;
pub mod stats;
pub mod store;

mod run;

pub use run::{Plane, StartError, main};
