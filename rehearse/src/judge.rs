//! From what a loss leaves to a verdict on each service. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    failover::{Group, Scene, reroute_parts, rto, rto_of_site_loss},
    fleet::{Fleet, Service},
    outcome::{Move, Rto, RtoPart, ServiceOutcome, Verdict},
    play::Series,
    remedy::{Case, remedy},
    words::{Lang, Words, seconds, words},
};

/// Silence after which Kubernetes calls a node unreachable, in seconds, and the patience of pods on it.
const GRACE: f64 = 50.0;
const TOLERATION: f64 = 300.0;

/// What a loss does to one data center, as far as services see it.
pub(crate) struct Hit<'a> {
    /// Data center.
    pub(crate) site: &'a str,
    /// The whole data center is lost.
    pub(crate) whole: bool,
    /// Otherwise: the course of the service's workload there.
    pub(crate) series: Option<&'a Series>,
    /// Its replicas stopped being ready while their nodes run.
    pub(crate) silent: bool,
    /// Its pods that nobody replaces, because their node may still run.
    pub(crate) stranded: u32,
    /// Its pods that found no place.
    pub(crate) pending: u32,
}

/// Judges one service; none when the loss does not touch it.
pub(crate) fn judge(fleet: &Fleet, service: &Service, hit: &Hit<'_>) -> Option<ServiceOutcome> {
    let ready_at = |site: &String| service.at.get(site).map_or(0, |work| work.ready);
    let touched = match hit.series {
        _ if hit.whole => service.at.get(hit.site).is_some_and(|work| work.replicas > 0),
        Some(series) => series.low < series.before || series.after < series.before || hit.stranded > 0,
        None => false,
    };
    if !touched {
        return None;
    }
    let mut before: BTreeMap<String, u32> = service.at.keys().map(|site| (site.clone(), ready_at(site))).collect();
    let (mut low, mut after) = (before.clone(), before.clone());
    let mut told = before.clone();
    if hit.whole {
        for counts in [&mut low, &mut after, &mut told] {
            counts.remove(hit.site);
        }
    } else if let Some(series) = hit.series {
        before.insert(hit.site.to_owned(), series.before);
        low.insert(hit.site.to_owned(), series.low);
        told.insert(hit.site.to_owned(), series.told_low);
        after.insert(hit.site.to_owned(), series.after);
    }
    let counts = Counts { before, low, told, after };
    Some(match &service.group {
        Some(group) => multi_active(fleet, service, group, hit, &counts),
        None => alone(fleet, service, hit, &counts),
    })
}

/// Ready replicas by data center: before, at the worst moment in truth and by the API, at the end.
struct Counts {
    before: BTreeMap<String, u32>,
    low: BTreeMap<String, u32>,
    told: BTreeMap<String, u32>,
    after: BTreeMap<String, u32>,
}

