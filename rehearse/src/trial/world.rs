//! The data center of a test, and what happens in it.

use std::time::Duration;

use evergreen_api::resources::{ObjectName, Playbook, PlaybookMode, all_crds};
use evergreen_controller::healing::AlertInbox;
use evergreen_playbooks::{
    board::AlertView,
    testing::{CaseAlert, CaseEvent, HEALTHY_NEIGHBOURS, Happening, Power, RunCase, UNDER_TEST},
};
use evergreen_twin::{NodeSpec, Timing, Twin, apiserver::write::WriteContext, objects::meta};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Time for workloads to come to rest before anything happens.
const SETTLE: Duration = Duration::from_secs(120);
const BEGINS: &str = "2026-06-01T00:00:00Z";

/// The data center at rest, with the playbook acting.
pub(super) fn make(playbook: &Playbook, run: &RunCase) -> Result<Twin, String> {
    let begins = run.begins.as_deref().unwrap_or(BEGINS);
    let begins: Timestamp = begins.parse().map_err(|error| format!("begins: {error}"))?;
    let mut builder = Twin::builder("trial").epoch(begins).timing(Timing::kubernetes()).seed(1).held();
    let names = std::iter::once(UNDER_TEST.to_owned()).chain((0..HEALTHY_NEIGHBOURS).map(|i| format!("neighbour-{i}")));
    for name in names {
        builder = builder.node(NodeSpec::new(&name).zone("zone-a"));
    }
    let twin = builder.build();
    twin.load(all_crds().into_iter().filter_map(|crd| serde_json::to_value(crd).ok()));
    twin.api().ensure_namespace("evergreen-system");
    for object in &run.objects {
        create(&twin, object).map_err(|error| format!("objects: {error}"))?;
    }
    twin.advance(SETTLE);
    let mut playbook = playbook.clone();
    playbook.spec.mode = PlaybookMode::Enforce;
    let playbook = serde_json::to_value(playbook).map_err(|error| error.to_string())?;
    twin.api().create_object(&playbook).map_err(|error| format!("the playbook is refused: {error}"))?;
    Ok(twin)
}

/// Does what happens at one time.
pub(super) fn happen(twin: &Twin, happening: &Happening, alerts: &AlertInbox) -> Result<(), String> {
    let node = happening.node.as_deref().unwrap_or(UNDER_TEST);
    let at = |error: String| format!("at {}: {error}", happening.at);
    for object in &happening.create {
        create(twin, object).map_err(at)?;
    }
    for change in &happening.set {
        set(twin, change).map_err(at)?;
    }
    for name in &happening.remove {
        remove(twin, name).map_err(at)?;
    }
    match happening.power {
        Some(Power::Off) => drop(twin.stop_node(node)),
        Some(Power::On) => drop(twin.start_node(node).map_err(|error| at(error.to_string()))?),
        None => {}
    }
    if happening.reboot || !happening.conditions.is_empty() {
        change_node(twin, node, happening).map_err(at)?;
    }
    if let Some(predictions) = &happening.predictions {
        let now = twin.api().clock().now();
        let made: Result<Vec<_>, String> = predictions.iter().map(|prediction| prediction.at(now)).collect();
        predict(twin, node, &json!(made.map_err(at)?)).map_err(at)?;
    }
    if let Some(event) = &happening.event {
        tell(twin, event).map_err(at)?;
    }
    let alert = |alert: &CaseAlert, firing| {
        let view = AlertView {
            fingerprint: format!("{:?}", alert.labels),
            firing,
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            starts_at: twin.api().clock().seconds(),
        };
        let code = alerts.put(vec![view]);
        if code.is_success() { Ok(()) } else { Err(at(format!("the alert was answered with {code}"))) }
    };
    happening.alert.as_ref().map_or(Ok(()), |firing| alert(firing, true))?;
    happening.resolved.as_ref().map_or(Ok(()), |over| alert(over, false))
}

fn create(twin: &Twin, object: &Value) -> Result<(), String> {
    let namespace = meta::namespace(object);
    if !namespace.is_empty() {
        twin.api().ensure_namespace(namespace);
    }
    let named = format!("{} {}", object["kind"].as_str().unwrap_or("object"), meta::name(object));
    twin.api().create_object(object).map(drop).map_err(|error| format!("{named} cannot be made: {error}"))
}

/// The object by its name, or the first one whose name begins as the pattern says.
pub(super) fn find(twin: &Twin, name: &ObjectName) -> Result<Option<Value>, String> {
    let resource = twin.api().registry().by_kind(&name.api_version, &name.kind);
    let resource = resource
        .ok_or_else(|| format!("{} is not known in {}: check apiVersion and kind", name.kind, name.api_version))?;
    let group = name.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let mut all = twin.api().read_all(group, &resource.plural, name.namespace.as_deref());
    all.sort_by(|a, b| meta::name(a).cmp(meta::name(b)));
    let fits = |object: &Value| match name.name.strip_suffix('*') {
        Some(prefix) => meta::name(object).starts_with(prefix),
        None => meta::name(object) == name.name,
    };
    Ok(all.into_iter().find(fits).map(|mut object| {
        object["apiVersion"] = json!(name.api_version);
        object["kind"] = json!(name.kind);
        object
    }))
}

fn existing(twin: &Twin, name: &ObjectName) -> Result<Value, String> {
    find(twin, name)?.ok_or_else(|| format!("there is no {}", name.display()))
}

