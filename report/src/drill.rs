//! The report of one drill: the fields that JR/T 0044 and JR/T 0208 ask for, in two languages, as data and as a page. What
//! was not measured or not yet said by people is absent and said to be; nothing is guessed.

use std::fmt::Write;

use evergreen_api::resources::{DrillResult, DrillSignOff, DrillStep, FailoverDrillSpec, Remediation, Scorecard};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    render::{document, escape},
    text::{Language, Text},
};

/// A field of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrillField {
    /// Machine name.
    pub name: &'static str,
    /// Name for people.
    pub label: Text,
    /// Value; none when it is absent.
    pub value: Option<Text>,
    /// Why it is absent, or where it comes from.
    pub says: Text,
}

/// The report of one drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillReport {
    /// Name of the FailoverDrill.
    pub drill: String,
    /// Ticket.
    pub ticket: String,
    /// Fields, in order.
    pub fields: Vec<DrillField>,
    /// Services and where they were.
    pub services: Vec<evergreen_api::resources::DrilledService>,
    /// What was done.
    pub steps: Vec<DrillStep>,
    /// What is to be mended.
    pub remediation: Vec<Remediation>,
}

#[derive(Deserialize)]
struct Classes {
    source: String,
    classes: Vec<Class>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Class {
    class: u8,
    rto_seconds: u64,
    rpo_seconds: Option<u64>,
}

/// Makes the report of a drill from its record and what the business side said about it.
///
/// # Errors
/// When the shipped table of recovery classes cannot be read.
pub fn drill_report(
    name: &str,
    spec: &FailoverDrillSpec,
    card: &Scorecard,
    signed: Option<&DrillSignOff>,
) -> Result<DrillReport, String> {
    let classes: Classes =
        serde_yaml::from_str(include_str!("../data/recovery-classes.yaml")).map_err(|error| error.to_string())?;
    let mut fields = Vec::new();
    let mut add = |name: &'static str, en: &str, zh: &str, value: Option<Text>, says: Text| {
        fields.push(DrillField { name, label: Text::new(en, zh), value, says });
    };
    let none = || Text::same("");
    let not_said = || Text::new("the business side has not said it yet", "业务方尚未填写");
    add("site", "Site that was left", "演练站点", Some(Text::same(&spec.site)), none());
    add("result", "Result", "演练结果", card.result.map(result), Text::same(&card.reason));
    add("requestedBy", "Requested by", "发起人", Some(Text::same(&card.requested_by)), none());
    let approvers = (!card.approvers.is_empty()).then(|| Text::same(card.approvers.join(", ")));
    add("approvers", "Approved by", "批准人", approvers, Text::new("none was asked for", "无需批准"));
    for (name, en, zh, at) in [
        ("openedAt", "Ticket opened", "工单开启时间", Some(&card.opened_at)),
        ("startedAt", "Started", "开始时间", card.started_at.as_ref()),
        ("detectedAt", "Detected", "发现时间", card.detected_at.as_ref()),
        ("decidedAt", "Decided", "决策时间", card.decided_at.as_ref()),
        ("movedAt", "Moved", "切换完成时间", card.moved_at.as_ref()),
        ("confirmedAt", "Confirmed by the business side", "业务确认时间", signed.map(|s| &s.confirmed_at)),
        ("returningAt", "Moving back began", "回切开始时间", card.returning_at.as_ref()),
        ("returnedAt", "Moved back", "回切完成时间", card.returned_at.as_ref()),
        ("endedAt", "Ended", "结束时间", card.ended_at.as_ref()),
    ] {
        let says = if name == "confirmedAt" {
            not_said()
        } else {
            Text::new("it did not come to that", "未执行到该步骤")
        };
        add(name, en, zh, at.map(Text::same), says);
    }
    let moving = span(card.started_at.as_deref(), card.moved_at.as_deref());
    add(
        "moveMs",
        "Time to move",
        "切换耗时",
        moving.map(milliseconds),
        Text::new("started to moved", "自开始至切换完成"),
    );
    let class = spec.recovery_class.and_then(|class| classes.classes.iter().find(|one| one.class == class));
    let judged = |measured: Option<u64>, own: Option<u64>, of_class: Option<u64>| {
        let mut en = Vec::new();
        let mut zh = Vec::new();
        if let (Some(measured), Some(own)) = (measured, own) {
            let met = measured <= own;
            en.push(format!("objective {own} ms: {}", if met { "met" } else { "missed" }));
            zh.push(format!("目标 {own} ms：{}", if met { "达到" } else { "未达到" }));
        }
        if let (Some(measured), Some(limit), Some(class)) = (measured, of_class, class) {
            let met = measured <= limit * 1_000;
            en.push(format!(
                "class {} of {} ({limit} s): {}",
                class.class,
                classes.source,
                if met { "met" } else { "missed" }
            ));
            zh.push(format!(
                "{} 第 {} 类（{limit} s）：{}",
                classes.source,
                class.class,
                if met { "达到" } else { "未达到" }
            ));
        }
        Text::new(en.join("; "), zh.join("；"))
    };
    let own = |objective: Option<evergreen_api::HumanDuration>| {
        objective.map(|one| u64::try_from(one.get().as_millis()).unwrap_or(u64::MAX))
    };
    let says = match card.rto_ms {
        Some(_) => judged(card.rto_ms, own(spec.objectives.rto), class.map(|c| c.rto_seconds)),
        None => Text::new("no probe measured it", "未配置探测，未测量"),
    };
    add("rtoMs", "RTO measured", "实测 RTO", card.rto_ms.map(milliseconds), says);
    let says = match card.rpo_ms {
        Some(_) => judged(card.rpo_ms, own(spec.objectives.rpo), class.and_then(|c| c.rpo_seconds)),
        None => Text::new("no data gate measured it", "未配置数据闸门，未测量"),
    };
    add("rpoMs", "RPO measured", "实测 RPO", card.rpo_ms.map(milliseconds), says);
    let abort = card.abort_ms.map(milliseconds);
    add(
        "abortMs",
        "From breach to moving back",
        "自越限至回切",
        abort,
        Text::new("no objective was breached", "未越限"),
    );
    let probes = (card.probes > 0).then(|| {
        Text::new(
            format!("{} of {} probes failed", card.probes_failed, card.probes),
            format!("{} 次探测中 {} 次失败", card.probes, card.probes_failed),
        )
    });
    add("errors", "Errors", "错误", probes, Text::new("no probe was sent", "未探测"));
    let capacity = card.capacity.as_ref().map(Text::same);
    add("capacity", "Capacity of the sites that stay", "其余站点容量", capacity, Text::new("not known", "未知"));
    let by_people = card.steps_by_people().to_string();
    add("stepsByPeople", "Steps done by people", "人工步骤数", Some(Text::same(by_people)), none());
    let reconciliation = signed.and_then(|s| s.reconciliation.as_ref()).map(Text::same);
    add("reconciliation", "Reconciliation", "对账结果", reconciliation, not_said());
    let customers = signed.and_then(|s| s.customers_affected).map(|count| Text::same(count.to_string()));
    add("customersAffected", "Customers affected", "受影响客户数", customers, not_said());
    let grade = signed.and_then(|s| s.incident_grade.as_ref()).map(Text::same);
    add("incidentGrade", "Incident grade", "事件等级", grade, not_said());
    add("confirmedBy", "Confirmed by", "业务确认人", signed.map(|s| Text::same(&s.by)), not_said());
    Ok(DrillReport {
        drill: name.to_owned(),
        ticket: card.ticket.clone(),
        fields,
        services: card.services.clone(),
        steps: card.steps.clone(),
        remediation: signed.map(|s| s.remediation.clone()).unwrap_or_default(),
    })
}

