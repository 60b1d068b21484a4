//! A site that comes back step by step, and whose controller is killed on the way: real controllers on simulated API
//! servers. It goes on with its share, it does not start with the whole.

use std::time::{Duration, Instant};

use evergreen_tests::{
    fleet::{Fleet, automatic_service},
    wait::eventually,
};
use evergreen_twin::Loss;
use serde_json::json;

/// Longer than a new life of a controller takes until it acts: its share stands meanwhile.
const SOAK: Duration = Duration::from_secs(20);

async fn share(fleet: &Fleet) -> Result<u64, String> {
    fleet.weights("dc-b").await.map(|weights| weights["checkout"])
}

async fn until_active(fleet: &Fleet, wanted: [&str; 2]) {
    eventually(&format!("{wanted:?} active"), Duration::from_secs(60), || async {
        let active = fleet.active("dc-a").await?;
        if active == wanted { Ok(()) } else { Err(format!("{active:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_while_its_site_comes_back_goes_on_with_the_share_that_it_had() {
    let mut service = automatic_service();
    service["spec"]["failback"] = json!({"mode": "gradual", "soak": "20s", "steps": [10, 100]});
    let mut fleet = Fleet::start(service).await;
    until_active(&fleet, ["dc-a", "dc-b"]).await;
    fleet.kill_controller("dc-b");
    fleet.site("dc-b").twin.faults().lose(Loss::Reset);
    until_active(&fleet, ["dc-a", "dc-c"]).await;
    fleet.site("dc-b").twin.faults().clear();
    fleet.start_controller("dc-b");
    eventually("the site is back with its first share", SOAK * 4, || async {
        let share = share(&fleet).await?;
        if share == 10 { Ok(()) } else { Err(format!("{share} of 100")) }
    })
    .await;
    fleet.kill_controller("dc-b");
    fleet.start_controller("dc-b");
    let (began, mut seen) = (Instant::now(), Vec::new());
    while began.elapsed() < SOAK * 3 {
        let share = share(&fleet).await.expect("a route");
        if seen.last() != Some(&share) {
            seen.push(share);
        }
        if share == 100 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (last, before) = seen.split_last().expect("a share was seen");
    assert!(
        *last == 100 && before.iter().all(|share| *share <= 10),
        "shares {seen:?}: nothing between, and all at last"
    );
    assert!(began.elapsed() >= SOAK, "all of its share after {:?}", began.elapsed());
}
