//! One bare control plane, etcd and an API server, made to be disturbed: frozen, killed, set back to an old state.
//!
//! `scripts/kubernetes` finds the programs; unlike the control plane that it starts, this one has no controllers and no
//! scheduler, so that three of them fit beside everything else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;

use crate::programs::{Process, bounded, free_port};

/// How long a program may take to come up on a busy machine.
const UP: Duration = Duration::from_secs(90);
/// Bearer token of the administrator, of this control plane on loopback only.
const TOKEN: &str = "failover-tests";

/// Folder with `etcd` and `kube-apiserver`, or what is missing.
///
/// # Errors
/// Why there is none.
pub fn assets() -> Result<PathBuf, String> {
    let answer = Command::new(crate::root().join("scripts/kubernetes"))
        .arg("assets")
        .output()
        .map_err(|error| format!("scripts/kubernetes cannot be run: {error}"))?;
    if answer.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
    }
    let said = String::from_utf8_lossy(&answer.stderr);
    Err(said.trim().lines().last().unwrap_or_default().trim_start_matches("kubernetes: ").to_owned())
}

/// An etcd process.
pub struct Etcd {
    /// It runs, or is killed.
    pub process: Option<Process>,
    /// Port for clients, http.
    pub port: u16,
    peer_port: u16,
    name: String,
    assets: PathBuf,
    dir: PathBuf,
}

impl Etcd {
    /// Starts one that keeps its data below `dir`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, assets: &Path, dir: &Path) -> anyhow::Result<Self> {
        let mut etcd = Self {
            process: None,
            port: free_port(),
            peer_port: free_port(),
            name: name.to_owned(),
            assets: assets.to_owned(),
            dir: dir.to_owned(),
        };
        etcd.run()?;
        Ok(etcd)
    }

    /// Starts it again after a kill, with the data that is there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = bounded(self.assets.join("etcd"));
        command.args(["--name=one", "--unsafe-no-fsync", "--log-level=error"]);
        command.arg(format!("--data-dir={}", self.data().display()));
        command.arg(format!("--listen-client-urls={client}")).arg(format!("--advertise-client-urls={client}"));
        command.arg(format!("--listen-peer-urls={peer}")).arg(format!("--initial-advertise-peer-urls={peer}"));
        command.arg(format!("--initial-cluster=one={peer}"));
        self.process = Some(Process::start(&format!("etcd-{}", self.name), command, &self.dir)?);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join(format!("etcd-{}", self.name))
    }

    /// Copies the data of the killed process, as a backup of the volume does.
    ///
    /// # Errors
    /// When it runs, or a file cannot be copied.
    pub fn snapshot(&self, to: &Path) -> anyhow::Result<()> {
        anyhow::ensure!(self.process.is_none(), "kill etcd before its volume is copied");
        copy(&self.data(), to)
    }

    /// Puts an older copy in the place of the data of the killed process.
    ///
    /// # Errors
    /// When it runs, or a file cannot be copied.
    pub fn restore(&self, from: &Path) -> anyhow::Result<()> {
        anyhow::ensure!(self.process.is_none(), "kill etcd before its volume is replaced");
        fs::remove_dir_all(self.data())?;
        copy(from, &self.data())
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    anyhow::ensure!(done.success(), "cp -a {} {} failed", from.display(), to.display());
    Ok(())
}

/// The API server of a site with its etcd.
pub struct ControlPlane {
    /// Name of the site.
    pub name: String,
    /// Its etcd.
    pub etcd: Etcd,
    /// It runs, or is killed.
    pub apiserver: Option<Process>,
    /// Port of the API server, https.
    pub port: u16,
    /// Client of an administrator, past all links.
    pub client: Client,
    assets: PathBuf,
    dir: PathBuf,
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When a program cannot be started or does not become ready.
    pub async fn start(name: &str, assets: &Path, dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        make_keys(&dir).context("keys of the control plane")?;
        let etcd = Etcd::start(name, assets, &dir)?;
        let port = free_port();
        let client = client(&kubeconfig(name, port, &dir)?).await?;
        let mut plane =
            Self { name: name.to_owned(), etcd, apiserver: None, port, client, assets: assets.to_owned(), dir };
        plane.run_apiserver()?;
        plane.ready().await?;
        Ok(plane)
    }

