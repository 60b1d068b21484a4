//! The one place that knows the controller's failover planner: facts from a snapshot and a loss in, its decisions out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evergreen_api::{
    names::LABEL_STABILITY,
    resources::{DataCenterSpec, MultiActiveServiceSpec, SiteRole, Stability, TimingProfile, spec_hash},
};
use evergreen_controller::{
    failover::{Consent, DataFacts, DependencyFacts, ServiceFacts, SiteFacts, Verdict, WorkloadFacts, plan, weights},
    quorum::{AssignmentMap, Entry, Holder, Incarnation, RegisterState, Timing},
};
use evergreen_twin::objects::meta;
use serde_json::Value;

use crate::{
    fleet::{WorkKey, WorkKind},
    outcome::{Move, Rto, RtoPart},
    snapshot::Snapshot,
    words::{Words, words},
};

/// Decisions of one service after one loss; more means that the planner does not come to rest.
const MOST_MOVES: usize = 16;
/// A fleet at rest: everything has been as it is for longer than any hold-down or soak.
const AT_REST: Duration = Duration::from_secs(30 * 86_400);
/// The failover loop looks at the world this often, reads every data center this often, and writes a route in about
/// this time (controller/src/failover: INTERVAL, gather::INTERVAL; one call).
const LOOK: f64 = 0.5;
const GATHER: f64 = 1.0;
const WRITE: f64 = 0.5;

/// Who votes in a fleet.
#[derive(Clone, Debug)]
pub struct Members {
    /// Data centers that run services.
    pub members: BTreeSet<String>,
    /// Data centers that only vote.
    pub witnesses: BTreeSet<String>,
    /// Timing of the site lease.
    pub lease: Duration,
    profile: TimingProfile,
    declared: bool,
}

/// A MultiActiveService of a fleet, or one cell of it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Namespace.
    pub namespace: String,
    /// Name; of a cell `service.cell`.
    pub name: String,
    group: String,
    candidates: Vec<String>,
    stability: Stability,
    spec: MultiActiveServiceSpec,
    same_spec_at: usize,
    entry: Entry,
    entry_from: EntryFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryFrom {
    Register,
    Status,
    Planned,
}

impl Members {
    /// The members of a snapshot: those that its DataCenters name, or the imported clusters.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut members = BTreeSet::new();
        let mut witnesses = BTreeSet::new();
        let mut profile = None;
        for object in snapshot.sites.iter().flat_map(|site| site.all("datacenters.evergreen.dev")) {
            let Ok(spec) = serde_json::from_value::<DataCenterSpec>(object["spec"].clone()) else { continue };
            profile.get_or_insert(spec.profile);
            let of_role = if spec.role == SiteRole::Witness { &mut witnesses } else { &mut members };
            of_role.insert(meta::name(object).to_owned());
        }
        let declared = !members.is_empty();
        if !declared {
            members = snapshot.sites.iter().map(|site| site.name.clone()).collect();
        }
        let profile = profile.unwrap_or_default();
        Self { members, witnesses, lease: profile.lease().get(), profile, declared }
    }

    /// Registers, and how many of them are a majority.
    pub fn majority(&self) -> (usize, usize) {
        let all = self.members.len() + self.witnesses.len();
        (all, all / 2 + 1)
    }

    /// Whether a majority remains without a data center.
    pub fn quorum_without(&self, lost: Option<&str>) -> bool {
        let (all, majority) = self.majority();
        let gone = lost.is_some_and(|site| self.members.contains(site) || self.witnesses.contains(site));
        all - usize::from(gone) >= majority
    }

    pub(crate) fn assumptions(&self, snapshot: &Snapshot) -> Vec<Words> {
        let mut all = Vec::new();
        if !self.declared {
            all.push(words(
                "no DataCenter resource: the imported clusters are taken for the members",
                "没有 DataCenter 资源：以导入的集群作为成员",
            ));
        }
        let imported: BTreeSet<&str> = snapshot.sites.iter().map(|site| site.name.as_str()).collect();
        for missing in self.members.iter().chain(&self.witnesses).filter(|name| !imported.contains(name.as_str())) {
            all.push(words(
                format!("{missing} was not imported: taken to vote, and not to run anything"),
                format!("未导入 {missing}：假定其可投票，但不承载任何服务"),
            ));
        }
        all
    }
}

