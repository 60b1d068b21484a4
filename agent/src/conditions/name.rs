//! Type of a Node condition: a kind of the taxonomy, or a name that a rule of the user's gives.

use std::{collections::BTreeSet, fmt};

use evergreen_api::ProblemKind;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name: the annotation with the trace of a condition is `traceparent.<name>` and has at most 63 characters.
pub const MAX_NAME: usize = 50;
/// Names that are kept apart; behind that, further ones are told as `Custom`.
const MAX_NAMES: usize = 4096;

/// Type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// A kind of the taxonomy.
    Kind(ProblemKind),
    /// A name that is in no taxonomy; its kind is `Custom`.
    Named(&'static str),
}

impl ConditionType {
    /// The type of this name: a kind when there is one of that name.
    pub fn named(name: &str) -> Self {
        if let Ok(kind) = name.parse::<ProblemKind>() {
            return Self::Kind(kind);
        }
        // Rules have few names and keep them, so each is kept for good once; that makes the type one word that is copied.
        static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut names = NAMES.lock();
        if let Some(known) = names.get(name) {
            return Self::Named(known);
        }
        if names.len() >= MAX_NAMES || !Self::is_valid(name) {
            return Self::Kind(ProblemKind::Custom);
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        names.insert(kept);
        Self::Named(kept)
    }

    /// Whether a name may be the type of a condition: letters and digits, a letter first.
    pub fn is_valid(name: &str) -> bool {
        name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric())
    }

    /// Kind in the taxonomy.
    pub fn kind(self) -> ProblemKind {
        match self {
            Self::Kind(kind) => kind,
            Self::Named(_) => ProblemKind::Custom,
        }
    }

    /// The name, where it is in no taxonomy.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Kind(_) => None,
            Self::Named(name) => Some(name),
        }
    }

    /// Type as the Node shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.condition_type(),
            Self::Named(name) => name,
        }
    }
}

impl From<ProblemKind> for ConditionType {
    fn from(kind: ProblemKind) -> Self {
        Self::Kind(kind)
    }
}

impl PartialEq<ProblemKind> for ConditionType {
    fn eq(&self, kind: &ProblemKind) -> bool {
        *self == Self::Kind(*kind)
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ConditionType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ConditionType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::named(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_keeps_its_place_in_the_taxonomy_and_any_other_name_is_custom() {
        assert_eq!(ConditionType::named("KernelDeadlock"), ProblemKind::KernelDeadlock);
        let name = ConditionType::named("CorruptDockerOverlay2");
        assert_eq!((name.kind(), name.as_str()), (ProblemKind::Custom, "CorruptDockerOverlay2"));
        assert_eq!(serde_json::from_value::<ConditionType>(serde_json::to_value(name).unwrap()).unwrap(), name);
    }

    #[test]
    fn what_cannot_be_the_type_of_a_condition_is_told_as_custom() {
        for name in ["", "a b", "9lives", "x/y", &"x".repeat(51)] {
            assert_eq!(ConditionType::named(name), ProblemKind::Custom, "{name}");
        }
    }
}
