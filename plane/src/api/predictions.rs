//! GET /api/v1/predictions: what agents predict of their nodes now, what comes first is first.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Serialize;

use super::{Shared, fleet::seen, guard::Reader};
use crate::{
    clock::{now_ms, rfc3339_ms},
    fleet::fleet,
    predictions::{Placed, list},
};

#[derive(Serialize)]
pub(super) struct Answer {
    generated_at: String,
    predictions: Vec<Placed>,
}

pub(super) async fn get(State(shared): State<Shared>, reader: Reader) -> Json<Answer> {
    let now_ms = now_ms();
    let predictions = list(seen(fleet(&shared.live, now_ms, &BTreeMap::new()), &reader));
    Json(Answer { generated_at: rfc3339_ms(now_ms), predictions })
}
