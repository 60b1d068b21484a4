//! Emission factors of electricity: data with value, unit, year, region, method, boundary, source and basis. An unknown
//! region is an error that names the known ones, never a default; two factors for the same thing are refused.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::Deserialize;

use crate::decimal::parse_millionths;

/// The only unit that the factors may be in.
const UNIT: &str = "kgCO2/kWh";

/// What a factor may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Average of a grid.
    Location,
    /// What is left for consumers without contracts.
    Residual,
}

/// Which emissions a factor holds. The first is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// Of generation.
    Direct,
    /// With fuel supply and construction: more than Scope 2.
    LifeCycle,
}

/// Emission factor of a region in a year.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Region, as in `CN-East`.
    pub region: String,
    /// Name in English.
    pub name: String,
    /// Name in Chinese.
    pub name_zh: String,
    /// Year that the value is for.
    pub year: u16,
    /// Month of publication.
    #[serde(default)]
    pub published: Option<String>,
    /// What it may be used for.
    pub method: Method,
    /// Which emissions it holds.
    pub boundary: Boundary,
    /// kgCO2 per kWh, decimal text.
    pub value: String,
    /// What kind of average it is.
    pub basis: String,
    /// The same in Chinese.
    pub basis_zh: String,
    /// Who published it.
    pub source: String,
    /// Where the value was checked.
    pub seen: String,
    /// First day of its use.
    #[serde(default)]
    pub from: Option<Date>,
    /// The day after its last use.
    #[serde(default)]
    pub to: Option<Date>,
}

impl Factor {
    /// Milligrams of CO2 per kWh.
    pub(crate) fn milligrams(&self) -> u128 {
        parse_millionths(&self.value).expect("checked when the file was read")
    }

    fn used_on(&self, day: Date) -> bool {
        self.from.is_none_or(|from| from <= day) && self.to.is_none_or(|to| day < to)
    }

    /// Whether two factors say the same thing for the same time.
    fn overlaps(&self, other: &Self) -> bool {
        let same = self.region == other.region && self.method == other.method && self.boundary == other.boundary;
        let dated = self.from.is_some() || self.to.is_some() || other.from.is_some() || other.to.is_some();
        let meet = self.from.unwrap_or(Date::MIN) < other.to.unwrap_or(Date::MAX)
            && other.from.unwrap_or(Date::MIN) < self.to.unwrap_or(Date::MAX);
        same && if dated { meet } else { self.year == other.year }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    unit: String,
    factors: Vec<Factor>,
}

/// All known factors.
#[derive(Clone, Debug)]
pub struct Factors {
    all: Vec<Factor>,
}

/// A factor that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FactorError {
    /// The file is no list of factors.
    #[error("the emission factors cannot be read")]
    Syntax(#[source] serde_yaml::Error),
    /// An entry of the file cannot be used.
    #[error("emission factors, entry {index} ({region}, {year}): {what}")]
    Entry {
        /// Place in the list, from 1.
        index: usize,
        /// Region of the entry.
        region: String,
        /// Year of the entry.
        year: u16,
        /// What is wrong.
        what: String,
    },
    /// No factor for a region.
    #[error("no emission factor for grid region `{region}`; known regions: {known}")]
    UnknownRegion {
        /// Region that was asked for.
        region: String,
        /// Regions with a factor, comma separated.
        known: String,
    },
}

impl Factors {
    /// The factors that come with the product.
    ///
    /// # Panics
    /// Never: a test reads the same text.
    pub fn shipped() -> Self {
        Self::parse(include_str!("../data/grid-factors.yaml")).expect("the shipped factors are tested")
    }

    /// Reads factors from YAML.
    ///
    /// # Errors
    /// When the text is no list of factors, a value is no decimal, or two factors overlap.
    pub fn parse(text: &str) -> Result<Self, FactorError> {
        let file: File = serde_yaml::from_str(text).map_err(FactorError::Syntax)?;
        for (index, factor) in file.factors.iter().enumerate() {
            let wrong = |what: String| {
                let (region, year) = (factor.region.clone(), factor.year);
                Err(FactorError::Entry { index: index + 1, region, year, what })
            };
            if file.unit != UNIT {
                return wrong(format!("the file's unit is `{}`, it must be {UNIT}", file.unit));
            }
            if parse_millionths(&factor.value).is_none_or(|value| value > 10_000_000) {
                return wrong(format!("`{}` is no factor: a decimal up to 10 with at most six decimals", factor.value));
            }
            if factor.from.zip(factor.to).is_some_and(|(from, to)| from >= to) {
                return wrong("`to` must be after `from`".to_owned());
            }
            if let Some(first) = file.factors[..index].iter().position(|other| factor.overlaps(other)) {
                return wrong(format!(
                    "overlaps entry {}: both are for the same region, method, boundary and time",
                    first + 1
                ));
            }
        }
        Ok(Self { all: file.factors })
    }

