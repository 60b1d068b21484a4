//! Facts that an energy report needs and may never guess: meters, declared PUE, certificates, water, functional unit.
//!
//! Everything here is said by a person or a meter, with its date and its author, and is printed beside the figure that
//! follows from it. What is left out makes the report say that a figure is absent, and why.

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DeclaredPue;
use crate::FieldError;

/// Facts for one report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnergyFacts {
    /// Facts of data centers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteEnergyFacts>,
    /// What the software carbon intensity is counted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sci: Option<SciFacts>,
}

/// Facts of one data center.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteEnergyFacts {
    /// Name of the data center.
    pub data_center: String,
    /// Grid region whose emission factor applies, as in `CN-East`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid_region: Option<String>,
    /// Declared power usage effectiveness; a meter or readings go before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<DeclaredPue>,
    /// Meter of the facility feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility_meter: Option<FacilityMeter>,
    /// Readings of the facility feed, entered by people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facility_energy: Vec<Reading>,
    /// Renewable energy: certificates, purchase agreements, own generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewables: Vec<Renewable>,
    /// Factor of the energy that no certificate covers, for the market-based method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual_factor: Option<DeclaredFactor>,
    /// Water taken in, litres.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub water: Vec<Reading>,
    /// Where the water comes from, as in `municipal` or `reclaimed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub water_source: Option<String>,
    /// Potable part of the water, litres.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub potable_water: Vec<Reading>,
    /// Waste heat that was reused, kWh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heat_reused: Vec<Reading>,
    /// Installed information technology power demand, kW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_it_kw: Option<f64>,
    /// Standard racks (2.5 kW).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_racks: Option<u32>,
    /// Share of racks in use, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack_utilization_percent: Option<f64>,
    /// How the building is fed and cooled, for the scope of GB 40879.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<Building>,
    /// Grade by GB/T 44989-2024 that an assessment gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub green_grade: Option<DeclaredGrade>,
}

/// A counter of the facility feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FacilityMeter {
    /// Name of a cumulative counter; in the plane the series of this data center are added up. Without it
    /// `evergreen.facility.energy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// PromQL that gives one cumulative counter; only for a Prometheus-compatible source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promql: Option<String>,
    /// Unit of the counter.
    pub unit: EnergyUnit,
}

/// Units of an energy counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnergyUnit {
    /// Joule.
    J,
    /// Watt-hour.
    Wh,
    /// Kilowatt-hour.
    #[serde(rename = "kWh")]
    KWh,
    /// Megawatt-hour.
    MWh,
}

impl EnergyUnit {
    /// Microjoules in one.
    pub const fn microjoules(self) -> u128 {
        match self {
            Self::J => 1_000_000,
            Self::Wh => 3_600_000_000,
            Self::KWh => 3_600_000_000_000,
            Self::MWh => 3_600_000_000_000_000,
        }
    }
}

/// A reading over whole local days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reading {
    /// First day, `YYYY-MM-DD`.
    pub from: String,
    /// The day after the last, `YYYY-MM-DD`.
    pub to: String,
    /// Amount: kWh for energy, litres for water.
    pub amount: f64,
    /// When it was read, `YYYY-MM-DD`.
    pub date: String,
    /// Who read it.
    pub by: String,
}

/// What a renewable amount rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RenewableKind {
    /// Guarantees of origin, green electricity certificates (绿证), renewable energy certificates.
    Certificate,
    /// Power purchase agreement.
    Ppa,
    /// Own generation on site, consumed on site.
    Onsite,
}

/// Renewable energy of a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Renewable {
    /// What it rests on.
    pub kind: RenewableKind,
    /// Identifier of the certificate, contract or meter; no two may be the same.
    pub id: String,
    /// Who issued it.
    pub issuer: String,
    /// First day, `YYYY-MM-DD`.
    pub from: String,
    /// The day after the last, `YYYY-MM-DD`.
    pub to: String,
    /// Amount, kWh.
    pub kwh: f64,
}

/// An emission factor that somebody stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredFactor {
    /// kgCO2 per kWh.
    pub value: f64,
    /// Year that it is for.
    pub year: u16,
    /// Who published it.
    pub source: String,
}

/// How a building is fed and cooled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Building {
    /// It has a power distribution of its own.
    pub independent_power: bool,
    /// It is cooled by air with electric air conditioning.
    pub electric_air_cooling: bool,
}

