//! Registers that forget.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use evergreen_tests::real::fleet::{Fleet, REGISTER, SITES};

use crate::Stage;

const MOVED: Duration = Duration::from_secs(40);

/// The etcd of one site is set back to a time before the register moved, and the site that held it since dies: the
/// promises that the restored one forgot must not make a second writer.
pub async fn a_register_restored_from_an_old_snapshot_makes_no_second_writer(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let first = stage.fleet.holder().await;
    let forgetful = Fleet::others(first)[0];
    let snapshot = copy_of(stage.fleet, forgetful).await;
    // The register moves on.
    let clients = stage.fleet.register_clients(1, 2);
    let cut = clients.now();
    stage.fleet.cut_off(first);
    let moved = clients.served_since(cut, MOVED, |r| r.done_by().is_some_and(|by| by != first));
    let second = moved.await.expect("another site takes over").done_by().unwrap_or_default().to_owned();
    stage.fleet.replug();
    tokio::time::sleep(Duration::from_secs(8)).await;
    // And one of the registers forgets that it did, together with the controller of its site.
    set_back(stage.fleet, forgetful, &snapshot).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    let (mut looks, mut double) = (0, 0);
    while tokio::time::Instant::now() < end {
        double += u64::from(stage.fleet.granted(REGISTER).await.len() > 1);
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.report.count("looks at a fleet with a forgetful register that found two grants", double, looks);
    let mut told = Vec::new();
    for at in Fleet::others(forgetful) {
        told.push(stage.fleet.data_center(at, forgetful).await.unwrap_or_default().to_string());
    }
    println!("    held by {first}, then {second}; the others about {forgetful}: {}", told.join(" | "));
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    restart_controllers(stage.fleet).await;
    assert_eq!(double, 0);
    assert_eq!(violations, []);
}

/// A majority that forgot: the register moves while one API server is away; a second one is then set back to before
/// the move and every process that remembers it restarts. Whatever is decided now, no token may be given out twice.
pub async fn a_majority_that_forgot_gives_no_token_out_twice(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let late = stage.fleet.holder().await;
    let forgetful = Fleet::others(late)[0];
    let snapshot = copy_of(stage.fleet, forgetful).await;
    let clients = stage.fleet.register_clients(1, 2);
    // The move that one of them misses and the other forgets.
    let died = clients.now();
    stage.fleet.site_dies(late);
    let moved = clients.served_since(died, MOVED, |r| r.done_by().is_some_and(|by| by != late));
    let second = moved.await.expect("another site takes over").done_by().unwrap_or_default().to_owned();
    let third = SITES.into_iter().find(|site| *site != late && *site != forgetful).unwrap_or_default();
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The site that neither missed nor forgot it is gone; what is left has to come to terms without it.
    stage.fleet.site_mut(forgetful).controller = None;
    stage.fleet.site_dies(third);
    set_back(stage.fleet, forgetful, &snapshot).await;
    stage.fleet.site_returns(late).expect("it starts");
    tokio::time::sleep(Duration::from_secs(30)).await;
    let granted = stage.fleet.granted(REGISTER).await;
    let told = stage.fleet.data_center(late, forgetful).await.unwrap_or_default();
    println!("    held by {late}, then {second}; with {third} away: {granted:?}; about {forgetful}: {told}");
    stage.fleet.site_returns(third).expect("it starts");
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    stage.report.count(
        "majorities that forgot a move and gave a token out twice",
        u64::from(!violations.is_empty()),
        1,
    );
    restart_controllers(stage.fleet).await;
    assert_eq!(violations, []);
}

/// A copy of the volume of a site's etcd as it is now.
async fn copy_of(fleet: &mut Fleet, site: &str) -> PathBuf {
    let snapshot = fleet.dir().join(format!("snapshot-{site}"));
    let _ = std::fs::remove_dir_all(&snapshot);
    let plane = &mut fleet.site_mut(site).plane;
    plane.kill();
    plane.etcd.snapshot(&snapshot).expect("the volume can be copied");
    plane.revive().await.expect("it starts again");
    fleet.whole().await;
    snapshot
}

/// Puts the copy in the place of what the site's etcd holds now, and starts its controller anew.
async fn set_back(fleet: &mut Fleet, name: &str, snapshot: &Path) {
    let site = fleet.site_mut(name);
    site.controller = None;
    site.plane.kill();
    site.plane.etcd.restore(snapshot).expect("the volume can be replaced");
    site.plane.revive().await.expect("it starts again");
    fleet.start_controller(name).expect("a controller starts");
}

/// Begins the next scenario with controllers that remember nothing.
async fn restart_controllers(fleet: &mut Fleet) {
    for site in SITES {
        fleet.site_mut(site).controller = None;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for site in SITES {
        fleet.start_controller(site).expect("a controller starts");
    }
}
