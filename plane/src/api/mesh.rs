//! GET /api/v1/mesh, with `from` and `to` for the paths between two data centers.

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{ApiError, Shared, error::Params, guard::Reader};
use crate::{
    clock::now_ms,
    mesh::{Mesh, mesh},
};

#[derive(Deserialize)]
pub(super) struct Pair {
    from: Option<String>,
    to: Option<String>,
}

pub(super) async fn get(
    State(shared): State<Shared>,
    Reader(who): Reader,
    Params(pair): Params<Pair>,
) -> Result<Json<Mesh>, ApiError> {
    let given = |name: Option<String>| name.filter(|name| !name.is_empty());
    let pair = match (given(pair.from), given(pair.to)) {
        (None, None) => None,
        (Some(from), Some(to)) => Some((from, to)),
        _ => {
            return Err(ApiError::parameter("only one of from and to is given", "give both, as in from=dc-a&to=dc-b"));
        }
    };
    let both = |from: &str, to: &str| who.sees_site(from) && who.sees_site(to);
    let pair = pair.filter(|(from, to)| both(from, to));
    let mut mesh = mesh(&shared.live, now_ms(), pair.as_ref().map(|(from, to)| (from.as_str(), to.as_str())));
    mesh.sites.retain(|site| who.sees_site(site));
    mesh.between.retain(|between| both(&between.from, &between.to));
    mesh.faults.retain(|fault| who.sees_site(&fault.site));
    Ok(Json(mesh))
}
