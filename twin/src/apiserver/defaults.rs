//! What the server fills in, keeps and refuses, kind by kind.
//!
//! Only the rules that clients of the twin meet; the published deviations name the rest.

use serde_json::{Map, Value, json};

use super::error::Cause;
use super::registry::Resource;
use super::server::ApiServer;
use super::write::cause;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

/// State that a new object starts with.
pub fn before_create(resource: &Resource, object: &mut Value, server: &ApiServer) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            let name = meta::name(object).to_owned();
            object["status"] = json!({"phase": "Active"});
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            let labels = meta::object_mut(&mut object["metadata"], "labels");
            labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
        }
        ("", "pods") => {
            object["status"] = json!({"phase": "Pending", "qosClass": qos_class(object)});
            default_tolerations(object, server.default_toleration_seconds());
            let spec = &mut object["spec"];
            default(spec, "enableServiceLinks", json!(true));
            let account = spec["serviceAccountName"].as_str().unwrap_or("default").to_owned();
            default(spec, "serviceAccountName", json!(account));
            default(spec, "serviceAccount", json!(account));
            let (priority, policy) = priority(spec, server);
            default(spec, "priority", priority);
            default(spec, "preemptionPolicy", policy);
        }
        ("", "persistentvolumeclaims") => object["status"] = json!({"phase": "Pending"}),
        ("networking.k8s.io", "ingresses") => object["status"] = json!({"loadBalancer": {}}),
        ("apps", "replicasets" | "statefulsets") | ("", "replicationcontrollers") => {
            object["status"] = json!({"replicas": 0});
        }
        ("apps", "daemonsets") => {
            template_generation(object, 1);
            object["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        }
        ("batch", "jobs") => {
            job_selector(object);
            object["status"] = json!({});
        }
        ("", "nodes") | ("", "services") | ("apiextensions.k8s.io", _) => {}
        _ if resource.has_status => {
            if let Some(fields) = object.as_object_mut() {
                fields.shift_remove("status");
                if resource.custom.is_none() {
                    fields.insert("status".to_owned(), json!({}));
                }
            }
        }
        _ => {}
    }
}

/// Priority and preemption policy that a pod's class gives, or the default class if it names none.
fn priority(spec: &Value, server: &ApiServer) -> (Value, Value) {
    let policy = |class: &Value| class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority").to_owned();
    match spec["priorityClassName"].as_str() {
        Some("system-cluster-critical") => (json!(2_000_000_000), json!("PreemptLowerPriority")),
        Some("system-node-critical") => (json!(2_000_001_000), json!("PreemptLowerPriority")),
        Some(name) => {
            let class = server.read("scheduling.k8s.io", "priorityclasses", "", name).unwrap_or_default();
            (json!(class["value"].as_i64().unwrap_or(0)), json!(policy(&class)))
        }
        None => {
            let classes = server.read_all("scheduling.k8s.io", "priorityclasses", None);
            let class = classes.into_iter().find(|c| c["globalDefault"] == true).unwrap_or_default();
            (json!(class["value"].as_i64().unwrap_or(0)), json!(policy(&class)))
        }
    }
}

/// The annotation in which DaemonSets still count the changes of their template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &mut Value, number: i64) {
    let annotations = meta::object_mut(&mut set["metadata"], "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), Value::from(number.to_string()));
}

/// A Job selects its pods by its own UID, unless it says that it selects them itself.
fn job_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || !job["spec"].is_object() {
        return;
    }
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    let metadata = meta::object_mut(&mut job["spec"]["template"], "metadata");
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    for prefix in ["", "batch.kubernetes.io/"] {
        labels[format!("{prefix}controller-uid")] = json!(uid);
        labels[format!("{prefix}job-name")] = json!(name);
    }
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

