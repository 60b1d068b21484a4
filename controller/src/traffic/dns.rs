//! DNS updates of RFC 2136 with TSIG (RFC 8945). The epoch stands in a TXT record that every update demands to be as it was
//! read: the server compares and changes in one act, so a plan that was overtaken changes nothing.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use evergreen_api::resources::DnsUpdateActuator;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use zeroize::Zeroizing;

use super::{
    Outcome, TrafficAllow, TrafficError, TrafficPlan,
    calls::CALL,
    secrets::Keys,
    wire::{self, Key, Message, Record},
};

/// Label below which the epoch stands.
const EPOCH_LABEL: &str = "_evergreen";

/// Makes the name's addresses those of the sites that serve.
pub(super) async fn apply(
    allow: &TrafficAllow,
    keys: &Keys,
    actuator: &DnsUpdateActuator,
    plan: &TrafficPlan,
) -> Result<Outcome, TrafficError> {
    let what = format!("DNS server {}", actuator.server);
    let bounded = tokio::time::timeout(CALL, update(allow, keys, actuator, plan, &what)).await;
    bounded.map_err(|_| TrafficError::Timeout(what.clone()))?
}

async fn update(
    allow: &TrafficAllow,
    keys: &Keys,
    actuator: &DnsUpdateActuator,
    plan: &TrafficPlan,
    what: &str,
) -> Result<Outcome, TrafficError> {
    let cannot = |why: &str| TrafficError::Unsupported { what: what.to_owned(), why: why.to_owned() };
    if !plan.is_even() {
        return Err(cannot("plain records share evenly: percentages need powerDns, haproxy or httpRoute"));
    }
    if !plan.units.is_empty() || plan.whitelist.is_some() {
        return Err(cannot("a name is the same for everybody: units and whitelists need httpRoute or haproxy"));
    }
    let wanted: BTreeSet<IpAddr> = actuator
        .targets
        .iter()
        .filter(|target| plan.share(&target.site) > 0)
        .flat_map(|target| target.addresses.iter().filter_map(|address| address.parse().ok()))
        .collect();
    if wanted.is_empty() {
        return Err(TrafficError::LastEndpoint(format!("{} would have no address", actuator.name)));
    }
    let (host, port) = actuator.server.rsplit_once(':').unwrap_or((&actuator.server, "53"));
    let server = allow.resolve(host, port.parse().unwrap_or(53)).await?;
    let names = Names::of(actuator);
    let session = Session { server, key: key(keys)?, what };
    let kind = if wanted.iter().all(IpAddr::is_ipv4) { wire::A } else { wire::AAAA };
    let texts = texts(&session.ask(&names.epoch, wire::TXT).await?);
    let found = texts.iter().filter_map(|text| epoch_of(text)).max().unwrap_or(0);
    if found > plan.epoch {
        return Err(TrafficError::Stale { what: format!("{what}: {}", actuator.name), found, planned: plan.epoch });
    }
    let mark = format!("evergreen epoch={} plan={}", plan.epoch, plan.digest());
    let records = session.ask(&names.name, kind).await?;
    let there = addresses(&records);
    let ttl_fits = records.iter().all(|record| record.ttl == actuator.ttl);
    if texts.as_slice() == std::slice::from_ref(&mark) && there == wanted && ttl_fits {
        return Ok(Outcome::Unchanged);
    }
    session.send(change(&names, &texts, &mark, kind, &wanted, actuator.ttl)).await?;
    Ok(Outcome::Written)
}

/// Names of an actuator, as they are read: lower case, without the last dot.
struct Names {
    zone: String,
    name: String,
    epoch: String,
}

impl Names {
    fn of(actuator: &DnsUpdateActuator) -> Self {
        let plain = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
        let name = plain(&actuator.name);
        Self { zone: plain(&actuator.zone), epoch: format!("{EPOCH_LABEL}.{name}"), name }
    }
}