impl Group {
    /// All MultiActiveServices of a snapshot, by name.
    pub fn all(snapshot: &Snapshot) -> Vec<Self> {
        let mut found: BTreeMap<(String, String), Vec<(&str, &Value, MultiActiveServiceSpec)>> = BTreeMap::new();
        for site in &snapshot.sites {
            for object in site.all("multiactiveservices.evergreen.dev") {
                if let Ok(spec) = serde_json::from_value(object["spec"].clone()) {
                    let name = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
                    found.entry(name).or_default().push((&site.name, object, spec));
                }
            }
        }
        let map = assignments(snapshot);
        let mut all = Vec::new();
        for ((namespace, name), objects) in found {
            let Some((site, object, spec)) = objects.first() else { continue };
            let hash = spec_hash(spec);
            let same_spec_at = objects.iter().filter(|(_, _, other)| spec_hash(other) == hash).count();
            let stability = stability(snapshot, site, object, spec);
            let whole = spec.group_of(&namespace, &name);
            for (group, candidates) in spec.groups(&namespace, &name) {
                let (entry, entry_from) = entry(&map, &group, &objects);
                let cell = group.strip_prefix(&whole).unwrap_or_default();
                all.push(Self {
                    namespace: namespace.clone(),
                    name: format!("{name}{cell}"),
                    candidates: candidates.to_vec(),
                    group,
                    stability,
                    spec: spec.clone(),
                    same_spec_at,
                    entry,
                    entry_from,
                });
            }
        }
        all
    }

    /// The workload behind it.
    pub fn workload(&self) -> WorkKey {
        let (namespace, name) = (self.namespace.clone(), self.spec.workload.deployment.clone());
        WorkKey { kind: WorkKind::Deployment, namespace, name }
    }

    /// How many data centers shall serve it at once.
    pub fn wanted(&self) -> usize {
        self.spec.min_active as usize
    }

    /// Ready replicas without which a data center is given no traffic.
    pub fn least_ready(&self) -> u32 {
        self.spec.workload.min_ready
    }

    /// Data centers that may serve it.
    pub fn sites(&self) -> &[String] {
        &self.candidates
    }

    /// Its recovery time objective, in seconds.
    pub fn objective_seconds(&self) -> Option<f64> {
        self.spec.objectives.rto.map(|rto| rto.get().as_secs_f64())
    }

    /// What a loss does to its data.
    pub fn data_loss(&self) -> Words {
        if self.spec.kind.no_loss() || self.spec.mode.single_writer() {
            let allowed = match self.spec.rpo() {
                Some(most) if !most.is_zero() => words(
                    format!("at most {} s by its data gate, if it lets the move pass", most.as_secs()),
                    format!("若数据闸门放行，至多 {} 秒", most.as_secs()),
                ),
                _ => words("none by its data gate, if it lets the move pass", "若数据闸门放行则为无"),
            };
            return words(
                format!("{}; the lag of its replicas is not in a snapshot", allowed.en),
                format!("{}；快照中没有副本延迟", allowed.zh),
            );
        }
        words("none: it keeps no data of its own", "无：自身不保存数据")
    }

    /// What had to be taken for granted about it.
    pub(crate) fn assumption(&self) -> Option<Words> {
        let name = format!("{}/{}", self.namespace, self.name);
        match self.entry_from {
            EntryFrom::Register => None,
            EntryFrom::Status => Some(words(
                format!("{name}: its holders are those of its status; no register was readable"),
                format!("{name}：持有者取自其 status；未读到登记簿"),
            )),
            EntryFrom::Planned => Some(words(
                format!("{name}: nobody holds it yet; the first placement is taken as done"),
                format!("{name}：尚无持有者；假定首次放置已完成"),
            )),
        }
    }

