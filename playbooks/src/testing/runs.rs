//! Runs as data: what goes wrong on a simulated data center, what happens there meanwhile, and how the run must end.
//!
//! ```yaml
//! runs:
//!   - name: a reboot heals it
//!     objects: [{apiVersion: v1, kind: Namespace, metadata: {name: shop}}]
//!     happens:
//!       - {conditions: {FilesystemReadOnly: "True"}}
//!       - {at: 5m, reboot: true, conditions: {FilesystemReadOnly: "False"}}
//!     ends: Succeeded
//!     then: "!node.unschedulable"
//! ```
//!
//! This module only reads and checks them; they are played where there is a simulated data center.

use std::collections::BTreeMap;

use evergreen_api::{
    HumanDuration,
    resources::{DATA_CENTER, ObjectName, PlaybookSpec, RunPhase},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{CaseAlert, CaseEvent, CasePrediction};
use crate::{
    expression::{Expression, Scope},
    steps,
};

/// One run on a simulated data center: ten nodes in one zone, `node-under-test` and nine neighbours.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunCase {
    /// A sentence.
    pub name: String,
    /// Line of the test file, from 1.
    #[serde(skip)]
    pub line: u64,
    /// Objects that are there beforehand, as one would apply them; workloads come to rest before anything happens.
    #[serde(default)]
    pub objects: Vec<Value>,
    /// When it begins, RFC 3339. Default: 2026-06-01T00:00:00Z.
    #[serde(default)]
    pub begins: Option<String>,
    /// HTTP codes that endpoints answer. Every endpoint that the playbook names and this does not answers 200.
    #[serde(default)]
    pub endpoints: BTreeMap<String, u16>,
    /// What happens, each at its time.
    #[serde(default)]
    pub happens: Vec<Happening>,
    /// Phase in which the playbook's first run must end.
    pub ends: RunPhase,
    /// CEL over the end state, as in a `verify` step.
    #[serde(default)]
    pub then: Option<String>,
    /// CEL over other objects in the end.
    #[serde(default)]
    pub also: Vec<Also>,
    /// Endpoints that must have been asked, in this order.
    #[serde(default)]
    pub told: Option<Vec<String>>,
}

/// What holds of another object in the end.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Also {
    /// The object; a name that ends with `*` means the first one that begins so.
    pub of: ObjectName,
    /// CEL over `object`, or `gone`, or `workload`.
    pub that: String,
}

/// What happens at one time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Happening {
    /// Time since the world is at rest. Default: 0s.
    #[serde(default)]
    pub at: HumanDuration,
    /// Node that `conditions`, `reboot`, `power` and `predictions` are about. Default: the node under test.
    #[serde(default)]
    pub node: Option<String>,
    /// Conditions of the node, by type.
    #[serde(default)]
    pub conditions: BTreeMap<String, String>,
    /// Whether the node has a new boot.
    #[serde(default)]
    pub reboot: bool,
    /// Whether the node loses its power, or has it again.
    #[serde(default)]
    pub power: Option<Power>,
    /// What the node's agent predicts now; an empty list takes everything back.
    #[serde(default)]
    pub predictions: Option<Vec<CasePrediction>>,
    /// A Kubernetes Event.
    #[serde(default)]
    pub event: Option<CaseEvent>,
    /// An alert that fires.
    #[serde(default)]
    pub alert: Option<CaseAlert>,
    /// An alert that is over.
    #[serde(default)]
    pub resolved: Option<CaseAlert>,
    /// Objects that are made.
    #[serde(default)]
    pub create: Vec<Value>,
    /// Fields that change, status included, merged into the objects that are named.
    #[serde(default)]
    pub set: Vec<Value>,
    /// Objects that are deleted.
    #[serde(default)]
    pub remove: Vec<ObjectName>,
}

/// Power of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It has power again.
    On,
    /// It has none.
    Off,
}

impl RunCase {
    /// What of it cannot be understood, before anything is played.
    ///
    /// # Errors
    /// One line: the field, what is wrong, what would be right.
    pub fn check(&self, spec: &PlaybookSpec) -> Result<(), String> {
        if !matches!(self.ends, RunPhase::Succeeded | RunPhase::RolledBack | RunPhase::Failed) {
            return Err(format!("ends: {:?} is no end: write Succeeded, RolledBack or Failed", self.ends));
        }
        if self.happens.is_empty() && !spec.matches.iter().any(|trigger| trigger.schedule.is_some()) {
            return Err("happens: nothing goes wrong, so nothing starts: say what happens".into());
        }
        if let Some(wrong) = self.begins.as_ref().filter(|time| time.parse::<Timestamp>().is_err()) {
            return Err(format!("begins: `{wrong}` is no time: write it as in 2026-06-01T00:00:00Z"));
        }
        if let Some(then) = &self.then {
            let scope = match steps::subject_kind(spec) {
                "Node" => Scope::NodeRun,
                DATA_CENTER => return Err("then: the run is for no single object: use `also` or `told`".into()),
                _ => Scope::ObjectRun,
            };
            Expression::compile(then, scope).map_err(|error| format!("then: {error}"))?;
        }
        for also in &self.also {
            let scope = if also.of.kind == "Node" { Scope::NodeRun } else { Scope::ObjectRun };
            Expression::compile(&also.that, scope).map_err(|error| format!("also: {error}"))?;
        }
        Ok(())
    }
}
