//! Where the host's files are. Every path below `proc`, `sys` and `dev` is found under one root, so that a recorded tree
//! or a mounted host is read exactly like this machine.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Largest file read whole: /proc/mounts of a node with thousands of pods stays below it.
const MAX_FILE: u64 = 4 << 20;
/// Most that is read of a file of one word.
const MAX_WORD: u64 = 4096;

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
        let path = path.as_ref();
        read_bounded(&self.join(path)).map_err(|error| at(path, error))
    }

    /// Reads a file below the host's own `proc/net`.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn read_net(&self, name: &str) -> io::Result<String> {
        read_bounded(&self.net(name)).map_err(|error| at(&Path::new("proc/net").join(name), error))
    }

    /// Whether the root shows the kernel that the agent runs on: this machine, or its files mounted into a container. A
    /// recorded tree is another one, and nothing may be asked of this kernel in its name.
    pub fn is_this_kernel(&self) -> bool {
        if self.is_this_machine() {
            return true;
        }
        let id = self.boot_id();
        !id.is_empty() && id == Self::new("/").boot_id()
    }

    /// A file below `proc/net` of the host's own network: the one of its first process, because `proc/net` in a
    /// container is the container's.
    pub fn net(&self, name: &str) -> PathBuf {
        let first = self.0.join("proc/1/net");
        let first = if first.exists() { first } else { self.0.join("proc/net") };
        first.join(name)
    }

    /// Id of this boot, or an empty text where the host does not tell it.
    pub fn boot_id(&self) -> String {
        self.read("proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    }
}

/// An error that says of which file it is.
fn at(path: &Path, error: io::Error) -> io::Error {
    let says = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no {}", path.display()),
        io::ErrorKind::PermissionDenied => format!("{} may not be read", path.display()),
        _ => format!("{}: {error}", path.display()),
    };
    io::Error::new(error.kind(), says)
}

/// Reads a file of bounded size, bytes that are no UTF-8 replaced.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read_bounded(path: &Path) -> io::Result<String> {
    read_at_most(path, MAX_FILE)
}

fn read_at_most(path: &Path, most: u64) -> io::Result<String> {
    // A pipe where a file should be would wait for somebody to write.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    // Few and large reads: files of proc are made anew for each.
    let mut bytes = Vec::with_capacity(if most > MAX_WORD { 32 << 10 } else { 256 });
    File::options().read(true).custom_flags(flags).open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Reads the beginning of a file, for the many that hold one word.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read_word(path: &Path) -> io::Result<String> {
    read_at_most(path, MAX_WORD)
}

/// Reads one unsigned number from a file.
///
/// # Errors
/// When it cannot be read or holds something else, as sysfs files that lie do.
pub fn read_number(path: &Path) -> io::Result<u64> {
    let text = read_word(path)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_or_a_directory_in_the_place_of_a_file_is_read_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(read_bounded(&pipe).unwrap(), "");
        assert!(read_bounded(directory.path()).is_err());
        assert!(read_number(&pipe).is_err());
    }

    #[test]
    fn a_file_without_end_is_read_up_to_the_bound() {
        assert_eq!(read_bounded(Path::new("/dev/zero")).unwrap().len() as u64, MAX_FILE);
        assert!(read_number(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn the_network_of_the_first_process_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        assert!(root.net("dev").ends_with("proc/net/dev"));
        std::fs::create_dir_all(directory.path().join("proc/1/net")).unwrap();
        assert!(root.net("dev").ends_with("proc/1/net/dev"));
        assert!(!root.is_this_kernel() && Root::new("/").is_this_kernel());
    }
}