/// What the DefaultTolerationSeconds admission plugin adds.
fn default_tolerations(pod: &mut Value, seconds: u64) {
    let spec = meta::object_mut(pod, "spec");
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            (t["key"] == key || t["key"].as_str().is_none_or(str::is_empty))
                && matches!(t["effect"].as_str().unwrap_or_default(), "" | "NoExecute")
        };
        if !list.iter().any(covers) {
            list.push(json!({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": seconds}));
        }
    }
}

/// Fields that may not change.
///
/// # Errors
/// A cause for each that would.
pub fn before_update(
    resource: &Resource,
    old: &Value,
    new: &mut Value,
    subresource: Option<&str>,
) -> Result<(), Vec<Cause>> {
    let immutable = |path: &[&str], field: &str| {
        (meta::at(old, path) != meta::at(new, path)).then(|| {
            let shown = meta::at(new, path).cloned().unwrap_or(Value::Null);
            cause(field, "FieldValueInvalid", &format!("Invalid value: {shown}: field is immutable"))
        })
    };
    let mut causes = Vec::new();
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("apps", "deployments" | "replicasets") => causes.extend(immutable(&["spec", "selector"], "spec.selector")),
        ("", "pods") if subresource.is_none() && meta::at(old, &["spec", "nodeName"]).is_some() => {
            causes.extend(immutable(&["spec", "nodeName"], "spec.nodeName"));
        }
        ("", "configmaps" | "secrets") if old["immutable"] == true => {
            let why = "Forbidden: field is immutable when `immutable` is set";
            let kept = |field: &str| old.get(field) == new.get(field);
            for field in ["immutable", "data", "binaryData"] {
                if !kept(field) {
                    causes.push(cause(field, "FieldValueForbidden", why));
                }
            }
        }
        ("apps", "daemonsets") if subresource.is_none() => {
            causes.extend(immutable(&["spec", "selector"], "spec.selector"));
            let mut number = meta::text(old, &["metadata", "annotations", TEMPLATE_GENERATION])
                .and_then(|n| n.parse::<i64>().ok())
                .unwrap_or(1);
            if old["spec"]["template"] != new["spec"]["template"] {
                number += 1;
            }
            template_generation(new, number);
        }
        ("", "services") => {
            let ip = old["spec"]["clusterIP"].clone();
            let keeps = new["spec"]["type"] != "ExternalName" && old["spec"]["type"] != "ExternalName";
            if keeps
                && ip.is_string()
                && new["spec"].is_object()
                && new["spec"].get("clusterIP").is_none_or(|v| v == "")
            {
                new["spec"]["clusterIP"] = ip;
            }
            // What was given to a port stays with it.
            let before = meta::list(old, &["spec", "ports"]);
            if matches!(new["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
                for port in array_mut(&mut new["spec"], "ports").filter(|p| p["nodePort"].is_null()) {
                    let same = before.iter().find(|b| b["port"] == port["port"] && b["nodePort"].is_i64());
                    if let (Some(same), Some(fields)) = (same, port.as_object_mut()) {
                        fields.insert("nodePort".to_owned(), same["nodePort"].clone());
                    }
                }
            }
        }
        _ => {}
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

/// Default values of built-in kinds.
pub fn fill(resource: &Resource, object: &mut Value, server: &ApiServer) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            pod_spec(&mut object["spec"]);
            if let Some(ip) = meta::text(object, &["status", "podIP"]).map(str::to_owned)
                && !ip.is_empty()
            {
                default(&mut object["status"], "podIPs", json!([{"ip": ip}]));
            }
        }
        ("", "nodes") => {
            if let Some(capacity) = meta::at(object, &["status", "capacity"]).cloned() {
                default(&mut object["status"], "allocatable", capacity);
            }
        }
        ("apps", "deployments") => {
            let spec = &mut object["spec"];
            default(spec, "replicas", json!(1));
            default(spec, "revisionHistoryLimit", json!(10));
            default(spec, "progressDeadlineSeconds", json!(600));
            default(spec, "strategy", json!({"type": "RollingUpdate"}));
            if spec["strategy"]["type"] == "RollingUpdate" {
                let rolling = meta::object_mut(&mut spec["strategy"], "rollingUpdate");
                rolling.entry("maxUnavailable").or_insert_with(|| json!("25%"));
                rolling.entry("maxSurge").or_insert_with(|| json!("25%"));
            }
            pod_spec(&mut spec["template"]["spec"]);
        }
        ("apps", "replicasets") | ("", "replicationcontrollers") => {
            default(&mut object["spec"], "replicas", json!(1));
            pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        ("apps", "statefulsets") => {
            let spec = &mut object["spec"];
            default(spec, "replicas", json!(1));
            default(spec, "revisionHistoryLimit", json!(10));
            default(spec, "podManagementPolicy", json!("OrderedReady"));
            default(spec, "updateStrategy", json!({"type": "RollingUpdate"}));
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                let rolling = meta::object_mut(&mut spec["updateStrategy"], "rollingUpdate");
                rolling.entry("partition").or_insert_with(|| json!(0));
            }
            pod_spec(&mut spec["template"]["spec"]);
        }
        ("batch", "jobs") => {
            let spec = &mut object["spec"];
            let both_open = spec["completions"].is_null() && spec["parallelism"].is_null();
            if both_open {
                default(spec, "completions", json!(1));
            }
            default(spec, "parallelism", json!(1));
            default(spec, "backoffLimit", json!(6));
            default(spec, "completionMode", json!("NonIndexed"));
            default(spec, "suspend", json!(false));
            pod_spec(&mut spec["template"]["spec"]);
        }
        ("", "persistentvolumeclaims") => default(&mut object["spec"], "volumeMode", json!("Filesystem")),
        ("", "endpoints") => {
            for subset in array_mut(object, "subsets") {
                for port in array_mut(subset, "ports") {
                    default(port, "protocol", json!("TCP"));
                }
            }
        }
        ("networking.k8s.io", "networkpolicies") => {
            let egress = !meta::list(object, &["spec", "egress"]).is_empty();
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            default(&mut object["spec"], "policyTypes", types);
        }
        ("apps", "daemonsets") => {
            default(&mut object["spec"], "updateStrategy", json!({"type": "RollingUpdate"}));
            default(&mut object["spec"], "revisionHistoryLimit", json!(10));
            if object["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
                let rolling = meta::object_mut(&mut object["spec"]["updateStrategy"], "rollingUpdate");
                rolling.entry("maxUnavailable").or_insert_with(|| json!(1));
                rolling.entry("maxSurge").or_insert_with(|| json!(0));
            }
            pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        ("", "services") => service(object, server),
        ("", "secrets") => {
            default_top(object, "type", json!("Opaque"));
            let text = object.as_object_mut().and_then(|o| o.shift_remove("stringData"));
            for (name, value) in text.as_ref().and_then(Value::as_object).into_iter().flatten() {
                use base64::Engine as _;
                let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
                meta::object_mut(object, "data").insert(name.clone(), Value::from(encoded));
            }
        }
        ("gateway.networking.k8s.io", "httproutes") => {
            for rule in array_mut(&mut object["spec"], "rules") {
                for backend in array_mut(rule, "backendRefs") {
                    default(backend, "group", json!(""));
                    default(backend, "kind", json!("Service"));
                    default(backend, "weight", json!(1));
                }
                default(rule, "matches", json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
            }
        }
        _ => {}
    }
}

/// What cannot be right whatever the types say.
pub fn validate(resource: &Resource, _old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let required = |path: &[&str], field: &str| {
        meta::at(object, path).is_none_or(Value::is_null).then(|| cause(field, "FieldValueRequired", "Required value"))
    };
    let mut causes = Vec::new();
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") if meta::list(object, &["spec", "containers"]).is_empty() => {
            causes.push(cause("spec.containers", "FieldValueRequired", "Required value"));
        }
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => {
            causes.extend(required(&["spec", "selector"], "spec.selector"));
            if meta::list(object, &["spec", "template", "spec", "containers"]).is_empty() {
                causes.push(cause("spec.template.spec.containers", "FieldValueRequired", "Required value"));
            }
            let labels = meta::at(object, &["spec", "template", "metadata", "labels"]);
            let fits = LabelSelector::from_object(meta::at(object, &["spec", "selector"]))
                .is_none_or(|s| s.fits(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str)));
            if !fits {
                let shown = labels.cloned().unwrap_or(Value::Null);
                let why = format!("Invalid value: {shown}: `selector` does not match template `labels`");
                causes.push(cause("spec.template.metadata.labels", "FieldValueInvalid", &why));
            }
            if let Some(n) = meta::integer(object, &["spec", "replicas"]).filter(|n| *n < 0) {
                let why = format!("Invalid value: {n}: must be greater than or equal to 0");
                causes.push(cause("spec.replicas", "FieldValueInvalid", &why));
            }
        }
        ("", "services") => {
            let external = object["spec"]["type"] == "ExternalName";
            if external {
                causes.extend(required(&["spec", "externalName"], "spec.externalName"));
            } else if meta::list(object, &["spec", "ports"]).is_empty() && object["spec"]["clusterIP"] != "None" {
                causes.push(cause("spec.ports", "FieldValueRequired", "Required value"));
            }
            for (index, port) in meta::list(object, &["spec", "ports"]).iter().enumerate() {
                for field in ["port", "targetPort"] {
                    if let Some(n) = port[field].as_i64().filter(|n| !(1..=65_535).contains(n)) {
                        let why = format!("Invalid value: {n}: must be between 1 and 65535, inclusive");
                        causes.push(cause(&format!("spec.ports[{index}].{field}"), "FieldValueInvalid", &why));
                    }
                }
            }
        }
        ("policy", _)
            if object["spec"].get("minAvailable").is_some() && object["spec"].get("maxUnavailable").is_some() =>
        {
            causes.push(cause(
                "spec",
                "FieldValueInvalid",
                "Invalid value: minAvailable and maxUnavailable cannot be both set",
            ));
        }
        ("gateway.networking.k8s.io", "httproutes") => {
            for (r, rule) in meta::list(object, &["spec", "rules"]).iter().enumerate() {
                for (b, backend) in meta::list(rule, &["backendRefs"]).iter().enumerate() {
                    if !(0..=1_000_000).contains(&backend["weight"].as_i64().unwrap_or(1)) {
                        let field = format!("spec.rules[{r}].backendRefs[{b}].weight");
                        causes.push(cause(&field, "FieldValueInvalid", "Invalid value: must be between 0 and 1000000"));
                    }
                }
            }
        }
        _ => {}
    }
    causes
}