/// A grade that an assessment gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredGrade {
    /// Grade; 1 is the best.
    pub grade: u8,
    /// Date of the assessment, `YYYY-MM-DD`.
    pub date: String,
    /// Who assessed.
    pub by: String,
}

/// What the software carbon intensity is counted for: SCI = (E x I + M) / R.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SciFacts {
    /// Name of the functional unit, as in `payment`.
    pub functional_unit: String,
    /// How many of them the period had.
    pub count: f64,
    /// Embodied emissions of the hardware that fall to the period, kgCO2e.
    pub embodied_kg: f64,
    /// Where count and embodied emissions come from.
    pub source: String,
    /// When they were declared, `YYYY-MM-DD`.
    pub date: String,
    /// Who declares them.
    pub by: String,
}

fn date(errors: &mut Vec<FieldError>, path: &str, text: &str) -> Option<Date> {
    let date = text.parse::<Date>().ok();
    if date.is_none() {
        errors.push(FieldError::new(path, format!("`{text}` is no date; write YYYY-MM-DD")));
    }
    date
}

fn amount(errors: &mut Vec<FieldError>, path: &str, value: f64) {
    if !(value.is_finite() && (0.0..=1e12).contains(&value)) {
        errors.push(FieldError::new(path, format!("{value} is no amount; it must be from 0 to 10^12")));
    }
}

fn someone(errors: &mut Vec<FieldError>, path: &str, by: &str) {
    if by.trim().is_empty() {
        errors.push(FieldError::new(path, "name the person or body that stands for it"));
    }
}

fn readings(errors: &mut Vec<FieldError>, path: &str, readings: &[Reading]) {
    let mut spans: Vec<(Date, Date, usize)> = Vec::new();
    for (index, reading) in readings.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let from = date(errors, &format!("{at}.from"), &reading.from);
        let to = date(errors, &format!("{at}.to"), &reading.to);
        date(errors, &format!("{at}.date"), &reading.date);
        amount(errors, &format!("{at}.amount"), reading.amount);
        someone(errors, &format!("{at}.by"), &reading.by);
        if let (Some(from), Some(to)) = (from, to) {
            if from >= to {
                errors.push(FieldError::new(format!("{at}.to"), "must be after `from`; it is not included"));
            } else {
                spans.push((from, to, index));
            }
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            errors.push(FieldError::new(
                format!("{path}[{}]", pair[1].2),
                format!("overlaps {path}[{}]: {} is read twice", pair[0].2, pair[1].0),
            ));
        }
    }
}

impl EnergyFacts {
    /// Everything that is wrong with the facts, below `path`.
    pub fn errors(&self, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        let mut ids = std::collections::BTreeMap::new();
        for (index, site) in self.sites.iter().enumerate() {
            let at = format!("{path}.sites[{index}]");
            if site.data_center.trim().is_empty() || !names.insert(&site.data_center) {
                let message = format!("`{}` must be named, and only once", site.data_center);
                errors.push(FieldError::new(format!("{at}.dataCenter"), message));
            }
            site.check(&mut errors, &at);
            for (index, renewable) in site.renewables.iter().enumerate() {
                let place = format!("{at}.renewables[{index}]");
                if let Some(first) = ids.insert(renewable.id.clone(), place.clone()) {
                    let message = format!("`{}` is at {first} too: the same energy would count twice", renewable.id);
                    errors.push(FieldError::new(format!("{place}.id"), message));
                }
            }
        }
        if let Some(sci) = &self.sci {
            let at = format!("{path}.sci");
            date(&mut errors, &format!("{at}.date"), &sci.date);
            someone(&mut errors, &format!("{at}.by"), &sci.by);
            amount(&mut errors, &format!("{at}.embodiedKg"), sci.embodied_kg);
            amount(&mut errors, &format!("{at}.count"), sci.count);
            if sci.count <= 0.0 {
                errors.push(FieldError::new(format!("{at}.count"), "must be above 0: emissions are divided by it"));
            }
        }
        errors
    }
}

