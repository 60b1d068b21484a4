//! Consent end to end: real controllers, the real command line, three simulated data centers.

use std::{path::PathBuf, process::Command, time::Duration};

use evergreen_api::names::{APPROVERS, SYSTEM_NAMESPACE};
use evergreen_tests::{
    fleet::{Fleet, SITES, automatic_service},
    programs::program,
    wait::eventually,
};
use evergreen_twin::Loss;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(40);

/// Runs the command line beside the servers of this process; exit code and output.
async fn evergreen(arguments: Vec<String>) -> (i32, String) {
    tokio::task::spawn_blocking(move || {
        let answer = Command::new(program("evergreen")).args(&arguments).output().expect("the command line");
        let text = [answer.stdout, answer.stderr].concat();
        (answer.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    })
    .await
    .expect("no panic")
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A person with a key; answers the file and the public half.
async fn person(fleet: &Fleet, name: &str) -> (PathBuf, String) {
    let file = fleet.dir().join(format!("{name}.key"));
    let (code, text) = evergreen(words(&format!("approve --new-key {}", file.display()))).await;
    assert_eq!(code, 0, "{text}");
    let public = text.split("\"YOUR-NAME\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a public key");
    (file, public.to_owned())
}

async fn status(fleet: &Fleet, at: &str) -> Result<Value, String> {
    Ok(fleet.service(at).await?["status"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_proposed_the_kill_switch_is_stronger_than_approval_and_the_audit_replays() {
    let mut service = automatic_service();
    service["spec"]["decision"] = json!({"planned": "auto", "unplanned": "approve"});
    let mut fleet = Fleet::start(service).await;
    let (li, public) = person(&fleet, "li").await;
    let (mallory, _) = person(&fleet, "mallory").await;
    for site in SITES {
        let keyring = json!({"metadata": {"name": APPROVERS, "namespace": SYSTEM_NAMESPACE}, "data": {"li": public}});
        fleet.create(site, "", "v1", "ConfigMap", keyring).await;
    }
    eventually("two sites active", BOUND, || async {
        let active = fleet.active("dc-a").await?;
        if active == ["dc-a", "dc-b"] { Ok(()) } else { Err(format!("{active:?}")) }
    })
    .await;
    let config = |site: &str| fleet.kubeconfig(site, "test").display().to_string();
    let at = config("dc-c");
    let both = format!("{},{at}", config("dc-a"));

    let (code, text) =
        evergreen(words(&format!("switchover shop/checkout --to dc-c --dry-run --kubeconfig {both}"))).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("give it to dc-a, dc-b, dc-c"), "{text}");
    assert_eq!(fleet.active("dc-a").await.unwrap(), ["dc-a", "dc-b"], "a dry run moves nothing");

    fleet.kill_controller("dc-b");
    fleet.site("dc-b").twin.faults().lose(Loss::Reset);
    let mut proposal = String::new();
    eventually("a proposal", BOUND, || async {
        let status = status(&fleet, "dc-a").await?;
        status.pointer("/proposal/id").and_then(Value::as_str).map(|_| ()).ok_or_else(|| status["plan"].to_string())
    })
    .await;
    proposal.push_str(status(&fleet, "dc-a").await.unwrap()["proposal"]["id"].as_str().unwrap());

    let pause = words(&format!("pause --scope fleet --reason drill --kubeconfig {both}"));
    let (code, text) = evergreen(pause).await;
    assert!(code == 0 && text.contains("goes on"), "{text}");
    eventually("a pause", BOUND, || async {
        let plan = status(&fleet, "dc-a").await?["plan"].to_string();
        if plan.contains("paused: fleet: drill") { Ok(()) } else { Err(plan) }
    })
    .await;
    let (code, text) = evergreen(words(&format!("status --kubeconfig {both}"))).await;
    assert!(code == 1 && text.contains("STOPPED fleet: drill"), "{text}");
    let (_, text) = evergreen(words(&format!("resume --kubeconfig {both}"))).await;
    assert!(text.contains("resumed"), "{text}");
    // Each site decides for itself: dc-c, where it is approved, may come to the same proposal a moment later.
    for site in ["dc-a", "dc-c"] {
        eventually(&format!("the same proposal at {site}"), BOUND, || async {
            let status = status(&fleet, site).await?;
            if status.pointer("/proposal/id") == Some(&json!(proposal)) {
                Ok(())
            } else {
                Err(status["plan"].to_string())
            }
        })
        .await;
    }

    // A signature of somebody who is not in the ring counts for nothing.
    let approve = |key: &PathBuf| {
        let key = key.display();
        words(&format!("approve {proposal} --key {key} --signer li --kubeconfig {at}"))
    };
    assert_eq!(evergreen(approve(&mallory)).await.0, 0, "it is put there, and refused by the controllers");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fleet.active("dc-a").await.unwrap(), ["dc-a", "dc-b"]);
    // The approval is put at dc-c only; dc-a coordinates and reads it there.
    assert_eq!(evergreen(approve(&li)).await.0, 0);
    eventually("the approved move", BOUND, || async {
        let active = fleet.active("dc-a").await?;
        if active == ["dc-a", "dc-c"] { Ok(()) } else { Err(format!("{active:?}")) }
    })
    .await;

    let folder = fleet.audit("dc-a").display().to_string();
    let (code, text) = evergreen(words(&format!("audit replay {folder}"))).await;
    assert!(code == 0 && text.contains("bit by bit the same; 0 differ"), "{text}");
    let (code, text) = evergreen(words(&format!("audit verify {folder}"))).await;
    assert!(code == 0, "{text}");
    let (_, text) = evergreen(words(&format!("audit export {folder} --brief"))).await;
    assert!(text.contains("SiteLost") || text.contains("has not renewed"), "{text}");
}