/// The status that a CRD gets at once, because nothing here needs time to establish it.
pub fn establish_crd(crd: &mut Value, server: &ApiServer) {
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = &mut crd["spec"]["names"];
    default(names, "singular", Value::from(kind.to_lowercase()));
    default(names, "listKind", Value::from(format!("{kind}List")));
    default(&mut crd["spec"], "conversion", json!({"strategy": "None"}));
    let stored: Vec<Value> = meta::list(crd, &["spec", "versions"])
        .iter()
        .filter(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
        .collect();
    let established = meta::list(crd, &["status", "conditions"]).iter().any(|c| c["type"] == "Established");
    let names = crd["spec"]["names"].clone();
    let status = meta::object_mut(crd, "status");
    status.insert("acceptedNames".to_owned(), names);
    status.insert("storedVersions".to_owned(), Value::from(stored));
    if !established {
        let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": server.clock().seconds()});
        let conditions = json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]);
        status.insert("conditions".to_owned(), conditions);
    }
}

fn default(value: &mut Value, field: &str, fallback: Value) {
    if let Some(fields) = value.as_object_mut() {
        let slot = fields.entry(field.to_owned()).or_insert(Value::Null);
        if slot.is_null() {
            *slot = fallback;
        }
    }
}

fn default_top(object: &mut Value, field: &str, fallback: Value) {
    default(object, field, fallback);
}

