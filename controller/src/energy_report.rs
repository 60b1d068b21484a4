//! Reconciler of EnergyReport: waits for the period to end, asks the plane, keeps the report beside the resource.
//!
//! It computes nothing itself and acts on nothing but the report's own status and ConfigMap. A plane that is away, a
//! grid region without a factor, a period without data: the Ready condition says so and it tries again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    Validate,
    resources::{ConditionStatus, DataCenter, EnergyReport, EnergyReportStatus, set_condition},
    validate,
};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams},
    runtime::{Controller, controller::Action, watcher},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::report::{self, Factors, FetchError, Language, ReportError, SiteFacts};

/// Field manager of what is written here.
const MANAGER: &str = "evergreen-energy-report";
/// After the period's end this long is waited for samples that are on their way.
const SETTLE: Duration = Duration::from_secs(3);
/// A plane or an API server that is away is asked again after this time.
const RETRY: Duration = Duration::from_secs(10);
/// What only a person or time can change is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// No call to the API server may take longer.
const CALL: Duration = Duration::from_secs(15);

struct Context {
    client: Client,
    plane_url: Option<String>,
    factors: Factors,
}

/// A reconciliation that failed on the way to the API server.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{what} failed")]
    Kube {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{what} did not answer in {} s", CALL.as_secs())]
    Late { what: &'static str },
}

/// Keeps every EnergyReport of this data center up to date until `cancel`. `plane_url` is the plane's API over plain
/// HTTP; without one every report says that it cannot be made.
pub async fn run(client: Client, plane_url: Option<String>, cancel: CancellationToken) {
    let reports: Api<EnergyReport> = Api::all(client.clone());
    let context = Arc::new(Context { client, plane_url, factors: Factors::shipped() });
    Controller::new(reports, watcher::Config::default())
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(reconcile, |_, error, _| retry(error), context)
        .for_each(|result| async move {
            if let Err(error) = result {
                warn!(error = &error as &dyn std::error::Error, "an energy report could not be reconciled");
            }
        })
        .await;
}

fn retry(_: &Failure) -> Action {
    Action::requeue(RETRY)
}

async fn reconcile(resource: Arc<EnergyReport>, context: Arc<Context>) -> Result<Action, Failure> {
    let now = Timestamp::now();
    let next = decide(&resource, now);
    let mut status = resource.status.clone().unwrap_or_default();
    let mut say = Say { status: &mut status, generation: resource.metadata.generation, now };
    let action = match next {
        Next::Nothing => return Ok(Action::await_change()),
        Next::Refuse(why) => {
            say.accepted(false, "InvalidSpec", &why);
            say.ready(false, "InvalidSpec", "the spec is not understood");
            Action::await_change()
        }
        Next::Wait(time) => {
            say.accepted(true, "Valid", "the spec is understood");
            say.ready(false, "PeriodNotOver", &format!("the period ends at {}", resource.spec.to.as_deref().unwrap_or_default()));
            Action::requeue(time)
        }
        Next::Report => {
            say.accepted(true, "Valid", "the spec is understood");
            make(&resource, &context, &mut say).await?
        }
    };
    write_status(&resource, &context.client, status).await?;
    Ok(action)
}

/// What to do with a report. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Refuse(String),
    Wait(Duration),
    Report,
}

fn decide(resource: &EnergyReport, now: Timestamp) -> Next {
    let errors = resource.spec.validate();
    if !errors.is_empty() {
        return Next::Refuse(validate::summary(&errors));
    }
    let status = resource.status.as_ref();
    let done = status.is_some_and(|s| {
        s.observed_generation == resource.metadata.generation
            && s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == ConditionStatus::True)
    });
    if done || resource.metadata.deletion_timestamp.is_some() {
        return Next::Nothing;
    }
    let end = resource.spec.to.as_deref().unwrap_or_default().parse::<Timestamp>().map_or(now, |to| to.saturating_add(SETTLE).unwrap_or(to));
    let left = Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO);
    if left.is_zero() { Next::Report } else { Next::Wait(left.min(LOOK_AGAIN)) }
}

