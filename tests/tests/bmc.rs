//! Power out of band: a real controller asks simulated BMCs (pyghmi's, over real IPMI), tells a real agent, and accounts
//! for the node that has none.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use evergreen_api::{
    names,
    resources::{Playbook, PlaybookRun},
};
use evergreen_tests::{
    agent::Host,
    http,
    programs::{Process, free_port, program, tool},
    root, site_tls,
    skip::skipped,
    wait::eventually,
};
use evergreen_twin::{NodeSpec, Served, Twin};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Node, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);
const PASSWORD: &str = "hunter2-secret";

/// Python with pyghmi, or a line in the list of what was skipped.
fn python(check: &str) -> Option<PathBuf> {
    let venv = root().join("target/tools/venv");
    let libs = std::fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let found = libs.map(|lib| lib.path().join("site-packages/pyghmi")).any(|path| path.is_dir());
    if !found {
        skipped(check, "no pyghmi in target/tools/venv (make setup)");
    }
    found.then(|| venv.join("bin/python3"))
}

/// A BMC whose machine takes so many watts; its port.
async fn bmc(python: &Path, name: &str, suite: &str, watts: u32, dir: &Path) -> (Process, u16) {
    let state = dir.join(format!("{name}.json"));
    std::fs::write(&state, json!({"watts": watts, "power": "on"}).to_string()).expect("a file");
    let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port();
    let mut command = Command::new(python);
    command.arg(root().join("bmc/tests/parts/ipmi_bmc.py")).args([port.to_string().as_str(), suite]).arg(&state);
    let process = Process::start(&format!("bmc-{name}"), command, dir).expect("a BMC");
    eventually("the BMC listens", BOUND, || async {
        if process.log_tail().contains("listening") { Ok(()) } else { Err(process.log_tail()) }
    })
    .await;
    (process, port)
}

async fn prepare(client: &Client, served: &Served, inventory: &str) {
    site_tls::prepare(client, &[("dc-a", served)]).await;
    let metadata = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let map = ConfigMap {
        metadata: metadata("evergreen-bmc"),
        data: Some([("inventory.yaml".to_owned(), inventory.to_owned())].into()),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    maps.create(&PostParams::default(), &map).await.expect("the inventory");
    let login =
        [("username", "monitor"), ("password", PASSWORD)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let secret = Secret { metadata: metadata("bmc-monitor"), string_data: Some(login.into()), ..Secret::default() };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    secrets.create(&PostParams::default(), &secret).await.expect("the login");
}

/// The first line of a Prometheus text with that beginning and all of those labels.
fn line<'a>(text: &'a str, name: &str, labels: &[&str]) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
}

