//! The built-in resources, as one table.

use super::registry::Resource;
use crate::objects::kinds::table;

/// Row of the table. Flags: `n` namespaced, `s` status subresource, `c` scale subresource, `g` generation is
/// counted, `u` a replace without resourceVersion is accepted, `m` strategic merge is understood, `a` in `all`.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
);

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const GATEWAY: &str = "gateway.networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

const ROWS: &[Row] = &[
    ("", "v1", "namespaces", "Namespace", &["ns"], "sum", &["status.phase"]),
    ("", "v1", "nodes", "Node", &["no"], "sum", &["spec.unschedulable"]),
    ("", "v1", "pods", "Pod", &["po"], "nsguma", POD_FIELDS),
    ("", "v1", "services", "Service", &["svc"], "nsuma", &["spec.clusterIP", "spec.type"]),
    ("", "v1", "endpoints", "Endpoints", &["ep"], "num", &[]),
    ("", "v1", "configmaps", "ConfigMap", &["cm"], "num", &[]),
    ("", "v1", "secrets", "Secret", &[], "num", &["type"]),
    ("", "v1", "serviceaccounts", "ServiceAccount", &["sa"], "num", &[]),
    ("", "v1", "events", "Event", &["ev"], "num", EVENT_FIELDS),
    ("", "v1", "persistentvolumes", "PersistentVolume", &["pv"], "sum", &[]),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", &["pvc"], "nsum", &[]),
    ("", "v1", "resourcequotas", "ResourceQuota", &["quota"], "nsum", &[]),
    ("", "v1", "limitranges", "LimitRange", &["limits"], "num", &[]),
    ("", "v1", "replicationcontrollers", "ReplicationController", &["rc"], "nscguma", &["status.replicas"]),
    ("", "v1", "podtemplates", "PodTemplate", &[], "ngum", &[]),
    ("apps", "v1", "deployments", "Deployment", &["deploy"], "nscguma", &[]),
    ("apps", "v1", "replicasets", "ReplicaSet", &["rs"], "nscguma", &["status.replicas"]),
    ("apps", "v1", "statefulsets", "StatefulSet", &["sts"], "nscguma", &[]),
    ("apps", "v1", "daemonsets", "DaemonSet", &["ds"], "nsguma", &[]),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", &[], "num", &[]),
    ("batch", "v1", "jobs", "Job", &[], "nsguma", &["status.successful"]),
    ("batch", "v1", "cronjobs", "CronJob", &["cj"], "nsguma", &[]),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", &["pdb"], "nsgm", &[]),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", &[], "ngm", &[]),
    ("coordination.k8s.io", "v1", "leases", "Lease", &[], "nm", &[]),
    ("events.k8s.io", "v1", "events", "Event", &["ev"], "num", EVENT_FIELDS),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", &["pc"], "gum", &[]),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", &["sc"], "um", &[]),
    ("storage.k8s.io", "v1", "csidrivers", "CSIDriver", &[], "gum", &[]),
    ("storage.k8s.io", "v1", "csinodes", "CSINode", &[], "um", &[]),
    ("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", &[], "sum", &[]),
    ("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", &[], "um", &[]),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", &["hpa"], "nsuma", &[]),
    (
        "certificates.k8s.io",
        "v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        &["csr"],
        "sum",
        &["spec.signerName"],
    ),
    (RBAC, "v1", "roles", "Role", &[], "num", &[]),
    (RBAC, "v1", "rolebindings", "RoleBinding", &[], "num", &[]),
    (RBAC, "v1", "clusterroles", "ClusterRole", &[], "um", &[]),
    (RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", &[], "um", &[]),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", &["netpol"], "ngum", &[]),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", &["ing"], "nsgum", &[]),
    ("apiregistration.k8s.io", "v1", "apiservices", "APIService", &[], "sum", &[]),
    ("networking.k8s.io", "v1", "ingressclasses", "IngressClass", &[], "gum", &[]),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        &[],
        "gum",
        &[],
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        &[],
        "gum",
        &[],
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        &["crd", "crds"],
        "sg",
        &[],
    ),
    (GATEWAY, "v1", "gatewayclasses", "GatewayClass", &["gc"], "sg", &[]),
    (GATEWAY, "v1", "gateways", "Gateway", &["gtw"], "nsg", &[]),
    (GATEWAY, "v1", "httproutes", "HTTPRoute", &[], "nsg", &[]),
];

/// Whether a group is served without a CRD.
pub fn is_builtin_group(group: &str) -> bool {
    ROWS.iter().any(|row| row.0 == group)
}

/// All built-in resources.
pub fn resources() -> impl Iterator<Item = Resource> {
    ROWS.iter().map(|(group, version, plural, kind, short, flags, selectable)| {
        let has = |flag: char| flags.contains(flag);
        let storage = if *group == "events.k8s.io" { "events".to_owned() } else { storage_name(group, plural) };
        Resource {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            plural: (*plural).to_owned(),
            singular: kind.to_lowercase(),
            kind: (*kind).to_owned(),
            list_kind: if *kind == "Endpoints" { "EndpointsList".to_owned() } else { format!("{kind}List") },
            short_names: short.iter().map(|s| (*s).to_owned()).collect(),
            categories: if has('a') { vec!["all".to_owned()] } else { Vec::new() },
            namespaced: has('n'),
            has_status: has('s'),
            has_scale: has('c'),
            has_generation: has('g'),
            unconditional_update: has('u'),
            upsert: *group == RBAC
                || matches!(*plural, "endpoints" | "leases" | "events" | "limitranges" | "podtemplates"),
            selectable: selectable.iter().map(|s| (*s).to_owned()).collect(),
            storage: storage.into(),
            custom: None,
            strategic: has('m'),
            message: table()
                .kind(&if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") }, kind),
        }
    })
}

/// Name of the store's table of a built-in resource.
pub fn storage_name(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
