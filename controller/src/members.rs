//! Which data centers there are: read once at start, from the DataCenter resources of the own site.
//!
//! The set of registers decides what a majority is. It is fixed for the life of a process; a change is told and asks
//! for a restart of the controllers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::resources::{DataCenter, SiteRole, TimingProfile};
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio_util::sync::CancellationToken;

use crate::{
    failover::Peer,
    metrics::Health,
    site::{
        Clusters, Register,
        clients::{self, CALL_TIMEOUT},
    },
};

/// The first wait after a failed look; doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// The set of data centers is compared this often.
const COMPARE: Duration = Duration::from_secs(15);

/// The data centers of the fleet.
#[derive(Clone, Debug)]
pub struct Members {
    /// Registers, members and witnesses, in the order of their names.
    pub registers: Vec<Arc<Register>>,
    /// Sites that run services.
    pub members: Vec<Peer>,
    /// Timing profile of the own site.
    pub profile: TimingProfile,
    /// Data centers that only vote.
    pub witnesses: Vec<String>,
    /// UID of the own cluster.
    pub cluster: String,
    fingerprint: Fingerprint,
}

type Fingerprint = BTreeMap<String, (SiteRole, String, TimingProfile)>;

/// Which cluster each data center is, where that was declared or seen in an earlier life.
type Pins = BTreeMap<String, String>;

impl Members {
    /// Waits until the DataCenter resources can be read and name the own site.
    pub async fn wait(client: &Client, site: &str, health: &Health, cancel: &CancellationToken) -> Option<Self> {
        let mut retry = FIRST_RETRY;
        loop {
            match read(client).await {
                Ok((sites, _)) if sites.get(site).is_some_and(|(role, ..)| *role == SiteRole::Witness) => {
                    tracing::error!(
                        site,
                        "DataCenter {site} is a witness: it holds a register and runs nothing, so no controller acts for \
                         it; give --site the name of a member"
                    );
                }
                Ok((sites, pins)) if sites.contains_key(site) => match Self::of(client, site, sites, pins).await {
                    Ok(members) => return Some(members),
                    Err(error) => tracing::error!(site, error, retry_in = ?retry, "this data center cannot be used"),
                },
                Ok((sites, _)) => {
                    let known = sites.keys().cloned().collect::<Vec<_>>().join(", ");
                    health.idle();
                    tracing::warn!(site, known, "no DataCenter has the name given with --site; waiting for one");
                }
                Err(error) => {
                    tracing::warn!(error, retry_in = ?retry, "DataCenter resources cannot be read; trying again");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }

    async fn of(client: &Client, own: &str, sites: Fingerprint, pins: Pins) -> Result<Self, String> {
        let witness = |(site, (role, ..)): (&String, &(SiteRole, String, TimingProfile))| {
            (*role == SiteRole::Witness).then(|| site.clone())
        };
        let witnesses: Vec<String> = sites.iter().filter_map(witness).collect();
        let cluster = clients::cluster(client).await.map_err(|error| error.to_string())?;
        let clusters = Clusters::new(own, cluster.clone(), pins, witnesses.clone()).map_err(|why| why.message)?;
        let clusters = Arc::new(clusters);
        let register = |(site, (_, secret, _)): (&String, &(SiteRole, String, TimingProfile))| {
            if site == own {
                Arc::new(Register::own(site, client.clone()))
            } else {
                Register::peer(site, client.clone(), secret, clusters.clone())
            }
        };
        let registers: Vec<Arc<Register>> = sites.iter().map(register).collect();
        let members = registers
            .iter()
            .filter(|register| sites.get(register.site()).is_some_and(|(role, ..)| *role == SiteRole::Member))
            .map(|register| Peer { site: register.site().to_owned(), register: register.clone() })
            .collect();
        let profile = sites.get(own).map(|(.., profile)| *profile).unwrap_or_default();
        Ok(Self { registers, members, profile, witnesses, cluster, fingerprint: sites })
    }

    /// Tells when the set of data centers is no longer the one that this process works with.
    pub async fn watch_for_changes(self, client: Client, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(COMPARE) => {}
            }
            if read(&client).await.is_ok_and(|(sites, _)| sites != self.fingerprint) {
                tracing::warn!(
                    "DataCenter resources changed: restart the controllers of all sites, one after the other, so that \
                     they agree on what a majority is"
                );
            }
        }
    }
}

async fn read(client: &Client) -> Result<(Fingerprint, Pins), String> {
    let api: Api<DataCenter> = Api::all(client.clone());
    let list = tokio::time::timeout(CALL_TIMEOUT, api.list(&ListParams::default()))
        .await
        .map_err(|_| "the API server did not answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    // What is declared counts more than what was seen.
    let pin = |site: &DataCenter| {
        let seen = site.status.as_ref().and_then(|status| status.cluster_uid.clone());
        Some((site.name_any(), site.spec.api_server.cluster_uid.clone().or(seen)?))
    };
    let pins = list.iter().filter_map(pin).collect();
    let entry = |site: DataCenter| {
        (site.name_any(), (site.spec.role, site.spec.api_server.kubeconfig_secret, site.spec.profile))
    };
    Ok((list.into_iter().map(entry).collect(), pins))
}
