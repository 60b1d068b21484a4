//! How long the name of the site's endpoint takes to resolve: the one name that every agent needs. Whether other names
//! resolve is asked by the probe `dns`.

use std::{net::ToSocketAddrs, time::Duration};

use tokio::task::JoinHandle;

use super::{Lookup, Mesh};
use crate::{grants::pull::SiteConfig, shared::Shared};

/// Name of the source.
const SOURCE: &str = "mesh-dns";
/// How often it is looked up.
const INTERVAL: Duration = Duration::from_secs(30);
/// A lookup that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(5);

/// Looks the name up, for ever.
pub(super) async fn run(site: &SiteConfig, mesh: &Mesh, shared: &Shared) {
    let host = site.endpoint.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if host.is_empty() || host.parse::<std::net::IpAddr>().is_ok() {
        shared.note_source(
            SOURCE,
            Err("the site endpoint is given as an address, so there is no name to resolve".into()),
        );
        return;
    }
    shared.note_source(SOURCE, Ok(()));
    // The resolver cannot be interrupted: a lookup that hangs is left alone, and no other one is begun beside it.
    let mut open: Option<JoinHandle<bool>> = None;
    loop {
        let begun = tokio::time::Instant::now();
        let resolved = if open.as_ref().is_some_and(|open| !open.is_finished()) {
            false
        } else {
            let name = host.clone();
            let mut lookup = tokio::task::spawn_blocking(move || {
                (name.as_str(), 0_u16).to_socket_addrs().is_ok_and(|found| found.count() > 0)
            });
            match tokio::time::timeout(WITHIN, &mut lookup).await {
                Ok(outcome) => outcome.unwrap_or(false),
                Err(_) => {
                    open = Some(lookup);
                    false
                }
            }
        };
        let took = begun.elapsed();
        {
            let mut state = mesh.state.lock();
            let known = state.lookup.get_or_insert_default();
            *known = Lookup {
                took: resolved.then_some(took),
                lookups: known.lookups + 1,
                failures: known.failures + u64::from(!resolved),
            };
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
