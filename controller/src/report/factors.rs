//! Emission factors of electricity: data with value, unit, year, region, source and basis. An unknown region is an
//! error that names the known ones, never a default.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::decimal::parse_millionths;

/// The only unit that the factors may be in.
const UNIT: &str = "kgCO2/kWh";

/// Location-based emission factor of a region in a year.
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
    /// kgCO2 per kWh, decimal text.
    pub value: String,
    /// What kind of average it is.
    pub basis: String,
    /// Who published it.
    pub source: String,
}

impl Factor {
    /// Milligrams of CO2 per kWh.
    pub(super) fn milligrams(&self) -> u128 {
        parse_millionths(&self.value).expect("checked when the file was read")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    unit: String,
    factors: Vec<Factor>,
}

/// All known factors; the newest year of each region is used.
#[derive(Clone, Debug)]
pub struct Factors {
    newest: BTreeMap<String, Factor>,
    newest_year: u16,
}

/// A factor that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FactorError {
    /// The file is no list of factors.
    #[error("the emission factors cannot be read")]
    Syntax(#[source] serde_yaml::Error),
    /// An entry of the file cannot be used.
    #[error("emission factor of {region} for {year}: {what}")]
    Entry {
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
        Self::parse(include_str!("../../data/grid-factors.yaml")).expect("the shipped factors are tested")
    }

    /// Reads factors from YAML.
    ///
    /// # Errors
    /// When the text is no list of factors, a value is no decimal, or a region has two values for one year.
    pub fn parse(text: &str) -> Result<Self, FactorError> {
        let file: File = serde_yaml::from_str(text).map_err(FactorError::Syntax)?;
        let mut seen = std::collections::BTreeSet::new();
        let (mut newest, mut newest_year) = (BTreeMap::<String, Factor>::new(), 0);
        for factor in file.factors {
            let wrong = |what: String| FactorError::Entry { region: factor.region.clone(), year: factor.year, what };
            if file.unit != UNIT {
                return Err(wrong(format!("the file's unit is `{}`, it must be {UNIT}", file.unit)));
            }
            if parse_millionths(&factor.value).is_none() {
                return Err(wrong(format!("`{}` is no decimal with at most six decimals", factor.value)));
            }
            if !seen.insert((factor.region.clone(), factor.year)) {
                return Err(wrong("there are two values for the same region and year".to_owned()));
            }
            newest_year = newest_year.max(factor.year);
            if newest.get(&factor.region).is_none_or(|known| known.year < factor.year) {
                newest.insert(factor.region.clone(), factor);
            }
        }
        Ok(Self { newest, newest_year })
    }

    /// The newest factor of a region.
    ///
    /// # Errors
    /// When the region has none.
    pub fn of(&self, region: &str) -> Result<&Factor, FactorError> {
        self.newest.get(region).ok_or_else(|| FactorError::UnknownRegion {
            region: region.to_owned(),
            known: self.newest.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// Newest year of any region: an older factor is worth a warning.
    pub fn newest_year(&self) -> u16 {
        self.newest_year
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_factors_read_and_the_newest_year_wins() {
        let factors = Factors::parse(include_str!("../../data/grid-factors.yaml")).unwrap();
        let china = factors.of("CN").unwrap();
        assert_eq!((china.year, china.value.as_str()), (2023, "0.5306"));
        assert_eq!(factors.of("CN-Guangdong").unwrap().year, 2022);
        assert_eq!(factors.newest_year(), 2023);
    }

    #[test]
    fn an_unknown_region_names_itself_and_the_known_ones() {
        let message = Factors::shipped().of("Atlantis").unwrap_err().to_string();
        assert!(message.contains("Atlantis") && message.contains("CN-East") && message.contains("DE"), "{message}");
    }

    #[test]
    fn two_values_for_one_year_are_refused() {
        let entry = |value: &str| {
            format!("{{region: X, name: X, name_zh: X, year: 2023, value: \"{value}\", basis: b, source: s}}")
        };
        let text = format!("unit: kgCO2/kWh\nfactors: [{}, {}]", entry("0.1"), entry("0.2"));
        assert!(Factors::parse(&text).unwrap_err().to_string().contains("two values"));
        assert!(Factors::parse(&format!("unit: g/kWh\nfactors: [{}]", entry("0.1"))).is_err());
        assert!(Factors::parse(&format!("unit: kgCO2/kWh\nfactors: [{}]", entry("a lot"))).is_err());
    }
}
