//! Node death on a real API server: real agents with tokens bound to their pods, a real controller that demands them, and
//! a plane. A node dies three times: without any playbook, with the shipped one, which observes, and with one that
//! enforces. Each time the Node says so within seconds, an Event does, and the incident ends.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use evergreen_api::resources::{PlaybookRunStatus, RunPhase};
use evergreen_tests::{
    agent::Host,
    controller::{SITE, leader, playbook, prepare, run_of, runs_for},
    http,
    kubernetes::{Cluster, MARK, cluster},
    node::SimulatedNode,
    programs::{Process, free_port, program},
    rights::kubeconfig_of,
    site_tls,
    wait::eventually,
};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{NodeCondition, Pod, ServiceAccount},
    events::v1::Event,
};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::{Value, json};

const NODES: [&str; 4] = ["lost-1", "lost-2", "lost-3", "lost-4"];
const VICTIM: &str = "lost-2";
const BOUND: Duration = Duration::from_secs(60);
/// From the fault to the condition; a loaded machine is slower than a data center. The test prints what it took.
const WITHIN: Duration = Duration::from_secs(15);

struct World {
    cluster: Cluster,
    dir: tempfile::TempDir,
    endpoint: u16,
    web: String,
    agent_kubeconfig: PathBuf,
    hosts: BTreeMap<&'static str, Host>,
    nodes: BTreeMap<&'static str, SimulatedNode>,
    agents: BTreeMap<&'static str, Process>,
    _others: Vec<Process>,
}

/// A token of the agents' ServiceAccount that is bound to a pod on that node, as the kubelet mounts it.
async fn token(cluster: &Cluster, node: &str, dir: &Path) -> PathBuf {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "evergreen-system");
    let name = format!("agent-{node}");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {MARK: "agent"}},
        "spec": {"nodeName": node, "serviceAccountName": "evergreen-agent", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "localhost/none:1"}]},
    }))
    .expect("a pod");
    let pod = pods.create(&PostParams::default(), &pod).await.expect("the agent's pod");
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "evergreen-system");
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(name),
        uid: pod.uid(),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(3_600),
            bound_object_ref: Some(bound),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts.create_token_request("evergreen-agent", &PostParams::default(), &request).await;
    let token = answer.expect("a token").status.expect("a token request is answered").token.expect("a token");
    let path = dir.join(format!("{node}.token"));
    std::fs::write(&path, token).expect("the folder is writable");
    path
}

