//! A real `evergreen-plane` process on loopback, met over OTLP and its API.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    http,
    programs::{Process, free_port, program},
    wait::eventually,
};

/// Addresses of a plane, kept over its restarts.
#[derive(Clone, Debug)]
pub struct Ports {
    /// OTLP over gRPC.
    pub grpc: u16,
    /// OTLP over HTTP.
    pub http: u16,
    /// Page and API.
    pub web: u16,
}

impl Ports {
    /// Three free ports.
    pub fn free() -> Self {
        Self { grpc: free_port(), http: free_port(), web: free_port() }
    }

    /// Endpoint for senders.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// Starts a plane there, with its data in `<dir>/plane`, and waits until it answers.
    ///
    /// # Panics
    /// When it does not within half a minute.
    pub async fn plane(&self, dir: &Path, flags: &[&str]) -> Process {
        let mut command = Command::new(program("evergreen-plane"));
        for (flag, port) in [("--grpc-listen", self.grpc), ("--http-listen", self.http), ("--web-listen", self.web)] {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
        command.arg("--data-dir").arg(dir.join("plane")).args(flags).env("RUST_LOG", "info");
        let process = Process::start("plane", command, dir).expect("the plane starts");
        let url = format!("http://127.0.0.1:{}/readyz", self.web);
        let url = &url;
        eventually("the plane is ready", Duration::from_secs(30), || async move {
            match http::get(url).await? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status}: {body}")),
            }
        })
        .await;
        process
    }

    /// What the API says at a path.
    ///
    /// # Errors
    /// When it does not answer with 200 and JSON.
    pub async fn ask(&self, path: &str) -> Result<Value, String> {
        match http::get(&format!("http://127.0.0.1:{}{path}", self.web)).await? {
            (200, body) => serde_json::from_str(&body).map_err(|error| format!("{error}: {body}")),
            (status, body) => Err(format!("{status}: {body}")),
        }
    }
}
