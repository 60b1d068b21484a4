//! A real API server that writes down every request: an import asks with get and list alone, and never for Secrets.

use std::{collections::BTreeSet, path::Path, process::Command};

use evergreen_tests::{programs::program, root, skip::skipped};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

const CHECK: &str = "an import only reads (audit log)";
/// Exit code of scripts/kubernetes when there is nothing to start.
const NOTHING_AT_HAND: i32 = 3;

/// Requests of the administrator, as whom both this test and the import ask.
fn requests(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["user"]["username"] == "admin" && line["stage"] == "ResponseComplete").collect()
}

#[tokio::test]
async fn an_import_of_a_real_cluster_only_gets_and_lists_and_never_asks_for_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let run = std::process::id().to_string();
    let mut script = Command::new(root().join("scripts/kubernetes"));
    script.args(["up", "audited", "--while", &run]).env("EVERGREEN_KUBE_AUDIT", &log);
    let answer = script.output().unwrap();
    let told = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    if answer.status.code() == Some(NOTHING_AT_HAND) {
        return skipped(CHECK, told.lines().last().unwrap_or_default());
    }
    assert!(answer.status.success(), "{told}");
    let kubeconfig = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(&kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(Client::try_from(config).unwrap(), "default");
    let secret = Secret {
        metadata: ObjectMeta { name: Some("kept".into()), ..ObjectMeta::default() },
        string_data: Some([("password".to_owned(), "hunter2".to_owned())].into()),
        ..Secret::default()
    };
    // A control plane that an earlier run left behind has it already.
    let _ = secrets.create(&PostParams::default(), &secret).await;
    let before = requests(&log);
    assert!(before.iter().any(|r| r["objectRef"]["resource"] == "secrets"), "the log is written: {}", before.len());

    let mut command = Command::new(program("evergreen"));
    command.args(["rehearse", "--from-kubeconfig", &kubeconfig, "--save-snapshot", "s.gz"]).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = requests(&log);
    let asked = &after[before.len()..];
    assert!(asked.len() >= 15, "{} requests", asked.len());
    let verbs: BTreeSet<&str> = asked.iter().filter_map(|r| r["verb"].as_str()).collect();
    assert!(verbs.is_subset(&BTreeSet::from(["get", "list", "watch"])), "{verbs:?}");
    let resources: BTreeSet<&str> = asked.iter().filter_map(|r| r["objectRef"]["resource"].as_str()).collect();
    assert!(resources.contains("pods") && !resources.contains("secrets"), "{resources:?}");
    let maps = asked.iter().filter(|r| r["objectRef"]["resource"] == "configmaps");
    assert!(maps.clone().all(|r| r["objectRef"]["name"] == "evergreen-assignments"), "one ConfigMap, by its name");
    let mut text = String::new();
    let packed = std::fs::File::open(dir.path().join("s.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
    assert!(text.contains("kube-system") && !text.contains("hunter2"));
    let down = Command::new(root().join("scripts/kubernetes")).args(["down", "audited"]).status().unwrap();
    assert!(down.success());
}
