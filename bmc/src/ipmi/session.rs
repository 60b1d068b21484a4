//! A session that stands: questions out, answers in, each encrypted, checked and taken once. Sans I/O.

use zeroize::Zeroizing;

use super::{
    crypto::{self, BLOCK, Suite, same},
    wire::{self, Answer, Payload, Request},
};

/// Packets that may overtake each other (IPMI 2.0, 6.12.13).
const WINDOW: u32 = 32;

/// Keys and counters of a session.
pub(super) struct Session {
    suite: Suite,
    console: [u8; 4],
    managed: [u8; 4],
    integrity_key: Zeroizing<Vec<u8>>,
    cipher_key: Zeroizing<[u8; BLOCK]>,
    sent: u32,
    /// Highest sequence number of the BMC, and which of those before it were seen (bit 0 is the highest itself).
    received: u32,
    seen: u32,
    number: u8,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        suite: Suite,
        console: [u8; 4],
        managed: [u8; 4],
        integrity_key: Zeroizing<Vec<u8>>,
        cipher_key: &[u8],
    ) -> Self {
        let mut first = Zeroizing::new([0; BLOCK]);
        first.copy_from_slice(&cipher_key[..BLOCK]);
        Self { suite, console, managed, integrity_key, cipher_key: first, sent: 0, received: 0, seen: 0, number: 0 }
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn managed(&self) -> [u8; 4] {
        self.managed
    }

    /// Number for a new question: answers to older ones are not taken for its own.
    pub(super) fn next_number(&mut self) -> u8 {
        self.number = (self.number + 1) % 64;
        self.number
    }

    /// A packet that asks; sent again, a question keeps its number and gets a new packet. `vector` is random.
    pub(super) fn seal(&mut self, request: &Request, number: u8, vector: [u8; BLOCK]) -> Vec<u8> {
        // Sequence number 0 is for packets outside of a session.
        self.sent = self.sent.wrapping_add(1).max(1);
        let body = crypto::encrypt(&self.cipher_key, vector, &wire::request(request, number));
        wire::sealed(self.managed, self.sent, &body, |signed| {
            self.suite.mac(&self.integrity_key, &[signed])[..self.suite.integrity_length()].to_vec()
        })
    }

    /// The answer in a packet, if it is the BMC's, was not seen before, and answers that question.
    pub(super) fn open(&mut self, packet: &[u8], to: &Request, number: u8) -> Result<Answer, &'static str> {
        let packet = wire::parse(packet, self.suite.integrity_length())?;
        if packet.payload != Payload::Ipmi || packet.session != self.console {
            return Err("a packet of another session");
        }
        if !packet.encrypted || !packet.authenticated {
            return Err("a packet without encryption or integrity code");
        }
        let expected = self.suite.mac(&self.integrity_key, &[packet.signed]);
        if !same(&expected[..self.suite.integrity_length()], packet.code) {
            return Err("a wrong integrity code");
        }
        self.fresh(packet.sequence)?;
        let message = crypto::decrypt(&self.cipher_key, packet.body).ok_or("a damaged encryption")?;
        wire::answer(&message, to, number)
    }

    fn fresh(&mut self, sequence: u32) -> Result<(), &'static str> {
        if sequence == 0 {
            return Err("a packet without a sequence number");
        }
        if sequence > self.received {
            let ahead = sequence - self.received;
            self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 } | 1;
            self.received = sequence;
            return Ok(());
        }
        let behind = self.received - sequence;
        if behind >= WINDOW || self.seen & (1 << behind) != 0 {
            return Err("a packet that was seen already");
        }
        self.seen |= 1 << behind;
        Ok(())
    }
}
