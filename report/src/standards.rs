//! Thresholds of standards and plans: data with source and validity. Nothing is judged by a number in code.

use jiff::civil::Date;
use serde::Deserialize;

use crate::decimal::parse_millionths;

/// All thresholds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standards {
    /// GB 40879.
    pub gb40879: Gb40879,
    /// GB/T 44989.
    pub gbt44989: Dated,
    /// National green data centers 2025.
    pub national2025: National,
    /// Plans, as dated context.
    pub plans: Vec<Plan>,
    /// Delegated Regulation (EU) 2024/1364.
    pub eu2024_1364: Eu,
    /// ISO/IEC 30134.
    pub iso30134: Named,
    /// ISO/IEC 21031.
    pub sci: Named,
    /// GHG Protocol.
    pub ghg: Named,
    /// Errors of what was not measured.
    pub uncertainty: Uncertainty,
}

/// Energy efficiency grades of data centers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gb40879 {
    /// The standard.
    pub source: String,
    /// In force from.
    pub valid_from: Date,
    /// Greatest PUE of grade 1, 2, 3.
    pub grades: [String; 3],
    /// Racks up to which it does not apply.
    pub edge_racks: u32,
    /// Days that a grade rests on.
    pub days: usize,
}

/// A standard with the date from which it holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dated {
    /// The standard.
    pub source: String,
    /// In force from.
    pub valid_from: Date,
}

/// A standard.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The standard.
    pub source: String,
}

/// Criteria of national green data centers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct National {
    /// The notice.
    pub source: String,
    /// In force from.
    pub valid_from: Date,
    /// Greatest PUE.
    pub pue_max: String,
    /// Worst grade by GB 40879.
    pub gb40879_grade_max: u8,
    /// Worst grade by GB/T 44989.
    pub gbt44989_grade_max: u8,
    /// Fewest standard racks; finance and public institutions are exempt.
    pub racks_min: u32,
    /// Least share of racks in use, percent.
    pub rack_utilization_min: String,
}

/// A plan of the past or present.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The plan.
    pub source: String,
    /// Last day that it aims at.
    pub ended: Date,
    /// What it aims at.
    pub says: String,
    /// The same in Chinese.
    pub says_zh: String,
}

/// The regulation's threshold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eu {
    /// The regulation.
    pub source: String,
    /// In force from.
    pub valid_from: Date,
    /// Least installed IT power, kW.
    pub installed_it_kw_min: String,
    /// Month and day by which a year is due.
    pub due: String,
}

/// Errors of what was not measured, percent of the energy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uncertainty {
    /// Where they come from.
    pub source: String,
    /// Of estimated energy.
    pub estimated_percent: String,
    /// Of calibrated energy.
    pub calibrated_percent: String,
}

impl Standards {
    /// The thresholds that come with the product.
    ///
    /// # Panics
    /// Never: a test reads the same text.
    pub fn shipped() -> Self {
        serde_yaml::from_str(include_str!("../data/standards.yaml")).expect("the shipped thresholds are tested")
    }
}

impl Gb40879 {
    /// Grade of a PUE in millionths; none when it is worse than the limit.
    pub fn grade(&self, pue_millionths: u128) -> Option<u8> {
        let holds = |limit: &String| parse_millionths(limit).is_some_and(|limit| pue_millionths <= limit);
        self.grades.iter().position(holds).map(|index| index as u8 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_thresholds_read_and_grades_include_their_limit() {
        let standards: Standards = serde_yaml::from_str(include_str!("../data/standards.yaml")).unwrap();
        let grade = |pue| standards.gb40879.grade(pue);
        assert_eq!(grade(1_200_000), Some(1));
        assert_eq!(grade(1_200_001), Some(2));
        assert_eq!((grade(1_300_000), grade(1_500_000), grade(1_500_001)), (Some(2), Some(3), None));
        let u = &standards.uncertainty;
        assert!(parse_millionths(&u.estimated_percent).is_some() && parse_millionths(&u.calibrated_percent).is_some());
    }
}
