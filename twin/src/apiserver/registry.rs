//! Which resources are served, and what is special about each.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use super::builtin;
use crate::objects::kinds::Message;
use crate::objects::schema::Schema;
use crate::objects::structural::StructuralSchema;

/// A column that a CRD adds to tables.
#[derive(Debug, Clone)]
pub struct PrinterColumn {
    /// Header.
    pub name: String,
    /// OpenAPI type.
    pub kind: String,
    /// What it shows.
    pub description: String,
    /// 0 is shown always, more only in the wide output.
    pub priority: i64,
    /// Path, as `.status.phase`.
    pub json_path: String,
}

/// What a version of a CRD brings.
#[derive(Debug)]
pub struct CustomVersion {
    /// Schema; a CRD without one is refused.
    pub schema: StructuralSchema,
    /// Extra table columns.
    pub columns: Vec<PrinterColumn>,
    /// `(spec, status, selector)` paths of the scale subresource.
    pub scale: Option<(String, String, Option<String>)>,
}

/// One served resource in one version.
#[derive(Debug)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is split off.
    pub has_status: bool,
    /// Whether `/scale` is offered.
    pub has_scale: bool,
    /// Whether the server counts `metadata.generation`.
    pub has_generation: bool,
    /// Whether a replace creates what is not there.
    pub upsert: bool,
    /// Whether a replace without resourceVersion overwrites whatever is there.
    pub unconditional_update: bool,
    /// Paths that field selectors may use, besides the two metadata ones.
    pub selectable: Vec<String>,
    /// Name of the table in the store; versions of one resource share it.
    pub storage: Arc<str>,
    /// Present for resources that come from a CRD object.
    pub custom: Option<CustomVersion>,
    /// Whether strategic merge patches are understood (built-in types only).
    pub strategic: bool,
    /// The kind's fields, for kinds of the table.
    pub message: Option<&'static Message>,
}

impl Resource {
    /// `group/version`, or the bare version in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The schema that apply and strategic merge follow.
    pub fn schema(&self) -> Schema<'_> {
        match &self.custom {
            Some(custom) => Schema::structural(custom.schema.root()),
            None => match self.message {
                Some(message) => Schema::Message(message),
                None => Schema::Named { name: "", root: true },
            },
        }
    }

    /// Whether this is the resource of that group and plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// All served resources.
#[derive(Debug)]
pub struct Registry {
    resources: RwLock<BTreeMap<(String, String, String), Arc<Resource>>>,
}

impl Default for Registry {
    fn default() -> Self {
        let registry = Registry { resources: RwLock::default() };
        for resource in builtin::resources() {
            registry.add(resource);
        }
        registry
    }
}

impl Registry {
    /// Another registry that serves the same now.
    pub(super) fn fork(&self) -> Registry {
        Registry { resources: RwLock::new(self.resources.read().clone()) }
    }

    fn add(&self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.write().insert(key, Arc::new(resource));
    }

    /// Looks a resource up.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.read().get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// Looks a resource up by its kind.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resources.read().values().find(|r| r.group == group && r.version == version && r.kind == kind).cloned()
    }

    /// Any version of the resource that a storage table belongs to.
    pub fn by_storage(&self, storage: &str) -> Option<Arc<Resource>> {
        self.resources.read().values().find(|r| &*r.storage == storage).cloned()
    }

    /// All resources, in the order of group, version, plural.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        self.resources.read().values().cloned().collect()
    }

    /// Serves (or changes) what a CRD object describes.
    ///
    /// # Errors
    /// Says what in the CRD cannot be served.
    pub fn register_crd(&self, crd: &Value) -> Result<(), String> {
        let resources = read_crd(crd)?;
        self.unregister_crd(crd);
        resources.into_iter().for_each(|r| self.add(r));
        Ok(())
    }

    /// Stops serving what a CRD object describes.
    pub fn unregister_crd(&self, crd: &Value) {
        let spec = &crd["spec"];
        self.resources.write().retain(|_, r| {
            !(r.custom.is_some() && spec["group"] == r.group.as_str() && spec["names"]["plural"] == r.plural.as_str())
        });
    }
}

/// Checks a CRD object and reads the resources that it serves.
///
/// # Errors
/// Says what is missing or wrong.
pub fn read_crd(crd: &Value) -> Result<Vec<Resource>, String> {
    let spec = &crd["spec"];
    let text =
        |value: &Value, what: &str| value.as_str().map(str::to_owned).ok_or_else(|| format!("{what}: Required value"));
    let group = text(&spec["group"], "spec.group")?;
    let plural = text(&spec["names"]["plural"], "spec.names.plural")?;
    let kind = text(&spec["names"]["kind"], "spec.names.kind")?;
    let expected = format!("{plural}.{group}");
    if crd["metadata"]["name"] != expected.as_str() {
        return Err(format!(
            "metadata.name: Invalid value: {}: must be spec.names.plural+\".\"+spec.group",
            crd["metadata"]["name"]
        ));
    }
    if builtin::is_builtin_group(&group) {
        return Err(format!("spec.group: Invalid value: \"{group}\": already served"));
    }
    let names = |field: &str| {
        spec["names"][field]
            .as_array()
            .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
            .unwrap_or_default()
    };
    let mut resources = Vec::new();
    for (index, version) in spec["versions"].as_array().into_iter().flatten().enumerate() {
        if version["served"] != true {
            continue;
        }
        let schema = version["schema"]["openAPIV3Schema"].clone();
        if !schema.is_object() {
            return Err(format!("spec.versions[{index}].schema.openAPIV3Schema: Required value: schemas are required"));
        }
        let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten().map(|c| PrinterColumn {
            name: c["name"].as_str().unwrap_or_default().to_owned(),
            kind: c["type"].as_str().unwrap_or("string").to_owned(),
            description: c["description"].as_str().unwrap_or_default().to_owned(),
            priority: c["priority"].as_i64().unwrap_or(0),
            json_path: c["jsonPath"].as_str().unwrap_or_default().to_owned(),
        });
        let path = |v: &Value| v.as_str().map(str::to_owned);
        let scale = &version["subresources"]["scale"];
        let scale = match (path(&scale["specReplicasPath"]), path(&scale["statusReplicasPath"])) {
            (Some(spec), Some(status)) => Some((spec, status, path(&scale["labelSelectorPath"]))),
            _ => None,
        };
        resources.push(Resource {
            group: group.clone(),
            version: text(&version["name"], "spec.versions[].name")?,
            plural: plural.clone(),
            singular: spec["names"]["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned),
            list_kind: spec["names"]["listKind"].as_str().map_or_else(|| format!("{kind}List"), str::to_owned),
            kind: kind.clone(),
            short_names: names("shortNames"),
            categories: names("categories"),
            namespaced: spec["scope"] == "Namespaced",
            has_status: version["subresources"].get("status").is_some(),
            has_scale: scale.is_some(),
            has_generation: true,
            unconditional_update: false,
            upsert: false,
            selectable: version["selectableFields"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|f| f["jsonPath"].as_str().map(|p| p.trim_start_matches('.').to_owned()))
                .collect(),
            storage: expected.as_str().into(),
            custom: Some(CustomVersion {
                schema: StructuralSchema::new(schema).map_err(|e| format!("spec.versions[{index}].schema: {e}"))?,
                columns: columns.collect(),
                scale,
            }),
            strategic: false,
            message: None,
        });
    }
    if resources.is_empty() {
        return Err("spec.versions: Invalid value: must have at least one served version".to_owned());
    }
    Ok(resources)
}
