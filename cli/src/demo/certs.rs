//! The demo's own certificate authority: a server certificate for each controller's site endpoint, a client certificate
//! for each agent. Made fresh for every demo and valid for days only; nothing here is meant for a real site.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::{ToSpan, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Days around today for which a certificate is valid: enough for clocks that disagree and a demo that is kept.
const VALID_DAYS: i64 = 7;

/// A certificate authority that writes PEM files into one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

/// Files of one certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate, PEM.
    pub cert: PathBuf,
    /// Private key, PEM, readable by its owner only.
    pub key: PathBuf,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Server on loopback.
    Server,
    /// Client.
    Client,
}

impl Authority {
    /// A new authority; its certificate is written to `folder/ca.crt`.
    ///
    /// # Errors
    /// When a key cannot be made or a file cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut params = params("Evergreen demo authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot sign the authority's certificate")?;
        let ca = folder.join("ca.crt");
        write(&ca, &certificate.pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), ca })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// A certificate for `name`, written to `folder/<name>.crt` and `.key`.
    ///
    /// # Errors
    /// When a key cannot be made or a file cannot be written.
    pub fn issue(&self, name: &str, purpose: Purpose) -> anyhow::Result<Identity> {
        let names: &[&str] = match purpose {
            Purpose::Server => &["localhost", "127.0.0.1"],
            Purpose::Client => &[],
        };
        let mut params = params(name, names)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign for {name}"))?;
        let identity =
            Identity { cert: self.folder.join(format!("{name}.crt")), key: self.folder.join(format!("{name}.key")) };
        write(&identity.cert, &certificate.pem())?;
        write(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

fn params(common_name: &str, names: &[&str]) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).context("names of the demo are valid")?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let today = Zoned::now().date();
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.saturating_sub(VALID_DAYS.days()));
    params.not_after = day(today.saturating_add(VALID_DAYS.days()));
    Ok(params)
}

/// Writes a file that only its owner may read.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_client_certificate_is_signed_by_the_authority_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path()).unwrap();
        let identity = authority.issue("dc-a-1", Purpose::Client).unwrap();
        assert!(fs::read_to_string(authority.ca()).unwrap().contains("BEGIN CERTIFICATE"));
        assert!(fs::read_to_string(&identity.cert).unwrap().contains("BEGIN CERTIFICATE"));
        assert!(fs::read_to_string(&identity.key).unwrap().contains("PRIVATE KEY"));
        assert_eq!(fs::metadata(&identity.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
