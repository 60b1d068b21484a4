//! Texts that many objects share, kept once; and a digest to compare stores by.

use std::collections::HashSet;
use std::sync::Arc;

use super::store::Pairs;

/// Sets this large are looked through for texts that nobody uses any more.
const LEAST: usize = 4096;

/// Keeps one copy of each text and of each set of labels.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    sets: HashSet<Pairs>,
    /// Sizes at which the sets are swept next.
    sweep: (usize, usize),
}

impl Interner {
    /// The shared copy of a text.
    pub(super) fn one(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.sweep.0.max(LEAST) {
            self.texts.retain(|t| Arc::strong_count(t) > 1);
            self.sweep.0 = self.texts.len() * 2;
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// The shared copy of a set of pairs; `before` is what the object had and most often still has.
    pub(super) fn pairs(&mut self, pairs: &[(&str, &str)], before: Option<&Pairs>) -> Pairs {
        let same = |known: &&Pairs| known.iter().map(|(k, v)| (&**k, &**v)).eq(pairs.iter().copied());
        if let Some(before) = before.filter(same) {
            return before.clone();
        }
        let new: Pairs = pairs.iter().map(|(k, v)| (self.one(k), self.one(v))).collect();
        if let Some(known) = self.sets.get(&new) {
            return known.clone();
        }
        if self.sets.len() >= self.sweep.1.max(LEAST) {
            self.sets.retain(|s| Arc::strong_count(s) > 1);
            self.sweep.1 = self.sets.len() * 2;
        }
        self.sets.insert(new.clone());
        new
    }
}

/// FNV-1a with 64 bits; each part is closed off, so that moving a byte to the next part shows.
#[derive(Debug)]
pub(crate) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    pub(crate) fn add(&mut self, part: &[u8]) {
        for byte in part.iter().chain(&(part.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_and_forgotten_ones_make_room() {
        let mut names = Interner::default();
        let a = names.pairs(&[("app", "shop"), ("tier", "web")], None);
        let b = names.pairs(&[("app", "shop"), ("tier", "web")], None);
        assert!(Arc::ptr_eq(&a, &b));
        for n in 0..3 * LEAST {
            names.pairs(&[("pod", &n.to_string())], None);
        }
        assert!(names.sets.len() <= LEAST + 1 && names.texts.len() <= 2 * LEAST, "{}", names.texts.len());
        assert!(Arc::ptr_eq(&a, &names.pairs(&[("app", "shop"), ("tier", "web")], None)));
    }
}
