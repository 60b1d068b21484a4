//! Data centers of real parts on one machine: an etcd and an API server each, controllers, agents, a load balancer,
//! a register workload, and between all of them links that a test can spoil.

pub mod control_plane;
pub mod fleet;
pub mod gateway;
pub mod links;
pub mod logs;
pub mod measure;
pub mod objects;
pub mod report;
