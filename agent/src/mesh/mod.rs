//! The network mesh: probes a few peers that the site's controller names, echoes the probes of others, and tells what it
//! found. The agent concludes nothing from it: the site does, and its word about this node comes back with a heartbeat.
//!
//! A probe is one small datagram a second and peer over UDP, at the port of the agent's own server; TCP would hide loss
//! behind retransmissions. Everything is bounded: peers, echoes a second, probes under way, memory.

mod dns;
pub mod metrics;
pub mod mtu;
pub mod path;
mod peers;
mod socket;
mod verdict;
pub mod wire;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use evergreen_api::mesh::{MAX_PEERS, MeshVerdict, PathReport, Peer, PeerList};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{mtu::Search, path::Path};
use crate::{grants::pull::SiteConfig, shared::Shared, signal::Signal};

/// Name of the rule that the site's word is raised by.
pub const RULE: &str = "mesh";
/// Name of the source.
const SOURCE: &str = "mesh";

/// One peer and what is known of the path to it.
#[derive(Debug)]
struct Entry {
    peer: Peer,
    address: SocketAddr,
    path: Path,
    /// When its next probe is due.
    due: Duration,
    /// Whether the next one may be a large one.
    may_be_large: bool,
}

/// How the name of the site's endpoint resolves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Lookup {
    /// Longest of the newest lookups that succeeded.
    took: Option<Duration>,
    lookups: u64,
    failures: u64,
}

#[derive(Debug)]
struct State {
    site: String,
    paths: BTreeMap<(String, String), Entry>,
    lookup: Option<Lookup>,
    echoes: u64,
    refused_echoes: u64,
}

/// The mesh of one agent, shared by whoever probes, tells and shows.
#[derive(Clone, Debug)]
pub struct Mesh {
    state: Arc<Mutex<State>>,
    verdict: Arc<watch::Sender<Option<MeshVerdict>>>,
    begun: std::time::Instant,
}

