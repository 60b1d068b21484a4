//! What people did, in a chained log beside the database, on the disk before the act it speaks of is answered; and what
//! of it is still of use: who acknowledged which incident.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use evergreen_audit::{AuditError, AuditLog, Draft, Record};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::{now_ms, rfc3339_ms};

/// Kind of the record of an acknowledged incident.
const ACKNOWLEDGED: &str = "incident.acknowledged";

/// Who acknowledged an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// Who.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// What they said.
    pub note: String,
}

type Acknowledged = BTreeMap<String, Vec<Acknowledgement>>;

/// The log; clones share it.
#[derive(Debug, Clone)]
pub struct Trail {
    dir: PathBuf,
    log: Arc<Mutex<AuditLog>>,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Trail {
    /// Opens the log of a folder and reads what it says of incidents.
    ///
    /// # Errors
    /// When the folder cannot be used or its last record was changed.
    pub fn open(dir: &Path) -> Result<Self, AuditError> {
        let log = AuditLog::open(dir, &rfc3339_ms(now_ms()))?;
        let mut acknowledged = Acknowledged::new();
        evergreen_audit::read(dir, |found| {
            if let Ok(record) = found
                && record.kind == ACKNOWLEDGED
            {
                let text = |key: &str| record.body[key].as_str().unwrap_or_default().to_owned();
                let said = Acknowledgement { by: text("who"), at: record.at.clone(), note: text("note") };
                acknowledged.entry(text("incident")).or_default().push(said);
            }
        })?;
        Ok(Self { dir: dir.into(), log: Arc::new(Mutex::new(log)), acknowledged: Arc::new(Mutex::new(acknowledged)) })
    }

    /// Records an act; when this returns it is on the disk. `body` names who and never holds a secret.
    ///
    /// # Errors
    /// When it could not be written: then the act must not be done.
    pub async fn record(&self, kind: &str, body: Value) -> Result<(), String> {
        let draft = Draft { at: rfc3339_ms(now_ms()), kind: kind.to_owned(), body };
        let log = self.log.clone();
        let written = tokio::task::spawn_blocking(move || log.lock().append(&[draft]).map(drop)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Records that somebody took on an incident.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn acknowledge(&self, who: &str, incident: &str, note: &str) -> Result<(), String> {
        self.record(ACKNOWLEDGED, json!({"who": who, "incident": incident, "note": note})).await?;
        let said = Acknowledgement { by: who.to_owned(), at: rfc3339_ms(now_ms()), note: note.to_owned() };
        self.acknowledged.lock().entry(incident.to_owned()).or_default().push(said);
        Ok(())
    }

    /// Who acknowledged an incident.
    pub fn acknowledged(&self, incident: &str) -> Vec<Acknowledgement> {
        self.acknowledged.lock().get(incident).cloned().unwrap_or_default()
    }

    /// Up to `limit` records before number `before`, newest first, and whether the whole chain holds.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn read(&self, before: Option<u64>, limit: usize) -> Result<(Vec<Record>, bool), String> {
        let dir = self.dir.clone();
        let read = move || {
            let (mut found, mut whole) = (std::collections::VecDeque::new(), true);
            evergreen_audit::read(&dir, |record| match record {
                Err(_) => whole = false,
                Ok(record) if before.is_none_or(|before| record.seq < before) => {
                    if found.len() == limit {
                        found.pop_front();
                    }
                    found.push_back(record);
                }
                Ok(_) => {}
            })?;
            Ok::<_, AuditError>((found.into_iter().rev().collect(), whole))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn acts_outlive_a_restart_and_are_read_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let trail = Trail::open(dir.path()).unwrap();
        trail.record("session.began", json!({"who": "li"})).await.unwrap();
        trail.acknowledge("li", "abc", "looking").await.unwrap();
        drop(trail);
        let trail = Trail::open(dir.path()).unwrap();
        assert_eq!(trail.acknowledged("abc")[0].note, "looking");
        let (records, whole) = trail.read(None, 1).await.unwrap();
        assert!(whole && records[0].kind == ACKNOWLEDGED && records.len() == 1);
        let (before, _) = trail.read(Some(records[0].seq), 9).await.unwrap();
        assert_eq!(before[0].kind, "session.began");
    }
}
