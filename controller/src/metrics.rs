//! What the controller says about itself: metrics, liveness, readiness.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use evergreen_api::telemetry::{attribute, metric};
use evergreen_telemetry::{KeyValue, Meter, Telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    quorum::Standing,
    site::{BootClock, SiteHandle},
};

/// Whether the process is ready, and whether it leads.
#[derive(Clone, Debug, Default)]
pub struct Health {
    started: Arc<AtomicBool>,
    leading: Arc<AtomicBool>,
}

impl Health {
    /// The data centers are known and everything runs.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Whether this replica leads.
    pub fn leads(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }
}

/// Serves /metrics, /healthz, /readyz and /leader until cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    health: Health,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (ready, leading) = (health.started.clone(), health.leading.clone());
    let router = Router::new()
        .route("/metrics", get(|State(telemetry): State<Arc<Telemetry>>| async move { telemetry.prometheus_text() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.load(Ordering::Relaxed) {
                    (StatusCode::OK, "ok\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "waiting for the DataCenter resources of the own API server\n")
                }
            }),
        )
        .route(
            "/leader",
            get(move || async move { if leading.load(Ordering::Relaxed) { "leading\n" } else { "standing by\n" } }),
        )
        .with_state(telemetry);
    axum::serve(listener, router).with_graceful_shutdown(async move { cancel.cancelled().await }).await?;
    Ok(())
}

/// Registers the metrics of the site lease and the map.
pub fn register(meter: &Meter, handle: &SiteHandle, site: &str) {
    let labels = [KeyValue::new(attribute::SITE, site.to_owned())];
    let (own, own_labels) = (handle.clone(), labels.clone());
    meter
        .u64_observable_gauge(metric::SITE_IN_QUORUM)
        .with_description("1 while the site's lease is renewed at a majority of registers")
        .with_callback(move |observer| {
            observer.observe(u64::from(matches!(own.now().standing, Standing::InQuorum { .. })), &own_labels);
        })
        .build();
    let (own, own_labels) = (handle.clone(), labels.clone());
    meter
        .u64_observable_gauge(metric::SITE_EPOCH)
        .with_description("Epoch of the site's lease")
        .with_callback(move |observer| {
            if let Standing::InQuorum { epoch, .. } = own.now().standing {
                observer.observe(epoch, &own_labels);
            }
        })
        .build();
    let (own, own_labels) = (handle.clone(), labels);
    meter
        .u64_observable_gauge(metric::SITE_LEASE_REMAINING)
        .with_description("How long the site may go on granting unless it renews")
        .with_unit("ms")
        .with_callback(move |observer| {
            let remaining = match own.now().standing {
                Standing::InQuorum { valid_until, .. } => valid_until.saturating_sub(BootClock.now()).as_millis(),
                Standing::Out(_) => 0,
            };
            observer.observe(u64::try_from(remaining).unwrap_or(u64::MAX), &own_labels);
        })
        .build();
    let own = handle.clone();
    meter
        .u64_observable_gauge(metric::GROUP_HOLDER)
        .with_description("1 for each site that the assignment map names as a holder of a group")
        .with_callback(move |observer| {
            for (group, entry) in own.now().map.iter().flat_map(|map| map.0.iter()) {
                for holder in &entry.holders {
                    let labels = [
                        KeyValue::new(attribute::FAILOVER_GROUP, group.clone()),
                        KeyValue::new(attribute::HOLDER, holder.site.clone()),
                        KeyValue::new(attribute::EPOCH, i64::try_from(holder.epoch).unwrap_or(i64::MAX)),
                    ];
                    observer.observe(1, &labels);
                }
            }
        })
        .build();
}
