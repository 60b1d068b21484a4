//! Approvals, their end, and the kill switch, against the API server in memory.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::resources::{ConsentSpec, PlaybookRun, spec_hash};
use parking_lot::Mutex;

use super::{super::People, *};
use crate::consent::{Keyring, KillSwitch, Statement, What, new_key, public_key, run_group, sign};

/// People with keys, what they said, and a data center that heals.
struct Scene {
    api: FakeApi,
    keys: BTreeMap<&'static str, Vec<u8>>,
    said: Arc<Mutex<Vec<ConsentSpec>>>,
    switch: KillSwitch,
    cancel: CancellationToken,
}

impl Scene {
    /// With a playbook that waits between two steps until a pod more is there.
    fn begin(steady: u32, wait: &str) -> Self {
        let api = data_center("enforce");
        let mut playbook = playbook("enforce", wait);
        playbook["spec"]["guards"] = json!({"approvals": {"steady": steady, "timeout": "30m"}});
        playbook["spec"]["steps"][2]["wait"]["timeout"] = "2h".into();
        api.put("playbooks", None, playbook);
        let keys: BTreeMap<&str, Vec<u8>> = ["li", "wang"].map(|name| (name, new_key().unwrap())).into();
        let ring = keys.iter().map(|(name, key)| ((*name).to_owned(), public_key(key).unwrap())).collect();
        let ring = Keyring::read(&ring);
        let said = Arc::<Mutex<Vec<ConsentSpec>>>::default();
        let (heard, switch, cancel) = (said.clone(), KillSwitch::new("dc-a"), CancellationToken::new());
        let mut context = context(&api);
        context.options.people = People::saying(Arc::new(move || (ring.clone(), heard.lock().clone())), switch.clone());
        tokio::spawn(run(context, cancel.clone()));
        Self { api, keys, said, switch, cancel }
    }

    fn run(&self) -> Option<Value> {
        self.api.list("playbookruns").first().cloned()
    }

    async fn until(&self, what: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                if let Some(run) = self.run().filter(&what) {
                    return run;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LONG * 3, wait).await.unwrap_or_else(|_| panic!("stuck: {:#?}", self.run()))
    }

    fn approve(&self, by: &'static str, digest: Option<&str>) {
        let run: PlaybookRun = serde_json::from_value(self.run().unwrap()).unwrap();
        let name = run.metadata.name.clone().unwrap();
        let digest = digest.map_or_else(|| spec_hash(&run.spec), ToOwned::to_owned);
        let (group, what) = (run_group(&name), What::ApproveRun { run: name, digest, step: None });
        let said =
            Statement { nonce: format!("{by}{}", self.said.lock().len()), at: "now".into(), group, version: 0, what };
        let statement = serde_json::to_string(&said).unwrap();
        let signature = Some(sign(&self.keys[by], &statement).unwrap());
        self.said.lock().push(ConsentSpec { statement, signer: Some(by.into()), signature, dry_run: false });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn waits_for(text: &'static str) -> impl Fn(&Value) -> bool {
    move |run| run["status"]["phase"] == "Parked" && run["status"]["message"].as_str().unwrap().contains(text)
}

#[tokio::test(start_paused = true)]
async fn two_different_people_must_approve_exactly_this_run() {
    let scene = Scene::begin(2, "node.podCount == 1");
    scene.until(waits_for("0 of 2 people")).await;
    scene.approve("li", None);
    scene.until(waits_for("1 of 2 people")).await;
    scene.approve("li", None);
    scene.approve("wang", Some("another digest"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    scene.until(waits_for("1 of 2 people")).await;
    assert_eq!(effects(&scene.api), [("create run".to_owned(), 1)], "one person twice is one person");
    scene.approve("wang", None);
    let run = scene.until(|run| !run["status"]["finishedAt"].is_null()).await;
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    assert_eq!(effects(&scene.api), each_once());
}

#[tokio::test(start_paused = true)]
async fn nobody_approves_and_nothing_is_done() {
    let scene = Scene::begin(1, "node.podCount == 1");
    let run = scene.until(|run| !run["status"]["finishedAt"].is_null()).await;
    assert_eq!(run["status"]["phase"], "Failed");
    assert!(run["status"]["message"].as_str().unwrap().contains("nothing was done"), "{run:#}");
    assert_eq!(effects(&scene.api), [("create run".to_owned(), 1)]);
}

/// The run stands in its third step, a wait, when the approval ends; the fourth, uncordon, is not taken.
async fn ends_before_the_next_step(end: impl AsyncFnOnce(&Scene), why: &'static str) {
    let scene = Scene::begin(1, "node.podCount == 2");
    scene.until(waits_for("0 of 1 people")).await;
    scene.approve("li", None);
    scene.until(|run| run["status"]["log"][2]["action"] == "wait").await;
    end(&scene).await;
    scene.api.put("pods", Some("shop"), pod("late", "n1", "DaemonSet"));
    scene.until(waits_for(why)).await;
    assert!(!effects(&scene.api).iter().any(|(effect, _)| effect == "uncordon"));
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_is_taken_back_stops_the_run_before_its_next_step() {
    ends_before_the_next_step(async |scene| scene.said.lock().clear(), "0 of 1 people").await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_is_an_hour_old_stops_the_run_before_its_next_step() {
    ends_before_the_next_step(async |_| tokio::time::sleep(Duration::from_secs(3_601)).await, "0 of 1 people").await;
}

#[tokio::test(start_paused = true)]
async fn the_kill_switch_stops_a_run_between_two_steps_and_lets_it_go_on() {
    let scene = Scene::begin(0, "node.podCount == 2");
    scene.until(|run| run["status"]["log"][2]["action"] == "wait").await;
    scene.switch.object([("fleet".to_owned(), "li: looks odd".to_owned())].into());
    scene.api.put("pods", Some("shop"), pod("late", "n1", "DaemonSet"));
    scene.until(waits_for("paused: fleet: li: looks odd")).await;
    assert!(!effects(&scene.api).iter().any(|(effect, _)| effect == "uncordon"));
    scene.switch.object(BTreeMap::new());
    let run = scene.until(|run| !run["status"]["finishedAt"].is_null()).await;
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
}

#[tokio::test(start_paused = true)]
async fn while_everything_is_paused_no_run_begins() {
    let scene = Scene::begin(0, "node.podCount == 1");
    scene.switch.signal(true);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(scene.run(), None);
    scene.switch.signal(false);
    assert_eq!(scene.until(|run| !run["status"]["finishedAt"].is_null()).await["status"]["phase"], "Succeeded");
}
