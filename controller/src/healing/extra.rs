//! Watches that only some playbooks need: Events, predictions, and objects of the kinds that triggers name. Each begins
//! when the first playbook needs it, begins anew when what it must see changes, and ends with the last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evergreen_api::resources::{NodeHealth, spec_hash};
use evergreen_playbooks::planner::CompiledPlaybook;
use k8s_openapi::api::core::v1::Event as KubeEvent;
use kube::{
    Api, ResourceExt,
    api::DynamicObject,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Parts,
    calls::Pause,
    objects, trim,
    watch::{Observed, forward, trimmed},
};

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Events,
    Predictions,
    Objects { api_version: String, kind: String },
}

/// The watches that run now, each with a digest of what it must see.
#[derive(Default)]
pub(crate) struct Extra(BTreeMap<What, (String, JoinHandle<()>)>);

impl Drop for Extra {
    fn drop(&mut self) {
        self.0.values().for_each(|(_, watch)| watch.abort());
    }
}

impl Extra {
    /// Begins and ends watches so that these playbooks see what they need. Returns kinds that nobody looks at any more.
    pub(crate) fn follow(
        &mut self,
        parts: &Parts,
        playbooks: &[Arc<CompiledPlaybook>],
        queue: &mpsc::Sender<Observed>,
    ) -> Vec<What> {
        let wanted = wanted(playbooks);
        let ended: Vec<What> = self.0.keys().filter(|what| !wanted.contains_key(*what)).cloned().collect();
        for what in &ended {
            if let Some((_, watch)) = self.0.remove(what) {
                watch.abort();
            }
        }
        for (what, (digest, paths)) in wanted {
            if self.0.get(&what).is_some_and(|(known, _)| *known == digest) {
                continue;
            }
            tracing::info!(?what, "watching for playbooks");
            let watch = tokio::spawn(run(parts.clone(), what.clone(), paths, queue.clone()));
            if let Some((_, old)) = self.0.insert(what, (digest, watch)) {
                old.abort();
            }
        }
        ended
    }
}

type Wanted = BTreeMap<What, (String, BTreeSet<Vec<String>>)>;

fn wanted(playbooks: &[Arc<CompiledPlaybook>]) -> Wanted {
    let mut users: BTreeMap<What, Vec<&Arc<CompiledPlaybook>>> = BTreeMap::new();
    for playbook in playbooks {
        for trigger in &playbook.spec.matches {
            let what = match (&trigger.event, &trigger.prediction, &trigger.object) {
                (Some(_), _, _) => What::Events,
                (_, Some(_), _) => What::Predictions,
                (_, _, Some(object)) => {
                    What::Objects { api_version: object.api_version.clone(), kind: object.kind.clone() }
                }
                _ => continue,
            };
            let users = users.entry(what).or_default();
            if !users.iter().any(|known| known.name == playbook.name) {
                users.push(playbook);
            }
        }
    }
    let digested = users.into_iter().map(|(what, users)| {
        let triggers: Vec<_> = users.iter().map(|user| (&user.name, &user.spec.matches)).collect();
        let paths = match &what {
            What::Objects { api_version, kind } => {
                users.iter().flat_map(|user| user.paths(api_version, kind)).cloned().collect()
            }
            _ => BTreeSet::new(),
        };
        (what, (spec_hash(&triggers), paths))
    });
    digested.collect()
}

async fn run(parts: Parts, what: What, paths: BTreeSet<Vec<String>>, queue: mpsc::Sender<Observed>) {
    let client = parts.client.clone();
    let config = watcher::Config::default();
    match what {
        What::Events => {
            let events = watcher(Api::<KubeEvent>::all(client), config).default_backoff();
            forward("events", trimmed(events, |event| trim::event(&event)), Observed::KubeEvent, queue).await;
        }
        What::Predictions => {
            let health = watcher(Api::<DeserializeGuard<NodeHealth>>::all(client), config).default_backoff();
            let health = trimmed(health, |health| {
                let name = health.name_any();
                let status = health.0.ok().and_then(|health| health.status);
                (name, status.map(|status| status.predictions).unwrap_or_default())
            });
            forward("predictions", health, Observed::Predictions, queue).await;
        }
        What::Objects { api_version, kind } => {
            let mut pause = Pause::default();
            let resource = loop {
                match parts.paths.of(&client, &api_version, &kind).await {
                    Ok((resource, _)) => break resource,
                    Err(error) => {
                        tracing::warn!(%kind, error = %error.describe(), "it cannot be watched yet");
                        pause.wait().await;
                    }
                }
            };
            let key = (api_version.clone(), kind.clone());
            let objects = watcher(Api::<DynamicObject>::all_with(client, &resource), config).default_backoff();
            let objects =
                trimmed(objects, move |object| trim::object(&objects::view(&api_version, &kind, &object), &paths));
            let (sender, mut receiver) = mpsc::channel(256);
            let tagged = async {
                while let Some(event) = receiver.recv().await {
                    if let Observed::Object(_, event) = event
                        && queue.send(Observed::Object(key.clone(), event)).await.is_err()
                    {
                        return;
                    }
                }
            };
            tokio::join!(forward("objects", objects, untagged, sender), tagged);
        }
    }
}

fn untagged(event: Event<evergreen_playbooks::view::ObjectView>) -> Observed {
    Observed::Object(Default::default(), event)
}
