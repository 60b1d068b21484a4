//! Fast node-death detection: a real controller and real agents on a simulated data center; agents are killed and
//! stopped, and the Nodes say so.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use evergreen_api::names;
use evergreen_tests::{
    agent::Host,
    programs::{Process, free_port, program},
    site_tls,
    wait::eventually,
};
use evergreen_twin::{NodeSpec, Served, Twin};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

const NODES: [&str; 4] = ["n-1", "n-2", "n-3", "n-4"];
const BOUND: Duration = Duration::from_secs(60);
/// From the fault to the condition. A loaded machine is slower than a data center, so the test allows more than the
/// target; it prints what it took.
const WITHIN: Duration = Duration::from_secs(15);

struct Site {
    dir: tempfile::TempDir,
    served: Served,
    nodes: Api<Node>,
    endpoint: u16,
    hosts: BTreeMap<&'static str, Host>,
    agents: BTreeMap<&'static str, Process>,
    _controller: Process,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        site_tls::certificates(dir.path(), &[], &[]);
        let mut twin = Twin::builder("dc-a");
        for name in NODES {
            twin = twin.node(NodeSpec::new(name));
        }
        let twin = twin.build();
        let served = twin.serve(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
        let client = twin.client("test");
        site_tls::prepare(&client, &[("dc-a", &served)]).await;
        let endpoint = free_port();
        let file = |name: &str| dir.path().join(name);
        std::fs::write(file("controller.kubeconfig"), served.kubeconfig("controller:dc-a")).expect("a kubeconfig");
        let mut command = Command::new(program("evergreen-controller"));
        command.args(["--site", "dc-a", "--kubeconfig"]).arg(file("controller.kubeconfig"));
        command.arg("--metrics-listen").arg(format!("127.0.0.1:{}", free_port()));
        command.arg("--listen").arg(format!("127.0.0.1:{endpoint}"));
        command.arg("--tls-cert").arg(file("server.crt")).arg("--tls-key").arg(file("server.key"));
        command.arg("--tls-client-ca").arg(file("ca.crt")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        let controller = Process::start("controller", command, dir.path()).expect("a controller");
        let hosts = NODES.map(|name| (name, Host::boot(name, dir.path())));
        let mut site = Self {
            served,
            nodes: Api::all(client),
            endpoint,
            hosts: hosts.into(),
            agents: BTreeMap::new(),
            _controller: controller,
            dir,
        };
        NODES.iter().for_each(|name| site.start_agent(name));
        site
    }

    fn start_agent(&mut self, name: &'static str) {
        let file = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let kubeconfig = file(&format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, self.served.kubeconfig(&format!("agent:{name}"))).expect("a kubeconfig");
        let mut command = Command::new(program("evergreen-agent"));
        command.args(["--node-name", name, "--site", "dc-a", "--root"]).arg(&self.hosts[name].root);
        command.arg("--listen").arg(format!("127.0.0.1:{}", free_port())).arg("--kubeconfig").arg(kubeconfig);
        command.arg("--state-dir").arg(file(&format!("state-{name}")));
        command.arg("--site-endpoint").arg(format!("https://localhost:{}", self.endpoint));
        command.arg("--site-ca").arg(file("ca.crt")).arg("--site-cert").arg(file("agent.crt"));
        command.arg("--site-key").arg(file("agent.key")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        self.agents.insert(name, Process::start(&format!("agent-{name}"), command, self.dir.path()).expect("an agent"));
    }

    /// Reason and message of the condition and its trace, once it has this status.
    async fn until(&self, node: &str, status: &str, bound: Duration) -> (String, String, Option<String>) {
        eventually(&format!("NodeLost is {status} at {node}"), bound, || async {
            let node = self.nodes.get(node).await.map_err(|error| error.to_string())?;
            let trace = node.metadata.annotations.unwrap_or_default();
            let trace = trace.get(&names::node_traceparent_annotation("NodeLost")).cloned();
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let Some(found) = conditions.into_iter().find(|condition| condition.type_ == "NodeLost") else {
                return Err("no such condition".to_owned());
            };
            if found.status != status {
                return Err(format!("{}: {:?}", found.status, found.message));
            }
            Ok((found.reason.unwrap_or_default(), found.message.unwrap_or_default(), trace))
        })
        .await
    }

    /// Waits until the controller hears all agents: it says so in its metrics; here the agents' logs do.
    async fn heard(&self) {
        eventually("every agent is answered", BOUND, || async {
            for name in NODES {
                let log =
                    std::fs::read_to_string(self.dir.path().join(format!("agent-{name}.log"))).unwrap_or_default();
                let failed = log.matches("no answer to a heartbeat").count();
                if !log.contains("agent started") || log.matches("hears this node again").count() < failed {
                    return Err(format!("{name} is not heard yet"));
                }
            }
            Ok(())
        })
        .await;
        // Silence can only follow on something that was heard: a few heartbeats.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_a_stopped_agent_are_told_within_seconds_and_nobody_else_is() {
    let mut site = Site::start().await;
    site.heard().await;

    let killed = Instant::now();
    site.agents.get_mut("n-2").expect("it runs").kill();
    let (reason, message, trace) = site.until("n-2", "True", WITHIN).await;
    println!("killed: NodeLost after {} ms: {reason}: {message}", killed.elapsed().as_millis());
    assert_eq!(reason, "AgentGone", "{message}");
    assert!(trace.is_some_and(|trace| trace.parse::<evergreen_api::TraceParent>().is_ok()));

    // A process that is stopped keeps its sockets: the kernel accepts, nobody answers.
    let pid = i32::try_from(site.agents["n-3"].pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    let stopped = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it runs");
    let (reason, message, _) = site.until("n-3", "True", WITHIN).await;
    println!("stopped: NodeLost after {} ms: {reason}: {message}", stopped.elapsed().as_millis());
    assert_eq!(reason, "NodeSilent", "{message}");

    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("it is there");
    site.start_agent("n-2");
    for node in ["n-2", "n-3"] {
        let (reason, ..) = site.until(node, "False", BOUND).await;
        assert_eq!(reason, "HeartbeatsResumed");
    }
    // A farewell is no death.
    site.agents.get_mut("n-1").expect("it runs").stop(Duration::from_secs(10)).expect("it ends");
    tokio::time::sleep(WITHIN).await;
    for node in ["n-1", "n-4"] {
        let node = site.nodes.get(node).await.expect("a node");
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        assert!(conditions.iter().all(|condition| condition.type_ != "NodeLost"), "{conditions:?}");
    }
}
