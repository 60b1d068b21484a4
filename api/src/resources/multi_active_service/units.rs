//! 单元化: cells by customer shard, each with a single writer of its own, and the table that says which is where.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FieldError;

/// How a service is cut into cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Units {
    /// Where a request carries its shard: name of an HTTP header.
    pub shard_header: String,
    /// Number of shards. Default: 100, numbered 0 to 99.
    #[serde(default = "hundred")]
    pub shards: u32,
    /// Cells; every shard belongs to exactly one.
    pub cells: Vec<Cell>,
    /// ConfigMap beside the service in which each site's controller publishes the routing table. Default:
    /// `<service>-routing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_table: Option<String>,
}

fn hundred() -> u32 {
    100
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cell {
    /// Name; its failover group is `<group>.<cell>`.
    pub name: String,
    /// Its shards, as in `0-49` or `7`.
    pub shards: Vec<String>,
    /// Sites that may hold it, its home first; all of them in `spec.sites`.
    pub sites: Vec<String>,
}

/// Shards `from` to `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardRange {
    /// First.
    pub from: u32,
    /// Last.
    pub to: u32,
}

impl std::str::FromStr for ShardRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of shards: write 7 or 0-49");
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (from, to) = match text.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(text)?, number(text)?),
        };
        if from <= to { Ok(Self { from, to }) } else { Err(wrong()) }
    }
}

impl Cell {
    /// The cell's ranges that can be read, in order.
    pub fn ranges(&self) -> Vec<ShardRange> {
        let mut ranges: Vec<ShardRange> = self.shards.iter().filter_map(|text| text.parse().ok()).collect();
        ranges.sort();
        ranges
    }
}

impl Units {
    /// Finds what is wrong; `path` is where the units stand.
    pub fn validate_for(&self, path: &str, sites: &[String]) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.shard_header.trim().is_empty() {
            errors.push(FieldError::new(format!("{path}.shardHeader"), "name the HTTP header that carries the shard"));
        }
        if self.shards == 0 || self.shards > 65_536 {
            errors.push(FieldError::new(format!("{path}.shards"), "must be between 1 and 65536"));
            return errors;
        }
        if self.cells.is_empty() {
            errors.push(FieldError::new(format!("{path}.cells"), "name at least one cell"));
        }
        let mut owner: BTreeMap<u32, &str> = BTreeMap::new();
        let mut names = std::collections::BTreeSet::new();
        for (index, cell) in self.cells.iter().enumerate() {
            let at = format!("{path}.cells[{index}]");
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if cell.name.is_empty() || cell.name.len() > 40 || !cell.name.chars().all(fits) {
                errors.push(FieldError::new(format!("{at}.name"), "use 1 to 40 of a-z, 0-9 and -"));
            }
            if !names.insert(&cell.name) {
                errors.push(FieldError::new(format!("{at}.name"), format!("`{}` is named twice", cell.name)));
            }
            if cell.sites.is_empty() {
                errors.push(FieldError::new(format!("{at}.sites"), "name at least one site, the home first"));
            }
            for site in cell.sites.iter().filter(|site| !sites.contains(site)) {
                errors.push(FieldError::new(format!("{at}.sites"), format!("site `{site}` is not in spec.sites")));
            }
            for (number, text) in cell.shards.iter().enumerate() {
                let at = format!("{at}.shards[{number}]");
                match text.parse::<ShardRange>() {
                    Err(why) => errors.push(FieldError::new(at, why)),
                    Ok(range) if range.to >= self.shards => {
                        errors.push(FieldError::new(at, format!("`{text}` goes beyond shard {}", self.shards - 1)));
                    }
                    Ok(range) => {
                        let taken = (range.from..=range.to).find_map(|shard| owner.insert(shard, &cell.name));
                        if let Some(other) = taken {
                            errors.push(FieldError::new(at, format!("`{text}` is partly in cell `{other}` already")));
                        }
                    }
                }
            }
        }
        if errors.is_empty()
            && let Some(missing) = (0..self.shards).find(|shard| !owner.contains_key(shard))
        {
            errors.push(FieldError::new(format!("{path}.cells"), format!("shard {missing} belongs to no cell")));
        }
        errors
    }
}
