//! The ledger's file: two copies, each whole by itself, so that neither power loss nor a broken sector takes back what
//! was shown.
//!
//! Each copy is replaced as a whole and flushed to the disk before the other one is touched, and carries its generation
//! and a checksum. What was written is shown only when both copies hold it: then either of them may be lost.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ring::digest;
use serde::{Serialize, de::DeserializeOwned};

/// The copies.
const NAMES: [&str; 2] = ["energy-a.ledger", "energy-b.ledger"];
/// First word of a copy; the number is the form's.
const MAGIC: &str = "evergreen-ledger 1";
/// Largest copy that is read back.
const MAX_BYTES: u64 = 16 << 20;

/// A state in two copies below a directory; without one nothing is kept.
#[derive(Debug)]
pub struct Durable {
    directory: Option<PathBuf>,
    generation: u64,
}

/// What was found at the start.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// Nothing: this node has no ledger yet.
    Nothing,
    /// The latest state.
    Whole(T),
    /// One copy was damaged, the other is the latest state all the same.
    OneDamaged(T),
    /// Both copies are damaged: what they held is lost.
    Lost,
}

impl Durable {
    /// Keeps state in a directory that exists, or nowhere.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, generation: 0 }
    }

    /// Whether anything is kept.
    pub fn is_kept(&self) -> bool {
        self.directory.is_some()
    }

    /// Reads the latest copy that is whole. Damaged ones are set aside as `NAME.broken` and told.
    pub fn load<T: DeserializeOwned>(&mut self) -> Found<T> {
        let Some(directory) = &self.directory else { return Found::Nothing };
        let (mut best, mut damaged): (Option<(u64, T)>, u32) = (None, 0);
        for name in NAMES {
            let path = directory.join(name);
            match read(&path) {
                Ok(None) => {}
                Ok(Some((generation, state))) => {
                    if best.as_ref().is_none_or(|(known, _)| generation > *known) {
                        best = Some((generation, state));
                    }
                }
                Err(reason) => {
                    damaged += 1;
                    let aside = path.with_extension("broken");
                    tracing::error!(file = %path.display(), %reason, kept_as = %aside.display(), "a copy of the energy ledger is damaged");
                    if let Err(error) = fs::rename(&path, &aside) {
                        tracing::warn!(%error, "the damaged copy could not be set aside");
                    }
                }
            }
        }
        match (best, damaged) {
            (None, 0) => Found::Nothing,
            (None, _) => {
                tracing::error!("no copy of the energy ledger is whole; energy counters begin again at zero");
                Found::Lost
            }
            (Some((generation, state)), damaged) => {
                self.generation = generation;
                if damaged == 0 {
                    return Found::Whole(state);
                }
                tracing::warn!("the other copy of the energy ledger is whole; nothing that was shown is lost");
                Found::OneDamaged(state)
            }
        }
    }

    /// Writes both copies. When this returns without an error the state survives power loss and one broken copy.
    ///
    /// # Errors
    /// When one of them cannot be written; each is then the old one or the new one.
    pub fn save<T: Serialize>(&mut self, state: &T) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let generation = self.generation + 1;
        let body = serde_json::to_vec(state).map_err(io::Error::other)?;
        let head = format!("{MAGIC} {generation} {} {}\n", body.len(), checksum(generation, &body));
        for name in NAMES {
            let next = directory.join(format!(".{name}.next"));
            let mut file = File::create(&next)?;
            file.write_all(head.as_bytes())?;
            file.write_all(&body)?;
            file.sync_data()?;
            drop(file);
            fs::rename(&next, directory.join(name))?;
            File::open(directory)?.sync_all()?;
        }
        self.generation = generation;
        Ok(())
    }
}

