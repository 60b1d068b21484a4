//! Structural schemas of CustomResourceDefinitions: defaulting, pruning and validation.
//!
//! CEL rules (`x-kubernetes-validations`) are not evaluated here.

use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value};

/// A schema with its patterns compiled once.
#[derive(Debug)]
pub struct StructuralSchema {
    root: Value,
    patterns: HashMap<String, Regex>,
}

/// One thing wrong with a custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Field, as `spec.replicas`.
    pub field: String,
    /// `FieldValueInvalid`, `FieldValueRequired` or `FieldValueNotSupported`.
    pub reason: &'static str,
    /// What is wrong, in the API server's words.
    pub message: String,
}

impl FieldProblem {
    fn invalid(field: &str, value: &Value, why: impl std::fmt::Display) -> Self {
        FieldProblem {
            field: field.to_owned(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {}: {why}", shown(value)),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "\"object\"".to_owned(),
        Value::Array(_) => "\"array\"".to_owned(),
        other => other.to_string(),
    }
}

impl StructuralSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Names a pattern that is no regular expression.
    pub fn new(root: Value) -> Result<Self, String> {
        let mut patterns = HashMap::new();
        collect_patterns(&root, &mut patterns)?;
        Ok(StructuralSchema { root, patterns })
    }

    /// The schema as it was given.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Fills defaults in.
    pub fn default(&self, object: &mut Value) {
        fill_defaults(object, &self.root);
    }

    /// Removes what the schema does not know and names it; `apiVersion`, `kind` and `metadata` always stay.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(object, &self.root, "", true, &mut unknown);
        unknown
    }

    /// All problems of an object, in the order of its fields.
    pub fn validate(&self, object: &Value) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        self.check(object, &self.root, "", true, &mut problems);
        problems
    }

    fn check(&self, value: &Value, schema: &Value, path: &str, root: bool, out: &mut Vec<FieldProblem>) {
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        if !type_fits(value, schema) {
            let wanted = schema["type"].as_str().unwrap_or_default();
            let is = type_name(value);
            out.push(FieldProblem::invalid(
                path,
                &Value::from(is),
                format!("{path} in body must be of type {wanted}: \"{is}\""),
            ));
            return;
        }
        self.check_value(value, schema, path, out);
        match value {
            Value::Object(fields) => {
                for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !fields.contains_key(name) {
                        out.push(FieldProblem {
                            field: joined(path, name),
                            reason: "FieldValueRequired",
                            message: "Required value".to_owned(),
                        });
                    }
                }
                for (name, below) in fields {
                    if root && matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                        continue;
                    }
                    let place = joined(path, name);
                    if let Some(inner) = schema["properties"].get(name) {
                        self.check(below, inner, &place, false, out);
                    } else if let Some(inner) = schema.get("additionalProperties").filter(|a| a.is_object()) {
                        self.check(below, inner, &place, false, out);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(inner) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.check(item, inner, &format!("{path}[{index}]"), false, out);
                    }
                }
            }
            _ => {}
        }
        self.check_logic(value, schema, path, out);
    }

    fn check_value(&self, value: &Value, schema: &Value, path: &str, out: &mut Vec<FieldProblem>) {
        if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
            let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
            out.push(FieldProblem {
                field: path.to_owned(),
                reason: "FieldValueNotSupported",
                message: format!("Unsupported value: {value}: supported values: {}", names.join(", ")),
            });
        }
        let mut wrong = |why: String| out.push(FieldProblem::invalid(path, value, why));
        if let Some(number) = value.as_f64() {
            if let Some(least) = schema["minimum"].as_f64() {
                let open = schema["exclusiveMinimum"] == true;
                if number < least || (open && number == least) {
                    wrong(format!(
                        "{path} in body should be greater than {}{least}",
                        if open { "" } else { "or equal to " }
                    ));
                }
            }
            if let Some(most) = schema["maximum"].as_f64() {
                let open = schema["exclusiveMaximum"] == true;
                if number > most || (open && number == most) {
                    wrong(format!(
                        "{path} in body should be less than {}{most}",
                        if open { "" } else { "or equal to " }
                    ));
                }
            }
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as u64;
            if schema["minLength"].as_u64().is_some_and(|least| length < least) {
                wrong(format!("{path} in body should be at least {} chars long", schema["minLength"]));
            }
            if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
                wrong(format!("{path} in body should be at most {} chars long", schema["maxLength"]));
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && self.patterns.get(pattern).is_some_and(|regex| !regex.is_match(text))
            {
                wrong(format!("{path} in body should match '{pattern}'"));
            }
            if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
                wrong(format!("{path} in body must be of type date-time: \"{text}\""));
            }
        }
        let size = value.as_array().map(Vec::len).or_else(|| value.as_object().map(Map::len));
        let (least, most) =
            if value.is_array() { ("minItems", "maxItems") } else { ("minProperties", "maxProperties") };
        if let Some(size) = size {
            if schema[least].as_u64().is_some_and(|n| (size as u64) < n) {
                wrong(format!("{path} in body should have at least {} items", schema[least]));
            }
            if schema[most].as_u64().is_some_and(|n| (size as u64) > n) {
                wrong(format!("{path} in body should have at most {} items", schema[most]));
            }
        }
    }

    fn check_logic(&self, value: &Value, schema: &Value, path: &str, out: &mut Vec<FieldProblem>) {
        let passes = |inner: &Value| {
            let mut problems = Vec::new();
            self.check(value, inner, path, path.is_empty(), &mut problems);
            problems.is_empty()
        };
        for inner in schema["allOf"].as_array().into_iter().flatten() {
            self.check(value, inner, path, path.is_empty(), out);
        }
        let mut wrong = |why: &str| out.push(FieldProblem::invalid(path, value, format!("{path} in body {why}")));
        if let Some(options) = schema["anyOf"].as_array().filter(|options| !options.iter().any(passes)) {
            let _ = options;
            wrong("must validate at least one schema (anyOf)");
        }
        if let Some(options) = schema["oneOf"].as_array()
            && options.iter().filter(|o| passes(o)).count() != 1
        {
            wrong("must validate one and only one schema (oneOf)");
        }
        if schema.get("not").is_some_and(passes) {
            wrong("must not validate the schema (not)");
        }
    }
}

