//! What this controller has seen of one register, and for how long it has not changed.
//!
//! Expiry is never read off a clock in a record: it is "I saw no change for D on my own monotonic clock" (R3). A register
//! that shows less than it has to, by what this process saw or by what other sites say they saw, forgot (R9).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    mutants::{Mutant, broken},
    record::{Ballot, LeaseVersion, Mark, Observed, RegisterContent, RegisterState, SiteRecord, StateVersion},
    timing::{Mono, Timing},
};

/// A site's record at a register, timed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Timed {
    pub observed: Observed,
    /// When this version was first seen: the receive time of the first read that showed it.
    first_seen: Mono,
    /// From when on its silence counts: first sight, or when the register came into sight again.
    timed_from: Mono,
    /// Send time of the last read that still showed it.
    last_read_sent: Mono,
}

impl Timed {
    fn new(observed: Observed, now: Mono) -> Self {
        Self { observed, first_seen: now, timed_from: now, last_read_sent: now }
    }

    /// For how long the record is known to have stood unchanged: from first sight to the send time of a later read.
    fn unchanged_for(&self) -> Duration {
        self.last_read_sent.saturating_sub(self.timed_from)
    }

    /// How long ago the version was first seen.
    fn age(&self, now: Mono) -> Duration {
        now.saturating_sub(self.first_seen)
    }
}

/// Why and since when a register does not count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Exclusion {
    pub why: String,
    pub since: Mono,
    /// The generation that forgot; none if only the generation was not the one that counts.
    pub forgot: Option<u64>,
}

/// Everything known of one register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub state: Option<(StateVersion, RegisterState)>,
    records: BTreeMap<String, Timed>,
    /// Highest epoch and, within it, serial ever seen, by site: a register that shows less has forgotten.
    high_water: BTreeMap<String, (u64, u64)>,
    /// UID of the state object, its generation, and the highest ballots that it showed: likewise.
    state_mark: Option<(String, u64, Ballot, Ballot)>,
    /// What other sites say that the register showed them, and when this was heard: checked by the next read sent after.
    expected: BTreeMap<String, (Mark, Mono)>,
    /// Why the register does not count, until it is made anew in a new generation.
    pub excluded: Option<Exclusion>,
    /// What an excluded register shows: for who makes it anew.
    pub shown: Option<Shown>,
    /// When it last answered a read.
    pub read_at: Option<Mono>,
    /// When it last answered anything.
    heard_at: Option<Mono>,
    /// Since when it has been in sight without a break.
    in_sight_since: Option<Mono>,
    /// Why it did not answer the last request.
    pub trouble: Option<String>,
}

/// What an excluded register shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Shown {
    pub state: Option<(StateVersion, u64)>,
    pub records: BTreeMap<String, Observed>,
}

