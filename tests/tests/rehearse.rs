//! `evergreen rehearse` as a person runs it: kubeconfigs of clusters that are served, files, exit codes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use evergreen_tests::programs::program;
use evergreen_twin::{Answer, Loss, Matcher, NodeSpec, Served, Twin};
use jiff::Timestamp;
use serde_json::{Value, json};

struct Cluster {
    twin: Twin,
    _served: Served,
    kubeconfig: PathBuf,
}

async fn cluster(site: &str, dir: &Path) -> Cluster {
    let mut builder = Twin::builder(site).epoch(Timestamp::UNIX_EPOCH).held();
    for number in 1..=3 {
        builder = builder.node(NodeSpec::new(&format!("{site}-{number}")).capacity(8, 16 << 30));
    }
    let twin = builder.build();
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1",
        "env": [{"name": "PASSWORD", "value": "hunter2"}], "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
        "data": {"password": "aHVudGVyMg=="}});
    for object in [web, secret] {
        twin.api().create_object(&object).expect("what the test needs is there");
    }
    twin.advance(std::time::Duration::from_secs(60));
    let served = twin.serve(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("what the test needs is there");
    let kubeconfig = dir.join(format!("{site}.kubeconfig"));
    std::fs::write(&kubeconfig, served.kubeconfig("rehearsal")).expect("what the test needs is there");
    Cluster { twin, _served: served, kubeconfig }
}

async fn evergreen(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program("evergreen"));
    command.arg("rehearse").args(args).current_dir(dir);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVERGREEN_")) {
        command.env_remove(name);
    }
    tokio::task::spawn_blocking(move || command.output().expect("what the test needs is there"))
        .await
        .expect("what the test needs is there")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_become_a_snapshot_that_tells_the_same_elsewhere_and_holds_no_secret() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (cluster("dc-a", here.path()).await, cluster("dc-b", here.path()).await);
    let versions = [a.twin.api().store().version(), b.twin.api().store().version()];
    let (a_file, b_file) = (a.kubeconfig.to_str().unwrap(), b.kubeconfig.to_str().unwrap());
    let clusters = ["--from-kubeconfig", a_file, "--from-kubeconfig", b_file];
    let args = [&clusters[..], &["--lose", "node", "--save-snapshot", "fleet.gz", "--out", "one.json"]].concat();
    let output = evergreen(here.path(), &args).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let now = [a.twin.api().store().version(), b.twin.api().store().version()];
    assert_eq!(now, versions, "nothing was written to the clusters");
    let one = std::fs::read(here.path().join("one.json")).unwrap();
    let report: Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(report["tried"]["node"], 6);
    let read = report["sites"][0]["read"].as_array().unwrap();
    assert!(read.iter().any(|kind| kind["kind"] == "apps/v1/Deployment" && kind["count"] == 1));
    assert!(!read.iter().any(|kind| kind["kind"].as_str().unwrap().contains("Secret")));

    std::fs::copy(here.path().join("fleet.gz"), elsewhere.path().join("fleet.gz")).unwrap();
    let again = ["--from-snapshot", "fleet.gz", "--lose", "node", "--out", "two.json"];
    assert_eq!(evergreen(elsewhere.path(), &again).await.status.code(), Some(0));
    assert_eq!(std::fs::read(elsewhere.path().join("two.json")).unwrap(), one, "byte for byte");

    let mut text = String::new();
    let packed = std::fs::File::open(here.path().join("fleet.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "neither Secrets nor environment variables");

    // A workload that only one of them has is lost with it, and the exit code says so.
    let lonely = evergreen(elsewhere.path(), &["--demo", "--lose", "site=beijing-a"]).await;
    assert_eq!(lonely.status.code(), Some(1), "{}", said(&lonely));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_told_with_its_place_and_nothing_is_left_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let a = cluster("dc-a", dir.path()).await;
    let file = a.kubeconfig.to_str().unwrap();
    let try_ = async |args: &[&str], code: i32, words: &str| {
        let args = [args, &["--lose", "site", "--save-snapshot", "s.gz", "--out", "r.html"]].concat();
        let output = evergreen(dir.path(), &args).await;
        assert_eq!(output.status.code(), Some(code), "{words}: {}", said(&output));
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".kubeconfig")), "{left:?}");
    };
    try_(&["--from-kubeconfig", "none.yaml"], 2, "none.yaml does not work").await;
    try_(&["--from-kubeconfig", file, "--from-kubeconfig", file], 2, "the same cluster").await;
    std::fs::write(
        dir.path().join("dead.kubeconfig"),
        std::fs::read_to_string(file).unwrap().replace("http://127.0.0.1:", "http://127.0.0.1:1"),
    )
    .unwrap();
    try_(&["--from-kubeconfig", "dead.kubeconfig"], 3, "dead.kubeconfig: /version cannot be read").await;
    // The cluster vanishes in the middle of its import: pods are asked for after a dozen other kinds.
    a.twin.faults().inject(Matcher::of("list", "pods"), Answer::Unavailable(1), 100);
    try_(&["--from-kubeconfig", file], 3, "vanished while pods were read").await;
    a.twin.faults().clear();
    a.twin.faults().lose(Loss::Reset);
    try_(&["--from-kubeconfig", file], 3, "/version cannot be read").await;
}
