//! The network mesh on real networks: two data centers of three nodes, each node a network namespace with a real agent,
//! each data center a bridge with a real controller; `tc netem` spoils one link, one node, one way between the data
//! centers, and each is told apart. It needs root, `ip` and `tc`, takes minutes, and runs with `make test-network` only.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use evergreen_tests::{
    agent::Host,
    programs::{Process, program},
    site_tls,
    skip::skipped,
    wait::eventually,
};
use evergreen_twin::{NodeSpec, Served, Twin};
use k8s_openapi::api::{core::v1::Node, events::v1::Event};
use kube::{Api, Client};

/// Set by `make test-network`.
const WANTED: &str = "EVERGREEN_TEST_NETWORK";
const SITES: [&str; 2] = ["dc-a", "dc-b"];
const NODES: usize = 3;
/// Longest time from a fault to its telling: windows of 30 probes fill to a quarter, two looks five seconds apart; four
/// for a link; and a machine that is busy.
const WITHIN: Duration = Duration::from_secs(90);

/// Runs `ip` or `tc` and the like.
fn sh(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// All namespaces and links of this test; removed when dropped. Everything is named after this process.
struct Network {
    id: u32,
}

impl Network {
    /// The machine's own namespace holds nothing but one end of two links: bridges are in namespaces, too.
    ///
    /// Site `s` has 10.77.s.0/24; node `n` is 10.77.s.1n, the machine's own end 10.77.s.1 (API server and controller).
    fn build() -> Result<Self, String> {
        let this = Self { id: std::process::id() };
        for site in 0..SITES.len() {
            let bridge = this.bridge(site);
            sh(&format!("ip netns add {bridge}"))?;
            sh(&format!("ip -n {bridge} link add br0 type bridge"))?;
            sh(&format!("ip -n {bridge} link set br0 up"))?;
            sh(&format!("ip -n {bridge} link set lo up"))?;
            // The machine, where the controller and the simulated API server of the site are.
            let own = format!("egm{}{site}", this.id % 100_000);
            sh(&format!("ip link add {own} type veth peer name host netns {bridge}"))?;
            sh(&format!("ip addr add 10.77.{site}.1/24 dev {own}"))?;
            sh(&format!("ip link set {own} up"))?;
            sh(&format!("ip -n {bridge} link set host master br0 up"))?;
            for node in 0..NODES {
                let name = this.node(site, node);
                sh(&format!("ip netns add {name}"))?;
                sh(&format!("ip link add eth0 netns {name} type veth peer name n{node} netns {bridge}"))?;
                sh(&format!("ip -n {bridge} link set n{node} master br0 up"))?;
                sh(&format!("ip -n {name} addr add 10.77.{site}.1{node}/24 dev eth0"))?;
                sh(&format!("ip -n {name} link set eth0 up"))?;
                sh(&format!("ip -n {name} link set lo up"))?;
                sh(&format!("ip -n {name} route add default via 10.77.{site}.254"))?;
            }
            sh(&format!("ip -n {bridge} addr add 10.77.{site}.254/24 dev br0"))?;
            sh(&format!("ip netns exec {bridge} sysctl -qw net.ipv4.ip_forward=1"))?;
        }
        // The way between the data centers joins the two bridges' namespaces, which route.
        let (a, b) = (this.bridge(0), this.bridge(1));
        sh(&format!("ip link add wan netns {a} type veth peer name wan netns {b}"))?;
        for (name, own, other, there) in [(&a, 1, 2, 1), (&b, 2, 1, 0)] {
            sh(&format!("ip -n {name} addr add 10.77.99.{own}/24 dev wan"))?;
            sh(&format!("ip -n {name} link set wan up"))?;
            sh(&format!("ip -n {name} route add 10.77.{there}.0/24 via 10.77.99.{other}"))?;
        }
        // Not every kernel has both kinds.
        let name = this.node(0, 0);
        for kind in ["netem", "prio"] {
            sh(&format!("tc -n {name} qdisc add dev eth0 root {kind}"))?;
            sh(&format!("tc -n {name} qdisc del dev eth0 root"))?;
        }
        Ok(this)
    }

    fn bridge(&self, site: usize) -> String {
        format!("eg{}-{site}", self.id)
    }

    fn node(&self, site: usize, node: usize) -> String {
        format!("eg{}-{site}-{node}", self.id)
    }

    fn spoil(&self, namespace: &str, device: &str, how: &str) {
        sh(&format!("tc -n {namespace} qdisc add dev {device} root netem {how}")).expect("tc netem");
    }

    /// Spoils what goes from a node to one address only.
    fn spoil_towards(&self, namespace: &str, address: &str, how: &str) {
        for line in [
            "qdisc add dev eth0 root handle 1: prio bands 4".to_owned(),
            format!("qdisc add dev eth0 parent 1:4 handle 40: netem {how}"),
            format!("filter add dev eth0 protocol ip parent 1:0 prio 1 u32 match ip dst {address}/32 flowid 1:4"),
        ] {
            sh(&format!("tc -n {namespace} {line}")).expect("tc");
        }
    }

    fn mend(&self, namespace: &str, device: &str) {
        sh(&format!("tc -n {namespace} qdisc del dev {device} root")).expect("tc");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for site in 0..SITES.len() {
            for name in (0..NODES).map(|node| self.node(site, node)).chain([self.bridge(site)]) {
                // What is gone already cannot be removed again.
                let _ = sh(&format!("ip netns del {name}"));
            }
            let _ = sh(&format!("ip link del egm{}{site}", self.id % 100_000));
        }
    }
}

struct Site {
    client: Client,
    served: Served,
    metrics: SocketAddr,
    _controller: Option<Process>,
    _agents: Vec<Process>,
    _hosts: Vec<Host>,
}

fn node_name(site: usize, node: usize) -> String {
    format!("{}-n{node}", SITES[site])
}

async fn serve(site: usize) -> (Twin, Served) {
    let mut twin = Twin::builder(SITES[site]);
    for node in 0..NODES {
        twin = twin.node(NodeSpec::new(&node_name(site, node)));
    }
    let twin = twin.build();
    let served = twin.serve(SocketAddr::from(([10, 77, site as u8, 1], 6443))).await.expect("the site's own address");
    (twin, served)
}

fn start(network: &Network, site: usize, world: &mut Site, dir: &Path) {
    let name = SITES[site];
    let file = |name: &str| dir.join(name);
    let kubeconfig = file(&format!("{name}.kubeconfig"));
    std::fs::write(&kubeconfig, world.served.kubeconfig(&format!("controller:{name}"))).expect("a kubeconfig");
    let mut command = Command::new(program("evergreen-controller"));
    command.args(["--site", name, "--require-agent-token", "--kubeconfig"]).arg(kubeconfig);
    command.args(["--listen", &format!("10.77.{site}.1:9443"), "--metrics-listen", &world.metrics.to_string()]);
    command.arg("--tls-cert").arg(file("server.crt")).arg("--tls-key").arg(file("server.key"));
    command.arg("--tls-client-ca").arg(file("ca.crt")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    world._controller = Some(Process::start(&format!("controller-{name}"), command, dir).expect("a controller"));
    for node in 0..NODES {
        let node_name = node_name(site, node);
        let host = Host::boot(&node_name, dir);
        let kubeconfig = file(&format!("{node_name}.kubeconfig"));
        std::fs::write(&kubeconfig, world.served.kubeconfig(&format!("agent:{node_name}"))).expect("a kubeconfig");
        let token = file(&format!("{node_name}.token"));
        std::fs::write(&token, format!("system:serviceaccount:evergreen-system:evergreen-agent@{node_name}"))
            .expect("a token");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &network.node(site, node)]).arg(program("evergreen-agent"));
        command.args(["--node-name", &node_name, "--site", name, "--listen", &format!("10.77.{site}.1{node}:9464")]);
        command.arg("--root").arg(&host.root).arg("--kubeconfig").arg(kubeconfig);
        command.arg("--state-dir").arg(file(&format!("state-{node_name}"))).arg("--site-token-file").arg(token);
        command.args(["--site-endpoint", &format!("https://10.77.{site}.1:9443")]);
        command.arg("--site-ca").arg(file("ca.crt")).arg("--site-cert").arg(file("agent.crt"));
        command.arg("--site-key").arg(file("agent.key")).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        world._agents.push(Process::start(&format!("agent-{node_name}"), command, dir).expect("an agent"));
        world._hosts.push(host);
    }
}

