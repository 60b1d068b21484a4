//! Traffic actuators on real parts: Knot, BIND, PowerDNS, HAProxy and a webhook, driven by real controllers of three
//! simulated data centers, one of which is lost.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use evergreen_tests::{
    fleet::{Fleet, SITES, automatic_service},
    parts::{self, API_KEY, Dns, Haproxy, TSIG, ZONE},
    skip::skipped,
    wait::eventually,
};
use evergreen_twin::Loss;
use ring::hmac;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const NAME: &str = "pay.bank.example";
const HMAC_KEY: &str = "webhook-key-of-the-tests";
const BOUND: Duration = Duration::from_secs(90);

fn address(site: &str) -> Ipv4Addr {
    let last = SITES.iter().position(|one| *one == site).expect("a site") + 1;
    Ipv4Addr::new(192, 0, 2, u8::try_from(last).expect("small"))
}

fn addresses(sites: &[&str]) -> Vec<Ipv4Addr> {
    sites.iter().map(|site| address(site)).collect()
}

fn targets() -> Value {
    SITES.iter().map(|site| json!({"site": site, "addresses": [address(site).to_string()]})).collect()
}

fn dns_update(server: &Dns) -> Value {
    json!({"dnsUpdate": {"server": server.address.to_string(), "zone": ZONE, "name": NAME, "ttl": 5,
        "targets": targets(), "secret": "tsig"}})
}

/// Keys of all actuators, at every site.
fn secrets(_: &str) -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let secret = |name: &str, data: Value| json!({"metadata": {"name": name, "namespace": "evergreen-system"}, "stringData": data});
    vec![
        ("", "v1", "Secret", secret("tsig", json!({"name": "evergreen", "algorithm": "hmac-sha256", "secret": TSIG}))),
        ("", "v1", "Secret", secret("pdns", json!({"api-key": API_KEY}))),
        ("", "v1", "Secret", secret("hook", json!({"hmac-key": HMAC_KEY}))),
    ]
}

/// The other end of a webhook: what it was told, by epoch; it refuses an older one, and what is not signed.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Vec<Value>>>);

