//! Everything that the demo says to people, in English and 简体中文, in one place.

use std::time::Duration;

use evergreen_api::resources::StepOutcome;

/// A sentence in both languages.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Text {
    /// English.
    pub en: String,
    /// 简体中文.
    pub zh: String,
}

/// Language of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    /// English.
    En,
    /// 简体中文.
    Zh,
}

impl Lang {
    /// As the environment asks: `LC_ALL`, then `LANG`.
    pub fn from_env() -> Self {
        let asked = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
            .unwrap_or_default();
        if asked.starts_with("zh") { Self::Zh } else { Self::En }
    }
}

impl Text {
    /// A sentence from its two forms.
    pub fn new(en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }

    /// What reads the same in both languages.
    #[cfg(test)]
    pub fn same(text: impl std::fmt::Display) -> Self {
        Self::new(text.to_string(), text.to_string())
    }

    /// The form of one language.
    pub fn get(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Zh => &self.zh,
        }
    }
}

/// Both forms of a sentence; the arguments are captured by name.
macro_rules! both {
    ($en:literal, $zh:literal) => {
        Text::new(format!($en), format!($zh))
    };
}

/// A duration for people: `340 ms`, `6.2 s`.
pub fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

pub fn title() -> Text {
    both!(
        "Evergreen demo: three simulated data centers on this machine, real agents, controllers and plane",
        "常青演示：本机上的三个模拟数据中心，真实的代理、控制器与监控平面"
    )
}

pub fn override_summary() -> Text {
    both!(
        "The demo overrides cautious defaults, so that it fits into a minute; in production they stay as they are:",
        "为在一分钟内演示完毕，以下谨慎的默认值被公开覆盖；生产环境应保持默认："
    )
}

pub fn override_line(what: &str, default: &str, demo: &str) -> Text {
    both!("{what}: {demo} (default {default})", "{what}：{demo}（默认 {default}）")
}

pub fn plane_ready(url: &str) -> Text {
    both!("monitoring plane is up at {url}", "监控平面已就绪：{url}")
}

pub fn site_ready(site: &str, nodes: usize, api: &str) -> Text {
    both!("{site}: API server at {api}, {nodes} nodes", "{site}：API 服务器 {api}，{nodes} 个节点")
}

pub fn own_machine(site: &str, node: &str) -> Text {
    both!(
        "this machine is node {node} of {site}, read by a real agent (nothing is scheduled on it)",
        "本机作为 {site} 的节点 {node}，由真实代理读取（不调度任何 Pod）"
    )
}

pub fn processes_started(agents: usize, controllers: usize) -> Text {
    both!("{agents} agents and {controllers} controllers started", "已启动 {agents} 个代理与 {controllers} 个控制器")
}

pub fn service_up(holders: &str) -> Text {
    both!("checkout is served by {holders}", "checkout 由 {holders} 提供服务")
}

pub fn clients_open(rate: u32) -> Text {
    both!("clients begin: {rate} requests a second", "客户端开始访问：每秒 {rate} 个请求")
}

pub fn waiting_plane() -> Text {
    both!("the plane to be ready", "等待监控平面就绪")
}

pub fn waiting_holders(want: &str) -> Text {
    both!("{want} to hold the service", "等待 {want} 持有服务")
}

pub fn waiting_rotation(want: &str) -> Text {
    both!("{want} to be in the clients' rotation", "等待 {want} 进入客户端轮转")
}

pub fn waiting_pods() -> Text {
    both!("the pods of checkout to be ready", "等待 checkout 的 Pod 就绪")
}

pub fn waiting_agents() -> Text {
    both!("every agent to report its node", "等待所有代理上报节点")
}

pub fn chapter_prepare() -> Text {
    both!("Preparation", "准备")
}

pub fn chapter_kernel() -> Text {
    both!("Story one: the kernel of a node breaks", "故事一：节点内核出错")
}

pub fn chapter_site() -> Text {
    both!("Story two: a data center is lost and comes back", "故事二：数据中心丢失并恢复")
}

pub fn chapter_energy() -> Text {
    both!("Story three: what it cost in energy", "故事三：能耗报告")
}

