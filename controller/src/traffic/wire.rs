//! DNS messages (RFC 1035), as much of them as an update (RFC 2136) needs, and their signatures (TSIG, RFC 8945). Pure but
//! for the HMAC; reading never goes beyond the message and always ends.

use ring::hmac;

pub(super) const A: u16 = 1;
pub(super) const SOA: u16 = 6;
pub(super) const TXT: u16 = 16;
pub(super) const AAAA: u16 = 28;
const TSIG: u16 = 250;
pub(super) const IN: u16 = 1;
pub(super) const NONE: u16 = 254;
pub(super) const ANY: u16 = 255;
/// Opcode of an update, in place.
pub(super) const UPDATE: u16 = 5 << 11;
/// How far the clocks of both ends may be apart, in seconds, as RFC 8945 recommends.
const FUDGE: u16 = 300;
/// Names that point further than this are no names.
const MOST_JUMPS: usize = 64;

/// A record; its name in lower case and without the last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub name: String,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub data: Vec<u8>,
}

/// A message. In an update the four sections are zone, prerequisites, updates and additional data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub id: u16,
    pub flags: u16,
    pub questions: Vec<(String, u16, u16)>,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

impl Message {
    /// RCODE.
    pub fn code(&self) -> u8 {
        u8::try_from(self.flags & 0xf).unwrap_or(0)
    }

    /// Whether it is an answer of an authority.
    pub fn is_authoritative(&self) -> bool {
        self.flags & 0x0400 != 0
    }
}

/// A key that both ends know. It has no text form; `ring` wipes nothing, so it lives as short as a call.
pub(super) struct Key {
    pub name: String,
    algorithm: &'static str,
    key: hmac::Key,
}

impl Key {
    /// A key; none when the algorithm is not one of hmac-sha256, hmac-sha384, hmac-sha512.
    pub fn new(name: &str, algorithm: &str, secret: &[u8]) -> Option<Self> {
        let (algorithm, kind) = match algorithm.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "hmac-sha256" => ("hmac-sha256", hmac::HMAC_SHA256),
            "hmac-sha384" => ("hmac-sha384", hmac::HMAC_SHA384),
            "hmac-sha512" => ("hmac-sha512", hmac::HMAC_SHA512),
            _ => return None,
        };
        Some(Self { name: lower(name), algorithm, key: hmac::Key::new(kind, secret) })
    }
}

fn lower(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn put_name(out: &mut Vec<u8>, name: &str) -> Option<()> {
    for label in lower(name).split('.').filter(|label| !label.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|length| *length < 64)?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    Some(())
}

fn put_record(out: &mut Vec<u8>, record: &Record) -> Option<()> {
    put_name(out, &record.name)?;
    out.extend_from_slice(&record.kind.to_be_bytes());
    out.extend_from_slice(&record.class.to_be_bytes());
    out.extend_from_slice(&record.ttl.to_be_bytes());
    out.extend_from_slice(&u16::try_from(record.data.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&record.data);
    Some(())
}

/// The message as bytes; none when a name or a section is too long.
fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    let count = |length: usize| u16::try_from(length).ok();
    let counts = [message.questions.len(), message.answers.len(), message.authorities.len(), 0];
    for word in [message.id, message.flags] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for length in counts {
        out.extend_from_slice(&count(length)?.to_be_bytes());
    }
    for (name, kind, class) in &message.questions {
        put_name(&mut out, name)?;
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&class.to_be_bytes());
    }
    message.answers.iter().chain(&message.authorities).try_for_each(|record| put_record(&mut out, record))?;
    Some(out)
}

/// What is signed besides the message: RFC 8945, 4.3.3.
fn variables(key: &Key, time: u64, fudge: u16, error: u16, other: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    put_name(&mut out, &key.name)?;
    out.extend_from_slice(&ANY.to_be_bytes());
    out.extend_from_slice(&0_u32.to_be_bytes());
    put_name(&mut out, key.algorithm)?;
    out.extend_from_slice(&time.to_be_bytes()[2..]);
    out.extend_from_slice(&fudge.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&u16::try_from(other.len()).ok()?.to_be_bytes());
    out.extend_from_slice(other);
    Some(out)
}

