//! Grants: the short-lived, signed permission of a site to serve a failover group, as the edge sees it.

use serde::{Deserialize, Serialize};

/// Permission to serve a group for a little longer. It ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Failover group.
    pub group: String,
    /// Site that grants it, and that holds the group.
    pub site: String,
    /// Epoch of the site's lease; only ever grows.
    pub epoch: u64,
    /// Incarnation of the site's lease.
    pub incarnation: String,
    /// Version of the map entry that names the site; a drop is acknowledged under it.
    #[serde(default)]
    pub version: u64,
    /// Milliseconds left, counted from the moment the asker sent its request.
    pub remaining_ms: u64,
    /// Ed25519 signature, base64, by the site over [`signed_payload`].
    pub signature: String,
}

/// Answer of `GET /v1/grants`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantList {
    /// Site that answers.
    pub site: String,
    /// Ed25519 public key of the site, base64.
    pub public_key: String,
    /// What the site may serve now.
    pub grants: Vec<Grant>,
    /// When the answer was made, milliseconds on a clock of the site's own; means nothing but to the site.
    #[serde(default)]
    pub answered_ms: u64,
}

/// Body of `POST /v1/grants/ack`: this node stopped serving a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantAck {
    /// Node that dropped the grant.
    pub node: String,
    /// Failover group.
    pub group: String,
    /// Epoch of the dropped grant.
    pub epoch: u64,
    /// Incarnation of the dropped grant.
    pub incarnation: String,
    /// Version of the map entry that the dropped grant came from.
    #[serde(default)]
    pub version: u64,
    /// `answered_ms` of the answer that did not name the group any more.
    #[serde(default)]
    pub answered_ms: u64,
}

/// Bytes that a grant's signature covers. The length of each part comes first, so that no two grants share a payload.
pub fn signed_payload(group: &str, site: &str, epoch: u64, incarnation: &str) -> Vec<u8> {
    let mut payload = b"evergreen-grant-v1".to_vec();
    for part in [group.as_bytes(), site.as_bytes(), &epoch.to_be_bytes(), incarnation.as_bytes()] {
        payload.extend_from_slice(&(part.len() as u64).to_be_bytes());
        payload.extend_from_slice(part);
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        assert_ne!(signed_payload("ab", "c", 1, "x"), signed_payload("a", "bc", 1, "x"));
        assert_ne!(signed_payload("a", "b", 1, "x"), signed_payload("a", "b", 2, "x"));
    }
}
