//! Drills end to end: real controllers, the real command line, three simulated data centers.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use evergreen_api::names::{APPROVERS, SYSTEM_NAMESPACE};
use evergreen_tests::{
    fleet::{Fleet, SITES, automatic_service},
    programs::program,
    wait::eventually,
};
use evergreen_twin::Loss;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);
const DRILL: &str = "weekly";

/// Runs the command line beside the servers of this process; exit code and output.
async fn evergreen(text: String) -> (i32, String) {
    tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = text.split(' ').collect();
        let answer = Command::new(program("evergreen")).args(&arguments).output().expect("the command line");
        let text = [answer.stdout, answer.stderr].concat();
        (answer.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    })
    .await
    .expect("no panic")
}

async fn good(text: String) -> String {
    let (code, said) = evergreen(text.clone()).await;
    assert_eq!(code, 0, "evergreen {text}: {said}");
    said
}

/// A person with a key; answers the file and the public half.
async fn person(fleet: &Fleet, name: &str) -> (PathBuf, String) {
    let file = fleet.dir().join(format!("{name}.key"));
    let text = good(format!("approve --new-key {}", file.display())).await;
    let public = text.split("\"YOUR-NAME\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a public key");
    (file, public.to_owned())
}

struct Scene {
    fleet: Fleet,
    kubeconfigs: String,
    at: String,
    people: Vec<(String, PathBuf)>,
}

impl Scene {
    /// A fleet whose service is held by dc-a and dc-b, people in the ring, the key of dc-a's drills too, and a drill.
    async fn new(stability: &str, spec: Value, flags: &[&str]) -> Self {
        let mut service = automatic_service();
        service["metadata"]["labels"] = json!({"evergreen.dev/stability": stability});
        let fleet = Fleet::start_with(service, flags, |_| Vec::new()).await;
        let mut ring = serde_json::Map::new();
        let mut people = Vec::new();
        for name in ["li", "wang", "zhao"] {
            let (file, public) = person(&fleet, name).await;
            ring.insert(name.into(), json!(public));
            people.push((name.to_owned(), file));
        }
        let drill = json!({"metadata": {"name": DRILL}, "spec": spec});
        fleet.create("dc-a", "evergreen.dev", "v1alpha1", "FailoverDrill", drill).await;
        for site in SITES {
            let keyring = json!({"metadata": {"name": APPROVERS, "namespace": SYSTEM_NAMESPACE}, "data": ring});
            fleet.create(site, "", "v1", "ConfigMap", keyring).await;
        }
        // What the drill would need is told by its preview, key included.
        let mut key = String::new();
        eventually("the key that is to be listed", BOUND, || async {
            let preview = fleet.cluster_object("dc-a", "FailoverDrill", DRILL).await?["status"]["preview"].to_string();
            if preview.contains("`drill.dc-a: ") { Ok(()) } else { Err(preview) }
        })
        .await;
        let preview =
            fleet.cluster_object("dc-a", "FailoverDrill", DRILL).await.expect("the drill")["status"]["preview"]
                .to_string();
        key.push_str(
            preview
                .split("`drill.dc-a: ")
                .nth(1)
                .and_then(|rest| rest.split('`').next())
                .expect("the key of its ticket"),
        );
        for site in SITES {
            fleet.merge_config_map(site, APPROVERS, json!({"drill.dc-a": key})).await;
        }
        let config = |site: &str| fleet.kubeconfig(site, "test").display().to_string();
        let (at, all) = (config("dc-a"), SITES.map(config).join(","));
        let scene = Self { fleet, kubeconfigs: all, at, people };
        scene.holders(&["dc-a", "dc-b"]).await;
        scene.until("the key is known", |status| status["preview"].to_string().contains("would leave dc-a")).await;
        scene
    }

    async fn holders(&self, sites: &[&str]) {
        eventually(&format!("held by {sites:?}"), BOUND, || async {
            let active = self.fleet.active("dc-c").await?;
            if active == sites { Ok(()) } else { Err(format!("{active:?} {}", self.status().await)) }
        })
        .await;
    }

