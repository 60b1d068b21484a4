//! Grants as a load balancer's health check: a real HAProxy asks real agents `GET /grants/{group}`; traffic stops by itself
//! when the controller dies, when an agent is paused and when the network between them is cut.
//!
//! With D = 6 s a site may grant until 3.4 s after its last renewal and the edge has 2 s to stop, so 5.4 s after a fault
//! nobody is served; another site starts at 6.6 s at the earliest.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use evergreen_api::names;
use evergreen_tests::{
    agent::Host,
    http,
    parts::{self, Haproxy},
    programs::{Process, free_port, program},
    site_tls,
    skip::skipped,
    wait::eventually,
};
use evergreen_twin::{NodeSpec, Served, Twin};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const GROUP: &str = "shop.checkout";
const NODE: &str = "n-1";
const BOUND: Duration = Duration::from_secs(60);
/// Another site starts now at the earliest: D(1+rho).
const OTHERS_START: Duration = Duration::from_millis(6_600);
/// 5 x D with `make test-traffic`, enough to outlive every grant otherwise.
fn pause() -> Duration {
    Duration::from_secs(if std::env::var_os("EVERGREEN_TEST_TRAFFIC").is_some() { 30 } else { 8 })
}

/// Carries bytes between the agent and the controller until it is told to keep them.
struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Cable {
    async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                let is_cut = is_cut.clone();
                tokio::spawn(async move {
                    let Ok(outer) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    let ((from_inner, to_inner), (from_outer, to_outer)) = (inner.into_split(), outer.into_split());
                    tokio::join!(carry(from_inner, to_outer, is_cut.clone()), carry(from_outer, to_inner, is_cut));
                });
            }
        });
        Self { port, cut }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

/// A cut cable answers nothing, not even a reset.
async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        while cut.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// The application behind the load balancer: it answers whatever happens to the rest.
async fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 2_048];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
            });
        }
    });
    port
}

struct Site {
    dir: tempfile::TempDir,
    served: Served,
    _twin: Twin,
    controller: Option<Process>,
    agent: Process,
    agent_at: SocketAddr,
    cable: Cable,
    endpoint: u16,
    haproxy: Haproxy,
    _host: Host,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        site_tls::certificates(dir.path(), &[], &[]);
        let twin = Twin::builder("dc-a").node(NodeSpec::new(NODE)).build();
        let served = twin.serve(([127, 0, 0, 1], 0).into()).await.expect("a loopback port");
        let client = twin.client("test");
        site_tls::prepare(&client, &[("dc-a", &served)]).await;
        service(&client).await;
        let endpoint = free_port();
        let cable = Cable::to(endpoint).await;
        let host = Host::boot(NODE, dir.path());
        let agent_at: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let file = |name: &str| dir.path().join(name);
        std::fs::write(file("agent.kubeconfig"), served.kubeconfig(&format!("agent:{NODE}"))).expect("a kubeconfig");
        let mut command = Command::new(program("evergreen-agent"));
        command.args(["--node-name", NODE, "--site", "dc-a", "--root"]).arg(&host.root);
        command.arg("--listen").arg(agent_at.to_string()).arg("--kubeconfig").arg(file("agent.kubeconfig"));
        command.arg("--state-dir").arg(file("state"));
        command.arg("--site-endpoint").arg(format!("https://localhost:{}", cable.port));
        command.arg("--site-ca").arg(file("ca.crt")).arg("--site-cert").arg(file("agent.crt"));
        command.arg("--site-key").arg(file("agent.key")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        let agent = Process::start("agent", command, dir.path()).expect("an agent");
        let app = application().await;
        let haproxy = Haproxy::start(
            dir.path(),
            &format!(
                "frontend checkout\n    bind {{front}}\n    default_backend checkout\n\
                 backend checkout\n    option httpchk GET /grants/{GROUP}\n    http-check expect status 200\n\
                 default-server inter 400ms fall 2 rise 1 on-marked-down shutdown-sessions\n    \
                 server n-1 127.0.0.1:{app} check addr 127.0.0.1 port {}",
                agent_at.port()
            ),
        )
        .await;
        let mut site =
            Self { dir, served, _twin: twin, controller: None, agent, agent_at, cable, endpoint, haproxy, _host: host };
        site.start_controller();
        site
    }

