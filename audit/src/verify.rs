//! Reading a log back: every record, and everything that is wrong with the chain.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use crate::{
    log::{AuditError, files},
    record::{self, GENESIS, Record},
};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// File.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// What.
    pub why: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that are right.
    pub records: u64,
    /// Records that tell of a torn tail.
    pub torn: u64,
    /// Number and hash of the last record: compare it with the one that was published elsewhere, because a log that was
    /// cut at its end is a whole log.
    pub last: Option<(u64, String)>,
    /// Everything that is wrong.
    pub broken: Vec<Broken>,
}

/// Checks a whole log.
///
/// # Errors
/// When the folder cannot be read.
pub fn verify(dir: &Path) -> Result<Report, AuditError> {
    let mut report = Report::default();
    read(dir, |found| match found {
        Ok(record) => {
            report.records += 1;
            report.torn += u64::from(record.kind == "audit.torn");
            report.last = Some((record.seq, record.hash));
        }
        Err(broken) => report.broken.push(broken),
    })?;
    Ok(report)
}

/// Reads every record in order; what is wrong comes in its place.
///
/// # Errors
/// When the folder cannot be read.
pub fn read(dir: &Path, mut each: impl FnMut(Result<Record, Broken>)) -> Result<(), AuditError> {
    let (mut seq, mut prev) = (0, GENESIS.to_owned());
    for path in files(dir)? {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let opened =
            File::open(&path).map_err(|source| AuditError::Io { what: "opened", path: path.clone(), source })?;
        let mut reader = BufReader::new(opened);
        let mut number = 0;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let length = reader.read_until(b'\n', &mut bytes).map_err(|source| AuditError::Io {
                what: "read",
                path: path.clone(),
                source,
            })?;
            if length == 0 {
                break;
            }
            number += 1;
            let broken = |why: String| Broken { file: file.clone(), line: number, why };
            if bytes.pop() != Some(b'\n') {
                each(Err(broken("was torn: it has no end; the next start of the writer sets it aside".into())));
                break;
            }
            let text = String::from_utf8_lossy(&bytes);
            match record::parse(&text) {
                Err(why) => each(Err(broken(why))),
                Ok(record) => {
                    if record.seq != seq + 1 {
                        each(Err(broken(format!("is number {} after {seq}: records are missing", record.seq))));
                    } else if record.prev != prev {
                        each(Err(broken(format!("number {} does not follow the record before it", record.seq))));
                    }
                    (seq, prev) = (record.seq, record.hash.clone());
                    each(Ok(record));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{AuditLog, Draft};

    fn log(records: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let drafts: Vec<Draft> =
            (0..records).map(|n| Draft { at: "now".into(), kind: "test".into(), body: json!({"n": n}) }).collect();
        AuditLog::open(dir.path(), "now").unwrap().append(&drafts).unwrap();
        let path = files(dir.path()).unwrap().remove(0);
        (dir, path)
    }

    #[test]
    fn a_record_that_is_taken_out_or_moved_is_found() {
        let (dir, path) = log(5);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for order in [vec![0, 1, 3, 4], vec![0, 2, 1, 3, 4], vec![1, 2, 3, 4]] {
            let changed: String = order.iter().map(|at| format!("{}\n", lines[*at])).collect();
            std::fs::write(&path, changed).unwrap();
            assert!(!verify(dir.path()).unwrap().broken.is_empty(), "{order:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_changed_byte_is_found(at in 0_usize..10_000, flip in 1_u8..255) {
            let (dir, path) = log(4);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(!verify(dir.path()).unwrap().broken.is_empty());
        }
    }
}
