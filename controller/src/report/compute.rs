//! Rows and declared facts to a report. Pure.

use serde::Serialize;

use super::{
    decimal::{self, MICROJOULES_PER_KWH},
    factors::{FactorError, Factors},
    rows::{EnergyRow, EnergyRows},
    words::Note,
};

/// Share of the period that may be without samples before the report points it out, percent.
const GAP_WORTH_A_NOTE_PERCENT: u64 = 1;

/// What people declared about a data center.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteFacts {
    /// Name of the data center.
    pub name: String,
    /// Region of the electricity grid.
    pub grid_region: Option<String>,
    /// Declared power usage effectiveness: value, date, who declares it.
    pub pue: Option<(f64, String, String)>,
}

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nothing was recorded in the period.
    #[error("no energy was recorded from {from} to {to} for {scope}; nothing is reported rather than zero")]
    NoData {
        /// Start of the period.
        from: String,
        /// End of the period.
        to: String,
        /// Data centers asked for.
        scope: String,
    },
    /// A declared PUE is impossible.
    #[error(
        "data center {site}: a PUE of {value} is impossible; facility energy includes IT energy, so it is at least 1"
    )]
    ImpossiblePue {
        /// Data center.
        site: String,
        /// Declared value.
        value: f64,
    },
    /// The parts of a row do not add up.
    #[error(
        "data center {site}: measured, calibrated and estimated energy add up to {parts} uJ, but the total is {total} uJ"
    )]
    PartsDiffer {
        /// Data center.
        site: String,
        /// Sum of the parts.
        parts: u128,
        /// Total of the row.
        total: u64,
    },
    /// An emission factor is missing.
    #[error(transparent)]
    Factor(#[from] FactorError),
}

/// An energy report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Shape of this document.
    pub schema: &'static str,
    /// Start of the period, RFC 3339.
    pub from: String,
    /// End of the period, RFC 3339.
    pub to: String,
    /// All data centers together.
    pub total: Figures,
    /// Facility energy of all data centers; only when every one declares a PUE.
    pub total_facility_kwh: Option<String>,
    /// Location-based Scope 2 of all data centers, kgCO2; only when every one names a grid region.
    pub total_scope2_kg_co2: Option<String>,
    /// Each data center, by name.
    pub data_centers: Vec<DataCenterEnergy>,
}

/// IT energy and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// IT energy, whole microjoules; text in JSON, where readers round large numbers.
    #[serde(serialize_with = "as_text")]
    pub it_microjoules: u128,
    /// The same in kWh, six decimals.
    pub it_kwh: String,
    /// Measured by a sensor.
    pub measured: Share,
    /// By a model that a sensor calibrated.
    pub calibrated: Share,
    /// By a model alone.
    pub estimated: Share,
    /// Used while nothing was done; absent when the rows do not tell.
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

/// One data center.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataCenterEnergy {
    /// Name.
    pub name: String,
    /// IT energy.
    #[serde(flatten)]
    pub figures: Figures,
    /// Facility energy, only when a PUE is declared.
    pub facility: Option<Facility>,
    /// Location-based Scope 2, only when a grid region is declared.
    pub scope2: Option<Scope2>,
    /// First sample in the period, RFC 3339.
    pub first_sample: Option<String>,
    /// Last sample in the period, RFC 3339.
    pub last_sample: Option<String>,
    /// Time without samples, milliseconds, added up over nodes.
    pub gap_ms: u64,
    /// What a reader must know.
    pub notes: Vec<Note>,
}

/// Energy of the whole facility: IT energy x declared PUE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facility {
    /// kWh, six decimals.
    pub kwh: String,
    /// Declared PUE.
    pub pue: String,
    /// Date of the declaration.
    pub declared_on: String,
    /// Who declares it.
    pub declared_by: String,
}

/// Location-based Scope 2 emissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scope2 {
    /// kgCO2, six decimals.
    pub kg_co2: String,
    /// `facility` or `it`: which energy was multiplied.
    pub of: &'static str,
    /// Factor, kgCO2/kWh.
    pub factor: String,
    /// Region of the factor.
    pub region: String,
    /// Year of the factor.
    pub year: u16,
    /// What kind of average the factor is.
    pub basis: String,
    /// Who published it.
    pub source: String,
}

