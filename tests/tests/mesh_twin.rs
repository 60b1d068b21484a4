//! The network mesh on a simulated data center: a real controller and real agents, whose probes pass relays that lose what
//! they are told to. A node that is cut off from the others, but not from the controller, is told as that, by the condition
//! of its own Node and of no other; and it is over when it is mended.

use std::{collections::BTreeMap, net::SocketAddr, process::Command, time::Duration};

use evergreen_tests::{
    agent::Host,
    http,
    lossy::Lossy,
    programs::{Process, free_port, program},
    site_tls,
    wait::eventually,
};
use evergreen_twin::{NodeSpec, Twin};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

const NODES: [&str; 4] = ["m-1", "m-2", "m-3", "m-4"];
const BOUND: Duration = Duration::from_secs(90);

async fn unreachable(nodes: &Api<Node>) -> Result<Vec<String>, String> {
    let list = nodes.list(&Default::default()).await.map_err(|error| error.to_string())?;
    let raised = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "NetworkUnreachable" && c.status == "True")
    };
    Ok(list.into_iter().filter(raised).filter_map(|node| node.metadata.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_its_peers_do_not_reach_is_told_by_its_own_condition_and_by_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    site_tls::certificates(dir.path(), &[], &NODES);
    let mut twin = Twin::builder("dc-a");
    for name in NODES {
        twin = twin.node(NodeSpec::new(name));
    }
    let twin = twin.build();
    let served = twin.serve(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
    let client = twin.client("test");
    site_tls::prepare(&client, &[("dc-a", &served)]).await;
    let file = |name: &str| dir.path().join(name);
    let (endpoint, metrics) = (free_port(), free_port());
    std::fs::write(file("controller.kubeconfig"), served.kubeconfig("controller:dc-a")).expect("a kubeconfig");
    let mut command = Command::new(program("evergreen-controller"));
    command.args(["--site", "dc-a", "--require-agent-token", "--kubeconfig"]).arg(file("controller.kubeconfig"));
    command.arg("--metrics-listen").arg(format!("127.0.0.1:{metrics}"));
    command.arg("--listen").arg(format!("127.0.0.1:{endpoint}"));
    command.arg("--tls-cert").arg(file("server.crt")).arg("--tls-key").arg(file("server.key"));
    command.arg("--tls-client-ca").arg(file("ca.crt")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    let _controller = Process::start("controller", command, dir.path()).expect("a controller");

    let listens: BTreeMap<String, SocketAddr> =
        NODES.iter().map(|name| ((*name).to_owned(), SocketAddr::from(([127, 0, 0, 1], free_port())))).collect();
    let network = Lossy::between(&listens).await;
    let mut agents = Vec::new();
    for name in NODES {
        let host = Host::boot(name, dir.path());
        std::fs::write(file(&format!("{name}.kubeconfig")), served.kubeconfig(&format!("agent:{name}")))
            .expect("a file");
        let mut command = Command::new(program("evergreen-agent"));
        command.args(["--node-name", name, "--site", "dc-a", "--root"]).arg(&host.root);
        command.args(["--listen", &listens[name].to_string()]);
        command.args(["--heartbeat-address", &network.addresses[name].to_string(), "--kubeconfig"]);
        command.arg(file(&format!("{name}.kubeconfig"))).arg("--state-dir").arg(file(&format!("state-{name}")));
        command.arg("--site-endpoint").arg(format!("https://localhost:{endpoint}"));
        command.arg("--site-ca").arg(file("ca.crt")).arg("--site-cert").arg(file(&format!("agent-{name}.crt")));
        command.arg("--site-key").arg(file(&format!("agent-{name}.key"))).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        agents.push((Process::start(&format!("agent-{name}"), command, dir.path()).expect("an agent"), host));
    }
    for (name, address) in &listens {
        let url = format!("http://{address}/metrics");
        let (url, dir) = (&url, dir.path());
        eventually("every agent hears three peers", BOUND, || async move {
            let (_, text) = http::get(url).await?;
            let paths = text.lines().filter(|line| line.starts_with("evergreen_mesh_rtt_seconds{")).count();
            let log = std::fs::read_to_string(dir.join(format!("agent-{name}.log"))).unwrap_or_default();
            if paths == 3 {
                Ok(())
            } else {
                Err(format!("{paths} at {name}: {}", log.lines().last().unwrap_or_default()))
            }
        })
        .await;
    }
    let nodes: Api<Node> = Api::all(client);
    assert_eq!(unreachable(&nodes).await, Ok(Vec::new()));

    network.cut_off("m-2");
    let nodes = &nodes;
    eventually("m-2 alone is unreachable", BOUND, || async move {
        match unreachable(nodes).await? {
            names if names == ["m-2"] => Ok(()),
            names if names.is_empty() => Err("nobody yet".to_owned()),
            names => panic!("{names:?}"),
        }
    })
    .await;
    let (_, text) = http::get(&format!("http://127.0.0.1:{metrics}/metrics")).await.expect("metrics");
    let faults: Vec<&str> = text.lines().filter(|line| line.starts_with("evergreen_mesh_fault{")).collect();
    assert!(faults.len() == 1 && faults[0].contains(r#"kind="node""#) && faults[0].contains(r#""m-2""#), "{faults:?}");

    network.mend();
    eventually("it is over", BOUND, || async move {
        let names = unreachable(nodes).await?;
        if names.is_empty() { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}
