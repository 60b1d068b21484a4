//! Reconciler of EnergyReport: waits for the period to end or for the schedule, asks the source of the ledger, signs the
//! report with the site's key and keeps it beside the resource.
//!
//! It computes nothing itself and acts on nothing but the report's own status and ConfigMaps. A source that is away, a
//! grid region without a factor, a period without data: the Ready condition says so and it tries again. Runs of a
//! schedule that were missed are caught up once. ConfigMaps of a schedule are slots that are written anew, so that no
//! right to delete is needed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    Validate,
    resources::{
        ConditionStatus, DataCenter, EnergyReport, EnergyReportStatus, KeptReport, ReportLanguage, ReportScope,
        set_condition,
    },
    validate,
};
use evergreen_report::{
    Language, MakeError, Report, ReportError, Wanted, json, make, render,
    schedule::{Due, Schedule},
    sha256,
    source::{Source, SourceError},
    with_data_centers,
};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams},
    runtime::{Controller, controller::Action, watcher},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::site::Signer;

/// Field manager of what is written here.
const MANAGER: &str = "evergreen-energy-report";
/// After the period's end this long is waited for samples that are on their way.
const SETTLE: Duration = Duration::from_secs(3);
/// A source or an API server that is away is asked again after this time.
const RETRY: Duration = Duration::from_secs(10);
/// What only a person or time can change is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// No call to the API server may take longer.
const CALL: Duration = Duration::from_secs(15);
/// No report may take longer to make: a year of a thousand nodes is a minute.
const MAKE: Duration = Duration::from_secs(300);
/// An API server takes ConfigMaps of one MiB; some of it is metadata.
const MOST_BYTES: usize = 900 << 10;
/// Runs of a schedule that are kept when the spec does not say.
const HISTORY: u32 = 12;

struct Context {
    client: Client,
    source: Option<Source>,
    site: String,
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

/// Keeps every EnergyReport of this data center up to date until `cancel`. Without a source every report says that it
/// cannot be made. `site` names the key that reports are signed with.
pub async fn run(client: Client, source: Option<Source>, site: String, cancel: CancellationToken) {
    let reports: Api<EnergyReport> = Api::all(client.clone());
    let context = Arc::new(Context { client, source, site });
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
    if let Some(schedule) = resource.spec.schedule.as_ref().and_then(|spec| Schedule::new(spec).ok()) {
        status.next_run = schedule.next(now).ok().map(|next| next.to_string());
    }
    let mut say = Say { status: &mut status, generation: resource.metadata.generation, now };
    let action = match next {
        Next::Nothing => return Ok(Action::await_change()),
        Next::Refuse(why) => {
            say.accepted(false, "InvalidSpec", &why);
            say.ready(false, "InvalidSpec", "the spec is not understood");
            Action::await_change()
        }
        Next::Wait { time, first } => {
            say.accepted(true, "Valid", "the spec is understood");
            if first {
                let when = resource.spec.to.clone().or_else(|| say.status.next_run.clone()).unwrap_or_default();
                let (reason, what) = match resource.spec.schedule {
                    Some(_) => ("Scheduled", "the first report is made at"),
                    None => ("PeriodNotOver", "the period ends at"),
                };
                say.ready(false, reason, &format!("{what} {when}"));
            }
            Action::requeue(time)
        }
        Next::Report(run) => {
            say.accepted(true, "Valid", "the spec is understood");
            produce(&resource, &context, &run, &mut say).await?
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
    Wait { time: Duration, first: bool },
    Report(Run),
}

/// A report to make.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    from: Timestamp,
    to: Timestamp,
    zone: String,
    /// Of a schedule: its time, and how many older runs were missed.
    scheduled: Option<(Timestamp, usize)>,
}

fn decide(resource: &EnergyReport, now: Timestamp) -> Next {
    let errors = resource.spec.validate();
    if !errors.is_empty() {
        return Next::Refuse(validate::summary(&errors));
    }
    if resource.metadata.deletion_timestamp.is_some() {
        return Next::Nothing;
    }
    let status = resource.status.as_ref();
    let same = status.is_some_and(|status| status.observed_generation == resource.metadata.generation);
    if let Some(spec) = &resource.spec.schedule {
        let schedule = match Schedule::new(spec) {
            Ok(schedule) => schedule,
            Err(error) => return Next::Refuse(format!("spec.schedule: {error}")),
        };
        let last = status.filter(|_| same).and_then(|status| status.last_run.as_ref()?.parse().ok());
        let created = resource.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let settled = now.saturating_sub(SETTLE).unwrap_or(now);
        return match schedule.due(last, created, settled) {
            Some(Due { at, from, to, missed }) => {
                Next::Report(Run { from, to, zone: spec.time_zone.clone(), scheduled: Some((at, missed)) })
            }
            None => match schedule.next(settled) {
                Ok(next) => Next::Wait { time: until(next, now), first: status.is_none_or(|s| s.last_run.is_none()) },
                Err(error) => Next::Refuse(format!("spec.schedule: {error}")),
            },
        };
    }
    let done = same
        && status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == ConditionStatus::True));
    if done {
        return Next::Nothing;
    }
    let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    let (Some(from), Some(to)) = (time(&resource.spec.from), time(&resource.spec.to)) else {
        return Next::Refuse("spec: give from and to, or a schedule".to_owned());
    };
    let wait = until(to, now);
    if wait.is_zero() {
        let zone = resource.spec.time_zone.clone().unwrap_or_else(|| "UTC".to_owned());
        Next::Report(Run { from, to, zone, scheduled: None })
    } else {
        Next::Wait { time: wait, first: true }
    }
}

