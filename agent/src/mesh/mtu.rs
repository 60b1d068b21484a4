//! How large an IP packet reaches a peer in one piece: a search over the sizes that networks have. Knows no network.
//!
//! Large probes go out with the bit set that forbids to cut them. One that passes settles the size for a while; one that
//! vanishes several times while small ones come back gives way to the next smaller size. That finds what a firewall hides
//! that drops the message "too large": large requests hang there and small ones do not.

use std::time::Duration;

/// Sizes of networks, largest first: jumbo frames, jumbo frames in a tunnel, Ethernet, then Ethernet in tunnels of all
/// kinds, and the smallest that IPv6 allows.
const SIZES: [u32; 9] = [9_000, 8_950, 1_500, 1_480, 1_460, 1_450, 1_420, 1_400, 1_280];
/// Times that a size vanishes before the next one is tried.
const TRIES: u32 = 3;
/// A size that was found is looked at again after so long.
const AGAIN: Duration = Duration::from_secs(120);

/// The search on one path.
#[derive(Debug)]
pub struct Search {
    /// Place in the sizes; past the end when none passes.
    at: usize,
    vanished: u32,
    known: u32,
    due: Duration,
    absent: Option<&'static str>,
}

impl Search {
    /// A search that begins at `due`.
    pub fn new(due: Duration) -> Self {
        Self { at: 0, vanished: 0, known: 0, due, absent: None }
    }

    /// None, for a reason.
    pub fn absent(why: &'static str) -> Self {
        Self { absent: Some(why), ..Self::new(Duration::ZERO) }
    }

    /// Size of the packet to be sent now, if any. Small probes have to come back meanwhile, so that a path that fails
    /// altogether is not taken for a narrow one.
    pub fn next(&self, now: Duration, is_well: bool) -> Option<u32> {
        if self.absent.is_some() || now < self.due || !is_well {
            return None;
        }
        SIZES.get(self.at).copied()
    }

    /// The own interface takes no packet of this size.
    pub fn too_large(&mut self, packet: u32) {
        if SIZES.get(self.at) == Some(&packet) {
            (self.at, self.vanished) = (self.at + 1, 0);
        }
    }

    /// A packet of this size came through.
    pub fn passed(&mut self, packet: u32, now: Duration) {
        self.known = packet;
        (self.at, self.vanished) = (0, 0);
        self.due = now + AGAIN;
    }

    /// A packet of this size did not.
    pub fn vanished(&mut self, packet: u32, now: Duration) {
        if SIZES.get(self.at) != Some(&packet) {
            return;
        }
        self.vanished += 1;
        if self.vanished >= TRIES {
            (self.at, self.vanished) = (self.at + 1, 0);
        }
        if self.at >= SIZES.len() {
            self.known = 0;
            (self.at, self.vanished) = (0, 0);
            self.due = now + AGAIN;
        }
    }

    /// The largest size that passed, bytes; 0 when it is not known.
    pub fn known(&self) -> u32 {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends until the search rests; answers how many packets that took.
    fn search(search: &mut Search, interface: u32, path: u32, mut now: Duration) -> u32 {
        let mut sent = 0;
        while let Some(packet) = search.next(now, true) {
            if packet > interface {
                search.too_large(packet);
                continue;
            }
            sent += 1;
            now += Duration::from_secs(1);
            if packet <= path {
                search.passed(packet, now)
            } else {
                search.vanished(packet, now)
            }
            assert!(sent < 100, "it never rests");
        }
        sent
    }

    #[test]
    fn the_largest_size_that_passes_is_found_and_looked_at_again() {
        let mut plain = Search::new(Duration::ZERO);
        assert_eq!((search(&mut plain, 1_500, 1_500, Duration::ZERO), plain.known()), (1, 1_500));
        assert_eq!(plain.next(Duration::from_secs(60), true), None);
        let later = Duration::from_secs(300);
        assert_eq!((search(&mut plain, 1_500, 1_450, later), plain.known()), (10, 1_450));
        let mut jumbo = Search::new(Duration::ZERO);
        assert_eq!((search(&mut jumbo, 9_000, 8_999, Duration::ZERO), jumbo.known()), (4, 8_950));
    }

    #[test]
    fn a_path_that_passes_none_of_them_is_not_known_and_rests_too() {
        let mut narrow = Search::new(Duration::ZERO);
        search(&mut narrow, 65_536, 600, Duration::ZERO);
        assert_eq!(narrow.known(), 0);
        assert_eq!(narrow.next(Duration::from_secs(30), true), None);
    }

    #[test]
    fn nothing_large_is_sent_on_a_path_that_fails_or_where_it_cannot_be() {
        assert_eq!(Search::new(Duration::ZERO).next(Duration::from_secs(1), false), None);
        assert_eq!(Search::absent("why").next(Duration::from_secs(1), true), None);
    }
}
