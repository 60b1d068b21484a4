//! What traffic shall look like. A pure value.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::resources::TrafficWhitelist;
use sha2::{Digest, Sha256};

use super::TrafficError;

/// Who shall serve how much of a service, as decided under one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPlan {
    /// `namespace/name` of the service.
    pub service: String,
    /// Failover group.
    pub group: String,
    /// Site whose entry this is for.
    pub own: String,
    /// Counts the changes of who holds the group; a plan of a lower one is refused everywhere.
    pub epoch: u64,
    /// Weight of every site, 0 to 256; their sum is the whole.
    pub shares: BTreeMap<String, u32>,
    /// Site of each unit (cell); empty where the service has none.
    pub units: BTreeMap<String, String>,
    /// Clients that are led to one site whatever the shares are.
    pub whitelist: Option<TrafficWhitelist>,
}

/// Largest weight that every actuator takes: HAProxy's.
const MOST: u32 = 256;

impl TrafficPlan {
    /// Sites with a share, the largest first; of equals the own one first, then by name.
    pub fn serving(&self) -> Vec<(&str, u32)> {
        let mut serving: Vec<(&str, u32)> =
            self.shares.iter().filter(|(_, share)| **share > 0).map(|(site, share)| (site.as_str(), *share)).collect();
        serving.sort_by_key(|(site, share)| (std::cmp::Reverse(*share), *site != self.own, (*site).to_owned()));
        serving
    }

    /// Weight of a site.
    pub fn share(&self, site: &str) -> u32 {
        self.shares.get(site).copied().unwrap_or(0)
    }

    /// Whether all sites that serve have the same share.
    pub fn is_even(&self) -> bool {
        self.serving().iter().map(|(_, share)| *share).collect::<BTreeSet<_>>().len() <= 1
    }

    /// Refuses what no actuator may do.
    ///
    /// # Errors
    /// When nobody would serve, a weight is out of range, or a unit or the whitelist names a site without a name in the
    /// shares.
    pub fn check(&self) -> Result<(), TrafficError> {
        let wrong = |why: String| TrafficError::Unsupported { what: format!("the plan of {}", self.service), why };
        if self.shares.values().all(|share| *share == 0) {
            let why = format!("the plan of {} leaves no site to serve it", self.service);
            return Err(TrafficError::LastEndpoint(why));
        }
        if let Some((site, share)) = self.shares.iter().find(|(_, share)| **share > MOST) {
            return Err(wrong(format!("site {site} has weight {share}; {MOST} is the most")));
        }
        let whitelist = self.whitelist.as_ref().map(|list| &list.site);
        match self.units.values().chain(whitelist).find(|site| !self.shares.contains_key(*site)) {
            Some(site) => {
                Err(wrong(format!("a unit or the whitelist names site {site}, which the service does not have")))
            }
            None => Ok(()),
        }
    }

    /// Eight hexadecimal digits that tell two plans of one epoch apart.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        for (site, share) in &self.shares {
            add(site);
            add(&share.to_string());
        }
        for (unit, site) in &self.units {
            add(unit);
            add(site);
        }
        if let Some(list) = &self.whitelist {
            [&list.header, &list.value, &list.site].into_iter().for_each(|text| add(text));
        }
        hex::encode(&hash.finalize()[..4])
    }
}

#[cfg(test)]
pub(super) fn example(epoch: u64, own: &str, shares: &[(&str, u32)]) -> TrafficPlan {
    TrafficPlan {
        service: "shop/checkout".into(),
        group: "shop.checkout".into(),
        own: own.into(),
        epoch,
        shares: shares.iter().map(|(site, share)| ((*site).to_owned(), *share)).collect(),
        ..TrafficPlan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_anybody_is_refused() {
        let error = example(1, "a", &[("a", 0), ("b", 0)]).check().unwrap_err();
        assert!(matches!(error, TrafficError::LastEndpoint(_)), "{error}");
        assert!(example(1, "a", &[("a", 0), ("b", 1)]).check().is_ok());
        assert!(example(1, "a", &[("a", 257)]).check().is_err());
    }

    #[test]
    fn the_own_site_comes_first_among_equals() {
        assert_eq!(example(1, "b", &[("a", 50), ("b", 50), ("c", 0)]).serving(), [("b", 50), ("a", 50)]);
        assert_eq!(example(1, "b", &[("a", 60), ("b", 40)]).serving(), [("a", 60), ("b", 40)]);
    }

    #[test]
    fn plans_of_one_epoch_that_differ_have_different_digests() {
        let one = example(1, "a", &[("a", 100), ("b", 0)]);
        let mut two = one.clone();
        two.units.insert("07".into(), "b".into());
        assert_ne!(one.digest(), two.digest());
        assert_ne!(one.digest(), example(1, "a", &[("a", 0), ("b", 100)]).digest());
    }
}
