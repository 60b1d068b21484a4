//! Registers on real objects: a Lease per site and the assignments ConfigMap, in the system namespace of a site.
//!
//! Reads carry no resourceVersion, so that they are quorum reads; writes are `replace` with the exact resourceVersion,
//! which is the API server's compare-and-swap. A time-out means unknown: the write may still land.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::names::{ANNOTATION_EPOCH, ASSIGNMENTS, SITE_LEASE_PREFIX, SYSTEM_NAMESPACE, site_lease};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::ConfigMap,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions},
};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::{
    BootClock, clients,
    clusters::{Clusters, Refusal},
};
use crate::quorum::{
    Answer, Incarnation, LeaseVersion, Marks, Mono, Observed, Operation, RegisterContent, RegisterState, SiteRecord,
    StateVersion,
};

/// Key of the ConfigMap that holds the register's state.
const STATE_KEY: &str = "register";
/// Annotation that holds the number of renewals.
const ANNOTATION_SERIAL: &str = "evergreen.dev/serial";
/// Annotation that holds what the site saw at the other registers.
const ANNOTATION_SEEN: &str = "evergreen.dev/seen";

/// How the API server of a register is reached.
enum Reach {
    Own(Client),
    Peer { own: Client, secret: String, clusters: Arc<Clusters>, link: Mutex<Link>, making: AsyncMutex<()> },
}

/// Where the access to a peer stands.
#[derive(Default)]
struct Link {
    client: Option<Client>,
    /// When its kubeconfig was read, and which cluster answers was looked at.
    looked: Option<Mono>,
    ends: Option<Timestamp>,
    refused: Option<Refusal>,
    looking: bool,
}

/// Which cluster answers is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A peer that was refused, or that refuses us, is tried with what its Secret says then after this time.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// One register.
pub struct Register {
    site: String,
    reach: Reach,
}

impl std::fmt::Debug for Register {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Register").field("site", &self.site).finish_non_exhaustive()
    }
}

impl Register {
    /// The register in the own API server.
    pub fn own(site: &str, client: Client) -> Self {
        Self { site: site.to_owned(), reach: Reach::Own(client) }
    }

    /// The register of another site; its client is made from the Secret once that can be read, and used once the cluster
    /// that answers is the right one.
    pub fn peer(site: &str, own: Client, secret: &str, clusters: Arc<Clusters>) -> Arc<Self> {
        let (link, making) = (Mutex::default(), AsyncMutex::default());
        let reach = Reach::Peer { own, secret: secret.to_owned(), clusters, link, making };
        Arc::new(Self { site: site.to_owned(), reach })
    }

    /// Site that the register is at.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Client of the register's API server.
    ///
    /// # Errors
    /// When the peer's Secret cannot be read yet, or another cluster answers than the one that should.
    pub async fn client(self: &Arc<Self>) -> Result<Client, clients::ClientError> {
        let Reach::Peer { link, making, .. } = &self.reach else { return self.connect().await };
        if let Some(ready) = self.ready(link) {
            return ready;
        }
        let _one_at_a_time = making.lock().await;
        match self.ready(link) {
            Some(ready) => ready,
            None => self.connect().await,
        }
    }

    /// The client that is there, or the refusal that is not old yet.
    fn ready(self: &Arc<Self>, link: &Mutex<Link>) -> Option<Result<Client, clients::ClientError>> {
        let mut link = link.lock();
        let age = BootClock.now().saturating_sub(link.looked?);
        if let Some(refusal) = &link.refused {
            return (age < READ_AGAIN).then(|| Err(clients::ClientError::Refused(refusal.clone())));
        }
        let client = link.client.clone()?;
        if age >= LOOK_AGAIN && !link.looking {
            link.looking = true;
            let register = self.clone();
            tokio::spawn(async move { register.look_again().await });
        }
        Some(Ok(client))
    }

    async fn connect(&self) -> Result<Client, clients::ClientError> {
        let (own, secret, clusters, link) = match &self.reach {
            Reach::Own(client) => return Ok(client.clone()),
            Reach::Peer { own, secret, clusters, link, .. } => (own, secret, clusters, link),
        };
        let (client, ends) = clients::peer(own, secret).await?;
        link.lock().ends = ends;
        let uid = clients::cluster(&client).await?;
        let judged = clusters.judge(&self.site, &uid);
        let mut link = link.lock();
        link.looked = Some(BootClock.now());
        link.refused = judged.as_ref().err().cloned();
        link.client = judged.is_ok().then(|| client.clone());
        drop(link);
        judged.map(|()| client).map_err(clients::ClientError::Refused)
    }

