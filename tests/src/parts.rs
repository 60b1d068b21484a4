//! Real DNS servers and a real HAProxy on loopback ports, each with files of its own in a folder of the test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::programs::{Process, free_port, tool};

/// Zone that all servers hold.
pub const ZONE: &str = "bank.example";
/// Its TSIG key, base64.
pub const TSIG: &str = "ZXZlcmdyZWVuLXRlc3RzLWtleS0zMi1ieXRlcy1sb25n";
/// Key of PowerDNS's API.
pub const API_KEY: &str = "evergreen-tests";

const ZONE_FILE: &str = "$ORIGIN bank.example.\n$TTL 60\n@ SOA ns1 host 1 60 60 60 60\n@ NS ns1\nns1 A 127.0.0.1\n";

/// Programs of which one is missing, with the packages that hold them; none when all are there.
pub fn missing(programs: &[(&str, &str)]) -> Option<String> {
    let absent: Vec<&str> =
        programs.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    (!absent.is_empty()).then(|| format!("apt install {}", absent.join(" ")))
}

/// A program on the PATH or where Debian keeps daemons.
fn find(program: &str) -> Option<std::path::PathBuf> {
    let daemon = ["/usr/sbin", "/usr/local/sbin"].map(|dir| Path::new(dir).join(program));
    tool(program).or_else(|| daemon.into_iter().find(|path| path.is_file()))
}

fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| panic!("{program} is not installed")))
}

fn subfolder(dir: &Path, name: &str) -> std::path::PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A running DNS server.
pub struct Dns {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its HTTP API, where it has one.
    pub api: Option<String>,
    _process: Process,
}

impl Dns {
    /// Knot DNS, which takes updates with the key.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn knot(dir: &Path) -> Self {
        let (folder, port) = (subfolder(dir, "knot"), free_port());
        // Without a place for its journal it refuses every update.
        subfolder(&folder, "db");
        let at = folder.display();
        std::fs::write(folder.join("zone"), ZONE_FILE).expect("a file");
        let config = format!(
            "server:\n    listen: 127.0.0.1@{port}\n    rundir: {at}\ndatabase:\n    storage: {at}/db\nlog:\n  - target: stderr\n    any: info\n\
             key:\n  - id: evergreen\n    algorithm: hmac-sha256\n    secret: {TSIG}\nacl:\n  - id: update\n    key: evergreen\n    action: update\n\
             zone:\n  - domain: {ZONE}\n    storage: {at}\n    file: {at}/zone\n    acl: update\n"
        );
        std::fs::write(folder.join("conf"), config).expect("a file");
        let mut knot = command("knotd");
        knot.arg("-c").arg(folder.join("conf"));
        Self::ready(Process::start("knot", knot, dir).expect("knot"), port, None).await
    }

    /// BIND 9, which takes updates with the key.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn bind(dir: &Path) -> Self {
        let (folder, port) = (subfolder(dir, "bind"), free_port());
        let at = folder.display();
        std::fs::write(folder.join("zone"), ZONE_FILE).expect("a file");
        let config = format!(
            "options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file \"{at}/pid\";\n\
             session-keyfile \"{at}/session.key\"; recursion no; dnssec-validation no; }};\ncontrols {{ }};\n\
             key evergreen {{ algorithm hmac-sha256; secret \"{TSIG}\"; }};\n\
             zone \"{ZONE}\" {{ type primary; file \"{at}/zone\"; update-policy {{ grant evergreen zonesub ANY; }}; }};\n"
        );
        std::fs::write(folder.join("conf"), config).expect("a file");
        let mut bind = command("named");
        bind.arg("-g").arg("-n").arg("1").arg("-c").arg(folder.join("conf"));
        Self::ready(Process::start("bind", bind, dir).expect("bind"), port, None).await
    }

    /// PowerDNS with SQLite, its API and LUA records.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn powerdns(dir: &Path) -> Self {
        let (folder, port, web) = (subfolder(dir, "pdns"), free_port(), free_port());
        let database = folder.join("pdns.sqlite3");
        let schema = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";
        let made = command("sqlite3").arg(&database).arg(format!(".read {schema}")).status().expect("sqlite3");
        assert!(made.success(), "{schema} cannot be read");
        let mut pdns = command("pdns_server");
        pdns.args(["--no-config", "--launch=gsqlite3", "--daemon=no", "--guardian=no", "--api=yes", "--webserver=yes"]);
        pdns.args(["--local-address=127.0.0.1", "--webserver-address=127.0.0.1", "--enable-lua-records=yes"]);
        pdns.args(["--cache-ttl=0", "--query-cache-ttl=0", "--negquery-cache-ttl=0"]);
        pdns.arg(format!("--gsqlite3-database={}", database.display())).arg(format!("--api-key={API_KEY}"));
        pdns.arg(format!("--local-port={port}")).arg(format!("--webserver-port={web}"));
        pdns.arg(format!("--socket-dir={}", folder.display()));
        let process = Process::start("powerdns", pdns, dir).expect("powerdns");
        let api = format!("http://127.0.0.1:{web}");
        let zone = format!(r#"{{"name":"{ZONE}.","kind":"Native","nameservers":["ns1.{ZONE}."]}}"#);
        let body = format!(
            "POST /api/v1/servers/localhost/zones HTTP/1.1\r\nhost: x\r\nx-api-key: {API_KEY}\r\ncontent-length: {}\r\n\
             content-type: application/json\r\nconnection: close\r\n\r\n{zone}",
            zone.len()
        );
        let body = &body;
        crate::wait::eventually("PowerDNS makes a zone", Duration::from_secs(30), || async move {
            let mut stream = TcpStream::connect(("127.0.0.1", web)).await.map_err(|error| error.to_string())?;
            stream.write_all(body.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
            if answer.starts_with("HTTP/1.1 201") { Ok(()) } else { Err(answer) }
        })
        .await;
        Self::ready(process, port, Some(api)).await
    }

    async fn ready(process: Process, port: u16, api: Option<String>) -> Self {
        let dns = Self { address: ([127, 0, 0, 1], port).into(), api, _process: process };
        let ask = &dns;
        crate::wait::eventually("the DNS server answers", Duration::from_secs(30), || async move {
            ask.addresses("ns1.bank.example").await.map(drop)
        })
        .await;
        dns
    }

    /// Addresses of a name, sorted, as a client is told.
    ///
    /// # Errors
    /// What it answered instead.
    pub async fn addresses(&self, name: &str) -> Result<Vec<Ipv4Addr>, String> {
        // One question of type A, class IN.
        let mut question = vec![0x47, 0x11, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).expect("a label"));
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        socket.send_to(&question, self.address).await.map_err(|error| error.to_string())?;
        let mut buffer = [0; 4_096];
        let read = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
        let length = read.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        let answer = &buffer[..length];
        let code = answer.get(3).map_or(15, |byte| byte & 0xf);
        if code != 0 && code != 3 {
            return Err(format!("response code {code}"));
        }
        let mut found = Vec::new();
        let mut rest = answer.get(question.len()..).unwrap_or_default();
        for _ in 0..u16::from_be_bytes([answer[6], answer[7]]) {
            // The name of the question, as a pointer or in full.
            let name = if rest.first().is_some_and(|byte| *byte >= 0xc0) { 2 } else { name.len() + 2 };
            let fixed = rest.get(name..name + 10).ok_or("a short answer")?;
            let data = rest.get(name + 10..name + 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]])));
            let data = data.ok_or("a short answer")?;
            if let (1, Ok(octets)) = (u16::from_be_bytes([fixed[0], fixed[1]]), <[u8; 4]>::try_from(data)) {
                found.push(Ipv4Addr::from(octets));
            }
            rest = &rest[name + 10 + data.len()..];
        }
        found.sort();
        Ok(found)
    }

    /// Sets the TXT record of a name by a signed update of BIND's own tool.
    ///
    /// # Panics
    /// When it is refused.
    pub fn set_text(&self, dir: &Path, name: &str, text: &str) {
        let script = format!(
            "server {} {}\nzone {ZONE}.\nupdate delete {name}. TXT\nupdate add {name}. 30 TXT \"{text}\"\nsend\n",
            self.address.ip(),
            self.address.port()
        );
        let file = dir.join("nsupdate");
        std::fs::write(&file, script).expect("a file");
        let mut update = command("nsupdate");
        update.arg("-y").arg(format!("hmac-sha256:evergreen:{TSIG}")).arg(&file);
        assert!(update.status().expect("nsupdate").success(), "the update was refused");
    }
}

