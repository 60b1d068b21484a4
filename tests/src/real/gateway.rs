//! A real HAProxy before the sites: it asks each site's agent for the group's grant and sends requests to holders only.

use std::{net::SocketAddr, path::Path};

use crate::programs::{Process, bounded, free_port, tool};

/// One backend server.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Site.
    pub site: String,
    /// Where requests go.
    pub server: SocketAddr,
    /// Where `GET /grants/{group}` is answered.
    pub agent: SocketAddr,
}

/// A running HAProxy.
pub struct Gateway {
    /// Its process.
    pub process: Process,
    /// Port for each group, in the order given.
    pub ports: Vec<u16>,
}

/// Whether there is one.
pub fn installed() -> bool {
    tool("haproxy").is_some() || Path::new("/usr/sbin/haproxy").is_file()
}

impl Gateway {
    /// Starts one with a port for each group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(groups: &[(&str, Vec<Backend>)], dir: &Path) -> anyhow::Result<Self> {
        // Checks every 500 ms, one failure is enough: well within the 2 s that the lease leaves the edge to stop.
        let mut text = "global\n  maxconn 512\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 500ms\n  \
            timeout client 5s\n  timeout server 2s\n  timeout check 500ms\n  timeout queue 0\n  retries 0\n  \
            default-server inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions\n"
            .to_owned();
        let mut ports = Vec::new();
        for (index, (group, backends)) in groups.iter().enumerate() {
            let port = free_port();
            ports.push(port);
            text += &format!("listen g{index}\n  bind 127.0.0.1:{port}\n  balance roundrobin\n");
            text += &format!("  option httpchk GET /grants/{group}\n  http-check expect status 200\n");
            for Backend { site, server, agent } in backends {
                text += &format!("  server {site} {server} check addr {} port {}\n", agent.ip(), agent.port());
            }
        }
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, text)?;
        let program = tool("haproxy").unwrap_or_else(|| "/usr/sbin/haproxy".into());
        let mut command = bounded(program);
        command.arg("-db").arg("-f").arg(&file);
        Ok(Self { process: Process::start("haproxy", command, dir)?, ports })
    }
}
