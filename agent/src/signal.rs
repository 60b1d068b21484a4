//! What detectors say to the one owner of the node's problems. They know this and not the owner.

use std::sync::Arc;

use crate::{conditions::Sighting, kernel::position::Position, rules::Rulebook};

/// What a detector says.
#[derive(Clone, Debug)]
pub enum Signal {
    /// A problem was seen.
    Seen(Sighting),
    /// A rule's cause is over.
    Over {
        /// The rule.
        rule: String,
        /// What says so.
        why: String,
    },
    /// Other rules than before.
    Rules(Arc<Rulebook>),
    /// Everything before is told; the log was read up to here.
    Position(Position),
    /// Everything before is told that a monitor found in its own log; that was read up to here.
    LogPosition {
        /// The monitor.
        source: String,
        /// Where.
        position: Position,
    },
}
