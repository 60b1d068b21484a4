//! Registers that forget.

use std::time::Duration;

use evergreen_tests::real::fleet::{Fleet, REGISTER};

use crate::Stage;

/// The etcd of one site is set back to a time before the register moved, and the site that held it since dies: the
/// promises that the restored one forgot must not make a second writer.
pub async fn a_register_restored_from_an_old_snapshot_makes_no_second_writer(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let first = stage.fleet.holder().await;
    let forgetful = Fleet::others(first)[0];
    let snapshot = stage.fleet.dir().join("snapshot");
    let _ = std::fs::remove_dir_all(&snapshot);
    let plane = &mut stage.fleet.site_mut(forgetful).plane;
    plane.kill();
    plane.etcd.snapshot(&snapshot).expect("the volume can be copied");
    plane.revive().await.expect("it starts again");
    stage.fleet.whole().await;
    // The register moves on.
    let clients = stage.fleet.register_clients(1, 2);
    let cut = clients.now();
    stage.fleet.cut_off(first);
    let moved = clients.served_since(cut, Duration::from_secs(40), |r| r.done_by().is_some_and(|by| by != first));
    let second = moved.await.expect("another site takes over").done_by().unwrap_or_default().to_owned();
    stage.fleet.replug();
    tokio::time::sleep(Duration::from_secs(8)).await;
    // And one of the registers forgets that it did, together with the controller of its site.
    let site = stage.fleet.site_mut(forgetful);
    site.controller = None;
    site.plane.kill();
    site.plane.etcd.restore(&snapshot).expect("the volume can be replaced");
    site.plane.revive().await.expect("it starts again");
    stage.fleet.start_controller(forgetful).expect("a controller starts");
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
    assert_eq!(double, 0);
    assert_eq!(violations, []);
}
