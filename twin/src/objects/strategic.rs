//! Strategic merge patch for built-in kinds: lists merge by key, `$patch` directives are honoured.

use serde_json::{Map, Value};

use super::schema::{ListKind, Schema};

/// Applies a strategic merge patch.
///
/// # Errors
/// Names a directive that cannot be honoured.
pub fn strategic_merge(target: &mut Value, patch: &Value, schema: &Schema<'_>) -> Result<(), String> {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return Ok(());
    };
    match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut value = patch.clone();
            strip_directives(&mut value);
            *target = value;
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("unknown patch type: {other} in map: {patch}")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("made an object just above");
    if let Some(kept) = changes.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|name, _| kept.iter().any(|k| k.as_str() == Some(name)));
    }
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !change.as_array().is_some_and(|gone| gone.contains(item)));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        if change.is_null() {
            fields.shift_remove(name);
            continue;
        }
        let place = schema.field(name);
        match change {
            Value::Object(_) => {
                let slot = fields.entry(name.clone()).or_insert(Value::Null);
                // A map that is owned as a whole is still merged by this kind of patch.
                strategic_merge(slot, change, &place)?;
            }
            Value::Array(items) => {
                let slot = fields.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(slot, items, &place)?;
            }
            scalar => {
                fields.insert(name.clone(), scalar.clone());
            }
        }
    }
    for (name, order) in changes.iter().filter_map(|(n, v)| Some((n.strip_prefix("$setElementOrder/")?, v.as_array()?)))
    {
        if let Some(items) = fields.get_mut(name).and_then(Value::as_array_mut) {
            reorder(items, order, &schema.field(name).strategic_list());
        }
    }
    Ok(())
}

fn merge_list(target: &mut Value, patch: &[Value], schema: &Schema<'_>) -> Result<(), String> {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let items = target.as_array_mut().expect("made an array just above");
    if patch.iter().any(|p| p["$patch"] == "replace") {
        *items = patch.iter().filter(|p| p.get("$patch").is_none()).cloned().collect();
        return Ok(());
    }
    match schema.strategic_list() {
        ListKind::Atomic => {
            *items = patch.to_vec();
            items.iter_mut().for_each(strip_directives);
        }
        ListKind::Set => {
            for value in patch {
                if !items.contains(value) {
                    items.push(value.clone());
                }
            }
        }
        ListKind::Map(keys) => {
            let order: Vec<Value> = items.clone();
            let mut added_items = Vec::new();
            for change in patch {
                let same = |item: &Value| keys.iter().all(|k| item.get(k) == change.get(k));
                if change["$patch"] == "delete" {
                    items.retain(|item| !same(item));
                } else if keys.iter().any(|k| change.get(k).is_none()) {
                    return Err(format!("map: {change} does not contain declared merge key: {}", keys.join(",")));
                } else if let Some(item) = items.iter_mut().find(|item| same(item)) {
                    strategic_merge(item, change, &schema.item())?;
                } else {
                    let mut added = Value::Object(Map::new());
                    strategic_merge(&mut added, change, &schema.item())?;
                    added_items.push(added);
                }
            }
            items.append(&mut added_items);
            *items = in_merged_order(std::mem::take(items), &order, patch, &keys);
        }
    }
    Ok(())
}

/// Items of the patch in its order and the others in theirs; of one of each, the one that stood first comes first, and
/// what is new comes before what was there.
fn in_merged_order(items: Vec<Value>, live: &[Value], patch: &[Value], keys: &[String]) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|o| keys.iter().all(|k| o.get(k) == item.get(k)));
    let (mut patched, others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|i| place(patch, i).is_some());
    patched.sort_by_key(|item| place(patch, item));
    let (mut patched, mut others) = (patched.into_iter().peekable(), others.into_iter().peekable());
    let mut merged = Vec::new();
    while let (Some(new), Some(old)) = (patched.peek(), others.peek()) {
        let old_first = match (place(live, new), place(live, old)) {
            (Some(new), Some(old)) => old < new,
            _ => false,
        };
        merged.extend(if old_first { others.next() } else { patched.next() });
    }
    merged.extend(patched);
    merged.extend(others);
    merged
}

fn reorder(items: &mut [Value], order: &[Value], kind: &ListKind<'_>) {
    let rank = |item: &Value| {
        order
            .iter()
            .position(|wanted| match kind {
                ListKind::Map(keys) => keys.iter().all(|k| item.get(k) == wanted.get(k)),
                _ => item == wanted,
            })
            .unwrap_or(usize::MAX)
    };
    items.sort_by_key(rank);
}

fn strip_directives(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.starts_with('$'));
            fields.values_mut().for_each(strip_directives);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_directives),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(mut target: Value, patch: Value, kind: &str) -> Value {
        strategic_merge(&mut target, &patch, &Schema::builtin("v1", kind)).unwrap();
        target
    }

    #[test]
    fn conditions_merge_by_type() {
        let node = json!({"status":{"conditions":[{"type":"Ready","status":"True"}]}});
        let patch =
            json!({"status":{"conditions":[{"type":"OutOfMemory","status":"True"},{"type":"Ready","status":"False"}]}});
        assert_eq!(
            merged(node, patch, "Node"),
            json!({"status":{"conditions":[{"type":"OutOfMemory","status":"True"},{"type":"Ready","status":"False"}]}})
        );
    }

    #[test]
    fn a_container_is_deleted_by_directive_and_others_stay() {
        let pod = json!({"spec":{"containers":[{"name":"a","image":"1"},{"name":"b"}]}});
        let patch = json!({"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"b","$patch":"delete"},{"name":"a","image":"2"}]}});
        assert_eq!(merged(pod, patch, "Pod"), json!({"spec":{"containers":[{"name":"a","image":"2"}]}}));
    }

    #[test]
    fn finalizers_are_removed_by_the_primitive_list_directive() {
        let object = json!({"metadata":{"finalizers":["x/a","x/b"]}});
        let patch = json!({"metadata":{"$deleteFromPrimitiveList/finalizers":["x/a"]}});
        assert_eq!(merged(object, patch, "ConfigMap"), json!({"metadata":{"finalizers":["x/b"]}}));
    }

    #[test]
    fn lists_without_a_key_are_replaced() {
        let pod = json!({"spec":{"tolerations":[{"key":"a"}]}});
        assert_eq!(
            merged(pod, json!({"spec":{"tolerations":[{"key":"b"}]}}), "Pod"),
            json!({"spec":{"tolerations":[{"key":"b"}]}})
        );
    }
}
