//! The product's programs as processes of their own: found beside the test's build, logged to files, stopped by PID.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;

/// Path of one of the product's programs in the build that this test belongs to.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let build = test.parent().and_then(Path::parent).expect("tests lie in deps/ of a build");
    let path = build.join(name);
    assert!(path.is_file(), "{} is not built; run cargo build --workspace --bins", path.display());
    path
}

/// A helper that `make setup` puts into `target/tools`, or that is on the PATH.
pub fn tool(name: &str) -> Option<PathBuf> {
    let own = super::root().join("target/tools").join(name);
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|p| p.is_file());
    own.is_file().then_some(own).or_else(on_path)
}

/// A port of the loopback device that nothing listened on a moment ago.
///
/// # Panics
/// When the system has no port left.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free").port()
}

/// A command whose process the kernel kills when the thread that started it ends, so that nothing outlives a suite that
/// was killed. Start it from a thread that lives as long as the suite.
pub fn bounded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running program. It is killed when dropped.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; its output goes to `<dir>/<name>.log`, appended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).context("the log cannot be opened")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        // A process that has ended already cannot be killed again; that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Freezes it (SIGSTOP): it holds its connections and does nothing, as in a long pause of a virtual machine.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Ends the freeze.
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // A process that has ended already cannot be signalled; whoever cares looks whether it runs.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// File that its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Asks it to end (SIGTERM) and waits for at most `bound`.
    ///
    /// # Errors
    /// When it is still there after that; it is killed then.
    pub fn stop(&mut self, bound: std::time::Duration) -> anyhow::Result<std::process::ExitStatus> {
        self.signal(rustix::process::Signal::TERM);
        self.wait(bound).context("SIGTERM was sent")
    }

    /// Waits for at most `bound` until it has ended by itself.
    ///
    /// # Errors
    /// When it is still there after that; it is killed then.
    pub fn wait(&mut self, bound: std::time::Duration) -> anyhow::Result<std::process::ExitStatus> {
        let begin = std::time::Instant::now();
        while begin.elapsed() < bound {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.kill();
        anyhow::bail!("{} did not end within {bound:?}", self.name)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- last lines of {}\n{}\n----", self.name, self.log_tail());
        }
    }
}