/// The whole change in one message: if the epoch's record is as it was read, the new epoch and the new addresses.
fn change(names: &Names, texts: &[String], mark: &str, kind: u16, wanted: &BTreeSet<IpAddr>, ttl: u32) -> Message {
    let record = |name: &str, kind: u16, class: u16, ttl: u32, data: Vec<u8>| Record {
        name: name.to_owned(),
        kind,
        class,
        ttl,
        data,
    };
    let mut message = Message {
        id: rand::random(),
        flags: wire::UPDATE,
        questions: vec![(names.zone.clone(), wire::SOA, wire::IN)],
        ..Message::default()
    };
    if texts.is_empty() {
        // RFC 2136, 2.4.3: there is no such RRset.
        message.answers.push(record(&names.epoch, wire::TXT, wire::NONE, 0, Vec::new()));
    }
    for text in texts {
        // RFC 2136, 2.4.2: the RRset is exactly this.
        message.answers.push(record(&names.epoch, wire::TXT, wire::IN, 0, wire::text_data(text)));
    }
    let updates = &mut message.authorities;
    updates.push(record(&names.epoch, wire::TXT, wire::ANY, 0, Vec::new()));
    updates.push(record(&names.epoch, wire::TXT, wire::IN, ttl, wire::text_data(mark)));
    updates.push(record(&names.name, kind, wire::ANY, 0, Vec::new()));
    for address in wanted {
        let data = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        updates.push(record(&names.name, kind, wire::IN, ttl, data));
    }
    message
}

/// Signed exchanges with one server, each over a connection of its own.
struct Session<'a> {
    server: SocketAddr,
    key: Key,
    what: &'a str,
}

impl Session<'_> {
    async fn ask(&self, name: &str, kind: u16) -> Result<Vec<Record>, TrafficError> {
        let questions = vec![(name.to_owned(), kind, wire::IN)];
        let answer = self.exchange(Message { id: rand::random(), questions, ..Message::default() }).await?;
        match answer.code() {
            // NOERROR, NXDOMAIN
            0 | 3 if answer.is_authoritative() => {
                Ok(answer.answers.into_iter().filter(|record| record.name == name && record.kind == kind).collect())
            }
            0 | 3 => Err(self.refused("it is no authority for the zone: give the zone's primary server".into())),
            code => Err(self.refused(says(code))),
        }
    }

    async fn send(&self, message: Message) -> Result<(), TrafficError> {
        match self.exchange(message).await?.code() {
            0 => Ok(()),
            // A prerequisite did not hold: NXDOMAIN, YXDOMAIN, YXRRSET, NXRRSET.
            3 | 6..=8 => Err(TrafficError::Conflict(format!("{}: the epoch's record", self.what))),
            code => Err(self.refused(says(code))),
        }
    }

    async fn exchange(&self, message: Message) -> Result<Message, TrafficError> {
        let failed = |why: String| TrafficError::Unreachable { what: self.what.to_owned(), why };
        let now = || u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let signed = wire::sign(&message, &self.key, now());
        let (bytes, mac) = signed.ok_or_else(|| failed("a name is too long".into()))?;
        let length = u16::try_from(bytes.len()).map_err(|_| failed("the message is too long".into()))?;
        let io = |error: std::io::Error| failed(error.to_string());
        let mut stream = TcpStream::connect(self.server).await.map_err(io)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        stream.write_all(&framed).await.map_err(io)?;
        let length = stream.read_u16().await.map_err(io)?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.map_err(io)?;
        let parsed = wire::read(&answer, &self.key, &mac, now());
        let parsed = parsed.ok_or_else(|| failed("its answer is no DNS message".into()))?;
        if parsed.message.id != message.id {
            return Err(failed("it answered another question".into()));
        }
        match parsed.signed {
            Some(true) => Ok(parsed.message),
            // What is not signed, or signed wrongly, is believed only where it says no.
            _ if parsed.message.code() != 0 => Err(self.refused(says(parsed.message.code()))),
            _ => Err(self.refused("its answer is not signed with the key: compare the key and the clocks".into())),
        }
    }

    fn refused(&self, why: String) -> TrafficError {
        TrafficError::Refused { what: self.what.to_owned(), why }
    }
}

