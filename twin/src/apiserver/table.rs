//! The rows and columns that `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cell_text::{access_modes, age as age_of, joined, none_if_empty, selector_text, shown, some_of, span};
use super::json_path::json_path;
use super::registry::Resource;
use super::shape::{RowObject, metadata_only};
use crate::objects::meta::{self, at, integer, list, text};

/// The table of some objects.
pub(super) fn table(
    resource: &Resource,
    objects: &[Value],
    include: RowObject,
    metadata: Value,
    now: Timestamp,
) -> Value {
    let columns = columns(resource);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({"name": c.name, "type": c.kind, "format": format, "description": c.description, "priority": c.priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let row_object = match include {
                RowObject::None => Value::Null,
                RowObject::Metadata => metadata_only(object),
                RowObject::Object => object.clone(),
            };
            json!({"cells": cells(resource, object, now), "object": row_object})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

struct Column {
    name: String,
    kind: String,
    description: String,
    priority: i64,
}

/// Names of the columns; a `+` before a name puts it into the wide output only, a `#` makes it a number.
fn builtin_columns(resource: &Resource) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            &["Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"]
        }
        ("", "nodes") => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        ("", "services") => &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"],
        ("", "namespaces") => &["Name", "Status", "Age"],
        ("", "configmaps") => &["Name", "Data", "Age"],
        ("", "secrets") => &["Name", "Type", "Data", "Age"],
        ("", "serviceaccounts") => &["Name", "Secrets", "Age"],
        ("", "persistentvolumeclaims") => {
            &["Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "Age", "+VolumeMode"]
        }
        ("batch", "jobs") => {
            &["Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"]
        }
        ("batch", "cronjobs") => &["Name", "Schedule", "Suspend", "#Active", "Age"],
        ("networking.k8s.io", "ingresses") => &["Name", "Class", "Hosts", "Address", "Ports", "Age"],
        ("networking.k8s.io", "networkpolicies") => &["Name", "Pod-Selector", "Age"],
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => &["Name", "Created At"],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &["Name", "Role", "Age"],
        ("scheduling.k8s.io", _) => &["Name", "#Value", "Global-Default", "Age"],
        ("autoscaling", _) => &["Name", "Reference", "MinPods", "MaxPods", "Replicas", "Age"],
        ("", "endpoints") => &["Name", "Endpoints", "Age"],
        (_, "events") => &[
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "+Subobject",
            "+Source",
            "Message",
            "+First Seen",
            "+#Count",
            "+Name",
        ],
        ("apps", "deployments") => {
            &["Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"]
        }
        ("apps", "replicasets") => {
            &["Name", "#Desired", "#Current", "#Ready", "Age", "+Containers", "+Images", "+Selector"]
        }
        ("apps", "statefulsets") => &["Name", "Ready", "Age", "+Containers", "+Images"],
        ("apps", "daemonsets") => &[
            "Name",
            "#Desired",
            "#Current",
            "#Ready",
            "#Up-to-date",
            "#Available",
            "Node Selector",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        ("policy", _) => &["Name", "Min Available", "Max Unavailable", "#Allowed Disruptions", "Age"],
        ("discovery.k8s.io", _) => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        ("coordination.k8s.io", _) => &["Name", "Holder", "Age"],
        ("gateway.networking.k8s.io", "httproutes") => &["Name", "Hostnames", "Age"],
        ("apiextensions.k8s.io", _) => &["Name", "Created At"],
        _ => &["Name", "Age"],
    }
}

fn columns(resource: &Resource) -> Vec<Column> {
    let simple = |name: &str| {
        let (priority, name) = name.strip_prefix('+').map_or((0, name), |n| (1, n));
        let (kind, name) = name.strip_prefix('#').map_or(("string", name), |n| ("integer", n));
        let kind = if name == "Created At" { "date" } else { kind };
        Column { name: name.to_owned(), kind: kind.to_owned(), description: String::new(), priority }
    };
    match &resource.custom {
        None => builtin_columns(resource).iter().map(|n| simple(n)).collect(),
        Some(custom) => {
            let mut columns = vec![simple("Name")];
            columns.extend(custom.columns.iter().map(|c| Column {
                name: c.name.clone(),
                kind: c.kind.clone(),
                description: c.description.clone(),
                priority: c.priority,
            }));
            if custom.columns.is_empty() {
                columns.push(simple("Age"));
            }
            columns
        }
    }
}

fn cells(resource: &Resource, o: &Value, now: Timestamp) -> Vec<Value> {
    let name = meta::name(o);
    let age = age_of(&o["metadata"]["creationTimestamp"], now);
    if let Some(custom) = &resource.custom {
        let mut cells = vec![json!(name)];
        cells.extend(custom.columns.iter().map(|c| {
            let found = json_path(o, &c.json_path);
            match (c.kind.as_str(), found.as_slice()) {
                (_, []) => Value::Null,
                ("date", [when, ..]) => json!(age_of(when, now)),
                ("string", [one]) if !one.is_string() => json!(one.to_string()),
                (_, [one]) => (*one).clone(),
                (_, many) => json!(many.iter().map(|v| shown(v)).collect::<Vec<_>>().join(",")),
            }
        }));
        if custom.columns.is_empty() {
            cells.push(json!(age));
        }
        return cells;
    }
    let count = |path: &[&str]| json!(integer(o, path).unwrap_or(0));
    let size =
        |field: &str| json!(o[field].as_object().map_or(0, |m| m.len()) + o[field].as_array().map_or(0, Vec::len));
    let template = at(o, &["spec", "template", "spec"]).cloned().unwrap_or(Value::Null);
    let containers = json!(joined(list(&template, &["containers"]), "name"));
    let images = json!(joined(list(&template, &["containers"]), "image"));
    let selector = json!(selector_text(at(o, &["spec", "selector", "matchLabels"])));
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod_cells(o, name, age),
        ("", "nodes") => node_cells(o, name, age),
        ("", "services") => service_cells(o, name, age),
        ("", "namespaces") => vec![json!(name), o["status"]["phase"].clone(), json!(age)],
        ("", "configmaps") => vec![json!(name), size("data"), json!(age)],
        ("", "secrets") => vec![json!(name), o["type"].clone(), size("data"), json!(age)],
        ("", "serviceaccounts") => vec![json!(name), size("secrets"), json!(age)],
        ("", "persistentvolumeclaims") => vec![
            json!(name),
            o["status"]["phase"].clone(),
            json!(shown(&o["spec"]["volumeName"])),
            json!(shown(&o["status"]["capacity"]["storage"])),
            json!(access_modes(list(o, &["status", "accessModes"]))),
            json!(shown(&o["spec"]["storageClassName"])),
            json!(age),
            json!(shown(&o["spec"]["volumeMode"])),
        ],
        ("batch", "jobs") => {
            let conditions = list(o, &["status", "conditions"]);
            let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
            let status = if is("Complete") {
                "Complete"
            } else if is("Failed") {
                "Failed"
            } else {
                "Running"
            };
            let wanted = integer(o, &["spec", "completions"]).map_or("1 of 1".to_owned(), |n| n.to_string());
            let time = |field: &str| text(o, &["status", field]).and_then(meta::parse_time);
            let duration = time("startTime").map(|from| {
                let until = time("completionTime").unwrap_or(now);
                span(until.as_second().saturating_sub(from.as_second()))
            });
            vec![
                json!(name),
                json!(status),
                json!(format!("{}/{wanted}", count(&["status", "succeeded"]))),
                json!(duration.unwrap_or_default()),
                json!(age),
                containers,
                images,
                selector,
            ]
        }
        ("batch", "cronjobs") => vec![
            json!(name),
            o["spec"]["schedule"].clone(),
            json!(if o["spec"]["suspend"] == true { "True" } else { "False" }),
            json!(list(o, &["status", "active"]).len()),
            json!(age),
        ],
        ("networking.k8s.io", "ingresses") => {
            let hosts: Vec<String> =
                list(o, &["spec", "rules"]).iter().map(|r| shown(&r["host"])).filter(|h| !h.is_empty()).collect();
            let tls = !list(o, &["spec", "tls"]).is_empty();
            vec![
                json!(name),
                json!(text(o, &["spec", "ingressClassName"]).unwrap_or("<none>")),
                json!(if hosts.is_empty() { "*".to_owned() } else { some_of(hosts) }),
                json!(""),
                json!(if tls { "80, 443" } else { "80" }),
                json!(age),
            ]
        }
        ("networking.k8s.io", "networkpolicies") => {
            let selector = selector_text(at(o, &["spec", "podSelector", "matchLabels"]));
            vec![json!(name), json!(none_if_empty(selector)), json!(age)]
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            vec![json!(name), o["metadata"]["creationTimestamp"].clone()]
        }
        ("rbac.authorization.k8s.io", _) => {
            let role = format!("{}/{}", shown(&o["roleRef"]["kind"]), shown(&o["roleRef"]["name"]));
            vec![json!(name), json!(role), json!(age)]
        }
        ("scheduling.k8s.io", _) => {
            vec![json!(name), o["value"].clone(), json!(o["globalDefault"] == true), json!(age)]
        }
        ("autoscaling", _) => {
            let target = &o["spec"]["scaleTargetRef"];
            vec![
                json!(name),
                json!(format!("{}/{}", shown(&target["kind"]), shown(&target["name"]))),
                json!(shown(&o["spec"]["minReplicas"])),
                o["spec"]["maxReplicas"].clone(),
                count(&["status", "currentReplicas"]),
                json!(age),
            ]
        }
        ("", "endpoints") => {
            let addresses = list(o, &["subsets"]).iter().flat_map(|s| {
                let port = s["ports"][0]["port"].to_string();
                list(s, &["addresses"]).iter().map(move |a| format!("{}:{port}", shown(&a["ip"])))
            });
            vec![json!(name), json!(some_of(addresses.collect())), json!(age)]
        }
        (_, "events") => {
            let get = |core: &str, new: &str| o.get(core).or_else(|| o.get(new)).unwrap_or(&Value::Null);
            let about = get("involvedObject", "regarding");
            let last =
                [get("lastTimestamp", "deprecatedLastTimestamp"), &o["eventTime"], &o["metadata"]["creationTimestamp"]];
            let last = last.into_iter().find(|v| v.is_string()).unwrap_or(&Value::Null);
            let first = get("firstTimestamp", "deprecatedFirstTimestamp");
            let object = format!("{}/{}", shown(&about["kind"]).to_lowercase(), shown(&about["name"]));
            vec![
                json!(age_of(last, now)),
                o["type"].clone(),
                o["reason"].clone(),
                json!(object),
                json!(shown(&about["fieldPath"])),
                get("reportingComponent", "reportingController").clone(),
                get("message", "note").clone(),
                json!(age_of(first, now)),
                json!(get("count", "deprecatedCount").as_i64().unwrap_or(1)),
                json!(name),
            ]
        }
        ("apps", "deployments") => vec![
            json!(name),
            json!(format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]))),
            count(&["status", "updatedReplicas"]),
            count(&["status", "availableReplicas"]),
            json!(age),
            containers,
            images,
            selector,
        ],
        ("apps", "replicasets") => vec![
            json!(name),
            count(&["spec", "replicas"]),
            count(&["status", "replicas"]),
            count(&["status", "readyReplicas"]),
            json!(age),
            containers,
            images,
            selector,
        ],
        ("apps", "statefulsets") => vec![
            json!(name),
            json!(format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]))),
            json!(age),
            containers,
            images,
        ],
        ("apps", "daemonsets") => vec![
            json!(name),
            count(&["status", "desiredNumberScheduled"]),
            count(&["status", "currentNumberScheduled"]),
            count(&["status", "numberReady"]),
            count(&["status", "updatedNumberScheduled"]),
            count(&["status", "numberAvailable"]),
            json!(none_if_empty(selector_text(template.get("nodeSelector")))),
            json!(age),
            containers,
            images,
            selector,
        ],
        ("policy", _) => {
            let or_na = |v: &Value| if v.is_null() { json!("N/A") } else { json!(shown(v)) };
            vec![
                json!(name),
                or_na(&o["spec"]["minAvailable"]),
                or_na(&o["spec"]["maxUnavailable"]),
                count(&["status", "disruptionsAllowed"]),
                json!(age),
            ]
        }
        ("discovery.k8s.io", _) => vec![
            json!(name),
            o["addressType"].clone(),
            json!(none_if_empty(joined(list(o, &["ports"]), "port"))),
            json!(some_of(list(o, &["endpoints"]).iter().map(|e| shown(&e["addresses"][0])).collect())),
            json!(age),
        ],
        ("coordination.k8s.io", _) => vec![json!(name), o["spec"]["holderIdentity"].clone(), json!(age)],
        ("gateway.networking.k8s.io", "httproutes") => {
            let hosts = at(o, &["spec", "hostnames"]).map(Value::to_string);
            vec![json!(name), json!(hosts.unwrap_or_default()), json!(age)]
        }
        ("apiextensions.k8s.io", _) => vec![json!(name), o["metadata"]["creationTimestamp"].clone()],
        _ => vec![json!(name), json!(age)],
    }
}

