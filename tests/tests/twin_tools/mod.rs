//! A served twin and the real command line tools that are pointed at it.

#![allow(dead_code, reason = "each suite uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evergreen_tests::{programs, skip::skipped};
use evergreen_twin::{HostSpec, NodeSpec, Served, SimulatedHost, Timing, Twin};
use tokio_util::sync::CancellationToken;

/// A running twin of three nodes with a kubeconfig; it ends when dropped.
pub struct Site {
    pub twin: Twin,
    pub dir: tempfile::TempDir,
    served: Served,
    cancel: CancellationToken,
}

impl Site {
    pub async fn start() -> Self {
        Site::started(false).await
    }

    /// The same over TLS, as `evergreen twin serve` does it.
    pub async fn start_tls() -> Self {
        Site::started(true).await
    }

    async fn started(tls: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Twin::builder("dc-a").timing(Timing::short());
        for n in 1..=3 {
            let name = format!("dc-a-{n}");
            let host = SimulatedHost::create(&dir.path().join(&name), HostSpec::server(&name)).unwrap();
            builder = builder.node(NodeSpec::new(&name).host(host));
        }
        let twin = builder.build();
        let addr = "127.0.0.1:0".parse().unwrap();
        let served = if tls { twin.serve_tls(addr).await } else { twin.serve(addr).await }.unwrap();
        let cancel = CancellationToken::new();
        twin.start(cancel.clone());
        std::fs::write(dir.path().join("kubeconfig"), served.try_kubeconfig("admin").unwrap()).unwrap();
        Site { twin, dir, served, cancel }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Writes a file for the tools to read.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.served.stop();
    }
}

/// One of the tools with its kubeconfig.
#[derive(Clone)]
pub struct Tool {
    path: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    variables: Vec<(String, String)>,
}

/// What a tool said.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Tool {
    /// The tool of that name; where it is missing, the check is skipped and counted.
    pub fn find(name: &str, check: &str, site: &Site) -> Option<Tool> {
        let Some(path) = programs::tool(name) else {
            skipped(check, &format!("no {name} on the PATH or in target/tools (make setup)"));
            return None;
        };
        Some(Tool { path, kubeconfig: site.kubeconfig(), home: site.dir.path().join("home"), variables: Vec::new() })
    }

    /// The same tool with a variable in its environment.
    pub fn with(&self, name: &str, value: &str) -> Tool {
        let mut tool = self.clone();
        tool.variables.push((name.to_owned(), value.to_owned()));
        tool
    }

    /// Runs it; the runtime goes on serving meanwhile.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .envs(self.variables.iter().map(|(k, v)| (k, v)))
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .stdin(Stdio::null());
        let answer = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { ok: answer.status.success(), out: text(&answer.stdout), err: text(&answer.stderr) }
    }

    /// Runs it and demands success; gives what it printed.
    #[track_caller]
    pub fn ok<'a>(&'a self, line: &'a str) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let said = self.run(&words(line)).await;
            assert!(said.ok, "{place}: {line}\n{}{}", said.out, said.err);
            said.out
        }
    }

    /// Runs it and demands a refusal; gives what it complained of.
    #[track_caller]
    pub fn refused<'a>(&'a self, line: &'a str) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let said = self.run(&words(line)).await;
            assert!(!said.ok, "{place}: {line} was accepted\n{}", said.out);
            said.err
        }
    }
}

/// Splits a command line at spaces; single quotes hold together.
fn words(line: &str) -> Vec<&str> {
    let (mut found, mut rest) = (Vec::new(), line.trim_start());
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').expect("quotes come in pairs"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        found.push(word);
        rest = after.trim_start();
    }
    found
}

/// A Deployment of that many pods.
pub fn deployment(name: &str, replicas: u32, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - {{name: main, image: '{image}', ports: [{{containerPort: 80}}], env: [{{name: A, value: '1'}}]}}
"
    )
}

/// A folder below the repository.
pub fn in_repository(path: &str) -> String {
    Path::new(&evergreen_tests::root()).join(path).display().to_string()
}
