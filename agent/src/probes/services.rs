//! Whether what the node lives by answers: kubelet, container runtime, names; whether the clock is kept in step; how long
//! certificates last. Nothing here waits longer than [`ANSWER_WITHIN`]; what hangs is left behind and not asked again.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use base64::Engine;
use http::Uri;

use super::thresholds::Figure;
use crate::host::{Root, read_bounded};

/// A healthy service on the same machine answers within milliseconds, a name server within a second.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where the kubelet says whether it is well.
const KUBELET: &str = "http://127.0.0.1:10248/healthz";
/// Sockets of runtimes, of which the first that is there counts.
const RUNTIMES: [&str; 3] =
    ["run/containerd/containerd.sock", "run/crio/crio.sock", "run/k3s/containerd/containerd.sock"];
/// Certificates that are looked at when none are named.
const CERTIFICATES: [&str; 3] = [
    "var/lib/kubelet/pki/kubelet-client-current.pem",
    "var/lib/kubelet/pki/kubelet.crt",
    "etc/kubernetes/pki/apiserver-kubelet-client.crt",
];
/// Certificates of one file that are looked at.
const MAX_CERTIFICATES: usize = 64;

/// Something that may never answer: asked on a thread of its own, one at a time.
#[derive(Debug, Default)]
pub struct Patient {
    waiting: Option<mpsc::Receiver<Result<(), String>>>,
}

impl Patient {
    /// Asks, unless the last question is still open.
    ///
    /// # Errors
    /// What the answer says, or that there is none.
    pub fn ask(
        &mut self,
        within: Duration,
        question: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        if let Some(waiting) = &self.waiting
            && matches!(waiting.try_recv(), Err(mpsc::TryRecvError::Empty))
        {
            return Err("an earlier question is still without an answer".into());
        }
        self.waiting = None;
        let (answer, answers) = mpsc::sync_channel(1);
        let spawned = thread::Builder::new().name("probe".into()).stack_size(256 << 10).spawn(move || {
            // Nobody listens any more when it took too long.
            let _ = answer.send(question());
        });
        spawned.map_err(|error| error.to_string())?;
        answers.recv_timeout(within).unwrap_or_else(|_| {
            self.waiting = Some(answers);
            Err(format!("no answer within {within:?}"))
        })
    }
}

fn failing(measure: &'static str, of: &str, outcome: &Result<(), String>) -> Figure {
    let says = match outcome {
        Ok(()) => format!("{of}: well"),
        Err(reason) => format!("{of}: {reason}"),
    };
    Figure { measure, of: of.to_owned(), value: f64::from(u8::from(outcome.is_err())), says }
}

fn absent(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, reason.to_owned())
}

/// Whether the kubelet says that it is well; where none is named, the usual place on hosts that have a kubelet.
///
/// # Errors
/// When this host has no kubelet.
pub fn kubelet(root: &Root, named: Option<&Uri>, patient: &mut Patient) -> io::Result<Vec<Figure>> {
    let uri = match named {
        Some(uri) => uri.clone(),
        None if root.join("var/lib/kubelet/config.yaml").exists() => Uri::from_static(KUBELET),
        None => {
            return Err(absent(
                "this host has no var/lib/kubelet/config.yaml; name the kubelet with --kubelet-healthz",
            ));
        }
    };
    let of = uri.to_string();
    let outcome = patient.ask(ANSWER_WITHIN, move || get(&uri));
    Ok(vec![failing("kubelet.failing", &of, &outcome)])
}

/// One plain GET; anything but 200 is an error.
fn get(uri: &Uri) -> Result<(), String> {
    let host = uri.host().ok_or("the address names no host")?;
    let port = uri.port_u16().unwrap_or(80);
    let address = (host.trim_matches(['[', ']']), port).to_socket_addrs().map_err(|error| error.to_string())?.next();
    let address = address.ok_or("the host has no address")?;
    let told = |error: io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN).map_err(told)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(told)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(told)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // In one piece: a server that answers before it has read all of it may reset the connection.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut head = [0; 64];
    let mut filled = 0;
    while filled < head.len() && !head[..filled].contains(&b'\n') {
        match stream.read(&mut head[filled..]).map_err(told)? {
            0 => break,
            count => filled += count,
        }
    }
    let line = crate::text::printable(head[..filled].split(|b| *b == b'\r').next().unwrap_or_default(), 60);
    if line.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("it answers `{line}`")) }
}

