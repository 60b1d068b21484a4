//! A session with a small BMC of the tests' own, of both suites, and everything that can be wrong with a packet.

use proptest::prelude::*;

use super::{
    crypto::{self, Suite},
    handshake::{Entropy, Handshake, Privilege, Step},
    session::Session,
    wire::{self, Payload, Request},
};
use crate::{BmcError, Credentials, Secret};

const MANAGED: [u8; 4] = [9, 8, 7, 6];
const GUID: [u8; 16] = [0x33; 16];
const NONCE: [u8; 16] = [0x44; 16];

/// The BMC's side, written from the specification and not from the client.
struct Simulated {
    suite: Suite,
    user: &'static str,
    password: &'static str,
    key: &'static str,
    console: [u8; 4],
    rm: Vec<u8>,
    role: u8,
    sequence: u32,
}

impl Simulated {
    fn new(suite: Suite) -> Self {
        let (user, password) = ("operator", "hunter2");
        Self { suite, user, password, key: password, console: [0; 4], rm: Vec::new(), role: 0, sequence: 0 }
    }

    fn user_part(&self) -> Vec<u8> {
        [&[self.role, self.user.len() as u8], self.user.as_bytes()].concat()
    }

    fn answer(&mut self, packet: &[u8]) -> Vec<u8> {
        let packet = wire::parse(packet, 0).unwrap();
        let body = packet.body;
        let mut reply = vec![body[0], 0, 0, 0];
        match packet.payload {
            Payload::OpenSessionRequest => {
                self.console.copy_from_slice(&body[4..8]);
                reply.extend(self.console);
                reply.extend(MANAGED);
                for (kind, algorithm) in self.suite.algorithms().into_iter().enumerate() {
                    reply.extend([kind as u8, 0, 0, 8, algorithm, 0, 0, 0]);
                }
                wire::bare(Payload::OpenSessionResponse, &reply)
            }
            Payload::Rakp1 => {
                self.rm = body[8..24].to_vec();
                self.role = body[24];
                let name = &body[28..28 + usize::from(body[27])];
                reply.extend(self.console);
                if name != self.user.as_bytes() {
                    reply[1] = 0x0d;
                    return wire::bare(Payload::Rakp2, &reply);
                }
                let parts = [&self.console[..], &MANAGED, &self.rm, &NONCE, &GUID, &self.user_part()];
                let code = self.suite.mac(self.password.as_bytes(), &parts);
                reply.extend(NONCE);
                reply.extend(GUID);
                reply.extend_from_slice(&code);
                wire::bare(Payload::Rakp2, &reply)
            }
            Payload::Rakp3 => {
                let expected = self.suite.mac(self.password.as_bytes(), &[&NONCE, &self.console, &self.user_part()]);
                assert_eq!(&body[8..], &expected[..], "the console proves that it knows the password");
                let code = self.suite.mac(&self.session_key(), &[&self.rm, &MANAGED, &GUID]);
                reply.extend(self.console);
                reply.extend_from_slice(&code[..self.suite.integrity_length()]);
                wire::bare(Payload::Rakp4, &reply)
            }
            other => panic!("{other:?} is not for a BMC"),
        }
    }

    fn session_key(&self) -> Vec<u8> {
        self.suite.mac(self.key.as_bytes(), &[&self.rm, &NONCE, &self.user_part()]).to_vec()
    }

    fn keys(&self) -> (Vec<u8>, [u8; 16]) {
        let k1 = self.suite.mac(&self.session_key(), &[&[1; 20]]).to_vec();
        let k2 = self.suite.mac(&self.session_key(), &[&[2; 20]]);
        (k1, k2[..16].try_into().unwrap())
    }

