//! A register that one data center at a time may write: the smallest workload whose history shows two writers.
//!
//! Each site runs a server that asks its node's agent for a grant before it serves. The value lives in an etcd that
//! all sites share; the server of the holder answers reads from its memory, so that a second holder shows as a stale
//! read even where the store refuses its writes.

pub mod check;
pub mod clients;
pub mod history;
pub mod server;
pub mod store;