    async fn status(&self) -> Value {
        self.fleet
            .cluster_object("dc-a", "FailoverDrill", DRILL)
            .await
            .map_or(Value::Null, |mut drill| drill["status"].take())
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(what, BOUND, || async {
            let status = self.status().await;
            if holds(&status) { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        self.status().await
    }

    fn signed(&self, who: usize) -> String {
        format!(
            "--key {} --signer {} --kubeconfig {}",
            self.people[who].1.display(),
            self.people[who].0,
            self.kubeconfigs
        )
    }
}

fn spec(more: Value) -> Value {
    let mut spec = json!({"site": "dc-a", "mode": "switchover", "holdFor": "4s", "moveWithin": "30s"});
    spec.as_object_mut().expect("a spec").extend(more.as_object().expect("fields").clone());
    spec
}

fn last(status: &Value) -> &Value {
    &status["history"][0]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_approve_it_leaves_survives_kill_nine_comes_back_and_tells() {
    let windows = json!([{"from": "00:00", "to": "23:59"}, {"from": "12:00", "to": "11:59"}]);
    let mut scene =
        Scene::new("steady", spec(json!({"windows": windows, "holdFor": "12s", "recoveryClass": 1})), &[]).await;
    let at = scene.at.clone();
    let text = good(format!("drill run {DRILL} --now --dry-run --kubeconfig {at}")).await;
    assert!(text.contains("shop.checkout would leave dc-a"), "{text}");
    good(format!("drill run {DRILL} --now --reason weekly {}", scene.signed(0))).await;
    let open = scene.until("a ticket", |status| status["phase"] == "Waiting").await;
    let digest = open["current"]["digest"].as_str().unwrap().to_owned();
    // The one who asked does not count, and one is not enough.
    good(format!("approve {digest} {}", scene.signed(0))).await;
    good(format!("approve {digest} {}", scene.signed(1))).await;
    scene.until("one of two", |status| status["message"].as_str().is_some_and(|why| why.starts_with("1 of 2"))).await;
    assert_eq!(scene.fleet.active("dc-a").await.unwrap(), ["dc-a", "dc-b"]);
    good(format!("approve {digest} {}", scene.signed(2))).await;
    scene.holders(&["dc-b", "dc-c"]).await;
    scene.until("holding", |status| status["phase"] == "Holding").await;
    scene.fleet.kill_controller("dc-a");
    scene.fleet.start_controller("dc-a");
    let status = scene.until("passed", |status| status["lastResult"] == "Passed").await;
    scene.holders(&["dc-a", "dc-b"]).await;
    let card = last(&status);
    assert_eq!(card["approvers"], json!(["wang", "zhao"]));
    assert_eq!(card["services"][0]["away"], json!(["dc-b", "dc-c"]));
    for field in ["startedAt", "detectedAt", "decidedAt", "movedAt", "returningAt", "returnedAt", "endedAt"] {
        assert!(card[field].is_string(), "{field}: {card}");
    }
    for (lang, word) in [("en", "Drill report"), ("zh", "演练报告")] {
        let page = good(format!("drill report {DRILL} --lang {lang} --format html --kubeconfig {at}")).await;
        assert!(page.contains(word) && page.contains("wang, zhao"), "{page}");
    }
    let report: Value =
        serde_json::from_str(&good(format!("drill report {DRILL} --format json --kubeconfig {at}")).await).unwrap();
    assert_eq!(report["ticket"], "weekly-1");
    let text = good(format!("drill list --kubeconfig {at}")).await;
    assert!(text.contains("weekly") && text.contains("Passed"), "{text}");
    let folder = scene.fleet.audit("dc-a").display().to_string();
    let text = good(format!("audit replay {folder}")).await;
    assert!(text.contains("drill decisions") && text.contains("0 differ"), "{text}");
    good(format!("audit verify {folder}")).await;
    let text = evergreen(format!("status --kubeconfig {at}")).await.1;
    assert!(text.contains("last drill weekly: Passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "80 s of three drills; make test-drills runs it"]
async fn a_manual_shift_interrupts_it_and_the_kill_switch_and_a_deleted_spec_end_it() {
    let scene = Scene::new("agile", spec(json!({"holdFor": "10m"})), &[]).await;
    let run = format!("drill run {DRILL} --now --reason test {}", scene.signed(0));
    good(run.clone()).await;
    scene.until("holding", |status| status["phase"] == "Holding").await;
    scene.holders(&["dc-b", "dc-c"]).await;
    // Automatic failback would bring it home after two seconds; the drill keeps it away.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.fleet.active("dc-a").await.unwrap(), ["dc-b", "dc-c"]);
    good(format!("switchover shop/checkout --from dc-b --to dc-a --reason real {}", scene.signed(1))).await;
    let status = scene.until("interrupted", |status| status["lastResult"] == "Interrupted").await;
    assert!(last(&status)["reason"].as_str().unwrap().contains("wang asks"), "{status}");
    scene.holders(&["dc-a", "dc-c"]).await;
    scene.holders(&["dc-a", "dc-b"]).await;

    good(run.clone()).await;
    scene.until("holding again", |status| status["phase"] == "Holding").await;
    good(format!("pause --scope fleet --reason fire --kubeconfig {}", scene.kubeconfigs)).await;
    scene
        .until("stopped", |status| status["history"][0]["reason"].as_str().is_some_and(|why| why.contains("fire")))
        .await;
    good(format!("resume --kubeconfig {}", scene.kubeconfigs)).await;
    scene.holders(&["dc-a", "dc-b"]).await;

    good(run).await;
    scene.until("holding a third time", |status| status["phase"] == "Holding").await;
    scene.fleet.delete_cluster_object("dc-a", "FailoverDrill", DRILL).await;
    scene.holders(&["dc-a", "dc-b"]).await;
    eventually("the spec is gone", BOUND, || async {
        scene.fleet.cluster_object("dc-a", "FailoverDrill", DRILL).await.map_or(Ok(()), |drill| Err(drill.to_string()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_aborts_within_five_seconds_one_site_at_a_time_and_none_at_tolerance_zero() {
    let healthy = Arc::new(AtomicBool::new(true));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = healthy.clone();
    let handler = move || {
        let good = answer.load(Ordering::Relaxed);
        async move { if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } }
    };
    tokio::spawn(
        async move { axum::serve(listener, axum::Router::new().route("/", axum::routing::get(handler))).await },
    );
    let more = json!({"holdFor": "10m", "probe": {"url": url}, "objectives": {"maxErrorPercent": 20}});
    let scene = Scene::new("agile", spec(more), &["--traffic-allow", "127.0.0.0/8"]).await;
    let run = format!("drill run {DRILL} --now --reason test {}", scene.signed(0));
    good(run.clone()).await;
    scene.until("holding", |status| status["phase"] == "Holding").await;

    // Another drill of the fleet waits.
    let other = json!({"metadata": {"name": "other"}, "spec": {"site": "dc-b", "mode": "switchover"}});
    scene.fleet.create("dc-b", "evergreen.dev", "v1alpha1", "FailoverDrill", other).await;
    eventually("the other drill is known", BOUND, || async {
        let other = scene.fleet.cluster_object("dc-b", "FailoverDrill", "other").await?;
        if other["status"]["preview"].is_array() { Ok(()) } else { Err(other.to_string()) }
    })
    .await;
    good(format!("drill run other --now --reason test {}", scene.signed(1))).await;
    eventually("one site at a time", BOUND, || async {
        let message =
            scene.fleet.cluster_object("dc-b", "FailoverDrill", "other").await?["status"]["message"].to_string();
        if message.contains("one site at a time: dc-a/weekly") { Ok(()) } else { Err(message) }
    })
    .await;

    healthy.store(false, Ordering::Relaxed);
    let broken = Instant::now();
    scene.until("moving back", |status| status["phase"] == "Returning" || status["lastResult"] == "Aborted").await;
    let seen = broken.elapsed();
    scene.holders(&["dc-a", "dc-b"]).await;
    let status = scene.until("aborted", |status| status["lastResult"] == "Aborted").await;
    let card = last(&status);
    println!(
        "abort: {} ms after the first failed probe; seen from outside after {} ms",
        card["abortMs"],
        seen.as_millis()
    );
    assert!(card["abortMs"].as_u64().unwrap() <= 5_000 && seen <= Duration::from_secs(5), "{card}");
    assert!(card["rtoMs"].as_u64().unwrap() > 0 && card["probesFailed"].as_u64().unwrap() > 3, "{card}");

    scene.fleet.delete_cluster_object("dc-b", "FailoverDrill", "other").await;
    scene.fleet.site("dc-c").twin.faults().lose(Loss::Reset);
    scene.until("a register is lost", |status| status["preview"].to_string().contains("tolerance is zero")).await;
    good(format!(
        "drill run {DRILL} --now --reason test --key {} --signer li --kubeconfig {}",
        scene.people[0].1.display(),
        scene.at
    ))
    .await;
    let status = scene.until("refused", |status| status["lastResult"] == "Refused").await;
    assert!(last(&status)["reason"].as_str().unwrap().contains("tolerance is zero"), "{status}");
}