pub fn chapter_end() -> Text {
    both!("Summary", "总结")
}

pub fn kernel_fault(node: &str, pods: usize) -> Text {
    both!(
        "the kernel log of {node} shows an oops ({pods} pods of checkout run there)",
        "{node} 的内核日志出现 oops（其上运行 {pods} 个 checkout Pod）"
    )
}

pub fn kernel_condition(kind: &str, after: Duration) -> Text {
    let after = human(after);
    both!("its agent set the condition {kind}, {after} after the fault", "其代理在故障后 {after} 设置状况 {kind}")
}

pub fn waiting_condition() -> Text {
    both!("the agent to see the fault", "等待代理发现故障")
}

pub fn waiting_run() -> Text {
    both!("the controller to start a playbook", "等待控制器启动预案")
}

pub fn waiting_step(what: &str) -> Text {
    both!("the playbook: {what}", "预案执行中：{what}")
}

pub fn run_started(playbook: &str, run: &str) -> Text {
    both!("playbook {playbook} begins (run {run})", "预案 {playbook} 开始（运行 {run}）")
}

pub fn run_step(action: &str, outcome: StepOutcome, message: &str) -> Text {
    let (en, zh) = match outcome {
        StepOutcome::Done => ("done", "完成"),
        StepOutcome::Skipped => ("not needed", "无需执行"),
        StepOutcome::Failed => ("FAILED", "失败"),
        StepOutcome::Ambiguous => ("outcome unknown", "结果不明"),
    };
    let name = match action {
        "cordon" => "停止调度 (cordon)",
        "drain" => "迁走 Pod (drain)",
        "restart" => "重启 (restart)",
        "wait" => "等待 (wait)",
        "verify" => "验证 (verify)",
        "uncordon" => "恢复调度 (uncordon)",
        other => other,
    };
    let detail = if message.is_empty() { String::new() } else { format!(": {message}") };
    both!("{action} {en}{detail}", "{name} {zh}{detail}")
}

pub fn run_ended(run: &str, phase: &str) -> Text {
    both!("run {run} ended as {phase}", "运行 {run} 以 {phase} 结束")
}

pub fn node_not_back(node: &str) -> Text {
    both!(
        "{node} was not given back: it is still cordoned or still has the condition",
        "{node} 未归还：仍被隔离或状况仍在"
    )
}

pub fn budget_broken(least: usize, needed: usize) -> Text {
    both!(
        "the PodDisruptionBudget was broken: only {least} ready pods, {needed} asked",
        "PodDisruptionBudget 被突破：就绪 Pod 仅 {least} 个，要求 {needed} 个"
    )
}

pub fn node_repaired(node: &str) -> Text {
    both!("{node} is drained, so it is repaired: it boots again", "{node} 已排空，进行修复：重新启动")
}

pub fn node_healed(node: &str, after: Duration) -> Text {
    let after = human(after);
    both!("{node} is healed and back in service, {after} after the fault", "{node} 已自愈并恢复服务，距故障 {after}")
}

pub fn budget_kept(least: usize, needed: usize) -> Text {
    both!(
        "the PodDisruptionBudget was kept: never fewer than {least} ready pods (at least {needed} asked)",
        "PodDisruptionBudget 未被突破：就绪 Pod 最少 {least} 个（要求至少 {needed} 个）"
    )
}

pub fn client_errors(errors: u64, requests: u64) -> Text {
    both!("clients saw {errors} errors in {requests} requests", "客户端 {requests} 个请求中出现 {errors} 个错误")
}

pub fn site_lost(site: &str) -> Text {
    both!(
        "{site} is lost: its API server, entry, nodes, agents and controller, all at once",
        "{site} 整体丢失：API 服务器、入口、节点、代理与控制器同时消失"
    )
}

pub fn waiting_suspected(site: &str) -> Text {
    both!("the other sites to miss {site}", "等待其余站点发现 {site} 丢失")
}

pub fn site_suspected(site: &str, after: Duration) -> Text {
    let after = human(after);
    both!("{site} was suspected {after} after the loss", "丢失后 {after}，{site} 被怀疑")
}

