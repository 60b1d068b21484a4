//! The whole way round with the real ones: the agent sees a fault, Prometheus evaluates the chart's alert rules, Alertmanager
//! sends the alert to the controller, and a playbook acts on the node that it names.

use std::{path::Path, process::Command, time::Duration};

use evergreen_tests::{
    agent::Host,
    chart, controller,
    kubernetes::cluster,
    node::SimulatedNode,
    programs::{Process, free_port, program, tool},
    rights::kubeconfig_of,
    skip::skipped,
    wait::eventually,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const NODE: &str = "alerted-1";

fn write(path: &Path, value: &serde_json::Value) {
    std::fs::write(path, value.to_string()).expect("a writable folder");
}

/// An agent that only measures: what it sees goes to Prometheus alone.
fn agent(host: &Host, dir: &Path, listen: &str) -> Process {
    let mut command = Command::new(program("evergreen-agent"));
    command.args(["--standalone", "--node-name", NODE, "--site", controller::SITE, "--listen", listen, "--root"]);
    command.arg(&host.root).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    Process::start("agent", command, dir).expect("the agent starts")
}

/// Prometheus with the chart's own rules, looking every second.
fn prometheus(program: &Path, dir: &Path, agent: &str, alertmanager: &str) -> Process {
    let file = dir.join("prometheus.yaml");
    // JSON is YAML.
    write(
        &file,
        &json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [chart::folder().join("monitoring/alerts.yaml")],
            "scrape_configs": [{"job_name": "agents", "static_configs": [{"targets": [agent]}]}],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        }),
    );
    let mut command = Command::new(program);
    command.arg("--config.file").arg(file).arg("--storage.tsdb.path").arg(dir.join("prometheus"));
    command.args(["--web.listen-address", &format!("127.0.0.1:{}", free_port())]);
    Process::start("prometheus", command, dir).expect("Prometheus starts")
}

fn alertmanager(program: &Path, dir: &Path, listen: &str, webhook: &str, token: &Path) -> Process {
    let file = dir.join("alertmanager.yaml");
    let authorization = json!({"authorization": {"credentials_file": token}});
    write(
        &file,
        &json!({
            "route": {"receiver": "evergreen", "group_wait": "1s", "group_interval": "2s", "repeat_interval": "1m",
                      "group_by": ["alertname", "k8s_node_name"]},
            "receivers": [{"name": "evergreen",
                           "webhook_configs": [{"url": webhook, "send_resolved": true, "http_config": authorization}]}],
        }),
    );
    let mut command = Command::new(program);
    command.arg("--config.file").arg(file).arg("--storage.path").arg(dir.join("alertmanager"));
    command.args(["--web.listen-address", listen, "--cluster.listen-address", ""]);
    Process::start("alertmanager", command, dir).expect("Alertmanager starts")
}

#[tokio::test]
async fn an_alert_of_the_chart_comes_back_through_alertmanager_and_a_playbook_acts() {
    let check = "monitoring: the round trip through Alertmanager";
    let manager = tool("alertmanager").or_else(|| tool("prometheus-alertmanager"));
    let (Some(watcher), Some(manager)) = (tool("prometheus"), manager) else {
        skipped(check, "needs Prometheus and Alertmanager; apt install prometheus prometheus-alertmanager");
        return;
    };
    let Some(cluster) = cluster(check).await else { return };
    controller::prepare(&cluster).await;
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let node = SimulatedNode::create(&cluster.client, NODE, "zone-1").await;
    let others = [
        SimulatedNode::create(&cluster.client, "alerted-2", "zone-1").await,
        SimulatedNode::create(&cluster.client, "alerted-3", "zone-1").await,
    ];
    controller::playbook(
        &cluster.client,
        "cordon-on-alert",
        json!({
            "summary": "An alert says that a node is fatally ill: keep new pods away.",
            "mode": "enforce",
            "match": [{"alert": {
                "labels": {"alertname": "EvergreenNodeProblemFatal"},
                "subject": {"kind": "Node", "nameLabel": "k8s_node_name"},
            }}],
            "guards": {"budget": {"maxUnavailable": 1, "minHealthy": "50%"}, "storm": {"maxUnhealthy": "50%"}},
            "steps": [{"cordon": {}}],
            "verify": {"that": "node.unschedulable", "for": "1s", "timeout": "30s"},
        }),
    )
    .await;
    let token = dir.join("token");
    std::fs::write(&token, "the-token-of-the-webhook").expect("a writable folder");
    let [metrics, alerts, agent_at] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let kubeconfig = kubeconfig_of("controller", &cluster, dir).await;
    let mut command = Command::new(program("evergreen-controller"));
    command.args(["--site", controller::SITE, "--replica", "one", "--kubeconfig"]).arg(&kubeconfig);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port()), "--metrics-listen", &metrics]);
    command.arg("--alert-token-file").arg(&token).env_remove("KUBECONFIG").env("RUST_LOG", "info");
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    let _controller = Process::start("controller-one", command, dir).expect("the controller starts");
    controller::leader(&cluster.client, |_| true).await;
    let webhook = format!("http://{metrics}/alerts");
    let _manager = alertmanager(&manager, dir, &alerts, &webhook, &token);
    let host = Host::boot(NODE, dir);
    let _agent = agent(&host, dir, &agent_at);
    let _watcher = prometheus(&watcher, dir, &agent_at, &alerts);
    eventually("the agent is scraped", MINUTE, || async {
        match evergreen_tests::http::get(&format!("http://{agent_at}/metrics")).await? {
            (200, text) if text.contains("target_info") => Ok(()),
            (status, _) => Err(status.to_string()),
        }
    })
    .await;
    host.files.kernel_log(1, "Kernel panic - not syncing: Fatal exception in interrupt").expect("a log");
    let wait = Duration::from_secs(120);
    let status = controller::run_of(&cluster.client, NODE, "the alert's run ends", wait, |s| s.phase.is_final()).await;
    assert!(status.log.iter().any(|entry| format!("{entry:?}").contains("cordon")), "{:#?}", status.log);
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(cluster.client.clone());
    let found = nodes.get(NODE).await.expect("the node");
    assert_eq!(found.spec.and_then(|spec| spec.unschedulable), Some(true), "the node is cordoned");
    let runs = controller::runs_for(&cluster.client, NODE).await.expect("runs");
    assert_eq!(runs.len(), 1, "one alert, one run, however often it is repeated");
    node.remove().await;
    for other in others {
        other.remove().await;
    }
}
