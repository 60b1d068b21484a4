//! A storm in the real kernel log, against the real agent and a small API server: what is counted, what is lost, how long
//! a line takes to become a condition of the Node, and what that costs.
//!
//! ```text
//! storm AGENT [SECONDS] [LINES_A_SECOND]
//! ```
//!
//! Needs a /dev/kmsg that may be written; it writes debug messages that no rule but its own knows. Ends with 1 when a count
//! is wrong, the 99th percentile is above a second, memory grew, or the agent ended.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, Router, body::Bytes, extract::State, http::Method, http::Uri, response::IntoResponse};
use parking_lot::Mutex;
use serde_json::{Value, json};

const NODE: &str = "storm";
/// The kernel lets a writer of /dev/kmsg pass so many records; opening it anew begins to count anew.
const LINES_AN_OPENING: u64 = 10;
/// Markers are this far apart: a Node is written at most once a second.
const BETWEEN_MARKERS: Duration = Duration::from_millis(2_100);
/// Conditions that markers take turns with; each is ended half a turn later.
const MARKERS: usize = 8;
/// Memory may grow by so much once the storm is on.
const MAY_GROW_KIB: u64 = 4 << 10;

#[derive(Default)]
struct Cluster {
    /// When a condition was written as True that was not before.
    raised: Vec<(String, Instant)>,
    conditions: BTreeMap<String, bool>,
    annotations: serde_json::Map<String, Value>,
    health: Value,
    node_writes: u64,
}

type Shared = Arc<Mutex<Cluster>>;

async fn answer(State(cluster): State<Shared>, method: Method, uri: Uri, body: Bytes) -> axum::response::Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = uri.path();
    if path.ends_with("/pods") {
        if uri.query().is_some_and(|query| query.contains("watch=")) {
            std::future::pending::<()>().await;
        }
        return Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}))
            .into_response();
    }
    let mut cluster = cluster.lock();
    if path.starts_with("/api/v1/nodes/") {
        if method != Method::GET {
            cluster.node_writes += 1;
            let now = Instant::now();
            for condition in body["status"]["conditions"].as_array().into_iter().flatten() {
                let name = condition["type"].as_str().unwrap_or_default().to_owned();
                let is = condition["status"] == "True";
                if is && cluster.conditions.insert(name.clone(), is) != Some(true) {
                    cluster.raised.push((name, now));
                } else {
                    cluster.conditions.insert(name, is);
                }
            }
            if let Some(annotations) = body["metadata"]["annotations"].as_object() {
                cluster.annotations.extend(annotations.clone());
            }
        }
        let metadata = json!({"name": NODE, "annotations": cluster.annotations});
        return Json(json!({"kind": "Node", "apiVersion": "v1", "metadata": metadata, "status": {"conditions": []}}))
            .into_response();
    }
    if path.contains("/nodehealths") {
        if body["status"].is_object() {
            cluster.health = body["status"].clone();
        }
        return Json(json!({"kind": "NodeHealth", "apiVersion": "evergreen.dev/v1alpha1", "metadata": {"name": NODE},
            "spec": {"nodeName": NODE}, "status": cluster.health}))
        .into_response();
    }
    Json(body).into_response()
}

fn write_lines(first: u64, count: u64) -> std::io::Result<()> {
    let mut next = first;
    while next < first + count {
        let mut kmsg = OpenOptions::new().write(true).open("/dev/kmsg")?;
        for n in next..(next + LINES_AN_OPENING).min(first + count) {
            kmsg.write_all(format!("<7>evergreen-storm: line {n}\n").as_bytes())?;
        }
        next += LINES_AN_OPENING;
    }
    Ok(())
}

fn rules() -> String {
    let mut text = evergreen_agent::kernel::rules::BUILT_IN.to_owned();
    text.push_str("  - {id: storm, kind: Custom, name: StormHeard, severity: warning, match: ['^evergreen-storm: line (?P<n>\\d+)'], summary: 'a storm'}\n");
    for n in 0..MARKERS {
        text.push_str(&format!(
            "  - {{id: marker-{n}, kind: Custom, name: Marker{n}, severity: warning, match: ['^evergreen-marker: {n}$'], \
             cancel: ['^evergreen-calm: {n}$'], summary: 'marker {n}'}}\n"
        ));
    }
    text
}

/// Resident KiB, and processor seconds.
fn cost(pid: u32) -> Option<(u64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some((rss, ticks / 100.0))
}

