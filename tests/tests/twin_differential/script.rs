//! The requests: generic sequences carried out for every kind of a list, and single ones.

use std::collections::BTreeMap;

use evergreen_twin::Origin;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kinds: Vec<BTreeMap<String, Value>>,
    generic: Vec<Sequence>,
    single: Vec<Sequence>,
}

/// Requests that belong together; they have a namespace of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    pub name: String,
    /// Kinds (by their `name`) that a generic sequence is not for.
    #[serde(default)]
    pub except: Vec<String>,
    /// Only these kinds.
    #[serde(default)]
    pub only: Vec<String>,
    /// `managedFields` are compared as well.
    #[serde(default)]
    pub owners: bool,
    pub steps: Vec<Step>,
    /// The kind's own values.
    #[serde(skip)]
    pub values: BTreeMap<String, Value>,
}

/// One request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `VERB path?query`; the verb `WATCH` reads events.
    pub r#do: String,
    #[serde(default)]
    pub body: Option<Value>,
    /// A body that is no JSON.
    #[serde(default)]
    pub text: Option<String>,
    /// Content type, or one of `json`, `merge`, `strategic`, `apply`.
    #[serde(default)]
    pub r#as: Option<String>,
    #[serde(default)]
    pub accept: Option<String>,
    /// Values of the answer to remember, by JSON pointer.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
    /// Events that a watch waits for.
    #[serde(default)]
    pub events: usize,
    /// The step is repeated, for some seconds, until it has this status: what it asks for takes its time.
    #[serde(default)]
    pub until: Option<u16>,
    /// The answer is not compared: it only prepares what follows.
    #[serde(default)]
    pub unseen: bool,
}

/// A difference that is known.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Sequence and step, as `name: step`; `*` stands for anything.
    pub r#where: String,
    /// Place in the answer: `status` or a JSON pointer; `*` stands for anything.
    pub at: String,
    /// `version` (the real one is older than what the twin follows) or `found`.
    pub kind: Origin,
    pub why: String,
}

pub struct Script {
    pub sequences: Vec<Sequence>,
    pub known: Vec<Known>,
}

pub fn read() -> Script {
    let data =
        |name: &str| std::fs::read_to_string(evergreen_tests::root().join("tests/data/twin").join(name)).unwrap();
    let file: File = serde_yaml::from_str(&data("requests.yaml")).unwrap();
    let mut sequences = Vec::new();
    for sequence in &file.generic {
        for kind in &file.kinds {
            let name = kind["name"].as_str().unwrap().to_owned();
            if sequence.except.contains(&name) || !(sequence.only.is_empty() || sequence.only.contains(&name)) {
                continue;
            }
            sequences.push(Sequence {
                name: format!("{name}: {}", sequence.name),
                values: kind.clone(),
                ..sequence.clone()
            });
        }
    }
    sequences.extend(file.single);
    Script { sequences, known: serde_yaml::from_str(&data("known.yaml")).unwrap() }
}
