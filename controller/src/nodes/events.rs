//! Kubernetes Events about nodes and the data center, written one after the other so that no decision waits for one.

use std::collections::BTreeMap;

use evergreen_api::{TraceParent, names, resources::DataCenter};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use tokio::sync::mpsc;

use crate::site::clients::CALL_TIMEOUT;

/// Where Events of objects without a namespace live; API servers up to 1.20 take them only in the second.
const NAMESPACES: [&str; 2] = ["default", "kube-system"];
/// Longest note that the API server takes.
const MAX_NOTE: usize = 1_000;
/// Events that wait to be written; more are dropped, the log line stays.
const QUEUE: usize = 256;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A node.
    Node(String),
    /// A data center.
    DataCenter(String),
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    /// One word, in CamelCase.
    pub(crate) reason: &'static str,
    /// What was done, one word.
    pub(crate) action: &'static str,
    /// One sentence.
    pub(crate) note: String,
    /// Whether a person should look.
    pub(crate) bad: bool,
    /// Incident that it belongs to.
    pub(crate) trace: Option<TraceParent>,
}

/// Takes Events to be written.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    queue: mpsc::Sender<(About, Note)>,
}

/// Writes them.
#[derive(Debug)]
pub(crate) struct Queue {
    site: String,
    queue: tokio::sync::Mutex<mpsc::Receiver<(About, Note)>>,
}

impl Events {
    /// For the controller of that site.
    pub(crate) fn new(site: &str) -> (Self, Queue) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Self { queue: sender }, Queue { site: site.to_owned(), queue: tokio::sync::Mutex::new(queue) })
    }

    /// Takes one in; returns at once.
    pub(crate) fn send(&self, about: About, note: Note) {
        if self.queue.try_send((about, note)).is_err() {
            tracing::debug!("an Event was dropped: the API server takes them too slowly");
        }
    }
}

impl Queue {
    /// Writes what comes, for as long as somebody may send.
    pub(crate) async fn write(&self, client: Client) {
        let mut namespace = 0;
        let mut queue = self.queue.lock().await;
        while let Some((about, note)) = queue.recv().await {
            let mut event = event(&self.site, &about, uid(&client, &about).await, note);
            while let Some(name) = NAMESPACES.get(namespace) {
                event.metadata.namespace = Some((*name).to_owned());
                let api = Api::<Event>::namespaced(client.clone(), name);
                match tokio::time::timeout(CALL_TIMEOUT, api.create(&PostParams::default(), &event)).await {
                    Ok(Ok(_)) => break,
                    Ok(Err(kube::Error::Api(status))) if status.is_invalid() && namespace + 1 < NAMESPACES.len() => {
                        namespace += 1;
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "an Event was not written");
                        break;
                    }
                    Err(_) => {
                        tracing::warn!("an Event was not written: no answer from the API server");
                        break;
                    }
                }
            }
        }
    }
}

/// `kubectl describe` finds Events by it; without it they are found by name only.
async fn uid(client: &Client, about: &About) -> Option<String> {
    let found = async {
        match about {
            About::Node(name) => Api::<Node>::all(client.clone()).get_opt(name).await.ok()??.uid(),
            About::DataCenter(name) => Api::<DataCenter>::all(client.clone()).get_opt(name).await.ok()??.uid(),
        }
    };
    tokio::time::timeout(CALL_TIMEOUT, found).await.ok().flatten()
}

fn event(site: &str, about: &About, uid: Option<String>, note: Note) -> Event {
    let (api_version, kind, name) = match about {
        About::Node(name) => ("v1".to_owned(), "Node", name),
        About::DataCenter(name) => (format!("{}/{}", names::GROUP, names::VERSION), "DataCenter", name),
    };
    let annotation =
        |trace: TraceParent| BTreeMap::from([(names::ANNOTATION_TRACEPARENT.to_owned(), trace.to_string())]);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}", uuid::Uuid::new_v4().simple())),
            annotations: note.trace.map(annotation),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some("evergreen.dev/controller".to_owned()),
        reporting_instance: Some(format!("evergreen-controller-{site}").chars().take(128).collect()),
        action: Some(note.action.to_owned()),
        reason: Some(note.reason.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind.to_owned()),
            name: Some(name.clone()),
            uid,
            ..ObjectReference::default()
        }),
        note: Some(note.note.chars().take(MAX_NOTE).collect()),
        type_: Some(if note.bad { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_its_object_its_incident_and_is_never_too_long() {
        let trace: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let note =
            Note { reason: "NodeLost", action: "Confirm", note: "失".repeat(2_000), bad: true, trace: Some(trace) };
        let made = event("dc-a", &About::Node("n1".into()), Some("u".into()), note);
        let regarding = made.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Node"), Some("u")));
        assert_eq!(made.note.unwrap().chars().count(), MAX_NOTE);
        assert_eq!(made.metadata.annotations.unwrap()[names::ANNOTATION_TRACEPARENT], trace.to_string());
        assert_eq!(made.type_.as_deref(), Some("Warning"));
    }
}
