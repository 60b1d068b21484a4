//! Small states that outlive the agent: one JSON file each, replaced as a whole, so that kill -9 leaves the old or the
//! new one and never a half.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Largest state file that is read back.
const MAX_STATE: u64 = 8 << 20;

/// A directory of state files; without one nothing is kept.
#[derive(Clone, Debug)]
pub struct Store {
    directory: Option<PathBuf>,
}

impl Store {
    /// A store in a directory that is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written to.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let probe = directory.join(".probe");
        File::create(&probe)?;
        fs::remove_file(&probe)?;
        Ok(Self { directory: Some(directory.to_owned()) })
    }

    /// A store that forgets.
    pub fn none() -> Self {
        Self { directory: None }
    }

    /// The directory, for states that keep themselves.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Whether anything is kept.
    pub fn is_kept(&self) -> bool {
        self.directory.is_some()
    }

    /// Reads a state. A file that cannot be understood is set aside as `NAME.broken` and told, never silently used.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.directory.as_ref()?.join(name);
        let size = fs::metadata(&path).ok()?.len();
        let parsed = if size > MAX_STATE {
            Err(format!("it has {size} bytes, more than any state of ours"))
        } else {
            fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|b| serde_json::from_slice(&b).map_err(|e| e.to_string()))
        };
        match parsed {
            Ok(state) => Some(state),
            Err(reason) => {
                let aside = path.with_extension("broken");
                tracing::error!(file = %path.display(), %reason, kept_as = %aside.display(), "a state file cannot be read; starting without it");
                if let Err(error) = fs::rename(&path, &aside) {
                    tracing::warn!(%error, "the broken state file could not be set aside");
                }
                None
            }
        }
    }

    /// Replaces a state. `durable` also survives power loss, at the price of a flush to the disk.
    ///
    /// # Errors
    /// When it cannot be written; the old state is still there then.
    pub fn save<T: Serialize>(&self, name: &str, state: &T, durable: bool) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(name);
        let next = directory.join(format!(".{name}.next"));
        let bytes = serde_json::to_vec(state).map_err(io::Error::other)?;
        let mut file = File::create(&next)?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_all()?;
        }
        drop(file);
        fs::rename(&next, &path)?;
        if durable {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("a/b")).unwrap();
        store.save("x.json", &vec![1, 2, 3], true).unwrap();
        assert_eq!(store.load::<Vec<u32>>("x.json"), Some(vec![1, 2, 3]));
        assert_eq!(store.load::<Vec<u32>>("y.json"), None);
    }

    #[test]
    fn a_state_cut_in_half_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        fs::write(directory.path().join("x.json"), b"[1, 2").unwrap();
        assert_eq!(store.load::<Vec<u32>>("x.json"), None);
        assert!(directory.path().join("x.broken").exists());
    }
}
