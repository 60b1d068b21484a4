//! What data centers tell each other about the mesh: a ConfigMap of bounded size in each one's own API server, which the
//! controllers of the others read as they read its registers. There is no further connection and nothing new to open.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    mesh::{Peer, Scope, WINDOW},
    names::SYSTEM_NAMESPACE,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    matrix::Remote,
    place::Place,
    plan::{Candidate, GATEWAYS},
};
use crate::site::Register;

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "evergreen-mesh";
const KEY: &str = "mesh";
const FIELD_MANAGER: &str = "evergreen-controller";
/// A site's API server that does not answer in this time is left for the next round.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest text that is read: 32 gateways with the longest names come to a quarter of it.
const MAX_TEXT: usize = 64 << 10;
/// Sites that are told of at most.
const MAX_SITES: usize = 64;
/// A site that told nothing new for so long is not believed about third ones; its nodes are probed on, for it may be the
/// network that hides it.
const HEARD_WITHIN: Duration = Duration::from_secs(120);

/// How one site sees another, as figures of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Probes.
    pub sent: u32,
    /// Lost ones.
    pub lost: u32,
    /// Ones that came far too late.
    pub late: u32,
}

impl View {
    /// Figures of many paths, scaled to those of one window.
    pub fn of(sent: u64, lost: u64, late: u64) -> Self {
        let share = |part: u64| u32::try_from((part * u64::from(WINDOW) + sent / 2) / sent.max(1)).unwrap_or(WINDOW);
        let lost = share(lost).min(WINDOW);
        Self { sent: WINDOW, lost, late: share(late).min(WINDOW - lost) }
    }

    fn is_sound(self) -> bool {
        self.sent <= WINDOW && self.lost.saturating_add(self.late) <= self.sent
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Text {
    /// Changes whenever it is written: whether a site still speaks is judged by that and by no clock of another machine.
    serial: u64,
    gateways: Vec<Gateway>,
    #[serde(default)]
    views: BTreeMap<String, View>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Gateway {
    node: String,
    address: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    rack: String,
}

/// Writes what this site tells.
///
/// # Errors
/// What the API server says, or that it says nothing.
pub async fn write(
    client: &Client,
    serial: u64,
    gateways: &[Candidate],
    views: BTreeMap<String, View>,
) -> Result<(), String> {
    let gateways = gateways.iter().take(GATEWAYS).map(|candidate| Gateway {
        node: candidate.node.clone(),
        address: candidate.address.clone(),
        zone: candidate.place.zone.clone(),
        rack: candidate.place.rack.clone(),
    });
    let text = Text { serial, gateways: gateways.collect(), views };
    let text = serde_json::to_string(&text).map_err(|error| error.to_string())?;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": SYSTEM_NAMESPACE}, "data": {KEY: text},
    });
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&object);
    let written = tokio::time::timeout(PATIENCE, api.patch(CONFIG_MAP, &parameters, &patch));
    written.await.map_err(|_| "no answer in time".to_owned())?.map(|_| ()).map_err(|error| error.to_string())
}

/// Reads what one other site tells; `None` when it tells nothing.
///
/// # Errors
/// What its API server says, or what is wrong with the text.
async fn read(register: &Arc<Register>) -> Result<Option<Text>, String> {
    let asked = async {
        let client = register.client().await.map_err(|error| error.to_string())?;
        let api: Api<ConfigMap> = Api::namespaced(client, SYSTEM_NAMESPACE);
        api.get_opt(CONFIG_MAP).await.map_err(|error| error.to_string())
    };
    let map = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| "no answer in time".to_owned())??;
    let Some(text) = map.and_then(|map| map.data?.remove(KEY)) else { return Ok(None) };
    parse(register.site(), &text).map(Some)
}

fn parse(site: &str, text: &str) -> Result<Text, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("{CONFIG_MAP} of {site} is longer than {MAX_TEXT} bytes"));
    }
    let mut text: Text = serde_json::from_str(text).map_err(|error| format!("{CONFIG_MAP} of {site}: {error}"))?;
    text.gateways.truncate(GATEWAYS);
    text.gateways.retain(|gateway| {
        let peer = Peer {
            node: gateway.node.clone(),
            site: site.to_owned(),
            address: gateway.address.clone(),
            scope: Scope::Remote,
        };
        peer.check().is_ok() && gateway.zone.len() <= 63 && gateway.rack.len() <= 63
    });
    let mut sites = 0;
    text.views.retain(|_, view| {
        sites += 1;
        sites <= MAX_SITES && view.is_sound()
    });
    Ok(text)
}

