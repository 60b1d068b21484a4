//! Brings statements from every site that can be read, the keyring and the kill switch from the own one.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use evergreen_api::{
    names::{APPROVERS, PAUSE, SYSTEM_NAMESPACE},
    resources::{Consent, ConsentPhase, ConsentSpec},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, Resource, core::DeserializeGuard};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::{keyring::Keyring, switch::KillSwitch};
use crate::{
    failover::{Kept, Peer},
    site::clients::CALL_TIMEOUT,
};

/// The ConfigMaps and the file are looked at this often.
const INTERVAL: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);

/// Statements at one site, by name.
pub(crate) type Heard = Kept<String, ConsentSpec>;

/// What is kept.
#[derive(Debug)]
pub struct ConsentWatch {
    /// Statements by site.
    pub(crate) heard: BTreeMap<String, Arc<Heard>>,
    keyring: RwLock<Keyring>,
}

impl ConsentWatch {
    /// Starts looking.
    pub fn start(
        members: &[Peer],
        own: Client,
        switch: KillSwitch,
        pause_file: Option<PathBuf>,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let heard: BTreeMap<String, Arc<Heard>> =
            members.iter().map(|peer| (peer.site.clone(), Arc::new(Heard::default()))).collect();
        for peer in members.iter().cloned() {
            let (kept, cancel) = (heard[&peer.site].clone(), cancel.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = follow(&peer, &kept) => {}
                }
            });
        }
        let watch = Arc::new(Self { heard, keyring: RwLock::default() });
        let (kept, cancel) = (watch.clone(), cancel.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                if let Some(path) = &pause_file {
                    switch.look_at_file(path);
                }
                // What was said last stands while the API server is silent.
                if let Some(data) = read(&own, PAUSE).await {
                    switch.object(data);
                }
                if let Some(data) = read(&own, APPROVERS).await {
                    kept.take_keyring(Keyring::read(&data));
                }
            }
        });
        watch
    }

    /// Whose signatures count.
    pub fn keyring(&self) -> Keyring {
        self.keyring.read().clone()
    }

    fn take_keyring(&self, keyring: Keyring) {
        let mut known = self.keyring.write();
        if *known != keyring {
            let people = keyring.names().collect::<Vec<_>>().join(", ");
            tracing::warn!(people, wrong = keyring.wrong.join("; "), "who may ask for moves and approve them changed");
            *known = keyring;
        }
    }
}

async fn read(client: &Client, name: &str) -> Option<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    match tokio::time::timeout(CALL_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(found)) => Some(found.and_then(|map| map.data).unwrap_or_default()),
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn follow(peer: &Peer, kept: &Heard) {
    let client = loop {
        match peer.register.client().await {
            Ok(client) => break client,
            Err(error) => tracing::debug!(site = peer.site, %error, "statements cannot be read yet"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let api = Api::<DeserializeGuard<Consent>>::namespaced(client, SYSTEM_NAMESPACE);
    kept.follow(api, "statements", |guarded| {
        // What was over before this process began stays over.
        let over = |consent: &Consent| consent.status.as_ref().is_some_and(|status| status.phase == ConsentPhase::Over);
        (guarded.meta().name.clone().unwrap_or_default(), guarded.0.ok().filter(|c| !over(c)).map(|c| c.spec))
    })
    .await;
}
