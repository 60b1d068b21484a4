//! Practice runs: a drill moves the register away and back under its clients, and something real interrupts one.

use std::{process::Command, time::Duration};

use evergreen_api::names::{APPROVERS, SYSTEM_NAMESPACE};
use evergreen_tests::{
    programs::program,
    real::{
        fleet::{Fleet, REGISTER, SITES},
        objects,
    },
    register::history::{Operation, Record},
    wait::eventually,
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::Stage;

/// Longest wait for a step of a drill.
const STEP: Duration = Duration::from_secs(90);
/// The person who asks for drills and moves.
const PERSON: &str = "li";

/// Nothing that was acknowledged is lost, and no two sites write, while a drill moves the register away and back.
pub async fn a_drill_loses_no_acknowledged_write(stage: &mut Stage<'_>) {
    let (initial, home) = (stage.fleet.value().await, stage.fleet.holder().await);
    let drill = Drill::ready(stage.fleet, home, "practice", "6s").await;
    let clients = stage.fleet.register_clients(2, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = clients.now();
    drill.run(stage.fleet).await;
    drill.until(stage.fleet, "services are away", |status| status["phase"] == "Holding").await;
    let away = stage.fleet.holder().await;
    assert_ne!(away, home, "the drill moved the register");
    let status = drill.until(stage.fleet, "the drill is over", |status| status["lastResult"].is_string()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(status["lastResult"], "Passed", "{status}");
    assert_eq!(stage.fleet.holder().await, home, "it came back");
    let (history, violations) = stage.fleet.verdict(clients, &initial).await;
    let done = history.iter().filter(|record| written(record)).count();
    stage.report.count("acknowledged writes lost in a drill, or violations", violations.len() as u64, done as u64);
    stage.report.time("drill, away and back: longest time without an acknowledged write", longest_gap(&history, begun));
    drill.remove(stage.fleet).await;
    assert_eq!(violations, []);
}

/// A real incident goes first: the site that holds the register meanwhile dies. The drill ends, and the register is held
/// by a site that lives.
pub async fn a_real_incident_interrupts_a_drill(stage: &mut Stage<'_>) {
    let (initial, home) = (stage.fleet.value().await, stage.fleet.holder().await);
    let drill = Drill::ready(stage.fleet, home, "interrupted", "10m").await;
    let clients = stage.fleet.register_clients(2, 1);
    drill.run(stage.fleet).await;
    drill.until(stage.fleet, "services are away", |status| status["phase"] == "Holding").await;
    let away = stage.fleet.holder().await;
    let died = clients.now();
    stage.fleet.site_dies(away);
    let moved =
        clients.served_since(died, STEP, |record| record.done_by().is_some_and(|by| by != away) && write(record));
    let moved = moved.await.unwrap_or_else(|why| panic!("nobody took over from {away} during a drill: {why}"));
    stage.report.time("site death during a drill to the first write elsewhere", moved.ended - died);
    let status = drill.until(stage.fleet, "the drill is over", |status| status["lastResult"].is_string()).await;
    assert_eq!(status["lastResult"], "Interrupted", "{status}");
    let why = status["history"][0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains(away), "it says whose incident it was: {why}");
    stage.fleet.site_returns(away).expect("it starts");
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    drill.remove(stage.fleet).await;
    assert_eq!(violations, []);
}

/// AWS ARC: a shift by hand interrupts a practice run, and counts.
pub async fn a_manual_shift_interrupts_a_drill(stage: &mut Stage<'_>) {
    let (initial, home) = (stage.fleet.value().await, stage.fleet.holder().await);
    let drill = Drill::ready(stage.fleet, home, "shifted", "10m").await;
    let clients = stage.fleet.register_clients(2, 1);
    drill.run(stage.fleet).await;
    drill.until(stage.fleet, "services are away", |status| status["phase"] == "Holding").await;
    let away = stage.fleet.holder().await;
    let third = SITES.into_iter().find(|site| *site != home && *site != away).expect("there are three");
    let service = format!("{}/{REGISTER}", objects::NAMESPACE);
    drill.evergreen(stage.fleet, &["switchover", &service, "--from", away, "--to", third, "--reason", "real"]).await;
    let status = drill.until(stage.fleet, "the drill is over", |status| status["lastResult"].is_string()).await;
    assert_eq!(status["lastResult"], "Interrupted", "{status}");
    eventually("the shift by hand counts", STEP, || async {
        let granted = stage.fleet.granted(REGISTER).await;
        if granted.keys().copied().eq([third]) { Ok(()) } else { Err(format!("{granted:?}")) }
    })
    .await;
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    drill.remove(stage.fleet).await;
    assert_eq!(violations, []);
}

fn write(record: &Record) -> bool {
    matches!(record.operation, Operation::Write(_))
}

fn written(record: &Record) -> bool {
    write(record) && record.done_by().is_some()
}

/// The longest time since `begun` in which no write was acknowledged.
fn longest_gap(history: &[Record], begun: Duration) -> Duration {
    let mut ended: Vec<Duration> =
        history.iter().filter(|record| written(record) && record.ended >= begun).map(|record| record.ended).collect();
    ended.sort_unstable();
    ended.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// A drill of the register that only has to be asked for.
struct Drill {
    name: &'static str,
    site: &'static str,
}

impl Drill {
    /// Makes it at the site that the register leaves, and lists the keys of the person and of the site's drills.
    async fn ready(fleet: &Fleet, site: &'static str, name: &'static str, hold_for: &str) -> Self {
        let drill = Self { name, site };
        drill.furnish(fleet).await;
        let spec = json!({"site": site, "services": [{"namespace": objects::NAMESPACE, "name": REGISTER}],
            "mode": "switchover", "holdFor": hold_for, "moveWithin": "60s"});
        let client = &fleet.site(site).plane.client;
        let object = json!({"metadata": {"name": name}, "spec": spec});
        objects::create(client, "evergreen.dev", "v1alpha1", "FailoverDrill", object).await;
        let signer = format!("drill.{site}");
        let begin = format!("`{signer}: ");
        let status = drill
            .until(fleet, "the drill is known", |status| {
                let preview = status["preview"].to_string();
                preview.contains(&begin) || preview.contains("would leave")
            })
            .await;
        let preview = status["preview"].to_string();
        if let Some(key) = preview.split(&begin).nth(1).and_then(|rest| rest.split('`').next()) {
            for at in SITES {
                let ring = json!({"data": {signer.as_str(): key}});
                let api = objects::api(&fleet.site(at).plane.client, "", "v1", "ConfigMap", Some(SYSTEM_NAMESPACE));
                api.patch(APPROVERS, &PatchParams::default(), &Patch::Merge(ring)).await.expect("the ring");
            }
        }
        drill
            .until(fleet, "it could begin", |status| {
                let preview = status["preview"].to_string();
                preview.contains("would leave") && !preview.contains(&begin)
            })
            .await;
        drill
    }

    /// Once for a fleet: the register may be moved without two approvals, and a person is known who may ask.
    async fn furnish(&self, fleet: &Fleet) {
        let key = fleet.dir().join(format!("{PERSON}.key"));
        if key.exists() {
            return;
        }
        let text = run(vec!["approve".into(), "--new-key".into(), key.display().to_string()]).await;
        let public =
            text.split("\"YOUR-NAME\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a public key");
        for at in SITES {
            let site = fleet.site(at);
            std::fs::write(config(fleet, at), site.plane.kubeconfig(site.plane.port)).expect("a kubeconfig");
            let ring =
                json!({"metadata": {"name": APPROVERS, "namespace": SYSTEM_NAMESPACE}, "data": {PERSON: public}});
            objects::create(&site.plane.client, "", "v1", "ConfigMap", ring).await;
            let api = objects::api(
                &site.plane.client,
                "evergreen.dev",
                "v1alpha1",
                "MultiActiveService",
                Some(objects::NAMESPACE),
            );
            let agile = json!({"metadata": {"labels": {"evergreen.dev/stability": "agile"}}});
            api.patch(REGISTER, &PatchParams::default(), &Patch::Merge(agile)).await.expect("a label");
        }
    }

    /// Says with the person's signature to every site that answers.
    async fn evergreen(&self, fleet: &Fleet, arguments: &[&str]) -> String {
        let all = SITES.map(|site| config(fleet, site)).join(",");
        let key = fleet.dir().join(format!("{PERSON}.key")).display().to_string();
        let signed = ["--key", &key, "--signer", PERSON, "--kubeconfig", &all];
        run(arguments.iter().chain(&signed).map(|text| (*text).to_owned()).collect()).await
    }

    async fn run(&self, fleet: &Fleet) {
        self.evergreen(fleet, &["drill", "run", self.name, "--now", "--reason", "test"]).await;
    }

    async fn until(&self, fleet: &Fleet, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let api = objects::api(&fleet.site(self.site).plane.client, "evergreen.dev", "v1alpha1", "FailoverDrill", None);
        let (api, holds) = (&api, &holds);
        eventually(&format!("drill {}: {what}", self.name), STEP, || async move {
            let object = api.get(self.name).await.map_err(|error| error.to_string())?;
            let status = object.data.get("status").cloned().unwrap_or_default();
            if holds(&status) { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    }

    async fn remove(&self, fleet: &Fleet) {
        let api = objects::api(&fleet.site(self.site).plane.client, "evergreen.dev", "v1alpha1", "FailoverDrill", None);
        api.delete(self.name, &DeleteParams::default()).await.expect("it is there");
    }
}

fn config(fleet: &Fleet, site: &str) -> String {
    fleet.dir().join(format!("{site}.person.kubeconfig")).display().to_string()
}

/// Runs the command line beside the tasks of this process.
async fn run(arguments: Vec<String>) -> String {
    tokio::task::spawn_blocking(move || {
        let answer = Command::new(program("evergreen")).args(&arguments).output().expect("the command line");
        let text = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
        assert!(answer.status.success(), "evergreen {}: {text}", arguments.join(" "));
        text
    })
    .await
    .expect("no panic")
}
