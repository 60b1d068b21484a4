//! Custom resources of group `evergreen.dev`.

mod change_window;
mod condition;
mod consent;
mod data_center;
mod energy_facts;
mod energy_report;
mod failover_drill;
mod multi_active_service;
mod node_health;
mod playbook;
mod playbook_run;
mod prediction;
mod rules;
mod spec_hash;
mod traffic;

pub use change_window::*;
pub use condition::{Condition, ConditionStatus, set_condition};
pub use consent::*;
pub use data_center::*;
pub use energy_facts::*;
pub use energy_report::*;
pub use failover_drill::*;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
pub use multi_active_service::*;
pub use node_health::*;
pub use playbook::*;
pub use playbook_run::*;
pub use prediction::*;
pub use spec_hash::spec_hash;
pub use traffic::*;

/// Every custom resource definition, ready to apply to any server: structural schemas, printer columns, short names.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        ChangeWindow::crd(),
        Consent::crd(),
        DataCenter::crd(),
        EnergyReport::crd(),
        FailoverDrill::crd(),
        MultiActiveService::crd(),
        NodeHealth::crd(),
        Playbook::crd(),
        PlaybookRun::crd(),
    ];
    crds.iter_mut().for_each(make_structural);
    crds
}

/// The same with rules in CEL, for Kubernetes >= 1.25. Servers before 1.23 know no such field, and refuse it where a
/// definition is applied by them or checked against them.
pub fn all_crds_with_rules() -> Vec<CustomResourceDefinition> {
    let mut crds = all_crds();
    for crd in &mut crds {
        let mut value = serde_json::to_value(&*crd).expect("a CRD is plain data");
        rules::rules(&mut value);
        *crd = serde_json::from_value(value).expect("adding rules keeps a CRD a CRD");
    }
    crds
}

/// Schema of an object whose fields are not known beforehand and must survive pruning.
fn free_form(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Drops what API servers do not take: `additionalProperties: false`, which strict Rust types emit and structural schemas
/// do not allow beside `properties` (the API server prunes unknown fields by itself); and `default: ""`, which servers up
/// to 1.20 read as null and refuse (readers default an absent text to empty anyway).
fn make_structural(crd: &mut CustomResourceDefinition) {
    fn walk(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(object) => {
                if object.get("additionalProperties") == Some(&serde_json::Value::Bool(false)) {
                    object.remove("additionalProperties");
                }
                if object.get("default").and_then(serde_json::Value::as_str) == Some("") {
                    object.remove("default");
                }
                object.values_mut().for_each(walk);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(&*crd).expect("a CRD is plain data");
    walk(&mut value);
    rules::bounds(&mut value);
    *crd = serde_json::from_value(value).expect("removing a key keeps a CRD a CRD");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crd_has_a_schema_with_descriptions_and_columns() {
        for crd in all_crds() {
            let version = &crd.spec.versions[0];
            let name = crd.metadata.name.as_deref().unwrap();
            assert!(version.additional_printer_columns.as_ref().is_some_and(|c| !c.is_empty()), "{name}");
            assert!(crd.spec.names.short_names.as_ref().is_some_and(|s| !s.is_empty()), "{name}");
            let text = serde_json::to_string(version).unwrap();
            assert!(!text.contains("\"additionalProperties\":false"), "{name}");
            assert!(!text.contains("\"default\":\"\""), "{name}");
            assert!(text.contains("\"description\""), "{name}");
        }
    }
}
