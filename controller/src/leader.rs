//! Election of one leader among the controller replicas of a site, on a Lease, without comparing wall clocks.
//!
//! A candidate takes over only a Lease that it saw unchanged for the whole duration on its own monotonic clock; the
//! leader steps down by itself before any candidate can have waited that long.

use std::time::Duration;

use evergreen_api::names::{LEADER_LEASE, SYSTEM_NAMESPACE};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{quorum::Mono, site::BootClock};

/// A candidate waits until the Lease has stood unchanged for this long.
const TAKE_OVER_AFTER: Duration = Duration::from_secs(8);
/// The leader steps down this long after the send time of its last renewal: well before, whatever the clocks do.
const STEP_DOWN_AFTER: Duration = Duration::from_secs(6);
const RENEW: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(500);
const CALL: Duration = Duration::from_millis(1_500);

/// Where a replica stands in the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This replica leads.
    Leading,
    /// Another replica leads.
    Following,
    /// It cannot be told, because the API server does not answer.
    Unknown,
}

/// What a candidate remembers.
#[derive(Debug, Default)]
struct Seen {
    version: Option<String>,
    since: Mono,
}

/// Takes part in the election until cancelled; a leader that is cancelled makes room at once.
pub fn start(client: Client, replica: String, cancel: CancellationToken) -> watch::Receiver<Leadership> {
    let (sender, receiver) = watch::channel(Leadership::Unknown);
    tokio::spawn(async move {
        let api: Api<Lease> = Api::namespaced(client, SYSTEM_NAMESPACE);
        let mut seen = Seen::default();
        let mut held_since: Option<Mono> = None;
        loop {
            let sent = BootClock.now();
            let attempt = tokio::time::timeout(CALL, attempt(&api, &replica, held_since.is_some(), &mut seen)).await;
            let renewed = match attempt {
                Ok(Ok(renewed)) => renewed,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "leader election: the API server refused");
                    None
                }
                Err(_) => None,
            };
            match renewed {
                Some(true) => held_since = Some(sent),
                Some(false) => held_since = None,
                None => {}
            }
            held_since = held_since.filter(|renewed| BootClock.now().saturating_sub(*renewed) < STEP_DOWN_AFTER);
            let standing = match (held_since, renewed) {
                (Some(_), _) => Leadership::Leading,
                (None, Some(false)) => Leadership::Following,
                (None, _) => Leadership::Unknown,
            };
            if sender.send_if_modified(|known| std::mem::replace(known, standing) != standing) {
                tracing::info!(replica, ?standing, "leader election");
            }
            let pause = if renewed == Some(true) { RENEW } else { RETRY };
            tokio::select! {
                () = cancel.cancelled() => {
                    if held_since.is_some() {
                        // Out of courtesy: without it the next leader has to wait until the Lease has stood still.
                        let _ = tokio::time::timeout(CALL, resign(&api, &replica)).await;
                    }
                    return;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    receiver
}

async fn resign(api: &Api<Lease>, replica: &str) -> Result<(), kube::Error> {
    let lease = api.get(LEADER_LEASE).await?;
    if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(replica) {
        let mut free = renewed(Some(&lease), replica);
        free.spec.get_or_insert_default().holder_identity = None;
        api.replace(LEADER_LEASE, &PostParams::default(), &free).await?;
    }
    Ok(())
}

/// One look at the Lease: Some(true) renewed or taken, Some(false) somebody else holds it, None lost a race.
async fn attempt(api: &Api<Lease>, replica: &str, leading: bool, seen: &mut Seen) -> Result<Option<bool>, kube::Error> {
    let Some(lease) = api.get_opt(LEADER_LEASE).await? else {
        return Ok(settle(api.create(&PostParams::default(), &renewed(None, replica)).await)?.then_some(true));
    };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    if lease.metadata.resource_version != seen.version {
        *seen = Seen { version: lease.metadata.resource_version.clone(), since: BootClock.now() };
    }
    // A former life under the same name is no reason to go on: it is timed like any other holder.
    let mine = leading && holder == replica;
    let free = holder.is_empty() || BootClock.now().saturating_sub(seen.since) >= TAKE_OVER_AFTER;
    if !mine && !free {
        return Ok(Some(false));
    }
    let written = api.replace(LEADER_LEASE, &PostParams::default(), &renewed(Some(&lease), replica)).await;
    Ok(settle(written)?.then_some(true))
}

/// A conflict is a lost race, not an error.
fn settle(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn renewed(old: Option<&Lease>, replica: &str) -> Lease {
    let spec = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let transitions = spec.lease_transitions.unwrap_or(0);
    let changes = i32::from(spec.holder_identity.as_deref() != Some(replica));
    Lease {
        metadata: ObjectMeta {
            name: Some(LEADER_LEASE.to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            resource_version: old.and_then(|lease| lease.metadata.resource_version.clone()),
            uid: old.and_then(|lease| lease.metadata.uid.clone()),
            ..ObjectMeta::default()
        },
        // The time is for people who look at the Lease; no controller reads it. It also makes every renewal a change.
        spec: Some(LeaseSpec {
            holder_identity: Some(replica.to_owned()),
            lease_duration_seconds: Some(i32::try_from(TAKE_OVER_AFTER.as_secs()).unwrap_or(i32::MAX)),
            lease_transitions: Some(transitions + changes),
            renew_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(jiff::Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}
