//! Which family a CPU belongs to, from the name it gives itself or from /proc/cpuinfo's numbers.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

use super::Machine;

/// What is known about a family.
#[derive(Clone, Debug, Deserialize)]
pub struct Fact {
    /// Year of launch.
    pub launch: f64,
    /// Feature size of the process.
    pub nanometres: f64,
    /// Who makes it.
    pub maker: String,
    pool: Option<String>,
}

/// CPU families by name.
#[derive(Clone, Debug)]
pub struct Families {
    facts: BTreeMap<String, Fact>,
    patterns: Vec<(Regex, String)>,
    aliases: BTreeMap<String, String>,
    cpuid: BTreeMap<String, Vec<(u32, Vec<u32>, u32, u32, String)>>,
}

/// Why the families could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FamiliesError {
    /// Not JSON of this form.
    #[error("the CPU families cannot be read")]
    Json(#[from] serde_json::Error),
    /// A pattern is no regular expression.
    #[error("a CPU name pattern is wrong")]
    Pattern(#[from] regex::Error),
}

#[derive(Deserialize)]
struct File {
    families: BTreeMap<String, Fact>,
    patterns: Vec<(String, String)>,
    aliases: BTreeMap<String, String>,
    cpuid: BTreeMap<String, serde_json::Value>,
}

impl Families {
    /// Reads `data/cpu-families.json`.
    ///
    /// # Errors
    /// When it is no JSON of that form or a pattern is wrong.
    pub fn parse(text: &str) -> Result<Self, FamiliesError> {
        let mut file: File = serde_json::from_str(text)?;
        file.cpuid.remove("about");
        let mut patterns = Vec::with_capacity(file.patterns.len());
        for (pattern, family) in file.patterns {
            patterns.push((Regex::new(&pattern)?, family));
        }
        let mut cpuid = BTreeMap::new();
        for (vendor, rows) in file.cpuid {
            cpuid.insert(vendor, serde_json::from_value(rows)?);
        }
        Ok(Self { facts: file.families, patterns, aliases: file.aliases, cpuid })
    }

    /// The family: the CPU's own name before the given architecture, which is coarser.
    pub fn find<'a>(&'a self, machine: &Machine) -> Option<&'a str> {
        let name = clean(machine.cpu_name.as_deref().unwrap_or_default());
        if let Some((_, family)) = self.patterns.iter().find(|(pattern, _)| pattern.is_match(&name)) {
            return Some(family);
        }
        let given = machine.architecture.as_deref().unwrap_or_default().trim().to_lowercase();
        let given = self.aliases.get(&given).unwrap_or(&given);
        self.facts.get_key_value(given).map(|(family, _)| family.as_str())
    }

    /// The family that /proc/cpuinfo's vendor, family, model and stepping mean.
    pub fn of_cpuid(&self, vendor: &str, family: u32, model: u32, stepping: u32) -> Option<&str> {
        self.cpuid.get(vendor)?.iter().find_map(|(of, models, first, last, name)| {
            (*of == family && models.contains(&model) && (*first..=*last).contains(&stepping)).then_some(name.as_str())
        })
    }

    /// Facts about a family.
    pub fn fact(&self, family: &str) -> Option<&Fact> {
        self.facts.get(family)
    }

    /// The pool of a family: families with few machines share one effect.
    pub fn pool<'a>(&'a self, family: &'a str) -> &'a str {
        self.facts.get(family).and_then(|fact| fact.pool.as_deref()).unwrap_or(family)
    }
}

fn clean(name: &str) -> String {
    let mut name = name.to_lowercase();
    for (noise, instead) in [("(r)", ""), ("(tm)", ""), ("processor", " "), ("cpu", " ")] {
        name = name.replace(noise, instead);
    }
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}
