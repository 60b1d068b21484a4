//! What differs, what of it is known, and the page that says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use evergreen_twin::{Deviation, Example, Measured, Origin};
use serde_json::Value;

use crate::play::Answer;
use crate::script::{Known, Script, Sequence};

/// Differences of one answer beyond this are not listed.
const MAX_DIFFERENCES: usize = 12;
/// Longest value that is shown.
const MAX_SHOWN: usize = 160;

#[derive(Debug, Clone)]
pub struct Difference {
    pub place: String,
    pub at: String,
    pub real: String,
    pub twin: String,
}

pub struct Compared {
    pub requests: usize,
    pub differences: Vec<Difference>,
}

#[derive(Default)]
pub struct Outcome {
    pub sequences: usize,
    pub requests: usize,
    pub equal: usize,
    pub unknown: Vec<Difference>,
    pub stale: Vec<String>,
    known: BTreeMap<(Origin, String), Vec<Difference>>,
}

pub fn compare(sequence: &Sequence, theirs: &[Answer], ours: &[Answer]) -> Compared {
    let mut differences = Vec::new();
    let mut requests = 0;
    for (index, step) in sequence.steps.iter().enumerate().filter(|(_, s)| !s.unseen) {
        requests += 1;
        let place = format!("{}: {} {}", sequence.name, index + 1, step.r#do);
        let (real, twin) = (&theirs[index], &ours[index]);
        let mut found = Vec::new();
        if real.status != twin.status {
            found.push(("status".to_owned(), real.status.to_string(), twin.status.to_string()));
        }
        walk(Some(&real.body), Some(&twin.body), String::new(), &mut found);
        differences.extend(found.into_iter().take(MAX_DIFFERENCES).map(|(at, real, twin)| Difference {
            place: place.clone(),
            at,
            real,
            twin,
        }));
    }
    Compared { requests, differences }
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or("(absent)".to_owned(), Value::to_string);
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn walk(real: Option<&Value>, twin: Option<&Value>, path: String, found: &mut Vec<(String, String, String)>) {
    if real == twin {
        return;
    }
    match (real, twin) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                walk(a.get(name), b.get(name), format!("{path}/{}", name.replace('/', "~1")), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                walk(a.get(index), b.get(index), format!("{path}/{index}"), found);
            }
        }
        _ => found.push((path, shown(real), shown(twin))),
    }
}

