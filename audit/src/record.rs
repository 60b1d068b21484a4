//! One record and its line.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Name of the hash algorithm; a field of each record, so that another one can follow.
pub const ALGORITHM: &str = "sha-256";
/// What the first record names as the one before.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Separates what is hashed from the hash.
const HASH: &str = ",\"hash\":\"";

/// What shall be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// When, RFC 3339.
    pub at: String,
    /// What kind, as in `failover.decision`.
    pub kind: String,
    /// Everything about it. Never a secret: the record is for others to read.
    pub body: Value,
}

/// A record that was read and whose hash is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Number, from 1.
    pub seq: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What kind.
    pub kind: String,
    /// Hash algorithm.
    pub alg: String,
    /// Hash of the record before.
    pub prev: String,
    /// Everything about it.
    pub body: Value,
    /// Hash of this record.
    pub hash: String,
}

#[derive(Serialize)]
struct Hashed<'a> {
    seq: u64,
    at: &'a str,
    kind: &'a str,
    alg: &'a str,
    prev: &'a str,
    body: &'a Value,
}

/// The line of a record, with its line break, and its hash.
pub(crate) fn line(seq: u64, prev: &str, draft: &Draft) -> Result<(String, String), serde_json::Error> {
    let Draft { at, kind, body } = draft;
    let mut line = serde_json::to_string(&Hashed { seq, at, kind, alg: ALGORITHM, prev, body })?;
    line.pop();
    let hash = hex::encode(Sha256::digest(line.as_bytes()));
    line.push_str(HASH);
    line.push_str(&hash);
    line.push_str("\"}\n");
    Ok((line, hash))
}

/// Reads a line without its line break.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(line: &str) -> Result<Record, String> {
    let record: Record = serde_json::from_str(line).map_err(|error| format!("is no record: {error}"))?;
    if record.alg != ALGORITHM {
        return Err(format!("has the unknown hash algorithm `{}`", record.alg));
    }
    let hashed = line.rfind(HASH).map(|end| &line[..end]).ok_or("has no hash")?;
    if line.len() != hashed.len() + HASH.len() + record.hash.len() + 2 {
        return Err("does not end with its hash".into());
    }
    if hex::encode(Sha256::digest(hashed.as_bytes())) != record.hash {
        return Err("was changed: its hash is not that of its content".into());
    }
    Ok(record)
}
