//! What the chart carries is what the code says.

use evergreen_api::resources::{all_crds, all_crds_with_rules};
use evergreen_tests::{chart, root};
use serde_yaml::Value;

#[test]
fn the_charts_definitions_are_the_generated_ones() {
    let folder = chart::folder().join("templates/crds");
    for crd in all_crds_with_rules() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let path = folder.join(&name);
        assert!(path.is_file(), "the chart has no {name}; run make crds");
        let mut generated = serde_yaml::to_value(&crd).unwrap();
        generated["metadata"].as_mapping_mut().unwrap().remove("annotations");
        assert_eq!(chart::definition(&path), generated, "{name} differs from the code; run make crds");
    }
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, all_crds().len(), "{} has files of kinds that are no more; run make crds", folder.display());
}

/// Words that YAML 1.1, and with it kubectl and Helm, takes for true or false where later YAML sees a text.
const YAML_1_1_BOOLEANS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

#[test]
fn no_field_and_no_value_is_a_word_that_kubectl_and_helm_take_for_a_boolean() {
    fn look(node: &Value, path: &str, found: &mut Vec<String>) {
        let boolean = |text: &str| YAML_1_1_BOOLEANS.contains(&text.to_lowercase().as_str());
        match node {
            Value::Mapping(entries) => {
                for (key, below) in entries {
                    let Some(key) = key.as_str() else { continue };
                    if boolean(key) {
                        found.push(format!("{path}.{key}"));
                    }
                    look(below, &format!("{path}.{key}"), found);
                }
            }
            Value::Sequence(items) if path.ends_with(".enum") => found.extend(
                items
                    .iter()
                    .filter_map(Value::as_str)
                    .filter(|text| boolean(text))
                    .map(|text| format!("{path}: {text}")),
            ),
            Value::Sequence(items) => items.iter().for_each(|item| look(item, path, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for crd in all_crds() {
        look(&serde_yaml::to_value(&crd.spec.versions).unwrap(), &crd.spec.names.plural, &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn definitions_stay_when_the_release_is_uninstalled() {
    for file in std::fs::read_dir(chart::folder().join("templates/crds")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(text.contains("helm.sh/resource-policy: keep"), "{text}");
    }
}

#[test]
fn the_charts_playbooks_are_the_shipped_ones_and_only_observe() {
    let library = root().join("playbooks/library");
    let mut shipped = 0;
    for file in std::fs::read_dir(&library).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".yaml") || name.ends_with(".test.yaml") {
            continue;
        }
        shipped += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        let copy = std::fs::read_to_string(chart::folder().join("playbooks").join(&name)).unwrap_or_default();
        assert_eq!(copy, text, "the chart's {name} is not the library's; run make crds");
        let playbook: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(playbook["spec"]["mode"], Value::from("observe"), "{name} must be watched before it acts");
    }
    assert_eq!(std::fs::read_dir(chart::folder().join("playbooks")).unwrap().count(), shipped, "run make crds");
}
