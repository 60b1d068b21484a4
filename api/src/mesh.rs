//! The network mesh: whom an agent probes, what it found, and what the site concludes about it.
//!
//! Spoken over the site endpoint: `GET /v1/peers?node=NAME` answers a [`PeerList`]; [`PathReport`]s ride along with
//! heartbeats, and a [`MeshVerdict`] with their answers. What comes from the other side is checked before it is used.

use serde::{Deserialize, Serialize};

use crate::heartbeat::{HeartbeatError, check_address, check_node};

/// Peers that one agent probes at most, and paths that one heartbeat tells of.
pub const MAX_PEERS: usize = 16;
/// Probes that one path's figures are made of at most: half a minute of them.
pub const WINDOW: u32 = 30;
/// Longest line of a verdict.
const MAX_LINE: usize = 300;
/// Lines of a verdict's evidence.
const MAX_LINES: usize = 8;

/// How far away a peer is: the narrowest place that both stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Same rack.
    Rack,
    /// Same zone, another rack.
    Zone,
    /// Same data center, another zone.
    #[default]
    Site,
    /// Another data center.
    Remote,
}

impl Scope {
    /// As it is written in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rack => "rack",
            Self::Zone => "zone",
            Self::Site => "site",
            Self::Remote => "remote",
        }
    }
}

/// One peer to be probed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Its node.
    pub node: String,
    /// Its data center.
    pub site: String,
    /// `IP:PORT` of its agent, where it echoes probes over UDP.
    pub address: String,
    /// How far away it is.
    pub scope: Scope,
}

/// Answer to `GET /v1/peers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerList {
    /// Data center that answers.
    pub site: String,
    /// Whom to probe.
    pub peers: Vec<Peer>,
}

impl PeerList {
    /// Checks every part of it.
    ///
    /// # Errors
    /// The first part that is not as it has to be.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        if self.peers.len() > MAX_PEERS {
            return Err(HeartbeatError::TooManyPeers);
        }
        self.peers.iter().try_for_each(Peer::check)
    }
}

impl Peer {
    /// Checks every part of it.
    ///
    /// # Errors
    /// The first part that is not as it has to be.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        check_node(&self.node, "peers.node")?;
        check_node(&self.site, "peers.site")?;
        check_address(&self.address, "peers.address")
    }
}

/// What the newest probes of one path found; all figures are of the same at most [`WINDOW`] probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// Node that was probed.
    pub node: String,
    /// Its data center; empty for the own one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// Probes whose outcome is known.
    pub sent: u32,
    /// Of these, the ones that no echo came back for.
    pub lost: u32,
    /// Of these, the ones whose echo came far later than this path's usual time.
    #[serde(default)]
    pub late: u32,
    /// Median time there and back, microseconds; 0 when nothing came back.
    #[serde(default)]
    pub rtt_us: u32,
    /// What that time usually is on this path, microseconds; 0 when it is not known yet.
    #[serde(default)]
    pub usual_us: u32,
    /// Largest IP packet that arrived in one piece, bytes; 0 when it is not known.
    #[serde(default)]
    pub mtu: u32,
    /// How long before this heartbeat the last echo came, milliseconds; absent when none ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u32>,
}

impl PathReport {
    /// Checks every part of it.
    ///
    /// # Errors
    /// The first part that is not as it has to be.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        check_node(&self.node, "paths.node")?;
        if !self.site.is_empty() {
            check_node(&self.site, "paths.site")?;
        }
        if self.sent > WINDOW || self.lost.saturating_add(self.late) > self.sent {
            return Err(HeartbeatError::Figures);
        }
        Ok(())
    }
}

/// The site's word that a node's own network is what fails, to the agent of that node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshVerdict {
    /// One line for people.
    pub summary: String,
    /// Lines that support it.
    #[serde(default)]
    pub evidence: Vec<String>,
}

impl MeshVerdict {
    /// A verdict within its bounds.
    pub fn new(summary: &str, evidence: impl IntoIterator<Item = String>) -> Self {
        let cut = |line: &str| line.chars().take(MAX_LINE).collect::<String>();
        Self { summary: cut(summary), evidence: evidence.into_iter().take(MAX_LINES).map(|line| cut(&line)).collect() }
    }

    /// The same within its bounds, whoever sent it.
    pub fn bounded(self) -> Self {
        Self::new(&self.summary, self.evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_cannot_be_are_refused() {
        let path = PathReport { node: "n-1".into(), sent: 30, lost: 10, late: 20, ..PathReport::default() };
        assert_eq!(path.check(), Ok(()));
        assert!(PathReport { late: 21, ..path.clone() }.check().is_err());
        assert!(PathReport { sent: 31, ..path.clone() }.check().is_err());
        assert!(PathReport { lost: u32::MAX, late: 1, ..path.clone() }.check().is_err());
        assert!(PathReport { site: "no site".into(), ..path }.check().is_err());
    }

    #[test]
    fn a_list_of_peers_is_bounded_and_names_literal_addresses_only() {
        let peer =
            Peer { node: "n".into(), site: "dc-a".into(), address: "10.0.0.1:9464".into(), scope: Scope::Remote };
        let list = |peer: Peer, count: usize| PeerList { site: "dc-b".into(), peers: vec![peer; count] };
        assert_eq!(list(peer.clone(), MAX_PEERS).check(), Ok(()));
        assert!(list(peer.clone(), MAX_PEERS + 1).check().is_err());
        assert!(list(Peer { address: "somewhere:9464".into(), ..peer }, 1).check().is_err());
    }

    #[test]
    fn a_verdict_is_cut_to_its_bounds() {
        let verdict = MeshVerdict { summary: "s".repeat(1_000), evidence: vec!["e".repeat(1_000); 100] }.bounded();
        assert_eq!((verdict.summary.len(), verdict.evidence.len(), verdict.evidence[0].len()), (300, 8, 300));
    }
}
