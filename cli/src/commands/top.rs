//! `evergreen top`: a live table of the fleet, from the plane's API. It reads and shows; it changes nothing.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use comfy_table::{Cell, Color, Table, presets::UTF8_HORIZONTAL_ONLY};
use evergreen_api::HumanDuration;

use crate::{
    commands::{asked_to_end, block_on},
    exit::{Failure, Outcome},
    http::Http,
    plane::{Fleet, Node, Plane, Site},
};

/// Show the fleet, live, from the monitoring plane.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen top                                   live, every 2 s, until Ctrl-C\n  \
    evergreen top --once --plane http://plane:8080  one table, for a script or a ticket\n  \
    evergreen top --json | jq '.sites[].power_w'    the plane's answer, once")]
pub struct TopArgs {
    /// Address of the monitoring plane.
    #[arg(long, env = "EVERGREEN_PLANE", default_value = "http://127.0.0.1:8080")]
    plane: String,
    /// How often to ask.
    #[arg(long, env = "EVERGREEN_INTERVAL", default_value = "2s")]
    interval: HumanDuration,
    /// Print one table and end.
    #[arg(long, env = "EVERGREEN_ONCE")]
    once: bool,
    /// Print the plane's answer as JSON and end.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

pub fn run(args: &TopArgs) -> Outcome {
    block_on(show(args))
}

async fn show(args: &TopArgs) -> Outcome {
    let plane = Plane::new(&args.plane, Http::new());
    let unreachable = |error: crate::http::HttpError| {
        Failure::unreachable(format_args!("{:#}", anyhow::Error::from(error)))
            .remedy("start evergreen-plane, or name it with --plane URL (evergreen demo --keep runs one)")
    };
    let first = plane.fleet().await.map_err(unreachable)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&first).map_err(anyhow::Error::from)?);
        return Ok(());
    }
    if args.once || !std::io::stdout().is_terminal() {
        println!("{}", render(&first));
        return Ok(());
    }
    draw(&render(&first))?;
    let mut ticks = tokio::time::interval(args.interval.get().max(Duration::from_millis(200)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = asked_to_end() => return Ok(()),
            _ = ticks.tick() => match plane.fleet().await {
                Ok(fleet) => draw(&render(&fleet))?,
                Err(error) => draw(&format!("{:#}\nasking again every {}", anyhow::Error::from(error), args.interval))?,
            }
        }
    }
}

/// Clears the terminal and draws from its top.
fn draw(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    write!(out, "\x1b[2J\x1b[H{text}\n\nCtrl-C ends.\n").and_then(|()| out.flush()).map_err(anyhow::Error::from)?;
    Ok(())
}

fn render(fleet: &Fleet) -> String {
    if fleet.sites.is_empty() {
        return format!("No data center has reported yet ({}).", fleet.generated_at);
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["SITE", "NODE", "STATUS", "CPU", "MEM", "POWER", "ENERGY FROM", "PROBLEMS"]);
    for site in &fleet.sites {
        for node in &site.nodes {
            table.add_row(row(site, node));
        }
    }
    let mut lines = vec![table.to_string()];
    for site in &fleet.sites {
        lines.push(site_line(site));
    }
    for group in &fleet.groups {
        let holders: Vec<String> = group
            .holders
            .iter()
            .map(|holder| {
                format!("{}{}", holder.site, holder.epoch.map(|e| format!(" (epoch {e})")).unwrap_or_default())
            })
            .collect();
        lines.push(format!(
            "group {}: {}",
            group.group,
            if holders.is_empty() { "nobody".into() } else { holders.join(", ") }
        ));
    }
    lines.join("\n")
}

fn row(site: &Site, node: &Node) -> Vec<Cell> {
    let color = match node.status.as_str() {
        "ok" => Color::Green,
        "info" => Color::Cyan,
        "warning" | "degraded" => Color::Yellow,
        _ => Color::Red,
    };
    let problems: Vec<&str> = node.problems.iter().map(|problem| problem.kind.as_str()).collect();
    let source = match (&node.provenance, &node.energy_source) {
        (Some(provenance), Some(source)) => format!("{provenance} ({source})"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "-".to_owned(),
    };
    vec![
        Cell::new(&site.name),
        Cell::new(&node.name),
        Cell::new(&node.status).fg(color),
        Cell::new(share(node.cpu)),
        Cell::new(share(node.memory)),
        Cell::new(node.power_w.map_or_else(|| "-".to_owned(), |watts| format!("{watts:.0} W"))),
        Cell::new(source),
        Cell::new(problems.join(", ")),
    ]
}

fn site_line(site: &Site) -> String {
    let quorum = match site.in_quorum {
        Some(true) => "in quorum",
        Some(false) => "NOT in quorum",
        None => "quorum unknown",
    };
    let lease = match (site.epoch, site.lease_remaining_ms) {
        (Some(epoch), Some(ms)) => format!(", epoch {epoch}, lease for {:.1} s", ms / 1000.0),
        (Some(epoch), None) => format!(", epoch {epoch}"),
        _ => String::new(),
    };
    format!(
        "{}: {quorum}{lease}, {:.0} W, {:.4} kWh",
        site.name,
        site.power_w.unwrap_or_default(),
        site.energy_kwh.unwrap_or_default()
    )
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{:.0}%", v * 100.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fleet_is_one_row_a_node_and_one_line_a_site_and_group() {
        let fleet: Fleet = serde_json::from_value(json!({
            "generated_at": "2026-01-01T00:00:00Z",
            "sites": [{"name": "dc-a", "in_quorum": true, "epoch": 3, "lease_remaining_ms": 5200, "power_w": 410.4,
                "energy_kwh": 0.01, "nodes": [{"name": "a-1", "status": "degraded", "cpu": 0.255, "memory": 0.5,
                "power_w": 200.0, "energy_source": "powercap", "provenance": "measured",
                "problems": [{"kind": "KernelOops", "severity": "degraded", "summary": "x"}]}]}],
            "groups": [{"group": "shop.checkout", "holders": [{"site": "dc-a", "epoch": 3}]}]
        }))
        .unwrap();
        let text = render(&fleet);
        for part in
            ["a-1", "KernelOops", "measured (powercap)", "26%", "in quorum, epoch 3, lease for 5.2 s", "dc-a (epoch 3)"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_plane_that_knows_nothing_yet_says_so() {
        assert!(render(&Fleet::default()).contains("No data center"));
    }
}
