//! Label and field selectors as they appear in query strings and in objects.

use serde_json::Value;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// A label selector; the empty one fits everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Parses the query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// Says which part cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in split_outside_brackets(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            requirements.push(parse_requirement(part)?);
        }
        Ok(LabelSelector(requirements))
    }

    /// Reads the object form, with `matchLabels` and `matchExpressions`. Nothing selects nothing: `None`.
    pub fn from_object(selector: Option<&Value>) -> Option<Self> {
        let selector = selector?.as_object()?;
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.as_str()?.to_owned()]));
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values = expression["values"]
                .as_array()
                .map(|v| v.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
                .unwrap_or_default();
            requirements.push(match expression["operator"].as_str()? {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                _ => return None,
            });
        }
        Some(LabelSelector(requirements))
    }

    /// Reads a plain map such as a Service's `spec.selector`.
    pub fn from_map(selector: Option<&Value>) -> Option<Self> {
        let map = selector?.as_object().filter(|m| !m.is_empty())?;
        let requirements = map
            .iter()
            .map(|(k, v)| Some(Requirement::In(k.clone(), vec![v.as_str()?.to_owned()])))
            .collect::<Option<Vec<_>>>()?;
        Some(LabelSelector(requirements))
    }

    /// Whether it has no requirement at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether labels, looked up by key, fit.
    pub fn fits<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        })
    }
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(label_key(key)?));
    }
    for (word, is_in) in [(" notin ", false), (" in ", true)] {
        if let Some((key, values)) = part.split_once(word) {
            let inner = values
                .trim()
                .strip_prefix('(')
                .and_then(|v| v.strip_suffix(')'))
                .ok_or_else(|| format!("unable to parse requirement: found '{values}', expected: '('"))?;
            let values = inner.split(',').map(|v| v.trim().to_owned()).collect();
            let key = label_key(key)?;
            return Ok(if is_in { Requirement::In(key, values) } else { Requirement::NotIn(key, values) });
        }
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(label_key(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(label_key(key)?, vec![value.trim().to_owned()]));
    }
    Ok(Requirement::Exists(label_key(part)?))
}

fn label_key(key: &str) -> Result<String, String> {
    let key = key.trim();
    let fine = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if fine { Ok(key.to_owned()) } else { Err(format!("unable to parse requirement: invalid label key \"{key}\"")) }
}

/// A field selector: `path=value` and `path!=value`, joined by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Whether it has no requirement at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses the query form and checks each path against the ones the kind offers.
    ///
    /// # Errors
    /// An unknown path gives the API server's own words.
    pub fn parse(text: &str, offered: &[String]) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(format!("invalid selector: '{part}'; can't understand '{part}'"));
            };
            let path = path.trim();
            if !matches!(path, "metadata.name" | "metadata.namespace") && !offered.iter().any(|o| o == path) {
                return Err(match offered {
                    [] => format!(
                        "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    ),
                    _ => format!("field label not supported: {path}"),
                });
            }
            terms.push((path.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(FieldSelector(terms))
    }

    /// Whether fields, looked up by path, fit. An absent field reads as the empty string.
    pub fn fits<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|(path, equal, value)| (field(path) == value) == *equal)
    }

    /// The name that the selector pins, if it pins one.
    pub fn pinned_name(&self) -> Option<&str> {
        self.0.iter().find(|(path, equal, _)| path == "metadata.name" && *equal).map(|(_, _, v)| v.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn fits(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        LabelSelector::parse(selector).unwrap().fits(|k| labels.get(k).copied())
    }

    #[test]
    fn label_selectors_read_every_form() {
        let labels = [("app", "shop"), ("tier", "web")];
        for yes in ["", "app=shop", "app==shop,tier", "app in (shop, other),!gone", "tier notin (db)", "x!=y"] {
            assert!(fits(yes, &labels), "{yes}");
        }
        for no in ["app=other", "gone", "!app", "app notin (shop)", "tier in (db)"] {
            assert!(!fits(no, &labels), "{no}");
        }
        assert!(LabelSelector::parse("a in b").is_err());
    }

    #[test]
    fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
        assert!(LabelSelector::from_object(None).is_none());
        assert!(LabelSelector::from_object(Some(&json!({}))).unwrap().fits(|_| None));
    }

    #[test]
    fn a_field_that_the_kind_does_not_offer_is_refused() {
        assert!(FieldSelector::parse("spec.nodeName=a", &["spec.nodeName".into()]).is_ok());
        let offered = ["spec.nodeName".to_owned()];
        assert_eq!(
            FieldSelector::parse("spec.color=a", &offered).unwrap_err(),
            "field label not supported: spec.color"
        );
    }
}