/// Time until samples of `moment` have settled, at most a minute.
fn until(moment: Timestamp, now: Timestamp) -> Duration {
    let end = moment.saturating_add(SETTLE).unwrap_or(moment);
    Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO).min(LOOK_AGAIN)
}

async fn produce(resource: &EnergyReport, context: &Context, run: &Run, say: &mut Say<'_>) -> Result<Action, Failure> {
    let Some(source) = &context.source else {
        say.ready(false, "NoPlane", "this controller was started without --plane-url or --energy-source");
        return Ok(Action::requeue(LOOK_AGAIN));
    };
    let wanted = wanted(resource, context, run).await?;
    let made = match tokio::time::timeout(MAKE, make(source, &wanted)).await {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => {
            let (reason, again) = told(&error);
            say.ready(false, reason, &chain(&error));
            return Ok(Action::requeue(again));
        }
        Err(_) => {
            say.ready(false, "TooSlow", &format!("the report was not made within {} s", MAKE.as_secs()));
            return Ok(Action::requeue(LOOK_AGAIN));
        }
    };
    let text = json(&made);
    let digest = sha256(&text);
    let signer = match tokio::time::timeout(CALL, Signer::load(&context.site, &context.client)).await {
        Ok(Ok(signer)) => signer,
        Ok(Err(error)) => {
            say.ready(false, "CannotSign", &chain(&error));
            return Ok(Action::requeue(RETRY));
        }
        Err(_) => {
            say.ready(false, "CannotSign", "the site's key could not be read in time");
            return Ok(Action::requeue(RETRY));
        }
    };
    let (signature, public_key) = (signer.sign_report(&digest), signer.public_key());
    let Some((files, left_out)) = files(&made, text, &resource.spec.languages) else {
        say.ready(false, "TooLarge", "the report's data is larger than a ConfigMap holds; report a shorter period");
        return Ok(Action::requeue(LOOK_AGAIN));
    };
    let limit = resource.spec.history_limit.unwrap_or(HISTORY).max(1) as usize;
    let name = match run.scheduled {
        None => format!("{}-report", resource.name_any()),
        Some(_) => slot(&resource.name_any(), &say.status.history, limit),
    };
    let seal = BTreeMap::from([
        ("evergreen.dev/sha256".to_owned(), digest.clone()),
        ("evergreen.dev/signature".to_owned(), signature.clone()),
        ("evergreen.dev/public-key".to_owned(), public_key.clone()),
    ]);
    keep(resource, &context.client, &name, files, seal).await?;
    info!(report = resource.name_any(), it_kwh = made.total.it_kwh, sha256 = digest, "energy report made");
    let mut message = format!("kept in ConfigMap {name}");
    if !left_out.is_empty() {
        message.push_str(&format!("; without {}, for which there was no room", left_out.join(", ")));
    }
    if let Some((_, missed @ 1..)) = run.scheduled {
        message.push_str(&format!("; {missed} older runs were missed and are not made"));
    }
    fill(say.status, &made, &name, &digest, run, limit);
    say.status.signature = Some(signature);
    say.status.public_key = Some(public_key);
    say.status.observed_generation = resource.metadata.generation;
    say.ready(true, "Reported", &message);
    Ok(if run.scheduled.is_some() { Action::requeue(LOOK_AGAIN) } else { Action::await_change() })
}

