//! Heartbeats: how an agent says that its node lives, and what it saw of the peers that it was asked to probe.
//!
//! Spoken over the site endpoint, `POST /v1/heartbeat`. What comes from the other side is checked before it is used.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::mesh::{MAX_PEERS, MeshVerdict, PathReport};

/// Longest name of a node; Kubernetes allows no longer one.
pub const MAX_NODE_NAME: usize = 253;
/// Longest boot id; Linux uses 36.
pub const MAX_BOOT_ID: usize = 64;
/// Results that one heartbeat may carry, and probes that one answer may ask for.
pub const MAX_PROBES: usize = 16;

/// Body of `POST /v1/heartbeat`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Node that lives.
    pub node: String,
    /// Its boot: another one means that it was started anew.
    pub boot_id: String,
    /// Grows from heartbeat to heartbeat within a boot, across restarts of the agent too.
    pub sequence: u64,
    /// When it was sent, on the sender's own monotonic clock; to be compared with nobody else's.
    pub sent_ms: u64,
    /// `IP:PORT` where peers can ask this agent's /healthz; empty when they cannot.
    #[serde(default)]
    pub address: String,
    /// The agent is being stopped: the silence that follows is no death.
    #[serde(default)]
    pub leaving: bool,
    /// What was seen of peers lately; a result is repeated in several heartbeats, because heartbeats get lost.
    #[serde(default)]
    pub probes: Vec<ProbeResult>,
    /// What the network mesh found; not in every heartbeat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathReport>,
}

/// What a peer's agent did when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeOutcome {
    /// It answered, whatever the answer was.
    Answered,
    /// Its host refused the connection: the host is up, its agent is not.
    Refused,
    /// Nothing came back in time.
    Silent,
}

/// Result of one probe, which is several tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Node that was probed.
    pub node: String,
    /// Grows from result to result of this agent, as the heartbeats' sequence does.
    pub number: u64,
    /// Round that the probe was asked for in.
    pub round: u64,
    /// Whether any try was answered, and how they failed if not.
    pub outcome: ProbeOutcome,
    /// How many tries were made.
    pub tries: u32,
}

/// Answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// Whom to probe now.
    #[serde(default)]
    pub probe: Vec<ProbeRequest>,
    /// Set as long as the site finds that this node's own network fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<MeshVerdict>,
    /// Power of the node as its management controller sees it, for a node that cannot ask it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_power: Option<WallPower>,
}

/// Power of a node, measured from outside of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallPower {
    /// Milliwatts.
    pub milliwatts: u64,
    /// Age of the reading when the answer was sent.
    pub age_ms: u64,
    /// `redfish` or `ipmi-dcmi`.
    pub source: String,
}

impl WallPower {
    /// Most power that is believed, milliwatts: more than any node takes.
    pub const MOST_MILLIWATTS: u64 = 50_000_000;
    /// Greatest age, milliseconds.
    pub const MAX_AGE_MS: u64 = 60_000;

    /// Checks every part of it.
    ///
    /// # Errors
    /// When it is not what a site says.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        let known = matches!(self.source.as_str(), "redfish" | "ipmi-dcmi");
        if known && self.milliwatts <= Self::MOST_MILLIWATTS && self.age_ms <= Self::MAX_AGE_MS {
            Ok(())
        } else {
            Err(HeartbeatError::WallPower)
        }
    }
}

/// A node to be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Node.
    pub node: String,
    /// `IP:PORT` of its agent.
    pub address: String,
    /// To be named in the result.
    pub round: u64,
}

/// A message that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// A node's name is none.
    #[error("{field}: a node's name has 1 to {MAX_NODE_NAME} lower-case letters, digits, `-` and `.`")]
    Node {
        /// Where.
        field: &'static str,
    },
    /// The boot id is none.
    #[error("boot_id: 1 to {MAX_BOOT_ID} letters, digits and `-` are expected, as in /proc/sys/kernel/random/boot_id")]
    BootId,
    /// An address is none.
    #[error("{field}: IP:PORT of one host is expected")]
    Address {
        /// Where.
        field: &'static str,
    },
    /// A power that no site says.
    #[error("wall_power: at most {most} mW, {age} ms old, from redfish or ipmi-dcmi", most = WallPower::MOST_MILLIWATTS, age = WallPower::MAX_AGE_MS)]
    WallPower,
    /// Too many probes.
    #[error("probes: at most {MAX_PROBES} at a time")]
    TooMany,
    /// Too many peers or paths.
    #[error("peers, paths: at most {MAX_PEERS} of an agent")]
    TooManyPeers,
    /// Figures of a path contradict each other.
    #[error("paths: no more probes can be lost or late than were sent in a window")]
    Figures,
}

