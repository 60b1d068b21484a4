//! How long certificates last: those of the kubelet and of a control plane, in PEM or inside a kubeconfig.

use std::{io, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::source::{About, Findings, Look, Source, absent};
use crate::host::read_bounded;

/// Files that are looked at when none are named.
const FILES: [&str; 4] = [
    "var/lib/kubelet/pki/kubelet-client-current.pem",
    "var/lib/kubelet/pki/kubelet-server-current.pem",
    "var/lib/kubelet/pki/kubelet.crt",
    "etc/kubernetes/kubelet.conf",
];
/// Directories of which all certificates and kubeconfigs are looked at.
const DIRECTORIES: [&str; 5] = [
    "etc/kubernetes/pki",
    "etc/kubernetes/pki/etcd",
    "etc/kubernetes",
    "var/lib/rancher/k3s/agent",
    "var/lib/rancher/k3s/server/tls",
];
/// Files that are looked at.
const MAX_FILES: usize = 64;
/// Certificates of one file that are looked at.
const MAX_CERTIFICATES: usize = 64;
/// They change once in weeks: it is enough to read them now and then.
const READ_EVERY_MS: u64 = 60_000;

/// Certificates, as they were read last.
#[derive(Default)]
pub struct Certificates {
    read_ms: Option<u64>,
    ends: Vec<(String, jiff::Timestamp)>,
}

impl Source for Certificates {
    fn about(&self) -> &'static About {
        &About {
            name: "certificates",
            reads: &[
                "var/lib/kubelet/pki/{kubelet-client-current.pem,kubelet-server-current.pem,kubelet.crt}",
                "etc/kubernetes/pki/{,etcd/}*.crt",
                "etc/kubernetes/*.conf",
                "var/lib/rancher/k3s/{agent,server/tls}/*.crt",
            ],
            measures: &["certificate.days"],
            series: &[],
            says: "days until certificates of the kubelet and the control plane expire",
            needs: "to read these files, keys among them: in the chart `agent.hostFiles.certificates` gives them, and it is off",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        if self.read_ms.is_none_or(|read| look.now_ms.saturating_sub(read) >= READ_EVERY_MS) {
            self.ends = ends(look)?;
            self.read_ms = Some(look.now_ms);
        }
        let now = jiff::Timestamp::now();
        let mut found = Findings::default();
        for (of, end) in &self.ends {
            let days = (end.as_second() - now.as_second()) as f64 / 86_400.0;
            found.figure("certificate.days", of, days, format!("{of} expires at {end:.0}"));
        }
        Ok(found)
    }
}

/// Ends of the certificates that there are, of each file the first to come.
fn ends(look: &Look<'_>) -> io::Result<Vec<(String, jiff::Timestamp)>> {
    let named = &look.settings.certificate;
    let files = if named.is_empty() { usual(look) } else { named.clone() };
    if files.is_empty() {
        return Err(absent("no certificates in the usual places; name them with --certificate"));
    }
    let mut ends = Vec::new();
    let mut first = None;
    for file in files.into_iter().take(MAX_FILES) {
        let of = file.display().to_string();
        let text = match read_bounded(&look.path(&file)) {
            Ok(text) => text,
            Err(error) => {
                look.doubt(&file, "cannot be read");
                first.get_or_insert(io::Error::new(error.kind(), format!("{of}: {error}")));
                continue;
            }
        };
        match certificates(&text).filter_map(|der| not_after(&der)).min() {
            Some(end) => ends.push((of, end)),
            // A kubeconfig may name files or tokens instead.
            None if of.ends_with(".conf") => {}
            None => {
                look.doubt(&file, "holds no certificate in PEM");
                first.get_or_insert(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{of} holds no certificate in PEM"),
                ));
            }
        }
    }
    match first {
        Some(error) if ends.is_empty() => Err(error),
        _ => Ok(ends),
    }
}

