//! Where the host's files are. Every path below `proc`, `sys` and `dev` is found under one root, so that a recorded tree
//! or a mounted host is read exactly like this machine.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Largest file read whole: /proc/mounts of a node with thousands of pods stays below it.
const MAX_FILE: u64 = 4 << 20;

/// Root of the host's file tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// A root at a directory; `/` is this machine.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Whether this is the machine the agent runs on.
    pub fn is_this_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// A path under the root; a leading `/` of `path` is ignored.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Reads a file under the root, whole, bytes that are no UTF-8 replaced.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        read_bounded(&self.join(path))
    }

    /// Id of this boot, or an empty text where the host does not tell it.
    pub fn boot_id(&self) -> String {
        self.read("proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    }
}

/// Reads a file of bounded size, bytes that are no UTF-8 replaced.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Reads one unsigned number from a file.
///
/// # Errors
/// When it cannot be read or holds something else, as sysfs files that lie do.
pub fn read_number(path: &Path) -> io::Result<u64> {
    let text = read_bounded(path)?;
    let text = text.trim();
    text.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{}` is no number", crate::text::printable(text.as_bytes(), 40)),
        )
    })
}

/// Name of this machine, for when nobody says what the node is called.
pub fn host_name() -> String {
    sysinfo::System::host_name().ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into())
}