/// What is known of the other sites.
#[derive(Debug, Default)]
pub struct Others {
    known: BTreeMap<String, (u64, Duration, Remote)>,
}

impl Others {
    /// Reads all of them, none awaited by another; what cannot be read stays as it was.
    pub async fn read(&mut self, registers: &[Arc<Register>], own: &str, now: Duration) {
        let others = registers.iter().filter(|register| register.site() != own);
        let reads = others.map(|register| async move { (register.site().to_owned(), read(register).await) });
        for (site, outcome) in futures::future::join_all(reads).await {
            match outcome {
                Ok(Some(text)) => self.take(&site, text, now),
                Ok(None) => {}
                Err(error) => tracing::debug!(site, error, "another site's mesh cannot be read"),
            }
        }
    }

    fn take(&mut self, site: &str, text: Text, now: Duration) {
        let gateways = text.gateways.into_iter().map(|gateway| Candidate {
            node: gateway.node,
            place: Place { zone: gateway.zone, rack: gateway.rack },
            address: gateway.address,
        });
        let heard = match self.known.get(site) {
            Some((serial, heard, _)) if *serial == text.serial => *heard,
            _ => now,
        };
        let remote = Remote { gateways: gateways.collect(), views: text.views };
        self.known.insert(site.to_owned(), (text.serial, heard, remote));
    }

    /// What may be believed now.
    pub fn remotes(&self, now: Duration) -> BTreeMap<String, Remote> {
        let believed = |(site, (_, heard, remote)): (&String, &(u64, Duration, Remote))| {
            let mut remote = remote.clone();
            if now.saturating_sub(*heard) > HEARD_WITHIN {
                remote.views.clear();
            }
            (site.clone(), remote)
        };
        self.known.iter().map(believed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_site_tells_is_bounded_and_checked() {
        let gateway = |node: &str, address: &str| format!(r#"{{"node":"{node}","address":"{address}","zone":"z1"}}"#);
        let many = vec![gateway("n", "10.0.0.1:9464"); 100].join(",");
        let text = parse("dc-b", &format!(r#"{{"serial":1,"gateways":[{many}]}}"#)).unwrap();
        assert_eq!(text.gateways.len(), GATEWAYS);
        let wrong = [gateway("N N", "10.0.0.1:1"), gateway("n", "evil.example:1"), gateway("n", "0.0.0.0:1")].join(",");
        let views = r#"{"dc-a":{"sent":30,"lost":31,"late":0},"dc-c":{"sent":30,"lost":3,"late":0}}"#;
        let text = parse("dc-b", &format!(r#"{{"serial":1,"gateways":[{wrong}],"views":{views}}}"#)).unwrap();
        assert_eq!((text.gateways.len(), text.views.len()), (0, 1));
        assert!(parse("dc-b", "nonsense").is_err());
        assert!(parse("dc-b", &" ".repeat(MAX_TEXT + 1)).is_err());
    }

    #[test]
    fn a_site_that_falls_silent_is_probed_on_but_not_believed_about_third_ones() {
        let mut others = Others::default();
        let text = |serial| {
            parse(
                "dc-b",
                &format!(r#"{{"serial":{serial},"gateways":[{{"node":"n","address":"10.0.0.1:9464"}}],"views":{{"dc-c":{{"sent":30,"lost":30,"late":0}}}}}}"#),
            )
            .unwrap()
        };
        let at = Duration::from_secs;
        others.take("dc-b", text(1), at(0));
        others.take("dc-b", text(1), at(100));
        assert_eq!(others.remotes(at(110))["dc-b"].views.len(), 1);
        let silent = others.remotes(at(130)).remove("dc-b").unwrap();
        assert_eq!((silent.gateways.len(), silent.views.len()), (1, 0));
        others.take("dc-b", text(2), at(131));
        assert_eq!(others.remotes(at(140))["dc-b"].views.len(), 1);
    }

    #[test]
    fn many_paths_become_the_figures_of_one() {
        assert_eq!(View::of(900, 450, 90), View { sent: 30, lost: 15, late: 3 });
        assert_eq!(View::of(0, 0, 0), View { sent: 30, lost: 0, late: 0 });
        assert!(View::of(7, 7, 7).is_sound());
    }
}