impl SiteEnergyFacts {
    fn check(&self, errors: &mut Vec<FieldError>, at: &str) {
        if let Some(pue) = &self.pue {
            pue.check(errors, &format!("{at}.pue"));
        }
        if let Some(meter) = &self.facility_meter
            && meter.metric.is_some()
            && meter.promql.is_some()
        {
            errors.push(FieldError::new(format!("{at}.facilityMeter"), "give metric or promql, not both"));
        }
        readings(errors, &format!("{at}.facilityEnergy"), &self.facility_energy);
        readings(errors, &format!("{at}.water"), &self.water);
        readings(errors, &format!("{at}.potableWater"), &self.potable_water);
        readings(errors, &format!("{at}.heatReused"), &self.heat_reused);
        for (index, renewable) in self.renewables.iter().enumerate() {
            let at = format!("{at}.renewables[{index}]");
            let from = date(errors, &format!("{at}.from"), &renewable.from);
            let to = date(errors, &format!("{at}.to"), &renewable.to);
            if from >= to && from.is_some() && to.is_some() {
                errors.push(FieldError::new(format!("{at}.to"), "must be after `from`; it is not included"));
            }
            amount(errors, &format!("{at}.kwh"), renewable.kwh);
            someone(errors, &format!("{at}.issuer"), &renewable.issuer);
            someone(errors, &format!("{at}.id"), &renewable.id);
        }
        if let Some(factor) = &self.residual_factor
            && !(0.0..=10.0).contains(&factor.value)
        {
            let message = format!("{} kgCO2/kWh is no emission factor", factor.value);
            errors.push(FieldError::new(format!("{at}.residualFactor.value"), message));
        }
        if let Some(kw) = self.installed_it_kw {
            amount(errors, &format!("{at}.installedItKw"), kw);
        }
        if let Some(percent) = self.rack_utilization_percent
            && !(0.0..=100.0).contains(&percent)
        {
            let message = format!("{percent} is no percentage");
            errors.push(FieldError::new(format!("{at}.rackUtilizationPercent"), message));
        }
        if let Some(grade) = &self.green_grade {
            date(errors, &format!("{at}.greenGrade.date"), &grade.date);
            someone(errors, &format!("{at}.greenGrade.by"), &grade.by);
        }
    }
}

impl DeclaredPue {
    /// Everything that is wrong with it.
    pub fn check(&self, errors: &mut Vec<FieldError>, path: &str) {
        if !(self.value >= 1.0 && self.value <= 100.0) {
            errors.push(FieldError::new(
                format!("{path}.value"),
                format!("{} is no PUE: facility energy includes IT energy, so it is at least 1.0", self.value),
            ));
        }
        if self.by.trim().is_empty() || self.date.parse::<Date>().is_err() {
            errors.push(FieldError::new(
                path,
                "a declared PUE needs the date (YYYY-MM-DD) and the person or body that declares it",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(yaml: &str) -> String {
        let facts: EnergyFacts = serde_yaml::from_str(yaml).unwrap();
        crate::validate::summary(&facts.errors("facts"))
    }

    #[test]
    fn overlapping_readings_double_certificates_and_a_pue_below_one_are_refused_with_their_place() {
        let text = said(
            "sites:\n- dataCenter: a\n  pue: {value: 0.9, date: 2026-01-01, by: me}\n  facilityEnergy:\n  \
             - {from: 2026-01-01, to: 2026-02-01, amount: 1, date: 2026-02-01, by: me}\n  \
             - {from: 2026-01-31, to: 2026-03-01, amount: 1, date: 2026-03-01, by: me}\n  renewables:\n  \
             - {kind: certificate, id: G1, issuer: x, from: 2026-01-01, to: 2026-02-01, kwh: 1}\n  \
             - {kind: ppa, id: G1, issuer: x, from: 2026-01-01, to: 2026-02-01, kwh: 1}\n",
        );
        assert!(text.contains("sites[0].pue.value: 0.9 is no PUE"), "{text}");
        assert!(text.contains("facilityEnergy[1]: overlaps facts.sites[0].facilityEnergy[0]"), "{text}");
        assert!(text.contains("renewables[1].id: `G1` is at facts.sites[0].renewables[0] too"), "{text}");
    }

    #[test]
    fn good_facts_have_nothing_wrong() {
        let text = "sites:\n- dataCenter: a\n  facilityMeter: {unit: kWh}\n  water:\n  \
             - {from: 2026-01-01, to: 2026-02-01, amount: 1, date: 2026-02-01, by: me}\n";
        assert_eq!(said(text), "");
    }
}
