//! What a sender has put down is never lost: the plane is away, the sender is killed, both come back, and everything is
//! there, in order and once.

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use evergreen_tests::{
    agent::Host,
    plane::Ports,
    programs::{Process, free_port, program},
    wait::eventually,
};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    metrics::v1::metric::Data,
};
use prost::Message;

const HALF_A_MINUTE: Duration = Duration::from_secs(30);
const ENERGY: &str = "hw.host.energy";

fn agent(host: &Host, dir: &Path, ports: &Ports) -> Process {
    let mut command = Command::new(program("evergreen-agent"));
    command.args(["--standalone", "--node-name", "spooled", "--site", "dc-test", "--otlp-interval", "1s"]);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port()), "--root"]).arg(&host.root);
    command.arg("--state-dir").arg(dir.join("state")).env("OTEL_EXPORTER_OTLP_ENDPOINT", ports.endpoint());
    command.env("RUST_LOG", "info");
    Process::start("agent", command, dir).expect("the agent starts")
}

/// Messages of one signal that lie in the agent's spool.
fn spooled<M: Message + Default>(dir: &Path, signal: &str) -> Vec<M> {
    let Ok(folder) = std::fs::read_dir(dir.join("state/otlp")) else { return Vec::new() };
    let mut files: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == signal));
    files.sort();
    files
        .iter()
        .map(|path| {
            let mut message = Vec::new();
            let packed = std::fs::File::open(path).expect("a record");
            flate2::read::GzDecoder::new(packed).read_to_end(&mut message).expect("a whole record");
            M::decode(&message[..]).expect("an OTLP message")
        })
        .collect()
}

/// Times of the host's energy in those messages, Unix milliseconds.
fn times(messages: &[ExportMetricsServiceRequest]) -> BTreeSet<i64> {
    let metrics = messages.iter().flat_map(|message| &message.resource_metrics);
    let metrics = metrics.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
    metrics
        .filter(|metric| metric.name == ENERGY)
        .filter_map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => Some(sum.data_points.iter().map(|point| point.time_unix_nano as i64 / 1_000_000)),
            _ => None,
        })
        .flatten()
        .collect()
}

/// Times of the host's energy that the plane has, in its order.
async fn kept(ports: &Ports) -> Result<Vec<i64>, String> {
    let answer = ports.ask(&format!("/api/v1/metrics/series?name={ENERGY}&node=spooled")).await?;
    let points = answer["series"][0]["points"].as_array().ok_or("no series yet")?;
    Ok(points.iter().filter_map(|point| point[0].as_i64()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_sender_put_down_is_lost_when_it_is_killed_while_the_plane_is_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let (dir, ports) = (dir.path(), Ports::free());
    let ports = &ports;
    let host = Host::boot("spooled", dir);
    let mut plane = ports.plane(dir, &[]).await;
    let mut sender = agent(&host, dir, ports);
    eventually("three points", HALF_A_MINUTE, || async move {
        let have = kept(ports).await?.len();
        if have >= 3 { Ok(()) } else { Err(format!("{have} points")) }
    })
    .await;

    plane.kill();
    host.oops();
    eventually("the agent puts down what it cannot send", HALF_A_MINUTE, || async move {
        let (points, traces) = (times(&spooled(dir, "metrics")), spooled::<ExportTraceServiceRequest>(dir, "traces"));
        if points.len() >= 4 && !traces.is_empty() {
            Ok(())
        } else {
            Err(format!("{} points, {} messages with spans", points.len(), traces.len()))
        }
    })
    .await;
    sender.kill();
    let (points, traces) = (times(&spooled(dir, "metrics")), spooled::<ExportTraceServiceRequest>(dir, "traces"));
    let spans: Vec<_> = traces
        .iter()
        .flat_map(|message| &message.resource_spans)
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect();
    let trace_id = hex::encode(&spans[0].trace_id);

    let _plane = ports.plane(dir, &[]).await;
    let mut sender = agent(&host, dir, ports);
    let last = *points.last().expect("there were points");
    let (points, trace_id) = (&points, &trace_id);
    let have = eventually("the next run goes on", HALF_A_MINUTE, || async move {
        let have = kept(ports).await?;
        if have.iter().filter(|time| **time > last).count() >= 3 { Ok(have) } else { Err(format!("{have:?}")) }
    })
    .await;
    let set: BTreeSet<i64> = have.iter().copied().collect();
    assert!(points.is_subset(&set), "put down and not there: {:?}", points.difference(&set).collect::<Vec<_>>());
    assert_eq!(set.len(), have.len(), "twice: {have:?}");
    let whole: Vec<i64> = set.range(..=last).copied().collect();
    let longest = whole.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    assert!(longest < 2_500, "a hole of {longest} ms although the sender lived: {whole:?}");
    let trace = ports.ask(&format!("/api/v1/traces/{trace_id}")).await.expect("the trace of the oops");
    let mut ids: Vec<&str> =
        trace["spans"].as_array().expect("spans").iter().filter_map(|span| span["span_id"].as_str()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "a span twice");
    for span in spans.iter().filter(|span| hex::encode(&span.trace_id) == *trace_id) {
        assert!(ids.contains(&hex::encode(&span.span_id).as_str()), "span {} is lost", span.name);
    }
    // What was acknowledged does not lie there for ever.
    sender.stop(Duration::from_secs(15)).expect("the agent stops");
    assert!(times(&spooled(dir, "metrics")).is_empty(), "acknowledged and still there");
}
