//! Whether what the node lives by answers: kubelet, container runtime, names. Nothing here waits longer than
//! [`ANSWER_WITHIN`]; what hangs is left behind and not asked again.

use std::{
    io::{self, BufRead, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use http::Uri;

use super::{
    patient::Patient,
    source::{About, Findings, Look, Source, absent},
};

/// A healthy service on the same machine answers within milliseconds, a name server within a second.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where the kubelet says whether it is well.
const KUBELET: &str = "http://127.0.0.1:10248/healthz";
const KUBELET_PORT: u16 = 10248;
/// Proof that a host has a kubelet.
const KUBELET_CONFIG: &str = "var/lib/kubelet/config.yaml";
/// Sockets of runtimes, of which the first that is there counts.
const RUNTIMES: [&str; 4] = [
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "run/k3s/containerd/containerd.sock",
    "run/cri-dockerd.sock",
];
/// Lines of a table of sockets that are looked at.
const MAX_SOCKETS: usize = 100_000;
/// How long until a host without a service is looked at again: tables of sockets are dear to read.
const LOOK_AGAIN_MS: u64 = 120_000;
/// Most that is read of a table of sockets, bytes.
const MAX_TABLE: u64 = 4 << 20;

fn failing(found: &mut Findings, measure: &'static str, of: &str, outcome: &Result<(), String>) {
    let says = match outcome {
        Ok(()) => format!("{of}: well"),
        Err(reason) => format!("{of}: {reason}"),
    };
    found.figure(measure, of, f64::from(u8::from(outcome.is_err())), says);
}

/// Whether the agent is in the host's own network, so that the host's loopback is its own.
fn shares_network(look: &Look<'_>) -> bool {
    if !look.root.is_this_kernel() {
        return false;
    }
    // Two networks differ in their table of interfaces; a namespace's number may not be looked up without privilege.
    let names = |text: String| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    };
    let own = std::fs::read_to_string("/proc/self/net/dev").map(names).ok();
    own.is_some() && own == look.net("dev").map(names).ok()
}

/// The kubelet.
#[derive(Default)]
pub struct Kubelet {
    patient: Patient<()>,
    listened: bool,
    looked_ms: Option<u64>,
}

impl Kubelet {
    /// Whether a kubelet listens; where none ever did, as it was when somebody looked last.
    fn listens(&mut self, look: &Look<'_>) -> bool {
        let again = self.looked_ms.is_none_or(|at| look.now_ms.saturating_sub(at) >= LOOK_AGAIN_MS);
        if !self.listened && !again {
            return false;
        }
        self.looked_ms = Some(look.now_ms);
        let listening = listens_tcp(look, KUBELET_PORT);
        self.listened |= listening;
        listening
    }
}

impl Source for Kubelet {
    fn about(&self) -> &'static About {
        &About {
            name: "kubelet",
            reads: &["GET /healthz of the kubelet", "proc/1/net/tcp from a network of the agent's own"],
            measures: &["kubelet.failing"],
            series: &[],
            says: "whether the kubelet says that it is well",
            needs: "the host's network, or an address for --kubelet-healthz; else only whether the kubelet listens is seen",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        let configured = look.has(KUBELET_CONFIG);
        let uri = match &look.settings.kubelet_healthz {
            Some(uri) => uri.clone(),
            None if configured && shares_network(look) => Uri::from_static(KUBELET),
            None if !look.root.is_this_kernel() && !configured => {
                return Err(absent("this host has no kubelet (no var/lib/kubelet/config.yaml)"));
            }
            None => {
                let listening = self.listens(look);
                if !self.listened {
                    return Err(absent(
                        "no kubelet listens on port 10248 of this host; name it with --kubelet-healthz",
                    ));
                }
                if shares_network(look) {
                    Uri::from_static(KUBELET)
                } else {
                    // The host's loopback is out of reach: what can be seen is that the kubelet listens there.
                    let gone = "nothing listens on port 10248 any more";
                    let outcome = if listening { Ok(()) } else { Err(gone.to_owned()) };
                    failing(&mut found, "kubelet.failing", "kubelet", &outcome);
                    return Ok(found);
                }
            }
        };
        let of = uri.to_string();
        let outcome = self.patient.ask(ANSWER_WITHIN, move || get(&uri));
        failing(&mut found, "kubelet.failing", &of, &outcome);
        Ok(found)
    }
}

/// Whether something listens on a TCP port of the host. Those that listen come first in the kernel's table: what is
/// behind them, which may be a million connections, is not read.
fn listens_tcp(look: &Look<'_>, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    ["tcp", "tcp6"].into_iter().any(|name| {
        let Ok(file) = std::fs::File::open(look.root.net(name)) else { return false };
        let lines = io::BufReader::with_capacity(4096, file.take(MAX_TABLE)).split(b'\n').map_while(Result::ok);
        let mut lines = lines.skip(1).take(MAX_SOCKETS);
        lines.find_map(|line| {
            let line = String::from_utf8_lossy(&line);
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1));
            match state {
                Some(LISTEN) if local.ends_with(&wanted) => Some(true),
                Some(LISTEN) => None,
                _ => Some(false),
            }
        }) == Some(true)
    })
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