fn value(line: &str) -> f64 {
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

#[tokio::test]
async fn wall_power_reaches_the_agent_and_a_node_without_one_is_the_sites() {
    let Some(python) = python("bmc: power out of band, from BMC to agent") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name);
    site_tls::certificates(dir.path(), &[], &[]);
    let (first, second) =
        (bmc(&python, "one", "17", 333, dir.path()).await, bmc(&python, "two", "3", 222, dir.path()).await);
    let inventory = format!(
        "nodes:\n- {{node: n-1, address: 'ipmi://127.0.0.1:{}', secret: bmc-monitor}}\n\
         - {{node: n-2, address: 'ipmi://127.0.0.1:{}', secret: bmc-monitor}}\n\
         - {{node: n-3, address: 'ipmi://192.0.2.7', secret: bmc-monitor}}\n\
         - {{node: n-4, address: 'ipmi://127.0.0.2', secret: absent}}\n",
        first.1, second.1
    );
    let mut twin = Twin::builder("dc-a");
    for name in ["n-1", "n-2", "n-3", "n-4"] {
        twin = twin.node(NodeSpec::new(name));
    }
    let twin = twin.build();
    let served = twin.serve(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
    prepare(&twin.client("test"), &served, &inventory).await;
    std::fs::write(file("controller.kubeconfig"), served.kubeconfig("controller:dc-a")).expect("a kubeconfig");
    std::fs::write(file("agent.kubeconfig"), served.kubeconfig("agent:n-1")).expect("a kubeconfig");
    let (endpoint, metrics, listen) = (free_port(), free_port(), free_port());

    let mut command = Command::new(program("evergreen-controller"));
    command.args(["--site", "dc-a", "--kubeconfig"]).arg(file("controller.kubeconfig"));
    command.args(["--bmc-allow", "127.0.0.0/8", "--bmc-interval", "1s"]);
    command.arg("--metrics-listen").arg(format!("127.0.0.1:{metrics}"));
    command.arg("--listen").arg(format!("127.0.0.1:{endpoint}"));
    command.arg("--tls-cert").arg(file("server.crt")).arg("--tls-key").arg(file("server.key"));
    command.arg("--tls-client-ca").arg(file("ca.crt")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command.env("RUST_LOG", "debug");
    let _controller = Process::start("controller", command, dir.path()).expect("a controller");
    let host = Host::boot("n-1", dir.path());
    let mut command = Command::new(program("evergreen-agent"));
    command.args(["--node-name", "n-1", "--site", "dc-a", "--sample-interval", "200ms", "--root"]).arg(&host.root);
    command.arg("--listen").arg(format!("127.0.0.1:{listen}")).arg("--kubeconfig").arg(file("agent.kubeconfig"));
    command.arg("--state-dir").arg(file("state")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env("RUST_LOG", "debug");
    command.arg("--site-endpoint").arg(format!("https://localhost:{endpoint}"));
    command.arg("--site-ca").arg(file("ca.crt")).arg("--site-cert").arg(file("agent.crt"));
    command.arg("--site-key").arg(file("agent.key"));
    let _agent = Process::start("agent", command, dir.path()).expect("an agent");

    let site = format!("http://127.0.0.1:{metrics}/metrics");
    let told = eventually("the site knows all four nodes, and that n-1 has an agent", BOUND, || async {
        let (_, text) = http::get(&site).await?;
        let both = [("n-1", 333.0), ("n-2", 222.0)].into_iter().all(|(node, watts)| {
            line(&text, "evergreen_bmc_power", &[node, "ipmi-dcmi"]).is_some_and(|line| value(line) == watts)
        });
        let words = line(&text, "evergreen_bmc_state", &["n-3", "not_allowed"]).is_some()
            && line(&text, "evergreen_bmc_state", &["n-4", "configuration"]).is_some();
        let without = line(&text, "hw_host_power", &["n-2"]).is_some_and(|line| value(line) == 222.0);
        let with = line(&text, "hw_host_power", &["n-1"]).is_none();
        if both && words && without && with { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(line(&told, "hw_host_power", &["measured", "ipmi-dcmi", "n-2"]).is_some(), "{told}");

    let node = format!("http://127.0.0.1:{listen}/metrics");
    let agent = eventually("the agent uses the power that the site tells", BOUND, || async {
        let (_, text) = http::get(&node).await?;
        let power = line(&text, "hw_host_power", &["ipmi-dcmi"]).map(value);
        if power.is_some_and(|watts| (watts - 333.0).abs() < 1.0) { Ok(text) } else { Err(format!("{power:?}")) }
    })
    .await;
    for text in [&told, &agent] {
        assert!(!text.contains(PASSWORD), "no password in metrics");
    }
    for log in ["controller.log", "agent.log"] {
        let text = std::fs::read_to_string(file(log)).expect("a log");
        assert!(!text.contains(PASSWORD), "no password in {log}, at debug level either");
    }
}

/// Runs of a playbook that fences, as (node, phase, what its first step said).
async fn fenced(client: &Client, node: &str) -> Result<(String, String), String> {
    let runs: Api<PlaybookRun> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let runs = runs.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let run = runs.items.into_iter().find(|run| run.spec.subject.name == node).ok_or("no run yet")?;
    let status = run.status.unwrap_or_default();
    let said = status.log.first().map(|step| step.message.clone()).unwrap_or_default();
    if status.phase.is_final() { Ok((format!("{:?}", status.phase), said)) } else { Err(format!("{status:?}")) }
}

#[tokio::test]
async fn a_playbook_fences_only_what_the_bmc_itself_says_is_off() {
    let Some(python) = python("bmc: the step fence") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name);
    site_tls::certificates(dir.path(), &[], &[]);
    let (obeys, ignores) =
        (bmc(&python, "one", "17", 333, dir.path()).await, bmc(&python, "two", "17", 222, dir.path()).await);
    std::fs::write(file("two.json"), json!({"watts": 222, "power": "on", "obeys": false}).to_string()).expect("a file");
    let inventory = format!(
        "nodes:\n- {{node: n-1, address: 'ipmi://127.0.0.1:{}', secret: bmc-monitor}}\n\
         - {{node: n-2, address: 'ipmi://127.0.0.1:{}', secret: bmc-monitor}}\n",
        obeys.1, ignores.1
    );
    let mut twin = Twin::builder("dc-a");
    for i in 1..=8 {
        twin = twin.node(NodeSpec::new(&format!("n-{i}")).label(names::LABEL_STABILITY, "agile"));
    }
    let twin = twin.build();
    let served = twin.serve(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
    let client = twin.client("test");
    let cancel = tokio_util::sync::CancellationToken::new();
    let _running = twin.start(cancel.clone());
    let _stopped = cancel.drop_guard();
    prepare(&client, &served, &inventory).await;
    let playbook = json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": "fence-it"},
        "spec": {
            "summary": "test", "mode": "enforce", "match": [{"nodeCondition": {"type": "KernelOops"}}],
            "guards": {"budget": {"maxUnavailable": "50%", "minHealthy": "10%"}},
            "steps": [{"fence": {"timeout": "8s"}}]
        }
    });
    let playbooks: Api<Playbook> = Api::all(client.clone());
    let playbook: Playbook = serde_json::from_value(playbook).expect("a playbook");
    playbooks.create(&PostParams::default(), &playbook).await.expect("it is taken");
    let nodes: Api<Node> = Api::all(client.clone());
    let oops =
        json!({"status": {"conditions": [{"type": "KernelOops", "status": "True", "reason": "t", "message": "t"}]}});
    for name in ["n-1", "n-2"] {
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&oops)).await.expect("a condition");
    }
    std::fs::write(file("controller.kubeconfig"), served.kubeconfig("controller:dc-a")).expect("a kubeconfig");
    let mut command = Command::new(program("evergreen-controller"));
    command.args(["--site", "dc-a", "--kubeconfig"]).arg(file("controller.kubeconfig"));
    command.args(["--bmc-allow", "127.0.0.0/8"]).arg("--metrics-listen").arg(format!("127.0.0.1:{}", free_port()));
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    let _controller = Process::start("controller", command, dir.path()).expect("a controller");
    let (phase, said) = eventually("n-1 is fenced", BOUND, || fenced(&client, "n-1")).await;
    assert_eq!(phase, "Succeeded", "{said}");
    assert!(said.contains("its BMC said so twice"), "{said}");
    let state: Value = serde_json::from_slice(&std::fs::read(file("one.json")).expect("a file")).expect("JSON");
    assert_eq!(state["power"], "off");
    let (phase, said) = eventually("n-2 is not", BOUND, || fenced(&client, "n-2")).await;
    assert_ne!(phase, "Succeeded", "{said}");
    assert!(said.contains("must be taken for running"), "{said}");
}

#[tokio::test]
async fn a_person_can_check_a_bmc_and_is_told_what_is_wrong() {
    let Some(python) = python("bmc: evergreen bmc check") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (_bmc, port) = bmc(&python, "one", "17", 287, dir.path()).await;
    let check = |password: &str, port: u16| {
        let file = dir.path().join("password");
        std::fs::write(&file, format!("{password}\n")).expect("a file");
        let mut command = Command::new(program("evergreen"));
        command.args(["bmc", "check", "--json", "--username", "monitor", "--password-file"]).arg(&file);
        let output = command.arg("--address").arg(format!("ipmi://127.0.0.1:{port}")).output().expect("it runs");
        let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = format!("{printed} {}", String::from_utf8_lossy(&output.stderr));
        assert!(!all.contains(password), "no password in what is printed");
        (output.status.code(), printed, all)
    };
    let (code, found, _) = check(PASSWORD, port);
    assert_eq!(code, Some(0), "{found}");
    assert_eq!((&found["usable"], &found["reading"]["milliwatts"]), (&json!(true), &json!(287_000)));
    assert_eq!(found["power_state"], json!("on"));
    let (code, found, all) = check("wrong-password", port);
    assert_eq!((code, &found["word"]), (Some(1), &json!("credentials")), "{all}");
    assert!(all.contains("lock"), "{all}");
    let (code, found, _) = check(PASSWORD, free_port());
    assert_eq!((code, &found["word"]), (Some(3), &json!("unreachable")));
}

#[test]
fn the_chart_gives_rights_for_the_named_secrets_only_and_none_without_a_network() {
    let Some(helm) = tool("helm") else {
        skipped("bmc: the chart's rights", "no helm (make setup)");
        return;
    };
    let render = |flags: &[&str]| evergreen_tests::chart::template(&helm, flags);
    let plain = render(&[]).expect("it renders");
    assert!(!plain.contains("controller-bmc") && !plain.contains("--bmc-allow"));
    let flags = ["--set", "bmc.allow={10.20.0.0/24}", "--set", "bmc.secrets={bmc-monitor}"];
    let objects = evergreen_tests::chart::objects(&render(&flags).expect("it renders"));
    let role = objects.iter().find(|o| {
        o["kind"].as_str() == Some("Role") && o["metadata"]["name"].as_str() == Some("evergreen-controller-bmc")
    });
    let rules = serde_json::to_value(&role.expect("a role")["rules"]).expect("plain data");
    assert_eq!(
        rules,
        json!([
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["evergreen-bmc"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["bmc-monitor"], "verbs": ["get"]},
        ])
    );
    for (wrong, place) in [
        (vec!["--set", "bmc.allow={example.com}"], "bmc"),
        (vec!["--set", "bmc.nodes[0].node=n,bmc.nodes[0].address=ipmi://10.0.0.1,bmc.nodes[0].secret=s"], "bmc.allow"),
        (
            [
                &flags[..],
                &["--set", "bmc.nodes[0].node=n,bmc.nodes[0].address=ipmi://10.0.0.1,bmc.nodes[0].secret=other"][..],
            ]
            .concat(),
            "bmc.secrets does not name",
        ),
    ] {
        let error = render(&wrong).expect_err("it is refused");
        assert!(error.contains(place), "{error}");
    }
}