    /// Reads a question and answers it with a completion code of 0 and `data`.
    fn reply(&mut self, packet: &[u8], data: &[u8]) -> Vec<u8> {
        let (k1, k2) = self.keys();
        let length = self.suite.integrity_length();
        let packet = wire::parse(packet, length).unwrap();
        assert_eq!(packet.session, MANAGED);
        assert_eq!(packet.code, &self.suite.mac(&k1, &[packet.signed])[..length]);
        let question = crypto::decrypt(&k2, packet.body).unwrap();
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, b| sum.wrapping_sub(*b));
        let mut message = vec![0x81, question[1] | 4];
        message.push(sum(&message));
        message.extend([0x20, question[4], question[5], 0]);
        message.extend(data);
        message.push(sum(&message[3..]));
        self.sequence += 1;
        let body = crypto::encrypt(&k2, [5; 16], &message);
        wire::sealed(self.console, self.sequence, &body, |signed| self.suite.mac(&k1, &[signed])[..length].to_vec())
    }
}

fn credentials(user: &str, password: &str, key: Option<&str>) -> Credentials {
    Credentials { username: user.into(), password: Secret::new(password), bmc_key: key.map(Secret::new) }
}

fn shake(bmc: &mut Simulated, credentials: &Credentials) -> Step {
    let entropy = Entropy { console: [1, 2, 3, 4], nonce: [7; 16] };
    let both = [Suite::Seventeen, Suite::Three];
    let (mut handshake, mut packet) = Handshake::begin(credentials, Privilege::User, bmc.suite, &both, entropy);
    loop {
        let reply = bmc.answer(&packet);
        for length in 0..reply.len() {
            assert!(matches!(handshake.take(&reply[..length]), Step::Ignore(_)), "truncated to {length}");
        }
        match handshake.take(&reply) {
            Step::Send(next) => packet = next,
            end => return end,
        }
    }
}

fn session(suite: Suite) -> (Simulated, Session) {
    let mut bmc = Simulated::new(suite);
    match shake(&mut bmc, &credentials("operator", "hunter2", None)) {
        Step::Done(session) => (bmc, *session),
        other => panic!("{other:?}"),
    }
}

fn ask() -> Request {
    Request { function: 6, command: 1, data: Vec::new() }
}

#[test]
fn a_session_stands_and_answers_with_either_suite() {
    for suite in [Suite::Three, Suite::Seventeen] {
        let (mut bmc, mut session) = session(suite);
        for n in 0..70_u8 {
            let number = session.next_number();
            let packet = session.seal(&ask(), number, [n; 16]);
            let reply = bmc.reply(&packet, &[n, 2, 3]);
            assert_eq!(session.open(&reply, &ask(), number).unwrap().data, [n, 2, 3]);
        }
    }
}