/// A figure of the agent's page.
fn figure(address: &str, name: &str) -> Option<f64> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: agent\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    let line = page.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn heard(cluster: &Shared, name: &str) -> Option<Value> {
    let cluster = cluster.lock();
    cluster.health["problems"].as_array()?.iter().find(|problem| problem["condition"] == name).cloned()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(agent) = args.next() else {
        eprintln!("storm AGENT [SECONDS] [LINES_A_SECOND]");
        return ExitCode::from(2);
    };
    let seconds: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(300);
    let rate: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    if let Err(error) = write_lines(0, 0).and_then(|()| OpenOptions::new().write(true).open("/dev/kmsg")) {
        println!("skipped: /dev/kmsg cannot be written ({error}); the tests have a ring in memory with its manners");
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let cluster = Shared::default();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a loopback port");
    let server = format!("http://{}", listener.local_addr().expect("it is bound"));
    let router = Router::new().fallback(answer).with_state(Arc::clone(&cluster));
    runtime.spawn(async move { axum::serve(listener, router).await });

    let folder = std::env::temp_dir().join(format!("evergreen-storm-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    std::fs::write(folder.join("rules.yaml"), rules()).expect("the rules");
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(folder.join("kubeconfig"), kubeconfig).expect("the kubeconfig");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let address = format!("127.0.0.1:{port}");
    let log = std::fs::File::create(folder.join("agent.log")).expect("the log");
    let mut child = Stopped(
        Command::new(&agent)
            .args(["--node-name", NODE, "--site", "s", "--listen", &address])
            .arg("--kubeconfig")
            .arg(folder.join("kubeconfig"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--rules")
            .arg(folder.join("rules.yaml"))
            .env("RUST_LOG", "error")
            .env("NO_PROXY", "*")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the agent can be started"),
    );
    let pid = child.0.id();
    let begin = Instant::now();
    while figure(&address, "evergreen_kmsg_messages").is_none() {
        if begin.elapsed() > Duration::from_secs(30) {
            eprintln!("the agent does not answer; see {}", folder.join("agent.log").display());
            return ExitCode::FAILURE;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(3));

    println!("{rate} lines/s for {seconds} s into /dev/kmsg");
    let (mut sent, mut marked) = (0_u64, Vec::<Instant>::new());
    let (mut rss_warm, mut rss_most, mut cpu_begin) = (0, 0, cost(pid).map_or(0.0, |c| c.1));
    let begin = Instant::now();
    let mut sampled = begin;
    while begin.elapsed() < Duration::from_secs(seconds) {
        let due = u64::try_from(begin.elapsed().as_micros()).unwrap_or(0) * rate / 1_000_000;
        let count = due.saturating_sub(sent).min(500);
        write_lines(sent, count).expect("/dev/kmsg takes lines");
        sent += count;
        let turn = u32::try_from(marked.len()).unwrap_or(0) + 1;
        if begin.elapsed() > BETWEEN_MARKERS * turn {
            let mut kmsg = OpenOptions::new().write(true).open("/dev/kmsg").expect("it was opened before");
            let n = marked.len();
            marked.push(Instant::now());
            let lines = [format!("marker: {}", n % MARKERS), format!("calm: {}", (n + MARKERS / 2) % MARKERS)];
            for line in lines {
                kmsg.write_all(format!("<7>evergreen-{line}\n").as_bytes()).expect("a line");
            }
        }
        if sampled.elapsed() >= Duration::from_secs(1) {
            sampled = Instant::now();
            if let Some((rss, cpu)) = cost(pid) {
                if begin.elapsed() < Duration::from_secs((seconds / 3).min(30)) {
                    (rss_warm, cpu_begin) = (rss_warm.max(rss), cpu_begin.min(cpu));
                }
                rss_most = rss_most.max(rss);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begin.elapsed().as_secs_f64();
    let cpu = cost(pid).map_or(f64::NAN, |c| c.1 - cpu_begin);
    // Counts are written once a minute.
    let waited = Instant::now();
    let (mut seen, mut lost) = (0, 0);
    while waited.elapsed() < Duration::from_secs(75) {
        seen = heard(&cluster, "StormHeard").and_then(|problem| problem["count"].as_u64()).unwrap_or(0);
        lost = figure(&address, "evergreen_kmsg_lost").unwrap_or(0.0) as u64;
        if seen + lost >= sent {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let problem = heard(&cluster, "StormHeard").unwrap_or_default();
    let evidence: Vec<&str> = problem["evidence"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let overruns = figure(&address, "evergreen_kmsg_overruns").unwrap_or(f64::NAN);
    let (raised, writes) = {
        let cluster = cluster.lock();
        (cluster.raised.clone(), cluster.node_writes)
    };
    // The first time that a condition was written behind its marker and before the next one of its name.
    let latency = |(n, at): (usize, &Instant)| {
        let name = format!("Marker{}", n % MARKERS);
        let until = marked.get(n + MARKERS).copied();
        let written = raised
            .iter()
            .find(|(raised, when)| *raised == name && when >= at && until.is_none_or(|until| *when < until));
        written.map(|(_, when)| when.duration_since(*at).as_secs_f64() * 1000.0)
    };
    let mut latencies: Vec<f64> = marked.iter().enumerate().filter_map(latency).collect();
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        latencies.get(((latencies.len() as f64 * q).ceil() as usize).saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    let alive = child.0.try_wait().is_ok_and(|ended| ended.is_none());
    println!("lines written               {sent} in {took:.1} s");
    println!("lines seen                  {seen}");
    println!("messages lost, overruns     {lost}, {overruns}");
    println!("first line kept             {}", evidence.first().unwrap_or(&"-"));
    println!("last line kept              {}", evidence.last().unwrap_or(&"-"));
    println!("markers found               {} of {}", latencies.len(), marked.len());
    println!(
        "line to PATCH, ms           p50 {:.0}, p99 {:.0}, worst {:.0}",
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    println!("writes of the Node          {writes}");
    println!(
        "memory, MiB                 {:.1} early, {:.1} at most",
        rss_warm as f64 / 1024.0,
        rss_most as f64 / 1024.0
    );
    println!("processor, % of a core      {:.1}", 100.0 * cpu / took);
    let counted = seen + lost >= sent && seen <= sent;
    let ends = lost > 0
        || (evidence.first().is_some_and(|line| line.ends_with("line 0"))
            && evidence.last().is_some_and(|line| line.ends_with(&format!("line {}", sent - 1))));
    let found = lost > 0 || latencies.len() == marked.len();
    let well = [
        ("the count", counted),
        ("the first and the last line", ends),
        ("the markers", found),
        ("p99 <= 1 s", quantile(0.99) <= 1000.0),
        ("flat memory", rss_most <= rss_warm + MAY_GROW_KIB),
        ("the agent lives", alive),
    ];
    for (what, well) in well {
        println!("{:<27} {}", what, if well { "ok" } else { "WRONG" });
    }
    drop(child);
    let _ = std::fs::remove_dir_all(&folder);
    ExitCode::from(u8::from(!well.iter().all(|(_, well)| *well)))
}