impl Mesh {
    /// A mesh without peers, of a node in `site`.
    pub fn new(site: &str) -> Self {
        let state = State { site: site.to_owned(), paths: BTreeMap::new(), lookup: None, echoes: 0, refused_echoes: 0 };
        Self {
            state: Arc::new(Mutex::new(state)),
            verdict: Arc::new(watch::channel(None).0),
            begun: std::time::Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Figures of all paths. Those that never carried an echo say so.
    pub fn reports(&self) -> Vec<PathReport> {
        let (state, now) = (self.state.lock(), self.now());
        let report = |entry: &Entry| {
            let site = if entry.peer.site == state.site { "" } else { entry.peer.site.as_str() };
            entry.path.report(&entry.peer.node, site, now)
        };
        state.paths.values().map(report).filter(|report| report.sent > 0).collect()
    }

    /// The site's word about this node's own network, as each answer of the site tells it anew.
    pub fn told(&self, verdict: Option<MeshVerdict>) {
        let verdict = verdict.map(MeshVerdict::bounded);
        self.verdict.send_if_modified(|known| {
            // Its figures differ from one look to the next; that it stands is the news.
            let is_news = known.is_some() != verdict.is_some();
            *known = verdict;
            is_news
        });
    }

    /// Takes over a checked list of peers; what is known of those that stay is kept.
    fn follow(&self, list: PeerList, can_search: Result<(), &'static str>) {
        let mut state = self.state.lock();
        let now = self.now();
        let mut former = std::mem::take(&mut state.paths);
        for (number, peer) in (0_u32..).zip(list.peers.into_iter().take(MAX_PEERS)) {
            let Ok(address) = peer.address.parse::<SocketAddr>() else { continue };
            let key = (peer.site.clone(), peer.node.clone());
            let entry = match former.remove(&key).filter(|entry| entry.address == address) {
                Some(entry) => Entry { peer, ..entry },
                None => {
                    // Neither all at once nor all large ones at once.
                    let due = now + Duration::from_millis(60) * number;
                    let mtu = match can_search {
                        Ok(()) => Search::new(due + Duration::from_secs(5) + Duration::from_secs(3) * number),
                        Err(why) => Search::absent(why),
                    };
                    Entry { peer, address, path: Path::new(mtu), due, may_be_large: false }
                }
            };
            state.paths.insert(key, entry);
        }
    }
}

/// What the mesh needs to run.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// The site endpoint, which names the peers.
    pub site: SiteConfig,
    /// Where probes are echoed: the address of the agent's own server.
    pub listen: SocketAddr,
}

/// Probes and echoes until cancelled.
pub async fn run(
    config: MeshConfig,
    mesh: Mesh,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) {
    let socket = match socket::bind(config.listen) {
        Ok(socket) => socket,
        Err(error) => {
            shared.note_source(SOURCE, Err(format!("UDP {}: {error}", config.listen)));
            return;
        }
    };
    shared.note_source(SOURCE, Ok(()));
    let work = async {
        tokio::join!(
            socket::run(&socket.socket, &mesh),
            peers::run(&config.site, &mesh, socket.can_search),
            dns::run(&config.site, &mesh, &shared),
            verdict::run(&mesh, &signals),
        );
    };
    cancel.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use evergreen_api::mesh::Scope;

    use super::*;

    fn peer(node: &str, address: &str) -> Peer {
        Peer { node: node.into(), site: "dc-a".into(), address: address.into(), scope: Scope::Site }
    }

    fn list(peers: Vec<Peer>) -> PeerList {
        PeerList { site: "dc-a".into(), peers }
    }

    #[tokio::test]
    async fn two_agents_probe_each_other_and_a_third_one_that_is_gone_was_never_known() {
        let bound = || socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (a, b) = (bound(), bound());
        let address = |socket: &socket::Bound| socket.socket.local_addr().unwrap().to_string();
        let (mesh_a, mesh_b) = (Mesh::new("dc-a"), Mesh::new("dc-a"));
        mesh_a.follow(list(vec![peer("b", &address(&b)), peer("gone", "127.0.0.1:9")]), a.can_search);
        mesh_b.follow(list(vec![peer("a", &address(&a))]), b.can_search);
        let probing = async { tokio::join!(socket::run(&a.socket, &mesh_a), socket::run(&b.socket, &mesh_b)) };
        let told = async {
            loop {
                let reports = [mesh_a.reports(), mesh_b.reports()].concat();
                let known = reports.iter().filter(|r| r.answered_ms.is_some() && r.sent >= 3).count();
                if known == 2 && reports.iter().any(|r| r.node == "gone" && r.lost >= 1) {
                    return reports;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let reports = tokio::select! {
            _ = probing => unreachable!("it probes for ever"),
            reports = tokio::time::timeout(Duration::from_secs(20), told) => reports.expect("echoes come"),
        };
        for report in reports {
            assert_eq!(report.check(), Ok(()));
            assert_eq!(report.site, "", "{report:?}");
            if report.node == "gone" {
                assert_eq!((report.lost, report.answered_ms), (report.sent, None));
            } else {
                assert!(report.rtt_us > 0, "{report:?}");
            }
        }
    }

    #[test]
    fn what_is_known_of_a_peer_stays_with_it_until_its_address_changes() {
        let mesh = Mesh::new("dc-a");
        mesh.follow(list(vec![peer("b", "127.0.0.1:1"), peer("c", "127.0.0.1:2")]), Ok(()));
        for entry in mesh.state.lock().paths.values_mut() {
            entry.path.sent(1, Duration::ZERO, None);
            entry.path.back(1, Duration::from_millis(1));
        }
        mesh.follow(list(vec![peer("b", "127.0.0.1:1"), peer("c", "127.0.0.1:3")]), Ok(()));
        let reports = mesh.reports();
        assert_eq!(reports.iter().map(|r| (r.node.as_str(), r.sent)).collect::<Vec<_>>(), [("b", 1)]);
        mesh.follow(list(Vec::new()), Ok(()));
        assert_eq!(mesh.reports(), []);
    }

    #[test]
    fn only_that_a_verdict_stands_or_ends_is_news() {
        let mesh = Mesh::new("dc-a");
        let mut heard = mesh.verdict.subscribe();
        let verdict = |text: &str| Some(MeshVerdict::new(text, Vec::new()));
        mesh.told(None);
        assert!(!heard.has_changed().unwrap());
        mesh.told(verdict("one"));
        assert!(heard.has_changed().unwrap());
        heard.mark_unchanged();
        mesh.told(verdict("two"));
        assert!(!heard.has_changed().unwrap());
        assert_eq!(mesh.verdict.borrow().as_ref().unwrap().summary, "two");
        mesh.told(None);
        assert!(heard.has_changed().unwrap());
    }
}
