//! Bytes of RMCP+ packets and of the IPMI messages in them (IPMI 2.0, 13.6 and 13.8). Pure; reads nothing beyond its input.

/// RMCP version 1.0, no acknowledgement, class IPMI.
const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// Session header of IPMI 2.0.
const FORMAT_RMCP_PLUS: u8 = 0x06;
/// Bytes before the payload.
const HEADER: usize = 16;
/// Marks the end of a packet's trailer.
const NEXT_HEADER: u8 = 0x07;
const ENCRYPTED: u8 = 0x80;
const AUTHENTICATED: u8 = 0x40;
/// Address of the BMC on its own bus.
const BMC: u8 = 0x20;
/// Address of remote software.
const CONSOLE: u8 = 0x81;
/// Largest packet that is looked at; the specification's own limit is far below.
pub(super) const MAX_PACKET: usize = 1_500;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Payload {
    Ipmi = 0x00,
    OpenSessionRequest = 0x10,
    OpenSessionResponse = 0x11,
    Rakp1 = 0x12,
    Rakp2 = 0x13,
    Rakp3 = 0x14,
    Rakp4 = 0x15,
}

impl Payload {
    fn of(number: u8) -> Option<Self> {
        [
            Self::Ipmi,
            Self::OpenSessionRequest,
            Self::OpenSessionResponse,
            Self::Rakp1,
            Self::Rakp2,
            Self::Rakp3,
            Self::Rakp4,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// A packet that was taken apart; nothing of it is believed yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) payload: Payload,
    pub(super) encrypted: bool,
    pub(super) authenticated: bool,
    pub(super) session: [u8; 4],
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
    /// What the integrity code is over.
    pub(super) signed: &'a [u8],
    /// The integrity code; empty outside of a session.
    pub(super) code: &'a [u8],
}

/// Takes a packet apart. `code` is the length of integrity codes of the session, if there is one.
pub(super) fn parse(packet: &[u8], code: usize) -> Result<Packet<'_>, &'static str> {
    if packet.len() > MAX_PACKET {
        return Err("too long");
    }
    let (rmcp, rest) = packet.split_at_checked(RMCP.len()).ok_or("truncated")?;
    // The second byte is reserved, the third a sequence number that IPMI does not use.
    if rmcp[0] != RMCP[0] || rmcp[3] != RMCP[3] {
        return Err("no RMCP packet of IPMI");
    }
    if rest.first() != Some(&FORMAT_RMCP_PLUS) {
        return Err("no packet of IPMI 2.0");
    }
    let header: &[u8; HEADER - 4] = rest.first_chunk().ok_or("truncated")?;
    let [_, kind, s0, s1, s2, s3, q0, q1, q2, q3, l0, l1] = *header;
    let payload = Payload::of(kind & 0x3f).ok_or("an unknown kind of payload")?;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let body = rest.get(header.len()..header.len() + length).ok_or("truncated")?;
    let authenticated = kind & AUTHENTICATED != 0;
    let (signed, code) = if authenticated {
        let signed = rest.len().checked_sub(code).ok_or("truncated")?;
        let (signed, code) = rest.split_at(signed);
        let trailer = signed.get(header.len() + length..).ok_or("truncated")?;
        let [pads @ .., padding, next] = trailer else { return Err("truncated") };
        if usize::from(*padding) != pads.len() || *next != NEXT_HEADER {
            return Err("a damaged trailer");
        }
        (signed, code)
    } else {
        (rest, [].as_slice())
    };
    Ok(Packet {
        payload,
        encrypted: kind & ENCRYPTED != 0,
        authenticated,
        session: [s0, s1, s2, s3],
        sequence: u32::from_le_bytes([q0, q1, q2, q3]),
        body,
        signed,
        code,
    })
}

/// A packet outside of a session.
pub(super) fn bare(payload: Payload, body: &[u8]) -> Vec<u8> {
    let mut packet = header(payload as u8, [0; 4], 0, body.len());
    packet.extend_from_slice(body);
    packet
}

/// A packet of a session whose body is encrypted already; `code` makes the integrity code.
pub(super) fn sealed(session: [u8; 4], sequence: u32, body: &[u8], code: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut packet = header(Payload::Ipmi as u8 | ENCRYPTED | AUTHENTICATED, session, sequence, body.len());
    packet.extend_from_slice(body);
    // From the session header on, a multiple of 4 with the two bytes that follow.
    let padding = (4 - (packet.len() - RMCP.len() + 2) % 4) % 4;
    packet.extend(std::iter::repeat_n(0xff, padding));
    packet.extend([padding as u8, NEXT_HEADER]);
    let code = code(&packet[RMCP.len()..]);
    packet.extend(code);
    packet
}

fn header(kind: u8, session: [u8; 4], sequence: u32, length: usize) -> Vec<u8> {
    let mut packet = RMCP.to_vec();
    packet.extend([FORMAT_RMCP_PLUS, kind]);
    packet.extend(session);
    packet.extend(sequence.to_le_bytes());
    // A body is a few dozen bytes; see MAX_PACKET.
    packet.extend((length as u16).to_le_bytes());
    packet
}

/// A request to the BMC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) function: u8,
    pub(super) command: u8,
    pub(super) data: Vec<u8>,
}

/// An answer of the BMC.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) completion: u8,
    pub(super) data: Vec<u8>,
}

