//! Raises what the site says about this node's own network as the condition NetworkUnreachable, and ends it with the
//! site's word.

use std::time::Duration;

use evergreen_api::{Detection, ProblemKind, Severity, mesh::MeshVerdict};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Mesh, RULE};
use crate::{
    conditions::{ConditionType, Sighting},
    signal::Signal,
};

/// How often a verdict that stands is told anew, with its newest figures.
const REFRESH: Duration = Duration::from_secs(30);
/// Without any word of the site for so long it ends by itself: nobody stands up for it any more.
const UNHEARD: Duration = Duration::from_secs(300);

/// Tells what the site says, for ever.
pub(super) async fn run(mesh: &Mesh, signals: &mpsc::Sender<Signal>) {
    let mut verdicts = mesh.verdict.subscribe();
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // An earlier agent may have raised it; it is over when the site does not say so.
    let mut report = 0;
    loop {
        tokio::select! {
            changed = verdicts.changed() => if changed.is_err() { return },
            _ = refresh.tick() => {}
        }
        let signal = match verdicts.borrow_and_update().clone() {
            Some(verdict) => {
                report += 1;
                Signal::Seen(sighting(report, verdict))
            }
            None => Signal::Over { rule: RULE.to_owned(), why: "the site finds the node's network well again".into() },
        };
        if signals.send(signal).await.is_err() {
            return;
        }
    }
}

fn sighting(report: u64, verdict: MeshVerdict) -> Sighting {
    let kind = ProblemKind::NetworkUnreachable;
    Sighting {
        report,
        detection: Detection {
            kind,
            severity: Severity::Degraded,
            crash_type: None,
            summary: verdict.summary,
            first_line: verdict.evidence.first().cloned().unwrap_or_default(),
            evidence: verdict.evidence,
            count: 1,
            at: String::new(),
        },
        rule: RULE.to_owned(),
        clear_after: Some(UNHEARD),
        condition: true,
        about: ConditionType::Kind(kind),
        reason: Some("PeersCannotReach".to_owned()),
        watched: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_verdict_is_raised_with_its_figures_and_ended_with_the_sites_word() {
        let mesh = Mesh::new("dc-a");
        let (sender, mut signals) = mpsc::channel(8);
        let told = mesh.clone();
        tokio::spawn(async move { run(&told, &sender).await });
        let over = |signal: Option<Signal>| matches!(signal, Some(Signal::Over { rule, .. }) if rule == RULE);
        assert!(over(signals.recv().await), "what an earlier agent raised");
        for text in ["first", "second"] {
            mesh.told(Some(MeshVerdict::new(text, vec!["n1 -> n2: 30 of 30 lost".to_owned()])));
            let Some(Signal::Seen(seen)) = signals.recv().await else { panic!("nothing is raised") };
            assert_eq!((seen.detection.summary.as_str(), seen.detection.kind), (text, ProblemKind::NetworkUnreachable));
            assert_eq!(seen.detection.first_line, "n1 -> n2: 30 of 30 lost");
            mesh.told(None);
            assert!(over(signals.recv().await));
        }
    }
}
