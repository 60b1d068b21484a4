//! A fleet of sites, each with the loop, an agent, and a planner that wants the groups now here and now there.

use std::{sync::Arc, time::Duration};

use evergreen_api::names::{ASSIGNMENTS, SYSTEM_NAMESPACE};
use evergreen_twin::Twin;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, Client, api::PostParams};
use ring::{rand::SystemRandom, signature::Ed25519KeyPair};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    super::{GrantBook, Register, Signer, SiteHandle, driver::start_with},
    edge::Edge,
    network::{Network, Weather},
};
use crate::{
    leader::Leadership,
    quorum::{CoreConfig, Goal, Holder, Mono, Standing, Timing},
};

const GROUPS: [&str; 2] = ["g", "h"];
/// Length of the faults, and of the calm after them.
const ROUGH: Duration = Duration::from_secs(90);
const CALM: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When two sites could write, and for which group.
    pub two_writers: Option<(Duration, &'static str)>,
    /// For how long the first group was served.
    pub served: Duration,
    /// How often another site served it.
    pub moves: u64,
    /// Whether it is served at the end, after a minute without faults.
    pub served_after: bool,
    /// Calls to API servers.
    pub requests: u64,
    /// Of everything that the edge did, and when.
    pub digest: String,
}

/// A clock that runs at a rate of its own.
#[derive(Clone, Copy)]
struct Clock {
    begin: Instant,
    rate: f64,
}

impl Clock {
    fn now(self) -> Mono {
        Mono::from_secs(3_600) + self.begin.elapsed().mul_f64(self.rate)
    }
}

struct Site {
    clock: Clock,
    agent_clock: Clock,
    edges: [Edge; 2],
    book: Arc<GrantBook>,
    signer: Signer,
    clients: Vec<Client>,
    life: u64,
    running: Option<(SiteHandle, CancellationToken)>,
    /// When a crashed controller starts again.
    starts: Option<Instant>,
    next_pull: Mono,
    /// An answer on its way to the agent: when it arrives, when it was asked for and made, and the grants.
    answer: Option<(Instant, Mono, Mono, [Option<(u64, Duration)>; 2])>,
    whim: (usize, Instant),
}

/// The fleet.
pub struct World {
    network: Network,
    names: Vec<String>,
    sites: Vec<Site>,
    begin: Instant,
    _twins: Vec<Twin>,
}

impl World {
    /// Three sites, or two and a witness, from a seed.
    pub async fn start(seed: u64, late: Duration) -> Self {
        let members = if seed.is_multiple_of(3) { 2 } else { 3 };
        let loss = [0.0, 0.05, 0.3][(seed / 3 % 3) as usize];
        let network = Network::new(seed, Weather { loss, delay_ms: [20, 150, 600][(seed / 9 % 3) as usize] });
        let names: Vec<String> = ["dc-a", "dc-b", "dc-c"].map(str::to_owned).into();
        let twins: Vec<Twin> = names.iter().map(|name| Twin::builder(name).build()).collect();
        for twin in &twins {
            install(&twin.client("install")).await;
        }
        let begin = Instant::now();
        let mut sites = Vec::new();
        for (at, name) in names.iter().enumerate().take(members) {
            // The worst for safety is a slow clock that others wait for on fast ones.
            let rate = |network: &Network| match (seed % 2, at) {
                (0, 0) => 0.9,
                (0, _) => 1.1,
                _ => 0.9 + network.chance(0..201) as f64 / 1_000.0,
            };
            let (clock, agent_clock) = (Clock { begin, rate: rate(&network) }, Clock { begin, rate: rate(&network) });
            let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
            let book = Arc::new(GrantBook::default());
            book.raise(Default::default());
            let client = |(to, twin): (usize, &Twin)| network.client(at, to, twin.client(&format!("controller:{at}")));
            sites.push(Site {
                clock,
                agent_clock,
                edges: [Edge::new(late), Edge::new(late)],
                book,
                signer: Signer::from_pkcs8(name, key.as_ref()).expect("a key"),
                clients: twins.iter().enumerate().map(client).collect(),
                life: 0,
                running: None,
                starts: Some(begin),
                next_pull: agent_clock.now(),
                answer: None,
                whim: (0, begin),
            });
        }
        Self { network, names, sites, begin, _twins: twins }
    }

