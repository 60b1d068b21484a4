//! How a session is opened: Open Session and RAKP 1 to 4 (IPMI 2.0, 13.17 to 13.24). Sans I/O: packets in, packets out.
//!
//! Both sides prove that they know the password without sending it; a BMC that cannot is left before anything is asked of
//! it. Whatever does not belong to this handshake is ignored, because anyone can send a UDP packet.

use zeroize::Zeroizing;

use super::{
    crypto::{Suite, same},
    session::Session,
    wire::{self, Payload},
};
use crate::{BmcError, Credentials};

/// Look up the user by name alone, whatever the privilege (13.20).
const NAME_ONLY: u8 = 0x10;
/// "Invalid integrity check value" (table 13-15).
const INVALID_CODE: u8 = 0x0f;
/// Constants from which the session keys are derived (13.32).
const CONST_1: [u8; 20] = [1; 20];
const CONST_2: [u8; 20] = [2; 20];

/// Rights of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    User = 2,
    Operator = 3,
}

/// Random bytes of one handshake.
pub(super) struct Entropy {
    pub(super) console: [u8; 4],
    pub(super) nonce: [u8; 16],
}

/// What to do after a packet.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: it was not for this handshake.
    Ignore(&'static str),
    /// Send this.
    Send(Vec<u8>),
    /// The session stands.
    Done(Box<Session>),
    /// The BMC speaks no suite that was offered now; another may be tried.
    NoSuite,
    /// It ends here; the packet tells the BMC so, so that it frees the slot.
    Failed(BmcError, Option<Vec<u8>>),
}

enum Stage {
    Opening,
    /// RAKP 1 was sent to this session of the BMC.
    Proving {
        managed: [u8; 4],
    },
    /// RAKP 3 was sent.
    Closing {
        managed: [u8; 4],
        guid: [u8; 16],
        session_key: Zeroizing<Vec<u8>>,
    },
}

/// A handshake under way.
pub(super) struct Handshake {
    suite: Suite,
    allowed: Vec<Suite>,
    privilege: Privilege,
    username: Vec<u8>,
    password: Zeroizing<Vec<u8>>,
    bmc_key: Zeroizing<Vec<u8>>,
    entropy: Entropy,
    tag: u8,
    stage: Stage,
}

