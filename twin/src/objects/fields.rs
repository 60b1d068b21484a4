//! Sets of field paths, as `metadata.managedFields[].fieldsV1` writes them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::{ListKind, Schema, item_key};

/// A set of field paths, kept as a tree. Steps are `f:name`, `k:{...}` (list item by key) and `v:...` (set item).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads `fieldsV1`; steps that cannot be understood are kept and match nothing.
    pub fn from_json(value: &Value) -> Self {
        let Some(fields) = value.as_object() else { return FieldSet::default() };
        let mut set = FieldSet { member: fields.is_empty(), children: BTreeMap::new() };
        for (step, below) in fields {
            if step == "." {
                set.member = true;
            } else {
                set.children.insert(step.clone(), FieldSet::from_json(below));
            }
        }
        set
    }

    /// Reads the root of `fieldsV1`, which is never a member itself.
    pub fn root_from_json(value: &Value) -> Self {
        FieldSet { member: false, ..FieldSet::from_json(value) }
    }

    /// Writes `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, below) in &self.children {
            fields.insert(step.clone(), below.to_json());
        }
        Value::Object(fields)
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// All paths that a value sets.
    pub fn of(value: &Value, schema: &Schema<'_>) -> Self {
        let mut set = FieldSet::default();
        set.collect(value, schema, false);
        set
    }

    /// All paths that a write of a new object sets: maps and lists count themselves as well.
    pub fn of_new(value: &Value, schema: &Schema<'_>) -> Self {
        let mut set = FieldSet::default();
        set.collect(value, schema, true);
        set
    }

    fn collect(&mut self, value: &Value, schema: &Schema<'_>, counts_itself: bool) {
        if counts_itself && schema.is_counted_itself() {
            self.member = true;
        }
        match value {
            Value::Object(fields) if !fields.is_empty() && !schema.is_atomic_map() => {
                for (name, below) in fields {
                    self.child(format!("f:{name}")).collect(below, &schema.field(name), counts_itself);
                }
            }
            Value::Array(items) if !items.is_empty() => match schema.list() {
                ListKind::Atomic => self.member = true,
                ListKind::Set => {
                    for item in items {
                        self.child(format!("v:{item}")).member = true;
                    }
                }
                ListKind::Map(keys) => {
                    for item in items {
                        if let Some(key) = item_key(item, &keys) {
                            let child = self.child(format!("k:{key}"));
                            child.member = true;
                            child.collect(item, &schema.item(), counts_itself);
                        }
                    }
                }
            },
            _ => self.member = true,
        }
    }

    fn child(&mut self, step: String) -> &mut FieldSet {
        self.children.entry(step).or_default()
    }

    /// Removes a top-level path such as `["metadata", "name"]`.
    pub fn forget(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let step = format!("f:{first}");
        if rest.is_empty() {
            self.children.remove(&step);
        } else if let Some(below) = self.children.get_mut(&step) {
            below.forget(rest);
            if below.is_empty() {
                self.children.remove(&step);
            }
        }
    }

    /// Adds all paths of the other set.
    pub fn add(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (step, below) in &other.children {
            self.children.entry(step.clone()).or_default().add(below);
        }
    }

    /// Removes all paths of the other set.
    pub fn remove(&mut self, other: &FieldSet) {
        if other.member {
            self.member = false;
        }
        for (step, below) in &other.children {
            if let Some(own) = self.children.get_mut(step) {
                own.remove(below);
                if own.is_empty() {
                    self.children.remove(step);
                }
            }
        }
    }

    /// Takes out of this set the maps and lists that hold something of the other set: what is kept in them keeps them.
    pub fn spare_holders_of(&mut self, kept: &FieldSet) {
        for (step, below) in &mut self.children {
            if let Some(theirs) = kept.children.get(step).filter(|t| !t.is_empty()) {
                below.member = false;
                below.spare_holders_of(theirs);
            }
        }
    }

    /// The paths that both sets hold.
    pub fn common(&self, other: &FieldSet) -> FieldSet {
        let mut set = FieldSet { member: self.member && other.member, children: BTreeMap::new() };
        for (step, below) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let both = below.common(theirs);
                if !both.is_empty() {
                    set.children.insert(step.clone(), both);
                }
            }
        }
        set
    }

    /// The paths of this set whose value differs between two objects, written as `.spec.replicas`.
    pub fn differing(&self, left: &Value, right: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.walk_differing(Some(left), Some(right), String::new(), &mut found);
        found
    }

    fn walk_differing(&self, left: Option<&Value>, right: Option<&Value>, path: String, found: &mut Vec<String>) {
        if self.member && self.children.is_empty() && left != right {
            found.push(path);
            return;
        }
        for (step, below) in &self.children {
            below.walk_differing(
                left.and_then(|v| step_into(v, step)),
                right.and_then(|v| step_into(v, step)),
                format!("{path}{}", readable(step)),
                found,
            );
        }
    }

    /// Drops the paths given in the readable form of [`FieldSet::differing`].
    pub fn drop_readable(&mut self, paths: &[String]) {
        self.drop_below("", paths);
    }

    fn drop_below(&mut self, at: &str, paths: &[String]) {
        self.children.retain(|step, below| {
            let path = format!("{at}{}", readable(step));
            if paths.contains(&path) {
                below.member = false;
            }
            below.drop_below(&path, paths);
            !below.is_empty()
        });
    }

    /// Removes the fields of this set from a value; maps and lists that became empty by it go too.
    pub fn erase_from(&self, value: &mut Value) {
        for (step, below) in &self.children {
            if let Some(name) = step.strip_prefix("f:") {
                let Some(fields) = value.as_object_mut() else { continue };
                if below.member {
                    fields.shift_remove(name);
                } else if let Some(inner) = fields.get_mut(name) {
                    below.erase_from(inner);
                    let emptied = match inner {
                        Value::Object(o) => o.is_empty(),
                        Value::Array(a) => a.is_empty(),
                        _ => false,
                    };
                    if emptied {
                        fields.shift_remove(name);
                    }
                }
            } else if let Some(items) = value.as_array_mut() {
                let Some(index) = items.iter().position(|item| is_item(item, step)) else { continue };
                if below.member {
                    items.remove(index);
                } else {
                    below.erase_from(&mut items[index]);
                }
            }
        }
    }

    /// Paths that were added or changed, and paths that were removed, between two versions of an object.
    pub fn changes(old: &Value, new: &Value, schema: &Schema<'_>) -> (FieldSet, FieldSet) {
        let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
        walk_changes(old, new, schema, &mut changed, &mut removed);
        changed.prune();
        removed.prune();
        (changed, removed)
    }

    fn prune(&mut self) {
        self.children.retain(|_, below| {
            below.prune();
            !below.is_empty()
        });
    }
}