fn usual(look: &Look<'_>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = FILES.iter().map(PathBuf::from).filter(|path| look.path(path).is_file()).collect();
    for directory in DIRECTORIES {
        let names = look.list(directory);
        let wanted = names.iter().filter(|name| name.ends_with(".crt") || name.ends_with(".conf"));
        files.extend(wanted.map(|name| PathBuf::from(directory).join(name)));
    }
    files.sort();
    files.dedup();
    files
}

/// Certificates in a text, as DER: PEM, or PEM in base64 as kubeconfigs have it.
fn certificates(text: &str) -> impl Iterator<Item = Vec<u8>> {
    let embedded = text.lines().filter_map(|line| line.trim().strip_prefix("client-certificate-data:"));
    let embedded = embedded.filter_map(|data| String::from_utf8(STANDARD.decode(data.trim()).ok()?).ok());
    let embedded: Vec<String> = embedded.take(MAX_CERTIFICATES).collect();
    let all: Vec<Vec<u8>> = std::iter::once(text).chain(embedded.iter().map(String::as_str)).flat_map(pem).collect();
    all.into_iter().take(MAX_CERTIFICATES)
}

fn pem(text: &str) -> impl Iterator<Item = Vec<u8>> {
    text.split("-----BEGIN CERTIFICATE-----").skip(1).take(MAX_CERTIFICATES).filter_map(|part| {
        let body: String = part.split("-----END").next()?.split_ascii_whitespace().collect();
        STANDARD.decode(body).ok()
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
    use proptest::prelude::*;

    use super::*;
    use crate::probes::tests::{Host, value};

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
        let body = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn the_certificate_that_ends_first_counts_and_is_read_again_after_a_while() {
        let chain = |end: &str| format!("{}{}", certificate(0x18, "20990101000000Z"), certificate(0x17, end));
        let mut host = Host::of(&[("etc/a.pem", &chain("200111000000Z")), ("etc/b.pem", "nothing")]);
        let mut source = Certificates::default();
        host.settings.certificate = vec!["etc/a.pem".into()];
        assert!(value(&host.read(&mut source).unwrap(), "certificate.days") < 0.0);
        host.put("etc/a.pem", &chain("490111000000Z"));
        assert!(value(&host.read(&mut source).unwrap(), "certificate.days") < 0.0, "not read again yet");
        host.now_ms = READ_EVERY_MS;
        assert!(value(&host.read(&mut source).unwrap(), "certificate.days") > 1000.0);
        host.settings.certificate = vec!["etc/b.pem".into()];
        assert!(host.read(&mut Certificates::default()).unwrap_err().to_string().contains("PEM"));
    }

    #[test]
    fn usual_places_are_searched_and_one_bad_file_does_not_hide_the_others() {
        assert!(Host::of(&[]).read(&mut Certificates::default()).unwrap_err().to_string().contains("--certificate"));
        let inside = STANDARD.encode(certificate(0x17, "490111000000Z"));
        let host = Host::of(&[
            ("etc/kubernetes/pki/apiserver.crt", &certificate(0x17, "480111000000Z")),
            ("etc/kubernetes/pki/etcd/server.crt", "-----BEGIN CERTIFICATE-----\n!!\n"),
            ("etc/kubernetes/admin.conf", &format!("users:\n- user:\n    client-certificate-data: {inside}\n")),
            ("etc/kubernetes/kubelet.conf", "users:\n- user:\n    client-certificate: /var/lib/kubelet/pki/x.pem\n"),
        ]);
        let found = host.read(&mut Certificates::default()).unwrap();
        let of: Vec<_> = found.figures.iter().map(|figure| figure.of.as_str()).collect();
        assert_eq!(of, ["etc/kubernetes/admin.conf", "etc/kubernetes/pki/apiserver.crt"]);
        assert_eq!(host.trouble().first.unwrap(), "etc/kubernetes/pki/etcd/server.crt holds no certificate in PEM");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_for_a_certificate_without_panic(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = not_after(&der);
            let wrapped = [&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..], &der[..]].concat();
            prop_assert_eq!(not_after(&wrapped), None);
            let _ = certificates(&String::from_utf8_lossy(&der)).count();
        }
    }
}