    /// Kubeconfig that reaches the API server over another port: that of a link.
    ///
    /// # Panics
    /// When the certificate that was written at start is gone.
    pub fn kubeconfig(&self, port: u16) -> String {
        kubeconfig(&self.name, port, &self.dir).expect("the authority was written at start")
    }

    /// Starts the API server again after a kill.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_apiserver(&mut self) -> anyhow::Result<()> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = bounded(self.assets.join("kube-apiserver"));
        command.arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd.port));
        command.arg(format!("--secure-port={}", self.port));
        command.args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--authorization-mode=RBAC"]);
        command.args(["--service-cluster-ip-range=10.96.0.0/16", "--etcd-healthcheck-timeout=5s"]);
        command.arg(format!("--token-auth-file={}", file("tokens.csv")));
        command.arg(format!("--tls-cert-file={}", file("apiserver.crt")));
        command.arg(format!("--tls-private-key-file={}", file("apiserver.key")));
        command.arg("--service-account-issuer=https://kubernetes.default.svc");
        command.arg(format!("--service-account-key-file={}", file("sa.pub")));
        command.arg(format!("--service-account-signing-key-file={}", file("apiserver.key")));
        self.apiserver = Some(Process::start(&format!("apiserver-{}", self.name), command, &self.dir)?);
        Ok(())
    }

    /// Waits until the API server is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let begin = tokio::time::Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = tokio::time::timeout(Duration::from_secs(2), self.client.request_text(request)).await;
            if matches!(answer, Ok(Ok(_))) {
                return Ok(());
            }
            let runs = |process: &mut Option<Process>| process.as_mut().is_some_and(Process::runs);
            anyhow::ensure!(
                runs(&mut self.apiserver) && runs(&mut self.etcd.process),
                "the control plane {} has ended: {}",
                self.name,
                self.apiserver.as_ref().map(Process::log_tail).unwrap_or_default()
            );
            anyhow::ensure!(begin.elapsed() < UP, "the control plane {} is not ready after {UP:?}", self.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Freezes etcd and the API server: connections stay open, nothing answers.
    pub fn freeze(&self) {
        for process in self.apiserver.iter().chain(&self.etcd.process) {
            process.freeze();
        }
    }

    /// Ends the freeze.
    pub fn thaw(&self) {
        for process in self.etcd.process.iter().chain(&self.apiserver) {
            process.thaw();
        }
    }

    /// Kills etcd and the API server: connections are refused.
    pub fn kill(&mut self) {
        self.apiserver = None;
        self.etcd.process = None;
    }

    /// Starts whatever was killed, and waits until it is ready.
    ///
    /// # Errors
    /// When that fails.
    pub async fn revive(&mut self) -> anyhow::Result<()> {
        if self.etcd.process.is_none() {
            self.etcd.run()?;
        }
        if self.apiserver.is_none() {
            self.run_apiserver()?;
        }
        self.ready().await
    }
}

/// A client that neither retries nor waits without a bound.
///
/// # Errors
/// When the kubeconfig is unusable.
pub async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(30));
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn kubeconfig(name: &str, port: u16, dir: &Path) -> anyhow::Result<String> {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": base64(&fs::read(dir.join("ca.crt"))?)}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}]});
    Ok(config.to_string())
}

fn base64(bytes: &[u8]) -> String {
    use k8s_openapi::ByteString;
    // A ByteString is written as base64.
    let text = serde_json::to_value(ByteString(bytes.to_vec())).expect("bytes are plain data");
    text.as_str().expect("written as text").to_owned()
}

fn make_keys(dir: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(DnType::CommonName, "failover-tests");
    let key = KeyPair::generate()?;
    fs::write(dir.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    fs::write(dir.join("apiserver.crt"), params.signed_by(&key, &issuer)?.pem())?;
    fs::write(dir.join("apiserver.key"), key.serialize_pem())?;
    fs::write(dir.join("sa.pub"), key.public_key_pem())?;
    fs::write(dir.join("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
    Ok(())
}