/// Reason and time until the next try of a report that could not be made.
fn told(error: &MakeError) -> (&'static str, Duration) {
    match error {
        MakeError::Period(_) => ("InvalidPeriod", LOOK_AGAIN),
        MakeError::Source(SourceError::Unreachable { .. }) => ("PlaneUnreachable", RETRY),
        MakeError::Source(SourceError::Meter { .. }) => ("MeterUnusable", LOOK_AGAIN),
        MakeError::Source(_) => ("PlaneRefused", RETRY),
        MakeError::Report(error @ ReportError::NoData { .. }) => (error.reason(), RETRY),
        MakeError::Report(error) => (error.reason(), LOOK_AGAIN),
    }
}

async fn wanted(resource: &EnergyReport, context: &Context, run: &Run) -> Result<Wanted, Failure> {
    let data_centers: Api<DataCenter> = Api::all(context.client.clone());
    let data_centers = call("listing data centers", data_centers.list(&ListParams::default())).await?;
    let scope = resource.spec.scope().unwrap_or_default();
    let mut namespaces = Vec::new();
    if let ReportScope::Label { key, value } = &scope {
        let all: Api<Namespace> = Api::all(context.client.clone());
        let labelled = ListParams::default().labels(&format!("{key}={value}"));
        let found = call("listing namespaces", all.list_metadata(&labelled)).await?;
        namespaces = found.items.iter().map(ResourceExt::name_any).collect();
        namespaces.sort();
    }
    Ok(Wanted {
        from: run.from,
        to: run.to,
        zone: run.zone.clone(),
        scope,
        namespaces,
        standard: resource.spec.standard,
        facts: with_data_centers(resource.spec.facts.clone().unwrap_or_default(), &data_centers.items),
    })
}

/// The forms that fit into a ConfigMap, data first, and the names of those that do not; none when not even the data fits.
fn files(
    made: &Report,
    text: String,
    languages: &[ReportLanguage],
) -> Option<(BTreeMap<String, String>, Vec<&'static str>)> {
    let wants = |language| languages.is_empty() || languages.contains(&language);
    let first = if wants(ReportLanguage::En) { Language::English } else { Language::Chinese };
    let mut room = MOST_BYTES.checked_sub(text.len())?;
    let mut files = BTreeMap::from([("report.json".to_owned(), text)]);
    let mut left_out = Vec::new();
    let mut put = |name: &'static str, wanted: bool, text: &dyn Fn() -> String| {
        if !wanted {
            return;
        }
        let text = text();
        match room.checked_sub(text.len() + name.len()) {
            Some(left) => {
                room = left;
                files.insert(name.to_owned(), text);
            }
            None => left_out.push(name),
        }
    };
    put("report.html", wants(ReportLanguage::En), &|| render::html(made, Language::English));
    put("report.zh-CN.html", wants(ReportLanguage::Zh), &|| render::html(made, Language::Chinese));
    put("report.csv", true, &|| render::csv(made, first));
    put("report.md", true, &|| render::markdown(made, first));
    Some((files, left_out))
}

/// ConfigMap for the next run of a schedule: a free slot, or that of the oldest run.
fn slot(name: &str, history: &[KeptReport], limit: usize) -> String {
    let kept = &history[..history.len().min(limit.saturating_sub(1))];
    let slots = (0..limit).map(|index| format!("{name}-report-{index}"));
    let mut free = slots.filter(|slot| kept.iter().all(|one| one.kept_in != *slot));
    free.next().unwrap_or_else(|| format!("{name}-report-0"))
}

fn fill(status: &mut EnergyReportStatus, made: &Report, name: &str, digest: &str, run: &Run, limit: usize) {
    let figure = |id: &str| made.summary.iter().find(|figure| figure.id == id).and_then(|figure| figure.value.clone());
    status.from = Some(made.from.clone());
    status.to = Some(made.to.clone());
    status.it_kwh = Some(made.total.it_kwh.clone());
    status.measured_share = Some(format!("{} %", made.total.measured.percent));
    status.it_change_percent = made.previous.change_percent.clone();
    status.facility_kwh = figure("facility_energy");
    status.pue = figure("pue");
    status.scope2_location_kg = figure("scope2_location");
    status.scope2_market_kg = figure("scope2_market");
    status.sha256 = Some(digest.to_owned());
    status.kept_in = Some(name.to_owned());
    let Some((at, _)) = run.scheduled else { return };
    status.last_run = Some(at.to_string());
    status.history.retain(|one| one.kept_in != name);
    let kept = KeptReport {
        from: made.from.clone(),
        to: made.to.clone(),
        it_kwh: made.total.it_kwh.clone(),
        sha256: digest.to_owned(),
        kept_in: name.to_owned(),
    };
    status.history.insert(0, kept);
    status.history.truncate(limit);
}

