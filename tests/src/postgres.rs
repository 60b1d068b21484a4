//! Real PostgreSQL servers on loopback ports, each with the shipped hooks beside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    routing::post,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::programs::{Process, free_port};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// One that any user may run.
const PYTHON: &str = "/usr/bin/python3";

/// What is missing to run it; none when all is there.
pub fn missing() -> Option<String> {
    let there = Path::new(BIN).join("pg_rewind").is_file() && Path::new(PYTHON).is_file();
    (!there).then(|| "apt install postgresql-15 python3".to_owned())
}

/// PostgreSQL does not run as root.
fn as_owner(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--pdeathsig", "KILL", "--"])
        .arg(program);
    command
}

/// One cluster and its hooks.
pub struct Postgres {
    /// Site.
    pub site: &'static str,
    /// Port of the database.
    pub port: u16,
    /// Port of the hooks.
    pub hooks_at: u16,
    folder: PathBuf,
    hooks: Option<Process>,
}

impl Postgres {
    /// An empty leader that acknowledges nothing before a standby has it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn leader(dir: &Path, site: &'static str) -> Self {
        let this = Self::folder(dir, site);
        this.must("initdb", &["-D", &this.data(), "--auth=trust", "-E", "UTF8", "--locale=C", "-U", "evergreen"]);
        let conf = "listen_addresses = '127.0.0.1'\nwal_log_hints = on\nsynchronous_standby_names = '*'\n\
                    shared_buffers = 16MB\nunix_socket_directories = ''\nwal_receiver_status_interval = 1s\n";
        let path = Path::new(&this.data()).join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("a configuration") + conf;
        std::fs::write(&path, text).expect("a configuration");
        this.start();
        this
    }

    /// A standby of `leader`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn standby_of(leader: &Self, dir: &Path, site: &'static str) -> Self {
        let this = Self::folder(dir, site);
        let source = format!("host=127.0.0.1 port={} user=evergreen application_name={site}", leader.port);
        this.must("pg_basebackup", &["-D", &this.data(), "-d", &source, "-R", "-X", "stream", "-c", "fast"]);
        this.start();
        this
    }

    fn folder(dir: &Path, site: &'static str) -> Self {
        let folder = dir.join(site);
        std::fs::create_dir_all(&folder).expect("a folder");
        if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").arg("postgres:postgres").arg(&folder).status().expect("chown");
            assert!(owned.success(), "there is no user postgres");
        }
        Self { site, port: free_port(), hooks_at: free_port(), folder, hooks: None }
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn must(&self, program: &str, arguments: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("made.log")).expect("a log");
        let mut command = as_owner(Path::new(BIN).join(program));
        command.args(arguments).env("PGUSER", "evergreen").stdout(log.try_clone().expect("a log")).stderr(log);
        let done = command.status().expect("it starts");
        assert!(
            done.success(),
            "{program}: {}",
            std::fs::read_to_string(self.folder.join("made.log")).unwrap_or_default()
        );
    }

    /// Starts the database as it is.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&self) {
        let log = self.folder.join("server.log").display().to_string();
        self.must("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &format!("-p {}", self.port), "start"]);
    }

    /// Ends the database as a crash does, and its hooks with it.
    pub fn crash(&mut self) {
        self.hooks = None;
        self.must("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
    }

    /// Starts the shipped hooks.
    ///
    /// # Panics
    /// When they cannot be started.
    pub fn start_hooks(&mut self, peers: &[(&str, u16)]) {
        // Its user may not reach where the tree lies.
        let script = self.folder.join("postgresql.py");
        std::fs::copy(crate::root().join("charts/evergreen/hooks/postgresql.py"), &script).expect("the hooks");
        let mut command = as_owner(PYTHON);
        command.arg(script).env("PGUSER", "evergreen");
        command.args([
            "--site",
            self.site,
            "--bin",
            BIN,
            "--socket",
            "127.0.0.1",
            "--synchronous",
            "--data",
            &self.data(),
        ]);
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.hooks_at)).arg("--port").arg(self.port.to_string());
        command.arg("--state").arg(self.folder.join("token.json"));
        command.arg("--start-options").arg(format!("-p {}", self.port));
        for (site, port) in peers {
            command.arg("--peer").arg(format!("{site}=host=127.0.0.1 port={port} user=evergreen"));
        }
        let log = self.folder.parent().expect("a folder");
        self.hooks = Some(Process::start(&format!("hooks-{}", self.site), command, log).expect("hooks"));
    }

    /// Whether it takes writes; none when it does not answer.
    pub fn leads(&self) -> Option<bool> {
        let answer = sql(&[self.port], "any", "SELECT pg_is_in_recovery()").ok()?;
        Some(answer == "f")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.hooks = None;
        let mut stop = as_owner(Path::new(BIN).join("pg_ctl"));
        // It may have ended already.
        let _ = stop.args(["-D", &self.data(), "-m", "immediate", "stop"]).output();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            eprintln!("---- last lines of PostgreSQL at {}", self.site);
            log.lines().rev().take(15).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// One statement at the first of the servers that has what is asked for (`any`, `read-write`).
///
/// # Errors
/// What it said instead.
pub fn sql(ports: &[u16], attributes: &str, statement: &str) -> Result<String, String> {
    let (hosts, ports): (Vec<&str>, Vec<String>) = ports.iter().map(|port| ("127.0.0.1", port.to_string())).unzip();
    let target = format!(
        "host={} port={} user=evergreen dbname=postgres connect_timeout=2 target_session_attrs={attributes}",
        hosts.join(","),
        ports.join(",")
    );
    let mut command = Command::new("timeout");
    command.arg("5").arg(Path::new(BIN).join("psql")).args([
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        &target,
        "-c",
        statement,
    ]);
    let done = command.output().map_err(|error| error.to_string())?;
    // A statement that is on its way when the server waits for its standby is answered with a warning, and is no commit.
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() && said.is_empty() {
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    } else {
        Err(said)
    }
}

/// One address for the hooks of all sites, `http://<address>/<site>/<verb>`; what is not reached does not answer.
///
/// # Panics
/// When no port is free.
pub async fn front(hooks: BTreeMap<&'static str, u16>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let hooks = Arc::new(Mutex::new(hooks));
    let router = Router::new().route("/{site}/{verb}", post(forward)).with_state(hooks);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

type Ports = Arc<Mutex<BTreeMap<&'static str, u16>>>;

async fn forward(
    State(hooks): State<Ports>,
    UrlPath((site, verb)): UrlPath<(String, String)>,
    body: Bytes,
) -> (StatusCode, String) {
    let port = hooks.lock().expect("nobody panics").get(site.as_str()).copied();
    if let Some(answer) = call(port.unwrap_or(9), &verb, &body).await {
        return answer;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    (StatusCode::GATEWAY_TIMEOUT, String::new())
}

/// One call of a hook.
pub async fn call(port: u16, verb: &str, body: &[u8]) -> Option<(StatusCode, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let head = format!("POST /{verb} HTTP/1.0\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}
