//! What a playbook does: one step each, with its settings.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// Declares the steps once: the struct that people write, and the enum that code matches on.
macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $field:ident: $settings:ty => $variant:ident, $name:literal;)+) => {
        /// One step; exactly one field is set.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct Step {
            $($(#[doc = $doc])+ #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$settings>,)+
        }

        /// The step that is set.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum StepKind<'a> {
            $($(#[doc = $doc])+ $variant(&'a $settings),)+
        }

        impl Step {
            /// Names of all steps, as people write them.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Names of the actions that are set; a valid step has exactly one.
            pub fn actions(&self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.$field.is_some() { names.push($name); })+
                names
            }

            /// The first action that is set.
            pub fn kind(&self) -> Option<StepKind<'_>> {
                $(if let Some(settings) = &self.$field { return Some(StepKind::$variant(settings)); })+
                None
            }
        }
    };
}

steps! {
    /// Mark the node unschedulable. Undone by uncordon, if this run cordoned it.
    cordon: Nothing => Cordon, "cordon";
    /// Evict the node's pods, respecting PodDisruptionBudgets.
    drain: DrainStep => Drain, "drain";
    /// Restart a workload: its pods are replaced as its strategy says.
    restart: RestartStep => Restart, "restart";
    /// Wait until CEL holds.
    wait: WaitStep => Wait, "wait";
    /// Check that CEL holds for a while; fail otherwise.
    verify: Verify => Verify, "verify";
    /// Mark the node schedulable again, if this run made it unschedulable.
    uncordon: Nothing => Uncordon, "uncordon";
    /// Put a taint on the node. Undone from the pre-image.
    taint: TaintStep => Taint, "taint";
    /// Take a taint off the node. Undone from the pre-image.
    untaint: UntaintStep => Untaint, "untaint";
    /// Set and remove labels of the object. Undone from the pre-image.
    label: MetadataStep => Label, "label";
    /// Set and remove annotations of the object. Undone from the pre-image.
    annotate: MetadataStep => Annotate, "annotate";
    /// Evict the pod that the run is for, respecting PodDisruptionBudgets.
    evict: EvictStep => Evict, "evict";
    /// Delete the pod that the run is for, whatever PodDisruptionBudgets say. Cannot be undone.
    delete_pod: DeletePodStep => DeletePod, "deletePod";
    /// Change the number of replicas of a workload. Undone from the pre-image.
    scale: ScaleStep => Scale, "scale";
    /// Change fields of an object by server-side apply. Undone from the pre-image.
    patch: PatchStep => Patch, "patch";
    /// Run a Job with an image that the site allows, and wait for its end. What it did cannot be undone.
    create_job: JobStep => CreateJob, "createJob";
    /// Ask an HTTP endpoint that the site allows. Cannot be undone.
    http: HttpStep => Http, "http";
    /// Tell people through an endpoint that the site allows.
    notify: NotifyStep => Notify, "notify";
    /// Wait until people approve.
    approve: ApproveStep => Approve, "approve";
    /// Run another playbook for the same object, and wait for its end. It keeps its own guards.
    run_playbook: RunPlaybookStep => RunPlaybook, "runPlaybook";
    /// End the run here when CEL holds. What was done stays.
    stop: StopStep => Stop, "stop";
    /// Power the node off through its management controller, and see that it is off. Cannot be undone.
    fence: FenceStep => Fence, "fence";
    /// After a fence: have Kubernetes give up the node's pods and volumes at once; ends when none is left, and takes the
    /// taint off again. Cannot be undone.
    out_of_service: OutOfServiceStep => OutOfService, "outOfService";
}

/// A step without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Settings of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainStep {
    /// The step fails when pods are left after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

pub(super) fn ten_minutes() -> HumanDuration {
    HumanDuration::seconds(600)
}

fn one_minute() -> HumanDuration {
    HumanDuration::seconds(60)
}

fn ten_seconds() -> HumanDuration {
    HumanDuration::seconds(10)
}

/// A workload to restart. Nothing named: the workload that the run is for, or that owns its pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartStep {
    /// Namespace of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of a Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Name of a StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<String>,
    /// Name of a DaemonSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_set: Option<String>,
    /// The step fails when the rollout has not finished after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// A workload to scale. Nothing named: the workload that the run is for, or that owns its pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaleStep {
    /// Namespace of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of a Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Name of a StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<String>,
    /// Replicas to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
    /// Replicas to add; negative takes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<i32>,
    /// Fewest replicas that `by` may lead to. Default: 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Most replicas that `by` may lead to. Default: 100.
    #[serde(default = "hundred")]
    pub max: u32,
}

const fn one() -> u32 {
    1
}

const fn hundred() -> u32 {
    100
}

/// Waiting for the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WaitStep {
    /// CEL over `node` or `object`, `workload`, and `before` (what it was when the run began).
    pub until: String,
    /// The step fails after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// How to know that it worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verify {
    /// CEL over `node` or `object`, `workload`, and `before` (what it was when the run began).
    pub that: String,
    /// How long it must hold without a break. Default: 0s.
    #[serde(default, rename = "for")]
    pub for_: HumanDuration,
    /// It fails when it has not held for that long by then. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaintStep {
    /// Key.
    pub key: String,
    /// Value. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Nothing new is placed.
    NoSchedule,
    /// Nothing new is placed if there is another place.
    PreferNoSchedule,
    /// Pods that do not tolerate it are deleted.
    NoExecute,
}

