//! The same requests to a twin and to a real API server: status, body and watch events have to be the same.
//!
//! What differs is named in `tests/data/twin/known.yaml` with its reason, and shown in `docs/twin-deviations.md`, which
//! this suite writes when `EVERGREEN_WRITE_DEVIATIONS` is set. A difference that is not named fails the suite, and so does
//! a name for a difference that is no more.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod normal;
mod play;
mod report;
mod script;

use std::path::PathBuf;
use std::process::Command;

use evergreen_tests::{root, skip::skipped};
use evergreen_twin::Twin;
use futures::StreamExt;

const CHECK: &str = "twin: differential suite";

/// A real API server without controllers, so that nothing changes between two requests.
struct Real {
    kubeconfig: PathBuf,
    kit: Option<PathBuf>,
}

impl Real {
    /// The one that `EVERGREEN_REAL_API` names by its kubeconfig, or one of the kit beside the checkout.
    fn start() -> Option<Real> {
        if let Some(path) = std::env::var_os("EVERGREEN_REAL_API") {
            return Some(Real { kubeconfig: path.into(), kit: None });
        }
        let Some(kit) =
            ["../shared/kube/cluster", "shared/kube/cluster"].map(|p| root().join(p)).into_iter().find(|p| p.is_file())
        else {
            skipped(
                CHECK,
                "no kit with a real API server; set EVERGREEN_REAL_API to a kubeconfig of one without controllers",
            );
            return None;
        };
        let answer = Command::new(&kit).args(["up", NAME, "29700", "--no-controllers"]).output().unwrap();
        let path = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        Some(Real { kubeconfig: path.into(), kit: Some(kit) })
    }
}

const NAME: &str = "twin-differential";
/// Sequences that are played at once.
const AT_ONCE: usize = 4;

impl Drop for Real {
    fn drop(&mut self) {
        if let Some(kit) = &self.kit {
            let _ = Command::new(kit).args(["down", NAME]).output();
        }
    }
}

#[tokio::test]
async fn the_twin_answers_as_a_real_api_server_does() {
    if std::env::var_os("EVERGREEN_WRITE_DEVIATIONS").is_none()
        && std::env::var_os("EVERGREEN_TEST_DIFFERENTIAL").is_none()
    {
        skipped(CHECK, "takes minutes; make twin-deviations runs it");
        return;
    }
    let script = script::read();
    let Some(server) = Real::start() else { return };
    let config = kube::config::Kubeconfig::read_from(&server.kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    let real = kube::Client::try_from(config).unwrap();
    let twin = Twin::builder("dc-a").build();
    let own = twin.client("admin");
    let only = std::env::var("EVERGREEN_ONLY").unwrap_or_default();
    let played = script.sequences.iter().filter(|s| s.name.contains(&only)).enumerate().map(|(index, sequence)| {
        let (real, own) = (real.clone(), own.clone());
        async move {
            let namespace = play::namespace(index);
            let (theirs, ours) =
                tokio::join!(play::play(&real, sequence, &namespace), play::play(&own, sequence, &namespace));
            report::compare(sequence, &theirs, &ours)
        }
    });
    // Each has a namespace of its own, so a few can go on at once.
    let results: Vec<_> = futures::stream::iter(played).buffered(AT_ONCE).collect().await;
    let outcome = report::judge(&script, &results);
    let listed = root().join("target/twin-differences.txt");
    std::fs::write(&listed, outcome.list() + &outcome.tell()).unwrap();
    let listed = root().join("target/twin-differences.txt");
    std::fs::write(&listed, outcome.list() + &outcome.tell()).unwrap();
    let version = real.apiserver_version().await.unwrap();
    report::check_page(&outcome, &format!("{}.{}", version.major, version.minor.trim_end_matches('+')));
    assert!(outcome.unknown.is_empty(), "{}", outcome.tell());
    assert!(outcome.stale.is_empty(), "differences that are no more: {:#?}", outcome.stale);
}