/// The message as signed bytes, and its MAC. `time` is seconds since 1970.
pub(super) fn sign(message: &Message, key: &Key, time: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut bytes = encode(message)?;
    let mut signed = bytes.clone();
    signed.extend(variables(key, time, FUDGE, 0, &[])?);
    let mac = hmac::sign(&key.key, &signed).as_ref().to_vec();
    let mut data = Vec::new();
    put_name(&mut data, key.algorithm)?;
    data.extend_from_slice(&time.to_be_bytes()[2..]);
    data.extend_from_slice(&FUDGE.to_be_bytes());
    data.extend_from_slice(&u16::try_from(mac.len()).ok()?.to_be_bytes());
    data.extend_from_slice(&mac);
    data.extend_from_slice(&message.id.to_be_bytes());
    data.extend_from_slice(&[0; 4]);
    put_record(&mut bytes, &Record { name: key.name.clone(), kind: TSIG, class: ANY, ttl: 0, data })?;
    bytes[11] = 1;
    Some((bytes, mac))
}

/// Reads bytes of a message from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A name, following pointers, each of which leads further to the front.
    fn name(&mut self) -> Option<String> {
        let mut labels: Vec<String> = Vec::new();
        let (mut at, mut end, mut length, mut jumps) = (self.at, None, 0, 0);
        loop {
            let first = usize::from(*self.bytes.get(at)?);
            match first {
                0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Some(labels.join("."));
                }
                0xc0.. => {
                    let target = (first & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                    end.get_or_insert(at + 2);
                    jumps += 1;
                    if target >= at || jumps > MOST_JUMPS {
                        return None;
                    }
                    at = target;
                }
                1..64 => {
                    length += first + 1;
                    let label = self.bytes.get(at + 1..at + 1 + first)?;
                    if length > 255 {
                        return None;
                    }
                    labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
                    at += first + 1;
                }
                _ => return None,
            }
        }
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let (kind, class, ttl, length) = (self.u16()?, self.u16()?, self.u32()?, self.u16()?);
        Some(Record { name, kind, class, ttl, data: self.take(usize::from(length))?.to_vec() })
    }
}

/// An answer, and whether its signature fits; none when it carries none.
pub(super) struct Parsed {
    pub message: Message,
    pub signed: Option<bool>,
}

/// Reads an answer to a request that was signed with `key` and had this MAC. None when it is no DNS message.
pub(super) fn read(bytes: &[u8], key: &Key, request_mac: &[u8], now: u64) -> Option<Parsed> {
    let mut reader = Reader { bytes, at: 0 };
    let (id, flags) = (reader.u16()?, reader.u16()?);
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    let mut message = Message { id, flags, ..Message::default() };
    for _ in 0..counts[0] {
        let question = (reader.name()?, reader.u16()?, reader.u16()?);
        message.questions.push(question);
    }
    for _ in 0..counts[1] {
        message.answers.push(reader.record()?);
    }
    for _ in 0..counts[2] {
        message.authorities.push(reader.record()?);
    }
    let mut signed = None;
    for _ in 0..counts[3] {
        let begin = reader.at;
        let record = reader.record()?;
        if record.kind == TSIG {
            signed = Some(verify(&bytes[..begin], &record, key, request_mac, now).unwrap_or(false));
        }
    }
    Some(Parsed { message, signed })
}

/// Whether the signature of an answer fits; `before` is the answer up to its TSIG record.
fn verify(before: &[u8], record: &Record, key: &Key, request_mac: &[u8], now: u64) -> Option<bool> {
    let mut reader = Reader { bytes: &record.data, at: 0 };
    let algorithm = reader.name()?;
    let time = reader.take(6)?.iter().fold(0_u64, |time, byte| time << 8 | u64::from(*byte));
    let fudge = reader.u16()?;
    let length = reader.u16()?;
    let mac = reader.take(usize::from(length))?;
    let (original, error, length) = (reader.u16()?, reader.u16()?, reader.u16()?);
    let other = reader.take(usize::from(length))?;
    if record.name != key.name || algorithm != key.algorithm || now.abs_diff(time) > u64::from(fudge) {
        return Some(false);
    }
    let mut signed = u16::try_from(request_mac.len()).ok()?.to_be_bytes().to_vec();
    signed.extend_from_slice(request_mac);
    let start = signed.len();
    signed.extend_from_slice(before);
    signed[start..start + 2].copy_from_slice(&original.to_be_bytes());
    let additional = u16::from_be_bytes([before[10], before[11]]).checked_sub(1)?;
    signed[start + 10..start + 12].copy_from_slice(&additional.to_be_bytes());
    signed.extend(variables(key, time, fudge, error, other)?);
    Some(hmac::verify(&key.key, &signed, mac).is_ok())
}

