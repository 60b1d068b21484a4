//! Tries losses on copies of a fleet, several at a time, and puts the outcomes in order.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evergreen_twin::{DEVIATIONS, measured};

use crate::{
    check::Finding,
    failover::Group,
    fleet::{Fleet, WorkKey, nodes_of_zone},
    judge::{Hit, judge},
    loss::Loss,
    outcome::{Capacity, LossOutcome, Report, ServiceOutcome, SiteRead, Sureness, Verdict},
    play::{Base, Blow, Played, play},
    snapshot::{Site, Snapshot},
    words::{Words, count, words},
};

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Losses, each on a fresh copy.
    pub losses: Vec<Loss>,
    /// Virtual time between the snapshot and the loss.
    pub delay: Duration,
    /// Losses that are tried at a time.
    pub parallel: usize,
}

/// Tries all losses of a plan; `tell` hears how many are done. The snapshot has been checked.
pub fn rehearse(
    snapshot: &Snapshot,
    fleet: &Fleet,
    left_out: Vec<Finding>,
    plan: &Plan,
    tell: &(dyn Fn(usize) + Sync),
) -> Report {
    let mut left_out = left_out;
    let mut bases = BTreeMap::new();
    for site in &snapshot.sites {
        let Some(facts) = fleet.sites.get(&site.name) else { continue };
        let base = Base::new(site, facts, snapshot.taken_at, plan.delay);
        left_out.extend(base.refused.iter().map(|(object, why)| Finding {
            site: site.name.clone(),
            object: object.clone(),
            why: words(why.clone(), format!("孪生拒绝：{why}")),
        }));
        bases.insert(site.name.as_str(), base);
    }
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<LossOutcome>>> = plan.losses.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..plan.parallel.clamp(1, plan.losses.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(loss) = plan.losses.get(index) else { return };
                    let outcome = Trial { snapshot, fleet, bases: &bases }.of(loss);
                    if let Ok(mut place) = outcomes[index].lock() {
                        *place = Some(outcome);
                    }
                    tell(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    let outcomes = outcomes.into_iter().filter_map(|place| place.into_inner().ok().flatten()).collect();
    report(snapshot, fleet, left_out, plan, outcomes)
}

fn report(
    snapshot: &Snapshot,
    fleet: &Fleet,
    left_out: Vec<Finding>,
    plan: &Plan,
    outcomes: Vec<LossOutcome>,
) -> Report {
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in &outcomes {
        *tried.entry(outcome.loss.kind_words().en).or_default() += 1;
    }
    let mut losses = grouped(outcomes);
    losses.sort_by_cached_key(rank);
    let sites = snapshot.sites.iter().map(|site| SiteRead {
        name: site.name.clone(),
        name_from: site.name_from.clone(),
        source: site.source.clone(),
        server: site.server.clone(),
        kubernetes: site.kubernetes.clone(),
        nodes: site.all("nodes").len(),
        read: site.read.clone(),
        not_read: site.not_read.clone(),
    });
    Report {
        format: 1,
        made_by: format!("evergreen {}", env!("CARGO_PKG_VERSION")),
        taken_at: snapshot.taken_at,
        lost_after_seconds: plan.delay.as_secs(),
        verdict: losses.iter().map(|loss| loss.verdict).max().unwrap_or_default(),
        sites: sites.collect(),
        services: fleet.services.len(),
        losses,
        tried,
        sureness: sureness(snapshot, fleet, left_out),
    }
}

/// The worst first; then the one that touches most; then by name.
fn rank(outcome: &LossOutcome) -> impl Ord + use<> {
    let of = |verdict| outcome.services.iter().filter(|service| service.verdict == verdict).count();
    (
        std::cmp::Reverse(outcome.verdict),
        std::cmp::Reverse((of(Verdict::Lost), of(Verdict::Degraded))),
        outcome.loss.clone(),
    )
}

/// Nodes whose loss has the same effect are told once, each of them by name.
fn grouped(outcomes: Vec<LossOutcome>) -> Vec<LossOutcome> {
    let mut found: Vec<LossOutcome> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes {
        let Loss::Node { site, node } = &outcome.loss else {
            found.push(outcome);
            continue;
        };
        let blocked: Vec<String> = outcome.blocked.iter().map(|b| b.reason.replace(node.as_str(), "NODE")).collect();
        let runs: Vec<_> = outcome.playbooks.iter().map(|p| (&p.playbook, p.acts, &p.phase, &p.steps)).collect();
        let effect = (site, &outcome.services, &outcome.pending, runs, blocked);
        let effect = serde_json::to_string(&effect).unwrap_or_default();
        match known.get(&effect) {
            Some(index) => found[*index].same.push(node.clone()),
            None => {
                known.insert(effect, found.len());
                found.push(outcome);
            }
        }
    }
    found
}

struct Trial<'a> {
    snapshot: &'a Snapshot,
    fleet: &'a Fleet,
    bases: &'a BTreeMap<&'a str, Base<'a>>,
}

impl Trial<'_> {
    fn site(&self, name: &str) -> Option<&Site> {
        self.snapshot.sites.iter().find(|site| site.name == name)
    }

    fn play(&self, site: &str, blow: &Blow) -> Played {
        self.bases.get(site).map(|base| play(base, blow)).unwrap_or_default()
    }

    fn of(&self, loss: &Loss) -> LossOutcome {
        let facts = self.fleet.sites.get(loss.site());
        let blow = match loss {
            Loss::Site { .. } => None,
            Loss::Zone { zone, .. } => facts.map(|facts| Blow::Nodes(nodes_of_zone(facts, zone))),
            Loss::Node { node, .. } => Some(Blow::Nodes([node.clone()].into())),
            Loss::Service { service, .. } => {
                let found = self.fleet.services.iter().find(|known| known.id() == *service);
                found.map(|found| Blow::Silence(found.work.clone()))
            }
        };
        let played = blow.as_ref().map(|blow| self.play(loss.site(), blow));
        let mut services: Vec<ServiceOutcome> = Vec::new();
        for service in &self.fleet.services {
            let pending = |played: &Played| {
                let name = service.work.to_string();
                played.pending.iter().filter(|pending| pending.workload == name).map(|pending| pending.pods).sum()
            };
            let hit = Hit {
                site: loss.site(),
                whole: played.is_none(),
                silent: matches!(loss, Loss::Service { .. }),
                series: played.as_ref().and_then(|played| played.series.get(&service.work)),
                stranded: played.as_ref().and_then(|played| played.stranded.get(&service.work)).copied().unwrap_or(0),
                pending: played.as_ref().map_or(0, pending),
            };
            services.extend(judge(self.fleet, service, &hit));
        }
        let mut outcome = LossOutcome {
            loss: loss.clone(),
            same: Vec::new(),
            verdict: Verdict::Survives,
            untouched: self.fleet.services.len() - services.len(),
            services,
            moved: Vec::new(),
            pending: Vec::new(),
            capacity: Vec::new(),
            playbooks: Vec::new(),
            blocked: Vec::new(),
            notes: self.notes(loss),
        };
        match played {
            Some(played) => {
                outcome.moved = played.moved;
                outcome.pending = played.pending;
                outcome.capacity = vec![played.capacity];
                outcome.playbooks = played.playbooks;
                outcome.blocked = played.blocked;
            }
            None => self.make_room(&mut outcome),
        }
        outcome.services.sort_by(|a, b| b.verdict.cmp(&a.verdict).then_with(|| a.service.cmp(&b.service)));
        outcome.verdict = outcome.services.iter().map(|service| service.verdict).max().unwrap_or_default();
        outcome
    }

    /// After a data center's loss: tries whether the replicas that are missing would fit where they would be needed.
    fn make_room(&self, outcome: &mut LossOutcome) {
        let mut wanted: BTreeMap<String, Vec<(WorkKey, u32)>> = BTreeMap::new();
        for service in &outcome.services {
            let Some(remedy) = service.remedy.as_ref().filter(|remedy| remedy.replicas > 0) else { continue };
            let (Some(site), Some(known)) = (&remedy.site, self.known(&service.service)) else { continue };
            if known.at.contains_key(site) {
                wanted.entry(site.clone()).or_default().push((known.work.clone(), remedy.replicas));
            }
        }
        for site in self.fleet.sites.keys().filter(|site| *site != outcome.loss.site()) {
            let works = wanted.remove(site).unwrap_or_default();
            if works.is_empty() {
                continue;
            }
            let played = self.play(site, &Blow::Grow(works.clone()));
            for service in &mut outcome.services {
                let Some(work) = self.known(&service.service).map(|known| &known.work) else { continue };
                let Some(remedy) = service.remedy.as_mut().filter(|remedy| remedy.site.as_ref() == Some(site)) else {
                    continue;
                };
                if works.iter().any(|(known, _)| known == work) {
                    let name = work.to_string();
                    let waiting = played.pending.iter().filter(|p| p.workload == name).map(|p| p.pods).sum::<u32>();
                    remedy.fits = Some(remedy.replicas.saturating_sub(waiting));
                }
            }
            outcome.pending.extend(played.pending);
            outcome.capacity.push(played.capacity);
        }
        let site = outcome.loss.site();
        let nodes = self.site(site).map_or(0, |site| site.all("nodes").len());
        let lost =
            Capacity { site: site.to_owned(), nodes: [u32::try_from(nodes).unwrap_or(0), 0], ..Capacity::default() };
        outcome.capacity.insert(0, lost);
    }

    fn known(&self, id: &str) -> Option<&crate::fleet::Service> {
        self.fleet.services.iter().find(|service| service.id() == id)
    }

    fn notes(&self, loss: &Loss) -> Vec<Words> {
        let mut notes = Vec::new();
        if let Loss::Site { site } = loss {
            let (all, majority) = self.fleet.members.majority();
            notes.push(if self.fleet.members.quorum_without(Some(site)) {
                words(
                    format!("{} of {all} registers remain, {majority} are a majority: the others may decide", all - 1),
                    format!("登记簿剩余 {}/{all}，多数派为 {majority}：其余站点可以决策", all - 1),
                )
            } else {
                words(
                    format!("{} of {all} registers remain, {majority} would be a majority: nothing can be moved, stateless services stay as they are", all - 1),
                    format!("登记簿剩余 {}/{all}，多数派需要 {majority}：无法切换，无状态服务保持原状", all - 1),
                )
            });
            notes.push(words(
                "playbooks of the lost data center do not run: its API server is gone with it",
                "丢失站点的预案不会执行：其 API 服务器一同丢失",
            ));
        } else if !matches!(loss, Loss::Service { .. }) {
            notes.push(words(
                "until Kubernetes calls a node unreachable (50 s), a share of the requests still goes to its dead pods",
                "在 Kubernetes 判定节点不可达之前（50 秒），部分请求仍会发往已失效的 Pod",
            ));
        }
        notes
    }
}