/// Bytes of a request with its number, which is below 64.
pub(super) fn request(request: &Request, number: u8) -> Vec<u8> {
    let to = [BMC, request.function << 2];
    let mut message = to.to_vec();
    message.push(checksum(&to));
    let from = message.len();
    message.extend([CONSOLE, number << 2, request.command]);
    message.extend_from_slice(&request.data);
    message.push(checksum(&message[from..]));
    message
}

/// The answer to a request with that number, if that is what the bytes are.
pub(super) fn answer(message: &[u8], to: &Request, number: u8) -> Result<Answer, &'static str> {
    let [_, function, sum, from @ ..] = message else { return Err("truncated") };
    if *sum != checksum(&message[..2]) {
        return Err("a wrong checksum");
    }
    let [body @ .., last] = from else { return Err("truncated") };
    if *last != checksum(body) {
        return Err("a wrong checksum");
    }
    let [_, sequence, command, completion, data @ ..] = body else { return Err("truncated") };
    if function >> 2 != to.function | 1 || *command != to.command || sequence >> 2 != number {
        return Err("an answer to another question");
    }
    Ok(Answer { completion: *completion, data: data.to_vec() })
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_get_device_id_request_has_the_bytes_of_the_specification() {
        let device_id = Request { function: 0x06, command: 0x01, data: Vec::new() };
        assert_eq!(request(&device_id, 1), [0x20, 0x18, 0xc8, 0x81, 0x04, 0x01, 0x7a]);
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let asked = Request { function: 0x06, command: 0x01, data: Vec::new() };
        let mut message = vec![0x81, 0x1c];
        message.push(checksum(&message));
        message.extend([0x20, 0x04, 0x01, 0x00, 0xaa]);
        message.push(checksum(&message[3..]));
        assert_eq!(answer(&message, &asked, 1), Ok(Answer { completion: 0, data: vec![0xaa] }));
        assert!(answer(&message, &asked, 2).is_err());
        let other = Request { command: 0x02, ..asked.clone() };
        assert!(answer(&message, &other, 1).is_err());
        message[7] ^= 1;
        assert_eq!(answer(&message, &asked, 1), Err("a wrong checksum"));
    }

    proptest! {
        #[test]
        fn a_sealed_packet_is_taken_apart_again(session: [u8; 4], sequence: u32, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let packet = sealed(session, sequence, &body, |_| vec![7; 12]);
            let parsed = parse(&packet, 12).unwrap();
            prop_assert_eq!((parsed.session, parsed.sequence, parsed.body), (session, sequence, &body[..]));
            prop_assert!(parsed.encrypted && parsed.authenticated);
            prop_assert_eq!((parsed.code, parsed.signed.len() % 4), (&[7_u8; 12][..], 0));
            for length in 0..packet.len() {
                prop_assert!(parse(&packet[..length], 12).is_err(), "truncated to {}", length);
            }
        }

        #[test]
        fn garbage_is_refused_and_never_more(mut packet in proptest::collection::vec(any::<u8>(), 0..100), code in 0_usize..40, begin: bool) {
            if begin && packet.len() > 5 {
                packet[..5].copy_from_slice(&[6, 0, 0xff, 7, 6]);
            }
            let _ = parse(&packet, code);
            let _ = answer(&packet, &Request { function: 0, command: 0, data: Vec::new() }, 0);
        }
    }
}