fn pod_cells(o: &Value, name: &str, age: String) -> Vec<Value> {
    let statuses = list(o, &["status", "containerStatuses"]);
    let total = list(o, &["spec", "containers"]).len();
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let restarts: i64 = statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let waiting = statuses.iter().find_map(|s| text(s, &["state", "waiting", "reason"]));
    let status = if meta::is_deleting(o) {
        if o["status"]["reason"] == "NodeLost" { "Unknown" } else { "Terminating" }
    } else {
        waiting.or(text(o, &["status", "reason"])).or(text(o, &["status", "phase"])).unwrap_or("Unknown")
    };
    let or_none = |path: &[&str]| json!(text(o, path).unwrap_or("<none>"));
    vec![
        json!(name),
        json!(format!("{ready}/{total}")),
        json!(status),
        json!(restarts.to_string()),
        json!(age),
        or_none(&["status", "podIP"]),
        or_none(&["spec", "nodeName"]),
        or_none(&["status", "nominatedNodeName"]),
        json!("<none>"),
    ]
}

fn node_cells(o: &Value, name: &str, age: String) -> Vec<Value> {
    let ready = list(o, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready".to_owned(),
        Some("False") => "NotReady".to_owned(),
        _ => {
            if ready.is_some() {
                "NotReady".to_owned()
            } else {
                "Unknown".to_owned()
            }
        }
    };
    if o["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles = o["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))
        .collect::<Vec<_>>()
        .join(",");
    let address =
        list(o, &["status", "addresses"]).iter().find(|a| a["type"] == "InternalIP").map(|a| shown(&a["address"]));
    let info = |field: &str| json!(text(o, &["status", "nodeInfo", field]).unwrap_or("<unknown>"));
    vec![
        json!(name),
        json!(status),
        json!(none_if_empty(roles)),
        json!(age),
        info("kubeletVersion"),
        json!(address.unwrap_or_else(|| "<none>".to_owned())),
        json!("<none>"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn service_cells(o: &Value, name: &str, age: String) -> Vec<Value> {
    let given = list(o, &["status", "loadBalancer", "ingress"]);
    let external = match o["spec"]["type"].as_str() {
        Some("ExternalName") => shown(&o["spec"]["externalName"]),
        Some("LoadBalancer") if given.is_empty() => "<pending>".to_owned(),
        Some("LoadBalancer") => given
            .iter()
            .filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()))
            .collect::<Vec<_>>()
            .join(","),
        _ => "<none>".to_owned(),
    };
    let ports = list(o, &["spec", "ports"])
        .iter()
        .map(|p| {
            let node_port = p["nodePort"].as_i64().filter(|n| *n > 0).map_or(String::new(), |n| format!(":{n}"));
            format!("{}{node_port}/{}", p["port"], p["protocol"].as_str().unwrap_or("TCP"))
        })
        .collect::<Vec<_>>()
        .join(",");
    vec![
        json!(name),
        o["spec"]["type"].clone(),
        json!(text(o, &["spec", "clusterIP"]).unwrap_or("<none>")),
        json!(external),
        json!(none_if_empty(ports)),
        json!(age),
        json!(none_if_empty(selector_text(at(o, &["spec", "selector"])))),
    ]
}
