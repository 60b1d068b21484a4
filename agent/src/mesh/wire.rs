//! One probe and its echo, as bytes: 32 of header, then padding. No I/O.
//!
//! ```text
//!  0  4  magic `EGM1`
//!  4  1  1 probe, 2 echo
//!  5  3  zero
//!  8  8  number of the probe
//! 16  8  secret of the prober, so that nobody who does not see the probe can answer it
//! 24  4  bytes of the probe, as sent; in an echo: as they arrived
//! 28  4  zero
//! ```
//!
//! All numbers are big-endian. An echo is never longer than its probe and never answered itself: whoever forges a
//! sender's address gains nothing.

/// Length of a header; the whole of an echo.
pub const HEADER: usize = 32;
/// Largest probe that is read.
pub const LARGEST: usize = 9_216;
const MAGIC: &[u8; 4] = b"EGM1";
const PROBE: u8 = 1;
const ECHO: u8 = 2;

/// A datagram that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// Somebody wants an echo.
    Probe,
    /// An echo of ours came back.
    Echo {
        /// Number of the probe.
        number: u64,
        /// Secret of the prober.
        secret: u64,
        /// Bytes of the probe as they arrived.
        arrived: u32,
    },
}

/// Writes a probe of `length` bytes in all, at least a header.
pub fn probe(number: u64, secret: u64, length: usize) -> Vec<u8> {
    let length = length.clamp(HEADER, LARGEST);
    let mut bytes = vec![0; length];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4] = PROBE;
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes[16..24].copy_from_slice(&secret.to_be_bytes());
    bytes[24..28].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes
}

/// The echo of a probe that was read with [`read`].
pub fn echo(probe: &[u8]) -> Option<[u8; HEADER]> {
    let mut bytes: [u8; HEADER] = probe.get(..HEADER)?.try_into().ok()?;
    bytes[4] = ECHO;
    bytes[24..28].copy_from_slice(&u32::try_from(probe.len()).ok()?.to_be_bytes());
    Some(bytes)
}

/// Reads a datagram; `None` for everything that is not ours.
pub fn read(bytes: &[u8]) -> Option<Datagram> {
    let header: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
    if &header[..4] != MAGIC || header[5..8] != [0; 3] || header[28..] != [0; 4] {
        return None;
    }
    let eight = |at: usize| -> Option<u64> { Some(u64::from_be_bytes(header.get(at..at + 8)?.try_into().ok()?)) };
    let length = u32::from_be_bytes(header[24..28].try_into().ok()?);
    match header[4] {
        // One that was cut on its way is none.
        PROBE => (length as usize == bytes.len()).then_some(Datagram::Probe),
        ECHO if bytes.len() == HEADER => {
            Some(Datagram::Echo { number: eight(8)?, secret: eight(16)?, arrived: length })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_echo_carries_back_what_arrived_and_is_never_longer_than_its_probe() {
        for length in [0, HEADER, 1_472, 100_000] {
            let sent = probe(7, 99, length);
            assert_eq!(read(&sent), Some(Datagram::Probe));
            let back = echo(&sent).unwrap();
            assert!(back.len() <= sent.len());
            let arrived = u32::try_from(sent.len()).unwrap();
            assert_eq!(read(&back), Some(Datagram::Echo { number: 7, secret: 99, arrived }));
        }
    }

    #[test]
    fn a_probe_that_was_cut_and_an_echo_that_is_padded_are_nothing() {
        let sent = probe(7, 99, 200);
        assert_eq!(read(&sent[..100]), None);
        let mut back = echo(&sent).unwrap().to_vec();
        back.push(0);
        assert_eq!(read(&back), None);
    }

    proptest! {
        #[test]
        fn garbage_is_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(bytes.starts_with(MAGIC) || read(&bytes).is_none());
        }
    }
}
