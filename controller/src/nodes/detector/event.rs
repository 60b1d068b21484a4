//! What the detector tells, and how nodes stand.

use std::time::Duration;

/// What a peer found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The peer.
    pub peer: String,
    /// Tries in vain since the last sign of life.
    pub tries: u32,
    /// Whether the host itself refused: then it is up, and only its agent is gone.
    pub refused: bool,
}

/// Why a node is declared lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Since its last heartbeat.
    pub silent_for: Duration,
    /// Peers that tried, in the order of their names.
    pub witnesses: Vec<Witness>,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Silent too long; peers are looking.
    Suspected {
        /// Node.
        node: String,
        /// Since its last heartbeat.
        silent_for: Duration,
    },
    /// A suspicion was wrong.
    Cleared {
        /// Node.
        node: String,
        /// How long it had been silent.
        silent_for: Duration,
    },
    /// The controller does not hear it, but peers reach it: what fails lies between it and the controller, so it is not
    /// lost, however long this lasts.
    Unheard {
        /// Node.
        node: String,
        /// Since its last heartbeat.
        silent_for: Duration,
    },
    /// Nobody hears or reaches it.
    Lost {
        /// Node.
        node: String,
        /// Why.
        evidence: Evidence,
    },
    /// A lost node lives.
    Returned {
        /// Node.
        node: String,
        /// Whether it was started anew meanwhile.
        rebooted: bool,
    },
    /// A node was started anew.
    Rebooted {
        /// Node.
        node: String,
    },
    /// So many nodes fell silent together that nobody is declared lost.
    Guarded {
        /// Silent ones.
        silent: usize,
        /// Of so many.
        known: usize,
    },
    /// That is over.
    Unguarded,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Heard.
    Alive,
    /// Silent; peers look.
    Suspected,
    /// Declared lost.
    Lost,
    /// Its agent said that it stops.
    Left,
}