    fn start_controller(&mut self) {
        let file = |name: &str| self.dir.path().join(name);
        std::fs::write(file("controller.kubeconfig"), self.served.kubeconfig("controller:dc-a")).expect("a kubeconfig");
        let mut command = Command::new(program("evergreen-controller"));
        command.args(["--site", "dc-a", "--kubeconfig"]).arg(file("controller.kubeconfig"));
        command.arg("--metrics-listen").arg(format!("127.0.0.1:{}", free_port()));
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.endpoint));
        command.arg("--tls-cert").arg(file("server.crt")).arg("--tls-key").arg(file("server.key"));
        command.arg("--tls-client-ca").arg(file("ca.crt")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        self.controller = Some(Process::start("controller", command, self.dir.path()).expect("a controller"));
    }

    /// Whether a client is served.
    async fn served(&self) -> bool {
        let url = format!("http://{}/", self.haproxy.front);
        matches!(http::get(&url).await, Ok((200, _)))
    }

    async fn until_served(&self) {
        eventually("clients are served", BOUND, || async {
            if self.served().await { Ok(()) } else { Err("no".to_owned()) }
        })
        .await;
    }

    /// When the last client was served after `fault`, having asked all the time for `span`.
    async fn last_served(&self, fault: Instant, span: Duration) -> Duration {
        let mut last = Duration::ZERO;
        while fault.elapsed() < span {
            let asked = fault.elapsed();
            if self.served().await {
                last = asked;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        last
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.agent.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    async fn grant(&self) -> u16 {
        let url = format!("http://{}/grants/{GROUP}", self.agent_at);
        http::get(&url).await.map_or(0, |(status, _)| status)
    }
}

/// A service that this site alone serves.
async fn service(client: &Client) {
    let make = async |group: &str, version: &str, kind: &str, mut object: Value| {
        let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if kind == "MultiActiveService" {
            resource.plural = "multiactiveservices".into();
        }
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(kind);
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    };
    make("", "v1", "Namespace", json!({"metadata": {"name": "shop"}})).await;
    let labels = json!({"app": "checkout"});
    make("apps", "v1", "Deployment", json!({"metadata": {"name": "checkout", "namespace": "shop"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}}}}))
    .await;
    let deployments = Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(client.clone(), "shop");
    let ready = Patch::Merge(json!({"status": {"readyReplicas": 1, "replicas": 1}}));
    deployments.patch_status("checkout", &PatchParams::default(), &ready).await.expect("a status");
    make(
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
        json!({"metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"rules": [{"backendRefs": [{"name": "checkout", "port": 80}]}]}}),
    )
    .await;
    make(names::GROUP, names::VERSION, "MultiActiveService", json!({"metadata": {"name": "checkout", "namespace": "shop"}, "spec": {
        "mode": "ActiveActive", "kind": "query", "sites": ["dc-a"], "minActive": 1, "workload": {"deployment": "checkout"},
        "enforcement": "enforce", "decision": {"planned": "auto", "unplanned": "auto"},
        "traffic": [{"httpRoute": {"name": "checkout", "backends": [{"site": "dc-a", "local": "checkout", "remote": "checkout", "port": 80}]}}]}}))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_stops_by_itself_when_the_controller_dies_an_agent_is_paused_or_the_network_is_cut() {
    if let Some(remedy) = parts::missing(&[("haproxy", "haproxy")]) {
        return skipped("grants as HAProxy's health check", &remedy);
    }
    let mut site = Site::start().await;
    site.until_served().await;

    let fault = Instant::now();
    site.controller.take().expect("it runs").kill();
    let last = site.last_served(fault, Duration::from_secs(9)).await;
    println!(
        "controller killed: last client served after {} ms (must end before {} ms)",
        last.as_millis(),
        OTHERS_START.as_millis()
    );
    assert!(last > Duration::ZERO && last < OTHERS_START, "{last:?}");
    assert_eq!(site.grant().await, 410);
    site.start_controller();
    site.until_served().await;

    let fault = Instant::now();
    site.signal(rustix::process::Signal::STOP);
    let last = site.last_served(fault, pause()).await;
    println!("agent stopped for {} s: last client served after {} ms", pause().as_secs(), last.as_millis());
    assert!(last < OTHERS_START, "{last:?}");
    // What was granted before the pause is worth nothing after it: without the controller no new grant comes.
    site.controller.take().expect("it runs").kill();
    site.signal(rustix::process::Signal::CONT);
    assert_eq!(site.grant().await, 410, "a grant outlived the pause");
    site.start_controller();
    site.until_served().await;

    let fault = Instant::now();
    site.cable.cut(true);
    let last = site.last_served(fault, Duration::from_secs(9)).await;
    println!(
        "network cut: last client served after {} ms (must end before {} ms)",
        last.as_millis(),
        OTHERS_START.as_millis()
    );
    assert!(last > Duration::ZERO && last < OTHERS_START, "{last:?}");
    site.cable.cut(false);
    site.until_served().await;
}
