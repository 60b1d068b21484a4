//! The child processes of a demo: started with a log file each, watched, stopped by their process id.
//!
//! Each child leads a process group of its own, so that Ctrl-C in the terminal reaches the demo alone, which then stops
//! its children in order. A child that ends by itself is a death: it is kept, with the end of its log.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::exit::{Failure, Outcome};

/// How long a child has to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// Lines of a dead child's log that are shown.
const TAIL_LINES: usize = 8;
/// Bytes of a log that its last lines are looked for in.
const TAIL_BYTES: u64 = 16 << 10;
/// File beside the logs that holds the children's process ids.
const PIDS: &str = "pids";
/// Deaths that are kept; more would only repeat the first.
const MAX_DEATHS: usize = 32;

/// How to start a child.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Name, also of its log file.
    pub name: String,
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment on top of the inherited one.
    pub env: Vec<(String, String)>,
}

/// A child that ended though nobody asked it to.
#[derive(Clone, Debug)]
pub struct Death {
    /// Name of the child.
    pub name: String,
    /// How it ended.
    pub status: String,
    /// End of its log.
    pub tail: Vec<String>,
    /// Its log.
    pub log: PathBuf,
}

/// Starts, watches and stops children.
pub struct Supervisor {
    logs: PathBuf,
    running: Mutex<BTreeMap<String, Running>>,
    deaths: Arc<Mutex<Vec<Death>>>,
    announce: mpsc::Sender<Death>,
    dead: Arc<watch::Sender<bool>>,
}

struct Running {
    stop: oneshot::Sender<How>,
    ended: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Term,
    Kill,
}

impl Supervisor {
    /// A supervisor whose children log into `logs`; deaths are also sent to the returned receiver.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn new(logs: &Path) -> anyhow::Result<(Self, mpsc::Receiver<Death>)> {
        fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let (announce, deaths) = mpsc::channel(MAX_DEATHS);
        Ok((
            Self {
                logs: logs.to_owned(),
                running: Mutex::default(),
                deaths: Arc::default(),
                announce,
                dead: Arc::default(),
            },
            deaths,
        ))
    }

    /// Starts a child; its output is appended to its log.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&self, recipe: &Recipe) -> anyhow::Result<()> {
        let mut running = self.running.lock();
        if running.get(&recipe.name).is_some_and(|child| !child.ended.is_finished()) {
            bail!("{} runs already", recipe.name);
        }
        let log = self.log(&recipe.name);
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&recipe.program);
        command.args(&recipe.args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // What is meant for the demo's own flags, or for the shell that started it, is not meant for its children.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EVERGREEN_") || name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        command.envs(recipe.env.iter().map(|(name, value)| (name, value))).process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", recipe.program.display()))?;
        self.note(&child);
        let (stop, stopped) = oneshot::channel();
        let watcher = Watcher {
            name: recipe.name.clone(),
            log,
            deaths: Arc::clone(&self.deaths),
            announce: self.announce.clone(),
            dead: Arc::clone(&self.dead),
        };
        let ended = tokio::spawn(watcher.watch(child, stopped));
        running.insert(recipe.name.clone(), Running { stop, ended });
        Ok(())
    }

    /// Notes a child for [`end_leftovers`]: should this process be killed, the next demo ends what it left.
    fn note(&self, child: &Child) {
        let Some(id) = child.id() else { return };
        let file = fs::OpenOptions::new().create(true).append(true).open(self.logs.join(PIDS));
        // Only a convenience: a demo that is not killed ends its children itself.
        let _ = file.and_then(|mut file| writeln!(file, "{id}"));
    }

    /// Asks a child to end, and kills it when it does not.
    pub async fn stop(&self, name: &str) {
        self.end(name, How::Term).await;
    }

    /// Kills a child without a word, as a power cut would.
    pub async fn kill(&self, name: &str) {
        self.end(name, How::Kill).await;
    }

    async fn end(&self, name: &str, how: How) {
        let Some(Running { stop, ended }) = self.running.lock().remove(name) else { return };
        // The watcher may be gone with its child; then there is nothing to stop.
        let _ = stop.send(how);
        let _ = ended.await;
    }

    /// Ends all children, newest names last, all at once.
    pub async fn stop_all(&self) {
        let names: Vec<String> = self.running.lock().keys().cloned().collect();
        futures::future::join_all(names.iter().map(|name| self.stop(name))).await;
    }

    /// Waits until a child has ended by itself.
    pub async fn first_death(&self) {
        let mut dead = self.dead.subscribe();
        // The sender lives as long as this.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// Children that ended by themselves so far.
    pub fn deaths(&self) -> Vec<Death> {
        self.deaths.lock().clone()
    }

    /// Log of a child.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

struct Watcher {
    name: String,
    log: PathBuf,
    deaths: Arc<Mutex<Vec<Death>>>,
    announce: mpsc::Sender<Death>,
    dead: Arc<watch::Sender<bool>>,
}

impl Watcher {
    async fn watch(self, mut child: Child, stopped: oneshot::Receiver<How>) {
        tokio::select! {
            status = child.wait() => self.died(status),
            how = stopped => {
                // A dropped sender means that the supervisor is gone: no mercy.
                if matches!(how, Ok(How::Term))
                    && terminate(&child)
                    && tokio::time::timeout(GRACE, child.wait()).await.is_ok()
                {
                    return;
                }
                let _ = child.kill().await;
            }
        }
    }

    fn died(self, status: std::io::Result<ExitStatus>) {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let death = Death { name: self.name, status, tail: tail(&self.log), log: self.log };
        let mut deaths = self.deaths.lock();
        if deaths.len() < MAX_DEATHS {
            deaths.push(death.clone());
            // The receiver shows what it can; the list above is what counts.
            let _ = self.announce.try_send(death);
        }
        self.dead.send_replace(true);
    }
}

fn terminate(child: &Child) -> bool {
    child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
        .is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok())
}