async fn keep(
    resource: &EnergyReport,
    client: &Client,
    name: &str,
    files: BTreeMap<String, String>,
    seal: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let namespace = resource.namespace().unwrap_or_default();
    let kept = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(seal),
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
    use evergreen_api::resources::{EnergyReportSpec, ReportPeriod, ReportSchedule};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn report(from: &str, to: &str) -> EnergyReport {
        let spec = EnergyReportSpec { from: Some(from.into()), to: Some(to.into()), ..EnergyReportSpec::default() };
        let mut report = EnergyReport::new("monthly", spec);
        report.metadata.generation = Some(1);
        report
    }

    fn scheduled() -> EnergyReport {
        let schedule =
            ReportSchedule { cron: "0 6 1 * *".into(), time_zone: "Asia/Shanghai".into(), covers: ReportPeriod::Month };
        let spec = EnergyReportSpec { schedule: Some(schedule), ..EnergyReportSpec::default() };
        let mut report = EnergyReport::new("monthly", spec);
        report.metadata.generation = Some(1);
        report.metadata.creation_timestamp = Some(Time(at("2026-01-15T00:00:00Z")));
        report
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_period_that_is_not_over_is_waited_for() {
        let report = report("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let wait = |time| Next::Wait { time, first: true };
        assert_eq!(decide(&report, at("2026-01-15T00:00:00Z")), wait(LOOK_AGAIN));
        assert_eq!(decide(&report, at("2026-02-01T00:00:01Z")), wait(Duration::from_secs(2)));
        assert!(matches!(decide(&report, at("2026-02-01T00:00:03Z")), Next::Report(_)));
    }

    #[test]
    fn a_report_that_is_made_is_not_made_again_unless_its_spec_changes() {
        let mut report = report("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let mut status = EnergyReportStatus { observed_generation: Some(1), ..EnergyReportStatus::default() };
        set_condition(&mut status.conditions, "Ready", ConditionStatus::True, "Reported", "", Some(1), "now");
        report.status = Some(status);
        assert_eq!(decide(&report, at("2026-03-01T00:00:00Z")), Next::Nothing);
        report.metadata.generation = Some(2);
        assert!(matches!(decide(&report, at("2026-03-01T00:00:00Z")), Next::Report(_)));
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_refused_with_its_paths() {
        let mut report = report("yesterday", "2026-02-01T00:00:00Z");
        assert!(matches!(decide(&report, at("2026-03-01T00:00:00Z")), Next::Refuse(why) if why.contains("spec.from")));
        report = scheduled();
        report.spec.schedule.as_mut().unwrap().cron = "0 6 32 * *".into();
        assert!(matches!(decide(&report, at("2026-03-01T00:00:00Z")), Next::Refuse(why) if why.contains("0 6 32 * *")));
    }

    #[test]
    fn a_schedule_is_followed_once_a_time_and_missed_runs_are_caught_up_once() {
        let mut report = scheduled();
        assert!(matches!(decide(&report, at("2026-01-20T00:00:00Z")), Next::Wait { first: true, .. }));
        let Next::Report(run) = decide(&report, at("2026-04-10T00:00:00Z")) else { panic!("a run is due") };
        assert_eq!(run.scheduled, Some((at("2026-03-31T22:00:00Z"), 2)));
        assert_eq!((run.from, run.to), (at("2026-02-28T16:00:00Z"), at("2026-03-31T16:00:00Z")));
        let last_run = run.scheduled.map(|(time, _)| time.to_string());
        report.status =
            Some(EnergyReportStatus { observed_generation: Some(1), last_run, ..EnergyReportStatus::default() });
        assert!(matches!(decide(&report, at("2026-04-10T00:00:01Z")), Next::Wait { first: false, .. }));
        assert!(matches!(decide(&report, at("2026-04-30T22:00:04Z")), Next::Report(_)));
    }

    #[test]
    fn slots_are_written_anew_when_the_history_is_full() {
        let kept = |slot: usize| KeptReport { kept_in: format!("m-report-{slot}"), ..KeptReport::default() };
        assert_eq!(slot("m", &[], 3), "m-report-0");
        assert_eq!(slot("m", &[kept(1), kept(0)], 3), "m-report-2");
        assert_eq!(slot("m", &[kept(2), kept(1), kept(0)], 3), "m-report-0", "the oldest goes");
        assert_eq!(slot("m", &[kept(0), kept(2), kept(1)], 3), "m-report-1");
        assert_eq!(slot("m", &[kept(2), kept(1), kept(0)], 1), "m-report-0");
    }
}
