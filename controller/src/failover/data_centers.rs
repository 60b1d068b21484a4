//! Status of DataCenters as seen from this site: quorum, what is left of leases, how many more losses are survived, and
//! which registers are refused and why. Written on change only.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    Validate,
    resources::{DataCenter, DataCenterStatus, RoomStatus, SiteRole, set_condition, spec_hash},
    validate,
};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::status::report;
use crate::{
    quorum::{Standing, Timing},
    site::{Refusal, Register, SiteSnapshot, clients::CALL_TIMEOUT},
};

/// A certificate that ends within this time is told of.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What is known of the way to one register.
#[derive(Clone, Debug, Default)]
struct Access {
    refused: Option<Refusal>,
    /// When the client certificate ends, and the Secret that holds it.
    certificate: Option<(Timestamp, String)>,
    cluster: Option<String>,
}

/// What does not change from look to look.
pub(super) struct DataCenters {
    pub client: Client,
    pub own: String,
    /// UID of the own cluster.
    pub cluster: String,
    pub timing: Timing,
    pub registers: Vec<Arc<Register>>,
}

impl DataCenters {
    /// Writes the status of every DataCenter at the own site.
    pub async fn write(
        &self,
        snapshot: &SiteSnapshot,
        coordinator: Option<&str>,
        room: Option<&RoomStatus>,
        now: Timestamp,
    ) {
        let api: Api<DataCenter> = Api::all(self.client.clone());
        let Ok(Ok(sites)) = tokio::time::timeout(CALL_TIMEOUT, api.list(&ListParams::default())).await else { return };
        let access: BTreeMap<&str, Access> = self
            .registers
            .iter()
            .map(|register| {
                let certificate = register.certificate().map(|(ends, secret)| (ends, secret.to_owned()));
                let access = Access { refused: register.refused(), certificate, cluster: register.cluster() };
                (register.site(), access)
            })
            .collect();
        for site in sites {
            let name = site.name_any();
            let mut access = access.get(name.as_str()).cloned().unwrap_or_default();
            if name == self.own {
                access.cluster = Some(self.cluster.clone());
            }
            let mut status = of_data_center(&site, snapshot, &self.own, &access, &self.timing, now);
            status.coordinator = coordinator.map(str::to_owned);
            status.room = if name == self.own { room.cloned() } else { None };
            if site.status.as_ref() != Some(&status) {
                let patch = Patch::Merge(json!({"status": status}));
                let parameters = PatchParams::default();
                let write = api.patch_status(&name, &parameters, &patch);
                report(tokio::time::timeout(CALL_TIMEOUT, write).await, "DataCenter", &name);
            }
        }
    }
}

fn of_data_center(
    site: &DataCenter,
    snapshot: &SiteSnapshot,
    own: &str,
    access: &Access,
    timing: &Timing,
    now: Timestamp,
) -> DataCenterStatus {
    let name = site.name_any();
    let mut status = site.status.clone().unwrap_or_default();
    let (generation, wall) = (site.metadata.generation, now.to_string());
    let errors = site.spec.validate();
    let message = if errors.is_empty() { "the spec is understood".to_owned() } else { validate::summary(&errors) };
    let reason = if errors.is_empty() { "Valid" } else { "Invalid" };
    set_condition(&mut status.conditions, "Accepted", errors.is_empty().into(), reason, &message, generation, &wall);
    let (fine, reason, message) = register(&name, snapshot, access, now);
    set_condition(&mut status.conditions, "Register", fine.into(), reason, &message, generation, &wall);
    let quarantined = snapshot.quarantined.iter().find(|(site, _)| *site == name);
    let fresh = snapshot.fresh.get(&name);
    let witness = site.spec.role == SiteRole::Witness;
    let (in_quorum, reason, message) = match (&snapshot.standing, fresh, quarantined) {
        (_, _, Some((_, why))) => (false, "RegisterNotTrusted", format!("its register is excluded: {why}")),
        (_, _, None) if witness && fine => (true, "Votes", "a witness: its register answers".to_owned()),
        (_, _, None) if witness => (false, reason, message),
        (Standing::Out(why), _, None) if name == own => (false, "NoMajority", why.clone()),
        (_, Some(_), None) => {
            (true, "Renewed", format!("renewed at a majority ({} of {})", snapshot.majority, snapshot.registers))
        }
        (_, None, None) => (false, "Silent", "its lease is not fresh at a majority, as seen from here".to_owned()),
    };
    set_condition(&mut status.conditions, "InQuorum", in_quorum.into(), reason, &message, generation, &wall);
    let (tolerant, text, message) = tolerance(snapshot);
    let reason = if tolerant { "Survives" } else { "NextLossStopsWriters" };
    set_condition(&mut status.conditions, "Tolerant", tolerant.into(), reason, &message, generation, &wall);
    status.tolerance = Some(text);
    status.lease_left = snapshot.lease_left.get(&name).map(|left| left_text(*left, timing));
    status.epoch = fresh.map(|holder| holder.epoch).or(status.epoch);
    status.incarnation = fresh.map(|holder| holder.incarnation.0.clone()).or(status.incarnation);
    status.cluster_uid = site.spec.api_server.cluster_uid.clone().or(status.cluster_uid).or(access.cluster.clone());
    if name == own {
        status.reachable_registers.clone_from(&snapshot.reachable);
    }
    status.spec_hash = Some(spec_hash(&site.spec));
    status
}

