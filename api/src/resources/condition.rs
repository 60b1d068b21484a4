//! Status conditions, in the standard shape.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// True, False or Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// One condition of a resource, as Kubernetes defines them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, as in `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Generation of the spec that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status last changed, RFC 3339.
    pub last_transition_time: String,
    /// One word, in CamelCase.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

/// Sets a condition; its transition time moves only when its status changes. Returns whether anything changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &str,
) -> bool {
    let fresh = Condition {
        type_: type_.to_owned(),
        status,
        observed_generation: generation,
        last_transition_time: now.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(known) => {
            let transition = if known.status == status {
                known.last_transition_time.clone()
            } else {
                fresh.last_transition_time.clone()
            };
            let fresh = Condition { last_transition_time: transition, ..fresh };
            let changed = *known != fresh;
            *known = fresh;
            changed
        }
        None => {
            conditions.push(fresh);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, "Ready", ConditionStatus::True, "Ok", "fine", Some(1), "t1"));
        assert!(!set_condition(&mut conditions, "Ready", ConditionStatus::True, "Ok", "fine", Some(1), "t2"));
        assert!(set_condition(&mut conditions, "Ready", ConditionStatus::True, "Ok", "still fine", Some(1), "t3"));
        assert_eq!(conditions[0].last_transition_time, "t1");
        assert!(set_condition(&mut conditions, "Ready", ConditionStatus::False, "Bad", "not fine", Some(1), "t4"));
        assert_eq!(conditions[0].last_transition_time, "t4");
    }
}