/// Whether the container runtime takes connections.
///
/// # Errors
/// When there is none.
pub fn runtime(root: &Root, named: Option<&Path>, patient: &mut Patient) -> io::Result<Vec<Figure>> {
    let found = match named {
        Some(path) => Some(root.join(path)),
        None => RUNTIMES.iter().map(|path| root.join(path)).find(|path| path.exists()),
    };
    let path = found.ok_or_else(|| absent("no socket of a container runtime; name it with --runtime-socket"))?;
    let of = path.display().to_string();
    // A full queue of connections would make this wait for ever, which is why it is asked on a thread.
    let outcome = patient.ask(ANSWER_WITHIN, move || UnixStream::connect(&path).map(drop).map_err(|e| e.to_string()));
    Ok(vec![failing("runtime.failing", &of, &outcome)])
}

/// Whether a name resolves.
///
/// # Errors
/// When no name is given.
pub fn dns(names: &[String], patients: &mut Vec<Patient>) -> io::Result<Vec<Figure>> {
    if names.is_empty() {
        return Err(absent("no name to resolve is given; name one with --dns-name"));
    }
    patients.resize_with(names.len(), Patient::default);
    let figures = names.iter().zip(patients).map(|(name, patient)| {
        let asked = name.clone();
        let outcome = patient.ask(ANSWER_WITHIN, move || {
            let found = (asked.as_str(), 0_u16).to_socket_addrs().map_err(|error| error.to_string())?;
            if found.count() > 0 { Ok(()) } else { Err("it has no address".into()) }
        });
        failing("dns.failing", name, &outcome)
    });
    Ok(figures.collect())
}

/// Whether the clock is kept in step, as far as files tell: systemd-timesyncd marks it. The kernel's own word on it needs
/// adjtimex, which has no safe interface here.
///
/// # Errors
/// When nothing tells.
pub fn clock(root: &Root) -> io::Result<Vec<Figure>> {
    let base = root.join("run/systemd/timesync");
    if !base.is_dir() {
        return Err(absent("no file tells whether the clock is kept in step; only systemd-timesyncd leaves one"));
    }
    let synchronised = base.join("synchronized").exists();
    let value = f64::from(u8::from(!synchronised));
    let says = "systemd-timesyncd has not set the clock since boot".to_owned();
    Ok(vec![Figure { measure: "clock.unsynchronised", of: String::new(), value, says }])
}

/// Days until certificates expire.
///
/// # Errors
/// When there is none, or one that is named cannot be read.
pub fn certificates(root: &Root, named: &[PathBuf], now: jiff::Timestamp) -> io::Result<Vec<Figure>> {
    let usual = CERTIFICATES.iter().map(|path| root.join(path)).filter(|path| path.is_file());
    let files: Vec<PathBuf> =
        if named.is_empty() { usual.collect() } else { named.iter().map(|path| root.join(path)).collect() };
    if files.is_empty() {
        return Err(absent("no certificates in the usual places; name them with --certificate"));
    }
    let mut figures = Vec::new();
    for file in files {
        let told = |reason: String| io::Error::other(format!("{}: {reason}", file.display()));
        let text = read_bounded(&file).map_err(|error| told(error.to_string()))?;
        let ends = pem_certificates(&text).filter_map(|der| not_after(&der));
        let end = ends.min().ok_or_else(|| told("no certificate in PEM is in it".into()))?;
        let days = (end.as_second() - now.as_second()) as f64 / 86_400.0;
        let of = file.display().to_string();
        let says = format!("{of} expires at {end:.0}");
        figures.push(Figure { measure: "certificate.days", of, value: days, says });
    }
    Ok(figures)
}

fn pem_certificates(text: &str) -> impl Iterator<Item = Vec<u8>> {
    text.split("-----BEGIN CERTIFICATE-----").skip(1).take(MAX_CERTIFICATES).filter_map(|part| {
        let body: String = part.split("-----END").next()?.split_ascii_whitespace().collect();
        base64::engine::general_purpose::STANDARD.decode(body).ok()
    })
}