/// Faults that a controller tells now, as `kind subject`.
async fn faults(site: &Site) -> Result<BTreeSet<String>, String> {
    let (_, text) = evergreen_tests::http::get(&format!("http://{}/metrics", site.metrics)).await?;
    let label = |line: &str, name: &str| -> Option<String> {
        Some(line.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.to_owned())
    };
    let lines = text.lines().filter(|line| line.starts_with("evergreen_mesh_fault{"));
    Ok(lines
        .filter_map(|line| {
            Some(format!(
                "{} {}",
                label(line, "evergreen_mesh_fault_kind")?,
                label(line, "evergreen_mesh_fault_subject")?
            ))
        })
        .collect())
}

/// Waits until the controllers tell exactly these faults; `None` lets one tell what it likes.
async fn told(sites: &[Site], wanted: [Option<&[&str]>; 2]) {
    let begun = Instant::now();
    let own = |faults: &[&str]| -> BTreeSet<String> { faults.iter().map(|fault| (*fault).to_owned()).collect() };
    let wanted: Vec<Option<BTreeSet<String>>> = wanted.into_iter().map(|faults| faults.map(own)).collect();
    let wrong = RefCell::new(BTreeMap::<String, usize>::new());
    let (wanted, wrong) = (&wanted, &wrong);
    eventually(&format!("{wanted:?} is told"), WITHIN, || async move {
        let seen = [faults(&sites[0]).await?, faults(&sites[1]).await?];
        let mut all = true;
        for (seen, wanted) in seen.iter().zip(wanted).filter_map(|(seen, wanted)| Some((seen, wanted.as_ref()?))) {
            all &= seen == wanted;
            // While something is waited for, nothing else may be told; what was mended may stay for a moment.
            for other in seen.difference(wanted).filter(|_| !wanted.is_empty()) {
                *wrong.borrow_mut().entry(other.clone()).or_default() += 1;
            }
        }
        if all { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    println!("{wanted:?} after {:.0} s", begun.elapsed().as_secs_f64());
    assert!(wrong.borrow().is_empty(), "blamed meanwhile: {:?}", wrong.borrow());
}

async fn condition(site: &Site, node: &str) -> Result<Option<String>, String> {
    let node = Api::<Node>::all(site.client.clone()).get(node).await.map_err(|error| error.to_string())?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.into_iter().find(|c| c.type_ == "NetworkUnreachable" && c.status == "True").and_then(|c| c.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_a_node_and_the_way_between_two_data_centers_are_told_apart() {
    let check = "network mesh in namespaces";
    if std::env::var_os(WANTED).is_none() {
        return skipped(check, "it takes minutes; run `make test-network` as root");
    }
    let network = match Network::build() {
        Ok(network) => network,
        Err(why) => return skipped(check, &format!("it needs root, ip and tc with netem: {why}")),
    };
    let dir = tempfile::tempdir().expect("a folder");
    site_tls::certificates(dir.path(), &["10.77.0.1", "10.77.1.1"], &[]);
    let (twin_a, served_a) = serve(0).await;
    let (twin_b, served_b) = serve(1).await;
    let all = [(SITES[0], &served_a), (SITES[1], &served_b)];
    site_tls::prepare(&twin_a.client("test"), &all).await;
    site_tls::prepare(&twin_b.client("test"), &all).await;
    let mut sites: Vec<Site> = [(twin_a.client("test"), served_a), (twin_b.client("test"), served_b)]
        .into_iter()
        .enumerate()
        .map(|(site, (client, served))| Site {
            client,
            served,
            metrics: SocketAddr::from(([10, 77, site as u8, 1], 9465)),
            _controller: None,
            _agents: Vec::new(),
            _hosts: Vec::new(),
        })
        .collect();
    for (number, site) in sites.iter_mut().enumerate() {
        start(&network, number, site, dir.path());
    }
    let paths = |text: &str| text.lines().filter(|line| line.starts_with("evergreen_mesh_rtt_seconds{")).count();
    for (site, node) in (0..2).flat_map(|site| (0..NODES).map(move |node| (site, node))) {
        let (network, dir) = (&network, dir.path());
        eventually("every agent knows its two peers here and two there", Duration::from_secs(180), || async move {
            let name = network.node(site, node);
            let url = format!("http://10.77.{site}.1{node}:9464/metrics");
            let answer = Command::new("ip").args(["netns", "exec", &name, "curl", "-s", "-m", "2", &url]).output();
            let text = String::from_utf8_lossy(&answer.map_err(|e| e.to_string())?.stdout).into_owned();
            let log = std::fs::read_to_string(dir.join(format!("agent-{}.log", node_name(site, node))));
            let last = log.unwrap_or_default().lines().last().unwrap_or_default().to_owned();
            if paths(&text) == 4 { Ok(()) } else { Err(format!("{} paths at {name}; {last}", paths(&text))) }
        })
        .await;
    }
    // The usual times are known after a few probes.
    tokio::time::sleep(Duration::from_secs(20)).await;
    told(&sites, [Some(&[]), Some(&[])]).await;

    let (node_0, bridge) = (network.node(0, 0), network.bridge(0));
    network.spoil_towards(&node_0, "10.77.0.11", "loss 100%");
    told(&sites, [Some(&["link dc-a-n0 - dc-a-n1"]), Some(&[])]).await;
    assert_eq!(condition(&sites[0], "dc-a-n0").await, Ok(None), "a link is no node");
    network.mend(&node_0, "eth0");
    told(&sites, [Some(&[]), Some(&[])]).await;

    // Nearly half of what leaves the node: its heartbeats come through.
    network.spoil(&network.node(0, 2), "eth0", "loss 45%");
    told(&sites, [Some(&["node dc-a-n2"]), None]).await;
    let message = eventually("the condition", Duration::from_secs(60), || async {
        condition(&sites[0], "dc-a-n2").await?.ok_or_else(|| "it is not raised".to_owned())
    })
    .await;
    println!("condition: {message}");
    for other in ["dc-a-n0", "dc-a-n1"] {
        assert_eq!(condition(&sites[0], other).await, Ok(None), "{other}");
    }
    let events = Api::<Event>::all(sites[0].client.clone()).list(&Default::default()).await.expect("events");
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("NetworkFault")
        && event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some("dc-a-n2")));
    network.mend(&network.node(0, 2), "eth0");
    told(&sites, [Some(&[]), Some(&[])]).await;
    let sites_now = &sites;
    eventually("the condition ends", Duration::from_secs(60), || async move {
        condition(&sites_now[0], "dc-a-n2").await?.map_or(Ok(()), Err)
    })
    .await;

    network.spoil(&bridge, "wan", "delay 150ms");
    let between = "between_sites dc-a - dc-b";
    told(&sites, [Some(&[between]), Some(&[between])]).await;
    network.mend(&bridge, "wan");
    told(&sites, [Some(&[]), Some(&[])]).await;

    network.spoil(&bridge, "wan", "loss 60%");
    told(&sites, [Some(&[between]), Some(&[between])]).await;
    network.mend(&bridge, "wan");
    told(&sites, [Some(&[]), Some(&[])]).await;
}
