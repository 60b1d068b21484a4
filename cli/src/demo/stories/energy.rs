//! Story three: what the run cost in energy, by data center, with what was measured told apart from what was estimated.
//!
//! An EnergyReport is applied to the first data center, as a person would; its controller makes the report. What it says
//! is held against the plane's own figures.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::{ConditionStatus, EnergyReport, EnergyReportStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use crate::{
    demo::{
        install,
        manifests::{self, NAMESPACE, PUE_BY, PUE_DATE, SITES},
        messages::{self, Text},
        result::{SiteEnergy, StoryResult, percent, share, to_kwh},
        stage::Stage,
        timeline::{Chapter, Mark},
        wait::until,
    },
    plane::EnergyRow,
};

const CHAPTER: Chapter = Chapter::Energy;
/// Agents export every 2 s and the controller waits 3 s for late samples; what is not there after this never will be.
const LIMIT: Duration = Duration::from_secs(20);

/// Energy of the run.
#[derive(Clone, Debug, Default)]
pub struct RunEnergy {
    /// By data center.
    pub sites: Vec<SiteEnergy>,
    /// Period.
    pub over: Duration,
    /// The controller's report, by file name.
    pub files: BTreeMap<String, String>,
}

/// Plays the story.
pub async fn play(stage: &Stage) -> (StoryResult, RunEnergy) {
    let result = StoryResult::begin(CHAPTER, stage.timeline.elapsed());
    let mut energy = RunEnergy::default();
    let outcome = act(stage, &mut energy).await;
    (super::conclude(stage, result, outcome), energy)
}

async fn act(stage: &Stage, energy: &mut RunEnergy) -> Result<(), Text> {
    let broke = |error: anyhow::Error| messages::broke(&format!("{error:#}"));
    let (timeline, site) = (&stage.timeline, &stage.sites[0]);
    let (from, to) = (timeline.began, Timestamp::now());
    install::create(&site.client, &manifests::energy_report(from, to)).await.map_err(broke)?;
    timeline.say(CHAPTER, Mark::Step, messages::energy_asked(manifests::ENERGY_REPORT, site.name()));

    let reports: Api<EnergyReport> = Api::namespaced(site.client.clone(), NAMESPACE);
    let mut last_message = String::new();
    let status = until(timeline, messages::waiting_energy(), LIMIT, || {
        let reports = reports.clone();
        async move { reports.get_opt(manifests::ENERGY_REPORT).await.ok()??.status.filter(is_ready) }
    })
    .await;
    if let Ok(Some(EnergyReport { status: Some(status), .. })) = reports.get_opt(manifests::ENERGY_REPORT).await {
        last_message = status.conditions.into_iter().map(|c| c.message).collect::<Vec<_>>().join("; ");
    }
    let status = status.map_err(|late| messages::because(&late, &last_message))?;
    let kept: Api<ConfigMap> = Api::namespaced(site.client.clone(), NAMESPACE);
    let files = kept.get(status.kept_in.as_deref().unwrap_or_default()).await.map_err(|error| broke(error.into()))?;
    energy.files = files.data.unwrap_or_default();

    let rows = stage.plane.energy(from, to, "site").await.map_err(|error| broke(error.into()))?.rows;
    energy.over = Duration::try_from(to.duration_since(from)).unwrap_or_default();
    for plan in &SITES {
        let row = rows.iter().find(|row| row.key == plan.name).cloned().unwrap_or_default();
        energy.sites.push(site_energy(plan.name, &row, plan.pue));
    }
    for site in &energy.sites {
        let facility = site.facility_kwh().map(|kwh| format!("{kwh:.5}"));
        let (kwh, measured) = (to_kwh(site.microjoules), percent(share(site.measured, site.microjoules)));
        timeline.say(
            CHAPTER,
            Mark::Good,
            messages::energy_site(&site.site, &format!("{kwh:.5}"), &measured, facility.as_deref()),
        );
    }
    check(&energy.sites, status.it_kwh.as_deref().unwrap_or_default())
}

fn is_ready(status: &EnergyReportStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == ConditionStatus::True)
}

fn site_energy(site: &str, row: &EnergyRow, pue: f64) -> SiteEnergy {
    SiteEnergy {
        site: site.to_owned(),
        microjoules: row.microjoules,
        measured: row.measured_microjoules,
        calibrated: row.calibrated_microjoules,
        estimated: row.estimated_microjoules,
        idle: row.idle_microjoules,
        pue: Some((pue, PUE_DATE.to_owned(), PUE_BY.to_owned())),
    }
}

/// Every site must have energy whose parts add up exactly, measured where its hosts have sensors and only there, and the
/// report must say what the plane says.
fn check(sites: &[SiteEnergy], reported_kwh: &str) -> Result<(), Text> {
    for (site, plan) in sites.iter().zip(&SITES) {
        let parts = site.measured + site.calibrated + site.estimated;
        if site.microjoules == 0 || parts != site.microjoules {
            return Err(messages::energy_parts(&site.site, parts, site.microjoules));
        }
        if plan.measured != (site.measured > 0) {
            return Err(messages::energy_provenance(&site.site, plan.measured));
        }
    }
    let total = to_kwh(sites.iter().map(|site| site.microjoules).sum());
    // The report rounds to millionths.
    match reported_kwh.parse::<f64>() {
        Ok(reported) if (reported - total).abs() < 2e-6 => Ok(()),
        _ => Err(messages::energy_differs(reported_kwh, &format!("{total:.6}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(measured: u64, estimated: u64, total: u64) -> SiteEnergy {
        SiteEnergy { site: "x".into(), microjoules: total, measured, estimated, ..SiteEnergy::default() }
    }

    #[test]
    fn parts_that_do_not_add_up_sensors_that_are_not_there_and_another_total_fail_the_story() {
        let kwh = 3_600_000_000_000;
        let good = [site(kwh / 2, kwh / 2, kwh), site(kwh, 0, kwh), site(0, kwh, kwh)];
        assert_eq!(check(&good, "3.000000"), Ok(()));
        assert!(check(&good, "2.9").is_err());
        assert!(check(&[site(5, 4, 10)], "0").is_err());
        assert!(check(&[site(5, 5, 10), site(10, 0, 10), site(1, 9, 10)], "0").is_err());
    }
}