/// `high`: everything was read and understood and no time is assumed. `low`: something was left out, refused, or not
/// imported. `medium`: the rest.
fn sureness(snapshot: &Snapshot, fleet: &Fleet, left_out: Vec<Finding>) -> Sureness {
    let mut why = Vec::new();
    let mut low = false;
    if !left_out.is_empty() {
        low = true;
        why.push(words(
            format!("{} could not be used", count(left_out.len(), "object", "objects")),
            format!("{} 个对象无法使用", left_out.len()),
        ));
    }
    for site in &snapshot.sites {
        for refused in site.not_read.iter().filter(|kind| kind.why.contains("forbidden")) {
            low = true;
            why.push(words(
                format!("{}: {} may not be read", site.name, refused.kind),
                format!("{}：无权读取 {}", site.name, refused.kind),
            ));
        }
    }
    let imported = |name: &&String| !snapshot.sites.iter().any(|site| site.name == **name);
    for missing in fleet.members.members.iter().filter(imported) {
        low = true;
        why.push(words(format!("{missing} was not imported"), format!("未导入 {missing}")));
    }
    let assumed = fleet.sites.values().filter(|site| site.start_samples == 0).count();
    if assumed > 0 {
        let en = count(assumed, "data center", "data centers");
        why.push(words(
            format!("the start time of pods is assumed at {en}"),
            format!("{assumed} 个数据中心的 Pod 启动时间为假定值"),
        ));
    }
    let guessed = fleet.services.iter().filter_map(|s| s.group.as_ref()).filter_map(Group::assumption).count();
    if guessed > 0 {
        let en = count(guessed, "service", "services");
        why.push(words(format!("no register tells who holds {en}"), format!("{guessed} 个服务的持有者未在登记簿中")));
    }
    let level = match (low, why.is_empty()) {
        (true, _) => "low",
        (false, true) => "high",
        (false, false) => "medium",
    };
    let mut deviations: Vec<String> = DEVIATIONS.iter().map(|text| (*text).to_owned()).collect();
    let suite = measured();
    deviations.push(format!(
        "compared with a real API server ({}), {} of {} answers are the same; each difference is in docs/twin-deviations.md",
        suite.server, suite.equal, suite.requests
    ));
    Sureness { level, why, left_out, assumptions: fleet.assumptions(snapshot), deviations }
}
