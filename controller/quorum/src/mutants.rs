//! Rules left out on purpose, one at a time, to see that the checks notice.
//!
//! Outside of tests `broken` is constant and false, and the compiler leaves nothing of it.

/// A rule of the protocol left out or bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break rules"))]
pub(super) enum Mutant {
    /// A renewal counts from its answer instead of its sending.
    CountFromReceipt,
    /// A register that forgot what it had promised is trusted, and what is absent is created anew.
    TrustForgetful,
    /// The map changes once a majority may be superseded, without superseding it.
    SkipRevocation,
    /// The map changes without regard to the leaving holder's lease.
    MapFirst,
    /// Records may be superseded as soon as they are seen.
    NoWait,
    /// An entry names a site, whichever life it is in.
    MapWithoutIncarnation,
    /// A process goes on with the epoch and incarnation that it finds.
    SharedEpoch,
    /// A released group moves at once.
    ReleaseWithoutDrain,
    /// The map is read and then written, without a promise.
    NoPrepare,
    /// The map is believed when a single register shows it.
    OneRegistersMap,
    /// A map change does not look at the entry that it was decided on.
    UnguardedChange,
    /// A register that forgot is made anew from what it still holds itself, and counts in the rounds before.
    ReseedCountsForgetful,
    /// A register that forgot is excluded, and the map goes on at once without it.
    NoExclusionWait,
    /// What other sites know of a register is not compared with what it shows.
    NoMarks,
    /// A register that was out of sight counts at once when it answers again.
    NoProbation,
    /// A lease that lapsed goes on when its records are still there.
    LapsedGoesOn,
    /// A register of an old generation counts.
    AnyGeneration,
    /// Grants do not allow for clocks that run slow.
    NoSlowClocks,
    /// Superseding does not allow for clocks that run fast.
    NoFastClocks,
}

#[cfg(test)]
thread_local! {
    /// A bit for every mutant.
    static BROKEN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Whether the rule is left out in this thread.
#[cfg(test)]
pub(super) fn broken(mutant: Mutant) -> bool {
    BROKEN.get() & (1 << mutant as u32) != 0
}

/// Never.
#[cfg(not(test))]
pub(super) const fn broken(_: Mutant) -> bool {
    false
}

/// Runs with rules left out, in this thread only.
#[cfg(test)]
pub(super) fn with<T>(mutants: &[Mutant], run: impl FnOnce() -> T) -> T {
    struct Restore(u32);
    impl Drop for Restore {
        fn drop(&mut self) {
            BROKEN.set(self.0);
        }
    }
    let bits = mutants.iter().fold(0, |bits, mutant| bits | 1 << *mutant as u32);
    let _restore = Restore(BROKEN.replace(bits));
    run()
}