impl TaintEffect {
    /// Name, as in the Node object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// A taint to take off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UntaintStep {
    /// Key.
    pub key: String,
    /// Effect.
    pub effect: TaintEffect,
}

/// Labels or annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetadataStep {
    /// Keys and values to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Keys to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// Settings of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvictStep {
    /// The step fails when the pod is still there after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// Settings of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeletePodStep {
    /// The step fails when the pod is still there after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// Fields to change. Nothing named: of the object that the run is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchStep {
    /// Object whose fields change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectName>,
    /// The fields with their new values, as they stand in the object; null removes one. A list of plain values is
    /// replaced as a whole.
    #[schemars(schema_with = "crate::resources::free_form")]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// An object by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectName {
    /// API version, as in apps/v1.
    pub api_version: String,
    /// Kind, as in Deployment.
    pub kind: String,
    /// Namespace, where the kind has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// A Job. It runs in the product's own namespace, without a token, without privileges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobStep {
    /// Image; the site's list of images must allow it.
    pub image: String,
    /// Command. Default: what the image says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments; `{subject}`, `{namespace}`, `{node}`, `{playbook}`, `{run}`, `{trigger}` are filled in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Whether it runs on the node that the run is for. Default: false.
    #[serde(default)]
    pub on_node: bool,
    /// The step fails when the Job has not succeeded after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// A question to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpStep {
    /// Name of the endpoint in the site's list: address and secrets are there, never here.
    pub endpoint: String,
    /// GET, PUT, POST or DELETE. Default: POST.
    #[serde(default)]
    pub method: HttpMethod,
    /// Path below the endpoint's address, as in /v1/tickets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Body; `{subject}`, `{namespace}`, `{node}`, `{playbook}`, `{run}`, `{trigger}` are filled in, escaped for JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Codes that mean success. Default: 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// The step fails when there is no answer after this time. Default: 10s.
    #[serde(default = "ten_seconds")]
    pub timeout: HumanDuration,
}

/// Methods of an HTTP step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Reads; asked again after a crash.
    Get,
    /// Sets; asked again after a crash.
    Put,
    /// Acts; never asked again when it cannot be told whether it was asked.
    #[default]
    Post,
    /// Removes; asked again after a crash.
    Delete,
}

impl HttpMethod {
    /// Whether asking twice has the effect of asking once.
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post)
    }

    /// As in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// A message to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotifyStep {
    /// Name of the endpoint in the site's list, which also says in which shape it wants its messages (webhook,
    /// alertmanager, slack, dingtalk, wecom).
    pub endpoint: String,
    /// The message; `{subject}`, `{namespace}`, `{node}`, `{playbook}`, `{run}`, `{trigger}` are filled in.
    pub text: String,
    /// Whether the run fails when the message cannot be sent. Default: false.
    #[serde(default)]
    pub required: bool,
}

/// Waiting for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApproveStep {
    /// Different people who must approve, none of them the one who asked for the run. Default: 1.
    #[serde(default = "one")]
    pub people: u32,
    /// What they are asked.
    pub why: String,
    /// The step fails when they have not approved after this time. Default: 1h.
    #[serde(default = "one_hour")]
    pub timeout: HumanDuration,
}

fn one_hour() -> HumanDuration {
    HumanDuration::seconds(3600)
}

/// Another playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunPlaybookStep {
    /// Its name.
    pub name: String,
    /// The step fails when its run has not succeeded after this time. Default: 1h.
    #[serde(default = "one_hour")]
    pub timeout: HumanDuration,
}

/// Ending early.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StopStep {
    /// CEL over `node` or `object`, `workload`, and `before`.
    pub when: String,
    /// Why nothing more is to be done then.
    pub why: String,
}

/// Powering a node off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FenceStep {
    /// The step fails when the node is not verified to be off after this time. Default: 1m.
    #[serde(default = "one_minute")]
    pub timeout: HumanDuration,
}

/// Giving up a node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutOfServiceStep {
    /// The step fails when pods are left after this time. Default: 10m.
    #[serde(default = "ten_minutes")]
    pub timeout: HumanDuration,
}

/// Declares defaults once more for those who build settings in code.
macro_rules! timeout_only {
    ($($settings:ident: $default:path),+) => {
        $(impl Default for $settings {
            fn default() -> Self {
                Self { timeout: $default() }
            }
        })+
    };
}

timeout_only!(
    DrainStep: ten_minutes, EvictStep: ten_minutes, DeletePodStep: ten_minutes, FenceStep: one_minute,
    OutOfServiceStep: ten_minutes
);

impl Default for RestartStep {
    fn default() -> Self {
        Self { namespace: None, deployment: None, stateful_set: None, daemon_set: None, timeout: ten_minutes() }
    }
}

impl Default for ScaleStep {
    fn default() -> Self {
        let (namespace, deployment, stateful_set) = (None, None, None);
        Self { namespace, deployment, stateful_set, to: None, by: None, min: one(), max: hundred() }
    }
}