fn result(result: DrillResult) -> Text {
    match result {
        DrillResult::Passed => Text::new("passed", "通过"),
        DrillResult::Failed => Text::new("failed", "未通过"),
        DrillResult::Aborted => Text::new("aborted", "中止"),
        DrillResult::Interrupted => Text::new("interrupted by a real incident", "因真实事件中断"),
        DrillResult::Refused => Text::new("not begun", "未开始"),
    }
}

fn milliseconds(value: u64) -> Text {
    Text::same(format!("{value} ms"))
}

fn span(from: Option<&str>, to: Option<&str>) -> Option<u64> {
    let (from, to): (Timestamp, Timestamp) = (from?.parse().ok()?, to?.parse().ok()?);
    u64::try_from(to.duration_since(from).as_millis()).ok()
}

/// The report as one page, without script, fit for print. The same report gives the same bytes.
pub fn drill_html(report: &DrillReport, language: Language) -> String {
    let say = |english: &'static str, chinese: &'static str| language.of(english, chinese);
    let title = say("Drill report", "演练报告");
    let mut out = String::with_capacity(16 << 10);
    let _ = writeln!(
        out,
        "<header><div><div class=\"brand\">Evergreen 常青</div><h1>{title}</h1></div><dl class=\"meta\">\
         <dt>{}</dt><dd>{}</dd><dt>{}</dt><dd>{}</dd></dl></header>",
        say("Drill", "演练"),
        escape(&report.drill),
        say("Ticket", "工单"),
        escape(&report.ticket)
    );
    let head = |out: &mut String, heading: &str, columns: &[&str]| {
        let _ = write!(out, "<h2>{heading}</h2><div class=\"scroll\"><table><thead><tr>");
        for column in columns {
            let _ = write!(out, "<th>{column}</th>");
        }
        out.push_str("</tr></thead><tbody>");
    };
    let row = |out: &mut String, cells: &[&str]| {
        out.push_str("<tr>");
        for cell in cells {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>");
    };
    head(&mut out, say("Scorecard", "评分卡"), &[say("Field", "项目"), say("Value", "值"), say("Remark", "说明")]);
    for field in &report.fields {
        let value = field.value.as_ref().map_or(say("not stated", "未给出"), |value| value.of(language));
        // A remark on why a value is absent is of no use where it is there.
        let absent_only = matches!(
            field.name,
            "approvers"
                | "reconciliation"
                | "customersAffected"
                | "incidentGrade"
                | "capacity"
                | "errors"
                | "abortMs"
                | "confirmedBy"
        ) || field.name.ends_with("At");
        let says = if absent_only && field.value.is_some() { "" } else { field.says.of(language) };
        row(&mut out, &[field.label.of(language), value, says]);
    }
    out.push_str("</tbody></table></div>\n");
    head(&mut out, say("Services", "服务"), &[say("Service", "服务"), say("Before", "演练前"), say("Away", "演练中")]);
    for service in &report.services {
        row(&mut out, &[&service.name, &service.before.join(", "), &service.away.join(", ")]);
    }
    out.push_str("</tbody></table></div>\n");
    head(&mut out, say("Steps", "步骤"), &[say("Time", "时间"), say("By", "执行者"), say("What", "内容")]);
    for step in &report.steps {
        row(&mut out, &[&step.at, &step.by, &step.what]);
    }
    out.push_str("</tbody></table></div>\n");
    head(
        &mut out,
        say("Remediation", "整改项"),
        &[say("What", "内容"), say("Owner", "责任人"), say("Due", "期限"), say("Closed", "关闭")],
    );
    for item in &report.remediation {
        let open = say("open", "未关闭");
        row(
            &mut out,
            &[&item.what, &item.owner, item.due.as_deref().unwrap_or(""), item.closed.as_deref().unwrap_or(open)],
        );
    }
    out.push_str("</tbody></table></div>\n");
    document(language.tag(), title, include_str!("render/report.css"), &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(signed: Option<&DrillSignOff>) -> DrillReport {
        let spec = serde_json::from_value(
            serde_json::json!({"site": "dc-a", "recoveryClass": 1, "objectives": {"rto": "2s"}}),
        )
        .unwrap();
        let card = Scorecard {
            ticket: "t-1".into(),
            requested_by: "<li>".into(),
            opened_at: "2026-11-23T02:00:00Z".into(),
            started_at: Some("2026-11-23T02:00:01Z".into()),
            moved_at: Some("2026-11-23T02:00:05.5Z".into()),
            result: Some(DrillResult::Passed),
            rto_ms: Some(3_000),
            ..Scorecard::default()
        };
        drill_report("weekly", &spec, &card, signed).unwrap()
    }

    fn field<'a>(report: &'a DrillReport, name: &str) -> &'a DrillField {
        report.fields.iter().find(|field| field.name == name).unwrap()
    }

    #[test]
    fn what_was_measured_is_compared_and_what_was_not_is_absent() {
        let report = report(None);
        assert_eq!(field(&report, "moveMs").value, Some(Text::same("4500 ms")));
        let rto = field(&report, "rtoMs");
        assert!(rto.says.en.contains("objective 2000 ms: missed") && rto.says.en.contains("(21600 s): met"), "{rto:?}");
        assert_eq!(field(&report, "rpoMs").value, None);
        assert_eq!(field(&report, "reconciliation").value, None);
        assert!(field(&report, "reconciliation").says.zh.contains("业务方"));
    }

    #[test]
    fn what_the_business_side_says_is_in_it() {
        let signed = DrillSignOff { by: "zhao".into(), customers_affected: Some(0), ..DrillSignOff::default() };
        let report = report(Some(&signed));
        assert_eq!(field(&report, "customersAffected").value, Some(Text::same("0")));
    }

    #[test]
    fn pages_are_in_both_languages_and_escape_what_they_show() {
        let report = report(None);
        let (en, zh) = (drill_html(&report, Language::English), drill_html(&report, Language::Chinese));
        assert!(en.contains("&lt;li&gt;") && !en.contains("<li>"));
        assert!(zh.contains("演练报告") && zh.contains("lang=\"zh-CN\"") && zh.contains("实测 RTO"));
        assert_eq!(en, drill_html(&report, Language::English));
    }
}
