//! Real `evergreen-agent` processes on simulated hosts.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use evergreen_twin::{HostSpec, SimulatedHost};
use tokio::task::JoinHandle;

use crate::{
    http,
    programs::{Process, free_port, program},
    wait::eventually,
};

/// A host's files, which move on while it lives.
pub struct Host {
    /// The files.
    pub files: SimulatedHost,
    /// Where they are.
    pub root: PathBuf,
    clock: JoinHandle<()>,
}

impl Host {
    /// Boots a host of that name below `dir`.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn boot(name: &str, dir: &Path) -> Self {
        let root = dir.join(name);
        let files = SimulatedHost::create(&root, HostSpec::server(name)).expect("a writable folder");
        let ticking = Arc::new(files.clone());
        let clock = tokio::spawn(async move {
            loop {
                ticking.tick(tokio::time::Instant::now(), 2.0, &[]).expect("a writable folder");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Self { files, root, clock }
    }

    /// Writes what a kernel writes when it dereferences a null pointer.
    ///
    /// # Panics
    /// When the log cannot be written.
    pub fn oops(&self) {
        for line in [
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "#PF: supervisor read access in kernel mode",
            "Oops: 0000 [#1] PREEMPT SMP NOPTI",
            "CPU: 3 PID: 4711 Comm: kworker/3:1 Not tainted 5.10.0-8-amd64 #1",
            "RIP: 0010:xfs_buf_ioend+0x3a/0x1d0 [xfs]",
            "---[ end trace 8c3d4ad1b0fcb2a1 ]---",
        ] {
            self.files.kernel_log(1, line).expect("a writable log");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

/// A running agent.
pub struct Agent {
    /// Its process.
    pub process: Process,
    listens: String,
}

impl Agent {
    /// Starts an agent on `host` that speaks for the node of the same name; its state is kept in `<dir>/state-<node>`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(node: &str, host: &Host, kubeconfig: &Path, dir: &Path, otlp: Option<&str>) -> Self {
        let listens = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(program("evergreen-agent"));
        command.args(["--node-name", node, "--site", "dc-test", "--listen", &listens, "--root"]).arg(&host.root);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--state-dir").arg(dir.join(format!("state-{node}")));
        command.args(["--otlp-interval", "1s"]).env_remove("KUBECONFIG").env("RUST_LOG", "info");
        match otlp {
            Some(endpoint) => command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            None => command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT"),
        };
        let process = Process::start(&format!("agent-{node}"), command, dir).expect("the agent starts");
        Self { process, listens }
    }

    /// Waits until it is ready: what it knows is written to the cluster.
    ///
    /// # Panics
    /// When that takes longer than half a minute.
    pub async fn ready(&self) {
        let url = format!("http://{}/readyz", self.listens);
        let url = &url;
        eventually("the agent is ready", Duration::from_secs(30), || async move {
            match http::get(url).await? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status}: {body}")),
            }
        })
        .await;
    }
}