/// Makes the report over `rows` for the data centers in `scope` (empty: all that have rows or facts).
///
/// # Errors
/// When there is no energy at all in the period, a PUE is impossible, a grid region has no factor, or a row's parts do
/// not add up.
pub fn compute(
    rows: &EnergyRows,
    scope: &[String],
    facts: &[SiteFacts],
    factors: &Factors,
) -> Result<Report, ReportError> {
    let mut names: Vec<&str> = if scope.is_empty() {
        rows.rows.iter().map(|row| row.key.as_str()).chain(facts.iter().map(|site| site.name.as_str())).collect()
    } else {
        scope.iter().map(String::as_str).collect()
    };
    names.sort_unstable();
    names.dedup();
    let nothing = EnergyRow::default();
    let known = SiteFacts::default();
    let mut sum = Sum { idle: Some(0), ..Sum::default() };
    let mut data_centers = Vec::with_capacity(names.len());
    let (mut facility_sum, mut carbon_sum) = (Some(0_u128), Some(0_u128));
    let period_ms = period_ms(rows);
    for name in names {
        let row = rows.rows.iter().find(|row| row.key == name).unwrap_or(&nothing);
        let site = facts.iter().find(|site| site.name == name).unwrap_or(&known);
        let part = DataCenterPart::of(name, row, site, factors, period_ms)?;
        sum.add(&Sum::of(row));
        facility_sum = facility_sum.zip(part.facility_microjoules).map(|(sum, part)| sum + part);
        carbon_sum = carbon_sum.zip(part.milligrams).map(|(sum, part)| sum + part);
        data_centers.push(part.energy);
    }
    if sum.all() == 0 {
        let scope = if scope.is_empty() { "any data center".to_owned() } else { scope.join(", ") };
        return Err(ReportError::NoData { from: rows.from.clone(), to: rows.to.clone(), scope });
    }
    Ok(Report {
        schema: "evergreen.dev/energy-report/v1",
        from: rows.from.clone(),
        to: rows.to.clone(),
        total: figures(&sum),
        total_facility_kwh: facility_sum.map(decimal::kwh),
        total_scope2_kg_co2: carbon_sum.map(decimal::millionths),
        data_centers,
    })
}

/// A data center's entry and the whole numbers behind it.
struct DataCenterPart {
    energy: DataCenterEnergy,
    facility_microjoules: Option<u128>,
    milligrams: Option<u128>,
}

impl DataCenterPart {
    fn of(
        name: &str,
        row: &EnergyRow,
        site: &SiteFacts,
        factors: &Factors,
        period_ms: Option<u64>,
    ) -> Result<Self, ReportError> {
        let parts = [row.measured_microjoules, row.calibrated_microjoules, row.estimated_microjoules];
        let parts: u128 = parts.into_iter().map(u128::from).sum();
        if parts != u128::from(row.microjoules) {
            return Err(ReportError::PartsDiffer { site: name.to_owned(), parts, total: row.microjoules });
        }
        let mut notes = Vec::new();
        if row.microjoules == 0 {
            notes.push(Note::NoSamples);
        }
        let facility = match &site.pue {
            Some((value, date, by)) => {
                let impossible = || ReportError::ImpossiblePue { site: name.to_owned(), value: *value };
                if !(1.0..=100.0).contains(value) {
                    return Err(impossible());
                }
                // Declared with a few decimals; the text form drops the binary noise of the field's type.
                let pue = decimal::parse_millionths(&format!("{value:.6}")).ok_or_else(impossible)?;
                let microjoules = decimal::scale(row.microjoules.into(), pue, 1_000_000);
                let said = Facility {
                    kwh: decimal::kwh(microjoules),
                    pue: trim_zeros(&decimal::millionths(pue)),
                    declared_on: date.clone(),
                    declared_by: by.clone(),
                };
                Some((microjoules, said))
            }
            None => {
                notes.push(Note::NoPue);
                None
            }
        };
        let scope2 = match &site.grid_region {
            Some(region) => {
                let factor = factors.of(region)?;
                let energy = facility.as_ref().map_or(row.microjoules.into(), |(microjoules, _)| *microjoules);
                let milligrams = decimal::scale(energy, factor.milligrams(), MICROJOULES_PER_KWH);
                if facility.is_none() {
                    notes.push(Note::Scope2OfItOnly);
                }
                if factor.year < factors.newest_year() {
                    notes.push(Note::OlderFactor { year: factor.year, newest: factors.newest_year() });
                }
                let said = Scope2 {
                    kg_co2: decimal::millionths(milligrams),
                    of: if facility.is_some() { "facility" } else { "it" },
                    factor: factor.value.clone(),
                    region: factor.region.clone(),
                    year: factor.year,
                    basis: factor.basis.clone(),
                    source: factor.source.clone(),
                };
                Some((milligrams, said))
            }
            None => {
                notes.push(Note::NoGridRegion);
                None
            }
        };
        if period_ms.is_some_and(|period| row.gap_ms > period / 100 * GAP_WORTH_A_NOTE_PERCENT) {
            notes.push(Note::Gaps { seconds: row.gap_ms / 1000 });
        }
        let (facility_microjoules, facility) = facility.unzip();
        let (milligrams, scope2) = scope2.unzip();
        let energy = DataCenterEnergy {
            name: name.to_owned(),
            figures: figures(&Sum::of(row)),
            facility,
            scope2,
            first_sample: row.first_sample.clone(),
            last_sample: row.last_sample.clone(),
            gap_ms: row.gap_ms,
            notes,
        };
        Ok(Self { energy, facility_microjoules, milligrams })
    }
}

