//! Pressure stall information: for what share of time tasks waited for CPU, memory or disks.

use std::io;

use serde::Serialize;

use crate::host::Root;

/// Share of time that tasks were stalled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pressure {
    /// cpu, memory or io.
    pub resource: &'static str,
    /// some: at least one task waited; full: all of them did.
    pub kind: &'static str,
    /// 10s, 60s or 300s.
    pub window: &'static str,
    /// 0 to 1.
    pub share: f64,
}

const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];
const WINDOWS: [(&str, &str); 3] = [("avg10=", "10s"), ("avg60=", "60s"), ("avg300=", "300s")];

/// Reads the pressure of all resources.
///
/// # Errors
/// When the kernel offers none (older than 4.20, or switched off), or what it offers is not understood.
pub fn read(root: &Root) -> io::Result<Vec<Pressure>> {
    let mut all = Vec::with_capacity(18);
    let mut failure = None;
    for resource in RESOURCES {
        match root.read(format!("proc/pressure/{resource}")) {
            Ok(text) => parse(resource, &text, &mut all),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if all.is_empty() && error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), "the kernel tells no pressure (Linux before 4.20, or switched off)"))
        }
        Some(error) if all.is_empty() => Err(error),
        None if all.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, "proc/pressure is not understood")),
        _ => Ok(all),
    }
}

fn parse(resource: &'static str, text: &str, all: &mut Vec<Pressure>) {
    for line in text.lines() {
        let kind = match line.split_ascii_whitespace().next() {
            Some("some") => "some",
            Some("full") => "full",
            _ => continue,
        };
        for word in line.split_ascii_whitespace() {
            let known = WINDOWS.iter().find_map(|(key, window)| Some((word.strip_prefix(key)?, *window)));
            let Some((value, window)) = known else { continue };
            let Ok(percent) = value.parse::<f64>() else { continue };
            if percent.is_finite() {
                all.push(Pressure { resource, kind, window, share: (percent / 100.0).clamp(0.0, 1.0) });
            }
        }
    }
}
