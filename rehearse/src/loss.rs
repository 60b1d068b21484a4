//! What is lost, and how it is said on the command line.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    fleet::Fleet,
    words::{Words, words},
};

/// One thing that is lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Loss {
    /// A whole data center: power, network, API server.
    Site {
        /// Data center.
        site: String,
    },
    /// All nodes of a zone.
    Zone {
        /// Data center.
        site: String,
        /// Zone.
        zone: String,
    },
    /// A node.
    Node {
        /// Data center.
        site: String,
        /// Node.
        node: String,
    },
    /// All replicas of a service at one data center stop being ready.
    Service {
        /// Data center.
        site: String,
        /// `namespace/name`.
        service: String,
    },
}

/// What `--lose` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    kind: Kind,
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Site,
    Zone,
    Node,
    Service,
}

impl std::str::FromStr for Ask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('=').map_or((text, None), |(kind, name)| (kind, Some(name)));
        let kind = match kind {
            "site" => Kind::Site,
            "zone" => Kind::Zone,
            "node" => Kind::Node,
            "service" => Kind::Service,
            other => return Err(format!("`{other}` cannot be lost: site, zone, node or service, as in node=web-3")),
        };
        if name.is_some_and(str::is_empty) {
            return Err("there is no name after `=`".into());
        }
        Ok(Self { kind, name: name.map(str::to_owned) })
    }
}

impl Ask {
    /// The losses that are meant: one when a name is given, else every one of the kind.
    ///
    /// # Errors
    /// There is no such thing in the fleet, or more than one; says what there is.
    pub fn resolve(&self, fleet: &Fleet) -> Result<Vec<Loss>, String> {
        let all: Vec<Loss> = Loss::every(fleet).into_iter().filter(|loss| loss.kind() == self.kind).collect();
        let Some(name) = &self.name else { return Ok(all) };
        let found: Vec<Loss> = all.iter().filter(|loss| loss.answers_to(name)).cloned().collect();
        if self.kind == Kind::Service && !name.contains('@') && !found.is_empty() {
            return Ok(found);
        }
        match found.len() {
            1 => Ok(found),
            0 => {
                let names: Vec<String> = all.iter().map(Loss::name).take(12).collect();
                let more = if all.len() > names.len() { ", ..." } else { "" };
                Err(format!("the fleet has no {name}; it has {}{more}", names.join(", ")))
            }
            _ => {
                let names: Vec<String> = found.iter().map(Loss::name).collect();
                Err(format!("{name} is ambiguous: {}", names.join(", ")))
            }
        }
    }
}

impl Loss {
    /// Every single loss of a fleet: data centers, zones, nodes, services.
    pub fn every(fleet: &Fleet) -> Vec<Self> {
        let mut all: Vec<Self> = fleet.sites.keys().map(|site| Self::Site { site: site.clone() }).collect();
        for (site, facts) in &fleet.sites {
            let zones: BTreeSet<&String> = facts.nodes.iter().filter_map(|node| node.zone.as_ref()).collect();
            all.extend(zones.into_iter().map(|zone| Self::Zone { site: site.clone(), zone: zone.clone() }));
        }
        for (site, facts) in &fleet.sites {
            all.extend(facts.nodes.iter().map(|n| Self::Node { site: site.clone(), node: n.name.clone() }));
        }
        for service in &fleet.services {
            let running = service.at.iter().filter(|(_, work)| work.ready > 0);
            all.extend(running.map(|(site, _)| Self::Service { site: site.clone(), service: service.id() }));
        }
        all
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Site { .. } => Kind::Site,
            Self::Zone { .. } => Kind::Zone,
            Self::Node { .. } => Kind::Node,
            Self::Service { .. } => Kind::Service,
        }
    }

    /// Data center that it happens in.
    pub fn site(&self) -> &str {
        match self {
            Self::Site { site } | Self::Zone { site, .. } | Self::Node { site, .. } | Self::Service { site, .. } => {
                site
            }
        }
    }

    /// Its name as `--lose` takes it.
    pub fn name(&self) -> String {
        match self {
            Self::Site { site } => site.clone(),
            Self::Zone { site, zone } => format!("{site}/{zone}"),
            Self::Node { site, node } => format!("{site}/{node}"),
            Self::Service { site, service } => format!("{service}@{site}"),
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        self.name() == name
            || match self {
                Self::Site { .. } => false,
                Self::Zone { zone, .. } => zone == name,
                Self::Node { node, .. } => node == name,
                Self::Service { service, .. } => service == name,
            }
    }

    /// Its kind, for people.
    pub fn kind_words(&self) -> Words {
        match self {
            Self::Site { .. } => words("data center", "数据中心"),
            Self::Zone { .. } => words("zone", "可用区"),
            Self::Node { .. } => words("node", "节点"),
            Self::Service { .. } => words("service", "服务"),
        }
    }

    /// It as a sentence.
    pub fn sentence(&self) -> Words {
        match self {
            Self::Site { site } => words(format!("Data center {site} is lost"), format!("数据中心 {site} 整体丢失")),
            Self::Zone { site, zone } => {
                words(format!("Zone {zone} of {site} is lost"), format!("{site} 的可用区 {zone} 丢失"))
            }
            Self::Node { site, node } => {
                words(format!("Node {node} of {site} is lost"), format!("{site} 的节点 {node} 丢失"))
            }
            Self::Service { site, service } => words(
                format!("Every replica of {service} at {site} stops being ready"),
                format!("{service} 在 {site} 的全部副本不再就绪"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_is_a_kind_and_perhaps_a_name() {
        assert_eq!("zone".parse::<Ask>().unwrap().name, None);
        assert_eq!("node=a=b".parse::<Ask>().unwrap().name.as_deref(), Some("a=b"));
        assert!("rack=1".parse::<Ask>().unwrap_err().contains("site, zone, node or service"));
        assert!("node=".parse::<Ask>().is_err());
    }
}