fn array_mut<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", Value::Object(Map::new()));
    for list in ["containers", "initContainers"] {
        for container in array_mut(spec, list) {
            let image = container["image"].as_str().unwrap_or_default();
            let latest = image.ends_with(":latest") || !image.rsplit('/').next().unwrap_or_default().contains(':');
            default(container, "imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" }));
            default(container, "terminationMessagePath", json!("/dev/termination-log"));
            default(container, "terminationMessagePolicy", json!("File"));
            default(container, "resources", Value::Object(Map::new()));
            // A limit is a request where no request is given.
            let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
            if !limits.is_empty() {
                let requests = meta::object_mut(&mut container["resources"], "requests");
                for (name, value) in limits {
                    requests.entry(name).or_insert(value);
                }
            }
            for port in array_mut(container, "ports") {
                default(port, "protocol", json!("TCP"));
            }
        }
    }
}

fn service(object: &mut Value, server: &ApiServer) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = Value::Object(Map::new());
    }
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    } else if let Some(fields) = spec.as_object_mut() {
        fields.shift_remove("sessionAffinityConfig");
    }
    for port in array_mut(spec, "ports") {
        default(port, "protocol", json!("TCP"));
        let target = port["port"].clone();
        default(port, "targetPort", target);
    }
    if spec["clusterIP"] == "None" {
        default(spec, "clusterIPs", json!(["None"]));
    }
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
        if spec["type"] == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", json!(true));
        }
        // As with addresses: a number of the usual range that is free in practice.
        let first = server.store().version() as u32;
        for (index, port) in array_mut(spec, "ports").enumerate() {
            default(port, "nodePort", json!(30_000 + (first + index as u32) % 2768));
        }
    }
    if spec["type"] != "ExternalName" && spec.get("clusterIP").is_none_or(|v| v.is_null() || v == "") {
        // 10.96.0.0/12 as kubeadm has it; the last versions' number gives an address that is free in practice.
        let number = server.store().version() as u32 % 0x000f_fffe + 1;
        let address = std::net::Ipv4Addr::from(0x0a60_0000 + number);
        spec["clusterIP"] = Value::from(address.to_string());
        spec["clusterIPs"] = json!([address.to_string()]);
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", json!("SingleStack"));
        default(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if object["status"].is_null() {
        object["status"] = json!({"loadBalancer": {}});
    }
}

fn qos_class(pod: &Value) -> &'static str {
    let containers = meta::list(pod, &["spec", "containers"]);
    let asks = |c: &Value, what: &str| c["resources"][what].as_object().is_some_and(|m| !m.is_empty());
    if !containers.iter().any(|c| asks(c, "requests") || asks(c, "limits")) {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|c| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = &c["resources"]["limits"][*name];
            let request = &c["resources"]["requests"][*name];
            !limit.is_null() && (request.is_null() || request == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}
