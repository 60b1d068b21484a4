//! Who may send: TLS with or without client certificates, and bearer tokens. Both doors of OTLP pass through here.
//!
//! Certificates, keys and tokens are read again when their files change, so that they are rotated without a restart. A
//! file that cannot be read any more leaves what was read before in force, and that is said.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often files are looked at for a change.
const LOOK: Duration = Duration::from_secs(10);
/// Longest handshake, and handshakes at a time: more wait.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES: usize = 64;

/// Files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authorities that client certificates must come from, PEM; none: clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why the doors cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}")]
pub struct DoorError {
    path: PathBuf,
    what: String,
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> DoorError {
    DoorError { path: path.into(), what: what.to_string() }
}

impl TlsFiles {
    fn changed(&self) -> Option<SystemTime> {
        let paths = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        paths.into_iter().flatten().filter_map(|path| std::fs::metadata(path).ok()?.modified().ok()).max()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, DoorError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| wrong(&self.key, error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&self.certificate, error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|error| wrong(path, error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| wrong(path, error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| wrong(&self.certificate, error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DoorError> {
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| wrong(path, error))?;
    if all.is_empty() { Err(wrong(path, "no certificate in it; it must be PEM")) } else { Ok(all) }
}

/// Connections that have shown what they must.
pub struct Secured {
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Secured {
    /// Takes connections of a listener through TLS.
    ///
    /// # Errors
    /// [`DoorError`] when the files are no certificate and key.
    pub fn new(listener: TcpListener, address: SocketAddr, files: TlsFiles) -> Result<Self, DoorError> {
        let config = files.read()?;
        let (sender, connections) = mpsc::channel(HANDSHAKES);
        tokio::spawn(accept(listener, files, config, sender));
        Ok(Self { connections, address })
    }

    /// The connections, for tonic.
    pub fn incoming(self) -> impl tokio_stream::Stream<Item = std::io::Result<TlsStream<TcpStream>>> {
        use tokio_stream::StreamExt;
        tokio_stream::wrappers::ReceiverStream::new(self.connections).map(|(stream, _)| Ok(stream))
    }
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The task that accepts has ended with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(
    listener: TcpListener,
    files: TlsFiles,
    mut config: Arc<ServerConfig>,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let (mut read, mut looked) = (files.changed(), Instant::now());
    let turns = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, most likely: some connection has to end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            let changed = files.changed();
            if changed != read {
                match files.read() {
                    Ok(new) => (config, read) = (new, changed),
                    Err(error) => tracing::error!(%error, "the new certificate cannot be used; the old one stays"),
                }
            }
        }
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (acceptor, sender) = (TlsAcceptor::from(config.clone()), sender.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Closed: the plane stops.
                Ok(Ok(stream)) => drop(sender.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a sender did not get through TLS"),
                Err(_) => tracing::debug!(%peer, "a sender was too slow for TLS"),
            }
        });
    }
}

struct Known {
    read: Option<SystemTime>,
    looked: Instant,
    digests: HashSet<[u8; 32]>,
}

/// Bearer tokens, one a line of a file; lines that begin with # are comments.
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`DoorError`] when it cannot be read or has no token.
    pub fn new(path: PathBuf) -> Result<Self, DoorError> {
        let read = modified(&path);
        let known = Known { read, looked: Instant::now(), digests: digests(&path)? };
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// Whether the value of an Authorization header is a token of the file. Digests are compared, so the time that it takes
    /// says nothing about a token.
    pub fn allow(&self, authorization: Option<&[u8]>) -> bool {
        let mut known = self.known.lock();
        if known.looked.elapsed() > LOOK {
            known.looked = Instant::now();
            let changed = modified(&self.path);
            if changed != known.read {
                match digests(&self.path) {
                    Ok(digests) => (known.digests, known.read) = (digests, changed),
                    Err(error) => tracing::error!(%error, "the new tokens cannot be read; the old ones stay"),
                }
            }
        }
        let token = authorization.and_then(|value| {
            let (scheme, token) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
        });
        token.is_some_and(|token| known.digests.contains(<[u8; 32]>::from(Sha256::digest(token)).as_slice()))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn digests(path: &Path) -> Result<HashSet<[u8; 32]>, DoorError> {
    let text = std::fs::read_to_string(path).map_err(|error| wrong(path, error))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let digests: HashSet<[u8; 32]> = lines.map(|line| Sha256::digest(line.as_bytes()).into()).collect();
    if digests.is_empty() { Err(wrong(path, "no token in it; write one a line")) } else { Ok(digests) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_file_is_let_in_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        std::fs::write(&path, "# agents\nfirst\n\nsecond\n").unwrap();
        let tokens = Tokens::new(path.clone()).unwrap();
        for (header, allowed) in [
            (Some("Bearer first"), true),
            (Some("bearer second"), true),
            (Some("Bearer # agents"), false),
            (Some("Bearer "), false),
            (Some("first"), false),
            (None, false),
        ] {
            assert_eq!(tokens.allow(header.map(str::as_bytes)), allowed, "{header:?}");
        }
        std::fs::write(&path, "# none\n").unwrap();
        assert!(Tokens::new(path).err().unwrap().to_string().contains("one a line"));
    }
}
