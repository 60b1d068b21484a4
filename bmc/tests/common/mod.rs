//! BMCs that others wrote, as processes on loopback: pyghmi for IPMI, sushy-tools for Redfish.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use evergreen_bmc::{AllowList, Credentials, Secret};

pub const PASSWORD: &str = "hunter2-secret";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A program of the tests' Python environment, or a line in the list of what was skipped.
pub fn tool(name: &str, check: &str) -> Option<PathBuf> {
    let path = root().join("target/tools/venv/bin").join(name);
    if path.is_file() && imports("pyghmi") && imports("sushy_tools") {
        return Some(path);
    }
    let line = format!("bmc: {check}: no pyghmi and sushy-tools in target/tools/venv (make setup)");
    eprintln!("SKIPPED: {line}");
    if let Some(list) = std::env::var_os("EVERGREEN_SKIPPED")
        && let Ok(mut list) = fs::File::options().append(true).create(true).open(list)
    {
        let _ = writeln!(list, "{line}");
    }
    None
}

fn imports(module: &str) -> bool {
    let lib = root().join("target/tools/venv/lib");
    let pythons = fs::read_dir(lib).into_iter().flatten().flatten();
    pythons.map(|python| python.path().join("site-packages").join(module)).any(|path| path.is_dir())
}

pub fn part(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts").join(name)
}

pub fn login(password: &str) -> Credentials {
    Credentials { username: "monitor".into(), password: Secret::new(password), bmc_key: None }
}

pub fn loopback() -> AllowList {
    AllowList::parse(["127.0.0.0/8"]).unwrap()
}

pub fn free_tcp_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that is killed when dropped; what it printed is in `log`.
pub struct Running {
    child: Child,
    pub log: PathBuf,
}

impl Running {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Waits until it printed something, for at most half a minute.
    pub fn says(&mut self, what: &str) {
        let begin = Instant::now();
        while !fs::read_to_string(&self.log).unwrap_or_default().contains(what) {
            assert!(begin.elapsed() < Duration::from_secs(30), "{}", fs::read_to_string(&self.log).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it accepts connections, for at most half a minute.
    pub fn accepts(&mut self, port: u16) {
        let begin = Instant::now();
        while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(30), "{}", fs::read_to_string(&self.log).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