    /// Beside the work: whether the same cluster still answers. A silent one says nothing about that.
    async fn look_again(&self) {
        let Reach::Peer { clusters, link, .. } = &self.reach else { return };
        let client = link.lock().client.clone();
        let Some(client) = client else { return };
        let found = clients::cluster(&client).await;
        let mut link = link.lock();
        link.looking = false;
        if let Ok(uid) = found {
            link.looked = Some(BootClock.now());
            link.refused = clusters.judge(&self.site, &uid).err();
            if link.refused.is_some() {
                link.client = None;
            }
        }
    }

    /// Whoever is not let in any more reads the Secret anew: there may be a newer certificate in it.
    fn not_let_in(&self) {
        if let Reach::Peer { link, .. } = &self.reach {
            let mut link = link.lock();
            if link.looked.is_none_or(|looked| BootClock.now().saturating_sub(looked) >= READ_AGAIN) {
                (link.client, link.looked) = (None, None);
            }
        }
    }

    /// Why the cluster that answers must not be used.
    pub fn refused(&self) -> Option<Refusal> {
        match &self.reach {
            Reach::Own(_) => None,
            Reach::Peer { link, .. } => link.lock().refused.clone(),
        }
    }

    /// When the client certificate ends that this site shows to the peer, and the Secret that holds it.
    pub fn certificate(&self) -> Option<(Timestamp, &str)> {
        match &self.reach {
            Reach::Own(_) => None,
            Reach::Peer { link, secret, .. } => link.lock().ends.map(|ends| (ends, secret.as_str())),
        }
    }

    /// UID of the cluster, once it was seen and found right.
    pub fn cluster(&self) -> Option<String> {
        match &self.reach {
            Reach::Own(_) => None,
            Reach::Peer { clusters, .. } => clusters.of(&self.site),
        }
    }

    /// Performs one operation. Bound it with a time-out.
    pub async fn perform(self: &Arc<Self>, operation: Operation) -> Answer {
        let client = match self.client().await {
            Ok(client) => client,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let result = match operation {
            Operation::Read => read(&client).await,
            Operation::CreateRecord { site, record } => create_record(&client, &site, &record).await,
            Operation::DeleteRecord { site, at } => delete::<Lease>(&client, &site_lease(&site), &at).await,
            Operation::DeleteState { at } => delete::<ConfigMap>(&client, ASSIGNMENTS, &at).await,
            Operation::CreateState { state } => create_state(&client, &state).await,
            Operation::WriteRecord { site, at, record } => write_record(&client, &site, &at, &record).await,
            Operation::WriteState { at, state } => write_state(&client, &at, &state).await,
        };
        result.unwrap_or_else(|error| match &error {
            // Gone is as good a conflict as changed: what it was asked about is not there.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Answer::Conflict,
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                self.not_let_in();
                Answer::Unknown(clients::chain(&error))
            }
            _ => Answer::Unknown(clients::chain(&error)),
        })
    }
}

/// The ConfigMap first: a record is created before its site is enrolled, so the records read after it are complete.
async fn read(client: &Client) -> Result<Answer, kube::Error> {
    let Some(map) = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM_NAMESPACE).get_opt(ASSIGNMENTS).await? else {
        return Ok(Answer::NoState(records(client).await?));
    };
    let text = map.data.as_ref().and_then(|data| data.get(STATE_KEY)).map_or("{}", String::as_str);
    let state: RegisterState = match serde_json::from_str(text) {
        Ok(state) => state,
        Err(error) => return Ok(Answer::Unknown(format!("{ASSIGNMENTS} holds no register state: {error}"))),
    };
    Ok(Answer::Content(RegisterContent { version: version(&map.metadata), state, records: records(client).await? }))
}

async fn records(client: &Client) -> Result<BTreeMap<String, Observed>, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let leases = leases.list(&ListParams::default()).await?.into_iter().filter_map(|lease| {
        let site = lease.name_any().strip_prefix(SITE_LEASE_PREFIX)?.to_owned();
        Some((site, Observed { version: version(&lease.metadata), record: record(&lease) }))
    });
    Ok(leases.collect())
}