/// Whether a register may be used and answers: the condition's status, reason and message.
fn register(name: &str, snapshot: &SiteSnapshot, access: &Access, now: Timestamp) -> (bool, &'static str, String) {
    if let Some(refused) = &access.refused {
        return (false, refused.reason, refused.message.clone());
    }
    let certificate = access.certificate.as_ref();
    let ended = certificate.filter(|(ends, _)| *ends <= now);
    if snapshot.reachable.iter().any(|site| site == name) {
        return match certificate.filter(|(ends, _)| ends.duration_since(now) < ENDS_SOON) {
            Some((ends, secret)) => {
                (true, "CertificateEnds", format!("the client certificate in Secret {secret} ends on {ends}: renew it"))
            }
            None => (true, "Answers", "its register answers".to_owned()),
        };
    }
    let trouble = snapshot.troubles.iter().find(|(site, _)| site == name).map(|(_, why)| why.as_str());
    let why = trouble.unwrap_or("it was not heard yet");
    match ended {
        Some((ends, secret)) => (
            false,
            "CertificateExpired",
            format!(
                "the client certificate in Secret {secret} expired on {ends}: put a new kubeconfig into it ({why})"
            ),
        ),
        None if why.contains("certificate expired") || why.contains("certificate has expired") => {
            (false, "CertificateExpired", format!("a certificate on the way to its API server has expired: {why}"))
        }
        None => (false, "Unanswered", why.to_owned()),
    }
}

/// How many more registers may be lost, for people: whether any, in one word, and in a sentence.
fn tolerance(snapshot: &SiteSnapshot) -> (bool, String, String) {
    let (answering, majority) = (snapshot.reachable.len(), snapshot.majority);
    let counted =
        format!("{answering} of {} registers answer and are trusted, {majority} are needed", snapshot.registers);
    match answering.checked_sub(majority) {
        None => (false, "NO QUORUM".into(), format!("no majority: nobody may write by a lease from here; {counted}")),
        Some(0) => {
            (false, "ZERO".into(), format!("TOLERANCE ZERO: the next lost register stops every writer; {counted}"))
        }
        Some(more) => (true, more.to_string(), format!("{more} more may be lost; {counted}")),
    }
}

/// What is left of a lease: the same text for as long as it is renewed in time.
fn left_text(left: Duration, timing: &Timing) -> String {
    let in_time = timing.grant_for().saturating_sub(timing.renew * 2);
    if left >= in_time { format!(">{}s", in_time.as_secs()) } else { format!("{}s", left.as_secs()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::GoalState;

    fn snapshot(reachable: &[&str]) -> SiteSnapshot {
        SiteSnapshot {
            standing: Standing::Out("waiting".into()),
            grantable: Vec::new(),
            released: BTreeMap::new(),
            map: None,
            map_ballot: 0,
            fresh: BTreeMap::new(),
            silent_for: BTreeMap::new(),
            lease_left: [("dc-b".to_owned(), Duration::from_millis(2_400))].into(),
            reachable: reachable.iter().map(|site| (*site).to_owned()).collect(),
            quarantined: Vec::new(),
            troubles: vec![("dc-c".into(), "401 Unauthorized".into())],
            goal: GoalState::Idle,
            registers: 3,
            majority: 2,
        }
    }

    fn center(name: &str, role: &str) -> DataCenter {
        serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"role": role, "apiServer": {"kubeconfigSecret": "s"}}}))
        .expect("a DataCenter")
    }

    fn look(name: &str, role: &str, reachable: &[&str], access: &Access) -> DataCenterStatus {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().expect("a time");
        let timing = Timing::of_lease(Duration::from_secs(6));
        of_data_center(&center(name, role), &snapshot(reachable), "dc-a", access, &timing, now)
    }

    fn said(status: &DataCenterStatus, kind: &str) -> (bool, String, String) {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).expect("a condition");
        let fine = found.status == evergreen_api::resources::ConditionStatus::True;
        (fine, found.reason.clone(), found.message.clone())
    }

    #[test]
    fn the_last_loss_that_is_survived_is_said_loudly() {
        let whole = look("dc-b", "member", &["dc-a", "dc-b", "dc-c"], &Access::default());
        assert_eq!((whole.tolerance.as_deref(), whole.lease_left.as_deref()), (Some("1"), Some(">1s")));
        let short = look("dc-b", "member", &["dc-a", "dc-b"], &Access::default());
        assert_eq!(short.tolerance.as_deref(), Some("ZERO"));
        assert!(said(&short, "Tolerant").2.contains("TOLERANCE ZERO"));
        assert_eq!(look("dc-b", "member", &["dc-a"], &Access::default()).tolerance.as_deref(), Some("NO QUORUM"));
    }

    #[test]
    fn an_expired_certificate_is_said_with_its_date_and_its_secret() {
        let ends: Timestamp = "2026-02-01T00:00:00Z".parse().expect("a time");
        let access = Access { certificate: Some((ends, "dc-c-kubeconfig".into())), ..Access::default() };
        let (fine, reason, message) = said(&look("dc-c", "member", &["dc-a", "dc-b"], &access), "Register");
        assert_eq!((fine, reason.as_str()), (false, "CertificateExpired"));
        assert!(message.contains("2026-02-01") && message.contains("dc-c-kubeconfig"), "{message}");
        let soon: Timestamp = "2026-03-05T00:00:00Z".parse().expect("a time");
        let access = Access { certificate: Some((soon, "s".into())), ..Access::default() };
        assert_eq!(said(&look("dc-c", "member", &["dc-c"], &access), "Register").1, "CertificateEnds");
    }

    #[test]
    fn a_witness_that_answers_votes() {
        assert!(said(&look("dc-c", "witness", &["dc-a", "dc-c"], &Access::default()), "InQuorum").0);
        let silent = said(&look("dc-c", "witness", &["dc-a"], &Access::default()), "InQuorum");
        assert_eq!(silent, (false, "Unanswered".into(), "401 Unauthorized".into()));
    }
}
