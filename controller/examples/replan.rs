//! `replan SITES SERVICES`: plans every service anew after a data center is lost and prints the time, the decisions and
//! the peak memory of the process. The facts are read from JSON, as recorded ones are.

use std::time::Instant;

use evergreen_controller::failover::{ServiceFacts, headroom, plan_all};
use serde_json::{Map, Value, json};

fn service(number: usize, sites: &[String]) -> Value {
    let homes: Vec<&String> = sites.iter().cycle().skip(number % sites.len()).take(sites.len()).collect();
    let lost = &sites[0];
    let room = json!({"cpu_millis": 9_000_000, "memory_bytes": 1_u64 << 45, "cpu_requested_millis": 1_000_000,
        "memory_requested_bytes": 1_u64 << 40});
    let workload = json!({"wanted": 4, "cpu_millis": 500, "memory_bytes": 1_u64 << 30, "max_replicas": 20,
        "quota_replicas": null, "budget_short": false});
    let holder = |site: &str| json!({"site": site, "epoch": 1, "incarnation": site});
    let known: Map<String, Value> = sites
        .iter()
        .map(|site| {
            let alive = site != lost;
            let facts = json!({"fresh": alive.then(|| holder(site)), "fresh_for": {"secs": u64::from(alive) * 900, "nanos": 0},
                "unfresh_for": {"secs": u64::from(!alive) * 7, "nanos": 0}, "ready": alive.then_some(4),
                "workload": workload, "room": room, "data": null});
            (site.clone(), facts)
        })
        .collect();
    let single = number.is_multiple_of(2);
    let mut holders: Vec<&str> = homes.iter().take(if single { 1 } else { 2 }).map(|site| site.as_str()).collect();
    holders.sort_unstable();
    let holders: Vec<Value> = holders.into_iter().map(holder).collect();
    let dependencies = match number % 10 {
        9 => json!([{"name": format!("bank/s{}", number - 1), "sites": [], "serves_at": []}]),
        _ => json!([]),
    };
    json!({
        "name": format!("bank/s{number}"), "group": format!("bank.s{number}"), "candidates": homes,
        "spec": {"mode": if single { "ActiveStandby" } else { "ActiveActive" }, "kind": "compute", "sites": homes,
            "minActive": if single { 1 } else { 2 }, "workload": {"deployment": format!("s{number}")}, "traffic": [],
            "enforcement": "enforce", "decision": {"planned": "auto", "unplanned": "auto"}},
        "stability": "steady", "profile": "bank", "same_spec_at": sites.len(), "members": sites.len(),
        "entry": {"version": 1, "holders": holders}, "entry_stable_for": {"secs": 9_000, "nanos": 0}, "moved_for": null,
        "entered_for": {}, "sites": known, "dependencies": dependencies,
        "consent": {"paused": null, "request": null, "approvals": [], "open_for": {}}, "blocked": null,
        "automatic_site": null,
    })
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |at: usize, default: usize| std::env::args().nth(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (sites, services) = (argument(1, 5), argument(2, 5_000));
    let sites: Vec<String> = (0..sites).map(|number| format!("dc-{number}")).collect();
    let mut facts: Vec<ServiceFacts> =
        (0..services).map(|number| serde_json::from_value(service(number, &sites))).collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let decisions = plan_all(&mut facts);
    let planned = begin.elapsed();
    let begin = Instant::now();
    let shortages = headroom(&facts);
    let looked = begin.elapsed();
    println!(
        "{}",
        json!({"sites": sites.len(), "services": services, "planSeconds": planned.as_secs_f64(),
            "headroomSeconds": looked.as_secs_f64(), "decisions": decisions.iter().flatten().count(),
            "short": shortages.values().filter(|status| !status.short.is_empty()).count(), "peakMiB": peak_mib()})
    );
    Ok(())
}