fn multi_active(fleet: &Fleet, service: &Service, group: &Group, hit: &Hit<'_>, counts: &Counts) -> ServiceOutcome {
    let members = &fleet.members;
    let all = &members.members;
    let lost = hit.whole.then_some(hit.site);
    let reachable: BTreeSet<String> = all.iter().filter(|site| Some(site.as_str()) != lost).cloned().collect();
    let quorum = members.quorum_without(lost);
    let alive = if quorum { reachable.clone() } else { BTreeSet::new() };
    let at_rest = Scene { alive: all, reachable: all, ready: &counts.before };
    let (start, _) = group.settle(members, &group.held(), &at_rest);
    let worst = Scene { alive: &alive, reachable: &reachable, ready: &counts.told };
    let end = Scene { alive: &alive, reachable: &reachable, ready: &counts.after };
    let (held, mut moves) = group.settle(members, &start, &worst);
    let (held, later) = group.settle(members, &held, &end);
    // What is held is planned again and again; it is told once.
    moves.extend(
        later
            .into_iter()
            .filter(|step| !(step.held.is_some() && moves.iter().any(|m| m.to == step.to)))
            .collect::<Vec<_>>(),
    );
    let least = group.least_ready().max(1);
    let serving = |holders: &[String], ready: &BTreeMap<String, u32>, live: &BTreeSet<String>| -> Vec<String> {
        let enough = |site: &&String| ready.get(*site).is_some_and(|count| *count >= least) && live.contains(*site);
        holders.iter().filter(enough).cloned().collect()
    };
    let sum =
        |sites: &[String], ready: &BTreeMap<String, u32>| sites.iter().filter_map(|site| ready.get(site)).sum::<u32>();
    let sites_before = serving(&start.sites(), &counts.before, all);
    let sites_after = serving(&held.sites(), &counts.after, &reachable);
    let still: Vec<String> = start.sites().into_iter().filter(|site| reachable.contains(site)).collect();
    let serves = [sum(&sites_before, &counts.before), sum(&still, &counts.low), sum(&sites_after, &counts.after)];
    let elsewhere = sites_after.iter().any(|site| site != hit.site);
    let held_here = start.sites().iter().any(|site| site == hit.site);
    let rto = if hit.whole {
        (held_here && elsewhere && quorum).then(|| rto_of_site_loss(members.lease))
    } else {
        hit.series.filter(|_| held_here).and_then(|series| rto_in_site(fleet, hit.site, series, elsewhere))
    };
    let waits = moves.iter().find(|step| !step.done && !is_planned(step)).and_then(|step| step.held.clone());
    let objective = group.objective_seconds();
    let wanted = group.wanted().min(sites_before.len());
    let late = rto.as_ref().filter(|rto| objective.is_some_and(|most| rto.seconds > most));
    let (verdict, breaks) = if sites_after.is_empty() {
        let why = match &waits {
            Some(why) => {
                words(format!("nobody serves it until a person acts: {why}"), format!("人工处理前无人提供服务：{why}"))
            }
            None => words("no data center serves it any more", "再无数据中心提供该服务"),
        };
        (Verdict::Lost, Some(why))
    } else if let Some(why) = &waits {
        (
            Verdict::Degraded,
            Some(words(format!("its move waits for a person: {why}"), format!("切换等待人工处理：{why}"))),
        )
    } else if sites_after.len() < wanted {
        let (now, wanted) = (sites_after.len(), group.wanted());
        let why = if quorum {
            ("", "")
        } else {
            (", and without a majority nobody may move it", "，且失去多数派，无法切换")
        };
        (
            Verdict::Degraded,
            Some(words(
                format!("{now} of {wanted} wanted data centers serve it{}", why.0),
                format!("要求 {wanted} 个数据中心在服，仅剩 {now} 个{}", why.1),
            )),
        )
    } else if serves[2] < serves[0] {
        (Verdict::Degraded, Some(fewer(serves[2], serves[0])))
    } else if let (Some(rto), Some(most)) = (late, objective) {
        (
            Verdict::Degraded,
            Some(words(
                format!("back after {}, its objective is {}", seconds(rto.seconds, Lang::En), seconds(most, Lang::En)),
                format!("{} 后恢复，超过其目标 {}", seconds(rto.seconds, Lang::Zh), seconds(most, Lang::Zh)),
            )),
        )
    } else {
        (Verdict::Survives, None)
    };
    let weights_before = group.weights(members, &start, &at_rest);
    let weights_after = group.weights(members, &held, &end);
    let weights = weights_after
        .into_iter()
        .filter_map(|(entry, now)| {
            let then = weights_before.get(&entry).cloned().unwrap_or_default();
            (then != now).then_some((entry, [then, now]))
        })
        .collect();
    let case = Case {
        verdict,
        missing: serves[0].saturating_sub(serves[2]),
        target: sites_after.first().cloned(),
        waits: waits.is_some(),
        quorum,
        interrupted: late.is_some(),
        spare: group.spare(&held, &counts.after).filter(|site| reachable.contains(site)),
    };
    ServiceOutcome {
        service: service.id(),
        kind: service.kind(),
        verdict,
        breaks,
        serving: serves,
        sites: [sites_before, sites_after],
        moves,
        weights,
        rto,
        objective_seconds: objective,
        data_loss: group.data_loss(),
        remedy: remedy(service, hit, &case),
    }
}

