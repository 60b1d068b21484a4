//! Whether the objects of a snapshot can be believed. What cannot is left out and told, with its place and the reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

use crate::{
    kinds::Kind,
    snapshot::Snapshot,
    words::{Words, words},
};

/// An object that was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Data center.
    pub site: String,
    /// `Kind namespace/name`, or the key of an unknown kind.
    pub object: String,
    /// Why it was left out.
    pub why: Words,
}

/// Removes what cannot be used; says what and why, in a fixed order.
pub fn check(snapshot: &mut Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for site in &mut snapshot.sites {
        let name = site.name.clone();
        let mut tell = |object: String, why: Words| findings.push(Finding { site: name.clone(), object, why });
        site.objects.retain(|key, objects| {
            let known = Kind::of_key(key).is_some();
            if !known {
                tell(
                    format!("{key} ({})", objects.len()),
                    words("this kind is not known to rehearsals", "演练不认识此类对象"),
                );
            }
            known
        });
        for (key, objects) in &mut site.objects {
            let Some(kind) = Kind::of_key(key) else { continue };
            let mut seen = BTreeSet::new();
            objects.retain(|object| match fault(kind, object, &mut seen) {
                Some(why) => {
                    tell(place(kind.kind, object), why);
                    false
                }
                None => true,
            });
            objects.sort_by_key(place_key);
        }
        let circle = circular(&site.objects);
        for (key, objects) in &mut site.objects {
            let Some(kind) = Kind::of_key(key) else { continue };
            objects.retain(|object| {
                let Some(through) = uid(object).and_then(|uid| circle.get(uid)) else { return true };
                tell(
                    place(kind.kind, object),
                    words(format!("its owners form a circle: {through}"), format!("其属主关系成环：{through}")),
                );
                false
            });
        }
    }
    findings.sort();
    findings
}

fn place(kind: &str, object: &Value) -> String {
    let (namespace, name) = place_key(object);
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

fn place_key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("?").to_owned();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    (namespace, text("name"))
}

fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty())
}

fn fault(kind: &Kind, object: &Value, seen: &mut BTreeSet<(String, String)>) -> Option<Words> {
    let lacks = |path: &str| Some(words(format!("it has no {path}"), format!("缺少 {path}")));
    if !object.is_object() {
        return Some(words("it is no object", "不是对象"));
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return lacks("metadata.name");
    }
    if uid(object).is_none() {
        return lacks("metadata.uid");
    }
    if object["kind"] != kind.kind {
        let found = object["kind"].to_string();
        return Some(words(
            format!("its kind is {found}, not {}", kind.kind),
            format!("kind 为 {found}，应为 {}", kind.kind),
        ));
    }
    let has = |pointer: &str, fits: fn(&Value) -> bool| object.pointer(pointer).is_some_and(fits);
    let required: &[(&str, fn(&Value) -> bool)] = match kind.kind {
        "Pod" => &[("/spec/containers", Value::is_array), ("/metadata/namespace", Value::is_string)],
        "Node" => &[("/status/allocatable", Value::is_object)],
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => &[
            ("/spec/template/spec/containers", Value::is_array),
            ("/spec/selector", Value::is_object),
            ("/metadata/namespace", Value::is_string),
        ],
        _ => &[],
    };
    if let Some((pointer, _)) = required.iter().find(|(pointer, fits)| !has(pointer, *fits)) {
        return lacks(&pointer[1..].replace('/', "."));
    }
    if !seen.insert(place_key(object)) {
        return Some(words("it is there twice; the first one is taken", "重复出现；采用第一个"));
    }
    None
}

/// UIDs of objects whose chain of owners comes back to them -> the circle, for people.
fn circular(objects: &BTreeMap<String, Vec<Value>>) -> HashMap<String, String> {
    let mut owners: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut names: HashMap<&str, String> = HashMap::new();
    for object in objects.values().flatten() {
        let Some(own) = uid(object) else { continue };
        names.insert(own, place(object["kind"].as_str().unwrap_or_default(), object));
        let of = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        owners.insert(own, of.filter_map(|owner| owner["uid"].as_str()).collect());
    }
    let mut found = HashMap::new();
    for start in owners.keys() {
        let (mut path, mut stack, mut visited) = (Vec::new(), vec![(*start, 0usize)], BTreeSet::new());
        while let Some((at, depth)) = stack.pop() {
            path.truncate(depth);
            path.push(at);
            for owner in owners.get(at).into_iter().flatten() {
                if owner == start {
                    // Told from its smallest member on, so that every member tells the same circle.
                    let mut circle: Vec<&str> = path.iter().map(|uid| names[uid].as_str()).collect();
                    let first = (0..circle.len()).min_by_key(|index| circle[*index]).unwrap_or(0);
                    circle.rotate_left(first);
                    found.insert((*start).to_owned(), circle.join(" <- "));
                } else if visited.insert(*owner) {
                    stack.push((*owner, depth + 1));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{FORMAT, Site};
    use serde_json::json;

    fn config(name: &str, owner: Option<&str>) -> Value {
        let owners: Vec<Value> = owner.iter().map(|uid| json!({"uid": uid, "kind": "x", "name": "x"})).collect();
        json!({"kind": "Service", "metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": owners}})
    }

    #[test]
    fn broken_unknown_twice_told_and_circular_objects_are_left_out_with_place_and_reason() {
        let objects = BTreeMap::from([
            ("widgets.example".to_owned(), vec![json!({})]),
            ("pods".to_owned(), vec![json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "d", "uid": "1"}})]),
            (
                "services".to_owned(),
                vec![
                    config("a", Some("b")),
                    config("b", Some("a")),
                    config("own", Some("own")),
                    config("free", Some("a")),
                ],
            ),
            (
                "namespaces".to_owned(),
                vec![
                    json!({"kind": "Namespace", "metadata": {"uid": "2"}}),
                    json!({"kind": "Namespace", "metadata": {"name": "x", "uid": "3"}}),
                    json!({"kind": "Namespace", "metadata": {"name": "x", "uid": "4"}}),
                ],
            ),
        ]);
        let site = Site { name: "dc-a".into(), objects, ..Site::default() };
        let mut snapshot = Snapshot {
            format: FORMAT,
            made_by: String::new(),
            taken_at: jiff::Timestamp::UNIX_EPOCH,
            sites: vec![site],
        };
        let found: Vec<String> =
            check(&mut snapshot).into_iter().map(|f| format!("{}: {}", f.object, f.why.en)).collect();
        assert_eq!(
            found,
            [
                "Namespace ?: it has no metadata.name",
                "Namespace x: it is there twice; the first one is taken",
                "Pod d/p: it has no spec.containers",
                "Service d/a: its owners form a circle: Service d/a <- Service d/b",
                "Service d/b: its owners form a circle: Service d/a <- Service d/b",
                "Service d/own: its owners form a circle: Service d/own",
                "widgets.example (1): this kind is not known to rehearsals",
            ]
        );
        assert_eq!(snapshot.sites[0].all("services").len(), 1);
    }
}
