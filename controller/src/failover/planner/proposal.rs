//! What people are asked to approve: a digest of exactly what would be done, so that an approval says yes to nothing else.

use evergreen_api::resources::spec_hash;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Cause, Draft};
use crate::failover::facts::ServiceFacts;

/// A move that people are asked to approve, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Digest.
    pub id: String,
    /// What would be done.
    pub summary: String,
    /// People needed.
    pub people: u8,
    /// Who approved, the one who asked never counted.
    pub approved_by: Vec<String>,
    /// How long it is open, and what happens then.
    pub then: String,
}

/// The digest names the group, the version of its entry, who leaves, who comes in, who asked and which loss is accepted:
/// when any of it changes the approvals are void. Epochs are left out, or every restart would void them.
pub(super) fn proposal(facts: &ServiceFacts, draft: &Draft, people: u8) -> Proposal {
    let request = facts.request().filter(|_| matches!(draft.cause, Cause::Asked(_)));
    let sites: Vec<&str> = draft.holders.iter().map(|holder| holder.site.as_str()).collect();
    let old: Vec<&str> = facts.entry.holders.iter().map(|holder| holder.site.as_str()).collect();
    let loss = request.and_then(|request| request.accept_loss);
    let id = spec_hash(&json!({
        "group": facts.group, "version": facts.entry.version, "from": old, "to": sites,
        "request": request.map(|request| &request.id), "loss": loss,
        "shortage": request.is_some_and(|request| request.accept_shortage),
    }));
    let asked_by = request.map(|request| request.by.as_str());
    let approvals = facts.consent.approvals.iter().filter(|approved| approved.proposal == id);
    let mut approved_by: Vec<String> =
        approvals.map(|approved| approved.by.clone()).filter(|by| Some(by.as_str()) != asked_by).collect();
    // Who approved the ticket of a drill approved its moves.
    approved_by
        .extend(request.and_then(|request| request.drill.as_ref()).into_iter().flat_map(|d| d.approved_by.clone()));
    approved_by.sort();
    approved_by.dedup();
    let approval = &facts.spec.decision.approval;
    let verb = match approval.on_timeout {
        evergreen_api::resources::OnTimeout::Hold => "nothing moves",
        evergreen_api::resources::OnTimeout::Proceed => "it is carried out",
    };
    let loss = match loss {
        None => String::new(),
        Some(crate::failover::facts::AcceptedLoss::Unknown) => ", accepting a loss of unknown size".to_owned(),
        Some(crate::failover::facts::AcceptedLoss::UpTo(loss)) => {
            format!(", accepting a loss of up to {:.3} s", loss.as_secs_f64())
        }
    };
    Proposal {
        id,
        summary: format!("move {} from {} to {}{loss}", facts.group, list(&old), list(&sites)),
        people,
        approved_by,
        then: format!("open for {}; then {verb}", approval.timeout),
    }
}

fn list(sites: &[&str]) -> String {
    if sites.is_empty() { "nowhere".to_owned() } else { sites.join(", ") }
}
