//! How a BMC's certificate is recognized: by the authority that signed it, or by its own fingerprint. Never not at all:
//! whoever stands in between would be given the password.

use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring as provider, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::BmcError;

/// How the certificate is recognized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Not yet: every certificate is refused, and the refusal names its fingerprint.
    #[default]
    Nothing,
    /// It was signed by this authority and names the address, or `name` where that is given.
    Authority {
        /// Certificates of authorities, PEM.
        pem: Vec<u8>,
        /// Name in the certificate, where it does not name the address.
        name: Option<String>,
    },
    /// It has this SHA-256.
    Fingerprint([u8; 32]),
}

impl Trust {
    /// A pinned fingerprint: 64 hex digits, with `sha256:` before them and colons between them or without.
    ///
    /// # Errors
    /// When it is something else.
    pub fn fingerprint(text: &str) -> Result<Self, BmcError> {
        let wrong = || {
            BmcError::Configuration(
                "a fingerprint is sha256: and 64 hex digits, as `evergreen bmc check` prints it".into(),
            )
        };
        let digits: Vec<u8> =
            text.trim().strip_prefix("sha256:").unwrap_or(text.trim()).bytes().filter(|b| *b != b':').collect();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let digit = |b: u8| char::from(b).to_digit(16).ok_or_else(wrong);
            // Two hex digits fit into a byte.
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self::Fingerprint(bytes))
    }
}

/// SHA-256 of a certificate, hex.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    digest::digest(&digest::SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The certificate that was refused last, and why.
pub(super) type Refusal = Arc<Mutex<Option<(String, String)>>>;

#[derive(Debug)]
struct Verifier {
    trust: Kind,
    algorithms: WebPkiSupportedAlgorithms,
    refusal: Refusal,
}

#[derive(Debug)]
enum Kind {
    Nothing,
    Fingerprint([u8; 32]),
    Authority(Arc<WebPkiServerVerifier>),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = |_| Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let outcome = match &self.trust {
            Kind::Nothing => Err((refused(()), "neither an authority nor a fingerprint is given".to_owned())),
            Kind::Fingerprint(pinned) => {
                if digest::digest(&digest::SHA256, end_entity).as_ref() == pinned {
                    Ok(ServerCertVerified::assertion())
                } else {
                    Err((refused(()), "it is not the one that is pinned".to_owned()))
                }
            }
            Kind::Authority(verifier) => verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
                .map_err(|error| (error.clone(), error.to_string())),
        };
        outcome.map_err(|(error, why)| {
            *self.refusal.lock() = Some((why, fingerprint(end_entity)));
            error
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// TLS 1.2 and 1.3 with that trust, and where refusals are noted.
pub(super) fn config(trust: &Trust) -> Result<(ClientConfig, Refusal), BmcError> {
    let provider: Arc<CryptoProvider> = Arc::new(provider::default_provider());
    let wrong = |why: String| BmcError::Configuration(format!("the authority of the BMC's certificate: {why}"));
    let kind = match trust {
        Trust::Nothing => Kind::Nothing,
        Trust::Fingerprint(pinned) => Kind::Fingerprint(*pinned),
        Trust::Authority { pem, .. } => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Kind::Authority(verifier.build().map_err(|error| wrong(error.to_string()))?)
        }
    };
    let refusal = Refusal::default();
    let verifier =
        Verifier { trust: kind, algorithms: provider.signature_verification_algorithms, refusal: refusal.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BmcError::Configuration(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((config, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_tools_write_it() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for text in [plain.clone(), format!("sha256:{plain}"), colons, format!(" sha256:{plain}\n")] {
            assert_eq!(Trust::fingerprint(&text).unwrap(), Trust::Fingerprint([0xab; 32]), "{text}");
        }
        for text in ["", "sha256:", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(Trust::fingerprint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_authority_that_is_none_is_refused() {
        let trust = Trust::Authority { pem: b"garbage".to_vec(), name: None };
        assert_eq!(config(&trust).unwrap_err().word(), "configuration");
    }
}
