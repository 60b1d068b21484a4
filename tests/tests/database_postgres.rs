//! Two real PostgreSQL servers with streaming replication and the shipped hooks, moved by real controllers: a planned move,
//! a late call, a lost site and its return.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use evergreen_tests::{
    fleet::{Fleet, automatic_service},
    postgres::{self, Postgres},
    skip::skipped,
    wait::eventually,
};
use evergreen_twin::Loss;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(90);

fn service(url: &str) -> Value {
    let mut service = automatic_service();
    let spec = &mut service["spec"];
    spec["mode"] = json!("ActiveStandby");
    spec["kind"] = json!("account");
    spec["minActive"] = json!(1);
    spec["sites"] = json!(["dc-a", "dc-b"]);
    let backends = spec.pointer_mut("/traffic/0/httpRoute/backends").and_then(Value::as_array_mut).expect("backends");
    backends.retain(|backend| backend["site"] != "dc-c");
    spec["objectives"] = json!({"rpo": "0s"});
    spec["dataGate"] = json!({"hook": {"url": url}});
    spec["database"] = json!({"endpoint": {"url": url}, "timeout": "20s"});
    spec["capacityGate"] = json!({"action": "warn"});
    spec["failback"] = json!({"mode": "automatic", "soak": "12s"});
    service
}

async fn until_leads(fleet: &Fleet, site: &str) {
    eventually(&format!("the database at {site} leads"), BOUND, || async {
        let status = fleet.service(site).await?.pointer("/status").cloned().unwrap_or_default();
        if status.pointer("/database/0/leads") == Some(&json!(true)) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// Writes one row after another wherever writes are taken, and looks how many servers take them.
struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(Vec<usize>, Duration)>>,
    watch: Option<std::thread::JoinHandle<usize>>,
    acknowledged: Arc<AtomicUsize>,
}

impl Client {
    fn start(ports: [u16; 2], commit: &'static str, first: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (ended, count) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let (mut rows, mut number, mut last, mut gap) = (Vec::new(), first, Instant::now(), Duration::ZERO);
            while !ended.load(Ordering::SeqCst) {
                let statement = format!("SET synchronous_commit = {commit}; INSERT INTO paid VALUES ({number})");
                if postgres::sql(&ports, "read-write", &statement).is_ok() {
                    rows.push(number);
                    gap = gap.max(last.elapsed());
                    last = Instant::now();
                    count.fetch_add(1, Ordering::SeqCst);
                }
                number += 1;
                std::thread::sleep(Duration::from_millis(30));
            }
            (rows, gap)
        });
        let ended = stop.clone();
        let watch = std::thread::spawn(move || {
            let mut most = 0;
            while !ended.load(Ordering::SeqCst) {
                let leads = |port: &u16| postgres::sql(&[*port], "any", "SELECT pg_is_in_recovery()") == Ok("f".into());
                most = most.max(ports.iter().filter(|port| leads(port)).count());
                std::thread::sleep(Duration::from_millis(100));
            }
            most
        });
        Self { stop, thread: Some(thread), watch: Some(watch), acknowledged }
    }

    fn count(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Rows that were acknowledged, the longest time without any, the most servers that took writes at one time.
    fn end(mut self) -> (Vec<usize>, Duration, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let (rows, gap) = self.thread.take().expect("it runs").join().expect("a client");
        (rows, gap, self.watch.take().expect("it runs").join().expect("a watcher"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn all_there(port: u16, rows: &[usize]) {
    let there = postgres::sql(&[port], "any", "SELECT string_agg(n::text, ' ') FROM paid").expect("rows");
    let there: std::collections::BTreeSet<usize> = there.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let lost: Vec<&usize> = rows.iter().filter(|row| !there.contains(row)).collect();
    assert!(lost.is_empty(), "acknowledged rows are lost: {lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_databases_are_moved_without_two_writers_and_without_a_lost_row() {
    if let Some(remedy) = postgres::missing() {
        return skipped("database hooks on real PostgreSQL", &remedy);
    }
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a folder");
    let mut b = Postgres::leader(dir.path(), "dc-b");
    let mut a = Postgres::standby_of(&b, dir.path(), "dc-a");
    a.start_hooks(&[("dc-b", b.port)]);
    b.start_hooks(&[("dc-a", a.port)]);
    let ports = [a.port, b.port];
    postgres::sql(&ports, "read-write", "CREATE TABLE paid (n bigint PRIMARY KEY)").expect("a table");
    let address = postgres::front(BTreeMap::from([("dc-a", a.hooks_at), ("dc-b", b.hooks_at)])).await;
    let service = service(&format!("http://{address}/{{site}}"));
    let client = Client::start(ports, "on", 0);
    let mut fleet = Fleet::start_with(service, &["--hook-allow", &address], |_| Vec::new()).await;

    // The data lead at dc-b, so it is placed there; dc-a is preferred, so it moves there in good order.
    until_leads(&fleet, "dc-b").await;
    println!("placed where the data lead, {} rows so far", client.count());
    until_leads(&fleet, "dc-a").await;
    assert_eq!((a.leads(), b.leads()), (Some(true), Some(false)), "dc-b follows dc-a");
    let before = client.count();
    eventually("rows are acknowledged at dc-a", BOUND, || async {
        if client.count() > before + 5 { Ok(()) } else { Err(client.count().to_string()) }
    })
    .await;
    let (rows, gap, most) = client.end();
    println!("planned move: {} rows acknowledged, the longest time without one {} ms", rows.len(), gap.as_millis());
    assert_eq!(most, 1, "two databases took writes");
    all_there(a.port, &rows);

    // A promotion that arrives late changes nothing.
    let late = json!({"group": "shop.checkout", "site": "dc-b", "holder": "dc-b", "epoch": 1, "step": 0}).to_string();
    let (status, answer) = postgres::call(b.hooks_at, "promote", late.as_bytes()).await.expect("an answer");
    assert_eq!((status.as_u16(), b.leads()), (409, Some(false)), "{answer}");

    // The data center of the leader is lost: controller, API server, database and hooks.
    let lost = Instant::now();
    fleet.kill_controller("dc-a");
    fleet.site("dc-a").twin.faults().lose(Loss::Reset);
    a.crash();
    until_leads(&fleet, "dc-b").await;
    println!("site lost -> the other database leads: {} ms", lost.elapsed().as_millis());
    assert_eq!((a.leads(), b.leads()), (None, Some(true)));
    all_there(b.port, &rows);
    // Its standby is gone: what is written now is acknowledged by the leader alone.
    let client = Client::start(ports, "local", 1_000_000);
    eventually("rows are acknowledged at dc-b", BOUND, || async {
        if client.count() > 5 { Ok(()) } else { Err(client.count().to_string()) }
    })
    .await;
    println!("site lost -> the first rows are written: {} ms", lost.elapsed().as_millis());

    // It comes back with a database that was leading when it crashed: it is rewound and follows.
    a.start_hooks(&[("dc-b", b.port)]);
    fleet.site("dc-a").twin.faults().heal("");
    let back = Instant::now();
    fleet.start_controller("dc-a");
    eventually("the database of dc-a follows", BOUND, || async {
        let following =
            postgres::sql(&[b.port], "any", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'");
        if a.leads() == Some(false) && following == Ok("1".into()) { Ok(()) } else { Err(format!("{following:?}")) }
    })
    .await;
    println!("site back -> its database follows: {} ms", back.elapsed().as_millis());
    let (more, _, most) = client.end();
    assert_eq!(most, 1, "two databases took writes");
    all_there(b.port, &rows);
    all_there(b.port, &more);
}
