//! The smallest thing that would help a service that does not survive a loss. Pure.

use crate::{
    fleet::{Service, WorkKind},
    judge::Hit,
    outcome::{Remedy, Verdict},
    words::{Words, cores, count, gibibytes, words},
};

/// What went wrong.
pub(crate) struct Case {
    pub(crate) verdict: Verdict,
    /// Replicas that serve less than before.
    pub(crate) missing: u32,
    /// Data center where more would help.
    pub(crate) target: Option<String>,
    /// A move waits for a person.
    pub(crate) waits: bool,
    /// A majority of registers remains.
    pub(crate) quorum: bool,
    /// It was not served for longer than it may.
    pub(crate) interrupted: bool,
    /// A data center that could take it and does not hold it.
    pub(crate) spare: Option<String>,
}

/// Finds it; none for a service that survives.
pub(crate) fn remedy(service: &Service, hit: &Hit<'_>, case: &Case) -> Option<Remedy> {
    if case.verdict == Verdict::Survives {
        return None;
    }
    let work = service.at.get(hit.site)?;
    let replicas = |number: u32, site: Option<String>, what: fn(&str, &str) -> Words| {
        let (cpu_millis, memory_bytes) = (work.cpu_millis * u64::from(number), work.memory_bytes * u64::from(number));
        let sum = size(number, cpu_millis, memory_bytes);
        let place = site.clone().unwrap_or_default();
        let en = what(&sum.en, &place);
        let zh = what(&sum.zh, &place);
        Some(Remedy { what: words(en.en, zh.zh), site, replicas: number, cpu_millis, memory_bytes, fits: None })
    };
    if case.waits {
        return Some(advice(words(
            "let the controller act: enforcement: enforce and decision.unplanned: auto",
            "允许控制器执行：enforcement: enforce 且 decision.unplanned: auto",
        )));
    }
    if !case.quorum {
        return Some(advice(words(
            "a further data center or witness, so that a majority of registers remains",
            "增加一个数据中心或见证站点，使登记簿仍保有多数派",
        )));
    }
    if let Some(spare) = case.spare.as_ref().filter(|_| hit.silent) {
        return Some(advice(words(
            format!(
                "{spare} could serve it: a person moves it there (the planner moves groups of lost data centers only)"
            ),
            format!("{spare} 可以接管：由人工切换（规划器只切换丢失站点的服务组）"),
        )));
    }
    if service.group.is_none() && (hit.whole || hit.silent) {
        let number = work.replicas.max(1);
        return if service.work.kind == WorkKind::StatefulSet {
            replicas(number, case.target.clone(), |sum, place| {
                words(
                    format!("a replica of its data and of its pods at a second data center{}: {sum}", at(place)),
                    format!("在第二个数据中心{}建立数据与实例副本：{sum}", at_zh(place)),
                )
            })
        } else {
            replicas(number, case.target.clone(), |sum, place| {
                words(
                    format!("a MultiActiveService with a second data center{}: {sum}", at(place)),
                    format!("建立 MultiActiveService 并在第二个数据中心{}部署：{sum}", at_zh(place)),
                )
            })
        };
    }
    if hit.stranded > 0 {
        return Some(advice(words(
            "proof that the node is off (power, storage or network fencing), then the taint node.kubernetes.io/out-of-service",
            "先证实节点已停机（电源、存储或网络隔离），再加污点 node.kubernetes.io/out-of-service",
        )));
    }
    let target = if hit.whole || case.target.is_some() && hit.pending == 0 && service.group.is_some() {
        case.target.clone()
    } else {
        Some(hit.site.to_owned())
    };
    if hit.pending > 0 && !hit.whole {
        let number = hit.pending;
        return replicas(number, Some(hit.site.to_owned()), |sum, place| {
            words(format!("room for {sum} more at {place}"), format!("{place} 还需容量：{sum}"))
        });
    }
    if case.missing > 0 {
        return replicas(case.missing, target, |sum, place| {
            words(format!("{sum} more at {place}"), format!("{place} 增加 {sum}"))
        });
    }
    if case.interrupted {
        return replicas(1, Some(hit.site.to_owned()), |sum, place| {
            words(
                format!("{sum} more at {place}, on another node and zone (topologySpreadConstraints)"),
                format!("{place} 增加 {sum}，并分散到不同节点与可用区（topologySpreadConstraints）"),
            )
        });
    }
    None
}

fn advice(what: Words) -> Remedy {
    Remedy { what, site: None, replicas: 0, cpu_millis: 0, memory_bytes: 0, fits: None }
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" ({place})") }
}

fn at_zh(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("（{place}）") }
}

fn size(replicas: u32, cpu_millis: u64, memory_bytes: u64) -> Words {
    let (cpu, memory) = (cores(cpu_millis), gibibytes(memory_bytes));
    let en = count(replicas as usize, "replica", "replicas");
    if cpu_millis == 0 && memory_bytes == 0 {
        return words(format!("{en} (no requests declared)"), format!("{replicas} 个副本（未声明资源请求）"));
    }
    words(format!("{en} ({cpu} CPU, {memory})"), format!("{replicas} 个副本（{cpu} CPU，{memory}）"))
}