    fn timing() -> Timing {
        Timing::of_lease(Duration::from_secs(6))
    }

    /// Runs to the end.
    pub async fn play(mut self) -> Outcome {
        let mut outcome = Outcome {
            two_writers: None,
            served: Duration::ZERO,
            moves: 0,
            served_after: false,
            requests: 0,
            digest: String::new(),
        };
        let (mut last, mut digest, mut before) = (None, Sha256::new(), Vec::new());
        while self.begin.elapsed() < ROUGH + CALM && outcome.two_writers.is_none() {
            tokio::time::sleep(STEP).await;
            let rough = self.begin.elapsed() < ROUGH;
            if !rough {
                self.network.mend();
            }
            for site in 0..self.sites.len() {
                if rough {
                    self.disturb(site);
                }
                self.run(site);
                self.pull(site);
            }
            let acting = GROUPS.each_ref().map(|group| self.acting(group));
            if let Some((group, _)) = GROUPS.into_iter().zip(&acting).find(|(_, sites)| sites.len() > 1) {
                outcome.two_writers = Some((self.begin.elapsed(), group));
            }
            if let Some(site) = acting[0].first().copied() {
                outcome.served += STEP;
                outcome.moves += u64::from(last.is_some_and(|last| last != site));
                last = Some(site);
            }
            outcome.served_after = acting.iter().all(|sites| sites.len() == 1);
            if acting[..] != before[..] {
                digest.update(format!("{:?} {acting:?}", self.begin.elapsed()));
                before = acting.to_vec();
            }
        }
        outcome.requests = self.network.requests();
        outcome.digest = hex::encode(digest.finalize());
        outcome
    }

    /// Sites whose edge may act for a group.
    fn acting(&self, group: &str) -> Vec<usize> {
        let number = usize::from(group == GROUPS[1]);
        let acts = |site: &usize| self.sites[*site].edges[number].acts(self.sites[*site].agent_clock.now());
        (0..self.sites.len()).filter(acts).collect()
    }

    fn disturb(&mut self, at: usize) {
        let per_second = |rate: f64| rate * STEP.as_secs_f64();
        if self.network.happens(per_second(0.04)) {
            let length = self.network.chance(500..20_000);
            let ways = [(true, true), (true, false), (false, true)][self.network.chance(0..3) as usize];
            for other in (0..self.names.len()).filter(|other| *other != at) {
                if ways.0 {
                    self.network.cut(at, other, false, length);
                }
                if ways.1 {
                    self.network.cut(at, other, true, length);
                }
            }
        }
        if self.network.happens(per_second(0.03))
            && let Some((_, cancel)) = self.sites[at].running.take()
        {
            cancel.cancel();
            let down = Duration::from_millis(self.network.chance(50..12_000));
            self.sites[at].starts = Some(Instant::now() + down);
        }
    }