/// Whole microjoules of one row or of many: years of many sites do not fit into 64 bits.
#[derive(Default)]
struct Sum {
    measured: u128,
    calibrated: u128,
    estimated: u128,
    idle: Option<u128>,
}

impl Sum {
    fn of(row: &EnergyRow) -> Self {
        // A row without energy has no idle energy either, whether or not it says so.
        let idle = row.idle_microjoules.or((row.microjoules == 0).then_some(0));
        Self {
            measured: row.measured_microjoules.into(),
            calibrated: row.calibrated_microjoules.into(),
            estimated: row.estimated_microjoules.into(),
            idle: idle.map(|idle| idle.min(row.microjoules).into()),
        }
    }

    fn add(&mut self, other: &Self) {
        self.measured += other.measured;
        self.calibrated += other.calibrated;
        self.estimated += other.estimated;
        self.idle = self.idle.zip(other.idle).map(|(a, b)| a + b);
    }

    fn all(&self) -> u128 {
        self.measured + self.calibrated + self.estimated
    }
}

fn figures(sum: &Sum) -> Figures {
    let [measured, calibrated, estimated] = decimal::percent_shares([sum.measured, sum.calibrated, sum.estimated]);
    let share = |microjoules: u128, percent: String| Share { kwh: decimal::kwh(microjoules), percent };
    let idle = sum.idle.map(|idle| {
        let [percent, _] = decimal::percent_shares([idle, sum.all() - idle]);
        share(idle, percent)
    });
    Figures {
        it_microjoules: sum.all(),
        it_kwh: decimal::kwh(sum.all()),
        measured: share(sum.measured, measured),
        calibrated: share(sum.calibrated, calibrated),
        estimated: share(sum.estimated, estimated),
        idle,
    }
}

fn as_text<S: serde::Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn period_ms(rows: &EnergyRows) -> Option<u64> {
    let from: jiff::Timestamp = rows.from.parse().ok()?;
    let to: jiff::Timestamp = rows.to.parse().ok()?;
    u64::try_from(to.as_millisecond() - from.as_millisecond()).ok()
}

