//! How objects are shaped for a client: in full, as metadata only, or as rows of a table for `kubectl get`.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::registry::Resource;
use super::server::{served, served_value, to_bytes};
use super::store::Entry;
use crate::objects::meta::{self, at, integer, list, text};

/// What a table row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowObject {
    /// Nothing.
    None,
    /// Metadata.
    Metadata,
    /// The whole object.
    Object,
}

/// The shape that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Full,
    /// PartialObjectMetadata.
    Metadata,
    /// Table.
    Table(RowObject),
}

impl Shape {
    /// Reads the Accept header and the `includeObject` parameter; the first form that is known wins.
    pub fn from_accept(accept: &str, include_object: Option<&str>) -> Shape {
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let as_what = parts.find_map(|p| p.strip_prefix("as="));
            match (kind, as_what) {
                ("application/json", Some("Table")) => {
                    return Shape::Table(match include_object {
                        Some("None") => RowObject::None,
                        Some("Object") => RowObject::Object,
                        _ => RowObject::Metadata,
                    });
                }
                ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                    return Shape::Metadata;
                }
                ("application/json" | "*/*" | "application/*", None) => return Shape::Full,
                _ => {}
            }
        }
        Shape::Full
    }

    /// One object.
    pub fn one(self, resource: &Resource, entry: &Entry, now: Timestamp) -> Bytes {
        match self {
            Shape::Full => served(resource, entry),
            Shape::Metadata => to_bytes(&metadata_only(&served_value(resource, entry))),
            Shape::Table(include) => {
                to_bytes(&table(resource, &[served_value(resource, entry)], include, json!({}), now))
            }
        }
    }

    /// A list.
    pub fn many(
        self,
        resource: &Resource,
        entries: &[std::sync::Arc<Entry>],
        metadata: Value,
        now: Timestamp,
    ) -> Bytes {
        match self {
            Shape::Table(include) => {
                let values: Vec<Value> = entries.iter().map(|e| served_value(resource, e)).collect();
                to_bytes(&table(resource, &values, include, metadata, now))
            }
            Shape::Full | Shape::Metadata => {
                let (api_version, kind) = match self {
                    Shape::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
                    _ => (resource.api_version(), resource.list_kind.clone()),
                };
                let mut out = Vec::with_capacity(128 + entries.iter().map(|e| e.bytes.len() + 1).sum::<usize>());
                let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string();
                out.extend_from_slice(head.trim_end_matches('}').as_bytes());
                // The head ends in the metadata's own brace, trimmed along with the list's.
                out.extend_from_slice(b"},\"items\":[");
                for (index, entry) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(&self.one(resource, entry, now));
                }
                out.extend_from_slice(b"]}");
                out.into()
            }
        }
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

