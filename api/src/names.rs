//! Labels, annotations, namespaces and ports that two rooms must agree on.

/// API group of every custom resource.
pub const GROUP: &str = "evergreen.dev";
/// Version of every custom resource.
pub const VERSION: &str = "v1alpha1";
/// Namespace of everything namespaced that belongs to the product itself.
pub const SYSTEM_NAMESPACE: &str = "evergreen-system";
/// ConfigMap that holds the assignment map register of a data center.
pub const ASSIGNMENTS: &str = "evergreen-assignments";
/// Prefix of the Lease that holds a site's record at a register; the site's name follows.
pub const SITE_LEASE_PREFIX: &str = "evergreen-site-";
/// Lease that controller replicas of one data center elect their leader with.
pub const LEADER_LEASE: &str = "evergreen-controller";
/// ConfigMap with the public keys of those who may ask for moves and approve them.
pub const APPROVERS: &str = "evergreen-approvers";
/// ConfigMap that stops what moves services by itself; absent or empty while nothing is stopped.
pub const PAUSE: &str = "evergreen-pause";
/// Key in a peer's Secret that holds its kubeconfig.
pub const KUBECONFIG_KEY: &str = "kubeconfig";

/// Stability class of a namespace or workload: `steady` or `agile`; nothing said means steady.
pub const LABEL_STABILITY: &str = "evergreen.dev/stability";
/// Site (data center) of an object.
pub const LABEL_SITE: &str = "evergreen.dev/site";
/// Rack of a node.
pub const LABEL_RACK: &str = "evergreen.dev/rack";
/// Pool that a node belongs to, for budgets.
pub const LABEL_POOL: &str = "evergreen.dev/pool";
/// `off` on a node, a namespace or an object: no playbook acts on it until someone takes the label off.
pub const LABEL_HEALING: &str = "evergreen.dev/healing";
/// Set on a node, as label and as taint, whose attempts are used up; value is the playbook's name.
pub const LABEL_QUARANTINE: &str = "evergreen.dev/quarantine";
/// Zone of a node.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Owner of a workload, from the CMDB.
pub const LABEL_OWNER: &str = "evergreen.dev/owner";
/// Business system of a workload, from the CMDB.
pub const LABEL_SYSTEM: &str = "evergreen.dev/system";
/// Label of a statement that a drill made: the drill's name.
pub const LABEL_DRILL: &str = "evergreen.dev/drill";
/// A FailoverDrill that is under way is not gone before what it moved is back.
pub const FINALIZER_DRILL: &str = "evergreen.dev/drill";
/// Name, in the ring of approvers, under which a site's drills sign: this and the site's name.
pub const DRILL_SIGNER_PREFIX: &str = "drill.";
/// Failover groups of drills, which people name in statements about them: this and the drill's name.
pub const DRILL_GROUP_PREFIX: &str = "drill/";
/// Playbook that a run executes.
pub const LABEL_PLAYBOOK: &str = "evergreen.dev/playbook";

/// W3C trace context on Events and PlaybookRuns.
pub const ANNOTATION_TRACEPARENT: &str = "evergreen.dev/traceparent";
/// Address of another site's entry, on an ExternalName Service that stands for that site.
pub const ANNOTATION_ENTRY: &str = "evergreen.dev/entry";
/// Set on a node by the cordon step so that only the run that cordoned uncordons; value is the run's name.
pub const ANNOTATION_CORDONED_BY: &str = "evergreen.dev/cordoned-by";
/// Set on a workload's pod template by the restart step; value is the key of the step.
pub const ANNOTATION_RESTARTED_BY: &str = "evergreen.dev/restarted-by";
/// Epoch under which an object was last written by failover.
pub const ANNOTATION_EPOCH: &str = "evergreen.dev/epoch";
/// Digest of the spec that was applied.
pub const ANNOTATION_SPEC_HASH: &str = "evergreen.dev/spec-hash";

/// Annotation on a Node that carries the trace context of the problem behind a condition.
pub fn node_traceparent_annotation(condition_type: &str) -> String {
    format!("{ANNOTATION_TRACEPARENT}.{condition_type}")
}

/// Name of the Lease that holds a site's record.
pub fn site_lease(site: &str) -> String {
    format!("{SITE_LEASE_PREFIX}{site}")
}

/// Failover group of a MultiActiveService that names none: `<namespace>.<name>`.
pub fn default_group(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}

/// Default ports.
pub mod ports {
    /// Agent: metrics, health, grants.
    pub const AGENT: u16 = 9464;
    /// Controller: site endpoint over mTLS.
    pub const SITE: u16 = 9443;
    /// Controller: metrics and health.
    pub const CONTROLLER_METRICS: u16 = 9465;
    /// Plane: OTLP over gRPC.
    pub const OTLP_GRPC: u16 = 4317;
    /// Plane: OTLP over HTTP.
    pub const OTLP_HTTP: u16 = 4318;
    /// Plane: web page and API.
    pub const PLANE_WEB: u16 = 8080;
}
