//! Asks the site's controller whom to probe. What it cannot reach or does not believe changes nothing: the peers that are
//! known go on being probed, which is what the mesh is for.

use std::time::Duration;

use evergreen_api::mesh::PeerList;
use http::Method;
use hyper::body::Bytes;
use rand::Rng;

use super::Mesh;
use crate::grants::pull::{self, HttpClient, PullError, SiteConfig};

/// How often the list is asked for.
const INTERVAL: Duration = Duration::from_secs(20);
/// How soon after a failure, or while there is nobody to probe.
const SOON: Duration = Duration::from_secs(3);

/// Keeps the peers up to date, for ever.
pub(super) async fn run(site: &SiteConfig, mesh: &Mesh, can_search: Result<(), &'static str>) {
    let mut failing = false;
    loop {
        // A fresh connection each time: it is seldom, and a rotated certificate is taken up.
        let asked = match pull::connect(site) {
            Ok(client) => ask(site, &client).await,
            Err(error) => Err(error),
        };
        let pause = match asked {
            Ok(list) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the site names peers again");
                }
                let pause = if list.peers.is_empty() { SOON } else { INTERVAL };
                mesh.follow(list, can_search);
                pause
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::info!(error = &error as &dyn std::error::Error, "the site names no peers; going on");
                }
                SOON
            }
        };
        let jitter = rand::rng().random_range(0..=pause.as_millis() as u64 / 5);
        tokio::time::sleep(pause + Duration::from_millis(jitter)).await;
    }
}

async fn ask(site: &SiteConfig, client: &HttpClient) -> Result<PeerList, PullError> {
    let malformed = |error: String| PullError::Malformed(error);
    let path = format!("/v1/peers?node={}", pull::encode(&site.node));
    let body = pull::call(site, client, Method::GET, &path, Bytes::new()).await?;
    let list: PeerList = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
    list.check().map_err(|error| malformed(error.to_string()))?;
    Ok(list)
}