fn walk_changes(old: &Value, new: &Value, schema: &Schema<'_>, changed: &mut FieldSet, removed: &mut FieldSet) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) if !schema.is_atomic_map() => {
            for (name, value) in after {
                match before.get(name) {
                    Some(previous) if previous == value => {}
                    Some(previous) => {
                        let step = format!("f:{name}");
                        walk_changes(
                            previous,
                            value,
                            &schema.field(name),
                            changed.child(step.clone()),
                            removed.child(step),
                        );
                    }
                    None => changed.child(format!("f:{name}")).collect(value, &schema.field(name), true),
                }
            }
            for (name, value) in before {
                if !after.contains_key(name) {
                    removed.child(format!("f:{name}")).collect(value, &schema.field(name), true);
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => match schema.list() {
            ListKind::Atomic => changed.member = true,
            ListKind::Set => {
                after
                    .iter()
                    .filter(|v| !before.contains(v))
                    .for_each(|v| changed.child(format!("v:{v}")).member = true);
                before
                    .iter()
                    .filter(|v| !after.contains(v))
                    .for_each(|v| removed.child(format!("v:{v}")).member = true);
            }
            ListKind::Map(keys) => {
                let find = |items: &'_ [Value], key: &str| {
                    items.iter().position(|i| item_key(i, &keys).as_deref() == Some(key))
                };
                for item in after {
                    let Some(key) = item_key(item, &keys) else { continue };
                    let step = format!("k:{key}");
                    match find(before, &key) {
                        Some(at) => walk_changes(
                            &before[at],
                            item,
                            &schema.item(),
                            changed.child(step.clone()),
                            removed.child(step),
                        ),
                        None => {
                            let child = changed.child(step);
                            child.member = true;
                            child.collect(item, &schema.item(), true);
                        }
                    }
                }
                for item in before {
                    let Some(key) = item_key(item, &keys) else { continue };
                    if find(after, &key).is_none() {
                        let child = removed.child(format!("k:{key}"));
                        child.member = true;
                        child.collect(item, &schema.item(), true);
                    }
                }
            }
        },
        _ => {
            let after = FieldSet::of(new, schema);
            let mut gone = FieldSet::of(old, schema);
            gone.remove(&after);
            removed.add(&gone);
            changed.add(&after);
        }
    }
}

fn step_into<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    match step.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => value.as_array()?.iter().find(|item| is_item(item, step)),
    }
}

fn is_item(item: &Value, step: &str) -> bool {
    if let Some(wanted) = step.strip_prefix("v:") {
        return serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *item);
    }
    let Some(Ok(Value::Object(keys))) = step.strip_prefix("k:").map(serde_json::from_str::<Value>) else {
        return false;
    };
    keys.iter().all(|(name, wanted)| match item.get(name) {
        Some(value) => value == wanted,
        None => name == "protocol" && wanted == "TCP",
    })
}

fn readable(step: &str) -> String {
    if let Some(name) = step.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = step.strip_prefix("v:") {
        return format!("[={value}]");
    }
    match step.strip_prefix("k:").map(serde_json::from_str::<Value>) {
        Some(Ok(Value::Object(keys))) => {
            let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", pairs.join(","))
        }
        _ => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_is_written_as_fields_v1_and_read_back() {
        let pod = json!({"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}});
        let set = FieldSet::of(&pod, &Schema::builtin("v1", "Pod"));
        let written = set.to_json();
        assert_eq!(
            written,
            json!({"f:metadata":{"f:labels":{"f:a":{}}},
                   "f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}})
        );
        assert_eq!(FieldSet::root_from_json(&written), set);
    }

    #[test]
    fn changes_name_what_was_set_and_what_went() {
        let old = json!({"data":{"a":"1","b":"2"}});
        let new = json!({"data":{"a":"3","c":"4"}});
        let (changed, removed) = FieldSet::changes(&old, &new, &Schema::builtin("v1", "ConfigMap"));
        assert_eq!(changed.to_json(), json!({"f:data":{"f:a":{},"f:c":{}}}));
        assert_eq!(removed.to_json(), json!({"f:data":{"f:b":{}}}));
    }

    #[test]
    fn erasing_a_list_item_leaves_its_neighbours() {
        let mut pod = json!({"spec":{"containers":[{"name":"a"},{"name":"b"}]}});
        FieldSet::root_from_json(&json!({"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:name":{}}}}}))
            .erase_from(&mut pod);
        assert_eq!(pod, json!({"spec":{"containers":[{"name":"b"}]}}));
    }
}