fn table(resource: &Resource, objects: &[Value], include: RowObject, metadata: Value, now: Timestamp) -> Value {
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
        ("", "configmaps") => &["Name", "#Data", "Age"],
        ("", "secrets") => &["Name", "Type", "#Data", "Age"],
        ("", "serviceaccounts") => &["Name", "#Secrets", "Age"],
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
            &["Name", "Ready", "#Up-to-date", "#Available", "Age", "+Containers", "+Images", "+Selector"]
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
    let age = age(&o["metadata"]["creationTimestamp"], now);
    if let Some(custom) = &resource.custom {
        let mut cells = vec![json!(name)];
        cells.extend(custom.columns.iter().map(|c| {
            let found = json_path(o, &c.json_path);
            match (c.kind.as_str(), found.as_slice()) {
                (_, []) => Value::Null,
                ("date", [when, ..]) => json!(self::age(when, now)),
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
                json!(self::age(last, now)),
                o["type"].clone(),
                o["reason"].clone(),
                json!(object),
                json!(shown(&about["fieldPath"])),
                get("reportingComponent", "reportingController").clone(),
                get("message", "note").clone(),
                json!(self::age(first, now)),
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
    let external =
        if o["spec"]["type"] == "ExternalName" { shown(&o["spec"]["externalName"]) } else { "<none>".to_owned() };
    let ports = list(o, &["spec", "ports"])
        .iter()
        .map(|p| format!("{}/{}", p["port"], p["protocol"].as_str().unwrap_or("TCP")))
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

fn selector_text(map: Option<&Value>) -> String {
    map.and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", shown(v)))
        .collect::<Vec<_>>()
        .join(",")
}

fn joined(items: &[Value], field: &str) -> String {
    items.iter().map(|i| shown(&i[field])).collect::<Vec<_>>().join(",")
}

fn none_if_empty(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn some_of(mut items: Vec<String>) -> String {
    let more = items.len().saturating_sub(3);
    items.truncate(3);
    let text = none_if_empty(items.join(","));
    if more > 0 { format!("{text} + {more} more...") } else { text }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The time since `when` as kubectl shows ages.
fn age(when: &Value, now: Timestamp) -> String {
    let Some(when) = when.as_str().and_then(meta::parse_time) else { return "<unknown>".to_owned() };
    let seconds = now.as_second().saturating_sub(when.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 && seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 && minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 && hours % 24 > 0 => format!("{days}d{}h", hours % 24),
        () if days < 730 => format!("{days}d"),
        () => format!("{}y", days / 365),
    }
}

/// The values that a JSON path of a printer column finds: fields, `['field']`, `[0]`, `[*]` and
/// `[?(@.type=="Ready")]`. A path that uses more than this finds nothing.
pub fn json_path<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![value];
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some((step, after)) = split_bracket(inner) else { return Vec::new() };
            found = found.into_iter().flat_map(|v| bracket(v, step)).collect();
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            let (field, after) = name.split_at(end);
            if !field.is_empty() {
                found = found.into_iter().filter_map(|v| v.get(field)).collect();
            }
            rest = after;
        }
    }
    found.retain(|v| !v.is_null());
    found
}

fn split_bracket(inner: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (index, c) in inner.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ']') => return Some((&inner[..index], &inner[index + 1..])),
            _ => {}
        }
    }
    None
}

fn bracket<'a>(value: &'a Value, step: &str) -> Vec<&'a Value> {
    let step = step.trim();
    if step == "*" {
        return value
            .as_array()
            .into_iter()
            .flatten()
            .chain(value.as_object().into_iter().flat_map(|o| o.values()))
            .collect();
    }
    if let Ok(index) = step.parse::<usize>() {
        return value.get(index).into_iter().collect();
    }
    let unquoted = |s: &str| s.trim().trim_matches(|c| c == '\'' || c == '"').to_owned();
    if let Some(test) = step.strip_prefix("?(@.").and_then(|s| s.strip_suffix(')')) {
        let Some((field, wanted)) = test.split_once("==") else { return Vec::new() };
        let (field, wanted) = (field.trim(), unquoted(wanted));
        return value.as_array().into_iter().flatten().filter(|i| shown(&i[field]) == wanted).collect();
    }
    value.get(unquoted(step)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printer_column_paths_find_fields_items_and_conditions() {
        let o = json!({"status":{"conditions":[{"type":"A","status":"False"},{"type":"Ready","status":"True"}],"list":[1,2]},
            "metadata":{"labels":{"a.b/c":"x"}}});
        assert_eq!(json_path(&o, r#".status.conditions[?(@.type=="Ready")].status"#), [&json!("True")]);
        assert_eq!(json_path(&o, ".metadata.labels['a.b/c']"), [&json!("x")]);
        assert_eq!(json_path(&o, ".status.list[1]"), [&json!(2)]);
        assert_eq!(json_path(&o, ".status.list[*]").len(), 2);
        assert!(json_path(&o, ".spec.nothing").is_empty());
    }

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let since = json!(meta::seconds(at(0)));
        for (seconds, text) in
            [(5, "5s"), (119, "119s"), (150, "2m30s"), (3_600, "60m"), (4 * 3600 + 60, "4h1m"), (86_400 * 3, "3d")]
        {
            assert_eq!(age(&since, at(seconds)), text);
        }
    }

    #[test]
    fn the_accept_header_chooses_the_shape() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Shape::from_accept(kubectl, None), Shape::Table(RowObject::Metadata));
        assert_eq!(
            Shape::from_accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", None),
            Shape::Metadata
        );
        assert_eq!(Shape::from_accept("application/json, */*", None), Shape::Full);
    }
}
