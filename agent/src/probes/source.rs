//! What a source is: something that reads one part of the host and gives figures for thresholds and readings for series.
//! A source only measures, opens files through [`Look`] alone, and never panics on what it finds there.

use std::{
    cell::RefCell,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{ProbeArgs, thresholds::Figure};
use crate::{
    host::{self, Root},
    sources::{Sample, series::Reading},
};

/// Entries of one directory that are looked at.
pub const MAX_ENTRIES: usize = 1024;

/// What a source is, for people.
#[derive(Debug)]
pub struct About {
    /// Its name, as in `edac`.
    pub name: &'static str,
    /// What it reads, below the root.
    pub reads: &'static [&'static str],
    /// What its figures measure.
    pub measures: &'static [&'static str],
    /// Its series, with what the name has in the middle left open: `edac.*.ce`.
    pub series: &'static [&'static str],
    /// What it finds out.
    pub says: &'static str,
    /// What it needs beyond a host that has such a thing.
    pub needs: &'static str,
}

/// What one reading gave.
#[derive(Debug, Default)]
pub struct Findings {
    /// For thresholds.
    pub figures: Vec<Figure>,
    /// For series.
    pub readings: Vec<Reading>,
}

impl Findings {
    /// Adds a figure.
    pub fn figure(&mut self, measure: &'static str, of: impl Into<String>, value: f64, says: impl Into<String>) {
        self.figures.push(Figure { measure, of: of.into(), value, says: says.into() });
    }

    /// Adds a reading.
    pub fn reading(&mut self, reading: Reading) {
        self.readings.push(reading);
    }

    /// Itself, or an error when nothing was found.
    ///
    /// # Errors
    /// With the reason given.
    pub fn or_absent(self, reason: &str) -> io::Result<Self> {
        if self.figures.is_empty() && self.readings.is_empty() { Err(absent(reason)) } else { Ok(self) }
    }
}

/// One source.
pub trait Source: Send {
    /// What it is.
    fn about(&self) -> &'static About;

    /// Reads it once.
    ///
    /// # Errors
    /// When it is absent, with the reason: `NotFound` where the host has no such thing, anything else where it has and it
    /// could not be read.
    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings>;
}

/// An error for what the host does not have.
pub fn absent(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, reason.to_owned())
}

/// An error for a file whose content makes no sense.
pub fn not_understood(path: impl AsRef<Path>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is not understood", path.as_ref().display()))
}

/// Whether an error is trouble with a thing that is there, not the lack of the thing.
pub fn is_trouble(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, Unsupported};
    !matches!(error.kind(), NotFound | PermissionDenied | Unsupported)
}

/// What went wrong in files that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// How often.
    pub count: u64,
    /// The first one. Says where and of what kind it was, not what stood there: the same trouble has the same words.
    pub first: Option<String>,
}

/// One look at the host.
pub struct Look<'a> {
    /// Where the host is.
    pub root: &'a Root,
    /// What the user set.
    pub settings: &'a ProbeArgs,
    /// What the collector read last.
    pub sample: Option<&'a Arc<Sample>>,
    /// Milliseconds since boot.
    pub now_ms: u64,
    trouble: RefCell<Trouble>,
}

impl<'a> Look<'a> {
    /// A look at a moment.
    pub fn new(root: &'a Root, settings: &'a ProbeArgs, sample: Option<&'a Arc<Sample>>, now_ms: u64) -> Self {
        Self { root, settings, sample, now_ms, trouble: RefCell::default() }
    }

    /// What went wrong in files that were left out so far.
    pub fn trouble(&self) -> Trouble {
        self.trouble.borrow().clone()
    }

    /// Notes that something is not what it should be and is left out.
    pub fn doubt(&self, place: impl AsRef<Path>, why: &str) {
        let mut trouble = self.trouble.borrow_mut();
        trouble.count += 1;
        trouble.first.get_or_insert_with(|| format!("{} {why}", place.as_ref().display()));
    }

    /// Text of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, path: &str) -> io::Result<String> {
        self.root.read(path)
    }

    /// Text of a file of the host's network.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn net(&self, name: &str) -> io::Result<String> {
        self.root.read_net(name)
    }

    /// The word in a file, trimmed; none where there is no such file, or it cannot be read just now.
    pub fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = host::read_word(&self.root.join(path)).ok()?;
        let text = crate::text::printable(text.trim().as_bytes(), 80);
        (!text.is_empty()).then_some(text)
    }

    /// The number in a file that may not be below zero; none where there is no such file. A file that holds something
    /// else is doubted.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.parsed(path, |text| {
            text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
        })
    }

    /// The number in a file, which may be below zero.
    pub fn integer(&self, path: impl AsRef<Path>) -> Option<i64> {
        self.parsed(path, |text| text.parse().ok())
    }

    fn parsed<T>(&self, path: impl AsRef<Path>, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let path = path.as_ref();
        match host::read_word(&self.root.join(path)) {
            Ok(text) => {
                let parsed = parse(text.trim());
                if parsed.is_none() {
                    tracing::debug!(path = %path.display(), held = crate::text::printable(text.as_bytes(), 40), "no number");
                    self.doubt(path, "holds no number that it may");
                }
                parsed
            }
            Err(error) => {
                // A device that is down or asleep refuses to tell; a directory in the place of a file is a lie.
                if error.kind() == io::ErrorKind::IsADirectory {
                    self.doubt(path, "is a directory");
                }
                None
            }
        }
    }

    /// Names in a directory, sorted, at most [`MAX_ENTRIES`]; none where there is no such directory.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let entries = entries.flatten().take(MAX_ENTRIES);
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether there is such a file or directory.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }

    /// A path below the root, as the machine has it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::tree;

    #[test]
    fn what_holds_no_number_is_left_out_counted_and_told_in_the_same_words() {
        let (_kept, root) = tree(&[
            ("a", "12\n"),
            ("b", "-5\n"),
            ("c", "99999999999999999999999"),
            ("d", ""),
            ("e/f", ""),
            ("h", "0x1f"),
        ]);
        let settings = ProbeArgs::default();
        let look = Look::new(&root, &settings, None, 0);
        assert_eq!((look.number("a"), look.number("h"), look.integer("b")), (Some(12), Some(31), Some(-5)));
        assert_eq!(look.trouble(), Trouble::default());
        for path in ["b", "c", "d", "e"] {
            assert_eq!(look.number(path), None);
        }
        assert_eq!(look.number("not there"), None);
        assert_eq!(look.trouble(), Trouble { count: 4, first: Some("b holds no number that it may".into()) });
        assert_eq!(look.word("d"), None);
    }
}