fn named(object: &Value) -> ObjectName {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ObjectName {
        api_version: text(&object["apiVersion"]),
        kind: text(&object["kind"]),
        namespace: Some(meta::namespace(object).to_owned()).filter(|namespace| !namespace.is_empty()),
        name: meta::name(object).to_owned(),
    }
}

fn set(twin: &Twin, change: &Value) -> Result<(), String> {
    let mut fields = change.clone();
    let object = existing(twin, &named(change))?;
    for part in ["name", "namespace"] {
        fields["metadata"].as_object_mut().map(|metadata| metadata.remove(part));
    }
    let status = fields.as_object_mut().and_then(|fields| fields.remove("status"));
    if fields["metadata"].as_object().is_some_and(|metadata| !metadata.is_empty())
        || fields
            .as_object()
            .is_some_and(|fields| fields.keys().any(|key| key != "metadata" && key != "apiVersion" && key != "kind"))
    {
        amend(twin, &object, None, |object| merge(object, &fields))?;
    }
    status.map_or(Ok(()), |status| amend(twin, &object, Some("status"), |object| merge(&mut object["status"], &status)))
}

/// RFC 7386.
fn merge(into: &mut Value, from: &Value) {
    let Value::Object(fields) = from else {
        *into = from.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        match value {
            Value::Null => drop(into.as_object_mut().and_then(|into| into.remove(key))),
            value => merge(&mut into[key], value),
        }
    }
}

fn amend(
    twin: &Twin,
    object: &Value,
    subresource: Option<&'static str>,
    change: impl Fn(&mut Value),
) -> Result<(), String> {
    let name = named(object);
    let resource = twin.api().registry().by_kind(&name.api_version, &name.kind);
    let resource = resource.ok_or_else(|| format!("no kind {}", name.kind))?;
    let context = WriteContext { subresource, ..WriteContext::default() };
    let written = twin.api().update(&resource, meta::namespace(object), meta::name(object), &context, |old| {
        let mut new = old.clone();
        change(&mut new);
        Ok(new)
    });
    written.map(drop).map_err(|error| format!("{} cannot be changed: {error}", name.display()))
}

fn remove(twin: &Twin, name: &ObjectName) -> Result<(), String> {
    let object = existing(twin, name)?;
    let resource = twin.api().registry().by_kind(&name.api_version, &name.kind);
    let resource = resource.ok_or_else(|| format!("no kind {}", name.kind))?;
    let deleted = twin.api().delete(&resource, meta::namespace(&object), meta::name(&object), &Default::default());
    deleted.map(drop).map_err(|error| format!("{} cannot be deleted: {error}", name.display()))
}

fn node(name: &str) -> ObjectName {
    ObjectName { api_version: "v1".into(), kind: "Node".into(), namespace: None, name: name.to_owned() }
}

fn change_node(twin: &Twin, name: &str, happening: &Happening) -> Result<(), String> {
    let object = existing(twin, &node(name))?;
    let now = twin.api().clock().seconds();
    amend(twin, &object, Some("status"), |node| {
        if happening.reboot {
            node["status"]["nodeInfo"]["bootID"] = json!(format!("boot at {now}"));
        }
        if !node["status"]["conditions"].is_array() {
            node["status"]["conditions"] = json!([]);
        }
        for (type_, status) in &happening.conditions {
            let condition = json!({"type": type_, "status": status, "reason": "Trial", "message": "by the test",
                "lastTransitionTime": now, "lastHeartbeatTime": now});
            if let Some(conditions) = node["status"]["conditions"].as_array_mut() {
                conditions.retain(|known| known["type"] != **type_);
                conditions.push(condition);
            }
        }
    })
}

fn predict(twin: &Twin, name: &str, predictions: &Value) -> Result<(), String> {
    let health = ObjectName {
        api_version: "evergreen.dev/v1alpha1".into(),
        kind: "NodeHealth".into(),
        namespace: None,
        name: name.to_owned(),
    };
    if find(twin, &health)?.is_none() {
        create(
            twin,
            &json!({"apiVersion": health.api_version, "kind": health.kind, "metadata": {"name": name},
            "spec": {"nodeName": name}}),
        )?;
    }
    let status = json!({"verdict": "ok", "predictions": predictions});
    amend(twin, &existing(twin, &health)?, Some("status"), |object| merge(&mut object["status"], &status))
}

fn tell(twin: &Twin, event: &CaseEvent) -> Result<(), String> {
    let api_version = evergreen_playbooks::kinds::named(&event.kind).map_or("v1", |kind| kind.api_version);
    let about = ObjectName {
        api_version: api_version.to_owned(),
        kind: event.kind.clone(),
        namespace: event.namespace.clone(),
        name: event.name.clone(),
    };
    let object = existing(twin, &about)?;
    let now = twin.api().clock().seconds();
    let namespace = event.namespace.as_deref().unwrap_or("default");
    create(
        twin,
        &json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{}.{}", meta::name(&object), now.replace([':', '-'], "").to_lowercase()),
                "namespace": namespace},
            "involvedObject": {"apiVersion": api_version, "kind": event.kind, "namespace": event.namespace,
                "name": meta::name(&object), "uid": meta::uid(&object)},
            "reason": event.reason, "type": event.type_, "message": event.message, "count": event.count,
            "firstTimestamp": now, "lastTimestamp": now, "source": {"component": "trial"},
        }),
    )
}