    /// Starts what is due, and tells the loop what is wanted.
    fn run(&mut self, at: usize) {
        if self.sites[at].starts.is_some_and(|starts| starts <= Instant::now()) {
            let site = &mut self.sites[at];
            (site.starts, site.life) = (None, site.life + 1);
            let registers = self.names.iter().zip(&site.clients);
            let registers = registers.map(|(name, client)| Arc::new(Register::own(name, client.clone()))).collect();
            let config = CoreConfig {
                site: self.names[at].clone(),
                registers: self.names.clone(),
                timing: Self::timing(),
                seed: format!("{at}/{}", site.life),
            };
            let (clock, cancel) = (site.clock, CancellationToken::new());
            let handle = start_with(config, registers, move || clock.now(), cancel.clone());
            handle.lead(Leadership::Leading);
            site.book = Arc::new(GrantBook::default());
            site.book.raise(Default::default());
            site.running = Some((handle, cancel));
        }
        if self.sites[at].whim.1 <= Instant::now() {
            let until = Instant::now() + Duration::from_millis(self.network.chance(4_000..30_000));
            self.sites[at].whim = (self.network.chance(0..self.sites.len() as u64) as usize, until);
        }
        let Some((handle, _)) = &self.sites[at].running else { return };
        handle.pursue(GROUPS.into_iter().filter_map(|group| self.goal(at, handle, group)).collect());
    }

    /// Every site wants a group wherever its whim says, also where others want it elsewhere.
    fn goal(&self, at: usize, handle: &SiteHandle, group: &str) -> Option<Goal> {
        let (site, snapshot) = (&self.sites[at], handle.now());
        let old = snapshot.map.as_ref()?.entry(group);
        let members = &self.names[..self.sites.len()];
        let fresh: Vec<&Holder> = members.iter().filter_map(|name| snapshot.fresh.get(name)).collect();
        let stays = old.holders.first().is_some_and(|holder| fresh.contains(&holder));
        // In the calm nobody wants it elsewhere than where it is.
        let whims = self.begin.elapsed() < ROUGH;
        let wanted = fresh.iter().find(|holder| whims && holder.site == members[site.whim.0]);
        let target = *wanted.or(if stays { None } else { fresh.first() })?;
        if old.holders.first() == Some(target) {
            return None;
        }
        let released = snapshot.released.get(&(group.to_owned(), old.version)).copied();
        let drained = released
            .is_some_and(|released| site.book.drained(group, old.version, released, &handle.timing, site.clock.now()));
        Some(Goal { group: group.into(), holders: vec![target.clone()], old, drained, traceparent: None })
    }

    /// The agent of a site asks for grants, and takes in what it was answered.
    fn pull(&mut self, at: usize) {
        let site = &mut self.sites[at];
        let now = site.agent_clock.now();
        if let Some((arrives, sent, answered, grants)) = site.answer.take() {
            if arrives > Instant::now() {
                site.answer = Some((arrives, sent, answered, grants));
            } else {
                for ((group, edge), grant) in GROUPS.into_iter().zip(&mut site.edges).zip(grants) {
                    if let Some(version) = edge.told(grant, sent, now, Self::timing().stop) {
                        let ack = evergreen_api::grants::GrantAck {
                            node: "node".into(),
                            group: group.into(),
                            version,
                            epoch: 0,
                            incarnation: String::new(),
                            answered_ms: GrantBook::stamp(answered),
                        };
                        site.book.acknowledge(&ack, site.clock.now());
                    }
                }
            }
        }
        if now < site.next_pull || site.answer.is_some() {
            return;
        }
        site.next_pull = now + Duration::from_secs(1);
        let Some((handle, _)) = &site.running else { return };
        let (snapshot, answered) = (handle.now(), site.clock.now());
        if matches!(snapshot.standing, Standing::Out(_)) {
            return;
        }
        let list = site.book.grants("node", &snapshot, &site.signer, &self.names[at], answered);
        let of = |group: &str| {
            let grant = list.iter().find(|grant| grant.group == group)?;
            Some((grant.version, Duration::from_millis(grant.remaining_ms)))
        };
        let arrives = Instant::now() + Duration::from_millis(self.network.chance(1..400));
        site.answer = Some((arrives, now, answered, GROUPS.map(of)));
    }
}

/// The namespace and the empty register.
async fn install(client: &Client) {
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": SYSTEM_NAMESPACE}})).expect("a namespace");
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": ASSIGNMENTS}, "data": {"register": "{}"}})).expect("a map");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    maps.create(&PostParams::default(), &map).await.expect("the register");
}