fn checksum(generation: u64, body: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&generation.to_le_bytes());
    context.update(body);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<(u64, T)>, String> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if size > MAX_BYTES {
        return Err(format!("it has {size} bytes, more than any ledger"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    parse(&bytes).map(Some)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(u64, T), String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it ends within its first line")?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is no text")?;
    let rest =
        head.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')).ok_or("it does not begin as a ledger")?;
    let [generation, length, sum] = rest.split(' ').collect::<Vec<_>>()[..] else {
        return Err("its first line is not understood".into());
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` in its first line is no number"));
    let (generation, length) = (number(generation)?, number(length)?);
    let body = &bytes[end + 1..];
    if body.len() as u64 != length {
        return Err(format!("it has {} of {length} bytes: cut off while it was written", body.len()));
    }
    if checksum(generation, body) != sum {
        return Err("its checksum is wrong".into());
    }
    let state = serde_json::from_slice(body).map_err(|error| format!("it is no ledger of ours: {error}"))?;
    Ok((generation, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(directory: &Path) -> Durable {
        Durable::new(Some(directory.to_owned()))
    }

    /// A directory that holds two generations after one another.
    fn saved() -> (tempfile::TempDir, Vec<u64>) {
        let directory = tempfile::tempdir().unwrap();
        let mut durable = kept(directory.path());
        durable.save(&vec![1_u64]).unwrap();
        let latest = vec![2, 3, 4_000_000];
        durable.save(&latest).unwrap();
        (directory, latest)
    }

    #[test]
    fn what_is_saved_is_loaded_again_and_generations_grow() {
        let (directory, latest) = saved();
        let mut durable = kept(directory.path());
        assert_eq!(durable.load(), Found::Whole(latest));
        durable.save(&vec![9_u64]).unwrap();
        assert_eq!(kept(directory.path()).load(), Found::Whole(vec![9_u64]));
        assert_eq!(Durable::new(None).load::<u64>(), Found::Nothing);
    }

    #[test]
    fn a_copy_cut_at_any_byte_loses_nothing() {
        for name in NAMES {
            let (directory, latest) = saved();
            let path = directory.path().join(name);
            let whole = fs::read(&path).unwrap();
            for length in 0..whole.len() {
                fs::write(&path, &whole[..length]).unwrap();
                assert_eq!(kept(directory.path()).load(), Found::OneDamaged(latest.clone()), "{name} cut at {length}");
                assert!(path.with_extension("broken").exists());
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen_and_loses_nothing() {
        for name in NAMES {
            let (directory, latest) = saved();
            let path = directory.path().join(name);
            let whole = fs::read(&path).unwrap();
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &bytes).unwrap();
                assert_eq!(kept(directory.path()).load(), Found::OneDamaged(latest.clone()), "{name}, bit {bit}");
            }
        }
    }

    #[test]
    fn power_loss_between_any_two_steps_of_writing_leaves_the_old_or_the_new_state() {
        let (directory, latest) = saved();
        // The first copy is the new generation already, the second one still the old: the newer one counts.
        let mut ahead = kept(directory.path());
        ahead.generation = 7;
        let old = fs::read(directory.path().join(NAMES[1])).unwrap();
        ahead.save(&vec![7_u64]).unwrap();
        fs::write(directory.path().join(NAMES[1]), &old).unwrap();
        assert_eq!(kept(directory.path()).load(), Found::Whole(vec![7_u64]));
        // Nobody was shown the new one yet, so that falling back to the old one takes nothing back.
        fs::write(directory.path().join(NAMES[0]), b"").unwrap();
        assert_eq!(kept(directory.path()).load(), Found::OneDamaged(latest));
        // A half of what was to replace a copy is never read.
        fs::write(directory.path().join(format!(".{}.next", NAMES[0])), b"evergreen-ledger 1 99 ").unwrap();
        assert!(matches!(kept(directory.path()).load::<Vec<u64>>(), Found::Whole(_)));
    }

    #[test]
    fn two_damaged_copies_are_a_loss_that_is_told() {
        let (directory, _) = saved();
        for name in NAMES {
            fs::write(directory.path().join(name), b"evergreen-ledger 1 5 3 00\nabc").unwrap();
        }
        assert_eq!(kept(directory.path()).load::<Vec<u64>>(), Found::Lost);
    }
}
