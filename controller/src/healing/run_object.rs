//! The PlaybookRun as an object: created once under a name that every replica would choose, changed only on the version
//! that was read.

use std::collections::BTreeMap;

use evergreen_api::{TraceParent, names, resources::PlaybookRun};
use evergreen_playbooks::planner::{Found, Start};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};

use super::calls::{CallError, call};

/// The object of a run that is to be started.
pub(crate) fn object(start: &Start, found: Found, trace: TraceParent) -> PlaybookRun {
    let mut spec = start.spec(found);
    spec.traceparent = Some(trace.to_string());
    let mut run = PlaybookRun::new(&start.run, spec);
    run.metadata.namespace = Some(names::SYSTEM_NAMESPACE.to_owned());
    run.metadata.labels = Some(BTreeMap::from([(names::LABEL_PLAYBOOK.to_owned(), start.playbook.name.clone())]));
    run.metadata.annotations = Some(BTreeMap::from([(names::ANNOTATION_TRACEPARENT.to_owned(), trace.to_string())]));
    run
}

fn api(client: &Client) -> Api<PlaybookRun> {
    Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE)
}

/// Creates a run.
///
/// # Errors
/// `AlreadyExists` when another replica, or this one in an answer that was lost, created it.
pub(crate) async fn create(client: &Client, run: &PlaybookRun) -> Result<PlaybookRun, CallError> {
    call("create the run", api(client).create(&PostParams::default(), run)).await
}

/// Reads a run; `None` when it was deleted.
pub(crate) async fn get(client: &Client, name: &str) -> Result<Option<PlaybookRun>, CallError> {
    call(format!("get run {name}"), api(client).get_opt(name)).await
}

/// Persists the status of a run, on the version that was read.
///
/// # Errors
/// A conflict when someone else changed the run meanwhile: nothing was changed then.
pub(crate) async fn put_status(client: &Client, run: &PlaybookRun) -> Result<PlaybookRun, CallError> {
    let name = run.metadata.name.clone().unwrap_or_default();
    let put = async { api(client).replace_status(&name, &PostParams::default(), run).await };
    call(format!("write the log of run {name}"), put).await
}

/// Deletes a run; that it is gone already is success.
pub(crate) async fn delete(client: &Client, name: &str) -> Result<(), CallError> {
    match call(format!("delete run {name}"), api(client).delete(name, &DeleteParams::default())).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}
