//! GET /api/v1/fleet.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};

use super::{ApiError, Shared, guard::Reader};
use crate::{
    clock::now_ms,
    energy::{
        HOUR_MS,
        query::{self, By},
    },
    fleet::{Fleet, fleet},
};

/// How long the sum of a day may be shown before it is made again, milliseconds.
const KEEP_MS: i64 = 5_000;
const MICROJOULES_PER_KWH: f64 = 3.6e12;

/// Energy of the last 24 hours by site, made anew at most every few seconds.
#[derive(Debug, Default)]
pub struct DayEnergy(tokio::sync::Mutex<(i64, Arc<BTreeMap<String, f64>>)>);

impl DayEnergy {
    async fn kwh(&self, shared: &Shared, now_ms: i64) -> Result<Arc<BTreeMap<String, f64>>, ApiError> {
        let mut kept = self.0.lock().await;
        if now_ms - kept.0 >= KEEP_MS {
            let report =
                shared.reader.ask(move |c| query::report(c, now_ms - 24 * HOUR_MS, now_ms, By::Site, None)).await?;
            let kwh =
                report.rows.into_iter().map(|row| (row.key, row.figures.microjoules as f64 / MICROJOULES_PER_KWH));
            *kept = (now_ms, Arc::new(kwh.collect()));
        }
        Ok(kept.1.clone())
    }
}

pub(super) async fn get(State(shared): State<Shared>, reader: Reader) -> Result<Json<Fleet>, ApiError> {
    now(&shared, &reader).await.map(Json)
}

/// The fleet as somebody sees it.
pub(super) async fn now(shared: &Shared, reader: &Reader) -> Result<Fleet, ApiError> {
    let now_ms = now_ms();
    let kwh = shared.day.kwh(shared, now_ms).await?;
    Ok(seen(fleet(&shared.live, now_ms, &kwh), reader))
}

/// What somebody sees of a fleet.
pub(super) fn seen(mut fleet: Fleet, Reader(who): &Reader) -> Fleet {
    fleet.sites.retain(|site| who.sees_site(&site.name));
    fleet.groups.retain(|group| who.sees_namespace(group.group.split_once('/').map_or("", |(namespace, _)| namespace)));
    fleet
}