fn alone(fleet: &Fleet, service: &Service, hit: &Hit<'_>, counts: &Counts) -> ServiceOutcome {
    let serving = |ready: &BTreeMap<String, u32>| -> Vec<String> {
        ready.iter().filter(|(_, count)| **count > 0).map(|(site, _)| site.clone()).collect()
    };
    let (sites_before, sites_after) = (serving(&counts.before), serving(&counts.after));
    let here = |ready: &BTreeMap<String, u32>| ready.get(hit.site).copied().unwrap_or(0);
    let serves = [here(&counts.before), here(&counts.low), here(&counts.after)];
    let rto = hit.series.filter(|_| !hit.whole).and_then(|series| rto_in_site(fleet, hit.site, series, false));
    let (verdict, breaks) = if serves[2] == 0 && serves[0] > 0 {
        match sites_after.first() {
            Some(other) => (
                Verdict::Degraded,
                Some(words(
                    format!("it also runs at {other}, but nothing moves its clients there"),
                    format!("{other} 也在运行，但没有机制把客户端切换过去"),
                )),
            ),
            None if hit.stranded > 0 => (Verdict::Lost, Some(stuck(hit.stranded))),
            None => (Verdict::Lost, Some(words("it runs nowhere any more", "再无任何副本运行"))),
        }
    } else if hit.stranded > 0 {
        (Verdict::Degraded, Some(stuck(hit.stranded)))
    } else if serves[2] < serves[0] {
        (Verdict::Degraded, Some(fewer(serves[2], serves[0])))
    } else if let Some(rto) = &rto {
        (
            Verdict::Degraded,
            Some(words(
                format!("not served for {}", seconds(rto.seconds, Lang::En)),
                format!("中断 {}", seconds(rto.seconds, Lang::Zh)),
            )),
        )
    } else {
        (Verdict::Survives, None)
    };
    let case = Case {
        verdict,
        missing: serves[0].saturating_sub(serves[2]),
        target: fleet.sites.keys().find(|site| *site != hit.site).cloned(),
        waits: false,
        quorum: true,
        interrupted: rto.is_some(),
        spare: None,
    };
    let volumes = service.at.get(hit.site).is_some_and(|work| work.volumes);
    ServiceOutcome {
        service: service.id(),
        kind: service.kind(),
        verdict,
        breaks,
        serving: serves,
        sites: [sites_before, sites_after],
        moves: Vec::new(),
        weights: BTreeMap::new(),
        rto,
        objective_seconds: None,
        data_loss: data_loss(volumes, hit.whole),
        remedy: remedy(service, hit, &case),
    }
}

fn is_planned(step: &Move) -> bool {
    step.cause.starts_with("Failback") || step.cause.starts_with("TooMany")
}

fn fewer(now: u32, before: u32) -> Words {
    words(format!("{now} of {before} replicas serve"), format!("{before} 个副本仅剩 {now} 个在服"))
}

fn stuck(pods: u32) -> Words {
    words(
        format!("{pods} of its pods stay bound to the lost node: nobody knows that it is off"),
        format!("{pods} 个 Pod 仍绑定在丢失的节点上：无人能证实该节点已停机"),
    )
}

fn data_loss(volumes: bool, whole: bool) -> Words {
    match (volumes, whole) {
        (false, _) => words("none known: it has no volumes", "未见：没有存储卷"),
        (true, false) => words("none, if its volumes can be attached elsewhere", "若其卷可在别处挂载则无"),
        (true, true) => words(
            "unknown: its volumes are lost with the data center; what is replicated is not in the snapshot",
            "未知：存储卷随数据中心丢失；快照中没有复制关系",
        ),
    }
}

/// Time without a single serving replica, with what it is made of; none when there was no such time or no end to it.
fn rto_in_site(fleet: &Fleet, site: &str, series: &Series, elsewhere: bool) -> Option<Rto> {
    if !series.had_none {
        return None;
    }
    let rerouted = series.told_less_at.filter(|_| elsewhere).map(|told| {
        let mut parts = Vec::new();
        if told > 0 {
            let what = words("until Kubernetes calls the node unreachable", "直到 Kubernetes 判定节点不可达");
            parts.push(RtoPart { what, seconds: told as f64 });
        }
        parts.extend(reroute_parts());
        rto(parts)
    });
    let restarted = series.none_until.map(|until| {
        let start = fleet.sites.get(site).map_or(0.0, |facts| facts.start_seconds);
        let total = until as f64;
        let rest = total - GRACE - TOLERATION - start;
        let part = |en: &str, zh: &str, seconds: f64| RtoPart { what: words(en, zh), seconds };
        if rest < 0.0 {
            return rto(vec![part("until a new pod is ready, as played", "直到新 Pod 就绪（演练实测）", total)]);
        }
        let mut parts = vec![
            part("the node's silence (grace)", "节点失联宽限期", GRACE),
            part("its pods' patience (tolerationSeconds)", "Pod 容忍时间（tolerationSeconds）", TOLERATION),
            part("looks, and turns of its zone", "巡检间隔与可用区驱逐排队", rest),
            part("a new pod starts and gets ready", "新 Pod 启动并就绪", start),
        ];
        parts.retain(|part| part.seconds > 0.0);
        rto(parts)
    });
    [rerouted, restarted].into_iter().flatten().min_by(|a, b| a.seconds.total_cmp(&b.seconds))
}
