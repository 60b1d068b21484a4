//! What a story cannot ask for: sizes without bounds, names twice, power that comes back without having gone.

use std::collections::BTreeSet;

use super::parse::{Event, Fact, Sentence, Setting};

/// Largest data center of a story.
const MAX_NODES: u32 = 5000;
/// Most pods of one workload.
const MAX_REPLICAS: u32 = 150_000;
/// Largest node: cores, and GiB of memory.
const MAX_CORES: u32 = 4096;
const MAX_GIBIBYTES: u64 = 65_536;

/// Whether a setting can be added to those before it.
///
/// # Errors
/// Why not, and what would be right.
pub(super) fn setting(setting: &Setting, before: &[Setting]) -> Result<(), String> {
    let workload = |s: &Setting| match s {
        Setting::Deployment { name, .. } | Setting::StatefulSet { name, .. } | Setting::DaemonSet { name } => {
            Some(name.clone())
        }
        _ => None,
    };
    let known: Vec<String> = before.iter().filter_map(workload).collect();
    let of = |name: &String| match known.contains(name) {
        true => Ok(()),
        false => Err(format!("there is no workload \"{name}\" before this sentence; give it first")),
    };
    if let Some(name) = workload(setting).filter(|name| known.contains(name)) {
        return Err(format!("this is the second workload \"{name}\"; give it another name"));
    }
    match setting {
        Setting::DataCenter { nodes, .. } if !(1..=MAX_NODES).contains(nodes) => {
            Err(format!("a data center has 1 to {MAX_NODES} nodes, not {nodes}"))
        }
        Setting::NodeSize { cores, gibibytes }
            if !(1..=MAX_CORES).contains(cores) || !(1..=MAX_GIBIBYTES).contains(gibibytes) =>
        {
            Err(format!("a node has at least one core and one GiB, at most {MAX_CORES} cores and {MAX_GIBIBYTES} GiB"))
        }
        Setting::Deployment { replicas, .. } | Setting::StatefulSet { replicas, .. } if *replicas > MAX_REPLICAS => {
            Err(format!("a workload has at most {MAX_REPLICAS} replicas, not {replicas}"))
        }
        Setting::Patience { name, .. } => of(name),
        Setting::Budget { name, of: workload, .. } => {
            if before.iter().any(|s| matches!(s, Setting::Budget { name: other, .. } if other == name)) {
                return Err(format!("this is the second budget \"{name}\"; give it another name"));
            }
            of(workload)
        }
        _ => Ok(()),
    }
}

/// What the events have done so far.
#[derive(Debug, Default)]
pub(super) struct State {
    dark_nodes: BTreeSet<String>,
    dark_zones: BTreeSet<String>,
    dark_site: bool,
    unreachable: bool,
    evictions: usize,
}

impl State {
    /// Follows one step.
    ///
    /// # Errors
    /// Why it cannot happen after those before it.
    pub(super) fn follow(&mut self, step: &Sentence) -> Result<(), String> {
        match step {
            Sentence::When(event, _) => self.happen(event),
            Sentence::Then(Fact::LastEviction { .. }, _) if self.evictions == 0 => {
                Err("there was no eviction before this time; say \"a pod of NAME is evicted\" first".to_owned())
            }
            Sentence::Then(..) => Ok(()),
        }
    }

    fn happen(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::NodePower { node, on } => {
                if !on && self.dark_site {
                    return Err(format!("node {node} has no power while the data center has none"));
                }
                // A zone that lost its power took its nodes along, so one of them may well get it back.
                toggle(&mut self.dark_nodes, "node", node, *on, !self.dark_zones.is_empty() || self.dark_site)
            }
            Event::ZonePower { zone, on } => toggle(&mut self.dark_zones, "zone", zone, *on, false),
            Event::SitePower { on } => {
                if *on != self.dark_site {
                    return Err(said_twice("the data center", *on));
                }
                self.dark_site = !on;
                Ok(())
            }
            Event::Reach { everybody } => {
                if *everybody != self.unreachable {
                    let now = if *everybody { "everybody reaches" } else { "nobody reaches" };
                    return Err(format!("{now} the API server already at this time; leave the sentence out"));
                }
                self.unreachable = !everybody;
                Ok(())
            }
            Event::Evict { .. } => {
                self.evictions += 1;
                Ok(())
            }
            Event::Scale { replicas, .. } if *replicas > MAX_REPLICAS => {
                Err(format!("a workload has at most {MAX_REPLICAS} replicas, not {replicas}"))
            }
            _ => Ok(()),
        }
    }
}

fn toggle(dark: &mut BTreeSet<String>, what: &str, name: &str, on: bool, may_be_dark: bool) -> Result<(), String> {
    let was_dark = dark.contains(name);
    if on && !was_dark && !may_be_dark || !on && was_dark {
        return Err(said_twice(&format!("{what} {name}"), on));
    }
    if on {
        dark.remove(name);
    } else {
        dark.insert(name.to_owned());
    }
    Ok(())
}

fn said_twice(what: &str, on: bool) -> String {
    match on {
        true => format!("{what} has power at this time; it gets power again only after \"{what} loses power\""),
        false => {
            format!("{what} has no power at this time; it loses power again only after \"{what} gets power again\"")
        }
    }
}
