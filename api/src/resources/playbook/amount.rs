//! A number of things, or a share of them: `3` or `40%`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of things, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u8),
}

impl Default for Amount {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl Amount {
    /// The amount of `total`, rounded down but at least one (for what may be missing).
    pub fn of_at_least_one(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(0) => 0,
            Self::Percent(percent) => (total * usize::from(percent) / 100).max(1),
        }
    }

    /// The amount of `total`, rounded up (for what must be there).
    pub fn of_rounded_up(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;
        impl serde::de::Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a percentage from 0% to 100%")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Amount, E> {
                u32::try_from(value).map(Amount::Count).map_err(|_| E::custom(format!("{value} is too many")))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Amount, E> {
                u64::try_from(value)
                    .map_err(|_| E::custom(format!("{value} is negative")))
                    .and_then(|v| self.visit_u64(v))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Amount, E> {
                let wrong = || E::custom(format!("`{text}` is neither a number nor a percentage from 0% to 100%"));
                match text.strip_suffix('%') {
                    Some(digits) => match digits.parse::<u8>() {
                        Ok(percent) if percent <= 100 => Ok(Amount::Percent(percent)),
                        _ => Err(wrong()),
                    },
                    None => text.parse().map(Amount::Count).map_err(|_| wrong()),
                }
            }
        }
        deserializer.deserialize_any(AmountVisitor)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-int-or-string": true})
    }
}
