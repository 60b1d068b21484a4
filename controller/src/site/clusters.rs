//! Which cluster stands behind each data center's name: the UID of its namespace kube-system, which survives an etcd
//! restore and differs between any two clusters. A majority counts clusters, so none may be counted under two names, and
//! none may take another's place unseen.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Why a register must not be used, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word, for conditions.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What is known of the clusters behind the data centers' names.
#[derive(Debug)]
pub struct Clusters {
    own: String,
    /// What was declared, or seen first in an earlier life.
    pinned: BTreeMap<String, String>,
    witnesses: Vec<String>,
    seen: Mutex<BTreeMap<String, String>>,
}

impl Clusters {
    /// `pinned` and `witnesses` by data center; `uid` is the own cluster's.
    ///
    /// # Errors
    /// When the own cluster is not the one that was pinned.
    pub fn new(
        own: &str,
        uid: String,
        pinned: BTreeMap<String, String>,
        witnesses: Vec<String>,
    ) -> Result<Self, Refusal> {
        let clusters = Self { own: own.to_owned(), pinned, witnesses, seen: Mutex::default() };
        clusters.judge(own, &uid)?;
        Ok(clusters)
    }

    /// Takes in which cluster answered under a data center's name.
    ///
    /// # Errors
    /// Why it must not count: another cluster was pinned, or the same one answers under another name.
    pub fn judge(&self, site: &str, uid: &str) -> Result<(), Refusal> {
        let mut seen = self.seen.lock();
        let expected = self.pinned.get(site).or_else(|| seen.get(site));
        if let Some(expected) = expected.filter(|expected| *expected != uid) {
            return Err(Refusal {
                reason: "WrongCluster",
                message: format!(
                    "under the name {site} answers the cluster {uid}, but {site} is the cluster {expected}: correct its \
                     kubeconfig; if {site} was built anew on purpose, set spec.apiServer.clusterUid of DataCenter {site} \
                     to {uid} at every data center and restart the controllers, one after the other"
                ),
            });
        }
        let others = self.pinned.iter().chain(seen.iter());
        if let Some((other, _)) = others.into_iter().find(|(other, known)| *other != site && *known == uid) {
            let role = |name: &str| match (name == self.own, self.witnesses.iter().any(|witness| witness == name)) {
                (true, _) => format!("{name} (this data center)"),
                (_, true) => format!("the witness {name}"),
                _ => name.to_owned(),
            };
            let witness = [site, other].iter().any(|name| self.witnesses.iter().any(|witness| witness == name));
            let remedy = if witness { "a witness has to be a cluster of its own, in a third place" } else { "" };
            return Err(Refusal {
                reason: "SharedCluster",
                message: format!(
                    "{} and {} are one and the same cluster ({uid}), which must not count twice: correct the kubeconfig \
                     that is wrong{}{remedy}",
                    role(site),
                    role(other),
                    if witness { "; " } else { "" }
                ),
            });
        }
        seen.insert(site.to_owned(), uid.to_owned());
        Ok(())
    }

    /// The cluster behind a name, once it was seen and found right.
    pub fn of(&self, site: &str) -> Option<String> {
        self.seen.lock().get(site).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(pinned: &[(&str, &str)]) -> Clusters {
        let pinned = pinned.iter().map(|(site, uid)| ((*site).to_owned(), (*uid).to_owned())).collect();
        Clusters::new("dc-a", "uid-a".into(), pinned, vec!["dc-w".into()]).expect("the own cluster is right")
    }

    #[test]
    fn the_first_sight_pins_and_another_cluster_is_refused_with_the_remedy() {
        let known = clusters(&[]);
        known.judge("dc-b", "uid-b").unwrap();
        known.judge("dc-b", "uid-b").unwrap();
        let refused = known.judge("dc-b", "uid-x").unwrap_err();
        assert_eq!(refused.reason, "WrongCluster");
        assert!(refused.message.contains("spec.apiServer.clusterUid"), "{}", refused.message);
        assert_eq!(known.of("dc-b").as_deref(), Some("uid-b"), "a refused cluster pins nothing");
    }

    #[test]
    fn a_pin_of_an_earlier_life_counts() {
        let known = clusters(&[("dc-b", "uid-b")]);
        assert_eq!(known.judge("dc-b", "uid-x").unwrap_err().reason, "WrongCluster");
        assert_eq!(known.judge("dc-c", "uid-b").unwrap_err().reason, "SharedCluster", "before dc-b was seen at all");
        assert!(Clusters::new("dc-a", "uid-x".into(), [("dc-a".into(), "uid-a".into())].into(), vec![]).is_err());
    }

    #[test]
    fn one_cluster_never_counts_under_two_names() {
        let known = clusters(&[]);
        let own = known.judge("dc-b", "uid-a").unwrap_err();
        assert!(own.message.contains("dc-a (this data center)"), "{}", own.message);
        known.judge("dc-b", "uid-b").unwrap();
        let witness = known.judge("dc-w", "uid-b").unwrap_err();
        assert!(witness.message.contains("the witness dc-w") && witness.message.contains("third place"), "{witness:?}");
    }
}
