//! Registers on real objects: a Lease per site and the assignments ConfigMap, in the system namespace of a site.
//!
//! Reads carry no resourceVersion, so that they are quorum reads; writes are `replace` with the exact resourceVersion,
//! which is the API server's compare-and-swap. A time-out means unknown: the write may still land.

use std::collections::BTreeMap;

use evergreen_api::names::{ANNOTATION_EPOCH, ASSIGNMENTS, SITE_LEASE_PREFIX, SYSTEM_NAMESPACE, site_lease};
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::ConfigMap,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta, PostParams},
};
use tokio::sync::OnceCell;

use super::clients;
use crate::quorum::{
    Answer, Incarnation, LeaseVersion, Observed, Operation, RegisterContent, RegisterState, SiteRecord, StateVersion,
};

/// Key of the ConfigMap that holds the register's state.
const STATE_KEY: &str = "register";
/// Annotation that holds the number of renewals.
const ANNOTATION_SERIAL: &str = "evergreen.dev/serial";

/// How the API server of a register is reached.
enum Reach {
    Own(Client),
    Peer { own: Client, secret: String, client: OnceCell<Client> },
}

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

    /// The register of another site; its client is made from the Secret once that can be read.
    pub fn peer(site: &str, own: Client, secret: &str) -> Self {
        let reach = Reach::Peer { own, secret: secret.to_owned(), client: OnceCell::new() };
        Self { site: site.to_owned(), reach }
    }

    /// Site that the register is at.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Client of the register's API server.
    ///
    /// # Errors
    /// When the peer's Secret cannot be read yet.
    pub async fn client(&self) -> Result<Client, clients::ClientError> {
        match &self.reach {
            Reach::Own(client) => Ok(client.clone()),
            Reach::Peer { own, secret, client } => client.get_or_try_init(|| clients::peer(own, secret)).await.cloned(),
        }
    }

    /// Performs one operation. Bound it with a time-out.
    pub async fn perform(&self, operation: Operation) -> Answer {
        let client = match self.client().await {
            Ok(client) => client,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        let result = match operation {
            Operation::Read => read(&client).await,
            Operation::CreateBlank { site } => create_blank(&client, &site).await,
            Operation::WriteRecord { site, at, record } => write_record(&client, &site, &at, &record).await,
            Operation::WriteState { at, state } => write_state(&client, &at, &state).await,
        };
        result.unwrap_or_else(|error| match &error {
            kube::Error::Api(status) if status.code == 409 => Answer::Conflict,
            _ => Answer::Unknown(error.to_string()),
        })
    }
}

/// The ConfigMap first: a record is created before its site is enrolled, so the records read after it are complete.
async fn read(client: &Client) -> Result<Answer, kube::Error> {
    let Some(map) = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM_NAMESPACE).get_opt(ASSIGNMENTS).await? else {
        return Ok(Answer::NoState);
    };
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let text = map.data.as_ref().and_then(|data| data.get(STATE_KEY)).map_or("{}", String::as_str);
    let state: RegisterState = match serde_json::from_str(text) {
        Ok(state) => state,
        Err(error) => return Ok(Answer::Unknown(format!("{ASSIGNMENTS} holds no register state: {error}"))),
    };
    let mut records = BTreeMap::new();
    for lease in leases.list(&ListParams::default()).await? {
        if let Some(site) = lease.name_any().strip_prefix(SITE_LEASE_PREFIX) {
            let observed = Observed { version: version(&lease.metadata), record: record(&lease) };
            records.insert(site.to_owned(), observed);
        }
    }
    Ok(Answer::Content(RegisterContent { version: version(&map.metadata), state, records }))
}

async fn create_blank(client: &Client, site: &str) -> Result<Answer, kube::Error> {
    let lease = lease(site, None, &SiteRecord::BLANK);
    let api: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(Answer::Written(version(&api.create(&PostParams::default(), &lease).await?.metadata)))
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
    let text = match serde_json::to_string(state) {
        Ok(text) => text,
        Err(error) => return Ok(Answer::Unknown(error.to_string())),
    };
    let map = ConfigMap {
        metadata: metadata(ASSIGNMENTS.to_owned(), Some(at)),
        data: Some([(STATE_KEY.to_owned(), text)].into()),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    Ok(Answer::Written(version(&api.replace(ASSIGNMENTS, &PostParams::default(), &map).await?.metadata)))
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
    let annotations = [
        (ANNOTATION_EPOCH.to_owned(), record.epoch.to_string()),
        (ANNOTATION_SERIAL.to_owned(), record.serial.to_string()),
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_through_a_lease() {
        for known in [
            SiteRecord::BLANK,
            SiteRecord { epoch: 7, incarnation: Some(Incarnation("i".into())), serial: 12 },
            SiteRecord { epoch: 8, incarnation: None, serial: 0 },
        ] {
            assert_eq!(record(&lease("a", None, &known)), known);
        }
    }
}