/// Last lines of a log.
pub fn tail(log: &Path) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Ends what a demo that was killed left running: processes whose ids it noted in `logs`, if they still run one of the
/// product's programs for that demo.
pub fn end_leftovers(logs: &Path) {
    let Ok(noted) = fs::read_to_string(logs.join(PIDS)) else { return };
    let folder = logs.parent().unwrap_or(logs).display().to_string();
    for id in noted.lines().filter_map(|line| line.parse::<i32>().ok()) {
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let program = command.split('\0').next().unwrap_or_default();
        let is_ours = program.rsplit('/').next().is_some_and(|name| name.starts_with("evergreen-"));
        if is_ours && command.contains(&folder) {
            // It may have ended by itself just now.
            let _ = Pid::from_raw(id).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

/// A program of the product: beside this executable, else on the PATH.
///
/// # Errors
/// When it is in neither place.
pub fn find_program(name: &str) -> Outcome<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    let on_path =
        || std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    beside.into_iter().chain(on_path().map(|folder| folder.join(name))).find(|file| file.is_file()).ok_or_else(|| {
        Failure::unreachable(format_args!("found no {name} beside this program nor on the PATH"))
            .remedy("make demo, which builds everything first (or cargo build --workspace)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str, script: &str) -> Recipe {
        Recipe {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec![("GREETING".to_owned(), "hello".to_owned())],
        }
    }

    #[tokio::test]
    async fn a_child_that_ends_by_itself_is_reported_with_the_tail_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let (supervisor, mut deaths) = Supervisor::new(folder.path()).unwrap();
        supervisor.start(&recipe("short", "echo $GREETING; echo broken >&2; exit 7")).unwrap();
        let death = deaths.recv().await.unwrap();
        assert_eq!(
            (death.name.as_str(), death.tail.as_slice()),
            ("short", &["hello".to_owned(), "broken".to_owned()][..])
        );
        assert!(death.status.contains('7'), "{}", death.status);
        supervisor.first_death().await;
        assert_eq!(supervisor.deaths().len(), 1);
    }

    #[tokio::test]
    async fn a_stopped_child_is_no_death_and_may_be_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let (supervisor, _deaths) = Supervisor::new(folder.path()).unwrap();
        for _ in 0..2 {
            supervisor.start(&recipe("long", "exec sleep 60")).unwrap();
            assert!(supervisor.start(&recipe("long", "exec sleep 60")).is_err());
            supervisor.stop("long").await;
        }
        supervisor.start(&recipe("long", "exec sleep 60")).unwrap();
        supervisor.kill("long").await;
        supervisor.start(&recipe("other", "exec sleep 60")).unwrap();
        supervisor.stop_all().await;
        assert!(supervisor.deaths().is_empty());
    }

    #[tokio::test]
    async fn leftovers_of_a_killed_demo_are_ended_and_strangers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        // A program of the product's name, run for this demo; and a stranger that got a noted id.
        let program = folder.path().join("evergreen-fake");
        fs::copy("/bin/sleep", &program).unwrap();
        std::os::unix::fs::symlink("/bin/sleep", folder.path().join("other")).unwrap();
        let mut ours = Command::new(&program).arg("60").spawn().unwrap();
        let mut stranger = Command::new(folder.path().join("other")).arg("60").kill_on_drop(true).spawn().unwrap();
        fs::write(logs.join(PIDS), format!("{}\n{}\n", ours.id().unwrap(), stranger.id().unwrap())).unwrap();
        end_leftovers(&logs);
        assert!(!ours.wait().await.unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().await.unwrap();
    }

    #[test]
    fn a_missing_program_says_how_to_build_it() {
        let missing = find_program("evergreen-no-such-program").unwrap_err();
        assert_eq!(missing.code(), 3);
        assert!(missing.to_string().contains("make demo"));
    }
}
