//! `report.json`: the same facts as the page, as data.

use serde_json::{Value, json};

use super::Material;
use crate::demo::{
    result::{SiteEnergy, StoryResult, share, to_kwh},
    traffic::millis,
};

/// The report as JSON.
pub fn render(material: &Material) -> Value {
    let result = &material.result;
    json!({
        "ok": result.ok(),
        "began": result.began.to_string(),
        "took_ms": millis(result.took),
        "overrides": result.overrides,
        "stories": result.stories.iter().map(story).collect::<Vec<_>>(),
        "failures": result.failures,
        "timeline": material.entries,
        "clients": {
            "requests": material.clients.requests,
            "errors": material.clients.errors,
            "p99_ms": material.p99_ms,
            "reasons": material.reasons.iter().map(|(reason, count)| json!({"reason": reason, "count": count})).collect::<Vec<_>>(),
            "sites": material.sites,
            "per_second": material.seconds.iter().map(|s| json!({"ok": s.ok, "errors": s.errors})).collect::<Vec<_>>(),
        },
        "energy": {
            "period_ms": millis(result.energy_over),
            "sites": result.energy.iter().map(energy).collect::<Vec<_>>(),
            "total": energy(&result.total_energy()),
        },
    })
}

fn story(story: &StoryResult) -> Value {
    json!({
        "name": story.name(),
        "ok": story.ok(),
        "reason": story.failure,
        "began_ms": millis(story.began),
        "ended_ms": millis(story.ended),
        "detected_ms": story.detected.map(millis),
        "healed_ms": story.healed.map(millis),
        "requests": story.clients.requests,
        "client_errors": story.clients.errors,
        "error_window_ms": millis(story.error_window()),
        "trace_id": story.trace_id,
    })
}

fn energy(site: &SiteEnergy) -> Value {
    json!({
        "site": site.site,
        "microjoules": site.microjoules,
        "measured_microjoules": site.measured,
        "calibrated_microjoules": site.calibrated,
        "estimated_microjoules": site.estimated,
        "idle_microjoules": site.idle,
        "it_kwh": to_kwh(site.microjoules),
        "measured_share": share(site.measured, site.microjoules),
        "pue": site.pue.as_ref().map(|(value, date, by)| json!({"value": value, "date": date, "by": by})),
        "facility_kwh": site.facility_kwh(),
    })
}
