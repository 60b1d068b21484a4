//! The `Accepted` condition of playbooks: whether a playbook was understood, and if not, which field is wrong and what
//! would be right.

use std::collections::HashMap;

use evergreen_api::{
    resources::{ConditionStatus, Playbook, PlaybookStatus, set_condition, spec_hash},
    validate,
};
use evergreen_playbooks::check_spec;
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::watcher::Event,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Parts,
    calls::{Pause, call},
    watch::Read,
};

const ACCEPTED: &str = "Accepted";
/// Longest message of a condition; the API server takes more, people do not.
const MAX_MESSAGE: usize = 1_000;
/// A write that does not get through after so many tries waits for the next change, or the next leader.
const MAX_TRIES: usize = 8;

/// Conditions that were written, by UID: the message and the generation that it speaks of.
#[derive(Default)]
pub(crate) struct Written(HashMap<String, (Option<i64>, String)>);

impl Written {
    /// Writes the condition of a playbook that was seen, if it says anything new.
    pub(crate) fn note(&mut self, parts: &Parts, event: &Event<Read<Playbook>>, writers: &mut JoinSet<()>) {
        match event {
            Event::Apply(read) | Event::InitApply(read) => {
                let verdict = Verdict::of(read);
                let known = (read.generation, verdict.message.clone());
                if self.0.get(&read.uid) == Some(&known) {
                    return;
                }
                self.0.insert(read.uid.clone(), known);
                if let Some(status) = verdict.status_of(read, &parts.clock.now().to_string()) {
                    tracing::info!(
                        playbook = %read.name, accepted = verdict.errors.is_none(), message = %verdict.message, "playbook read"
                    );
                    writers.spawn(write(parts.client.clone(), read.name.clone(), status));
                }
            }
            Event::Delete(read) => drop(self.0.remove(&read.uid)),
            Event::Init | Event::InitDone => {}
        }
    }
}

struct Verdict {
    errors: Option<&'static str>,
    message: String,
    spec_hash: Option<String>,
}

impl Verdict {
    fn of(read: &Read<Playbook>) -> Self {
        let (errors, message, spec_hash) = match &read.object {
            Ok(playbook) => {
                let errors = check_spec(&playbook.spec);
                let hash = Some(spec_hash(&playbook.spec));
                match errors.is_empty() {
                    true => (None, "understood".to_owned(), hash),
                    false => (Some("InvalidSpec"), validate::summary(&errors), hash),
                }
            }
            Err(error) => (Some("Unreadable"), error.clone(), None),
        };
        Self { errors, message: message.chars().take(MAX_MESSAGE).collect(), spec_hash }
    }

    /// The status to write; `None` when it is there already.
    fn status_of(&self, read: &Read<Playbook>, now: &str) -> Option<PlaybookStatus> {
        let known = read.object.as_ref().ok().and_then(|playbook| playbook.status.clone()).unwrap_or_default();
        let mut status = PlaybookStatus { spec_hash: self.spec_hash.clone(), ..known.clone() };
        set_condition(
            &mut status.conditions,
            ACCEPTED,
            ConditionStatus::from(self.errors.is_none()),
            self.errors.unwrap_or(ACCEPTED),
            &self.message,
            read.generation,
            now,
        );
        (status != known).then_some(status)
    }
}

async fn write(client: Client, name: String, status: PlaybookStatus) {
    // Untyped: the answer holds the whole object, and that may be the one that cannot be read.
    let api = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<Playbook>(&()));
    let patch = Patch::Merge(json!({"status": status}));
    let mut pause = Pause::default();
    for _ in 0..MAX_TRIES {
        match call("write Accepted", api.patch_status(&name, &PatchParams::default(), &patch)).await {
            Ok(_) => return,
            Err(error) if error.is_permanent() => {
                tracing::warn!(playbook = %name, error = %error.describe(), "Accepted was not written");
                return;
            }
            Err(_) => pause.wait().await,
        }
    }
    tracing::warn!(playbook = %name, at = %Timestamp::now(), "Accepted was not written: the API server does not take it");
}
