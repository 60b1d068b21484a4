//! Where nodes stand, and an order of them that only their names decide.

use std::fmt;

/// Where a node stands within its data center.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Zone, if it is labelled.
    pub zone: String,
    /// Rack, if it is labelled.
    pub rack: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.zone.is_empty(), self.rack.is_empty()) {
            (_, true) => f.write_str(&self.zone),
            (true, false) => f.write_str(&self.rack),
            (false, false) => write!(f, "{}/{}", self.zone, self.rack),
        }
    }
}

/// FNV-1a of both names, stirred (its high bits know little of the last bytes): stable across versions and machines,
/// which the standard hasher does not promise.
pub fn hash(salt: &str, name: &str) -> u64 {
    let bytes = salt.bytes().chain([0]).chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
