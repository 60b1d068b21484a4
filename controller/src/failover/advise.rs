//! Enforcement `advise`: recommends a move by an Event on the service, once for each recommendation. Its name is made from
//! what is recommended, so that a controller that restarts does not say it again.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::{
    names,
    resources::{MultiActiveService, spec_hash},
};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    facts::ServiceFacts,
    planner::{ADVISED, Cause, Decision, Verdict},
};
use crate::site::clients::CALL_TIMEOUT;

/// Recommendations that wait to be sent; what does not fit is offered again in the next look.
const QUEUE: usize = 256;
/// Longest note that API servers take, in bytes.
const NOTE: usize = 1_000;

/// Sends recommendations.
pub(super) struct Adviser {
    site: String,
    sender: mpsc::Sender<Event>,
    /// Names of Events that were handed over.
    said: BTreeSet<String>,
}

impl Adviser {
    pub fn start(site: &str, client: Client, cancel: CancellationToken) -> Self {
        let (sender, mut inbox) = mpsc::channel::<Event>(QUEUE);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = cancel.cancelled() => return,
                    event = inbox.recv() => event,
                };
                let Some(event) = event else { return };
                send(&client, &event).await;
            }
        });
        Self { site: site.to_owned(), sender, said: BTreeSet::new() }
    }

    /// Sends what is recommended now and was not before.
    pub fn advise<'a>(
        &mut self,
        all: impl Iterator<Item = (&'a MultiActiveService, &'a ServiceFacts, Option<&'a Decision>)>,
    ) {
        let mut now = BTreeMap::new();
        for (service, facts, decision) in all {
            let Some(note) = decision.and_then(|decision| recommendation(facts, decision)) else { continue };
            let event = event(&self.site, service, decision, note);
            now.insert(event.name_any(), event);
        }
        self.said.retain(|name| now.contains_key(name));
        for (name, event) in now {
            if !self.said.contains(&name) && self.sender.try_send(event).is_ok() {
                self.said.insert(name);
            }
        }
    }
}

/// What people are told; none where nothing is recommended.
fn recommendation(facts: &ServiceFacts, decision: &Decision) -> Option<String> {
    let advised = matches!(&decision.verdict, Verdict::Hold(why) if why == ADVISED);
    if !advised || decision.holders == decision.old.holders {
        return None;
    }
    let list = |holders: &[crate::quorum::Holder]| {
        let sites: Vec<&str> = holders.iter().map(|holder| holder.site.as_str()).collect();
        if sites.is_empty() { "nowhere".to_owned() } else { sites.join(", ") }
    };
    let (from, to) = (list(&decision.old.holders), list(&decision.holders));
    let text = format!("Recommended, not done: move {} from {from} to {to}. {}", facts.group, decision.reason);
    // Times run on; the sentence is sent once.
    Some(text.char_indices().take_while(|(at, _)| *at < NOTE).map(|(_, c)| c).collect())
}

fn event(site: &str, service: &MultiActiveService, decision: Option<&Decision>, note: String) -> Event {
    let sites: Vec<&str> = decision.iter().flat_map(|d| &d.holders).map(|holder| holder.site.as_str()).collect();
    let what = json!({
        "uid": service.metadata.uid, "group": decision.map(|d| &d.group), "version": decision.map(|d| d.old.version),
        "cause": decision.map(|d| &d.cause), "to": sites,
    });
    let urgent = decision.is_some_and(|decision| matches!(decision.cause, Cause::SiteLost(_)));
    let name: String = service.name_any().chars().take(200).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}", &spec_hash(&what)[..16])),
            namespace: service.namespace(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        type_: Some(if urgent { "Warning" } else { "Normal" }.to_owned()),
        reason: Some("MoveRecommended".into()),
        action: Some("Advise".into()),
        note: Some(note),
        regarding: Some(ObjectReference {
            api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
            kind: Some("MultiActiveService".into()),
            name: Some(service.name_any()),
            namespace: service.namespace(),
            uid: service.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("evergreen.dev/controller".into()),
        reporting_instance: Some(site.chars().take(128).collect()),
        ..Event::default()
    }
}

async fn send(client: &Client, event: &Event) {
    let name = event.name_any();
    let api: Api<Event> = Api::namespaced(client.clone(), &event.namespace().unwrap_or_default());
    match tokio::time::timeout(CALL_TIMEOUT, api.create(&PostParams::default(), event)).await {
        Ok(Ok(_)) => tracing::info!(name, note = event.note, "a move is recommended by an Event"),
        // It was sent before this process began.
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {}
        Ok(Err(error)) => tracing::warn!(name, %error, "a recommendation could not be sent; the status holds it"),
        Err(_) => tracing::warn!(name, "a recommendation could not be sent in time; the status holds it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::planner::{plan, testing::active};

    #[test]
    fn only_what_advise_alone_holds_back_is_recommended() {
        let mut facts = active(&["a"]);
        let note = |facts: &ServiceFacts| recommendation(facts, &plan(facts).unwrap());
        assert_eq!(note(&facts), None, "it is done, not recommended");
        facts.spec.enforcement = evergreen_api::resources::Enforcement::Advise;
        assert!(note(&facts).unwrap().contains("from a to a, b"), "{:?}", note(&facts));
        facts.same_spec_at = 1;
        assert_eq!(note(&facts), None, "a spec that differs is no ground for advice");
    }
}
