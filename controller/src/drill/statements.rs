//! The statements by which a drill moves groups: the same objects, gates and path as when a person asks. Their names follow
//! from what they say, so that a controller that starts again repeats nothing.

use std::collections::BTreeSet;

use evergreen_api::{
    names::{LABEL_DRILL, SYSTEM_NAMESPACE},
    resources::{Consent, ConsentSpec, DrillPhase, FailoverDrillSpec, Scorecard, spec_hash},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};

use super::observe::{request, signer_of};
use crate::{
    consent::{DrillPass, Statement, What},
    failover::Look,
    site::{Signer, clients::CALL_TIMEOUT},
};

/// The wish that nothing moves is said anew this often, in seconds; it counts for an hour.
const RENEWED: i64 = 1_500;

/// A statement that shall lie at the site.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub name: String,
    /// What it means, for the record; none: only that nothing moves.
    pub step: Option<String>,
    statement: Statement,
}

/// What a drill has to have said in its phase. Pure but for `unix`, which only names.
pub(super) fn wanted(
    drill: &str,
    spec: &FailoverDrillSpec,
    card: &Scorecard,
    phase: DrillPhase,
    look: &Look,
    unix: i64,
) -> Vec<Said> {
    let mut all = Vec::new();
    for drilled in &card.services {
        let Some(seen) = look.groups.get(&drilled.name) else { continue };
        let entry = &seen.facts.entry;
        let holders: BTreeSet<String> = entry.holders.iter().map(|holder| holder.site.clone()).collect();
        let before: BTreeSet<String> = drilled.before.iter().cloned().collect();
        let mut say = |version: u64, hold: bool, to: Option<String>, from: Option<String>| {
            let word = match (hold, phase) {
                (true, _) => format!("hold-{}", unix / RENEWED),
                (false, DrillPhase::Returning) => "back".to_owned(),
                (false, _) => "away".to_owned(),
            };
            let name = format!("drill-{}", spec_hash(&(drill, &card.digest, &drilled.name, version, &word)));
            let list = |site: &Option<String>| site.clone().unwrap_or_else(|| "no other".to_owned());
            let step = (!hold).then(|| {
                format!(
                    "asks for {} to be held by {} instead of {} (entry {version})",
                    drilled.name,
                    list(&to),
                    list(&from)
                )
            });
            let what = What::Request {
                to,
                from,
                accept_loss: None,
                accept_shortage: false,
                reason: format!("drill {}: {word}", card.ticket),
                drill: Some(DrillPass {
                    name: drill.to_owned(),
                    ticket: card.digest.clone(),
                    hold,
                    traceparent: card.traceparent.clone(),
                    approvals: card.evidence.clone(),
                }),
            };
            let at = card.started_at.clone().unwrap_or_default();
            let statement = Statement { nonce: name.clone(), at, group: drilled.name.clone(), version, what };
            all.push(Said { name, step, statement });
        };
        match phase {
            DrillPhase::Moving if holders.contains(&spec.site) => {
                let would = seen.would(request(drill, spec, Some(card)));
                let to = would.as_ref().and_then(|decision| decision.entering().next().map(|one| one.site.clone()));
                say(entry.version, false, to, Some(spec.site.clone()));
                // Said beforehand: nothing may move back between the move and the next look.
                say(entry.version + 1, true, None, None);
            }
            DrillPhase::Moving | DrillPhase::Holding => say(entry.version, true, None, None),
            DrillPhase::Returning if holders != before => {
                let (to, from) = (before.difference(&holders).next(), holders.difference(&before).next());
                say(entry.version, false, to.cloned(), from.cloned());
            }
            DrillPhase::Returning | DrillPhase::Idle | DrillPhase::Waiting => {}
        }
    }
    all
}

/// Puts a statement at the own site; one that lies there already is fine.
///
/// # Errors
/// Why it could not be put.
pub(super) async fn put(client: &Client, signer: &Signer, drill: &str, site: &str, said: &Said) -> Result<(), String> {
    let text = serde_json::to_string(&said.statement).map_err(|error| error.to_string())?;
    let object = Consent {
        metadata: ObjectMeta {
            name: Some(said.name.clone()),
            labels: Some([(LABEL_DRILL.to_owned(), drill.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: ConsentSpec {
            signature: Some(signer.sign_statement(&text)),
            statement: text,
            signer: Some(signer_of(site)),
            dry_run: false,
        },
        status: None,
    };
    let api: Api<Consent> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    match tokio::time::timeout(CALL_TIMEOUT, api.create(&PostParams::default(), &object)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server did not answer in time".into()),
    }
}

/// Takes back everything that a drill said.
///
/// # Errors
/// Why it could not be taken back.
pub(super) async fn take_back(client: &Client, drill: &str) -> Result<(), String> {
    let api: Api<Consent> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let work = async {
        let ours = ListParams::default().labels(&format!("{LABEL_DRILL}={drill}"));
        for consent in api.list(&ours).await?.items {
            let name = consent.metadata.name.unwrap_or_default();
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    match tokio::time::timeout(CALL_TIMEOUT, work).await {
        Ok(done) => done.map_err(|error: kube::Error| error.to_string()),
        Err(_) => Err("the API server did not answer in time".into()),
    }
}