impl Heartbeat {
    /// Checks every part of it.
    ///
    /// # Errors
    /// The first part that is not as it has to be.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        check_node(&self.node, "node")?;
        let boot = self.boot_id.as_bytes();
        if !(1..=MAX_BOOT_ID).contains(&boot.len()) || !boot.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
            return Err(HeartbeatError::BootId);
        }
        if !self.address.is_empty() {
            check_address(&self.address, "address")?;
        }
        if self.probes.len() > MAX_PROBES {
            return Err(HeartbeatError::TooMany);
        }
        if self.paths.len() > MAX_PEERS {
            return Err(HeartbeatError::TooManyPeers);
        }
        self.paths.iter().try_for_each(PathReport::check)?;
        self.probes.iter().try_for_each(|probe| check_node(&probe.node, "probes.node"))
    }
}

impl HeartbeatAnswer {
    /// Checks every part of it.
    ///
    /// # Errors
    /// The first part that is not as it has to be.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        if self.probe.len() > MAX_PROBES {
            return Err(HeartbeatError::TooMany);
        }
        self.wall_power.as_ref().map_or(Ok(()), WallPower::check)?;
        self.probe.iter().try_for_each(|probe| {
            check_node(&probe.node, "probe.node")?;
            check_address(&probe.address, "probe.address")
        })
    }
}

pub(crate) fn check_node(name: &str, field: &'static str) -> Result<(), HeartbeatError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if (1..=MAX_NODE_NAME).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(HeartbeatError::Node { field })
    }
}

/// A literal address only: whoever sends one can make no peer look up a name, nor speak to everybody at once.
pub(crate) fn check_address(text: &str, field: &'static str) -> Result<(), HeartbeatError> {
    let parsed: Option<SocketAddr> = text.parse().ok().filter(|_| text.len() <= 64);
    match parsed {
        Some(address) if address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() => {
            Ok(())
        }
        _ => Err(HeartbeatError::Address { field }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat() -> Heartbeat {
        Heartbeat { node: "n-1.example".into(), boot_id: "b-1".into(), sequence: 1, ..Heartbeat::default() }
    }

    #[test]
    fn a_heartbeat_says_what_it_must_and_may_leave_out_the_rest() {
        let read: Heartbeat =
            serde_json::from_str(r#"{"node":"n-1.example","boot_id":"b-1","sequence":1,"sent_ms":0}"#).unwrap();
        assert_eq!(read, heartbeat());
        assert_eq!(read.check(), Ok(()));
    }

    #[test]
    fn every_part_is_bounded_and_checked() {
        let long = "n".repeat(254);
        for node in ["", "N", "a b", "n\n", "名", &long] {
            assert!(Heartbeat { node: node.to_owned(), ..heartbeat() }.check().is_err(), "{node}");
        }
        for boot_id in ["", "a b", &long] {
            assert!(Heartbeat { boot_id: boot_id.to_owned(), ..heartbeat() }.check().is_err(), "{boot_id}");
        }
        for address in ["host:1", "10.0.0.1", "10.0.0.1:0", "0.0.0.0:9464", "224.0.0.1:80", "[::]:1"] {
            assert!(Heartbeat { address: address.to_owned(), ..heartbeat() }.check().is_err(), "{address}");
        }
        for address in ["10.0.0.1:9464", "[fd00::1]:9464", ""] {
            assert!(Heartbeat { address: address.to_owned(), ..heartbeat() }.check().is_ok(), "{address}");
        }
        let probe = ProbeResult { node: "n".into(), number: 1, round: 1, outcome: ProbeOutcome::Silent, tries: 3 };
        assert!(Heartbeat { probes: vec![probe; MAX_PROBES + 1], ..heartbeat() }.check().is_err());
        let ask = |address: &str| HeartbeatAnswer {
            probe: vec![ProbeRequest { node: "n".into(), address: address.into(), round: 1 }],
            ..HeartbeatAnswer::default()
        };
        assert!(ask("10.0.0.1:1").check().is_ok());
        assert!(ask("").check().is_err());
    }

    #[test]
    fn only_a_plausible_and_fresh_wall_power_is_taken() {
        let wall = WallPower { milliwatts: 200_000, age_ms: 900, source: "redfish".into() };
        let answer = |wall_power: WallPower| HeartbeatAnswer { wall_power: Some(wall_power), ..Default::default() };
        assert!(answer(wall.clone()).check().is_ok());
        for wrong in [
            WallPower { milliwatts: WallPower::MOST_MILLIWATTS + 1, ..wall.clone() },
            WallPower { age_ms: WallPower::MAX_AGE_MS + 1, ..wall.clone() },
            WallPower { source: "rumour".into(), ..wall },
        ] {
            assert!(answer(wrong).check().is_err());
        }
    }
}
