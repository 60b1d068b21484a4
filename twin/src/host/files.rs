//! Files that are rewritten in place, so that a reader with an open descriptor sees the new content, as in /proc.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The files of one tree.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    open: HashMap<String, (File, u64)>,
}

impl Files {
    pub(super) fn new(root: PathBuf) -> Self {
        Files { root, open: HashMap::new() }
    }

    /// Writes the whole content in one call and shortens the file only afterwards.
    pub(super) fn write(&mut self, path: &str, content: &str) -> io::Result<()> {
        if !self.open.contains_key(path) {
            let full = self.root.join(path);
            if let Some(parent) = full.parent() {
                fs::create_dir_all(parent)?;
            }
            let file = OpenOptions::new().create(true).write(true).truncate(false).open(&full)?;
            let length = file.metadata()?.len();
            self.open.insert(path.to_owned(), (file, length));
        }
        let Some((file, length)) = self.open.get_mut(path) else { return Ok(()) };
        file.write_all_at(content.as_bytes(), 0)?;
        let now = content.len() as u64;
        if now < *length {
            file.set_len(now)?;
        }
        *length = now;
        Ok(())
    }

    /// Appends one record in one call.
    pub(super) fn append(&mut self, path: &str, record: &str) -> io::Result<()> {
        let full = self.root.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(full)?;
        file.write_all(record.as_bytes())
    }

    /// Removes a folder with all below it; an absent one is fine.
    pub(super) fn remove_dir(&mut self, path: &str) -> io::Result<()> {
        let below = format!("{path}/");
        self.open.retain(|name, _| !name.starts_with(&below));
        match fs::remove_dir_all(self.root.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes an empty file, or empties one.
    pub(super) fn empty(&mut self, path: &str) -> io::Result<()> {
        self.open.remove(path);
        let full = self.root.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(full).map(drop)
    }
}
