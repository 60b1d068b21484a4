//! How objects are shaped for a client: in full, as metadata only, or as rows of a table.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::registry::Resource;
use super::server::{head_of, served, served_value, to_bytes};
use super::store::Entry;
use super::table::table;

/// What a table row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowObject {
    /// Nothing.
    None,
    /// Metadata.
    Metadata,
    /// The whole object.
    Object,
}

/// The shape that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Full,
    /// PartialObjectMetadata.
    Metadata,
    /// Table.
    Table(RowObject),
}

impl Shape {
    /// Reads the Accept header and the `includeObject` parameter; the first form that is known wins.
    pub fn from_accept(accept: &str, include_object: Option<&str>) -> Shape {
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let as_what = parts.find_map(|p| p.strip_prefix("as="));
            match (kind, as_what) {
                ("application/json", Some("Table")) => {
                    return Shape::Table(match include_object {
                        Some("None") => RowObject::None,
                        Some("Object") => RowObject::Object,
                        _ => RowObject::Metadata,
                    });
                }
                ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                    return Shape::Metadata;
                }
                ("application/json" | "*/*" | "application/*", None) => return Shape::Full,
                _ => {}
            }
        }
        Shape::Full
    }

    /// One object.
    pub fn one(self, resource: &Resource, entry: &Entry, now: Timestamp) -> Bytes {
        match self {
            Shape::Full => served(resource, entry),
            Shape::Metadata => to_bytes(&metadata_only(&served_value(resource, entry))),
            Shape::Table(include) => {
                let metadata = json!({"resourceVersion": entry.version.to_string()});
                to_bytes(&table(resource, &[served_value(resource, entry)], include, metadata, now))
            }
        }
    }

    /// A list.
    pub fn many(self, resource: &Resource, entries: &[Arc<Entry>], metadata: Value, now: Timestamp) -> Bytes {
        match self {
            Shape::Table(include) => {
                let values: Vec<Value> = entries.iter().map(|e| served_value(resource, e)).collect();
                to_bytes(&table(resource, &values, include, metadata, now))
            }
            Shape::Full | Shape::Metadata => {
                let (api_version, kind) = match self {
                    Shape::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
                    _ => (resource.api_version(), resource.list_kind.clone()),
                };
                // Items of built-in kinds do not say again what the list says.
                let head_of_item = match (self, &resource.custom) {
                    (Shape::Full, None) => head_of(resource),
                    _ => "nothing".to_owned(),
                };
                let mut out = Vec::with_capacity(128 + entries.iter().map(|e| e.bytes.len() + 1).sum::<usize>());
                let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string();
                out.extend_from_slice(head.trim_end_matches('}').as_bytes());
                // The head ends in the metadata's own brace, trimmed along with the list's.
                out.extend_from_slice(b"},\"items\":[");
                for (index, entry) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    let one = self.one(resource, entry, now);
                    match one.strip_prefix(head_of_item.as_bytes()) {
                        Some(rest) => {
                            out.push(b'{');
                            out.extend_from_slice(rest);
                        }
                        None => out.extend_from_slice(&one),
                    }
                }
                out.extend_from_slice(b"]}");
                out.into()
            }
        }
    }
}

pub(super) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_chooses_the_shape() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Shape::from_accept(kubectl, None), Shape::Table(RowObject::Metadata));
        assert_eq!(
            Shape::from_accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", None),
            Shape::Metadata
        );
        assert_eq!(Shape::from_accept("application/json, */*", None), Shape::Full);
    }
}
