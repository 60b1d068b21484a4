//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386).

use serde_json::{Map, Value};

/// Applies an RFC 6902 patch; nothing is changed when any operation fails.
///
/// # Errors
/// Says whether the patch cannot be read or which operation does not apply.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Unreadable(e.to_string()))?;
    json_patch::patch(target, &patch).map_err(|e| PatchError::DoesNotApply(e.to_string()))
}

/// Why a patch was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch is not of its format: 400.
    #[error("error decoding patch: {0}")]
    Unreadable(String),
    /// The patch is well formed but does not fit the object: 422.
    #[error("the server rejected our request due to an error in our request: {0}")]
    DoesNotApply(String),
}

/// Applies an RFC 7386 patch: null removes, objects merge, all else replaces.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("made an object just above");
    for (name, change) in changes {
        if change.is_null() {
            fields.shift_remove(name);
        } else {
            merge_patch(fields.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn merge_patch_follows_the_examples_of_its_rfc() {
        for (mut target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!(["a"]), json!({"a":"b"}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            merge_patch(&mut target, &patch);
            assert_eq!(target, result);
        }
    }

    #[test]
    fn a_failing_test_operation_leaves_the_object_as_it_was() {
        let mut target = json!({"a": 1});
        let patch = json!([{"op":"replace","path":"/a","value":2},{"op":"test","path":"/a","value":3}]);
        assert!(matches!(json_patch(&mut target, &patch), Err(PatchError::DoesNotApply(_))));
        assert_eq!(target, json!({"a": 1}));
    }

    /// JSON values without nulls, as stored objects are.
    pub(crate) fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_merge_patch_applied_twice_is_a_merge_patch_applied_once(mut target in values(), patch in values()) {
            merge_patch(&mut target, &patch);
            let once = target.clone();
            merge_patch(&mut target, &patch);
            prop_assert_eq!(once, target);
        }

        #[test]
        fn the_json_patch_between_two_values_turns_one_into_the_other(mut from in values(), to in values()) {
            let patch = serde_json::to_value(json_patch::diff(&from, &to)).unwrap();
            json_patch(&mut from, &patch).unwrap();
            prop_assert_eq!(from, to);
        }
    }
}
