//! JSON objects of the Kubernetes kind: reading them, patching them, owning their fields.
//!
//! Everything here is a pure function over values: no store, no clock, no network.

pub mod apply;
pub mod fields;
pub mod kinds;
pub mod meta;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selectors;
pub mod strategic;
pub mod structural;
pub mod typed;