    fn facts(&self, members: &Members, entry: &Entry, scene: &Scene<'_>) -> ServiceFacts {
        let sites = members.members.iter().map(|site| {
            let fresh = scene.alive.contains(site).then(|| holder_of(entry, &self.entry, site));
            let facts = SiteFacts {
                fresh_for: if fresh.is_some() { AT_REST } else { Duration::ZERO },
                unfresh_for: if fresh.is_some() {
                    Duration::ZERO
                } else {
                    Timing::of_lease(members.lease).suspect_after()
                },
                ready: fresh.is_some().then(|| scene.ready.get(site).copied()).flatten(),
                // Replicas that are not there do not come by themselves; the twin tells what more would fit.
                workload: fresh.as_ref().map(|_| WorkloadFacts {
                    wanted: scene.ready.get(site).copied().unwrap_or(0),
                    ..WorkloadFacts::default()
                }),
                room: None,
                data: self.spec.data_gate.as_ref().map(|_| DataFacts::Silent {
                    why: "a snapshot holds no positions of databases".to_owned(),
                    last: None,
                }),
                fresh,
            };
            (site.clone(), facts)
        });
        // What it depends on is taken to move first, wherever it is alive.
        let dependencies = self.spec.dependencies(&self.namespace).map(|(namespace, name)| DependencyFacts {
            name: format!("{namespace}/{name}"),
            sites: members.members.clone(),
            serves_at: scene.alive.clone(),
            same_group: false,
        });
        ServiceFacts {
            name: format!("{}/{}", self.namespace, self.name),
            group: self.group.clone(),
            candidates: self.candidates.clone(),
            spec: self.spec.clone(),
            stability: self.stability,
            profile: members.profile,
            same_spec_at: self.same_spec_at,
            members: members.members.len(),
            entry: entry.clone(),
            entry_stable_for: AT_REST,
            moved_for: None,
            entered_for: BTreeMap::new(),
            sites: sites.collect(),
            dependencies: dependencies.collect(),
            consent: Consent::default(),
            blocked: None,
            automatic_site: None,
            database: None,
        }
    }

    /// Runs the planner until it wants nothing more, or is held.
    pub fn settle(&self, members: &Members, held: &Held, scene: &Scene<'_>) -> (Held, Vec<Move>) {
        let (mut entry, mut moves) = (held.entry.clone(), Vec::new());
        if scene.alive.is_empty() {
            // Without a majority no site coordinates: whatever it would plan, nobody carries it out.
            return (held.clone(), moves);
        }
        while moves.len() < MOST_MOVES {
            let Some(decision) = plan(&self.facts(members, &entry, scene)) else { break };
            let names = |holders: &[Holder]| holders.iter().map(|holder| holder.site.clone()).collect::<Vec<_>>();
            let held = match &decision.verdict {
                Verdict::Act => None,
                Verdict::Wait(why) | Verdict::Propose(why) | Verdict::Hold(why) => Some(why.clone()),
            };
            let done = held.is_none();
            moves.push(Move {
                cause: format!("{:?}", decision.cause),
                from: names(&entry.holders),
                to: names(&decision.holders),
                done,
                held,
                reason: decision.reason.clone(),
                rejected: decision.rejected.clone(),
            });
            if !done {
                break;
            }
            entry = Entry { version: entry.version + 1, holders: decision.holders, traceparent: None };
        }
        (Held { entry }, moves)
    }

    /// A data center that could take it and does not hold it.
    pub fn spare(&self, held: &Held, ready: &BTreeMap<String, u32>) -> Option<String> {
        let least = self.least_ready().max(1);
        let free = |site: &&String| held.entry.at(site).is_none() && ready.get(*site).is_some_and(|r| *r >= least);
        self.candidates.iter().find(free).cloned()
    }

    /// Who holds it in the snapshot.
    pub fn held(&self) -> Held {
        Held { entry: self.entry.clone() }
    }

    /// Traffic weights at each live data center's entry; an entry that stays as it is (fail static) is absent.
    pub fn weights(
        &self,
        members: &Members,
        held: &Held,
        scene: &Scene<'_>,
    ) -> BTreeMap<String, BTreeMap<String, u32>> {
        let facts = self.facts(members, &held.entry, scene);
        let live = members.members.iter().filter(|site| scene.reachable.contains(*site));
        live.filter_map(|site| Some((site.clone(), weights(&facts, site)?))).collect()
    }
}

/// Who holds a service.
#[derive(Clone, Debug)]
pub struct Held {
    entry: Entry,
}

impl Held {
    /// Data centers.
    pub fn sites(&self) -> Vec<String> {
        self.entry.holders.iter().map(|holder| holder.site.clone()).collect()
    }
}

/// The world at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Data centers whose lease is fresh at a majority.
    pub alive: &'a BTreeSet<String>,
    /// Data centers that run, with or without a majority.
    pub reachable: &'a BTreeSet<String>,
    /// Ready replicas by data center; absent where they cannot be asked.
    pub ready: &'a BTreeMap<String, u32>,
}