/// End of a certificate's validity, from its DER (RFC 5280, 4.1): certificate > to be signed > [version], serial,
/// algorithm, issuer, validity > two times.
fn not_after(der: &[u8]) -> Option<jiff::Timestamp> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (tag, certificate, _) = element(der)?;
    let (inner, signed, _) = element(certificate)?;
    if tag != SEQUENCE || inner != SEQUENCE {
        return None;
    }
    let mut rest = signed;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        rest = element(rest)?.2;
    }
    let (tag, validity, _) = element(rest)?;
    if tag != SEQUENCE {
        return None;
    }
    let (tag, time, _) = element(element(validity)?.2)?;
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let full = match tag {
        // UTCTime has two digits of the year: 50 to 99 are of the last century.
        0x17 => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full).ok()?;
    civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, first) = (*der.first()?, usize::from(*der.get(1)?));
    let (length, start) = match first {
        0..=0x7f => (first, 2),
        0x81..=0x84 => {
            let count = first - 0x80;
            let bytes = der.get(2..2 + count)?;
            (bytes.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte)), 2 + count)
        }
        _ => return None,
    };
    let end = start.checked_add(length)?;
    Some((tag, der.get(start..end)?, &der[end..]))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use proptest::prelude::*;

    use super::*;
    use crate::probes::tests::{put, tree};

    #[test]
    fn a_question_without_an_answer_is_left_behind_and_not_asked_again() {
        let mut patient = Patient::default();
        let (release, held) = mpsc::channel::<()>();
        let hang = move || {
            let _ = held.recv();
            Ok(())
        };
        assert!(patient.ask(Duration::from_millis(20), hang).unwrap_err().contains("no answer"));
        assert!(patient.ask(Duration::from_secs(5), || Ok(())).unwrap_err().contains("earlier question"));
        drop(release);
    }

    #[test]
    fn a_kubelet_is_well_when_it_says_so() {
        let (_kept, root) = tree(&[]);
        let mut patient = Patient::default();
        assert!(kubelet(&root, None, &mut patient).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri: Uri = format!("http://{}/healthz", listener.local_addr().unwrap()).parse().unwrap();
        let server = thread::spawn(move || {
            for status in ["200 OK", "500 Internal Server Error"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).unwrap();
                write!(stream, "HTTP/1.1 {status}\r\n\r\nok").unwrap();
            }
        });
        assert_eq!(kubelet(&root, Some(&uri), &mut patient).unwrap()[0].value, 0.0);
        let failed = &kubelet(&root, Some(&uri), &mut patient).unwrap()[0];
        assert!(failed.value > 0.0 && failed.says.contains("500"), "{failed:?}");
        server.join().unwrap();
    }

    #[test]
    fn a_runtime_is_its_socket() {
        let (kept, root) = tree(&[]);
        let mut patient = Patient::default();
        assert!(runtime(&root, None, &mut patient).is_err());
        let path = kept.path().join("run/containerd/containerd.sock");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(runtime(&root, None, &mut patient).unwrap()[0].value, 0.0);
        drop(listener);
        assert_eq!(runtime(&root, None, &mut patient).unwrap()[0].value, 1.0);
    }

    #[test]
    fn a_clock_is_in_step_when_the_mark_is_there() {
        let (kept, root) = tree(&[]);
        assert!(clock(&root).is_err());
        std::fs::create_dir_all(kept.path().join("run/systemd/timesync")).unwrap();
        assert_eq!(clock(&root).unwrap()[0].value, 1.0);
        put(kept.path(), "run/systemd/timesync/synchronized", "");
        assert_eq!(clock(&root).unwrap()[0].value, 0.0);
    }

    #[test]
    fn names_that_are_given_are_resolved() {
        assert!(dns(&[], &mut Vec::new()).is_err());
        assert_eq!(dns(&["localhost".into()], &mut Vec::new()).unwrap()[0].value, 0.0);
    }

    /// As little of a certificate as its end needs.
    fn certificate(tag: u8, end: &str) -> String {
        let wrap = |tag: u8, content: &[u8]| {
            let mut bytes = vec![tag, 0x82];
            bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(content);
            bytes
        };
        let validity = [wrap(0x17, b"200101000000Z"), wrap(tag, end.as_bytes())].concat();
        let signed = [wrap(0xa0, &[2, 1, 2]), wrap(2, &[1]), wrap(0x30, &[]), wrap(0x30, &[]), wrap(0x30, &validity)];
        let der = wrap(0x30, &wrap(0x30, &signed.concat()));
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn the_certificate_that_ends_first_counts() {
        let chain = format!("{}{}", certificate(0x18, "20600101000000Z"), certificate(0x17, "260111000000Z"));
        let (_kept, root) = tree(&[("etc/a.pem", &chain), ("etc/b.pem", "nothing")]);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(certificates(&root, &["etc/a.pem".into()], now).unwrap()[0].value, 10.0);
        assert!(certificates(&root, &["etc/b.pem".into()], now).unwrap_err().to_string().contains("PEM"));
        assert!(certificates(&root, &[], now).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_for_a_certificate_without_panic(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = not_after(&der);
            let wrapped = [&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..], &der[..]].concat();
            prop_assert_eq!(not_after(&wrapped), None);
        }
    }
}
