//! The API server of one simulated data center: store, rules of the kinds, HTTP.
//!
//! It knows nothing of nodes that run or pods that start: that is [`crate::sim`]. Faults act at its edge only.

mod bootstrap;
pub mod builtin;
mod call;
mod cell_text;
mod checks;
pub mod clock;
pub mod defaults;
pub mod delete;
pub mod discovery;
pub mod error;
pub mod events;
pub mod http;
mod interner;
pub mod json_path;
pub(crate) mod leases;
pub mod load;
pub mod metrics;
mod openapi;
pub mod registry;
pub mod reviews;
pub mod server;
pub mod shape;
mod status;
pub mod store;
pub mod subresources;
mod table;
pub mod users;
pub mod validation;
pub mod watch;
pub mod write;