impl World {
    async fn start(cluster: Cluster) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        prepare(&cluster).await;
        site_tls::certificates(dir.path(), &[], &[]);
        let (otlp, web) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let mut command = Command::new(program("evergreen-plane"));
        command.args(["--grpc-listen", &otlp, "--web-listen", &web]);
        command.args(["--http-listen", &format!("127.0.0.1:{}", free_port())]);
        command.arg("--data-dir").arg(dir.path().join("plane"));
        let plane = Process::start("plane", command, dir.path()).expect("a plane");
        let endpoint = free_port();
        let file = |name: &str| dir.path().join(name);
        let agent_kubeconfig = kubeconfig_of("agent", &cluster, dir.path()).await;
        let mut command = Command::new(program("evergreen-controller"));
        command.args(["--site", SITE, "--require-agent-token", "--replica", "one", "--kubeconfig"]);
        command.arg(kubeconfig_of("controller", &cluster, dir.path()).await);
        command.arg("--listen").arg(format!("127.0.0.1:{endpoint}"));
        command.arg("--metrics-listen").arg(format!("127.0.0.1:{}", free_port()));
        command.arg("--tls-cert").arg(file("server.crt")).arg("--tls-key").arg(file("server.key"));
        command.arg("--tls-client-ca").arg(file("ca.crt")).env_remove("KUBECONFIG").env("RUST_LOG", "info");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{otlp}"));
        let controller = Process::start("controller", command, dir.path()).expect("a controller");
        leader(&cluster.client, |_| true).await;
        let hosts = NODES.map(|name| (name, Host::boot(name, dir.path()))).into();
        let mut world = Self {
            cluster,
            endpoint,
            web,
            agent_kubeconfig,
            hosts,
            nodes: BTreeMap::new(),
            agents: BTreeMap::new(),
            _others: vec![plane, controller],
            dir,
        };
        for (number, name) in NODES.into_iter().enumerate() {
            let zone = format!("zone-{}", number % 2 + 1);
            world.nodes.insert(name, SimulatedNode::create(&world.cluster.client, name, &zone).await);
            token(&world.cluster, name, world.dir.path()).await;
            world.start_agent(name, name);
        }
        world
    }

    /// An agent that speaks for `node` with the token of `of`.
    fn start_agent(&mut self, node: &'static str, of: &str) -> String {
        let file = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(program("evergreen-agent"));
        command.args(["--node-name", node, "--site", SITE, "--root"]).arg(&self.hosts[node].root);
        command.arg("--listen").arg(format!("127.0.0.1:{}", free_port())).arg("--kubeconfig");
        command.arg(&self.agent_kubeconfig).arg("--state-dir").arg(file(&format!("state-{node}-{of}")));
        command.arg("--site-endpoint").arg(format!("https://localhost:{}", self.endpoint));
        command.arg("--site-ca").arg(file("ca.crt")).arg("--site-cert").arg(file("agent.crt"));
        command.arg("--site-key").arg(file("agent.key")).arg("--site-token-file").arg(file(&format!("{of}.token")));
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env_remove("KUBECONFIG");
        let name = format!("agent-{node}-{of}");
        let agent = Process::start(&name, command, self.dir.path()).expect("an agent");
        self.agents.insert(if node == of { node } else { "impostor" }, agent);
        name
    }

    /// Every agent is answered, and was for some seconds.
    async fn heard(&self) {
        let dir = self.dir.path();
        eventually("every agent is answered", BOUND, || async move {
            for name in NODES {
                let log = std::fs::read_to_string(dir.join(format!("agent-{name}-{name}.log"))).unwrap_or_default();
                let failed = log.matches("no answer to a heartbeat").count();
                if !log.contains("agent started") || log.matches("hears this node again").count() < failed {
                    return Err(format!("{name} is not heard yet: {}", log.lines().last().unwrap_or_default()));
                }
            }
            Ok(())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    async fn condition(&self, status: &str, bound: Duration) -> NodeCondition {
        let victim = &self.nodes[VICTIM];
        eventually(&format!("NodeLost is {status}"), bound, || async move {
            let conditions = victim.get().await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let found = conditions.into_iter().find(|condition| condition.type_ == "NodeLost");
            let found = found.ok_or("there is no such condition")?;
            if found.status == status { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await
    }

    /// Kills the victim's agent and ends its kubelet's lease; answers the trace of the incident.
    async fn kill(&mut self) -> String {
        let before = self.events("NodeLost").await.len();
        self.agents.get_mut(VICTIM).expect("it runs").kill();
        let killed = Instant::now();
        let condition = self.condition("True", WITHIN).await;
        println!("NodeLost after {} ms: {}", killed.elapsed().as_millis(), condition.message.unwrap_or_default());
        let trace =
            self.nodes[VICTIM].get().await.expect("a node").annotations()["evergreen.dev/traceparent.NodeLost"].clone();
        let this = &*self;
        let event = eventually("an Event tells it", BOUND, || async move {
            let events = this.events("NodeLost").await;
            if events.len() > before { Ok(events) } else { Err(format!("{} Events", events.len())) }
        })
        .await;
        assert!(
            event.iter().any(|event| event.annotations().get("evergreen.dev/traceparent") == Some(&trace)),
            "{event:?}"
        );
        trace
    }

    async fn events(&self, reason: &str) -> Vec<Event> {
        let events: Api<Event> = Api::all(self.cluster.client.clone());
        let list = events.list(&Default::default()).await.expect("events are listed");
        let about = |event: &Event| event.regarding.as_ref().and_then(|object| object.name.clone());
        list.into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason) && about(event).as_deref() == Some(VICTIM))
            .collect()
    }

    async fn return_of_the_victim(&mut self) {
        self.start_agent(VICTIM, VICTIM);
        let condition = self.condition("False", BOUND).await;
        assert_eq!(condition.reason.as_deref(), Some("HeartbeatsResumed"));
        assert!(!self.events("NodeReturned").await.is_empty());
    }

    /// How the plane tells the incident.
    async fn incident(&self, trace: &str, state: &str) {
        let url = format!("http://{}/api/v1/incidents/{}", self.web, &trace[3..35]);
        let url = &url;
        eventually(&format!("the incident is {state}"), BOUND, || async move {
            let (code, text) = http::get(url).await?;
            let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let found = answer.pointer("/incident/state").or_else(|| answer.get("state")).and_then(Value::as_str);
            if found == Some(state) { Ok(()) } else { Err(format!("{code} {found:?}")) }
        })
        .await;
    }
}

/// The shipped playbook, with that in place of its own.
fn shipped(mode: &str, changes: Value) -> Value {
    let path = evergreen_tests::root().join("playbooks/library/node-lost.yaml");
    let text = std::fs::read_to_string(path).expect("it is shipped");
    let mut spec: Value = serde_yaml::from_str::<Value>(&text).expect("YAML")["spec"].take();
    spec["mode"] = json!(mode);
    for (key, value) in changes.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_told_its_playbook_runs_and_the_incident_ends() {
    let Some(cluster) = cluster("cluster: node death").await else { return };
    let mut world = World::start(cluster).await;
    world.heard().await;

    // An agent cannot speak for another node than the one of its pod.
    let impostor = world.start_agent("lost-4", "lost-3");
    let log = world.dir.path().join(format!("{impostor}.log"));
    eventually("the impostor is refused", BOUND, || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("403") { Ok(()) } else { Err(text.lines().last().unwrap_or_default().to_owned()) }
    })
    .await;
    world.agents.remove("impostor");

    // No playbook at all: told, and over when the node is back.
    let trace = world.kill().await;
    world.incident(&trace, "open").await;
    assert_eq!(runs_for(&world.cluster.client, VICTIM).await.unwrap().len(), 0);
    world.return_of_the_victim().await;
    world.incident(&trace, "healed").await;

    // As shipped it observes: a run says what it would do, and nothing is done.
    playbook(&world.cluster.client, "node-lost", shipped("observe", json!({}))).await;
    world.heard().await;
    let trace = world.kill().await;
    let observed = |status: &PlaybookRunStatus| status.phase == RunPhase::Observed;
    let run = eventually("the run observes", BOUND, || async {
        let runs = runs_for(&world.cluster.client, VICTIM).await?;
        let run = runs.into_iter().find(|run| run.status.as_ref().is_some_and(&observed));
        run.ok_or_else(|| "no run has observed".to_owned())
    })
    .await;
    assert_eq!(run.spec.traceparent.as_deref().map(|t| &t[3..35]), Some(&trace[3..35]), "one incident, one trace");
    assert_ne!(world.nodes[VICTIM].get().await.unwrap().spec.unwrap().unschedulable, Some(true));
    world.return_of_the_victim().await;

    // Enforced: cordoned within seconds, given back when it is back and calm.
    let runs: Api<evergreen_api::resources::PlaybookRun> =
        Api::namespaced(world.cluster.client.clone(), "evergreen-system");
    let playbooks: Api<evergreen_api::resources::Playbook> = Api::all(world.cluster.client.clone());
    playbooks.delete("node-lost", &Default::default()).await.expect("it was there");
    runs.delete_collection(&Default::default(), &Default::default()).await.expect("runs are deleted");
    let changes = json!({
        "guards": {"budget": {"maxUnavailable": 1}},
        "steps": [
            {"cordon": {}},
            {"wait": {"until": "node.ready && !node.condition('NodeLost')", "timeout": "2m"}},
            {"verify": {"that": "node.ready && !node.condition('NodeLost')", "for": "1s", "timeout": "1m"}},
            {"uncordon": {}},
        ],
    });
    playbook(&world.cluster.client, "node-lost-enforced", shipped("enforce", changes)).await;
    world.heard().await;
    let trace = world.kill().await;
    let waits = |status: &PlaybookRunStatus| status.log.last().is_some_and(|record| record.action == "wait");
    run_of(&world.cluster.client, VICTIM, "the node is cordoned", BOUND, waits).await;
    assert_eq!(world.nodes[VICTIM].get().await.unwrap().spec.unwrap().unschedulable, Some(true));
    world.return_of_the_victim().await;
    let done = |status: &PlaybookRunStatus| status.phase == RunPhase::Succeeded;
    run_of(&world.cluster.client, VICTIM, "the run succeeds", BOUND, done).await;
    assert_ne!(world.nodes[VICTIM].get().await.unwrap().spec.unwrap().unschedulable, Some(true));
    world.incident(&trace, "healed").await;
    for name in NODES.into_iter().filter(|name| *name != VICTIM) {
        let status = world.nodes[name].get().await.unwrap().status.unwrap_or_default();
        assert!(status.conditions.unwrap_or_default().iter().all(|c| c.type_ != "NodeLost"), "{name}");
    }
    let pods: Api<Pod> = Api::namespaced(world.cluster.client.clone(), "evergreen-system");
    for (name, node) in std::mem::take(&mut world.nodes) {
        let _ = pods.delete(&format!("agent-{name}"), &kube::api::DeleteParams::default().grace_period(0)).await;
        node.remove().await;
    }
}
