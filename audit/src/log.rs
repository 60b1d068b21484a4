//! Appending: whole lines, synced before the call returns; a torn tail is found, kept aside and told.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::record::{self, Draft, GENESIS};

/// A file is closed and a new one begun when it is larger.
const FILE_BYTES: u64 = 64 << 20;
/// The last record is looked for in so much of the end of a file; a record is smaller.
const TAIL_BYTES: u64 = 16 << 20;

/// The log cannot be written or its end cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The folder or a file.
    #[error("the audit log {path} cannot be {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The last whole line is no record: somebody changed it.
    #[error("the last record of {path} {why}; move the folder aside and keep it as evidence")]
    Tail {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A body that is no JSON.
    #[error("a record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// An open log. One process writes it.
#[derive(Debug)]
pub struct AuditLog {
    dir: PathBuf,
    file: Option<(PathBuf, File, u64)>,
    seq: u64,
    prev: String,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuditError {
    move |source| AuditError::Io { what, path: path.to_owned(), source }
}

impl AuditLog {
    /// Opens the log in a folder, making it if there is none. A last line without its end was being written when the
    /// process died: it is moved to a file of its own beside the log, and the first new record tells.
    ///
    /// # Errors
    /// When the folder cannot be used, or the last whole line is no record.
    pub fn open(dir: &Path, at: &str) -> Result<Self, AuditError> {
        fs::create_dir_all(dir).map_err(io("made", dir))?;
        let files = files(dir)?;
        let mut log = Self { dir: dir.to_owned(), file: None, seq: 0, prev: GENESIS.to_owned() };
        let mut torn = None;
        for (index, path) in files.iter().rev().enumerate() {
            let (tail, cut) = last_line(path)?;
            if let Some(cut) = cut.filter(|_| index == 0) {
                torn = Some(set_aside(path, &cut)?);
            }
            if index == 0 {
                let file = OpenOptions::new().append(true).open(path).map_err(io("opened", path))?;
                let length = file.metadata().map_err(io("opened", path))?.len();
                log.file = Some((path.clone(), file, length));
            }
            let Some(tail) = tail else { continue };
            let last = record::parse(&tail).map_err(|why| AuditError::Tail { path: path.clone(), why })?;
            (log.seq, log.prev) = (last.seq, last.hash);
            break;
        }
        if let Some((aside, bytes, hash)) = torn {
            let body = json!({"bytes": bytes, "sha256": hash, "kept": aside.file_name().and_then(|n| n.to_str())});
            log.append(&[Draft { at: at.to_owned(), kind: "audit.torn".into(), body }])?;
        }
        Ok(log)
    }

    /// Appends records; when it returns they are on the disk. Answers their hashes.
    ///
    /// # Errors
    /// When nothing could be written; then none of them counts as written.
    pub fn append(&mut self, drafts: &[Draft]) -> Result<Vec<String>, AuditError> {
        let (mut text, mut hashes) = (String::new(), Vec::new());
        let (mut seq, mut prev) = (self.seq, self.prev.clone());
        for draft in drafts {
            let (line, hash) = record::line(seq + 1, &prev, draft).map_err(AuditError::Json)?;
            text.push_str(&line);
            (seq, prev) = (seq + 1, hash.clone());
            hashes.push(hash);
        }
        if drafts.is_empty() {
            return Ok(hashes);
        }
        let length = self.writable()?;
        let Some((path, file, size)) = &mut self.file else { return Ok(Vec::new()) };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // What was written in part must not stand before the next record.
            let _ = file.set_len(length);
            return Err(AuditError::Io { what: "written", path: path.clone(), source });
        }
        *size = length + text.len() as u64;
        (self.seq, self.prev) = (seq, prev);
        Ok(hashes)
    }

    /// Number and hash of the last record.
    pub fn last(&self) -> (u64, &str) {
        (self.seq, &self.prev)
    }

    /// Makes sure that there is a file to append to; answers its length.
    fn writable(&mut self) -> Result<u64, AuditError> {
        if let Some((_, _, length)) = self.file.as_ref().filter(|(_, _, length)| *length < FILE_BYTES) {
            return Ok(*length);
        }
        let path = self.dir.join(format!("audit-{:020}.jsonl", self.seq + 1));
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(io("made", &path))?;
        // The name must survive a crash too.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io("synced", &self.dir))?;
        self.file = Some((path, file, 0));
        Ok(0)
    }
}

/// Files of a log, in order.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("read", dir))? {
        let path = entry.map_err(io("read", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("audit-") && name.ends_with(".jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The last whole line, and what follows it without an end.
fn last_line(path: &Path) -> Result<(Option<String>, Option<Vec<u8>>), AuditError> {
    let mut file = File::open(path).map_err(io("opened", path))?;
    let length = file.metadata().map_err(io("read", path))?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut bytes)).map_err(io("read", path))?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let cut = (end < bytes.len()).then(|| bytes[end..].to_vec());
    let whole = &bytes[..end.saturating_sub(1)];
    let begin = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = (end > 0).then(|| String::from_utf8_lossy(&whole[begin..]).into_owned());
    Ok((line, cut))
}

/// Moves a torn tail into a file of its own; answers where, how long it is and its digest.
fn set_aside(path: &Path, cut: &[u8]) -> Result<(PathBuf, usize, String), AuditError> {
    let hash = hex::encode(Sha256::digest(cut));
    let aside = path.with_extension(format!("torn-{}", &hash[..12]));
    let mut kept = File::create(&aside).map_err(io("made", &aside))?;
    kept.write_all(cut).and_then(|()| kept.sync_all()).map_err(io("written", &aside))?;
    let file = OpenOptions::new().write(true).open(path).map_err(io("opened", path))?;
    let length = file.metadata().map_err(io("read", path))?.len();
    file.set_len(length - cut.len() as u64).and_then(|()| file.sync_all()).map_err(io("cut", path))?;
    Ok((aside, cut.len(), hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify;

    fn draft(number: u64) -> Draft {
        Draft {
            at: "2026-11-01T00:00:00Z".into(),
            kind: "test".into(),
            body: json!({"number": number, "text": "a\nb\"}"}),
        }
    }

    #[test]
    fn records_are_chained_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let mut log = AuditLog::open(dir.path(), "now").unwrap();
            assert_eq!(log.last().0, round * 2);
            log.append(&[draft(round), draft(round + 100)]).unwrap();
        }
        let report = verify(dir.path()).unwrap();
        assert_eq!((report.records, report.broken.len()), (6, 0));
    }

    #[test]
    fn a_torn_tail_is_kept_aside_and_told_wherever_it_was_torn() {
        let whole = {
            let dir = tempfile::tempdir().unwrap();
            AuditLog::open(dir.path(), "now").unwrap().append(&[draft(1), draft(2)]).unwrap();
            fs::read(&files(dir.path()).unwrap()[0]).unwrap()
        };
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in [0, 1, first - 1, first, first + 1, whole.len() - 1] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("audit-00000000000000000001.jsonl"), &whole[..cut]).unwrap();
            let mut log = AuditLog::open(dir.path(), "now").unwrap();
            log.append(&[draft(3)]).unwrap();
            let report = verify(dir.path()).unwrap();
            assert!(report.broken.is_empty(), "cut at {cut}: {:?}", report.broken);
            let torn = cut != 0 && cut != first;
            let records = u64::from(cut >= first) + 1 + u64::from(torn);
            assert_eq!((report.records, report.torn), (records, u64::from(torn)), "cut at {cut}");
        }
    }

    #[test]
    fn a_last_record_that_was_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        AuditLog::open(dir.path(), "now").unwrap().append(&[draft(1)]).unwrap();
        let path = &files(dir.path()).unwrap()[0];
        let text = fs::read_to_string(path).unwrap().replace("\"number\":1", "\"number\":2");
        fs::write(path, text).unwrap();
        assert!(matches!(AuditLog::open(dir.path(), "now"), Err(AuditError::Tail { .. })));
    }
}