/// A running HAProxy with a runtime API on a TCP port.
pub struct Haproxy {
    /// Where clients are served.
    pub front: SocketAddr,
    /// Its runtime API.
    pub runtime: SocketAddr,
    _process: Process,
}

impl Haproxy {
    /// Starts it; `body` is everything but the sections global and defaults, with `{front}` for the address to bind.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(dir: &Path, body: &str) -> Self {
        let folder = subfolder(dir, "haproxy");
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (front, runtime) = (local(free_port()), local(free_port()));
        let body = body.replace("{front}", &front.to_string());
        let config = format!(
            "global\n    stats socket ipv4@{runtime} level admin\n    stats timeout 5s\n\
             defaults\n    mode http\n    timeout connect 1s\n    timeout client 5s\n    timeout server 5s\n    timeout check 500ms\n{body}\n"
        );
        std::fs::write(folder.join("haproxy.cfg"), config).expect("a file");
        let mut haproxy = command("haproxy");
        haproxy.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
        let this = Self { front, runtime, _process: Process::start("haproxy", haproxy, dir).expect("haproxy") };
        let ask = &this;
        crate::wait::eventually("HAProxy answers", Duration::from_secs(20), || async move {
            ask.command("show info").await.map(drop)
        })
        .await;
        this
    }

    /// One command of the runtime API.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn command(&self, command: &str) -> Result<String, String> {
        let mut stream = TcpStream::connect(self.runtime).await.map_err(|error| error.to_string())?;
        stream.write_all(format!("{command}\n").as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
        Ok(answer)
    }

    /// Weight of each server of a backend that takes new clients.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn weights(&self, backend: &str) -> Result<std::collections::BTreeMap<String, u32>, String> {
        let answer = self.command(&format!("show servers state {backend}")).await?;
        let server = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let admin: u32 = fields.get(6)?.parse().ok()?;
            let weight: u32 = fields.get(7)?.parse().ok()?;
            Some(((*fields.get(3)?).to_owned(), if admin & 0x18 == 0 { weight } else { 0 }))
        };
        Ok(answer.lines().filter(|line| !line.starts_with('#')).filter_map(server).collect())
    }
}
