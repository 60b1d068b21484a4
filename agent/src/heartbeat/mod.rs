//! Says that this node lives, and looks after the peers that the site's controller asks about.
//!
//! A heartbeat goes twice a second, four times while none is answered, each over a connection that no other one waits
//! for, so that one stalled connection cannot silence the node. What was seen of peers rides along for two seconds. The
//! agent concludes nothing from any of it.

mod address;
mod pace;
mod probe;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use evergreen_api::heartbeat::{Heartbeat, HeartbeatAnswer, MAX_PROBES, ProbeOutcome, ProbeRequest, ProbeResult};
use http::Method;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::pace::Pace;
use crate::{
    clock::boot_ms,
    energy::WallBoard,
    grants::pull::{self, HttpClient, PullError, SiteConfig},
    host::Root,
    mesh::Mesh,
};

pub use self::address::{HeartbeatTarget, heartbeat_address};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Heartbeats under way at a time: as many as fit into their time-out at the fastest pace.
const IN_FLIGHT: usize = 4;
/// A result is told for so long, because heartbeats get lost.
const RETELL: Duration = Duration::from_secs(2);
/// How often the figures of the mesh ride along; a heartbeat that is lost takes them with it, and the next ones follow.
const TELL_PATHS: Duration = Duration::from_millis(1_900);
/// Peers that are looked at at a time.
const MAX_LOOKS: usize = MAX_PROBES;
/// A connection is made anew after so long, so that a rotated certificate is taken up.
const REBUILD_AFTER: Duration = Duration::from_secs(600);
/// The agent's own process starts anew as often as it likes within a boot; without a boot id nobody could tell that.
const NO_BOOT_ID: &str = "unknown";

/// Who beats, and where.
#[derive(Clone, Debug)]
pub struct HeartbeatConfig {
    /// The site endpoint.
    pub site: SiteConfig,
    /// `IP:PORT` where peers can ask this agent's /healthz; empty when they cannot.
    pub address: String,
    /// Where the boot id is read.
    pub root: Root,
    /// What the network mesh found, and where the site's word about it goes.
    pub mesh: Mesh,
    /// Where the node's power goes, when the site tells it.
    pub wall: WallBoard,
}

/// A connection of its own, made when it is first needed.
#[derive(Default)]
struct Line {
    client: Option<(HttpClient, Instant)>,
}

/// How one heartbeat went.
struct Sent {
    line: Line,
    sequence: u64,
    outcome: Result<HeartbeatAnswer, PullError>,
}

struct Loop {
    config: HeartbeatConfig,
    boot_id: String,
    pace: Pace,
    lines: Vec<Line>,
    under_way: JoinSet<Sent>,
    looks: JoinSet<ProbeResult>,
    /// Rounds of the peers that are being looked at.
    looking: BTreeMap<String, u64>,
    results: VecDeque<(Instant, ProbeResult)>,
    result: u64,
    /// When the mesh was told of last.
    paths_told: Option<Instant>,
    failing: bool,
}

/// Beats until cancelled, then says farewell.
pub async fn run(config: HeartbeatConfig, cancel: CancellationToken) {
    let boot_id: String =
        config.root.boot_id().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    if config.address.is_empty() {
        tracing::warn!(
            "peers cannot probe this agent, so its node is never declared lost; give --heartbeat-address IP:PORT"
        );
    }
    let mut beating = Loop {
        config,
        boot_id: if boot_id.is_empty() { NO_BOOT_ID.into() } else { boot_id },
        pace: Pace::default(),
        lines: (0..IN_FLIGHT).map(|_| Line::default()).collect(),
        under_way: JoinSet::new(),
        looks: JoinSet::new(),
        looking: BTreeMap::new(),
        results: VecDeque::new(),
        // Grows across restarts of the agent, as the heartbeats' sequence does.
        result: boot_ms(),
        paths_told: None,
        failing: false,
    };
    loop {
        let wait = Duration::from_millis(beating.pace.due_ms().saturating_sub(boot_ms()));
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(sent) = beating.under_way.join_next() => beating.sent(sent),
            Some(result) = beating.looks.join_next() => beating.looked(result),
            () = tokio::time::sleep(wait), if !beating.lines.is_empty() => beating.beat(false),
        }
    }
    beating.farewell().await;
}

impl Loop {
    fn beat(&mut self, leaving: bool) {
        // The first line is the one that worked last: one connection does while all is well.
        let Some(line) = self.lines.pop() else { return };
        self.results.retain(|(told, _)| told.elapsed() < RETELL);
        let sent_ms = boot_ms();
        let tell_paths = self.paths_told.is_none_or(|told| told.elapsed() >= TELL_PATHS);
        if tell_paths {
            self.paths_told = Some(Instant::now());
        }
        let beat = Heartbeat {
            node: self.config.site.node.clone(),
            boot_id: self.boot_id.clone(),
            sequence: self.pace.send(sent_ms),
            sent_ms,
            address: self.config.address.clone(),
            leaving,
            probes: self.results.iter().map(|(_, result)| result.clone()).collect(),
            paths: if tell_paths { self.config.mesh.reports() } else { Vec::new() },
        };
        let site = self.config.site.clone();
        self.under_way.spawn(async move {
            let mut line = line;
            let outcome = tokio::time::timeout(TIMEOUT, send(&site, &mut line, &beat)).await;
            let outcome = outcome.unwrap_or(Err(PullError::Late));
            if outcome.is_err() {
                line.client = None;
            }
            Sent { line, sequence: beat.sequence, outcome }
        });
    }

