//! From a wish to a report: asks the source for the period and for the one before, and computes.

use evergreen_api::resources::{DataCenter, EnergyFacts, ReportScope, ReportStandard, SiteEnergyFacts};
use jiff::Timestamp;

use crate::{
    Before, Factors, Parts, Report, ReportError, Request, Standards, compute,
    days::{Days, PeriodError},
    in_scope, schedule,
    source::{Query, Source, SourceError},
};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Start of the period.
    pub from: Timestamp,
    /// End of the period, not included.
    pub to: Timestamp,
    /// Time zone of its days.
    pub zone: String,
    /// What to report on.
    pub scope: ReportScope,
    /// Namespaces that carry the scope's label, where a cluster told them.
    pub namespaces: Vec<String>,
    /// Which standards.
    pub standard: ReportStandard,
    /// Facts.
    pub facts: EnergyFacts,
}

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The period is none.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// The source did not give the ledger.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The figures cannot be.
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// Makes a report from a source, with the factors and thresholds that come with the product.
///
/// # Errors
/// [`MakeError`], each with its place.
pub async fn make(source: &Source, wanted: &Wanted) -> Result<Report, MakeError> {
    let days = Days::new(wanted.from, wanted.to, &wanted.zone)?;
    let ask = |days| Query {
        days,
        scope: &wanted.scope,
        namespaces: &wanted.namespaces,
        facts: &wanted.facts,
        sums_only: false,
    };
    let ledger = source.ledger(&ask(&days)).await?;
    let (from, to) = schedule::before(wanted.from, wanted.to, &wanted.zone);
    let earlier = Days::new(from, to, &wanted.zone)?;
    let nothing = EnergyFacts::default();
    let query = Query { sums_only: true, facts: &nothing, ..ask(&earlier) };
    let energy = source.ledger(&query).await?;
    let mut parts = Parts::default();
    in_scope(&energy, &wanted.scope).values().for_each(|site| parts.add(site));
    let before = Before { from, to, energy: Ok(parts) };
    let request = Request { scope: wanted.scope.clone(), standard: wanted.standard };
    Ok(compute(&request, &ledger, &before, &wanted.facts, &Factors::shipped(), &Standards::shipped())?)
}

/// Adds what DataCenter resources declare where the facts say nothing.
pub fn with_data_centers(mut facts: EnergyFacts, data_centers: &[DataCenter]) -> EnergyFacts {
    for dc in data_centers {
        let name = dc.metadata.name.clone().unwrap_or_default();
        let index = facts.sites.iter().position(|site| site.data_center == name).unwrap_or_else(|| {
            facts.sites.push(SiteEnergyFacts { data_center: name, ..SiteEnergyFacts::default() });
            facts.sites.len() - 1
        });
        let site = &mut facts.sites[index];
        site.grid_region = site.grid_region.take().or_else(|| dc.spec.grid_region.clone());
        site.pue = site.pue.take().or_else(|| dc.spec.pue.clone());
    }
    facts
}
