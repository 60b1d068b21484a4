//! What a report says, as values. Each figure carries its unit, year, basis and source, or the reason why it is absent;
//! the pages, tables and data forms only write it down.

use serde::Serialize;

use crate::text::Text;

/// An energy report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Shape of this document.
    pub schema: &'static str,
    /// Start of the period, RFC 3339.
    pub from: String,
    /// End of the period, not included, RFC 3339.
    pub to: String,
    /// Time zone of its days.
    pub time_zone: String,
    /// What it is about.
    pub scope: String,
    /// `cn`, `eu`, `sci` or `all`.
    pub standard: &'static str,
    /// IT energy of everything in scope, split.
    pub total: Energy,
    /// Figures of everything in scope.
    pub summary: Vec<Figure>,
    /// The period before.
    pub previous: Previous,
    /// Each data center, by name.
    pub data_centers: Vec<DataCenter>,
    /// Software carbon intensity.
    pub sci: Option<Section>,
    /// IT energy by day.
    pub days: Vec<Day>,
    /// Energy of the greatest namespaces by day.
    pub namespace_days: NamespaceDays,
    /// Where the energy went.
    pub consumers: Consumers,
    /// What could be saved.
    pub recommendations: Vec<Recommendation>,
    /// Factors and thresholds that were used.
    pub sources: Vec<Source>,
    /// What a reader must know.
    pub notes: Vec<Text>,
}

/// IT energy and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Energy {
    /// Whole microjoules; text in JSON, where readers round large numbers.
    #[serde(serialize_with = "as_text")]
    pub it_microjoules: u128,
    /// The same in kWh, six decimals.
    pub it_kwh: String,
    /// Least and most that it may be, kWh, when what was not measured is off as far as the stated errors go, all at once.
    pub interval_kwh: [String; 2],
    /// Measured by a sensor.
    pub measured: Share,
    /// By a model that a sensor calibrated.
    pub calibrated: Share,
    /// By a model alone.
    pub estimated: Share,
    /// Used while nothing was done; absent when the ledger does not tell.
    pub idle: Option<Share>,
}

/// A part of the IT energy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// kWh, six decimals.
    pub kwh: String,
    /// Percent, one decimal; measured, calibrated and estimated add up to 100.0.
    pub percent: String,
}

/// One figure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// Name for programs.
    pub id: &'static str,
    /// Name for people.
    pub label: Text,
    /// Decimal, or a word such as a grade; none when absent.
    pub value: Option<String>,
    /// Unit; empty for ratios and words.
    pub unit: &'static str,
    /// Year of what it rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub year: Option<String>,
    /// How it came to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<Text>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<Text>,
}

impl Figure {
    /// A figure without a value yet.
    pub fn new(id: &'static str, en: &str, zh: &str, unit: &'static str) -> Self {
        Self { id, label: Text::new(en, zh), unit, ..Self::default() }
    }

    /// With its value.
    pub fn is(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// With the reason why it has none.
    pub fn absent(mut self, en: impl Into<String>, zh: impl Into<String>) -> Self {
        self.absent = Some(Text::new(en, zh));
        self
    }

    /// With a value, or the reason.
    pub fn either(self, value: Result<String, Text>) -> Self {
        match value {
            Ok(value) => self.is(value),
            Err(absent) => Self { absent: Some(absent), ..self },
        }
    }

    /// With how it came to be.
    pub fn basis(mut self, en: impl Into<String>, zh: impl Into<String>) -> Self {
        self.basis = Some(Text::new(en, zh));
        self
    }

    /// With who says so.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With the year of what it rests on.
    pub fn year(mut self, year: impl ToString) -> Self {
        self.year = Some(year.to_string());
        self
    }
}

/// Figures that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Name for programs.
    pub id: &'static str,
    /// Heading.
    pub title: Text,
    /// Figures.
    pub figures: Vec<Figure>,
}

/// One data center.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataCenter {
    /// Name.
    pub name: String,
    /// IT energy in scope.
    #[serde(flatten)]
    pub energy: Energy,
    /// First sample in the period, RFC 3339.
    pub first_sample: Option<String>,
    /// Last sample in the period, RFC 3339.
    pub last_sample: Option<String>,
    /// Time without samples, milliseconds, added up over nodes.
    pub gap_ms: u64,
    /// Figures.
    pub sections: Vec<Section>,
    /// PUE over time, where a facility meter or readings tell it.
    pub pue_over_time: Vec<PuePoint>,
    /// What a reader must know.
    pub notes: Vec<Text>,
}

impl DataCenter {
    /// A figure by its name.
    pub fn figure(&self, id: &str) -> Option<&Figure> {
        self.sections.iter().flat_map(|section| &section.figures).find(|figure| figure.id == id)
    }
}

/// PUE of some days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PuePoint {
    /// First day.
    pub from: String,
    /// Last day.
    pub to: String,
    /// Facility energy divided by IT energy, three decimals.
    pub pue: String,
    /// Whether it is below 1, which cannot be.
    pub impossible: bool,
}

/// IT energy of one day, kWh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Day {
    /// Local date.
    pub date: String,
    /// By a sensor.
    pub measured_kwh: String,
    /// By a calibrated model.
    pub calibrated_kwh: String,
    /// By a model alone.
    pub estimated_kwh: String,
}

/// Energy of namespaces by day, kWh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamespaceDays {
    /// The greatest, and last all others together.
    pub names: Vec<String>,
    /// One row a day, one figure a name.
    pub days: Vec<Vec<String>>,
}

/// Where the energy went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Consumers {
    /// Pods, system and idle; they add up to the IT energy.
    pub split: Vec<Consumer>,
    /// Namespaces, the greatest first.
    pub namespaces: Vec<Consumer>,
    /// Workloads, the greatest first.
    pub workloads: Vec<Consumer>,
    /// Nodes, the greatest first.
    pub nodes: Vec<Consumer>,
}

/// One consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consumer {
    /// Name.
    pub name: String,
    /// Data center, where it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Energy, kWh.
    pub kwh: String,
    /// Share of the IT energy in scope, percent.
    pub percent: String,
    /// Measured part of it, percent; none where the ledger does not tell.
    pub measured_percent: Option<String>,
}

/// The period before, of the same length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Previous {
    /// Start, RFC 3339.
    pub from: String,
    /// End, RFC 3339.
    pub to: String,
    /// IT energy, kWh.
    pub it_kwh: Option<String>,
    /// Change against it, percent with sign.
    pub change_percent: Option<String>,
    /// Why there is nothing to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<Text>,
}

/// What could be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recommendation {
    /// Name for programs.
    pub id: &'static str,
    /// Data center.
    pub site: String,
    /// What to do.
    pub title: Text,
    /// Energy that it would have saved in the period, kWh; an estimate.
    pub expected_kwh: Option<String>,
    /// How that was estimated.
    pub method: Text,
    /// What it is about, as nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub about: Vec<String>,
}

/// A factor or threshold that was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Source {
    /// What for.
    pub what: Text,
    /// Value with unit.
    pub value: String,
    /// Year or date.
    pub year: String,
    /// Kind of figure.
    pub basis: Text,
    /// Who published it.
    pub source: String,
}

fn as_text<S: serde::Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
