//! Where in a file each field stands: rules speak of paths (`spec.steps[2].wait.until`), people of lines and columns.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

/// A document with the location of every node.
#[derive(Debug)]
pub(crate) struct Tree {
    value: Value,
}

#[derive(Debug)]
enum Value {
    Scalar,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(|value| Self { value })
    }
}

struct TreeVisitor;

macro_rules! scalars {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E>(self, _: $type) -> Result<Value, E> { Ok(Value::Scalar) })*
    };
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    scalars! {
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
        visit_str: &str, visit_bytes: &[u8]
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let _: (IgnoredAny, _) = data.variant()?;
        Ok(Value::Scalar)
    }
}

/// Where the value at a path begins; when the path leads nowhere, where its nearest ancestor's name stands.
pub(crate) fn locate(root: &Spanned<Tree>, path: &str) -> Location {
    let (mut at, mut name) = (root, root.referenced);
    for part in parts(path) {
        let next = match (&at.value.value, part) {
            (Value::Map(entries), Part::Key(key)) => {
                entries.iter().find(|(name, _)| name.value == key).map(|(name, value)| (name.referenced, value))
            }
            (Value::List(items), Part::Index(index)) => items.get(index).map(|item| (item.referenced, item)),
            _ => None,
        };
        match next {
            Some((location, value)) => (name, at) = (location, value),
            None => return name,
        }
    }
    match at.value.value {
        Value::Scalar => at.referenced,
        _ => name,
    }
}

enum Part<'a> {
    Key(&'a str),
    Index(usize),
}

fn parts(path: &str) -> impl Iterator<Item = Part<'_>> {
    path.split('.').flat_map(|segment| {
        let (key, indices) = segment.split_once('[').unwrap_or((segment, ""));
        let indices = indices
            .split('[')
            .filter_map(|index| index.trim_end_matches(']').parse().ok())
            .map(Part::Index)
            .collect::<Vec<_>>();
        std::iter::once(Part::Key(key)).chain(indices)
    })
}
