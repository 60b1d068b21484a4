//! A copy of a fleet in one file: what was read, from where, and the objects, trimmed. gzip around JSON.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the file's form.
pub const FORMAT: u32 = 1;
/// A file that unpacks to more than this is no snapshot of a fleet (5,000 nodes with 150,000 pods are some 400 MB).
const MOST_BYTES: u64 = 8 << 30;

/// A copy of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the form, [`FORMAT`].
    pub format: u32,
    /// Program that made it.
    pub made_by: String,
    /// When its import began; the time at which every rehearsal on it begins.
    pub taken_at: Timestamp,
    /// Data centers, by name.
    pub sites: Vec<Site>,
}

/// A copy of one data center.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Name.
    pub name: String,
    /// Where the name is from.
    pub name_from: String,
    /// Kubeconfig that it was read with.
    pub source: String,
    /// Address of its API server.
    pub server: String,
    /// UID of its namespace kube-system: two kubeconfigs with the same are one cluster.
    pub uid: String,
    /// Version of Kubernetes.
    pub kubernetes: String,
    /// What was read.
    pub read: Vec<KindRead>,
    /// What was not, and why.
    pub not_read: Vec<KindNotRead>,
    /// The register of the assignment map, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<Value>,
    /// Objects by the key of their kind, sorted by namespace and name.
    pub objects: BTreeMap<String, Vec<Value>>,
}

/// What was read of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindRead {
    /// `apiVersion/kind`.
    pub kind: String,
    /// Objects.
    pub count: usize,
    /// Pages that they came in.
    pub pages: usize,
    /// resourceVersion of the list.
    pub resource_version: String,
}

/// A kind that was not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindNotRead {
    /// `apiVersion/kind`.
    pub kind: String,
    /// Why not.
    pub why: String,
}

/// A snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be opened or read.
    #[error("cannot read the snapshot {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The file holds something else.
    #[error("{0} is no snapshot: {1}")]
    Form(PathBuf, String),
    /// A later version wrote it.
    #[error("{0} has form {1}, this program reads up to {FORMAT}: use the program that made it ({2}), or a later one")]
    Later(PathBuf, u64, String),
    /// The file cannot be written; what was there before is untouched.
    #[error("cannot write the snapshot {0}: {1}")]
    Write(PathBuf, std::io::Error),
}

impl Snapshot {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no snapshot, or is of a later version.
    pub fn load(path: &Path) -> Result<Self, SnapshotError> {
        let unreadable = |error| SnapshotError::Read(path.to_owned(), error);
        let no_snapshot = |why: String| SnapshotError::Form(path.to_owned(), why);
        let raw = fs::read(path).map_err(unreadable)?;
        let mut text = Vec::new();
        if raw.starts_with(&[0x1f, 0x8b]) {
            let broken = |error| no_snapshot(format!("it cannot be unpacked ({error}); it may have been cut off"));
            GzDecoder::new(&*raw).take(MOST_BYTES).read_to_end(&mut text).map_err(broken)?;
        } else {
            text = raw;
        }
        #[derive(Deserialize)]
        struct Head {
            format: Option<u64>,
            made_by: Option<String>,
        }
        let head: Head = serde_json::from_slice(&text).map_err(|error| no_snapshot(error.to_string()))?;
        match head.format {
            None => return Err(no_snapshot("it has no `format`".into())),
            Some(format) if format > u64::from(FORMAT) => {
                return Err(SnapshotError::Later(path.to_owned(), format, head.made_by.unwrap_or_default()));
            }
            Some(_) => {}
        }
        serde_json::from_slice(&text).map_err(|error| no_snapshot(error.to_string()))
    }

    /// Writes a file, as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SnapshotError> {
        let failed = |error| SnapshotError::Write(path.to_owned(), error);
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let write = || {
            let mut packer = GzEncoder::new(fs::File::create(&part)?, Compression::default());
            serde_json::to_writer(std::io::BufWriter::new(&mut packer), self)?;
            packer.finish()?.flush()?;
            fs::rename(&part, path)
        };
        write().map_err(|error| {
            // What is left of the attempt is of no use to anyone.
            let _ = fs::remove_file(&part);
            failed(error)
        })
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.sites.iter().map(|site| site.objects.get("nodes").map_or(0, Vec::len)).sum()
    }
}

impl Site {
    /// Objects of a kind.
    pub fn all(&self, key: &str) -> &[Value] {
        self.objects.get(key).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Snapshot {
        let site = Site { name: "dc-a".into(), ..Site::default() };
        Snapshot { format: FORMAT, made_by: "test".into(), taken_at: Timestamp::UNIX_EPOCH, sites: vec![site] }
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_the_same_one_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        small().save(&one).unwrap();
        small().save(&two).unwrap();
        assert_eq!(Snapshot::load(&one).unwrap(), small());
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no part file is left");
    }

    #[test]
    fn a_file_that_is_cut_off_foreign_or_of_a_later_version_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        small().save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(Snapshot::load(&path).unwrap_err().to_string().contains("cut off"));
        fs::write(&path, "{\"kind\": \"List\"}").unwrap();
        assert!(Snapshot::load(&path).unwrap_err().to_string().contains("no `format`"));
        fs::write(&path, "{\"format\": 9, \"made_by\": \"evergreen 9\"}").unwrap();
        assert!(Snapshot::load(&path).unwrap_err().to_string().contains("evergreen 9"));
        assert!(matches!(small().save(&folder.path().join("no/such")), Err(SnapshotError::Write(..))));
    }
}
