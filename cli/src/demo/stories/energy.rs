//! Story three: what the run cost in energy, by data center, with what was measured told apart from what was estimated.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    demo::{
        manifests::{PUE_BY, PUE_DATE, SITES},
        messages::{self, Text},
        result::{SiteEnergy, StoryResult, percent, share, to_kwh},
        stage::Stage,
        timeline::{Chapter, Mark},
        wait::until,
    },
    plane::EnergyRow,
};

const CHAPTER: Chapter = Chapter::Energy;
/// Agents export every 2 s; a plane that has nothing after this never will.
const LIMIT: Duration = Duration::from_secs(12);

/// Energy of the run.
#[derive(Clone, Debug, Default)]
pub struct RunEnergy {
    /// By data center.
    pub sites: Vec<SiteEnergy>,
    /// Period.
    pub over: Duration,
}

/// Plays the story.
pub async fn play(stage: &Stage) -> (StoryResult, RunEnergy) {
    let result = StoryResult::begin(CHAPTER, stage.timeline.elapsed());
    let (energy, outcome) = match read(stage).await {
        Ok(energy) => {
            let outcome = check(&energy.sites);
            (energy, outcome)
        }
        Err(failure) => (RunEnergy::default(), Err(failure)),
    };
    for site in &energy.sites {
        let facility = site.facility_kwh().map(|kwh| format!("{kwh:.5}"));
        let (kwh, measured) = (to_kwh(site.microjoules), percent(share(site.measured, site.microjoules)));
        stage.timeline.say(
            CHAPTER,
            Mark::Good,
            messages::energy_site(&site.site, &format!("{kwh:.5}"), &measured, facility.as_deref()),
        );
    }
    (super::conclude(stage, result, outcome), energy)
}

async fn read(stage: &Stage) -> Result<RunEnergy, Text> {
    let timeline = &stage.timeline;
    until(timeline, messages::waiting_energy(), LIMIT, || async {
        let to = Timestamp::now();
        let energy = stage.plane.energy(timeline.began, to, "site").await.ok()?;
        let sites: Option<Vec<SiteEnergy>> = SITES
            .iter()
            .map(|plan| {
                let row = energy.rows.iter().find(|row| row.key == plan.name && row.microjoules > 0)?;
                Some(site_energy(row, plan.pue))
            })
            .collect();
        Some(RunEnergy { sites: sites?, over: Duration::try_from(to.duration_since(timeline.began)).ok()? })
    })
    .await
}

fn site_energy(row: &EnergyRow, pue: f64) -> SiteEnergy {
    SiteEnergy {
        site: row.key.clone(),
        microjoules: row.microjoules,
        measured: row.measured_microjoules,
        calibrated: row.calibrated_microjoules,
        estimated: row.estimated_microjoules,
        idle: row.idle_microjoules,
        pue: Some((pue, PUE_DATE.to_owned(), PUE_BY.to_owned())),
    }
}

/// The parts must add up to the whole, exactly, and each provenance must be where the hosts have it.
fn check(sites: &[SiteEnergy]) -> Result<(), Text> {
    for (site, plan) in sites.iter().zip(&SITES) {
        let parts = site.measured + site.calibrated + site.estimated;
        if parts != site.microjoules {
            return Err(messages::energy_parts(&site.site, parts, site.microjoules));
        }
        if plan.measured != (site.measured > 0) {
            return Err(messages::energy_provenance(&site.site, plan.measured));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(measured: u64, estimated: u64, total: u64) -> SiteEnergy {
        SiteEnergy { site: "x".into(), microjoules: total, measured, estimated, ..SiteEnergy::default() }
    }

    #[test]
    fn parts_that_do_not_add_up_and_sensors_that_are_not_there_fail_the_story() {
        let good = [site(5, 5, 10), site(10, 0, 10), site(0, 10, 10)];
        assert_eq!(check(&good), Ok(()));
        assert!(check(&[site(5, 4, 10)]).is_err());
        assert!(check(&[site(5, 5, 10), site(10, 0, 10), site(1, 9, 10)]).is_err());
    }
}
