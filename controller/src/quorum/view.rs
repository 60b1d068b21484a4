//! What this controller has seen of one register, and for how long it has not changed.
//!
//! Expiry is never read off a clock in a record: it is "I saw no change for D on my own monotonic clock" (R3).

use std::{collections::BTreeMap, time::Duration};

use super::{
    mutants::{Mutant, broken},
    record::{Ballot, LeaseVersion, Observed, RegisterContent, RegisterState, SiteRecord, StateVersion},
    timing::Mono,
};

/// A site's record at a register, timed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Timed {
    pub observed: Observed,
    /// When this version was first seen: the receive time of the first read that showed it.
    first_seen: Mono,
    /// Send time of the last read that still showed it.
    last_read_sent: Mono,
}

impl Timed {
    /// For how long the record is known to have stood unchanged: from first sight to the send time of a later read.
    fn unchanged_for(&self) -> Duration {
        self.last_read_sent.saturating_sub(self.first_seen)
    }

    /// How long ago the version was first seen.
    fn age(&self, now: Mono) -> Duration {
        now.saturating_sub(self.first_seen)
    }
}

/// Everything known of one register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub state: Option<(StateVersion, RegisterState)>,
    records: BTreeMap<String, Timed>,
    /// Highest epoch and, within it, serial ever seen, by site: a register that shows less has forgotten.
    high_water: BTreeMap<String, (u64, u64)>,
    /// UID of the state object and the highest ballots that it showed: likewise.
    state_mark: Option<(String, Ballot, Ballot)>,
    /// Why the register is not trusted; for good, until this process ends.
    pub quarantined: Option<String>,
    /// When it last answered a read.
    pub read_at: Option<Mono>,
    /// Why it did not answer the last request.
    pub trouble: Option<String>,
}

impl View {
    /// Takes in a read that was sent at `sent` and received at `now`.
    pub fn observe(&mut self, content: &RegisterContent, sent: Mono, now: Mono) {
        if self.quarantined.is_some() {
            return;
        }
        if let Some(why) = self.forgotten(content) {
            self.quarantined = Some(why);
            self.state = None;
            self.records.clear();
            return;
        }
        self.read_at = Some(now);
        self.trouble = None;
        self.saw_state(&content.version, &content.state);
        for (site, observed) in &content.records {
            let mark = self.high_water.entry(site.clone()).or_default();
            *mark = (*mark).max((observed.record.epoch, observed.record.serial));
            match self.records.get_mut(site) {
                Some(timed) if timed.observed.version == observed.version => {
                    timed.last_read_sent = timed.last_read_sent.max(sent);
                }
                _ => {
                    let timed = Timed { observed: observed.clone(), first_seen: now, last_read_sent: now };
                    self.records.insert(site.clone(), timed);
                }
            }
        }
        self.records.retain(|site, _| content.records.contains_key(site));
    }

    /// What shows that the register lost writes that it had acknowledged or shown (R2, R9).
    fn forgotten(&self, content: &RegisterContent) -> Option<String> {
        if broken(Mutant::TrustForgetful) {
            return None;
        }
        for site in &content.state.enrolled {
            if !content.records.contains_key(site) {
                return Some(format!("the record of enrolled site {site} is gone"));
            }
        }
        for (site, (epoch, serial)) in &self.high_water {
            match content.records.get(site) {
                None => return Some(format!("the record of site {site} is gone")),
                Some(Observed { record, .. }) if (record.epoch, record.serial) < (*epoch, *serial) => {
                    return Some(format!(
                        "the record of site {site} went back from epoch {epoch} serial {serial} to epoch {} serial {}",
                        record.epoch, record.serial
                    ));
                }
                Some(_) => {}
            }
        }
        let (uid, promised, accepted) = self.state_mark.as_ref()?;
        if *uid != content.version.uid {
            return Some("its state object was deleted and made anew".into());
        }
        (content.state.promised < *promised || content.state.accepted.ballot < *accepted)
            .then(|| "its promised or accepted ballot went back".into())
    }

    /// Takes in what the state object shows, by a read or by an own write that succeeded.
    pub fn saw_state(&mut self, version: &StateVersion, state: &RegisterState) {
        self.state_mark = Some((version.uid.clone(), state.promised.clone(), state.accepted.ballot.clone()));
        self.state = Some((version.clone(), state.clone()));
    }

    /// Takes in that an own write of a record succeeded.
    pub fn wrote_record(&mut self, site: &str, version: LeaseVersion, record: SiteRecord, now: Mono) {
        let mark = self.high_water.entry(site.to_owned()).or_default();
        *mark = (*mark).max((record.epoch, record.serial));
        let observed = Observed { version, record };
        self.records.insert(site.to_owned(), Timed { observed, first_seen: now, last_read_sent: now });
    }

    /// The record of a site, if the register is trusted and has been read.
    pub fn record(&self, site: &str) -> Option<&Observed> {
        self.records.get(site).map(|timed| &timed.observed)
    }

    /// How long ago the site's record was first seen as it is now.
    pub fn age(&self, site: &str, now: Mono) -> Option<Duration> {
        self.records.get(site).map(|timed| timed.age(now))
    }

    /// Whether the record of a site may be superseded here: nobody holds it, or it was timed unchanged long enough.
    pub fn may_supersede(&self, site: &str, after: Duration) -> bool {
        self.records
            .get(site)
            .is_some_and(|timed| timed.observed.record.incarnation.is_none() || timed.unchanged_for() >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::incarnation::Incarnation;

    fn content(version: &str, epoch: u64, serial: u64) -> RegisterContent {
        let version = LeaseVersion { uid: "u".into(), resource_version: version.into() };
        let record = SiteRecord { epoch, incarnation: Some(Incarnation("i".into())), serial };
        RegisterContent {
            version: StateVersion { uid: "s".into(), resource_version: "1".into() },
            state: RegisterState { enrolled: ["b".to_owned()].into(), ..RegisterState::default() },
            records: [("b".to_owned(), Observed { version, record })].into(),
        }
    }

    const fn at(ms: u64) -> Mono {
        Mono::from_millis(ms)
    }

    #[test]
    fn silence_is_counted_from_first_sight_to_the_send_time_of_a_later_read() {
        let mut view = View::default();
        view.observe(&content("1", 1, 1), at(0), at(400));
        assert!(!view.may_supersede("b", at(1)));
        view.observe(&content("1", 1, 1), at(6_900), at(9_000));
        assert!(!view.may_supersede("b", at(6_600)), "6.9 s - 0.4 s is less than 6.6 s");
        view.observe(&content("1", 1, 1), at(7_000), at(9_100));
        assert!(view.may_supersede("b", at(6_600)));
        view.observe(&content("2", 1, 2), at(9_000), at(9_200));
        assert!(!view.may_supersede("b", at(6_600)), "a change starts the count anew");
    }

    #[test]
    fn a_register_that_went_back_is_not_trusted_again() {
        let mut view = View::default();
        view.observe(&content("5", 2, 7), at(0), at(1));
        view.observe(&content("3", 2, 6), at(10), at(11));
        assert!(view.quarantined.as_deref().is_some_and(|why| why.contains("went back")));
        assert!(view.record("b").is_none());
        view.observe(&content("9", 3, 0), at(20), at(21));
        assert!(view.record("b").is_none());
    }

    #[test]
    fn a_register_whose_enrolled_record_is_gone_is_not_trusted() {
        let mut view = View::default();
        let mut gone = content("1", 1, 1);
        gone.records.clear();
        view.observe(&gone, at(0), at(1));
        assert!(view.quarantined.is_some());
    }
}
