//! Watches that a PodDisruptionBudget is kept while a node is drained: how few ready pods there ever were.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the pods are counted; an eviction that breaks a budget lasts longer than this.
const EVERY: Duration = Duration::from_millis(50);

/// A running watch; it ends when it is dropped.
pub struct BudgetWatch {
    least: Arc<AtomicUsize>,
    _running: DropGuard,
}

impl BudgetWatch {
    /// Begins to count the ready pods of an app.
    pub fn begin(client: Client, namespace: &str, app: &str) -> Self {
        let least = Arc::new(AtomicUsize::new(usize::MAX));
        let cancel = CancellationToken::new();
        let (pods, seen, ended) = (Api::<Pod>::namespaced(client, namespace), Arc::clone(&least), cancel.clone());
        let params = ListParams::default().labels(&format!("app={app}"));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            while ended.run_until_cancelled(ticks.tick()).await.is_some() {
                if let Ok(list) = pods.list(&params).await {
                    seen.fetch_min(list.items.iter().filter(|pod| is_ready(pod)).count(), Ordering::Relaxed);
                }
            }
        });
        Self { least, _running: cancel.drop_guard() }
    }

    /// The fewest ready pods so far; `None` when nothing was counted yet.
    pub fn least(&self) -> Option<usize> {
        Some(self.least.load(Ordering::Relaxed)).filter(|least| *least != usize::MAX)
    }
}

/// Whether a pod counts as healthy, by the rules of the disruption controller: ready and not being deleted.
pub fn is_ready(pod: &Pod) -> bool {
    let ready = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        Some(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
    };
    pod.metadata.deletion_timestamp.is_none() && ready(pod).unwrap_or(false)
}
