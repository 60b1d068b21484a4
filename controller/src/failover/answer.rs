//! Answers statements in the status of their Consent objects at the own site: whether they count, and what is or would be
//! done. A dry run is answered with the plan for the facts of now and the request added, and nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    names::{DRILL_GROUP_PREFIX, SYSTEM_NAMESPACE},
    resources::{Consent, ConsentPhase, ConsentSpec, ConsentStatus},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    facts::{MoveRequest, ServiceFacts},
    planner::{Decision, plan},
    status::describe,
};
use crate::{
    consent::{ConsentBook, Heard, Statement, What},
    quorum::Mono,
    site::clients::CALL_TIMEOUT,
};

/// Answers last written, by object.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<String, ConsentStatus>);

/// Objects answered in one look; the rest follow in the next.
const AT_ONCE: usize = 16;

impl Answers {
    pub async fn write(
        &mut self,
        client: &Client,
        heard: &Arc<Heard>,
        book: &ConsentBook,
        groups: &BTreeMap<&str, (&ServiceFacts, Option<&Decision>)>,
        now: Mono,
    ) {
        let all: Vec<(String, ConsentSpec)> =
            heard.with(|all| all.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect());
        self.0.retain(|name, _| all.iter().any(|(known, _)| known == name));
        let api: Api<Consent> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        // What is about a ticket of a drill is answered in the status of the drill.
        let of_drill = |spec: &ConsentSpec| {
            serde_json::from_str::<Statement>(&spec.statement).is_ok_and(|s| s.group.starts_with(DRILL_GROUP_PREFIX))
        };
        let news = all.into_iter().filter(|(_, spec)| !of_drill(spec)).filter_map(|(name, spec)| {
            let status = if spec.dry_run { dry_run(&spec, groups) } else { standing(&spec, book, groups, now) };
            (self.0.get(&name) != Some(&status)).then_some((name, status))
        });
        for (name, status) in news.take(AT_ONCE).collect::<Vec<_>>() {
            let patch = Patch::Merge(json!({"status": status}));
            let parameters = PatchParams::default();
            let write = api.patch_status(&name, &parameters, &patch);
            match tokio::time::timeout(CALL_TIMEOUT, write).await {
                Ok(Ok(_)) => {
                    self.0.insert(name, status);
                }
                Ok(Err(error)) => tracing::warn!(name, %error, "a statement could not be answered; trying again"),
                Err(_) => tracing::warn!(name, "a statement could not be answered in time; trying again"),
            }
        }
    }
}

fn standing(
    spec: &ConsentSpec,
    book: &ConsentBook,
    groups: &BTreeMap<&str, (&ServiceFacts, Option<&Decision>)>,
    now: Mono,
) -> ConsentStatus {
    let version = |group: &str| groups.get(group).map_or(0, |(facts, _)| facts.entry.version);
    let (phase, message) = book.standing(spec, version, now);
    let decision = (phase == ConsentPhase::Valid)
        .then(|| serde_json::from_str::<Statement>(&spec.statement).ok())
        .flatten()
        .and_then(|statement| groups.get(statement.group.as_str()).and_then(|(_, decision)| *decision));
    ConsentStatus {
        phase,
        message,
        plan: decision.map(describe).unwrap_or_default(),
        proposal: decision.and_then(|decision| decision.proposal.as_ref()).map(|proposal| proposal.id.clone()),
    }
}

fn dry_run(spec: &ConsentSpec, groups: &BTreeMap<&str, (&ServiceFacts, Option<&Decision>)>) -> ConsentStatus {
    let refused = |message: String| ConsentStatus { phase: ConsentPhase::Refused, message, ..ConsentStatus::default() };
    let statement: Statement = match serde_json::from_str(&spec.statement) {
        Ok(statement) => statement,
        Err(error) => return refused(format!("it cannot be read: {error}")),
    };
    let Some((facts, _)) = groups.get(statement.group.as_str()) else {
        return refused(format!("there is no group {} here", statement.group));
    };
    let What::Request { to, from, accept_loss, accept_shortage, .. } = statement.what else {
        return refused("only a request can be tried".into());
    };
    let mut facts = (*facts).clone();
    facts.consent.request = Some(MoveRequest {
        id: "dry-run".into(),
        by: spec.signer.clone().unwrap_or_else(|| "you".into()),
        to,
        from,
        accept_loss: accept_loss.map(Into::into),
        accept_shortage,
        break_glass: false,
        drill: None,
    });
    // Times run on; the answer stays as it was given.
    facts.consent.open_for.values_mut().for_each(|open| *open = Duration::ZERO);
    let decision = plan(&facts);
    ConsentStatus {
        phase: ConsentPhase::Answered,
        message: decision
            .as_ref()
            .map_or_else(|| "nothing would change".to_owned(), |decision| decision.reason.clone()),
        plan: decision.as_ref().map(describe).unwrap_or_default(),
        proposal: decision.and_then(|decision| decision.proposal).map(|proposal| proposal.id),
    }
}