#[test]
fn a_bmc_that_answers_with_the_other_allowed_suite_is_followed_and_with_none_is_left() {
    let mut bmc = Simulated::new(Suite::Three);
    let entropy = Entropy { console: [1, 2, 3, 4], nonce: [7; 16] };
    let login = credentials("operator", "hunter2", None);
    let both = [Suite::Seventeen, Suite::Three];
    let (mut handshake, packet) = Handshake::begin(&login, Privilege::User, Suite::Seventeen, &both, entropy);
    let mut reply = bmc.answer(&packet);
    assert!(matches!(handshake.take(&reply), Step::Send(_)));
    let entropy = Entropy { console: [1, 2, 3, 4], nonce: [7; 16] };
    let (mut handshake, _) = Handshake::begin(&login, Privilege::User, Suite::Three, &both, entropy);
    // Integrity algorithm "none".
    let at = reply.len() - 12;
    reply[at] = 0;
    assert!(matches!(handshake.take(&reply), Step::Failed(BmcError::Unsupported(_), _)));
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_told_as_such() {
    for suite in [Suite::Three, Suite::Seventeen] {
        let wrong = shake(&mut Simulated::new(suite), &credentials("operator", "guess", None));
        // The farewell frees the BMC's slot and carries no code.
        assert!(matches!(&wrong, Step::Failed(BmcError::Credentials, Some(bye)) if bye.len() == 24), "{wrong:?}");
        let unknown = shake(&mut Simulated::new(suite), &credentials("nobody", "hunter2", None));
        assert!(matches!(unknown, Step::Failed(BmcError::Credentials, None)), "{unknown:?}");
    }
}

#[test]
fn the_bmcs_own_key_is_used_and_a_wrong_one_is_told() {
    let with_key = || Simulated { key: "kgkgkg", ..Simulated::new(Suite::Seventeen) };
    let right = shake(&mut with_key(), &credentials("operator", "hunter2", Some("kgkgkg")));
    assert!(matches!(right, Step::Done(_)), "{right:?}");
    let wrong = shake(&mut with_key(), &credentials("operator", "hunter2", None));
    assert!(matches!(&wrong, Step::Failed(BmcError::Refused { why, .. }, _) if why.contains("kg")), "{wrong:?}");
}

#[test]
fn an_answer_is_taken_once_and_late_ones_within_the_window_only() {
    let (mut bmc, mut session) = session(Suite::Seventeen);
    let number = session.next_number();
    let mut replies = Vec::new();
    for n in 0..40 {
        let packet = session.seal(&ask(), number, [n; 16]);
        replies.push(bmc.reply(&packet, &[n]));
    }
    assert!(session.open(&replies[35], &ask(), number).is_ok());
    assert_eq!(session.open(&replies[35], &ask(), number), Err("a packet that was seen already"));
    assert!(session.open(&replies[34], &ask(), number).is_ok(), "packets may overtake each other");
    assert!(session.open(&replies[34], &ask(), number).is_err());
    assert!(session.open(&replies[4], &ask(), number).is_ok());
    assert!(session.open(&replies[3], &ask(), number).is_err(), "older than the window");
    assert!(session.open(&replies[39], &ask(), number).is_ok());
}

#[test]
fn an_error_in_any_bit_is_noticed() {
    for suite in [Suite::Three, Suite::Seventeen] {
        let (mut bmc, mut session) = session(suite);
        let number = session.next_number();
        let packet = session.seal(&ask(), number, [1; 16]);
        let reply = bmc.reply(&packet, &[1, 2, 3]);
        for bit in 0..reply.len() * 8 {
            let mut damaged = reply.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // The RMCP header's reserved byte and sequence number are no part of the session, nor of its code.
            assert!(matches!(bit / 8, 1 | 2) || session.open(&damaged, &ask(), number).is_err(), "bit {bit}");
        }
        for length in 0..reply.len() {
            assert!(session.open(&reply[..length], &ask(), number).is_err());
        }
    }
}

proptest! {
    #[test]
    fn no_packet_of_a_stranger_changes_a_session(packet in proptest::collection::vec(any::<u8>(), 0..120), begin in 0_usize..3) {
        let (mut bmc, mut session) = session(Suite::Three);
        let number = session.next_number();
        let mut packet = packet;
        let heads: [&[u8]; 3] = [&[], &[6, 0, 255, 7, 6, 0xc0], &[6, 0, 255, 7, 6, 0xc0, 1, 2, 3, 4, 200, 0, 0, 0]];
        for (byte, head) in packet.iter_mut().zip(heads[begin]) {
            *byte = *head;
        }
        prop_assert!(session.open(&packet, &ask(), number).is_err());
        let sealed = session.seal(&ask(), number, [0; 16]);
        prop_assert!(session.open(&bmc.reply(&sealed, &[1]), &ask(), number).is_ok());
    }

    #[test]
    fn no_packet_of_a_stranger_ends_a_handshake_that_has_not_begun(packet in proptest::collection::vec(any::<u8>(), 0..120)) {
        let entropy = Entropy { console: [1, 2, 3, 4], nonce: [7; 16] };
        let (mut handshake, _) = Handshake::begin(&credentials("u", "p", None), Privilege::User, Suite::Three, &[Suite::Three], entropy);
        prop_assert!(matches!(handshake.take(&packet), Step::Ignore(_)));
    }
}
