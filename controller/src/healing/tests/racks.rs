//! A symptom that a rack shows.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_rack_that_shows_one_symptom_is_told_once_and_healed_one_node_after_the_other() {
    let api = FakeApi::new();
    for number in 0..8 {
        let mut node = node(&format!("n{number}"), if number < 4 { "True" } else { "False" });
        node["metadata"]["labels"]["evergreen.dev/rack"] = json!("r1");
        api.put("nodes", None, node);
    }
    let mut playbook = playbook("enforce", "node.ready");
    playbook["spec"]["guards"] = json!({"budget": {"maxUnavailable": "100%", "minHealthy": 0},
        "storm": {"maxUnhealthy": "100%"}, "cooldown": "2h"});
    api.put("playbooks", None, playbook);
    let cancel = CancellationToken::new();
    let healing = tokio::spawn(run(context(&api), cancel.clone()));
    let all = async {
        loop {
            let runs = api.list("playbookruns");
            let (over, under_way): (Vec<_>, Vec<_>) =
                runs.iter().partition(|run| !run["status"]["finishedAt"].is_null());
            assert!(under_way.len() <= 1, "{} runs at once", under_way.len());
            if over.len() == 4 {
                return over.iter().map(|run| run["status"]["phase"].clone()).collect::<Vec<_>>();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let phases = tokio::time::timeout(LONG, all).await.expect("four runs");
    assert_eq!(phases, ["Succeeded"; 4]);
    cancel.cancel();
    healing.await.unwrap().unwrap();
    let about = |event: &&Value| event["reason"] == "RackIncident";
    let events = api.list("events");
    let told: Vec<_> = events.iter().filter(about).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["regarding"]["kind"], "DataCenter");
    let note = told[0]["note"].as_str().unwrap();
    assert!(note.starts_with("4 nodes of rack r1 show KernelOops=True since"), "{note}");
}
