//! Recommendations with the energy that they would have saved in the period, computed from the ledger. Estimates: each
//! says how it was made, and none is a promise. Pure.

use crate::{
    decimal,
    ledger::{Ledger, NodeLedger},
    model::Recommendation,
    site::SiteFacts,
    standards::Standards,
    text::Text,
};

/// A node whose pods and system took less than this share of its energy on every day does little but idle, percent.
const NEARLY_IDLE_PERCENT: u128 = 10;
/// Nodes that a recommendation names.
const NAMED: usize = 20;

fn nearly_idle(node: &NodeLedger) -> Option<u128> {
    let idle = node.idle?;
    let every_day = node.days.iter().all(|(day, parts)| {
        let busy = parts.all().saturating_sub(node.idle_days.get(day).copied().unwrap_or(0));
        busy * 100 < parts.all() * NEARLY_IDLE_PERCENT
    });
    (every_day && node.parts.all() > 0).then(|| idle.min(node.parts.all()))
}

/// What a data center could save.
pub(crate) fn of_site(ledger: &Ledger, site: &str, known: &SiteFacts, standards: &Standards) -> Vec<Recommendation> {
    let mut found = Vec::new();
    let nodes: Vec<_> = ledger.nodes.iter().filter(|((of, _), node)| of == site && node.parts.all() > 0).collect();
    let mut idle: Vec<_> =
        nodes.iter().filter_map(|((_, name), node)| Some((nearly_idle(node)?, name.clone()))).collect();
    idle.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    // Where every node is one, somebody must stay: the one that idles cheapest.
    if idle.len() == nodes.len() && !idle.is_empty() {
        idle.remove(0);
    }
    if !idle.is_empty() {
        let saved: u128 = idle.iter().map(|(energy, _)| energy).sum();
        let count = idle.len();
        let mut names: Vec<String> = idle.into_iter().map(|(_, name)| name).collect();
        names.sort();
        names.truncate(NAMED);
        found.push(Recommendation {
            id: "consolidate",
            site: site.to_owned(),
            title: Text::new(
                format!("Consolidate {count} nearly idle nodes"),
                format!("整合 {count} 个近乎空闲的节点"),
            ),
            expected_kwh: Some(decimal::kwh(saved)),
            method: Text::new(
                format!("estimate: idle energy of nodes whose pods and system took less than {NEARLY_IDLE_PERCENT} % of their energy on every day of the period; their work moves to other nodes and keeps its energy; one node stays where all are such"),
                format!("估算：本期间每天 Pod 与系统用能均低于其 {NEARLY_IDLE_PERCENT}% 的节点的空闲能耗；其负载迁往其他节点并保留自身能耗；若全部如此则保留一个节点"),
            ),
            about: names,
        });
    }
    let limit = standards.gb40879.grades.get(1).and_then(|grade| decimal::parse_millionths(grade));
    if let (Some(pue), Some(limit), Ok(facility)) = (&known.pue, limit, &known.facility) {
        let it: u128 = nodes.iter().map(|(_, node)| node.parts.all()).sum();
        let at_limit = decimal::scale(it, limit, 1_000_000);
        if *facility > at_limit {
            let value = decimal::ratio(pue.facility, pue.it, 3).unwrap_or_default();
            let grade = &standards.gb40879.grades[1];
            found.push(Recommendation {
                id: "pue",
                site: site.to_owned(),
                title: Text::new(
                    format!("Bring the PUE of {value} to {grade}"),
                    format!("将 PUE 由 {value} 降至 {grade}"),
                ),
                expected_kwh: Some(decimal::kwh(facility - at_limit)),
                method: Text::new(
                    "facility energy beyond grade 2 of GB 40879 at the same IT energy",
                    "相同 IT 能耗下，超出 GB 40879 2 级的设施能耗",
                ),
                about: Vec::new(),
            });
        }
    }
    let (mut unmeasured, mut all) = (0, 0);
    for (_, node) in &nodes {
        unmeasured += node.parts.estimated;
        all += node.parts.all();
    }
    if unmeasured * 2 > all {
        found.push(Recommendation {
            id: "measure",
            site: site.to_owned(),
            title: Text::new("Give most nodes a power sensor", "为多数节点配置功率传感器"),
            expected_kwh: None,
            method: Text::new(
                "more than half of the energy is estimated by a model alone; a BMC, powercap or a smart PDU makes it measured",
                "超过一半的能耗仅由模型估算；通过 BMC、powercap 或智能 PDU 可改为实测",
            ),
            about: Vec::new(),
        });
    }
    found
}
