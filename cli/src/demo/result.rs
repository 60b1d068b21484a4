//! What a demo ended with: figures by story, energy by data center, and whether all of it is good.

use std::time::Duration;

use super::{messages::Text, timeline::Chapter, traffic::Window};

/// One story.
#[derive(Clone, Debug)]
pub struct StoryResult {
    /// Which.
    pub chapter: Chapter,
    /// Why it did not end well; absent when it did.
    pub failure: Option<Text>,
    /// When it began, since the start of the demo.
    pub began: Duration,
    /// When it ended, since the start of the demo.
    pub ended: Duration,
    /// From the fault to the first recorded suspicion.
    pub detected: Option<Duration>,
    /// From the fault to the verified cure; for a lost site to the first answer of the site that took over.
    pub healed: Option<Duration>,
    /// What clients saw meanwhile.
    pub clients: Window,
    /// The outage as clients saw it, where it is shorter than the whole story: of a lost site from the loss to its
    /// return.
    pub outage: Option<Window>,
    /// Trace of the incident, hex.
    pub trace_id: Option<String>,
}

impl StoryResult {
    /// A story that begins.
    pub fn begin(chapter: Chapter, at: Duration) -> Self {
        Self {
            chapter,
            failure: None,
            began: at,
            ended: at,
            detected: None,
            healed: None,
            clients: Window::default(),
            outage: None,
            trace_id: None,
        }
    }

    /// Whether it ended well.
    pub fn ok(&self) -> bool {
        self.failure.is_none()
    }

    /// From the first to the last client error of the outage: the RTO as clients saw it.
    pub fn error_window(&self) -> Duration {
        self.outage.as_ref().unwrap_or(&self.clients).error_window()
    }

    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self.chapter {
            Chapter::Kernel => "kernel-fault",
            Chapter::SiteLoss => "site-loss",
            Chapter::Energy => "energy",
            Chapter::Prepare => "prepare",
            Chapter::End => "end",
        }
    }
}

/// Energy of one data center over the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteEnergy {
    /// Data center.
    pub site: String,
    /// All IT energy.
    pub microjoules: u64,
    /// Read from a sensor.
    pub measured: u64,
    /// From a model that a sensor calibrated.
    pub calibrated: u64,
    /// From a model.
    pub estimated: u64,
    /// Drawn at zero activity, where it is known.
    pub idle: Option<u64>,
    /// Declared PUE, its date and who declared it.
    pub pue: Option<(f64, String, String)>,
}

/// Microjoules in a kilowatt-hour.
const MICROJOULES_PER_KWH: f64 = 3.6e12;

impl SiteEnergy {
    /// Facility energy by the declared PUE, kWh.
    pub fn facility_kwh(&self) -> Option<f64> {
        self.pue.as_ref().map(|(pue, _, _)| to_kwh(self.microjoules) * pue)
    }

    /// Adds another site's energy, for a total.
    pub fn add(&mut self, other: &Self) {
        self.microjoules += other.microjoules;
        self.measured += other.measured;
        self.calibrated += other.calibrated;
        self.estimated += other.estimated;
        self.idle = match (self.idle, other.idle) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
}

/// Kilowatt-hours.
#[expect(clippy::cast_precision_loss, reason = "reports show six digits; a demo stays far below 2^53 microjoules")]
pub fn to_kwh(microjoules: u64) -> f64 {
    microjoules as f64 / MICROJOULES_PER_KWH
}

/// Part of a whole, 0 to 1; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a share is shown with one decimal")]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A share as `62.5 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Mean watts of some energy over some time.
#[expect(clippy::cast_precision_loss, reason = "watts are shown as whole numbers")]
pub fn mean_watts(microjoules: u64, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { microjoules as f64 / 1e6 / over.as_secs_f64() }
}

/// Everything that the summary and the report show.
#[derive(Clone, Debug)]
pub struct DemoResult {
    /// Start of the demo.
    pub began: jiff::Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Stories, in order.
    pub stories: Vec<StoryResult>,
    /// Energy by data center.
    pub energy: Vec<SiteEnergy>,
    /// Period that the energy speaks of.
    pub energy_over: Duration,
    /// Why the demo did not end well though every story did: processes that died, an interruption.
    pub failures: Vec<Text>,
    /// Defaults that the demo overrides.
    pub overrides: Vec<Text>,
    /// Address of the plane's page.
    pub page: String,
    /// Whether the page is still up.
    pub kept: bool,
}

impl DemoResult {
    /// Whether everything ended well.
    pub fn ok(&self) -> bool {
        self.failures.is_empty() && self.stories.len() == 3 && self.stories.iter().all(StoryResult::ok)
    }

    /// Energy of all data centers.
    pub fn total_energy(&self) -> SiteEnergy {
        let mut total = SiteEnergy::default();
        self.energy.iter().for_each(|site| total.add(site));
        total
    }

    /// What did not end well, one by one.
    pub fn all_failures(&self) -> Vec<Text> {
        let stories = self.stories.iter().filter_map(|story| {
            let failure = story.failure.as_ref()?;
            let heading = story.chapter.heading();
            Some(Text::new(format!("{}: {}", heading.en, failure.en), format!("{}：{}", heading.zh, failure.zh)))
        });
        stories.chain(self.failures.iter().cloned()).collect()
    }

    /// What did not end well, in one line.
    pub fn what_failed(&self) -> Text {
        let all = self.all_failures();
        let join = |form: fn(&Text) -> &str| all.iter().map(form).collect::<Vec<_>>().join("; ");
        Text::new(join(|text| &text.en), join(|text| &text.zh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facility_energy_is_it_energy_times_the_declared_pue_and_absent_without_one() {
        let mut site = SiteEnergy { microjoules: 3_600_000_000_000, ..SiteEnergy::default() };
        assert_eq!(site.facility_kwh(), None);
        site.pue = Some((1.25, "2026-01-01".into(), "x".into()));
        assert_eq!(site.facility_kwh(), Some(1.25));
    }

    #[test]
    fn watts_are_energy_over_time() {
        assert!((mean_watts(100_000_000, Duration::from_secs(1)) - 100.0).abs() < 1e-9);
        assert_eq!(percent(share(1, 0)), "0.0 %");
    }
}