impl Hook {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/gslb", listener.local_addr().expect("bound"));
        let told = self.0.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    let mut buffer = [0; 4_096];
                    let Ok(read) = stream.read(&mut buffer).await else { break (String::new(), Vec::new()) };
                    bytes.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head
                        .lines()
                        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
                    let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                    if bytes.len() >= head.len() + 4 + length || read == 0 {
                        break (head.to_lowercase(), bytes[head.len() + 4..].to_vec());
                    }
                };
                let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, HMAC_KEY.as_bytes()), &body);
                let signed = head.contains(&format!("evergreen-signature: sha256={}", hex::encode(signature)));
                let told_now: Option<Value> = serde_json::from_slice(&body).ok().filter(|_| signed);
                let answer = match told_now {
                    Some(body) => {
                        let mut told = told.lock().expect("nobody panics");
                        let newest = told.iter().filter_map(|one| one["epoch"].as_u64()).max().unwrap_or(0);
                        let epoch = body["epoch"].as_u64().unwrap_or(0);
                        if epoch < newest {
                            format!("HTTP/1.1 409 Conflict\r\nconnection: close\r\n\r\n{{\"epoch\":{newest}}}")
                        } else {
                            told.push(body);
                            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{{\"epoch\":{epoch}}}")
                        }
                    }
                    None => "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\nnot signed".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    /// Shares that it was told last.
    fn shares(&self) -> BTreeMap<String, u64> {
        let told = self.0.lock().expect("nobody panics");
        let shares = told.last().and_then(|last| last["shares"].as_object().cloned()).unwrap_or_default();
        shares.into_iter().filter_map(|(site, share)| Some((site, share.as_u64()?))).collect()
    }
}

async fn until_addresses(server: &Dns, what: &str, wanted: &[&str]) {
    eventually(&format!("{what} answers {wanted:?}"), BOUND, || async {
        let found = server.addresses(NAME).await?;
        if found == addresses(wanted) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_center_leaves_dns_load_balancer_and_webhook() {
    let needs = [
        ("knotd", "knot"),
        ("named", "bind9"),
        ("pdns_server", "pdns-server pdns-backend-sqlite3"),
        ("sqlite3", "sqlite3"),
        ("haproxy", "haproxy"),
    ];
    if let Some(remedy) = parts::missing(&needs) {
        return skipped("traffic actuators on real parts", &remedy);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (knot, bind) = (Dns::knot(dir.path()).await, Dns::bind(dir.path()).await);
    let pdns = Dns::powerdns(dir.path()).await;
    let map = dir.path().join("epochs.map");
    std::fs::write(&map, "").expect("a file");
    let map = map.display();
    let haproxy = Haproxy::start(
        dir.path(),
        &format!(
            "frontend pay\n    bind {{front}}\n    http-request set-var(txn.epoch) str(pay),map({map})\n    default_backend pay\n\
             backend pay\n    server dc-a 127.0.0.1:9 weight 1\n    server dc-b 127.0.0.1:9 weight 1\n    server dc-c 127.0.0.1:9 weight 1"
        ),
    )
    .await;
    let hook = Hook::default();
    let url = hook.serve().await;

    let mut service = automatic_service();
    let servers: Value = SITES.iter().map(|site| json!({"site": site, "server": site})).collect();
    let mut traffic = service["spec"]["traffic"].as_array().cloned().expect("a list");
    traffic.extend([
        dns_update(&knot),
        dns_update(&bind),
        json!({"powerDns": {"url": pdns.api.clone().expect("an API"), "zone": ZONE, "name": NAME, "ttl": 5,
            "targets": targets(), "secret": "pdns", "lockDelay": "6s"}}),
        json!({"haproxy": {"addresses": [format!("tcp://{}", haproxy.runtime)], "backend": "pay", "servers": servers,
            "epochMap": map.to_string(), "lockDelay": "6s"}}),
        json!({"webhook": {"url": url, "secret": "hook", "fenced": true}}),
    ]);
    service["spec"]["traffic"] = json!(traffic);
    let mut fleet = Fleet::start_with(service, &["--traffic-allow", "127.0.0.0/8"], secrets).await;

    let both = ["dc-a", "dc-b"];
    until_addresses(&knot, "Knot", &both).await;
    until_addresses(&bind, "BIND", &both).await;
    until_addresses(&pdns, "PowerDNS", &both).await;
    let split = |a: u32, b: u32, c: u32| {
        BTreeMap::from([("dc-a", a), ("dc-b", b), ("dc-c", c)].map(|(s, w)| (s.to_owned(), w)))
    };
    let (haproxy, split) = (&haproxy, &split);
    let until_weights = async |wanted: BTreeMap<String, u32>| {
        let wanted = &wanted;
        eventually("HAProxy's weights", BOUND, || async move {
            let found = haproxy.weights("pay").await?;
            if found == *wanted { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    until_weights(split(50, 50, 0)).await;
    eventually("the webhook is told", BOUND, || async {
        let shares = hook.shares();
        if shares.get("dc-b") == Some(&50) { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;

    let lost = Instant::now();
    fleet.kill_controller("dc-b");
    fleet.site("dc-b").twin.faults().lose(Loss::Reset);
    eventually("dc-a and dc-c hold it", BOUND, || async {
        let active = fleet.active("dc-a").await?;
        if active == ["dc-a", "dc-c"] { Ok(()) } else { Err(format!("{active:?}")) }
    })
    .await;
    let moved = lost.elapsed();
    let stay = ["dc-a", "dc-c"];
    let timed = async |what: &str, server: &Dns| {
        until_addresses(server, what, &stay).await;
        println!("site lost -> {what} answers without it: {} ms", lost.elapsed().as_millis());
    };
    println!("site lost -> the status shows who holds it: {} ms", moved.as_millis());
    let weights = async {
        until_weights(split(50, 0, 50)).await;
        println!("site lost -> HAProxy's weights (lock delay 6.6 s): {} ms", lost.elapsed().as_millis());
    };
    let told = async {
        eventually("the webhook is told", BOUND, || async {
            let shares = hook.shares();
            if shares.get("dc-b") == Some(&0) && shares.get("dc-c") == Some(&50) {
                Ok(())
            } else {
                Err(format!("{shares:?}"))
            }
        })
        .await;
        println!("site lost -> the webhook is told: {} ms", lost.elapsed().as_millis());
    };
    tokio::join!(
        timed("Knot", &knot),
        timed("BIND", &bind),
        timed("PowerDNS (lock delay 6.6 s)", &pdns),
        weights,
        told
    );

    // The epoch stands in HAProxy too, and nothing of the keys in a log or a status.
    let epochs = haproxy.command(&format!("show map {map}")).await.expect("a map");
    assert!(epochs.lines().any(|line| line.split_whitespace().nth(1) == Some("pay")), "{epochs}");
    for site in SITES {
        let log = std::fs::read_to_string(fleet.dir().join(format!("controller-{site}.log"))).expect("a log");
        assert!(
            !log.contains(TSIG) && !log.contains(HMAC_KEY) && !log.contains(API_KEY),
            "a key is in the log of {site}"
        );
    }
    let status = fleet.service("dc-a").await.expect("the service").to_string();
    assert!(!status.contains(TSIG) && !status.contains(HMAC_KEY), "a key is in the status");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_epoch_in_the_zone_is_never_overwritten() {
    if let Some(remedy) = parts::missing(&[("knotd", "knot"), ("named", "bind9"), ("nsupdate", "bind9-dnsutils")]) {
        return skipped("an older plan at a real Knot and BIND", &remedy);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (knot, bind) = (Dns::knot(dir.path()).await, Dns::bind(dir.path()).await);
    let mut service = automatic_service();
    let mut traffic = service["spec"]["traffic"].as_array().cloned().expect("a list");
    traffic.extend([dns_update(&knot), dns_update(&bind)]);
    // Not in the list of what may be connected to.
    traffic.push(json!({"webhook": {"url": "http://169.254.169.254/latest", "secret": "hook", "fenced": true}}));
    service["spec"]["traffic"] = json!(traffic);
    let mut fleet = Fleet::start_with(service, &["--traffic-allow", "127.0.0.0/8"], secrets).await;
    for (server, what) in [(&knot, "Knot"), (&bind, "BIND")] {
        until_addresses(server, what, &["dc-a", "dc-b"]).await;
        server.set_text(dir.path(), "_evergreen.pay.bank.example", "evergreen epoch=1000000 plan=00000000");
    }

    fleet.kill_controller("dc-b");
    fleet.site("dc-b").twin.faults().lose(Loss::Reset);
    let log = || std::fs::read_to_string(fleet.dir().join("controller-dc-a.log")).unwrap_or_default();
    eventually("the older plan is refused", BOUND, || async {
        let log = log();
        let refused = |server: &Dns| {
            let at = server.address.to_string();
            log.lines().any(|line| line.contains(&at) && line.contains("already written for epoch 1000000"))
        };
        if refused(&knot) && refused(&bind) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    for server in [&knot, &bind] {
        assert_eq!(server.addresses(NAME).await, Ok(addresses(&["dc-a", "dc-b"])));
    }
    assert!(log().contains("169.254.169.254:80 is not allowed"), "the webhook was not refused");
}
