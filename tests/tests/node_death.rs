//! Fast node-death detection: a real controller and real agents on a simulated data center; agents are killed and
//! stopped, and the Nodes say so.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use evergreen_api::{names, resources::all_crds};
use evergreen_tests::{
    agent::Host,
    programs::{Process, free_port, program},
    wait::eventually,
};
use evergreen_twin::{NodeSpec, Served, Twin};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::PostParams};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

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
        certificates(dir.path());
        let mut twin = Twin::builder("dc-a");
        for name in NODES {
            twin = twin.node(NodeSpec::new(name));
        }
        let twin = twin.build();
        let served = twin.serve(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
        let client = twin.client("test");
        prepare(&client, &served).await;
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

async fn prepare(client: &Client, served: &Served) {
    let make = |kind: &'static str, group: &'static str, version: &'static str, mut object: Value| async move {
        let resource = kube::api::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(kind);
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
        let object: kube::api::DynamicObject = serde_json::from_value(object).expect("an object");
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    };
    for crd in all_crds() {
        let crd = serde_json::to_value(crd).expect("a CRD is plain data");
        make("CustomResourceDefinition", "apiextensions.k8s.io", "v1", crd).await;
    }
    let namespace = names::SYSTEM_NAMESPACE;
    make("Namespace", "", "v1", json!({"metadata": {"name": namespace}})).await;
    let register =
        json!({"metadata": {"name": names::ASSIGNMENTS, "namespace": namespace}, "data": {"register": "{}"}});
    make("ConfigMap", "", "v1", register).await;
    let secret = json!({"metadata": {"name": "evergreen-site-dc-a", "namespace": namespace},
        "stringData": {"kubeconfig": served.kubeconfig("controller:dc-a")}});
    make("Secret", "", "v1", secret).await;
    let data_center = json!({"metadata": {"name": "dc-a"}, "spec": {"profile": "fast",
        "apiServer": {"kubeconfigSecret": "evergreen-site-dc-a"}}});
    make("DataCenter", "evergreen.dev", "v1alpha1", data_center).await;
}

fn certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("a certificate");
    std::fs::write(dir.join("ca.crt"), certificate.pem()).expect("a file");
    let issuer = Issuer::new(authority, key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("agent", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(dir.join(format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}
