//! A register as an API server over etcd keeps it: objects with versions, compare-and-swap, nothing else.

use std::collections::BTreeMap;

use super::super::*;

/// A register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Register {
    revision: u64,
    state: (u64, RegisterState),
    records: BTreeMap<String, (u64, SiteRecord)>,
}

impl Register {
    /// A register right after its installation.
    pub fn new() -> Self {
        Self { revision: 1, state: (1, RegisterState::default()), records: BTreeMap::new() }
    }

    fn version(kind: &str, revision: u64) -> LeaseVersion {
        LeaseVersion { uid: kind.to_owned(), resource_version: revision.to_string() }
    }

    /// Does what is asked, at once.
    pub fn apply(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Read => Answer::Content(RegisterContent {
                version: Self::version("state", self.state.0),
                state: self.state.1.clone(),
                records: self
                    .records
                    .iter()
                    .map(|(site, (revision, record))| {
                        let observed = Observed { version: Self::version(site, *revision), record: record.clone() };
                        (site.clone(), observed)
                    })
                    .collect(),
            }),
            Operation::CreateBlank { site } if self.records.contains_key(site) => Answer::Conflict,
            Operation::CreateBlank { site } => {
                self.revision += 1;
                self.records.insert(site.clone(), (self.revision, SiteRecord::BLANK));
                Answer::Written(Self::version(site, self.revision))
            }
            Operation::WriteRecord { site, at, record } => match self.records.get_mut(site) {
                Some((revision, known)) if Self::version(site, *revision) == *at => {
                    self.revision += 1;
                    (*revision, *known) = (self.revision, record.clone());
                    Answer::Written(Self::version(site, self.revision))
                }
                _ => Answer::Conflict,
            },
            Operation::WriteState { at, state } if Self::version("state", self.state.0) == *at => {
                self.revision += 1;
                self.state = (self.revision, state.clone());
                Answer::Written(Self::version("state", self.revision))
            }
            Operation::WriteState { .. } => Answer::Conflict,
        }
    }

    /// Somebody deletes the record of a site, as `kubectl delete lease` does.
    pub fn lose_record(&mut self, site: &str) {
        self.revision += 1;
        self.records.remove(site);
    }

    /// Somebody deletes everything and installs anew.
    pub fn forget_everything(&mut self) {
        *self =
            Self { revision: self.revision + 1, state: (self.revision + 1, RegisterState::default()), ..Self::new() };
    }
}
