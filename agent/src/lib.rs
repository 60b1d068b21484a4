//! One node: collect, detect, attribute, publish.
//!
//! Sources ([`sources`], [`kernel`]) give samples and problems; [`energy`] divides what the node takes; [`conditions`]
//! says which problems are raised; [`health`] owns them; [`publish`] and [`export`] tell the cluster and whoever scrapes;
//! [`grants`] keeps what the site lets this node serve. The parts meet in [`run`] and in [`shared`] only. The agent acts
//! on nothing: it reads, and it tells.

pub mod anomaly;
pub mod anomaly_rows;
pub mod args;
pub mod clock;
pub mod conditions;
pub mod detect;
pub mod energy;
pub mod export;
pub mod grants;
pub mod health;
pub mod heartbeat;
pub mod host;
pub mod kernel;
pub mod mesh;
pub mod npd;
pub mod places;
pub mod predict;
pub mod probes;
pub mod publish;
pub mod rules;
pub mod run;
pub mod shared;
pub mod signal;
pub mod sources;
pub mod store;
pub mod table;
pub mod text;
pub mod watch;