fn collect_patterns(schema: &Value, patterns: &mut HashMap<String, Regex>) -> Result<(), String> {
    match schema {
        Value::Object(fields) => {
            if let Some(pattern) = fields.get("pattern").and_then(Value::as_str) {
                let regex = Regex::new(pattern).map_err(|e| format!("pattern {pattern:?}: {e}"))?;
                patterns.insert(pattern.to_owned(), regex);
            }
            fields.values().try_for_each(|v| collect_patterns(v, patterns))
        }
        Value::Array(items) => items.iter().try_for_each(|v| collect_patterns(v, patterns)),
        _ => Ok(()),
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_fits(value: &Value, schema: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema["type"].as_str() {
        None => true,
        Some("number") => value.is_number(),
        Some("integer") => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        Some(wanted) => type_name(value) == wanted,
    }
}

fn fill_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                let absent = match fields.get(name) {
                    None => true,
                    Some(Value::Null) => inner["nullable"] != true,
                    Some(_) => false,
                };
                if absent && let Some(default) = inner.get("default") {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(below) = fields.get_mut(name) {
                    fill_defaults(below, inner);
                }
            }
            if let Some(inner) = schema.get("additionalProperties").filter(|a| a.is_object()) {
                let known = schema["properties"].as_object();
                for (name, below) in fields.iter_mut() {
                    if !known.is_some_and(|k| k.contains_key(name)) {
                        fill_defaults(below, inner);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| fill_defaults(item, inner));
            }
        }
        _ => {}
    }
}

fn prune(value: &mut Value, schema: &Value, path: &str, root: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
            let extra = schema.get("additionalProperties").filter(|a| **a != Value::Bool(false));
            let embedded = root || schema["x-kubernetes-embedded-resource"] == true;
            let is_typed = |name: &str| embedded && matches!(name, "metadata" | "apiVersion" | "kind");
            fields.retain(|name, below| {
                if is_typed(name) {
                    return true;
                }
                if let Some(inner) = schema["properties"].get(name) {
                    prune(below, inner, &joined(path, name), false, unknown);
                    // An absent value and null mean the same where the schema does not allow null.
                    return !below.is_null() || inner["nullable"] == true;
                }
                if let Some(inner) = extra {
                    prune(below, inner, &joined(path, name), false, unknown);
                    return true;
                }
                if !keeps {
                    unknown.push(joined(path, name));
                }
                keeps
            });
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(item, inner, &format!("{path}[{index}]"), false, unknown);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> StructuralSchema {
        StructuralSchema::new(json!({
            "type": "object",
            "required": ["spec"],
            "properties": {"spec": {
                "type": "object",
                "required": ["color"],
                "properties": {
                    "color": {"type": "string", "enum": ["red", "blue"]},
                    "size": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
                    "code": {"type": "string", "pattern": "^[a-z]+$"},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "port": {"x-kubernetes-int-or-string": true}
                }
            }}
        }))
        .unwrap()
    }

    #[test]
    fn defaults_are_filled_and_unknown_fields_pruned() {
        let mut object = json!({"apiVersion":"a/v1","kind":"K","metadata":{"name":"x","anything":1},
            "spec":{"color":"red","unknown":true,"free":{"kept":1}}, "other": 1});
        let schema = schema();
        schema.prune(&mut object);
        schema.default(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion":"a/v1","kind":"K","metadata":{"name":"x","anything":1},
                   "spec":{"color":"red","free":{"kept":1},"size":2}})
        );
    }

    #[test]
    fn every_problem_is_named_with_its_field() {
        let problems = schema().validate(&json!({"spec":{"color":"green","size":9,"code":"A1","port":"http"}}));
        let found: Vec<(&str, &str)> = problems.iter().map(|p| (p.field.as_str(), p.reason)).collect();
        assert_eq!(
            found,
            [
                ("spec.color", "FieldValueNotSupported"),
                ("spec.size", "FieldValueInvalid"),
                ("spec.code", "FieldValueInvalid")
            ]
        );
        assert_eq!(schema().validate(&json!({}))[0].field, "spec");
        assert_eq!(
            schema().validate(&json!({"spec":{"color":1}}))[0].message,
            "Invalid value: \"integer\": spec.color in body must be of type string: \"integer\""
        );
    }
}
