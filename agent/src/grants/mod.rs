//! Grants on the node: what the site lets this node serve, and for how long. They end by themselves, with or without a
//! site, an API server or a network. Validity counts from the moment the request was *sent*, on a clock that goes on
//! through suspend; nothing is rounded up.

pub mod pull;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use evergreen_api::grants::{Grant, GrantAck, GrantList, signed_payload};
use ring::signature::{ED25519, UnparsedPublicKey};

/// Groups that one site may grant; a list that is longer is refused.
const MAX_GROUPS: usize = 4_096;

/// Why an answer of the site is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key is not the one this node knows.
    #[error(
        "the site `{site}` shows another public key than the one pinned; if the site was set up anew, restart the agent or give it the new key with --site-public-key"
    )]
    KeyChanged {
        /// Site that answered.
        site: String,
    },
    /// The key is no key.
    #[error("the public key is no base64 Ed25519 key of 32 bytes")]
    MalformedKey,
    /// A list beyond all measure.
    #[error("the list has {0} grants; at most {MAX_GROUPS} are taken")]
    TooMany(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    grant: Grant,
    ends_ms: u64,
}

/// Grants that this node holds.
#[derive(Debug, Default)]
pub struct GrantBook {
    keys: BTreeMap<String, Vec<u8>>,
    configured: Option<Vec<u8>>,
    held: BTreeMap<String, Held>,
    dropped_ms: BTreeMap<String, u64>,
}

/// What an answer of the site changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Grants that are gone and whose end must be acknowledged.
    pub dropped: Vec<Grant>,
    /// Groups whose grant was not taken, and why.
    pub refused: Vec<(String, &'static str)>,
}

impl GrantBook {
    /// A book that believes the key it sees first, or only `public_key` (base64) when one is given.
    ///
    /// # Errors
    /// When the key is no key.
    pub fn new(public_key: Option<&str>) -> Result<Self, Refusal> {
        Ok(Self { configured: public_key.map(decode_key).transpose()?, ..Self::default() })
    }

    /// Takes an answer to the request that was sent at `sent_ms` (milliseconds since boot) and read at `now_ms`.
    ///
    /// # Errors
    /// When nothing of the answer may be believed; what is held goes on to its own end.
    pub fn apply(&mut self, list: &GrantList, sent_ms: u64, now_ms: u64) -> Result<Applied, Refusal> {
        if list.grants.len() > MAX_GROUPS {
            return Err(Refusal::TooMany(list.grants.len()));
        }
        let key = decode_key(&list.public_key)?;
        let pinned = self.configured.as_ref().or_else(|| self.keys.get(&list.site));
        if pinned.is_some_and(|pinned| *pinned != key) {
            return Err(Refusal::KeyChanged { site: list.site.clone() });
        }
        let mut applied = Applied::default();
        for grant in &list.grants {
            if let Err(why) = self.take(grant, &list.site, &key, sent_ms) {
                applied.refused.push((grant.group.clone(), why));
            }
        }
        self.keys.entry(list.site.clone()).or_insert(key);
        // A group of this site that is no longer named is taken back at once.
        let gone: Vec<String> = self
            .held
            .iter()
            .filter(|(group, held)| {
                held.grant.site == list.site && !list.grants.iter().any(|grant| grant.group == **group)
            })
            .map(|(group, _)| group.clone())
            .collect();
        for group in gone {
            self.dropped_ms.insert(group.clone(), now_ms);
            applied.dropped.extend(self.held.remove(&group).map(|held| held.grant));
        }
        Ok(applied)
    }

    fn take(&mut self, grant: &Grant, site: &str, key: &[u8], sent_ms: u64) -> Result<(), &'static str> {
        if grant.site != site {
            return Err("it names another site than the one that answered");
        }
        let signature = BASE64.decode(&grant.signature).map_err(|_| "its signature is no base64")?;
        let payload = signed_payload(&grant.group, &grant.site, grant.epoch, &grant.incarnation);
        UnparsedPublicKey::new(&ED25519, key).verify(&payload, &signature).map_err(|_| "its signature does not fit")?;
        if self.dropped_ms.get(&grant.group).is_some_and(|dropped| sent_ms <= *dropped) {
            return Err("the request is older than the last drop");
        }
        let ends_ms = sent_ms.saturating_add(grant.remaining_ms);
        if let Some(held) = self.held.get(&grant.group) {
            if grant.epoch < held.grant.epoch {
                return Err("its epoch is older than the one held");
            }
            // Two requests may be answered out of order.
            let same = grant.incarnation == held.grant.incarnation && grant.version <= held.grant.version;
            if grant.epoch == held.grant.epoch && same && ends_ms < held.ends_ms {
                return Ok(());
            }
        }
        self.held.insert(grant.group.clone(), Held { grant: grant.clone(), ends_ms });
        Ok(())
    }

    /// The grant of a group with what is left of it, or `None` when there is none or it ended.
    pub fn get(&self, group: &str, now_ms: u64) -> Option<Grant> {
        let held = self.held.get(group)?;
        let remaining_ms = held.ends_ms.checked_sub(now_ms).filter(|left| *left > 0)?;
        Some(Grant { remaining_ms, ..held.grant.clone() })
    }

    /// Groups whose grant is fresh.
    pub fn fresh(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        self.held.iter().filter(move |(_, held)| held.ends_ms > now_ms).map(|(group, _)| group.as_str())
    }
}

