//! Statements: what can be said, and how it is signed.

use base64::{Engine, engine::general_purpose::STANDARD};
use evergreen_api::{HumanDuration, resources::DrillEvidence};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde::{Deserialize, Serialize};

use crate::failover::AcceptedLoss;

/// What a person says. The text that is signed is its JSON, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    /// Something unique, so that no two statements have the same digest.
    pub nonce: String,
    /// When it was made, RFC 3339; for people, never compared.
    pub at: String,
    /// Failover group.
    pub group: String,
    /// Version of the group's entry that the person saw: the statement is void once it changed.
    pub version: u64,
    /// What is said.
    pub what: What,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum What {
    /// Move it.
    #[serde(rename_all = "camelCase")]
    Request {
        /// Site that shall hold it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Site that shall leave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Loss that is accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accept_loss: Option<Acceptance>,
        /// A shortage of room is accepted.
        #[serde(default)]
        accept_shortage: bool,
        /// Why.
        reason: String,
        /// A drill asks, not a person: only the key of a site's drills may say so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drill: Option<DrillPass>,
    },
    /// Do what this proposal says.
    Approve {
        /// Its digest.
        proposal: String,
    },
    /// Let exactly this run of a playbook act. The statement's group is [`run_group`], its version 0.
    ApproveRun {
        /// Name of the PlaybookRun.
        run: String,
        /// Digest of its spec: the playbook as it stood, the object, what started it.
        digest: String,
        /// Index of the `approve` step that it is for; absent: for the run as a whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u32>,
    },
}

/// What stands for the failover group in a statement about a run.
pub fn run_group(run: &str) -> String {
    format!("run.{run}")
}

/// By which right a drill asks for a move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillPass {
    /// Drill.
    pub name: String,
    /// Digest of its ticket.
    pub ticket: String,
    /// Nothing shall be moved: the group stays where it is until this is taken back.
    #[serde(default)]
    pub hold: bool,
    /// Trace that the move belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Approvals of the ticket, each with its own signature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<DrillEvidence>,
}

/// Loss that a person accepts by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Acceptance {
    /// What was written within this time.
    UpTo(HumanDuration),
    /// However much it is.
    Unknown,
}

impl std::str::FromStr for Acceptance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unknown" {
            return Ok(Self::Unknown);
        }
        let loss: HumanDuration = text
            .parse()
            .map_err(|_| format!("`{text}` is no loss: write how much time of writes, as in 30s, or unknown"))?;
        Ok(Self::UpTo(loss))
    }
}

impl From<Acceptance> for AcceptedLoss {
    fn from(accepted: Acceptance) -> Self {
        match accepted {
            Acceptance::UpTo(loss) => Self::UpTo(loss.get()),
            Acceptance::Unknown => Self::Unknown,
        }
    }
}

/// What the signature covers: a tag, so that it can be taken for nothing else, and the text.
pub fn signed_bytes(text: &str) -> Vec<u8> {
    format!("evergreen.dev/consent/v1\n{text}").into_bytes()
}

/// Signature of a text with a PKCS#8 key, base64.
///
/// # Errors
/// When the document is no Ed25519 key.
pub fn sign(pkcs8: &[u8], text: &str) -> Result<String, String> {
    let key = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| "this is no PKCS#8 Ed25519 key".to_owned())?;
    Ok(STANDARD.encode(key.sign(&signed_bytes(text))))
}

/// Public half of a PKCS#8 key, base64.
///
/// # Errors
/// When the document is no Ed25519 key.
pub fn public_key(pkcs8: &[u8]) -> Result<String, String> {
    let key = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| "this is no PKCS#8 Ed25519 key".to_owned())?;
    Ok(STANDARD.encode(key.public_key().as_ref()))
}

/// A new key, PKCS#8.
///
/// # Errors
/// When the system has no randomness.
pub fn new_key() -> Result<Vec<u8>, String> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| "no key could be made: the system's random source failed".to_owned())?;
    Ok(document.as_ref().to_vec())
}
