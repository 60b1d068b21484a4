//! The part of JSON path that printer columns and scale subresources use.

use serde_json::Value;

use super::cell_text::shown;

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
    use serde_json::json;

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
}
