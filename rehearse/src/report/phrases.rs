//! Sentences that more than one form of the report uses.

use std::collections::BTreeMap;

use crate::{
    outcome::{LossOutcome, Move, PlaybookSeen, Remedy, Report, Verdict},
    words::{Lang, Words, count, seconds, words},
};

/// Services that are named in a line before the rest is counted.
const NAMED: usize = 3;

/// Single words in one language.
pub(super) struct Phrases {
    pub(super) lang: Lang,
}

macro_rules! phrases {
    ($($name:ident: $en:literal, $zh:literal;)+) => {
        impl Phrases {
            $(pub(super) fn $name(&self) -> &'static str {
                match self.lang { Lang::En => $en, Lang::Zh => $zh }
            })+
        }
    };
}

phrases! {
    title: "Rehearsal of failures", "故障演练";
    loss: "loss", "丢失对象";
    verdict: "verdict", "结论";
    what_breaks: "what breaks", "影响";
    worst_rto: "longest RTO", "最长 RTO";
    remedy: "smallest remedy", "最小补救";
    no_room: "no room at", "容量不足";
    blocked: "playbook held back", "预案被拦截";
    replicas: "replicas", "副本";
    how_sure: "How sure", "可信度";
    deviation: "the twin", "孪生偏差";
    table: "Each single loss (N-1)", "逐一丢失（N-1）";
    evidence: "Evidence", "依据";
    moves: "What moves", "迁移";
    pods: "Pods", "Pod";
    from: "from", "原节点";
    to: "to", "新节点";
    pending: "What does not fit", "放不下的 Pod";
    capacity: "Room: requests of what nodes can give", "容量：请求量 / 可分配量";
    playbooks: "Playbooks", "预案";
    data: "data loss", "数据损失";
    holders: "served at", "在服站点";
    rto: "RTO", "RTO";
    objective: "objective", "目标";
    weights: "traffic weights", "流量权重";
    read: "What was read", "读取清单";
    left_out: "Left out", "未采用的对象";
    assumptions: "Taken for granted", "假定";
    deviations: "In what the twin differs from a cluster", "孪生与真实集群的差异";
    workload: "workload", "工作负载";
    reason: "reason", "原因";
    kind: "kind", "类型";
    objects: "objects", "对象数";
    version: "resourceVersion", "resourceVersion";
    site: "data center", "数据中心";
    nodes: "nodes", "节点";
    memory: "memory", "内存";
    before_low_after: "before → least → at the end", "之前 → 最低 → 最终";
    untouched: "not touched", "未受影响";
    notes: "Worth knowing", "须知";
}

/// The answer in one sentence.
pub(super) fn answer(report: &Report) -> Words {
    let all: usize = report.tried.values().sum();
    let of = |verdict| -> usize {
        report.losses.iter().filter(|loss| loss.verdict == verdict).map(|loss| 1 + loss.same.len()).sum()
    };
    if all == 1
        && let Some(loss) = report.losses.first()
    {
        let what = loss.loss.sentence();
        let lost = loss.services.iter().filter(|service| service.verdict == Verdict::Lost).count();
        let degraded = loss.services.iter().filter(|service| service.verdict == Verdict::Degraded).count();
        let touched = loss.services.len();
        return words(
            format!(
                "{}: {} lost, {degraded} degraded, {} of {}.",
                what.en,
                count(lost, "service", "services"),
                count(touched, "is touched", "are touched"),
                report.services
            ),
            format!(
                "{}：{} 个服务中断，{degraded} 个降级；共 {} 个服务，{touched} 个受影响。",
                what.zh, lost, report.services
            ),
        );
    }
    let (lost, degraded, survives) = (of(Verdict::Lost), of(Verdict::Degraded), of(Verdict::Survives));
    words(
        format!("Of {all} single losses {survives} are survived, {degraded} degrade a service, {lost} end one."),
        format!("{all} 种单点丢失中：{survives} 种可承受，{degraded} 种造成降级，{lost} 种造成中断。"),
    )
}

/// On what it was tried.
pub(super) fn setting(report: &Report) -> Words {
    let sites: Vec<String> = report.sites.iter().map(|site| format!("{} ({})", site.name, site.nodes)).collect();
    let at = report.taken_at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let tried: Vec<String> =
        report.tried.iter().map(|(kind, number)| count(*number, kind, &format!("{kind}s"))).collect();
    let tried_zh: Vec<String> =
        report.tried.iter().map(|(kind, number)| format!("{number} {}", kind_zh(kind))).collect();
    let later = |lang| match report.lost_after_seconds {
        0 => String::new(),
        after => format!(" + {}", seconds(after as f64, lang)),
    };
    words(
        format!(
            "Snapshot of {at}{}; data centers (nodes): {}; services: {}; tried: {}.",
            later(Lang::En),
            sites.join(", "),
            report.services,
            tried.join(", ")
        ),
        format!(
            "快照 {at}{}；数据中心（节点数）：{}；服务：{}；已试：{}。",
            later(Lang::Zh),
            sites.join("，"),
            report.services,
            tried_zh.join("，")
        ),
    )
}

/// A kind of loss in Chinese.
pub(super) fn kind_zh(kind: &str) -> &'static str {
    match kind {
        "data center" => "数据中心",
        "zone" => "可用区",
        "node" => "节点",
        _ => "服务",
    }
}