    /// The factor of a region for energy used until `last_day`: a direct one before a life-cycle one, then one that is
    /// dated for that day, then the newest year.
    ///
    /// # Errors
    /// When the region has none.
    pub fn location(&self, region: &str, last_day: Date) -> Result<&Factor, FactorError> {
        self.best(region, Method::Location, last_day).ok_or_else(|| FactorError::UnknownRegion {
            region: region.to_owned(),
            known: self
                .all
                .iter()
                .filter(|factor| factor.method == Method::Location)
                .map(|factor| factor.region.as_str())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// The residual factor of a region, or of the country that the region is part of.
    pub fn residual(&self, region: &str, last_day: Date) -> Option<&Factor> {
        self.best(region, Method::Residual, last_day).or_else(|| self.best(country(region), Method::Residual, last_day))
    }

    fn best(&self, region: &str, method: Method, day: Date) -> Option<&Factor> {
        self.all
            .iter()
            .filter(|factor| factor.region == region && factor.method == method && factor.used_on(day))
            .min_by_key(|factor| (factor.boundary, std::cmp::Reverse((factor.from, factor.year))))
    }

    /// Newest year of any factor of the same country: an older one is worth a warning.
    pub fn newest_year(&self, region: &str) -> u16 {
        let same = self.all.iter().filter(|factor| country(&factor.region) == country(region));
        same.map(|factor| factor.year).max().unwrap_or(0)
    }
}

fn country(region: &str) -> &str {
    region.split_once('-').map_or(region, |(country, _)| country)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const TODAY: Date = date(2026, 3, 31);

    #[test]
    fn shipped_factors_read_and_the_newest_year_of_the_direct_ones_wins() {
        let factors = Factors::parse(include_str!("../data/grid-factors.yaml")).unwrap();
        let of = |region| {
            let factor = factors.location(region, TODAY).unwrap();
            (factor.year, factor.value.as_str(), factor.boundary)
        };
        assert_eq!(of("CN"), (2023, "0.5306", Boundary::Direct));
        assert_eq!(of("CN-Guangdong"), (2022, "0.4403", Boundary::Direct));
        assert_eq!(of("DE"), (2024, "0.363", Boundary::Direct));
        assert_eq!(of("FR"), (2023, "0.056", Boundary::LifeCycle));
        assert_eq!((factors.newest_year("CN-Guangdong"), factors.newest_year("FR")), (2023, 2023));
        assert_eq!(factors.residual("CN-East", TODAY).unwrap().value, "0.6096");
        assert!(factors.residual("DE", TODAY).is_none());
    }

    #[test]
    fn an_unknown_region_names_itself_and_the_known_ones() {
        let message = Factors::shipped().location("Atlantis", TODAY).unwrap_err().to_string();
        assert!(message.contains("Atlantis") && message.contains("CN-East") && message.contains("DE"), "{message}");
    }

    fn file(entries: &[&str]) -> Result<Factors, FactorError> {
        let rest = "method: location, boundary: direct, basis: b, basis_zh: b, source: s, seen: s";
        let entries: Vec<_> =
            entries.iter().map(|e| format!("{{region: X, name: X, name_zh: X, {e}, {rest}}}")).collect();
        Factors::parse(&format!("unit: kgCO2/kWh\nfactors: [{}]", entries.join(", ")))
    }

    #[test]
    fn overlapping_factors_are_refused_with_their_place() {
        let twice = file(&["year: 2023, value: '0.1'", "year: 2023, value: '0.2'"]).unwrap_err().to_string();
        assert!(twice.contains("entry 2 (X, 2023): overlaps entry 1"), "{twice}");
        let dated = file(&[
            "year: 2023, value: '0.1', from: 2024-01-01, to: 2025-01-01",
            "year: 2024, value: '0.2', from: 2024-12-31, to: 2026-01-01",
        ]);
        assert!(dated.unwrap_err().to_string().contains("overlaps entry 1"));
        let apart = file(&[
            "year: 2023, value: '0.1', from: 2024-01-01, to: 2025-01-01",
            "year: 2024, value: '0.2', from: 2025-01-01, to: 2026-01-01",
        ])
        .unwrap();
        assert_eq!(apart.location("X", date(2024, 12, 31)).unwrap().value, "0.1");
        assert!(apart.location("X", date(2026, 1, 1)).is_err(), "a factor is not used beyond its validity");
        assert!(file(&["year: 2023, value: 'a lot'"]).is_err());
        assert!(Factors::parse("unit: g/kWh\nfactors: []").is_ok() && Factors::parse("nothing").is_err());
    }
}
