//! Consent: one signed statement of one person about a move.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A statement of a person, signed with the person's own key; never changed, only made and removed.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "Consent",
    plural = "consents",
    namespaced,
    shortname = "consent",
    status = "ConsentStatus",
    derive = "PartialEq",
    doc = "A signed statement of a person: asks for a move, or approves one.",
    printcolumn = r#"{"name":"Signer","type":"string","jsonPath":".spec.signer"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsentSpec {
    /// The statement, JSON, exactly as it was signed.
    #[schemars(length(max = 4096))]
    pub statement: String,
    /// Name of the key in ConfigMap `evergreen-approvers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Ed25519 signature over `evergreen.dev/consent/v1`, a newline and the statement; base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Only ask what would be done; nothing is. Needs no signature.
    #[serde(default)]
    pub dry_run: bool,
}

/// What the site's controller says to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsentStatus {
    /// Whether the statement counts.
    #[serde(default)]
    pub phase: ConsentPhase,
    /// One sentence for people.
    #[serde(default)]
    pub message: String,
    /// What is or would be done, why, and what was rejected.
    #[serde(default)]
    pub plan: Vec<String>,
    /// Proposal that others have to approve, if the move needs that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<String>,
}

/// Whether a statement counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConsentPhase {
    /// Not looked at yet.
    #[default]
    Pending,
    /// It counts.
    Valid,
    /// It does not, and the message says why.
    Refused,
    /// It answered a dry run.
    Answered,
    /// What it was about is done or void.
    Over,
}