pub fn judge(script: &Script, results: &[Compared]) -> Outcome {
    let mut outcome = Outcome { sequences: results.len(), ..Outcome::default() };
    let mut used = vec![false; script.known.len()];
    for result in results {
        outcome.requests += result.requests;
        let mut places: Vec<&str> = result.differences.iter().map(|d| d.place.as_str()).collect();
        places.dedup();
        outcome.equal += result.requests - places.len();
        for difference in &result.differences {
            let known =
                script.known.iter().position(|k| glob(&k.r#where, &difference.place) && glob(&k.at, &difference.at));
            match known {
                Some(index) => {
                    used[index] = true;
                    let Known { kind, why, .. } = &script.known[index];
                    outcome.known.entry((*kind, why.clone())).or_default().push(difference.clone());
                }
                None => outcome.unknown.push(difference.clone()),
            }
        }
    }
    if std::env::var_os("EVERGREEN_ONLY").is_none() {
        let unused = script.known.iter().zip(&used).filter(|(_, used)| !**used);
        outcome.stale = unused.map(|(k, _)| format!("{} at {}: {}", k.r#where, k.at, k.why)).collect();
    }
    outcome
}

/// `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if part.is_empty() {
            last = Some("");
            continue;
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some("") => true,
        Some(part) => rest.is_empty() || text.ends_with(part),
    }
}

impl Outcome {
    /// Every difference below its reason, for those who look for the next fault to mend.
    pub fn list(&self) -> String {
        let mut text = String::new();
        for ((origin, why), found) in &self.known {
            let _ = writeln!(text, "## {origin:?}: {why}");
            for d in found {
                let _ = writeln!(text, "- {} at {}\n    real {}\n    twin {}", d.place, d.at, d.real, d.twin);
            }
        }
        text
    }

    pub fn tell(&self) -> String {
        let mut text = format!("{} differences that nobody knows of:\n", self.unknown.len());
        for d in &self.unknown {
            let _ = writeln!(text, "- {}\n    at {}\n    real {}\n    twin {}", d.place, d.at, d.real, d.twin);
        }
        text
    }

    /// What is kept of it: the most frequent deviations first.
    pub fn measured(&self, server: &str) -> Measured {
        let mut deviations: Vec<Deviation> = self
            .known
            .iter()
            .map(|((origin, why), found)| Deviation {
                origin: *origin,
                what: why.clone(),
                differences: found.len(),
                example: found.first().map(|d| Example {
                    request: d.place.clone(),
                    at: d.at.clone(),
                    real: d.real.clone(),
                    twin: d.twin.clone(),
                }),
            })
            .collect();
        deviations.sort_by(|a, b| {
            (a.origin == Origin::Version, b.differences, &a.what).cmp(&(
                b.origin == Origin::Version,
                a.differences,
                &b.what,
            ))
        });
        Measured {
            server: server.to_owned(),
            sequences: self.sequences,
            requests: self.requests,
            equal: self.equal,
            deviations,
        }
    }
}

fn page(measured: &Measured) -> String {
    let Measured { server, sequences, requests, equal, .. } = measured;
    let mut text = format!(
        "# In what a twin differs from a Kubernetes cluster\n\n\
         Written by `make twin-deviations`; not to be edited by hand. The differential suite sends {requests} requests in {sequences}\n\
         sequences to a twin and to a real API server ({server}, the one that runs without a container engine) and\n\
         compares status, body and watch events: {equal} answers are the same, the differences of the others are listed here.\n\
         As data: `evergreen_twin::deviations()`, from `twin/src/deviations.json`.\n\n\
         ## By design\n\n",
    );
    for deviation in evergreen_twin::DEVIATIONS {
        let _ = writeln!(text, "- {deviation}");
    }
    for (origin, title) in [
        (Origin::Found, "Found by the suite".to_owned()),
        (Origin::Version, format!("Because the twin follows 1.36 and the real server of the suite is {server}")),
    ] {
        let _ = write!(
            text,
            "\n## {title}\n\n| What | Differences | Example | Place | Real | Twin |\n|---|---|---|---|---|---|\n"
        );
        for found in measured.deviations.iter().filter(|d| d.origin == origin) {
            let Some(d) = &found.example else { continue };
            let cell = |t: &str| t.replace('|', "\\|").replace('`', "'").replace("$ns", "NS");
            let _ = writeln!(
                text,
                "| {} | {} | {} | `{}` | `{}` | `{}` |",
                found.what,
                found.differences,
                cell(&d.request),
                cell(&d.at),
                cell(&d.real),
                cell(&d.twin)
            );
        }
    }
    text.push_str(LEFT_OUT);
    text
}

const LEFT_OUT: &str = "
## Left out of kube-rs's own cluster tests

`make twin-suites` runs the tests of kube, kube-client and kube-runtime that need a cluster against a twin. Left out by
name, because a twin runs no containers and its nodes no kubelet: `pod_can_exec_and_write_to_stdin`,
`pod_can_exec_and_write_to_stdin_from_node_proxy`, `can_get_pod_logs_and_evict`; and because the tests
are built with rustls: `custom_client_openssl_tls_configuration`.
";

/// Compares the page and the data with what they should be, or writes them.
pub fn check_page(outcome: &Outcome, server: &str) {
    if std::env::var_os("EVERGREEN_ONLY").is_some() {
        return;
    }
    let measured = outcome.measured(server);
    let mut data = serde_json::to_string_pretty(&measured).unwrap();
    data.push('\n');
    let (page, root) = (page(&measured), evergreen_tests::root());
    for (path, text) in [("docs/twin-deviations.md", &page), ("twin/src/deviations.json", &data)] {
        let path = root.join(path);
        if std::env::var_os("EVERGREEN_WRITE_DEVIATIONS").is_some() {
            std::fs::write(&path, text).unwrap();
            continue;
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let fresh = kept == *text || !outcome.unknown.is_empty();
        assert!(fresh, "{} is out of date: make twin-deviations", path.display());
    }
}