pub fn site_took_over(site: &str, lost: &str, after: Duration) -> Text {
    let after = human(after);
    both!(
        "the assignment map names {site} in place of {lost}, {after} after the loss",
        "丢失后 {after}，分配表由 {lost} 改为 {site}"
    )
}

pub fn waiting_takeover(lost: &str) -> Text {
    both!("another site to take over from {lost}", "等待其他站点接管 {lost}")
}

pub fn clients_reach(site: &str, after: Duration) -> Text {
    let after = human(after);
    both!("{site} answers clients, {after} after the loss", "丢失后 {after}，{site} 开始响应客户端")
}

pub fn site_returns(site: &str) -> Text {
    both!("{site} comes back: machines, API server, controller, agents", "{site} 恢复：机器、API 服务器、控制器、代理")
}

pub fn waiting_failback(site: &str) -> Text {
    both!("{site} to soak and take its share back", "等待 {site} 观察期结束并取回份额")
}

pub fn site_failed_back(holders: &str, after: Duration) -> Text {
    let after = human(after);
    both!(
        "failed back: {holders} hold the service, {after} after the return",
        "已回切：{holders} 持有服务，距恢复 {after}"
    )
}

pub fn outage(window: Duration, errors: u64) -> Text {
    let window = human(window);
    both!(
        "clients saw {errors} errors within {window}, then none (RTO as clients saw it)",
        "客户端在 {window} 内看到 {errors} 个错误，此后为零（客户端视角 RTO）"
    )
}

pub fn client_errors_back(errors: u64, requests: u64) -> Text {
    both!(
        "during the way back clients saw {errors} errors in {requests} requests",
        "回切期间客户端 {requests} 个请求中出现 {errors} 个错误"
    )
}

pub fn no_outage() -> Text {
    both!("clients saw no error at all", "客户端未看到任何错误")
}

pub fn waiting_energy() -> Text {
    both!("the controller to make the energy report", "等待控制器生成能耗报告")
}

pub fn energy_site(site: &str, kwh: &str, share: &str, facility: Option<&str>) -> Text {
    match facility {
        Some(facility) => both!(
            "{site}: {kwh} kWh of IT, {share} measured; {facility} kWh of the facility by its declared PUE",
            "{site}：IT 用电 {kwh} kWh，其中 {share} 为实测；按申报 PUE 折合设施用电 {facility} kWh"
        ),
        None => both!(
            "{site}: {kwh} kWh of IT, {share} measured; no PUE declared",
            "{site}：IT 用电 {kwh} kWh，其中 {share} 为实测；未申报 PUE"
        ),
    }
}

pub fn energy_asked(report: &str, site: &str) -> Text {
    both!(
        "EnergyReport {report} is applied to {site}, for the whole run",
        "向 {site} 提交覆盖整个过程的 EnergyReport {report}"
    )
}

pub fn energy_differs(reported: &str, plane: &str) -> Text {
    both!("the report says {reported} kWh, the plane {plane} kWh", "报告为 {reported} kWh，而监控平面为 {plane} kWh")
}

/// A failure with what the product last said about it.
pub fn because(failure: &Text, said: &str) -> Text {
    if said.is_empty() {
        return failure.clone();
    }
    Text::new(format!("{}; last said: {said}", failure.en), format!("{}；最后的信息：{said}", failure.zh))
}

pub fn energy_parts(site: &str, parts: u64, whole: u64) -> Text {
    both!(
        "the parts of {site} do not add up: {parts} of {whole} microjoules",
        "{site} 的各部分之和不等于总量：{parts} / {whole} 微焦"
    )
}

pub fn energy_provenance(site: &str, has_sensors: bool) -> Text {
    if has_sensors {
        both!("{site} has energy counters, yet nothing was measured", "{site} 有能耗计数器，却没有实测数据")
    } else {
        both!("{site} has no energy counters, yet something was measured", "{site} 没有能耗计数器，却出现实测数据")
    }
}

pub fn page_with_keep() -> Text {
    both!("evergreen demo --keep leaves it up", "使用 evergreen demo --keep 可保持页面运行")
}