fn trim_zeros(decimal: &str) -> String {
    decimal.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, measured: u64, estimated: u64) -> EnergyRow {
        EnergyRow {
            key: key.to_owned(),
            microjoules: measured + estimated,
            measured_microjoules: measured,
            estimated_microjoules: estimated,
            idle_microjoules: Some((measured + estimated) / 4),
            ..EnergyRow::default()
        }
    }

    fn rows(rows: Vec<EnergyRow>) -> EnergyRows {
        EnergyRows { from: "2026-01-01T00:00:00Z".into(), to: "2026-01-01T01:00:00Z".into(), rows }
    }

    fn site(name: &str, region: Option<&str>, pue: Option<f64>) -> SiteFacts {
        SiteFacts {
            name: name.to_owned(),
            grid_region: region.map(str::to_owned),
            pue: pue.map(|value| (value, "2026-01-01".to_owned(), "facility office".to_owned())),
        }
    }

    const KWH: u64 = 3_600_000_000_000;

    #[test]
    fn facility_energy_and_carbon_follow_from_declared_facts() {
        let facts = [site("dc-a", Some("CN-East"), Some(1.35))];
        let report = compute(&rows(vec![row("dc-a", KWH, KWH)]), &[], &facts, &Factors::shipped()).unwrap();
        let dc = &report.data_centers[0];
        assert_eq!(dc.figures.it_kwh, "2.000000");
        assert_eq!(dc.facility.as_ref().unwrap().kwh, "2.700000");
        let scope2 = dc.scope2.as_ref().unwrap();
        assert_eq!((scope2.kg_co2.as_str(), scope2.of, scope2.year), ("1.485000", "facility", 2023));
        assert_eq!((dc.figures.measured.percent.as_str(), dc.figures.estimated.percent.as_str()), ("50.0", "50.0"));
        assert_eq!(dc.figures.idle.as_ref().unwrap().percent, "25.0");
    }

    #[test]
    fn what_nobody_declared_is_said_to_be_absent() {
        let report =
            compute(&rows(vec![row("dc-a", 0, KWH)]), &[], &[site("dc-a", None, None)], &Factors::shipped()).unwrap();
        let dc = &report.data_centers[0];
        assert!(dc.facility.is_none() && dc.scope2.is_none());
        assert_eq!(dc.notes, [Note::NoPue, Note::NoGridRegion]);
        assert!(report.total_facility_kwh.is_none() && report.total_scope2_kg_co2.is_none());
    }

    #[test]
    fn carbon_of_it_energy_alone_is_called_that() {
        let facts = [site("dc-a", Some("CN-Yunnan"), None)];
        let report = compute(&rows(vec![row("dc-a", KWH, 0)]), &[], &facts, &Factors::shipped()).unwrap();
        let dc = &report.data_centers[0];
        assert_eq!(dc.scope2.as_ref().unwrap().of, "it");
        assert_eq!(dc.notes, [Note::NoPue, Note::Scope2OfItOnly, Note::OlderFactor { year: 2022, newest: 2023 }]);
    }

    #[test]
    fn an_unknown_region_and_an_impossible_pue_are_errors() {
        let one = rows(vec![row("dc-a", KWH, 0)]);
        let unknown = compute(&one, &[], &[site("dc-a", Some("CN-Mars"), None)], &Factors::shipped()).unwrap_err();
        assert!(unknown.to_string().contains("CN-Mars") && unknown.to_string().contains("CN-East"), "{unknown}");
        for pue in [0.9, f64::NAN, f64::INFINITY, -1.0] {
            assert!(matches!(
                compute(&one, &[], &[site("dc-a", None, Some(pue))], &Factors::shipped()),
                Err(ReportError::ImpossiblePue { .. })
            ));
        }
    }

    #[test]
    fn a_period_without_data_is_an_error_and_a_data_center_without_data_is_a_note() {
        let empty = compute(&rows(Vec::new()), &["dc-a".to_owned()], &[], &Factors::shipped()).unwrap_err();
        assert!(empty.to_string().contains("dc-a"), "{empty}");
        let scope = ["dc-a".to_owned(), "dc-b".to_owned()];
        let report = compute(&rows(vec![row("dc-a", KWH, 0)]), &scope, &[], &Factors::shipped()).unwrap();
        assert!(report.data_centers[1].notes.contains(&Note::NoSamples));
    }

    #[test]
    fn totals_are_added_before_they_are_rounded() {
        let thirds = rows(vec![row("a", KWH / 3, 0), row("b", KWH / 3, 0), row("c", KWH / 3 + 2, 0)]);
        let report = compute(&thirds, &[], &[], &Factors::shipped()).unwrap();
        let microjoules: u128 = report.data_centers.iter().map(|dc| dc.figures.it_microjoules).sum();
        assert_eq!(report.total.it_microjoules, microjoules);
        assert_eq!(report.total.it_kwh, "1.000000");
    }

    #[test]
    fn parts_that_do_not_add_up_are_refused() {
        let mut wrong = row("dc-a", KWH, 0);
        wrong.estimated_microjoules = 1;
        let error = compute(&rows(vec![wrong]), &[], &[], &Factors::shipped()).unwrap_err();
        assert!(matches!(error, ReportError::PartsDiffer { .. }));
    }

    #[test]
    fn the_order_of_rows_does_not_change_a_byte() {
        let facts = [site("a", Some("DE"), Some(1.2)), site("b", Some("FR"), Some(1.3))];
        let one = compute(&rows(vec![row("a", 7, 3), row("b", 11, 5)]), &[], &facts, &Factors::shipped()).unwrap();
        let two = compute(&rows(vec![row("b", 11, 5), row("a", 7, 3)]), &[], &facts, &Factors::shipped()).unwrap();
        assert_eq!(super::super::json(&one), super::super::json(&two));
        assert_eq!(super::super::sha256(&super::super::json(&one)), super::super::sha256(&super::super::json(&two)));
    }
}
