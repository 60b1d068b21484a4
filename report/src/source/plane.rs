//! The embedded plane: its ledger in pages, each a few hundred series.

use evergreen_api::{resources::ReportScope, telemetry::metric};

use super::{
    Query, SourceError,
    http::{Answer, Http, encode},
};
use crate::{
    compute::time,
    ledger::{Ledger, LedgerPage},
};

/// The ledger of a period from the plane at `url`.
pub(super) async fn ledger(url: &str, query: &Query<'_>) -> Result<Ledger, SourceError> {
    let http = Http::new(url)?.with_token(std::env::var("EVERGREEN_PLANE_TOKEN").ok());
    for site in &query.facts.sites {
        let Some(meter) = &site.facility_meter else { continue };
        let named = meter.metric.as_deref().is_some_and(|name| name != metric::FACILITY_ENERGY);
        if meter.promql.is_some() || named {
            return Err(SourceError::Meter {
                site: site.data_center.clone(),
                what: format!(
                    "the plane keeps a facility meter only as the counter {} in J; send the meter under that name, or use a Prometheus-compatible source",
                    metric::FACILITY_ENERGY
                ),
            });
        }
    }
    let days = query.days;
    let mut path = format!(
        "/api/v1/energy/ledger?from={}&to={}&zone={}",
        encode(&time(days.from_ms())),
        encode(&time(days.to_ms())),
        encode(days.zone())
    );
    if query.sums_only {
        path.push_str("&days=false");
    }
    match query.scope {
        ReportScope::Fleet | ReportScope::DataCenters(_) => {}
        ReportScope::Namespace(name) => path.push_str(&format!("&namespaces={}", encode(name))),
        ReportScope::Label { key, value } => {
            path.push_str(&format!("&label={}", encode(&format!("{key}={value}"))));
            path.push_str(&format!("&namespaces={}", encode(&query.namespaces.join(","))));
        }
    }
    let mut ledger = Ledger::new(days.clone());
    let mut after = None;
    loop {
        let page = match after {
            None => path.clone(),
            Some(after) => format!("{path}&after={after}"),
        };
        let Answer::Body(body) = http.ask(&page, None).await? else {
            return Err(SourceError::TooMuch { url: http.url() });
        };
        let page: LedgerPage = serde_json::from_slice(&body).map_err(|source| SourceError::Answer {
            url: http.url(),
            what: "page of a ledger",
            source,
        })?;
        page.rows.into_iter().for_each(|row| ledger.add(row));
        // A page that does not go on would be asked for ever.
        if page.next.is_none() || page.next <= after {
            return Ok(ledger);
        }
        after = page.next;
    }
}