/// Time until a group of a lost data center is held elsewhere and routes say so, at most.
pub fn rto_of_site_loss(lease: Duration) -> Rto {
    let timing = Timing::of_lease(lease);
    let part = |what, seconds| RtoPart { what, seconds };
    rto(vec![
        part(
            words(
                format!("the lost site's lease runs out (D = {} s, clocks 10 % apart)", lease.as_secs()),
                format!("丢失站点的租约到期（D = {} 秒，时钟偏差 10 %）", lease.as_secs()),
            ),
            timing.supersede_after().as_secs_f64(),
        ),
        part(
            words("a round of the assignment map: two requests to a majority", "分配表一轮：向多数登记簿各两次请求"),
            2.0 * timing.request.as_secs_f64(),
        ),
        part(words("routes are looked at and written", "读取并改写路由权重"), LOOK + WRITE),
    ])
}

/// Time until the entries stop sending clients to a data center whose replicas the API no longer calls ready, at most.
pub fn reroute_parts() -> Vec<RtoPart> {
    vec![RtoPart {
        what: words("the controller sees it and writes new weights", "控制器发现并改写权重"),
        seconds: GATHER + LOOK + WRITE,
    }]
}

/// A sum of parts.
pub fn rto(parts: Vec<RtoPart>) -> Rto {
    let seconds = parts.iter().map(|part| part.seconds).sum::<f64>();
    Rto { seconds: (seconds * 10.0).round() / 10.0, parts }
}

fn holder_of(entry: &Entry, first: &Entry, site: &str) -> Holder {
    entry.at(site).or_else(|| first.at(site)).cloned().unwrap_or_else(|| Holder {
        site: site.to_owned(),
        epoch: 1,
        incarnation: Incarnation("rehearsal".to_owned()),
    })
}

/// The service's own label says first, then its workload's, then its namespace's.
fn stability(snapshot: &Snapshot, site: &str, service: &Value, spec: &MultiActiveServiceSpec) -> Stability {
    let named = |key: &str, namespace: &str, name: &str| {
        let site = snapshot.sites.iter().find(|known| known.name == site)?;
        site.all(key).iter().find(|object| meta::namespace(object) == namespace && meta::name(object) == name)
    };
    let namespace = meta::namespace(service);
    let said = |object: Option<&Value>| object?["metadata"]["labels"][LABEL_STABILITY].as_str().map(ToOwned::to_owned);
    let labels = [
        said(Some(service)),
        said(named("deployments.apps", namespace, &spec.workload.deployment)),
        said(named("namespaces", "", namespace)),
    ];
    Stability::of_labels(labels.iter().map(Option::as_deref))
}

/// The newest map that any register of the snapshot has accepted.
fn assignments(snapshot: &Snapshot) -> Option<AssignmentMap> {
    let states = snapshot.sites.iter().filter_map(|site| site.register.clone());
    let states = states.filter_map(|value| serde_json::from_value::<RegisterState>(value).ok());
    let newest = states.max_by(|a, b| a.accepted.ballot.cmp(&b.accepted.ballot))?;
    Some(newest.accepted.map)
}

fn entry(
    map: &Option<AssignmentMap>,
    group: &str,
    objects: &[(&str, &Value, MultiActiveServiceSpec)],
) -> (Entry, EntryFrom) {
    if let Some(entry) = map.as_ref().map(|map| map.entry(group)).filter(|entry| !entry.holders.is_empty()) {
        return (entry, EntryFrom::Register);
    }
    let status = objects.iter().find_map(|(_, object, _)| {
        let holders = meta::list(object, &["status", "holders"]);
        (!holders.is_empty()).then_some(holders)
    });
    let Some(status) = status else { return (Entry::default(), EntryFrom::Planned) };
    let mut holders: Vec<Holder> = status
        .iter()
        .filter_map(|holder| {
            let incarnation = Incarnation("rehearsal".to_owned());
            Some(Holder { site: holder["site"].as_str()?.to_owned(), epoch: holder["epoch"].as_u64()?, incarnation })
        })
        .collect();
    holders.sort();
    (Entry { version: 1, holders, traceparent: None }, EntryFrom::Status)
}