/// A response code and what to do about it.
fn says(code: u8) -> String {
    let (name, remedy) = match code {
        1 => ("FORMERR", "look into its log"),
        2 => ("SERVFAIL", "look into its log"),
        4 => ("NOTIMP", "it takes no updates"),
        5 => ("REFUSED", "allow this key to query and update the zone (Knot: acl, BIND: update-policy)"),
        9 => ("NOTAUTH", "it does not know the key or the zone, or the clocks are more than 300 s apart"),
        10 => ("NOTZONE", "the name is not in the zone"),
        _ => return format!("response code {code}: look into its log"),
    };
    format!("{name}: {remedy}")
}

/// The key; its bytes go nowhere else.
fn key(keys: &Keys) -> Result<Key, TrafficError> {
    let secret = BASE64.decode(keys.text("secret")?.trim()).map(Zeroizing::new);
    let secret = secret.map_err(|_| keys.wrong("`secret` is no base64"))?;
    Key::new(keys.text("name")?, keys.text("algorithm")?, &secret)
        .ok_or_else(|| keys.wrong("`algorithm` must be hmac-sha256, hmac-sha384 or hmac-sha512"))
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().filter_map(|record| wire::text_of(&record.data)).collect()
}

fn addresses(records: &[Record]) -> BTreeSet<IpAddr> {
    let address = |record: &Record| match record.kind {
        wire::A => <[u8; 4]>::try_from(record.data.as_slice()).ok().map(|octets| Ipv4Addr::from(octets).into()),
        wire::AAAA => <[u8; 16]>::try_from(record.data.as_slice()).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    };
    records.iter().filter_map(address).collect()
}

/// Epoch in a text such as `evergreen epoch=12 plan=0a1b2c3d`.
pub(super) fn epoch_of(text: &str) -> Option<u64> {
    let rest = text.trim_matches('"').strip_prefix("evergreen ")?;
    rest.split_whitespace().find_map(|word| word.strip_prefix("epoch="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let actuator = serde_json::json!({"server": "127.0.0.1:53", "zone": "Bank.example.", "name": "pay.bank.example",
            "targets": [], "secret": "s"});
        Names::of(&serde_json::from_value(actuator).unwrap())
    }

    #[test]
    fn every_change_demands_the_epoch_that_was_read() {
        let wanted = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let first = change(&names(), &[], "evergreen epoch=1 plan=x", wire::A, &wanted, 30);
        assert_eq!((first.answers[0].class, first.answers[0].data.len()), (wire::NONE, 0));
        let text = "evergreen epoch=1 plan=x".to_owned();
        let next = change(&names(), std::slice::from_ref(&text), "evergreen epoch=2 plan=y", wire::A, &wanted, 30);
        assert_eq!(texts(&next.answers), [text]);
        assert_eq!((next.answers[0].class, next.answers[0].ttl), (wire::IN, 0));
        assert_eq!(next.questions[0].0, "bank.example");
        assert_eq!(addresses(&next.authorities), wanted);
    }

    #[test]
    fn an_epoch_is_read_back() {
        assert_eq!(epoch_of("evergreen epoch=12 plan=0a1b2c3d"), Some(12));
        assert_eq!(epoch_of("\"evergreen epoch=12 plan=0a1b2c3d\""), Some(12));
        assert_eq!(epoch_of("v=spf1 -all"), None);
    }

    #[test]
    fn a_key_that_cannot_be_is_told_without_its_secret() {
        let keys = Keys::of(&[("name", "k"), ("algorithm", "hmac-md5"), ("secret", "aHVudGVyMg==")]);
        let error = key(&keys).err().unwrap().to_string();
        assert!(error.contains("hmac-sha256") && !error.contains("aHVudGVy"), "{error}");
        assert!(key(&Keys::of(&[("name", "k"), ("algorithm", "hmac-sha256"), ("secret", "aHVudGVyMg==")])).is_ok());
    }
}