/// A loss with its kind, and how many nodes are like it.
pub(super) fn name(loss: &LossOutcome) -> Words {
    let kind = loss.loss.kind_words();
    let name = loss.loss.name();
    match loss.same.len() {
        0 => words(format!("{} {name}", kind.en), format!("{} {name}", kind.zh)),
        more => {
            words(format!("{} {name} and {more} like it", kind.en), format!("{} {name} 等 {} 个", kind.zh, more + 1))
        }
    }
}

/// What breaks, in a line.
pub(super) fn breaks(loss: &LossOutcome) -> Words {
    let hurt: Vec<_> = loss.services.iter().filter(|service| service.verdict != Verdict::Survives).collect();
    if hurt.is_empty() {
        return match loss.services.len() {
            0 => words("nothing that serves", "无在服服务"),
            touched => words(
                format!("nothing; {} well", count(touched, "service takes it", "services take it")),
                format!("无；{touched} 个服务平稳承受"),
            ),
        };
    }
    let line = |lang: Lang| {
        let named: Vec<String> = hurt
            .iter()
            .take(NAMED)
            .map(|service| match &service.breaks {
                Some(why) if hurt.len() <= NAMED => format!("{}{}{}", service.service, colon(lang), why.pick(lang)),
                _ => service.service.clone(),
            })
            .collect();
        named.join(if lang == Lang::Zh { "；" } else { "; " })
    };
    let more = hurt.len().saturating_sub(NAMED);
    if more == 0 {
        return words(line(Lang::En), line(Lang::Zh));
    }
    words(format!("{} and {more} more", line(Lang::En)), format!("{} 等 {} 个", line(Lang::Zh), hurt.len()))
}

fn colon(lang: Lang) -> &'static str {
    match lang {
        Lang::En => ": ",
        Lang::Zh => "：",
    }
}

/// The longest time that a service needs; a dash when none stops.
pub(super) fn worst_rto(loss: &LossOutcome, lang: Lang) -> String {
    if loss.services.iter().any(|service| service.verdict == Verdict::Lost) {
        return "∞".to_owned();
    }
    let longest = loss.services.iter().filter_map(|service| service.rto.as_ref()).map(|rto| rto.seconds);
    longest.max_by(f64::total_cmp).map_or_else(|| "–".to_owned(), |value| format!("≤ {}", seconds(value, lang)))
}

/// The remedy of the worst service.
pub(super) fn first_remedy(loss: &LossOutcome) -> Option<Words> {
    let found: Vec<_> = loss.services.iter().filter_map(|service| Some((service, service.remedy.as_ref()?))).collect();
    let (service, first) = found.first()?;
    let text = remedy(first);
    let more = found.len() - 1;
    let (en, zh) = (format!("{}: {}", service.service, text.en), format!("{}：{}", service.service, text.zh));
    Some(match more {
        0 => words(en, zh),
        more => words(format!("{en} (+{more})"), format!("{zh}（另 {more} 项）")),
    })
}

/// A remedy, and whether it was seen to fit.
pub(super) fn remedy(remedy: &Remedy) -> Words {
    let fits = match remedy.fits {
        None => words("", ""),
        Some(all) if all == remedy.replicas => words(" - tried: there is room", "——已试：容量足够"),
        Some(some) => words(format!(" - tried: there is room for {some}"), format!("——已试：仅容得下 {some} 个")),
    };
    words(format!("{}{}", remedy.what.en, fits.en), format!("{}{}", remedy.what.zh, fits.zh))
}

/// A decision of the planner.
pub(super) fn step(step: &Move) -> Words {
    let to = step.to.join(", ");
    let (done, done_zh) = match &step.held {
        None => ("the controller does it".to_owned(), "控制器执行".to_owned()),
        Some(why) => (format!("not carried out: {why}"), format!("未执行：{why}")),
    };
    words(
        format!("{}: {} → {to} ({done}); {}", step.cause, step.from.join(", "), step.reason),
        format!("{}：{} → {to}（{done_zh}）；{}", step.cause, step.from.join("，"), step.reason),
    )
}

/// A playbook's run.
pub(super) fn playbook(seen: &PlaybookSeen) -> Words {
    let nodes = seen.nodes.join(", ");
    let steps = if seen.steps.is_empty() { String::new() } else { format!(": {}", seen.steps.join(", ")) };
    let (how, how_zh) = match (seen.installed, seen.acts) {
        (true, true) => ("acts", "执行"),
        (true, false) => ("observes (mode: observe)", "仅观察（mode: observe）"),
        (false, _) => ("would observe; it ships and is not installed", "随产品提供但未安装；安装后仅观察"),
    };
    words(
        format!("playbook {} at {} {how} for {nodes}, {}{steps}", seen.playbook, seen.site, seen.phase),
        format!("预案 {}（{}）{how_zh}，对象 {nodes}，{}{steps}", seen.playbook, seen.site, seen.phase),
    )
}

/// Nodes with numbers of pods.
pub(super) fn places(nodes: &BTreeMap<String, u32>) -> String {
    if nodes.is_empty() {
        return "–".to_owned();
    }
    let list: Vec<String> = nodes.iter().map(|(node, pods)| format!("{node} ×{pods}")).collect();
    list.join(", ")
}

/// Services that take a loss well and are not told one by one.
pub(super) fn others_survive(number: usize) -> Words {
    words(
        format!("{} it well", count(number, "further service takes", "further services take")),
        format!("另有 {number} 个服务平稳承受"),
    )
}

/// A level of sureness.
pub(super) fn level(level: &str) -> Words {
    match level {
        "high" => words("high", "高"),
        "medium" => words("medium", "中"),
        _ => words("low", "低"),
    }
}
