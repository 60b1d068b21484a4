//! The nouns of Evergreen: custom resources, problem taxonomy, names and units.
//!
//! Every room knows this crate and this crate knows no room. It does no I/O, reads no clock and draws no random
//! numbers: everything here is a value or a pure function of values.

pub mod duration;
pub mod grants;
pub mod heartbeat;
pub mod mesh;
pub mod names;
pub mod problem;
pub mod resources;
pub mod size;
pub mod telemetry;
pub mod trace;
pub mod validate;

pub use duration::HumanDuration;
pub use problem::{Detection, ProblemKind, Severity};
pub use trace::TraceParent;
pub use validate::{FieldError, Validate};