/// What is sent to the site after a drop.
pub fn acknowledgement(node: &str, grant: &Grant, answered_ms: u64) -> GrantAck {
    GrantAck {
        node: node.to_owned(),
        group: grant.group.clone(),
        epoch: grant.epoch,
        incarnation: grant.incarnation.clone(),
        version: grant.version,
        answered_ms,
    }
}

fn decode_key(text: &str) -> Result<Vec<u8>, Refusal> {
    BASE64.decode(text.trim()).ok().filter(|key| key.len() == 32).ok_or(Refusal::MalformedKey)
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn list(pair: &Ed25519KeyPair, groups: &[(&str, u64, u64)]) -> GrantList {
        let grants = groups
            .iter()
            .map(|(group, epoch, remaining_ms)| Grant {
                group: (*group).into(),
                site: "dc-a".into(),
                epoch: *epoch,
                incarnation: "i".into(),
                version: 1,
                remaining_ms: *remaining_ms,
                signature: BASE64.encode(pair.sign(&signed_payload(group, "dc-a", *epoch, "i"))),
            })
            .collect();
        GrantList { site: "dc-a".into(), public_key: BASE64.encode(pair.public_key()), grants, answered_ms: 1 }
    }

    #[test]
    fn a_grant_counts_from_the_moment_it_was_asked_for() {
        let mut book = GrantBook::new(None).unwrap();
        book.apply(&list(&pair(1), &[("g", 1, 3_000)]), 1_000, 2_500).unwrap();
        assert_eq!(book.get("g", 2_500).unwrap().remaining_ms, 1_500);
        assert_eq!(book.get("g", 3_999).unwrap().remaining_ms, 1);
        assert!(book.get("g", 4_000).is_none());
        assert!(book.get("other", 0).is_none());
    }

    #[test]
    fn a_group_that_is_no_longer_named_is_dropped_at_once_and_old_answers_do_not_bring_it_back() {
        let mut book = GrantBook::new(None).unwrap();
        book.apply(&list(&pair(1), &[("g", 1, 60_000)]), 0, 1).unwrap();
        let applied = book.apply(&list(&pair(1), &[]), 100, 150).unwrap();
        assert_eq!(applied.dropped.len(), 1);
        assert!(book.get("g", 150).is_none());
        // Asked before the drop, answered after it.
        let applied = book.apply(&list(&pair(1), &[("g", 1, 60_000)]), 120, 200).unwrap();
        assert_eq!(applied.refused, [("g".to_owned(), "the request is older than the last drop")]);
        assert!(book.get("g", 200).is_none());
        book.apply(&list(&pair(1), &[("g", 2, 60_000)]), 300, 310).unwrap();
        assert!(book.get("g", 310).is_some());
    }

    #[test]
    fn an_older_epoch_does_not_replace_a_newer_one() {
        let mut book = GrantBook::new(None).unwrap();
        book.apply(&list(&pair(1), &[("g", 5, 1_000)]), 0, 1).unwrap();
        let applied = book.apply(&list(&pair(1), &[("g", 4, 9_000)]), 10, 11).unwrap();
        assert_eq!(applied.refused.len(), 1);
        assert_eq!(book.get("g", 20).unwrap().epoch, 5);
    }

    #[test]
    fn a_forged_grant_is_refused_and_the_others_are_taken() {
        let mut forged = list(&pair(1), &[("g", 1, 1_000), ("h", 1, 1_000)]);
        forged.grants[0].epoch = 2;
        let mut book = GrantBook::new(None).unwrap();
        let applied = book.apply(&forged, 0, 1).unwrap();
        assert_eq!(applied.refused.len(), 1);
        assert!(book.get("g", 1).is_none() && book.get("h", 1).is_some());
    }

    #[test]
    fn a_key_once_seen_is_the_only_one_believed() {
        let mut book = GrantBook::new(None).unwrap();
        book.apply(&list(&pair(1), &[("g", 1, 1_000)]), 0, 1).unwrap();
        let refusal = book.apply(&list(&pair(2), &[("g", 9, 1_000)]), 10, 11).unwrap_err();
        assert!(matches!(refusal, Refusal::KeyChanged { .. }));
        let configured = BASE64.encode(pair(3).public_key());
        assert!(GrantBook::new(Some(&configured)).unwrap().apply(&list(&pair(1), &[]), 0, 1).is_err());
        assert_eq!(GrantBook::new(Some("x")).unwrap_err(), Refusal::MalformedKey);
    }
}
