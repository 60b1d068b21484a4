//! What the controller says about itself: metrics, liveness, readiness.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use evergreen_api::telemetry::{attribute, metric};
use evergreen_telemetry::{KeyValue, Meter, Telemetry};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    quorum::{AssignmentMap, Standing},
    site::{BootClock, SiteHandle},
};

/// Whether the process is ready, and whether it leads.
#[derive(Clone, Debug, Default)]
pub struct Health {
    readiness: Arc<Mutex<Readiness>>,
    leading: Arc<AtomicBool>,
}

/// How far the process is.
#[derive(Clone, Copy, Debug, Default)]
enum Readiness {
    /// Its API server did not answer yet.
    #[default]
    Waiting,
    /// Nothing is there to act for. That is ready: a release that waits for its pods (`helm --wait`) makes the own
    /// DataCenter only after they are.
    Idle,
    /// The data centers are known and everything runs.
    Started,
}

impl Health {
    /// The data centers are known and everything runs.
    pub fn started(&self) {
        *self.readiness.lock() = Readiness::Started;
    }

    /// The API server answers, and has no DataCenter for this process.
    pub fn idle(&self) {
        *self.readiness.lock() = Readiness::Idle;
    }

    fn answer(&self) -> (StatusCode, &'static str) {
        match *self.readiness.lock() {
            Readiness::Waiting => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the own API server\n"),
            Readiness::Idle => (StatusCode::OK, "idle: no DataCenter has the name given with --site\n"),
            Readiness::Started => (StatusCode::OK, "ok\n"),
        }
    }

    /// Whether this replica leads.
    pub fn leads(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }
}

/// Serves /metrics, /healthz, /readyz, /leader and, where the site has a token for it, /alerts until cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    health: Health,
    alerts: Option<Router>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (ready, leading) = (health.clone(), health.leading.clone());
    let router = Router::new()
        .route("/metrics", get(|State(telemetry): State<Arc<Telemetry>>| async move { telemetry.prometheus_text() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready.answer() }))
        .route(
            "/leader",
            get(move || async move { if leading.load(Ordering::Relaxed) { "leading\n" } else { "standing by\n" } }),
        )
        .with_state(telemetry);
    let router = alerts.map_or(router.clone(), |alerts| router.merge(alerts));
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
            for (group, entry) in own.now().map.iter().flat_map(AssignmentMap::groups) {
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