    fn sent(&mut self, sent: Result<Sent, tokio::task::JoinError>) {
        let Ok(Sent { line, sequence, outcome }) = sent else {
            // The line went down with its task.
            self.lines.insert(0, Line::default());
            return;
        };
        match outcome {
            Ok(answer) => {
                self.lines.push(line);
                self.pace.answered(sequence, boot_ms());
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the site's controller hears this node again");
                }
                self.config.mesh.told(answer.unreachable);
                if let Some(wall) = &answer.wall_power {
                    self.config.wall.post(wall);
                }
                for request in answer.probe {
                    self.look_at(request);
                }
            }
            Err(error) => {
                self.lines.insert(0, line);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no answer to a heartbeat; going on");
                }
            }
        }
    }

    fn look_at(&mut self, request: ProbeRequest) {
        let Ok(address) = request.address.parse::<SocketAddr>() else { return };
        if self.looking.len() >= MAX_LOOKS || self.looking.contains_key(&request.node) {
            return;
        }
        self.looking.insert(request.node.clone(), request.round);
        self.looks.spawn(async move {
            let outcome = probe::probe(address).await;
            ProbeResult { node: request.node, number: 0, round: request.round, outcome, tries: probe::TRIES }
        });
    }

    fn looked(&mut self, result: Result<ProbeResult, tokio::task::JoinError>) {
        let Ok(mut result) = result else {
            self.looking.clear();
            return;
        };
        self.looking.remove(&result.node);
        self.result = boot_ms().max(self.result + 1);
        result.number = self.result;
        if result.outcome != ProbeOutcome::Answered {
            tracing::info!(node = result.node, outcome = ?result.outcome, "a peer does not answer");
        }
        if self.results.len() >= MAX_PROBES {
            self.results.pop_front();
        }
        self.results.push_back((Instant::now(), result));
        self.pace.hurry();
    }

    /// A stopped agent is no dead node: say so, within a bound.
    async fn farewell(mut self) {
        self.under_way.abort_all();
        self.lines.push(Line::default());
        for _ in 0..2 {
            self.beat(true);
            while let Some(sent) = self.under_way.join_next().await {
                if matches!(&sent, Ok(sent) if sent.outcome.is_ok()) {
                    return;
                }
            }
            self.lines.push(Line::default());
        }
    }
}

async fn send(site: &SiteConfig, line: &mut Line, beat: &Heartbeat) -> Result<HeartbeatAnswer, PullError> {
    if line.client.as_ref().is_none_or(|(_, made)| made.elapsed() > REBUILD_AFTER) {
        line.client = Some((pull::connect(site)?, Instant::now()));
    }
    let Some((client, _)) = &line.client else { return Err(PullError::Late) };
    let malformed = |error: String| PullError::Malformed(error);
    let body = serde_json::to_vec(beat).map_err(|error| malformed(error.to_string()))?;
    let answer = pull::call(site, client, Method::POST, "/v1/heartbeat", body.into()).await?;
    let answer: HeartbeatAnswer = serde_json::from_slice(&answer).map_err(|error| malformed(error.to_string()))?;
    answer.check().map_err(|error| malformed(error.to_string()))?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, extract::State, routing::post};
    use parking_lot::Mutex;

    use super::*;

    type Heard = Arc<Mutex<Vec<Heartbeat>>>;

    /// A controller that never answers the first heartbeat, and asks for one probe in answer to each of the others.
    async fn controller(heard: Heard, probe: String) -> http::Uri {
        async fn beat(
            State((heard, probe)): State<(Heard, String)>,
            Json(beat): Json<Heartbeat>,
        ) -> Json<HeartbeatAnswer> {
            let first = heard.lock().is_empty();
            heard.lock().push(beat);
            if first {
                std::future::pending::<()>().await;
            }
            let probe = vec![ProbeRequest { node: "peer".into(), address: probe, round: 7 }];
            Json(HeartbeatAnswer { probe, ..HeartbeatAnswer::default() })
        }
        let app = Router::new().route("/v1/heartbeat", post(beat)).with_state((heard, probe));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}").parse().unwrap()
    }

    #[tokio::test]
    async fn a_stalled_heartbeat_silences_nobody_probes_are_reported_and_a_farewell_ends_it() {
        let heard = Heard::default();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let endpoint = controller(heard.clone(), gone.to_string()).await;
        let site = SiteConfig { endpoint, ca: None, certificate: None, key: None, token: None, node: "n".into() };
        let folder = tempfile::tempdir().unwrap();
        let config = HeartbeatConfig {
            site,
            address: "127.0.0.1:1".into(),
            root: Root::new(folder.path()),
            mesh: Mesh::new("dc-a"),
            wall: WallBoard::default(),
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(config, cancel.clone()));
        let told = async {
            loop {
                if heard.lock().iter().any(|beat| !beat.probes.is_empty()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.expect("a result is reported");
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends").unwrap();
        let heard = heard.lock();
        assert!(heard.iter().all(|beat| beat.check().is_ok() && beat.boot_id == "unknown"));
        assert!(heard.last().unwrap().leaving);
        let result = heard.iter().flat_map(|beat| &beat.probes).next().unwrap();
        assert_eq!((result.node.as_str(), result.round, result.tries), ("peer", 7, 6));
        assert_ne!(result.outcome, ProbeOutcome::Answered);
    }
}
