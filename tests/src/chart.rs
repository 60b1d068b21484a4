//! The Helm chart as the real Helm renders it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_yaml::Value;

/// Folder of the chart.
pub fn folder() -> PathBuf {
    crate::root().join("charts/evergreen")
}

/// A rendered manifest or Helm's error.
///
/// # Panics
/// When Helm cannot be run.
pub fn template(helm: &Path, arguments: &[&str]) -> Result<String, String> {
    let answer = Command::new(helm)
        .args(["template", "evergreen"])
        .arg(folder())
        .args(["--namespace", "evergreen-system"])
        .args(arguments)
        .output()
        .expect("helm runs");
    if answer.status.success() {
        Ok(String::from_utf8(answer.stdout).expect("helm prints text"))
    } else {
        Err(String::from_utf8_lossy(&answer.stderr).into_owned())
    }
}

/// Objects of a rendered manifest.
///
/// # Panics
/// When a document is no YAML.
pub fn objects(manifest: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(manifest)
        .map(|document| Value::deserialize(document).expect("a document of YAML"))
        .filter(|value| !value.is_null())
        .collect()
}

/// The manifest with generated keys and certificates blanked, for comparison.
pub fn without_secrets(manifest: &str) -> String {
    manifest
        .lines()
        .map(|line| {
            let key = line.trim_start();
            match ["ca.crt: ", "tls.crt: ", "tls.key: "].iter().find(|name| key.starts_with(**name)) {
                Some(name) => format!("{}{name}(generated)\n", &line[..line.len() - key.len()]),
                None => format!("{line}\n"),
            }
        })
        .collect()
}

/// A definition file of the chart without its Helm directives and annotations, as YAML.
///
/// # Panics
/// When the file cannot be read or is no YAML.
pub fn definition(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a readable file");
    let yaml: String = text.lines().filter(|line| !line.contains("{{")).map(|line| format!("{line}\n")).collect();
    let mut value: Value = serde_yaml::from_str(&yaml).expect("a definition is YAML");
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_mapping_mut) {
        metadata.remove("annotations");
    }
    value
}
