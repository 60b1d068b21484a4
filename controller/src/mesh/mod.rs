//! The network mesh of a data center.
pub mod blame;
pub mod place;
pub mod plan;
