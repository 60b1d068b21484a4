//! Reads what the planner needs from every member site's API server, each call bounded, none of them awaited by others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::resources::{MultiActiveService, spec_hash};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt, api::ListParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::site::Register;

/// Sites are asked this often.
const INTERVAL: Duration = Duration::from_secs(1);
/// A site that does not answer in this time counts as unreadable.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// A member site.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name.
    pub site: String,
    /// How to reach its API server.
    pub register: Arc<Register>,
}

/// A namespaced name.
pub(super) type Name = (String, String);

/// What one site's API server says.
#[derive(Clone, Debug, Default)]
pub(super) struct SiteObjects {
    /// Services by name, with the digest of their spec.
    pub services: BTreeMap<Name, (Arc<MultiActiveService>, String)>,
    /// Ready replicas of Deployments in the namespaces of those services.
    pub ready: BTreeMap<Name, u32>,
}

/// What every member site says; absent when it could not be read.
pub(super) type Objects = BTreeMap<String, SiteObjects>;

/// Starts reading; the newest result is in the channel.
pub(super) fn start(peers: Vec<Peer>, cancel: CancellationToken) -> watch::Receiver<Arc<Objects>> {
    let (sender, receiver) = watch::channel(Arc::new(Objects::new()));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let reads = peers.iter().map(|peer| async move {
                match tokio::time::timeout(PATIENCE, read(peer)).await {
                    Ok(Ok(objects)) => Some((peer.site.clone(), objects)),
                    Ok(Err(error)) => {
                        tracing::debug!(site = peer.site, error = %error, "site could not be read");
                        None
                    }
                    Err(_) => None,
                }
            });
            let objects: Objects = join_all(reads).await.into_iter().flatten().collect();
            sender.send_replace(Arc::new(objects));
        }
    });
    receiver
}

async fn read(peer: &Peer) -> anyhow::Result<SiteObjects> {
    let client = peer.register.client().await?;
    let services: Api<MultiActiveService> = Api::all(client.clone());
    let mut objects = SiteObjects::default();
    for service in services.list(&ListParams::default()).await? {
        let name = (service.namespace().unwrap_or_default(), service.name_any());
        let hash = spec_hash(&service.spec);
        objects.services.insert(name, (Arc::new(service), hash));
    }
    let mut namespaces: Vec<&String> = objects.services.keys().map(|(namespace, _)| namespace).collect();
    namespaces.dedup();
    for namespace in namespaces {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        for deployment in deployments.list(&ListParams::default()).await? {
            let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            objects.ready.insert((namespace.clone(), deployment.name_any()), u32::try_from(ready).unwrap_or(0));
        }
    }
    Ok(objects)
}
