//! Writes a ledger of hours for the report's benchmark: `report_ledger DIRECTORY NODES DAYS PODS_PER_NODE`. The energy of
//! nodes, their idle part, and pods that live for a month each; every figure is drawn from the numbers of its place, so
//! that two runs write the same bytes. It goes past ingest on purpose: a year through OTLP would take hours.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use evergreen_api::telemetry::{attribute, metric};
use evergreen_plane::{args::Retention, stats::Stats, store::Store};
use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};

const HOUR_MS: i64 = 3_600_000;
/// End of the ledger: 2026-01-01T00:00:00Z.
const END_MS: i64 = 1_767_225_600_000;
const POD_DAYS: i64 = 30;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| args.get(index).and_then(|text| text.parse::<i64>().ok()).filter(|n| *n > 0);
    let (Some(directory), Some(nodes), Some(days), Some(pods)) = (args.first(), number(1), number(2), number(3)) else {
        eprintln!("report_ledger DIRECTORY NODES DAYS PODS_PER_NODE");
        return ExitCode::from(2);
    };
    match write(Path::new(directory), nodes, days, pods) {
        Ok(rows) => {
            println!("{rows} rows of hours for {nodes} nodes over {days} days");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("report_ledger: {error}");
            ExitCode::from(1)
        }
    }
}

fn write(directory: &Path, nodes: i64, days: i64, pods: i64) -> Result<i64, Box<dyn std::error::Error>> {
    let retention =
        Retention { max_bytes: 1 << 40, raw: Duration::from_secs(21_600), spans: Duration::from_secs(86_400) };
    Store::open(directory, retention, Arc::new(Stats::default()))?.close();
    let mut connection = Connection::open(directory.join("plane.db"))?;
    connection.execute_batch("PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; PRAGMA cache_size=-65536;")?;
    let transaction = connection.transaction()?;
    let (begin, mut rows, mut id) = (END_MS - days * 24 * HOUR_MS, 0, 0);
    {
        let mut series = transaction.prepare(
            "INSERT INTO series (id, hash, name, kind, unit, labels, site, node, from_zero, interval_ms, rolled_until_ms)
             VALUES (?1, ?2, ?3, 1, 'J', ?4, ?5, ?6, 0, 10000, ?7)",
        )?;
        let mut hour = transaction.prepare(
            "INSERT INTO energy_rollups (series_id, step_ms, bucket_ms, microjoules, gap_ms, first_ms, last_ms)
             VALUES (?1, 3600000, ?2, ?3, 0, ?2, ?4)",
        )?;
        for node in 0..nodes {
            let (site, name) = (format!("dc-{}", node * 3 / nodes), format!("node-{node:04}"));
            let measured = node % 10 < 8;
            let mut all = |name_of: &str, extra: &[(&str, String)], from: i64, to: i64, watts: &dyn Fn(i64) -> i64| {
                id += 1;
                let mut labels = Map::new();
                labels.insert(attribute::SITE.into(), json!(site));
                labels.insert(attribute::NODE.into(), json!(name));
                labels.insert(attribute::PROVENANCE.into(), json!(if measured { "measured" } else { "estimated" }));
                extra.iter().for_each(|(key, value)| drop(labels.insert((*key).into(), json!(value))));
                let text = Value::Object(labels).to_string();
                series.execute(params![id, i128::from(id).to_le_bytes(), name_of, text, site, name, END_MS])?;
                let mut at = from;
                while at < to {
                    // Watts over an hour are 3600 joules each.
                    hour.execute(params![id, at, watts(at / HOUR_MS) * 3_600_000_000, at + HOUR_MS - 10_000])?;
                    rows += 1;
                    at += HOUR_MS;
                }
                Ok::<(), rusqlite::Error>(())
            };
            let idle = 90 + node % 40;
            let busy = |hour: i64| if node % 25 == 0 { 3 } else { 40 + (hour * 7 + node * 13) % 160 };
            all(metric::HOST_ENERGY, &[], begin, END_MS, &|hour| idle + busy(hour))?;
            all(metric::NODE_ENERGY, &[(attribute::CONSUMER, "idle".into())], begin, END_MS, &|_| idle)?;
            for pod in 0..pods {
                let (mut from, mut life) = (begin, 0);
                while from < END_MS {
                    let to = (from + POD_DAYS * 24 * HOUR_MS).min(END_MS);
                    let labels = [
                        (attribute::POD_UID, format!("{node}-{pod}-{life}")),
                        (attribute::NAMESPACE, format!("team-{}", (node + pod) % 40)),
                        (attribute::POD, format!("service-{}-7d9c6bdf5-{:05}", (node * 3 + pod) % 300, life)),
                    ];
                    all(metric::POD_ENERGY, &labels, from, to, &|hour| busy(hour) / (pods + 1))?;
                    (from, life) = (to, life + 1);
                }
            }
        }
    }
    for (key, value) in [("raw_floor_ms", END_MS), ("five_minute_floor_ms", END_MS)] {
        transaction.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
    }
    transaction.commit()?;
    Ok(rows)
}
