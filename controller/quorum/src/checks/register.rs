//! A register as an API server over etcd keeps it: objects with versions, compare-and-swap, nothing else.

use std::collections::BTreeMap;

use super::super::*;

/// A register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    revision: u64,
    /// Objects ever created: their UIDs.
    created: u64,
    state: Option<(LeaseVersion, RegisterState)>,
    records: BTreeMap<String, Observed>,
}

impl Default for Register {
    fn default() -> Self {
        let version = LeaseVersion { uid: "0".into(), resource_version: "1".into() };
        Self { revision: 1, created: 0, state: Some((version, RegisterState::default())), records: BTreeMap::new() }
    }
}

impl Register {
    fn created(&mut self) -> LeaseVersion {
        self.revision += 1;
        self.created += 1;
        LeaseVersion { uid: self.created.to_string(), resource_version: self.revision.to_string() }
    }

    /// Does what is asked, at once.
    pub fn apply(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Read => match &self.state {
                None => Answer::NoState(self.records.clone()),
                Some((version, state)) => Answer::Content(RegisterContent {
                    version: version.clone(),
                    state: state.clone(),
                    records: self.records.clone(),
                }),
            },
            Operation::CreateRecord { site, .. } if self.records.contains_key(site) => Answer::Conflict,
            Operation::CreateRecord { site, record } => {
                let version = self.created();
                self.records.insert(site.clone(), Observed { version: version.clone(), record: record.clone() });
                Answer::Written(version)
            }
            Operation::WriteRecord { site, at, record } => match self.records.get_mut(site) {
                Some(known) if known.version == *at => {
                    self.revision += 1;
                    known.version.resource_version = self.revision.to_string();
                    known.record = record.clone();
                    Answer::Written(known.version.clone())
                }
                _ => Answer::Conflict,
            },
            Operation::WriteState { at, state } => match &mut self.state {
                Some((version, known)) if version == at => {
                    self.revision += 1;
                    version.resource_version = self.revision.to_string();
                    *known = state.clone();
                    Answer::Written(version.clone())
                }
                _ => Answer::Conflict,
            },
            Operation::DeleteRecord { site, at } if self.records.get(site).is_some_and(|k| k.version == *at) => {
                self.records.remove(site);
                Answer::Deleted
            }
            Operation::DeleteState { at } if self.state.as_ref().is_some_and(|(version, _)| version == at) => {
                self.state = None;
                Answer::Deleted
            }
            Operation::CreateState { state } if self.state.is_none() => {
                let version = self.created();
                self.state = Some((version.clone(), state.clone()));
                Answer::Written(version)
            }
            Operation::DeleteRecord { .. } | Operation::DeleteState { .. } | Operation::CreateState { .. } => {
                Answer::Conflict
            }
        }
    }

    /// How often it was made anew.
    pub fn generation(&self) -> u64 {
        self.state.as_ref().map_or(0, |(_, state)| state.generation)
    }

    /// Somebody deletes the record of a site, as `kubectl delete lease` does.
    pub fn lose_record(&mut self, site: &str) {
        self.records.remove(site);
    }

    /// Somebody deletes everything and installs anew.
    pub fn forget_everything(&mut self) {
        let version = self.created();
        self.records.clear();
        self.state = Some((version, RegisterState::default()));
    }

    /// Its etcd is restored from a snapshot: numbers are given out a second time. Answers whether anything was lost.
    pub fn restore(&mut self, snapshot: &Self) -> bool {
        let lost = self != snapshot;
        *self = snapshot.clone();
        lost
    }
}
