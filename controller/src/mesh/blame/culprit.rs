//! Ends of paths, and everything that can be blamed.

use std::fmt;

use crate::mesh::place::Place;

/// One end of a path: a node, or a whole site where only that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// Data center.
    pub site: String,
    /// Where it stands there.
    pub place: Place,
    /// Name of the node; empty for a whole site.
    pub node: String,
}

/// Something that can be blamed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Culprit {
    /// One node: its network interface, its cable, its port.
    Node {
        /// Its data center.
        site: String,
        /// Its name.
        node: String,
    },
    /// What lies between two nodes; both are otherwise well.
    Link {
        /// Site and node.
        a: (String, String),
        /// Site and node.
        b: (String, String),
    },
    /// What lies between two racks, two zones or two sites.
    Between {
        /// The one.
        a: Box<Culprit>,
        /// The other one.
        b: Box<Culprit>,
    },
    /// The way out of a rack.
    Rack {
        /// Data center.
        site: String,
        /// Zone and rack.
        place: Place,
    },
    /// The way out of a zone.
    Zone {
        /// Data center.
        site: String,
        /// Zone.
        zone: String,
    },
    /// The way out of a data center.
    Site {
        /// Its name.
        site: String,
    },
    /// The better paths, too, lose much: nobody in particular.
    Everywhere,
}

impl End {
    /// Rack, zone and site that it stands in, as far as they are known.
    pub(super) fn groups(&self) -> Vec<Culprit> {
        let mut groups = Vec::with_capacity(3);
        let site = || self.site.clone();
        if !self.place.rack.is_empty() {
            groups.push(Culprit::Rack { site: site(), place: self.place.clone() });
        }
        if !self.place.zone.is_empty() {
            groups.push(Culprit::Zone { site: site(), zone: self.place.zone.clone() });
        }
        groups.push(Culprit::Site { site: site() });
        groups
    }

    /// What lies between the groups of two ends, as far as they stand in different ones of the same kind.
    pub(super) fn between(&self, other: &Self) -> Vec<Culprit> {
        let mut between = Vec::with_capacity(3);
        for a in self.groups() {
            for b in other.groups() {
                // As for the groups alone: racks and zones are compared within a site.
                if a != b && a.kind() == b.kind() && (a.is_site() || self.site == other.site) {
                    let (a, b) = if a < b { (a.clone(), b) } else { (b, a.clone()) };
                    between.push(Culprit::Between { a: Box::new(a), b: Box::new(b) });
                }
            }
        }
        between
    }
}

impl Culprit {
    /// The group of the same kind that `other` stands in, by name, when it is another one.
    pub(super) fn opposite(&self, other: &End) -> Option<String> {
        let name = match self {
            Self::Rack { .. } => format!("{}/{}", other.site, other.place),
            Self::Zone { .. } => format!("{}/{}", other.site, other.place.zone),
            _ => other.site.clone(),
        };
        let own = match self {
            Self::Rack { site, place } => format!("{site}/{place}"),
            Self::Zone { site, zone } => format!("{site}/{zone}"),
            Self::Site { site } => site.clone(),
            _ => return None,
        };
        (own != name).then_some(name)
    }

    /// Whether it is a whole data center.
    pub fn is_site(&self) -> bool {
        matches!(self, Self::Site { .. })
    }

    /// What it is, in one word for labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node { .. } => "node",
            Self::Link { .. } => "link",
            Self::Between { a, .. } => match a.kind() {
                "rack" => "between_racks",
                "zone" => "between_zones",
                _ => "between_sites",
            },
            Self::Rack { .. } => "rack",
            Self::Zone { .. } => "zone",
            Self::Site { .. } => "site",
            Self::Everywhere => "everywhere",
        }
    }

    /// Which one it is, for labels and people.
    pub fn subject(&self) -> String {
        match self {
            Self::Node { node, .. } => node.clone(),
            Self::Link { a, b } if a.0 == b.0 => format!("{} - {}", a.1, b.1),
            Self::Link { a, b } => format!("{}/{} - {}/{}", a.0, a.1, b.0, b.1),
            Self::Between { a, b } => format!("{} - {}", a.subject(), b.subject()),
            Self::Rack { place, .. } => place.to_string(),
            Self::Zone { zone, .. } => zone.clone(),
            Self::Site { site } => site.clone(),
            Self::Everywhere => "all".to_owned(),
        }
    }

    /// From narrow to wide: of two that explain as much, the narrower one is blamed.
    pub(super) fn breadth(&self) -> u8 {
        match self.kind() {
            "node" | "link" => 0,
            "between_racks" => 1,
            "rack" => 2,
            "between_zones" => 3,
            "zone" => 4,
            "between_sites" => 5,
            "site" => 6,
            _ => 7,
        }
    }

    /// Whether a path between these ends says nothing about anybody else once this is to blame.
    pub(super) fn concerns(&self, a: &End, b: &End) -> bool {
        let holds = |end: &End| match self {
            Self::Node { site, node } => end.site == *site && end.node == *node,
            Self::Rack { site, place } => end.site == *site && end.place == *place,
            Self::Zone { site, zone } => end.site == *site && end.place.zone == *zone,
            _ => false,
        };
        match self {
            Self::Everywhere | Self::Link { .. } => false,
            Self::Site { site } => a.site != b.site && (a.site == *site || b.site == *site),
            Self::Between { .. } => a.between(b).contains(self),
            _ => holds(a) || holds(b),
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject();
        match self {
            Self::Node { .. } => write!(f, "node {subject}"),
            Self::Link { .. } => write!(f, "the link {subject}"),
            Self::Between { a, .. } => write!(f, "what lies between the {}s {subject}", a.kind()),
            Self::Rack { .. } => write!(f, "rack {subject}"),
            Self::Zone { .. } => write!(f, "zone {subject}"),
            Self::Site { .. } => write!(f, "data center {subject}"),
            Self::Everywhere => f.write_str("the network as a whole"),
        }
    }
}

/// A culprit with its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Who.
    pub culprit: Culprit,
    /// Bad paths that it explains.
    pub paths: usize,
    /// Share of their probes that were lost, 0 to 1.
    pub loss: f64,
    /// Share of their probes that came far too late, 0 to 1.
    pub late: f64,
    /// Share that is bad on the better paths of the site, 0 to 1.
    pub background: f64,
    /// The worst of the paths, a line each.
    pub evidence: Vec<String>,
}

impl Fault {
    /// One line for people.
    pub fn summary(&self) -> String {
        let mut figures = Vec::new();
        if self.loss >= 0.005 {
            figures.push(format!("{:.0} % lost", self.loss * 100.0));
        }
        if self.late >= 0.005 {
            figures.push(format!("{:.0} % far too late", self.late * 100.0));
        }
        let paths = if self.paths == 1 { "1 path".to_owned() } else { format!("{} paths", self.paths) };
        format!(
            "the network fails at {}: {} on {paths}, against {:.0} % on the better paths",
            self.culprit,
            figures.join(", "),
            self.background * 100.0
        )
    }
}