impl View {
    /// Takes in a read that was sent at `sent` and received at `now`.
    pub fn observe(&mut self, content: &RegisterContent, timing: &Timing, sent: Mono, now: Mono) {
        if self.excluded.is_none()
            && let Some(why) = self.forgotten(content, sent)
        {
            if broken(Mutant::ReseedCountsForgetful) {
                *self = Self::default();
                return self.observe(content, timing, sent, now);
            }
            self.exclude(why, Some(content.state.generation), now);
        }
        if self.excluded.is_some() {
            let state = Some((content.version.clone(), content.state.generation));
            self.shown = Some(Shown { state, records: content.records.clone() });
            return;
        }
        self.heard(timing, now);
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
                    self.records.insert(site.clone(), Timed::new(observed.clone(), now));
                }
            }
        }
        self.records.retain(|site, _| content.records.contains_key(site));
    }

    /// The register answered. After a break nothing that was timed before counts: it may have been restored meanwhile.
    pub fn heard(&mut self, timing: &Timing, now: Mono) {
        let lost = self.heard_at.is_none_or(|heard| now.saturating_sub(heard) > timing.out_of_sight());
        if lost && !(broken(Mutant::NoProbation) && self.in_sight_since.is_some()) {
            self.in_sight_since = Some(now);
            for timed in self.records.values_mut() {
                (timed.timed_from, timed.last_read_sent) = (now, now);
            }
        }
        self.heard_at = Some(now);
    }

    /// Whether the register counts where promises of others matter: it has been in sight for so long that whatever was
    /// promised before it came into sight has ended.
    pub fn settled(&self, timing: &Timing, now: Mono) -> bool {
        let seen_for = self.in_sight_since.map(|since| now.saturating_sub(since));
        let lost = self.heard_at.is_none_or(|heard| now.saturating_sub(heard) > timing.out_of_sight());
        self.excluded.is_none()
            && (broken(Mutant::NoProbation) || broken(Mutant::NoWait) || !lost)
            && seen_for.is_some_and(|age| age >= timing.supersede_after() || broken(Mutant::NoProbation))
    }

    /// From now on the register does not count.
    pub fn exclude(&mut self, why: String, forgot: Option<u64>, now: Mono) {
        self.excluded = Some(Exclusion { why, since: now, forgot });
        self.state = None;
        self.records.clear();
    }

    /// What shows that the register lost writes that it had acknowledged or shown (R2, R9).
    fn forgotten(&mut self, content: &RegisterContent, sent: Mono) -> Option<String> {
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
        if let Some((uid, generation, promised, accepted)) = &self.state_mark {
            if *uid != content.version.uid || *generation != content.state.generation {
                return Some("its state object was deleted and made anew".into());
            }
            if content.state.promised < *promised || content.state.accepted.ballot < *accepted {
                return Some("its promised or accepted ballot went back".into());
            }
        }
        self.contradicts_others(content, sent)
    }

    /// Whether others say that they saw more here, before this read was sent.
    fn contradicts_others(&mut self, content: &RegisterContent, sent: Mono) -> Option<String> {
        let mut wrong = None;
        self.expected.retain(|site, (mark, heard)| {
            if sent < *heard || wrong.is_some() {
                return true;
            }
            let own = content.records.get(site).map_or((0, 0), |o| (o.record.epoch, o.record.serial));
            let less = mark.forgot
                || content.state.promised < mark.promised
                || content.state.accepted.ballot < mark.accepted
                || own < (mark.epoch, mark.serial);
            if content.state.generation < mark.generation || content.state.generation == mark.generation && less {
                wrong = Some(format!("it shows less than {site} saw there"));
            }
            false
        });
        wrong
    }

    /// Another site says what the register showed it.
    pub fn expect(&mut self, site: &str, mark: &Mark, now: Mono) {
        let news = self.expected.get(site).is_none_or(|(known, _)| mark.forgot && !known.forgot);
        if news && !broken(Mutant::NoMarks) && !broken(Mutant::TrustForgetful) {
            self.expected.insert(site.to_owned(), (mark.clone(), now));
        }
    }

    /// The generation of the state object that the register once had, if it is known to have had one before `sent`.
    pub fn lost_state(&self, sent: Mono) -> Option<u64> {
        let own = self.state_mark.as_ref().map(|(_, generation, ..)| *generation);
        let others = self.expected.values().filter(|(_, heard)| sent >= *heard).map(|(mark, _)| mark.generation).max();
        own.max(others).filter(|_| !broken(Mutant::TrustForgetful))
    }

    /// What this process saw of the register at most, for other sites and for its own next life; `own` is its site.
    pub fn mark(&self, own: &str) -> Option<Mark> {
        let Some((_, generation, promised, accepted)) = self.state_mark.as_ref() else {
            // Found out at the very first look: that it forgot has to outlive this process all the same.
            let generation = self.excluded.as_ref()?.forgot?;
            return Some(Mark { generation, forgot: true, ..Mark::default() });
        };
        let (epoch, serial) = self.high_water.get(own).copied().unwrap_or_default();
        let (generation, promised, accepted) = (*generation, promised.clone(), accepted.clone());
        let forgot = self.excluded.as_ref().is_some_and(|excluded| excluded.forgot == Some(generation));
        Some(Mark { generation, epoch, serial, promised, accepted, forgot })
    }

    /// Takes in what the state object shows, by a read or by an own write that succeeded.
    pub fn saw_state(&mut self, version: &StateVersion, state: &RegisterState) {
        let (promised, accepted) = (state.promised.clone(), state.accepted.ballot.clone());
        self.state_mark = Some((version.uid.clone(), state.generation, promised, accepted));
        self.state = Some((version.clone(), state.clone()));
    }

    /// Takes in that an own write of a record succeeded.
    pub fn wrote_record(&mut self, site: &str, version: LeaseVersion, record: SiteRecord, now: Mono) {
        let mark = self.high_water.entry(site.to_owned()).or_default();
        *mark = (*mark).max((record.epoch, record.serial));
        self.records.insert(site.to_owned(), Timed::new(Observed { version, record }, now));
    }

    /// The record of a site, if the register is trusted and has been read.
    pub fn record(&self, site: &str) -> Option<&Observed> {
        self.records.get(site).map(|timed| &timed.observed)
    }

    /// Sites that have a record here.
    pub fn sites(&self) -> BTreeSet<&String> {
        self.records.keys().collect()
    }

    /// How long ago the site's record was first seen as it is now.
    pub fn age(&self, site: &str, now: Mono) -> Option<Duration> {
        self.records.get(site).map(|timed| timed.age(now))
    }

    /// Whether the record of a site may be superseded here: nobody holds it, or it was timed unchanged long enough.
    pub fn may_supersede(&self, site: &str, timing: &Timing, now: Mono) -> bool {
        self.settled(timing, now)
            && self.records.get(site).is_some_and(|timed| {
                timed.observed.record.incarnation.is_none() || timed.unchanged_for() >= timing.supersede_after()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incarnation::Incarnation;

    fn content(version: &str, epoch: u64, serial: u64) -> RegisterContent {
        let version = LeaseVersion { uid: "u".into(), resource_version: version.into() };
        let record = SiteRecord { epoch, incarnation: Some(Incarnation("i".into())), serial, ..SiteRecord::blank() };
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
        let timing = Timing::of_lease(at(6_000));
        view.observe(&content("1", 1, 1), &timing, at(0), at(400));
        view.observe(&content("1", 1, 1), &timing, at(4_000), at(4_100));
        assert!(!view.may_supersede("b", &timing, at(4_100)));
        view.observe(&content("1", 1, 1), &timing, at(6_900), at(8_900));
        assert!(!view.may_supersede("b", &timing, at(8_900)), "6.9 s - 0.4 s is less than 6.6 s");
        view.observe(&content("1", 1, 1), &timing, at(7_000), at(9_000));
        assert!(view.may_supersede("b", &timing, at(9_000)));
        view.observe(&content("2", 1, 2), &timing, at(9_000), at(9_200));
        assert!(!view.may_supersede("b", &timing, at(9_200)), "a change starts the count anew");
    }

    #[test]
    fn what_was_timed_before_a_break_does_not_count_after_it() {
        let (timing, mut view) = (Timing::of_lease(at(6_000)), View::default());
        for ms in [0, 3_000, 8_001, 11_000] {
            view.observe(&content("1", 1, 1), &timing, at(ms), at(ms));
        }
        assert!(!view.may_supersede("b", &timing, at(11_000)), "out of sight from 3 s to 8 s");
        view.observe(&content("1", 1, 1), &timing, at(14_602), at(14_602));
        assert!(view.may_supersede("b", &timing, at(14_602)));
    }

    #[test]
    fn a_register_that_shows_less_than_another_site_saw_there_has_forgotten() {
        let (timing, mut view) = (Timing::of_lease(at(6_000)), View::default());
        view.observe(&content("1", 1, 1), &timing, at(0), at(1));
        let mark = Mark { epoch: 1, serial: 2, ..Mark::default() };
        view.expect("b", &mark, at(10));
        view.observe(&content("1", 1, 1), &timing, at(9), at(20));
        assert!(view.excluded.is_none(), "asked before the mark was heard");
        view.observe(&content("1", 1, 1), &timing, at(11), at(21));
        assert!(view.excluded.is_some_and(|excluded| excluded.forgot == Some(0)));
    }

    #[test]
    fn what_is_found_forgetful_at_the_first_look_is_told_to_later_lives() {
        let (timing, mut view) = (Timing::of_lease(at(6_000)), View::default());
        view.expect("b", &Mark { epoch: 1, serial: 2, ..Mark::default() }, at(0));
        view.observe(&content("1", 1, 1), &timing, at(1), at(2));
        let mark = view.mark("a").expect("somebody has to know");
        assert!(mark.forgot && mark.generation == 0);
        // A later life that hears of it excludes the register as well.
        let mut next = View::default();
        next.expect("a", &mark, at(10));
        next.observe(&content("1", 1, 1), &timing, at(11), at(12));
        assert!(next.excluded.is_some());
    }

    #[test]
    fn a_register_that_went_back_is_not_trusted_again() {
        let (timing, mut view) = (Timing::of_lease(at(6_000)), View::default());
        view.observe(&content("5", 2, 7), &timing, at(0), at(1));
        view.observe(&content("3", 2, 6), &timing, at(10), at(11));
        assert!(view.excluded.as_ref().is_some_and(|excluded| excluded.why.contains("went back")));
        assert!(view.record("b").is_none());
        view.observe(&content("9", 3, 0), &timing, at(20), at(21));
        assert!(view.record("b").is_none());
    }

    #[test]
    fn a_register_whose_enrolled_record_is_gone_is_not_trusted() {
        let (timing, mut view) = (Timing::of_lease(at(6_000)), View::default());
        let mut gone = content("1", 1, 1);
        gone.records.clear();
        view.observe(&gone, &timing, at(0), at(1));
        assert!(view.excluded.is_some());
    }
}