/// Data of a TXT record with this text.
pub(super) fn text_data(text: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for part in text.as_bytes().chunks(255) {
        data.push(u8::try_from(part.len()).unwrap_or(255));
        data.extend_from_slice(part);
    }
    data
}

/// Text of a TXT record.
pub(super) fn text_of(data: &[u8]) -> Option<String> {
    let (mut at, mut text) = (0, Vec::new());
    while at < data.len() {
        let length = usize::from(data[at]);
        text.extend_from_slice(data.get(at + 1..at + 1 + length)?);
        at += 1 + length;
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        Key::new("Evergreen.", "hmac-sha256", b"secret").unwrap()
    }

    fn message() -> Message {
        let record =
            Record { name: "pay.bank.example".into(), kind: TXT, class: IN, ttl: 30, data: text_data("hello") };
        Message {
            id: 7,
            flags: 0x8400,
            questions: vec![("bank.example".into(), SOA, IN)],
            answers: vec![record],
            ..Message::default()
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (bytes, _) = sign(&message(), &key(), 1_000).unwrap();
        let parsed = read(&bytes, &key(), &[], 1_000).unwrap();
        assert_eq!(parsed.message, message());
        assert_eq!(text_of(&parsed.message.answers[0].data).as_deref(), Some("hello"));
    }

    /// An answer signed as a server signs it.
    fn answer(request_mac: &[u8], time: u64) -> Vec<u8> {
        let key = key();
        let plain = encode(&message()).unwrap();
        let mut signed = u16::try_from(request_mac.len()).unwrap().to_be_bytes().to_vec();
        signed.extend_from_slice(request_mac);
        signed.extend_from_slice(&plain);
        signed.extend(variables(&key, time, FUDGE, 0, &[]).unwrap());
        let mac = hmac::sign(&key.key, &signed);
        let mut data = Vec::new();
        put_name(&mut data, key.algorithm).unwrap();
        data.extend_from_slice(&time.to_be_bytes()[2..]);
        data.extend_from_slice(&FUDGE.to_be_bytes());
        data.extend_from_slice(&32_u16.to_be_bytes());
        data.extend_from_slice(mac.as_ref());
        data.extend_from_slice(&7_u16.to_be_bytes());
        data.extend_from_slice(&[0; 4]);
        let mut bytes = plain;
        put_record(&mut bytes, &Record { name: key.name.clone(), kind: TSIG, class: ANY, ttl: 0, data }).unwrap();
        bytes[11] = 1;
        bytes
    }

    #[test]
    fn only_an_unchanged_answer_to_this_request_in_time_is_believed() {
        let bytes = answer(b"mac of the request", 1_000);
        let believed = |bytes: &[u8], mac: &[u8], now: u64| read(bytes, &key(), mac, now).unwrap().signed;
        assert_eq!(believed(&bytes, b"mac of the request", 1_000), Some(true));
        assert_eq!(believed(&bytes, b"mac of another", 1_000), Some(false));
        assert_eq!(believed(&bytes, b"mac of the request", 1_301), Some(false));
        let mut changed = bytes;
        changed[2] ^= 0x04;
        assert_eq!(believed(&changed, b"mac of the request", 1_000), Some(false));
    }

    #[test]
    fn a_name_that_points_to_itself_is_none() {
        let mut bytes = vec![0; 12];
        bytes[5] = 1;
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        assert!(read(&bytes, &key(), &[], 0).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, &key(), b"mac", 0);
            let _ = text_of(&bytes);
        }
    }
}