/// The container runtime.
#[derive(Default)]
pub struct Runtime {
    patient: Patient<()>,
    /// A socket that was seen to listen and cannot be reached from here.
    listened: Option<&'static str>,
    looked_ms: Option<u64>,
}

impl Source for Runtime {
    fn about(&self) -> &'static About {
        &About {
            name: "container-runtime",
            reads: &[
                "run/{containerd/containerd,crio/crio,k3s/containerd/containerd,cri-dockerd}.sock",
                "proc/1/net/unix where the socket is out of reach",
            ],
            measures: &["runtime.failing"],
            series: &[],
            says: "whether the container runtime takes a connection and begins to speak gRPC",
            needs: "to reach the socket, which is as good as root: in the chart `agent.hostFiles.runtimeSocket` gives it, and it is off; else only whether the runtime listens is seen",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        let named = look.settings.runtime_socket.as_ref().map(|path| look.path(path));
        let path = named.or_else(|| RUNTIMES.iter().map(|path| look.path(path)).find(|path| path.exists()));
        if let Some(path) = path {
            let of = path.display().to_string();
            // A full queue of connections would make this wait for ever, which is why it is asked on a thread.
            let outcome = self.patient.ask(ANSWER_WITHIN, move || speaks(&path));
            failing(&mut found, "runtime.failing", &of, &outcome);
            return Ok(found);
        }
        let again = self.looked_ms.is_none_or(|at| look.now_ms.saturating_sub(at) >= LOOK_AGAIN_MS);
        let table = if self.listened.is_some() || again {
            self.looked_ms = Some(look.now_ms);
            look.net("unix").unwrap_or_default()
        } else {
            String::new()
        };
        let listening = RUNTIMES.into_iter().find(|path| listens_unix(&table, path));
        self.listened = listening.or(self.listened);
        let Some(socket) = self.listened else {
            return Err(absent("no socket of a container runtime; name it with --runtime-socket"));
        };
        let outcome = if listening.is_some() { Ok(()) } else { Err("nothing listens there any more".to_owned()) };
        failing(&mut found, "runtime.failing", &format!("/{socket}"), &outcome);
        Ok(found)
    }
}

/// Whether something listens on a socket of the host, by the kernel's table of them.
fn listens_unix(table: &str, path: &str) -> bool {
    const ACCEPTS: u32 = 0x1_0000;
    table.lines().skip(1).take(MAX_SOCKETS).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (flags, at) = (fields.nth(3), fields.nth(3));
        // `/var/run` is a link to `/run`, and some configurations name it so.
        let same = at.is_some_and(|at| at.trim_start_matches("/var").trim_start_matches('/') == path);
        same && flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & ACCEPTS != 0)
    })
}