async fn create_record(client: &Client, site: &str, record: &SiteRecord) -> Result<Answer, kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(Answer::Written(version(&api.create(&PostParams::default(), &lease(site, None, record)).await?.metadata)))
}

/// Deletes exactly the object that was seen.
async fn delete<K>(client: &Client, name: &str, at: &LeaseVersion) -> Result<Answer, kube::Error>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (uid, resource_version) = (Some(at.uid.clone()), Some(at.resource_version.clone()));
    let preconditions = Some(Preconditions { uid, resource_version });
    let api: Api<K> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }).await?;
    Ok(Answer::Deleted)
}

async fn write_record(
    client: &Client,
    site: &str,
    at: &LeaseVersion,
    record: &SiteRecord,
) -> Result<Answer, kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let written = api.replace(&site_lease(site), &PostParams::default(), &lease(site, Some(at), record)).await?;
    Ok(Answer::Written(version(&written.metadata)))
}

async fn write_state(client: &Client, at: &StateVersion, state: &RegisterState) -> Result<Answer, kube::Error> {
    let map = match state_object(Some(at), state) {
        Ok(map) => map,
        Err(error) => return Ok(Answer::Unknown(error.to_string())),
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(Answer::Written(version(&api.replace(ASSIGNMENTS, &PostParams::default(), &map).await?.metadata)))
}

async fn create_state(client: &Client, state: &RegisterState) -> Result<Answer, kube::Error> {
    let map = match state_object(None, state) {
        Ok(map) => map,
        Err(error) => return Ok(Answer::Unknown(error.to_string())),
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(Answer::Written(version(&api.create(&PostParams::default(), &map).await?.metadata)))
}

fn state_object(at: Option<&StateVersion>, state: &RegisterState) -> Result<ConfigMap, serde_json::Error> {
    Ok(ConfigMap {
        metadata: metadata(ASSIGNMENTS.to_owned(), at),
        data: Some([(STATE_KEY.to_owned(), serde_json::to_string(state)?)].into()),
        ..ConfigMap::default()
    })
}

fn version(metadata: &ObjectMeta) -> LeaseVersion {
    LeaseVersion {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    }
}

fn metadata(name: String, at: Option<&LeaseVersion>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(SYSTEM_NAMESPACE.to_owned()),
        uid: at.map(|version| version.uid.clone()),
        resource_version: at.map(|version| version.resource_version.clone()),
        ..ObjectMeta::default()
    }
}

fn lease(site: &str, at: Option<&LeaseVersion>, record: &SiteRecord) -> Lease {
    // Names and numbers: they always become JSON.
    let seen = serde_json::to_string(&*record.seen).unwrap_or_default();
    let annotations = [
        (ANNOTATION_EPOCH.to_owned(), record.epoch.to_string()),
        (ANNOTATION_SERIAL.to_owned(), record.serial.to_string()),
        (ANNOTATION_SEEN.to_owned(), seen),
    ];
    Lease {
        metadata: ObjectMeta { annotations: Some(annotations.into()), ..metadata(site_lease(site), at) },
        spec: Some(LeaseSpec {
            holder_identity: record.incarnation.as_ref().map(|incarnation| incarnation.0.clone()),
            ..LeaseSpec::default()
        }),
    }
}

fn record(lease: &Lease) -> SiteRecord {
    let number = |key: &str| lease.annotations().get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    SiteRecord {
        epoch: number(ANNOTATION_EPOCH),
        incarnation: lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).map(Incarnation),
        serial: number(ANNOTATION_SERIAL),
        // Written by an older version: it says nothing about others.
        seen: lease.annotations().get(ANNOTATION_SEEN).and_then(|text| seen(text)).unwrap_or_default(),
    }
}

fn seen(text: &str) -> Option<Arc<Marks>> {
    serde_json::from_str(text).ok().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::Mark;

    #[test]
    fn a_record_survives_the_way_through_a_lease() {
        let mark = Mark { generation: 2, epoch: 7, serial: 11, ..Mark::default() };
        let seen = Arc::new([("b".to_owned(), mark)].into());
        for known in [
            SiteRecord::blank(),
            SiteRecord { epoch: 7, incarnation: Some(Incarnation("i".into())), serial: 12, seen },
            SiteRecord { epoch: 8, ..SiteRecord::blank() },
        ] {
            assert_eq!(record(&lease("a", None, &known)), known);
        }
    }
}