pub fn died(name: &str, status: &str, log: &str) -> Text {
    both!("{name} ended unexpectedly ({status}); its log is {log}", "{name} 意外退出（{status}）；日志：{log}")
}

pub fn dead(names: &str) -> Text {
    both!("programs ended unexpectedly: {names}", "程序意外退出：{names}")
}

pub fn not_raised() -> Text {
    both!("a program ended before everything was up", "尚未全部就绪，已有程序退出")
}

pub fn failed() -> Text {
    both!("the demo did not end well", "演示未顺利完成")
}

pub fn look_into(logs: &str) -> Text {
    both!("look into {logs}, or run it again on a less busy machine", "查看 {logs}，或在较空闲的机器上重试")
}

pub fn late(what: &Text, limit: Duration) -> Text {
    let limit = human(limit);
    Text::new(format!("gave up after {limit} waiting for {}", what.en), format!("{limit} 内未完成：{}", what.zh))
}

pub fn broke(why: &str) -> Text {
    both!("could not go on: {why}", "无法继续：{why}")
}

pub fn all_well(took: Duration) -> Text {
    let took = human(took);
    both!("all stories ended well, in {took}", "全部故事顺利完成，用时 {took}")
}

pub fn kept_up(page: &str) -> Text {
    both!("everything stays up; the page is {page} (Ctrl-C ends)", "一切保持运行；页面：{page}（Ctrl-C 结束）")
}

pub fn interrupted() -> Text {
    both!("interrupted; stopping everything that was started", "已中断，正在停止所有已启动的进程")
}

pub fn interrupted_end() -> Text {
    both!("the demo was interrupted", "演示被中断")
}

/// Words of the summary table and of the report.
pub mod word {
    use super::Text;

    macro_rules! words {
        ($($name:ident: $en:literal / $zh:literal;)+) => {
            $(pub fn $name() -> Text { Text::new($en, $zh) })+
        };
    }

    words! {
        story: "Story" / "故事";
        result: "Result" / "结果";
        well: "well" / "成功";
        not_well: "NOT well" / "未成功";
        detected: "Detected in" / "发现用时";
        healed: "Healed in" / "恢复用时";
        errors: "Client errors" / "客户端错误";
        window: "Error window (RTO)" / "错误窗口 (RTO)";
        trace: "Trace" / "链路追踪";
        kernel: "kernel fault" / "内核故障";
        site_loss: "data center lost" / "数据中心丢失";
        energy: "energy report" / "能耗报告";
        site: "Data center" / "数据中心";
        it_kwh: "IT energy, kWh" / "IT 用电 (kWh)";
        measured: "Measured" / "实测";
        estimated: "Estimated" / "估算";
        calibrated: "Calibrated" / "校准";
        idle: "Idle" / "空闲";
        watts: "Mean power, W" / "平均功率 (W)";
        pue: "PUE (declared)" / "PUE（申报）";
        facility_kwh: "Facility energy, kWh" / "设施用电 (kWh)";
        total: "Total" / "合计";
        not_declared: "not declared" / "未申报";
        report: "Report" / "报告";
        page: "Page" / "页面";
        traces: "Traces" / "链路追踪";
        logs: "Logs" / "日志";
        clients: "What clients saw" / "客户端视角";
        requests_per_second: "requests a second" / "每秒请求数";
        failed: "failed" / "失败";
        time: "Time" / "时间";
        event: "What happened" / "事件";
        overrides: "Defaults that the demo overrides" / "演示覆盖的默认值";
        definitions: "How to read the figures" / "指标说明";
        p99: "p99 latency" / "p99 时延";
        took: "Duration" / "用时";
        begun: "Begun" / "开始时间";
        open_incident: "open the incident" / "打开事件";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_reads_in_both_languages() {
        let text = kernel_condition("KernelOops", Duration::from_millis(340));
        assert!(text.get(Lang::En).contains("KernelOops") && text.get(Lang::En).contains("340 ms"));
        assert!(text.get(Lang::Zh).contains("KernelOops") && text.get(Lang::Zh).contains("状况"));
        assert_eq!(human(Duration::from_millis(6_240)), "6.2 s");
    }
}