impl Handshake {
    /// A handshake that offers `suite`, and its first packet. A BMC may answer with any of `allowed`.
    pub(super) fn begin(
        credentials: &Credentials,
        privilege: Privilege,
        suite: Suite,
        allowed: &[Suite],
        entropy: Entropy,
    ) -> (Self, Vec<u8>) {
        let password = Zeroizing::new(credentials.password.bytes().to_vec());
        // Without a key of its own the BMC uses the user's.
        let bmc_key =
            credentials.bmc_key.as_ref().map_or_else(|| password.clone(), |key| Zeroizing::new(key.bytes().to_vec()));
        let handshake = Self {
            suite,
            allowed: allowed.to_vec(),
            privilege,
            username: credentials.username.as_bytes().to_vec(),
            password,
            bmc_key,
            entropy,
            tag: 1,
            stage: Stage::Opening,
        };
        let mut body = vec![handshake.tag, privilege as u8, 0, 0];
        body.extend(handshake.entropy.console);
        for (kind, algorithm) in suite.algorithms().into_iter().enumerate() {
            body.extend([kind as u8, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        let packet = wire::bare(Payload::OpenSessionRequest, &body);
        (handshake, packet)
    }

    /// Takes a packet from the BMC.
    pub(super) fn take(&mut self, packet: &[u8]) -> Step {
        let packet = match wire::parse(packet, 0) {
            Ok(packet) => packet,
            Err(why) => return Step::Ignore(why),
        };
        let body = packet.body;
        let expected = match self.stage {
            Stage::Opening => Payload::OpenSessionResponse,
            Stage::Proving { .. } => Payload::Rakp2,
            Stage::Closing { .. } => Payload::Rakp4,
        };
        if packet.payload != expected || body.first() != Some(&self.tag) {
            return Step::Ignore("not the next packet of the handshake");
        }
        let Some(&status) = body.get(1) else { return Step::Ignore("truncated") };
        if status != 0 {
            return self.refused(status);
        }
        // The session id of this side follows in all three; in none of them is anything optional behind it.
        if body.get(4..8) != Some(&self.entropy.console) {
            return Step::Ignore("a packet of another session");
        }
        match std::mem::replace(&mut self.stage, Stage::Opening) {
            Stage::Opening => self.opened(body),
            Stage::Proving { managed } => self.proved(body, managed),
            Stage::Closing { managed, guid, session_key } => self.agreed(body, managed, &guid, &session_key),
        }
    }

    fn opened(&mut self, body: &[u8]) -> Step {
        let (Some(managed), Some(chosen)) = (body.get(8..12), body.get(12..36)) else {
            return Step::Ignore("truncated");
        };
        let algorithms = [chosen[4] & 0x3f, chosen[12] & 0x3f, chosen[20] & 0x3f];
        let Some(suite) = self.allowed.iter().find(|suite| suite.algorithms() == algorithms) else {
            return Step::Failed(
                BmcError::Unsupported("an IPMI cipher suite with integrity and encryption (3 or 17)".into()),
                None,
            );
        };
        self.suite = *suite;
        let managed: [u8; 4] = [managed[0], managed[1], managed[2], managed[3]];
        self.tag += 1;
        self.stage = Stage::Proving { managed };
        let mut rakp1 = vec![self.tag, 0, 0, 0];
        rakp1.extend(managed);
        rakp1.extend(self.entropy.nonce);
        rakp1.extend([self.role(), 0, 0, self.username.len() as u8]);
        rakp1.extend(&self.username);
        Step::Send(wire::bare(Payload::Rakp1, &rakp1))
    }

    fn proved(&mut self, body: &[u8], managed: [u8; 4]) -> Step {
        let code_length = self.suite.code_length();
        let (Some(nonce), Some(guid), Some(code)) = (body.get(8..24), body.get(24..40), body.get(40..40 + code_length))
        else {
            self.stage = Stage::Proving { managed };
            return Step::Ignore("truncated");
        };
        let user = [&[self.role(), self.username.len() as u8], &self.username[..]].concat();
        let expected =
            self.suite.mac(&self.password, &[&self.entropy.console, &managed, &self.entropy.nonce, nonce, guid, &user]);
        self.tag += 1;
        if !same(&expected, code) {
            let mut rakp3 = vec![self.tag, INVALID_CODE, 0, 0];
            rakp3.extend(managed);
            return Step::Failed(BmcError::Credentials, Some(wire::bare(Payload::Rakp3, &rakp3)));
        }
        let proof = self.suite.mac(&self.password, &[nonce, &self.entropy.console, &user]);
        let session_key = self.suite.mac(&self.bmc_key, &[&self.entropy.nonce, nonce, &user]);
        let guid = <[u8; 16]>::try_from(guid).unwrap_or_default();
        let mut rakp3 = vec![self.tag, 0, 0, 0];
        rakp3.extend(managed);
        rakp3.extend_from_slice(&proof);
        self.stage = Stage::Closing { managed, guid, session_key };
        Step::Send(wire::bare(Payload::Rakp3, &rakp3))
    }

    fn agreed(&mut self, body: &[u8], managed: [u8; 4], guid: &[u8; 16], session_key: &[u8]) -> Step {
        let expected = self.suite.mac(session_key, &[&self.entropy.nonce, &managed, guid]);
        let length = self.suite.integrity_length();
        if !body.get(8..8 + length).is_some_and(|code| same(&expected[..length], code)) {
            // The BMC knows the password but not the key: K_g is set there and not here, or the other way about.
            let why = "its key (kg) differs from the one given here, or the packet was forged".to_owned();
            return Step::Failed(BmcError::Refused { what: "the session".into(), why }, None);
        }
        let integrity_key = self.suite.mac(session_key, &[&CONST_1]);
        let cipher_key = self.suite.mac(session_key, &[&CONST_2]);
        Step::Done(Box::new(Session::new(self.suite, self.entropy.console, managed, integrity_key, &cipher_key)))
    }

    fn role(&self) -> u8 {
        NAME_ONLY | self.privilege as u8
    }

    /// What the BMC's status means (table 13-15).
    fn refused(&self, status: u8) -> Step {
        let refused = |why: &str| {
            let why = why.to_owned();
            Step::Failed(BmcError::Refused { what: "a session".into(), why }, None)
        };
        match status {
            0x01 | 0x0b => {
                refused("it has no free session; others hold them, and they end by themselves after a minute")
            }
            0x04..=0x07 | 0x10..=0x12 if matches!(self.stage, Stage::Opening) => Step::NoSuite,
            0x09 | 0x0a => Step::Failed(
                BmcError::Privilege(format!("it has not the privilege {:?} on the BMC's LAN channel", self.privilege)),
                None,
            ),
            0x0d | INVALID_CODE => Step::Failed(BmcError::Credentials, None),
            other => refused(&format!("RMCP+ status {other:#04x}")),
        }
    }
}