/// Begins HTTP/2, which gRPC is, with a server that answers at once when it lives: its settings, or a refusal.
fn speaks(path: &Path) -> Result<(), String> {
    // The client's preface and an empty frame of settings (RFC 9113, 3.4 and 6.5).
    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let told = |error: io::Error| error.to_string();
    let mut stream = UnixStream::connect(path).map_err(told)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(told)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(told)?;
    stream.write_all(BEGIN).map_err(told)?;
    match stream.read(&mut [0; 9]) {
        Ok(0) => Err("it takes the connection and closes it".into()),
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err("it takes the connection and says nothing".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Names that must resolve.
#[derive(Default)]
pub struct Dns {
    patients: Vec<Patient<()>>,
}

impl Source for Dns {
    fn about(&self) -> &'static About {
        &About {
            name: "dns",
            reads: &["the resolver of the agent"],
            measures: &["dns.failing"],
            series: &[],
            says: "whether names resolve",
            needs: "a name for --dns-name; in a pod kubernetes.default.svc when none is given",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let names = &look.settings.dns_name;
        if names.is_empty() {
            return Err(absent("no name to resolve is given; name one with --dns-name"));
        }
        self.patients.resize_with(names.len(), Patient::default);
        let mut found = Findings::default();
        for (name, patient) in names.iter().zip(&mut self.patients) {
            let asked = name.clone();
            let outcome = patient.ask(ANSWER_WITHIN, move || {
                let found = (asked.as_str(), 0_u16).to_socket_addrs().map_err(|error| error.to_string())?;
                if found.count() > 0 { Ok(()) } else { Err("it has no address".into()) }
            });
            failing(&mut found, "dns.failing", name, &outcome);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener, thread};

    use super::*;
    use crate::probes::tests::{Host, value};

    #[test]
    fn a_kubelet_is_well_when_it_says_so() {
        let mut host = Host::of(&[]);
        let mut source = Kubelet::default();
        assert!(host.read(&mut source).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        host.settings.kubelet_healthz =
            Some(format!("http://{}/healthz", listener.local_addr().unwrap()).parse().unwrap());
        let server = thread::spawn(move || {
            for status in ["200 OK", "500 Internal Server Error"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).unwrap();
                write!(stream, "HTTP/1.1 {status}\r\n\r\nok").unwrap();
            }
        });
        assert_eq!(value(&host.read(&mut source).unwrap(), "kubelet.failing"), 0.0);
        let failed = &host.read(&mut source).unwrap().figures[0];
        assert!(failed.value > 0.0 && failed.says.contains("500"), "{failed:?}");
        server.join().unwrap();
    }

    #[test]
    fn a_kubelet_out_of_reach_is_seen_to_listen_or_no_longer() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let listening = format!("{head}   0: 0100007F:2808 00000000:0000 0A 00000000:00000000\n");
        let connected = format!("{head}   0: 0100007F:2808 0100007F:D2F0 01 00000000:00000000\n");
        let mut host = Host::of(&[("proc/1/net/tcp", &connected), (KUBELET_CONFIG, "")]);
        let mut source = Kubelet::default();
        assert!(host.read(&mut source).unwrap_err().to_string().contains("10248"));
        host.put("proc/1/net/tcp", &listening);
        assert!(host.read(&mut source).is_err(), "it is not looked for at each pass");
        host.now_ms = LOOK_AGAIN_MS;
        assert_eq!(value(&host.read(&mut source).unwrap(), "kubelet.failing"), 0.0);
        host.put("proc/1/net/tcp", &connected);
        assert_eq!(value(&host.read(&mut source).unwrap(), "kubelet.failing"), 1.0);
    }

    #[test]
    fn a_runtime_takes_a_connection_and_speaks() {
        let host = Host::of(&[("run/containerd/x", "")]);
        let mut source = Runtime::default();
        assert!(host.read(&mut source).unwrap_err().to_string().contains("--runtime-socket"));
        let path = host.root.join("run/containerd/containerd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut begin = [0; 33];
            stream.read_exact(&mut begin).unwrap();
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
            drop(listener.accept().unwrap());
        });
        assert_eq!(value(&host.read(&mut source).unwrap(), "runtime.failing"), 0.0);
        assert_eq!(value(&host.read(&mut source).unwrap(), "runtime.failing"), 1.0, "it closed the connection");
        server.join().unwrap();
        assert_eq!(value(&host.read(&mut source).unwrap(), "runtime.failing"), 1.0, "nobody listens");
    }

    #[test]
    fn a_runtime_out_of_reach_is_seen_to_listen_or_no_longer() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 25 /run/containerd/containerd.sock\n";
        let mut host = Host::of(&[("proc/1/net/unix", &format!("{head}{line}"))]);
        let mut source = Runtime::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "runtime.failing"), 0.0);
        // Connections that are still open have the name too, but nobody listens on them.
        host.put("proc/1/net/unix", &format!("{head}{}", line.replace("00010000", "00000000")));
        assert_eq!(value(&host.read(&mut source).unwrap(), "runtime.failing"), 1.0);
    }

    #[test]
    fn names_that_are_given_are_resolved() {
        let mut host = Host::of(&[]);
        assert!(host.read(&mut Dns::default()).is_err());
        host.settings.dns_name = vec!["localhost".into()];
        assert_eq!(value(&host.read(&mut Dns::default()).unwrap(), "dns.failing"), 0.0);
    }
}
