//! Server-side apply, and the bookkeeping of field owners that every other write needs for it.

use serde_json::{Map, Value, json};

use super::fields::FieldSet;
use super::meta;
use super::schema::{ListKind, Schema, item_key};

/// Who writes, as `managedFields` records it.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// API version that the request was written in.
    pub api_version: &'a str,
    /// Subresource that the request went to.
    pub subresource: Option<&'a str>,
    /// Time of the request, in the API's format.
    pub time: &'a str,
}

/// Another manager owns a field that the applied object wants to set differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Manager that owns the field.
    pub manager: String,
    /// The owner's subresource, when it wrote through one.
    pub subresource: Option<String>,
    /// API version of the owner's entry; none for owners that applied.
    pub api_version: Option<String>,
    /// Field, as `.spec.replicas`.
    pub field: String,
}

impl Conflict {
    fn owner(&self) -> String {
        let mut owner = format!("\"{}\"", self.manager);
        if let Some(subresource) = &self.subresource {
            owner.push_str(&format!(" with subresource \"{subresource}\""));
        }
        if let Some(version) = &self.api_version {
            owner.push_str(&format!(" using {version}"));
        }
        owner
    }

    /// The API server's words for it.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.owner())
    }
}

/// The API server's words for all conflicts of one request.
pub fn conflicts_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", one.message(), one.field);
    }
    let mut lines: Vec<String> = Vec::new();
    let mut owners: Vec<String> = conflicts.iter().map(Conflict::owner).collect();
    owners.sort();
    owners.dedup();
    for owner in owners {
        lines.push(format!("conflicts with {owner}:"));
        lines.extend(conflicts.iter().filter(|c| c.owner() == owner).map(|c| format!("- {}", c.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

#[derive(Debug, Clone)]
struct Owner {
    manager: String,
    operation: String,
    subresource: String,
    api_version: String,
    time: String,
    fields: FieldSet,
}

impl Owner {
    fn read(entry: &Value) -> Owner {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Owner {
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            fields: FieldSet::root_from_json(&entry["fieldsV1"]),
        }
    }

    fn write(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = Value::from(self.subresource.as_str());
        }
        entry
    }

    fn is(&self, writer: &Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource.unwrap_or_default()
    }
}

fn read_owners(object: &Value) -> Vec<Owner> {
    meta::list(object, &["metadata", "managedFields"]).iter().map(Owner::read).collect()
}

fn write_owners(object: &mut Value, owners: &[Owner]) {
    let mut owners: Vec<&Owner> = owners.iter().collect();
    owners.sort_by_key(|o| (o.operation != "Apply", &o.time, &o.manager, &o.api_version, &o.subresource));
    let entries: Vec<Value> = owners.into_iter().filter(|o| !o.fields.is_empty()).map(Owner::write).collect();
    let metadata = meta::metadata_mut(object);
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

/// Merges an applied configuration into the live object (or makes a new one) and records the ownership.
///
/// # Errors
/// Without `force`: all conflicts with other managers.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema<'_>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mut applied = applied.clone();
    meta::metadata_mut(&mut applied).shift_remove("managedFields");
    let wanted = owned(FieldSet::of(&applied, schema));
    let empty = Value::Object(Map::new());
    let live_value = live.unwrap_or(&empty);
    let mut owners = read_owners(live_value);

    let mut conflicts = Vec::new();
    for owner in owners.iter_mut().filter(|o| !o.is(writer, "Apply")) {
        let disputed = owner.fields.common(&wanted).differing(live_value, &applied);
        if force {
            owner.fields.drop_readable(&disputed);
            continue;
        }
        conflicts.extend(disputed.into_iter().map(|field| Conflict {
            manager: owner.manager.clone(),
            subresource: Some(owner.subresource.clone()).filter(|s| !s.is_empty()),
            api_version: (owner.operation != "Apply").then(|| owner.api_version.clone()),
            field,
        }));
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }

    let mut merged = live_value.clone();
    merge(&mut merged, &applied, schema);
    let previous = owners.iter().position(|o| o.is(writer, "Apply"));
    if let Some(index) = previous {
        let mut dropped = owners[index].fields.clone();
        dropped.remove(&wanted);
        owners.iter().enumerate().filter(|(i, _)| *i != index).for_each(|(_, o)| dropped.remove(&o.fields));
        dropped.spare_holders_of(&wanted);
        let others = owners.iter().enumerate().filter(|(i, _)| *i != index);
        others.for_each(|(_, o)| dropped.spare_holders_of(&o.fields));
        dropped.erase_from(&mut merged);
    }
    match previous {
        Some(index) if owners[index].fields == wanted && owners[index].api_version == writer.api_version => {}
        Some(index) => {
            owners[index].fields = wanted;
            owners[index].time = writer.time.to_owned();
            owners[index].api_version = writer.api_version.to_owned();
        }
        None => owners.push(owner_of(writer, "Apply", wanted)),
    }
    write_owners(&mut merged, &owners);
    Ok(merged)
}

/// Records the owner of all that an ordinary write (create, replace, patch) changed.
pub fn track(old: Option<&Value>, new: &mut Value, schema: &Schema<'_>, writer: &Writer<'_>) {
    let (changed, removed) = match old {
        None => (FieldSet::of_new(new, schema), FieldSet::default()),
        Some(old) => FieldSet::changes(old, new, schema),
    };
    let (mut changed, removed) = (owned(changed), owned(removed));
    if old.is_none() {
        // A new object's status is the server's, whatever was sent.
        changed.forget(&["status"]);
    }
    // A client may rewrite the owners themselves, as kubectl does when an object moves to server-side apply.
    let given = old.is_some() && !meta::list(new, &["metadata", "managedFields"]).is_empty();
    let mut owners = read_owners(if given { new } else { old.unwrap_or(&Value::Null) });
    if changed.is_empty() && removed.is_empty() {
        write_owners(new, &owners);
        return;
    }
    for owner in &mut owners {
        owner.fields.remove(&removed);
        if !owner.is(writer, "Update") {
            owner.fields.remove(&changed);
        }
    }
    match owners.iter_mut().find(|o| o.is(writer, "Update")) {
        Some(owner) => {
            owner.fields.add(&changed);
            owner.time = writer.time.to_owned();
            owner.api_version = writer.api_version.to_owned();
        }
        None => owners.push(owner_of(writer, "Update", changed)),
    }
    write_owners(new, &owners);
}

fn owner_of(writer: &Writer<'_>, operation: &str, fields: FieldSet) -> Owner {
    Owner {
        manager: writer.manager.to_owned(),
        operation: operation.to_owned(),
        subresource: writer.subresource.unwrap_or_default().to_owned(),
        api_version: writer.api_version.to_owned(),
        time: writer.time.to_owned(),
        fields,
    }
}

/// Leaves out the fields that nobody owns because the server sets them.
fn owned(mut set: FieldSet) -> FieldSet {
    set.forget(&["apiVersion"]);
    set.forget(&["kind"]);
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ] {
        set.forget(&["metadata", field]);
    }
    set
}

fn merge(target: &mut Value, applied: &Value, schema: &Schema<'_>) {
    match applied {
        Value::Object(fields) if !schema.is_atomic_map() => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let own = target.as_object_mut().expect("made an object just above");
            for (name, value) in fields {
                merge(own.entry(name.clone()).or_insert(Value::Null), value, &schema.field(name));
            }
        }
        Value::Array(items) if target.is_array() => {
            let own = target.as_array_mut().expect("asked just above");
            match schema.list() {
                ListKind::Atomic => *own = items.clone(),
                ListKind::Set => {
                    for item in items {
                        if !own.contains(item) {
                            own.push(item.clone());
                        }
                    }
                }
                ListKind::Map(keys) => {
                    for item in items {
                        let key = item_key(item, &keys);
                        match own.iter_mut().find(|o| key.is_some() && item_key(o, &keys) == key) {
                            Some(found) => merge(found, item, &schema.item()),
                            None => own.push(item.clone()),
                        }
                    }
                }
            }
        }
        other => *target = other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "v1", subresource: None, time: "2026-01-01T00:00:00Z" }
    }

    fn config(data: Value) -> Value {
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":data})
    }

    #[test]
    fn two_managers_own_different_fields_in_peace() {
        let schema = Schema::builtin("v1", "ConfigMap");
        let one = apply(None, &config(json!({"a":"1"})), &schema, &writer("one"), false).unwrap();
        let both = apply(Some(&one), &config(json!({"b":"2"})), &schema, &writer("two"), false).unwrap();
        assert_eq!(both["data"], json!({"a":"1","b":"2"}));
        let without = apply(Some(&both), &config(json!({})), &schema, &writer("one"), false).unwrap();
        assert_eq!(without["data"], json!({"b":"2"}));
    }

    #[test]
    fn a_foreign_field_is_a_conflict_until_forced() {
        let schema = Schema::builtin("v1", "ConfigMap");
        let one = apply(None, &config(json!({"a":"1"})), &schema, &writer("one"), false).unwrap();
        let refused = apply(Some(&one), &config(json!({"a":"2"})), &schema, &writer("two"), false).unwrap_err();
        assert_eq!(refused[0].field, ".data.a");
        assert_eq!(refused[0].message(), "conflict with \"one\"");
        let forced = apply(Some(&one), &config(json!({"a":"2"})), &schema, &writer("two"), true).unwrap();
        assert_eq!(forced["data"]["a"], "2");
        assert_eq!(meta::list(&forced, &["metadata", "managedFields"]).len(), 1);
    }

    #[test]
    fn setting_the_same_value_shares_the_field() {
        let schema = Schema::builtin("v1", "ConfigMap");
        let one = apply(None, &config(json!({"a":"1"})), &schema, &writer("one"), false).unwrap();
        let two = apply(Some(&one), &config(json!({"a":"1"})), &schema, &writer("two"), false).unwrap();
        let left = apply(Some(&two), &config(json!({})), &schema, &writer("one"), false).unwrap();
        assert_eq!(left["data"]["a"], "1", "the other owner still holds it");
    }

    #[test]
    fn an_update_takes_the_field_over_so_that_the_next_apply_meets_it() {
        let schema = Schema::builtin("v1", "ConfigMap");
        let one = apply(None, &config(json!({"a":"1"})), &schema, &writer("one"), false).unwrap();
        let mut edited = one.clone();
        edited["data"]["a"] = json!("9");
        track(Some(&one), &mut edited, &schema, &writer("edit"));
        let refused = apply(Some(&edited), &config(json!({"a":"1"})), &schema, &writer("one"), false).unwrap_err();
        assert_eq!(refused[0].manager, "edit");
    }

    #[test]
    fn a_map_that_was_owned_itself_stays_for_what_is_still_in_it() {
        let schema = Schema::builtin("v1", "ConfigMap");
        let mut made = config(json!({"a":"1","b":"2"}));
        track(None, &mut made, &schema, &writer("kubectl"));
        // As kubectl does it when an object moves from updates to server-side apply.
        made["metadata"]["managedFields"][0]["operation"] = json!("Apply");
        let less = apply(Some(&made), &config(json!({"a":"1"})), &schema, &writer("kubectl"), false).unwrap();
        assert_eq!(less["data"], json!({"a":"1"}));
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let schema = Schema::builtin("v1", "ConfigMap");
        let one = apply(None, &config(json!({"a":"1"})), &schema, &writer("one"), false).unwrap();
        let later = Writer { time: "2027-01-01T00:00:00Z", ..writer("one") };
        assert_eq!(apply(Some(&one), &config(json!({"a":"1"})), &schema, &later, false).unwrap(), one);
    }
}
