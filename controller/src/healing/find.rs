//! Finding out, right before a run is created, what its object is: that it is there, on which node, whose, how stable.

use evergreen_api::{
    names,
    resources::{ObjectName, Subject},
};
use evergreen_playbooks::{kinds, planner::Found, view::ObjectView};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

use super::{
    Parts,
    calls::{CallError, call},
};

/// Why a run is not created for an object.
#[derive(Debug)]
pub(crate) enum NotFound {
    /// It is not there, or is another one, or someone took it out of healing.
    Refused(String),
    /// It could not be looked at.
    Failed(CallError),
}

impl From<CallError> for NotFound {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

/// Looks an object up.
pub(crate) async fn find(parts: &Parts, subject: &Subject) -> Result<Found, NotFound> {
    let shown = subject.display();
    let Some(object) = parts.paths.get(&parts.client, &subject.object()).await? else {
        return Err(NotFound::Refused(format!("{shown} is not there any more")));
    };
    if !subject.uid.is_empty() && subject.uid != object.uid {
        return Err(NotFound::Refused(format!("{shown} is another one now")));
    }
    let workload = workload_of(parts, &object).await?;
    let mut labels = vec![labels_of(&object)];
    if let Some(namespace) = &subject.namespace {
        labels.push(namespace_labels(&parts.client, namespace).await?);
    }
    let off = labels.iter().any(|labels| labels.get(names::LABEL_HEALING).is_some_and(|value| value == "off"));
    if off {
        return Err(NotFound::Refused(format!("{shown} is labelled {}=off", names::LABEL_HEALING)));
    }
    let class = labels.iter().find_map(|labels| labels.get(names::LABEL_STABILITY));
    Ok(Found {
        uid: object.uid.clone(),
        node: object.node(),
        workload,
        agile: class.is_some_and(|class| class == "agile"),
        before: trimmed(&object),
    })
}

/// The workload that an object is, or that owns it: a pod's ReplicaSet belongs to a Deployment.
async fn workload_of(parts: &Parts, object: &ObjectView) -> Result<Option<ObjectName>, CallError> {
    if kinds::is_workload(&object.object.kind) {
        return Ok(Some(object.object.clone()));
    }
    let Some(owner) = object.controller() else { return Ok(None) };
    if kinds::is_workload(&owner.kind) {
        return Ok(Some(owner));
    }
    if owner.kind != "ReplicaSet" {
        return Ok(None);
    }
    let replica_set = parts.paths.get(&parts.client, &owner).await?;
    Ok(replica_set.and_then(|set| set.controller()).filter(|owner| kinds::is_workload(&owner.kind)))
}

type Labels = std::collections::BTreeMap<String, String>;

fn labels_of(object: &ObjectView) -> Labels {
    let labels = object.body.pointer("/metadata/labels").and_then(|labels| labels.as_object());
    let texts = labels.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    texts.collect()
}

async fn namespace_labels(client: &Client, name: &str) -> Result<Labels, CallError> {
    let api = Api::<Namespace>::all(client.clone());
    let namespace = call(format!("get namespace {name}"), api.get_opt(name)).await?;
    Ok(namespace.and_then(|namespace| namespace.metadata.labels).unwrap_or_default())
}

/// What a run keeps of its object: at most a few kilobytes, because every write of the log carries it.
fn trimmed(object: &ObjectView) -> serde_json::Map<String, serde_json::Value> {
    const MOST: usize = 16 * 1024;
    let mut before = object.body.as_object().cloned().unwrap_or_default();
    if serde_json::Value::from(before.clone()).to_string().len() > MOST {
        before.retain(|field, _| field == "metadata" || field == "status");
    }
    if serde_json::Value::from(before.clone()).to_string().len() > MOST {
        before.clear();
        before.insert("metadata".to_owned(), serde_json::json!({"name": object.object.name}));
    }
    before
}