async fn make(resource: &EnergyReport, context: &Context, say: &mut Say<'_>) -> Result<Action, Failure> {
    let Some(plane_url) = &context.plane_url else {
        say.ready(false, "NoPlane", "this controller was started without --plane-url");
        return Ok(Action::requeue(LOOK_AGAIN));
    };
    let rows = match report::energy_by_site(plane_url, resource.spec.from.as_deref().unwrap_or_default(), resource.spec.to.as_deref().unwrap_or_default()).await {
        Ok(rows) => rows,
        Err(error) => {
            let reason =
                if matches!(error, FetchError::Unreachable { .. }) { "PlaneUnreachable" } else { "PlaneRefused" };
            say.ready(false, reason, &chain(&error));
            return Ok(Action::requeue(RETRY));
        }
    };
    let data_centers: Api<DataCenter> = Api::all(context.client.clone());
    let data_centers = call("listing data centers", data_centers.list(&ListParams::default())).await?;
    let facts: Vec<SiteFacts> = data_centers.items.iter().map(facts).collect();
    let made = match report::compute(&rows, &resource.spec.data_centers, &facts, &context.factors) {
        Ok(made) => made,
        Err(error) => {
            let reason = match &error {
                ReportError::NoData { .. } => "NoData",
                ReportError::ImpossiblePue { .. } => "ImpossiblePue",
                ReportError::PartsDiffer { .. } => "PartsDiffer",
                ReportError::Factor(_) => "UnknownGridRegion",
            };
            say.ready(false, reason, &chain(&error));
            let again = if matches!(error, ReportError::NoData { .. }) { RETRY } else { LOOK_AGAIN };
            return Ok(Action::requeue(again));
        }
    };
    let text = report::json(&made);
    let digest = report::sha256(&text);
    let name = format!("{}-report", resource.name_any());
    let files = BTreeMap::from([
        ("report.json".to_owned(), text),
        ("report.html".to_owned(), report::html(&made, Language::English)),
        ("report.zh-CN.html".to_owned(), report::html(&made, Language::Chinese)),
        ("report.md".to_owned(), report::markdown(&made, Language::English)),
    ]);
    keep(resource, &context.client, &name, files).await?;
    info!(report = resource.name_any(), it_kwh = made.total.it_kwh, sha256 = digest, "energy report made");
    say.status.it_kwh = Some(made.total.it_kwh.clone());
    say.status.measured_share = Some(format!("{} %", made.total.measured.percent));
    say.status.sha256 = Some(digest);
    say.status.kept_in = Some(name.clone());
    say.status.observed_generation = resource.metadata.generation;
    say.ready(true, "Reported", &format!("kept in ConfigMap {name}"));
    Ok(Action::await_change())
}

fn facts(data_center: &DataCenter) -> SiteFacts {
    SiteFacts {
        name: data_center.name_any(),
        grid_region: data_center.spec.grid_region.clone(),
        pue: data_center.spec.pue.as_ref().map(|pue| (pue.value, pue.date.clone(), pue.by.clone())),
    }
}

async fn keep(
    resource: &EnergyReport,
    client: &Client,
    name: &str,
    files: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let namespace = resource.namespace().unwrap_or_default();
    let kept = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: resource.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(files),
        ..ConfigMap::default()
    };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let parameters = PatchParams::apply(MANAGER).force();
    call("keeping the report", config_maps.patch(name, &parameters, &Patch::Apply(&kept))).await?;
    Ok(())
}

async fn write_status(resource: &EnergyReport, client: &Client, status: EnergyReportStatus) -> Result<(), Failure> {
    if resource.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let reports: Api<EnergyReport> = Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({ "status": status }));
    call("writing the status", reports.patch_status(&resource.name_any(), &PatchParams::default(), &patch)).await?;
    Ok(())
}

async fn call<T>(what: &'static str, future: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(CALL, future).await {
        Ok(result) => result.map_err(|source| Failure::Kube { what, source: Box::new(source) }),
        Err(_) => Err(Failure::Late { what }),
    }
}

/// Writes conditions of one reconciliation.
struct Say<'a> {
    status: &'a mut EnergyReportStatus,
    generation: Option<i64>,
    now: Timestamp,
}

impl Say<'_> {
    fn accepted(&mut self, holds: bool, reason: &str, message: &str) {
        self.condition("Accepted", holds, reason, message);
    }

    fn ready(&mut self, holds: bool, reason: &str, message: &str) {
        self.condition("Ready", holds, reason, message);
    }

    fn condition(&mut self, type_: &str, holds: bool, reason: &str, message: &str) {
        let conditions = &mut self.status.conditions;
        set_condition(conditions, type_, holds.into(), reason, message, self.generation, &self.now.to_string());
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use evergreen_api::resources::EnergyReportSpec;

    use super::*;

    fn report(from: &str, to: &str) -> EnergyReport {
        let spec = EnergyReportSpec { from: Some(from.into()), to: Some(to.into()), ..EnergyReportSpec::default() };
        let mut report = EnergyReport::new("monthly", spec);
        report.metadata.generation = Some(1);
        report
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_period_that_is_not_over_is_waited_for() {
        let report = report("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        assert_eq!(decide(&report, at("2026-01-15T00:00:00Z")), Next::Wait(LOOK_AGAIN));
        assert_eq!(decide(&report, at("2026-02-01T00:00:01Z")), Next::Wait(Duration::from_secs(2)));
        assert_eq!(decide(&report, at("2026-02-01T00:00:03Z")), Next::Report);
    }

    #[test]
    fn a_report_that_is_made_is_not_made_again_unless_its_spec_changes() {
        let mut report = report("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let mut status = EnergyReportStatus { observed_generation: Some(1), ..EnergyReportStatus::default() };
        set_condition(&mut status.conditions, "Ready", ConditionStatus::True, "Reported", "", Some(1), "now");
        report.status = Some(status);
        assert_eq!(decide(&report, at("2026-03-01T00:00:00Z")), Next::Nothing);
        report.metadata.generation = Some(2);
        assert_eq!(decide(&report, at("2026-03-01T00:00:00Z")), Next::Report);
    }

    #[test]
    fn a_period_that_ends_before_it_begins_is_refused_with_its_path() {
        let Next::Refuse(why) = decide(&report("2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"), Timestamp::now())
        else {
            panic!("not refused");
        };
        assert!(why.contains("spec.to"), "{why}");
    }
}
