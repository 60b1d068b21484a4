//! How full the filesystems are. `statvfs` on a dead network mount may never return, so it runs on a helper thread; a
//! mount that does not answer is told as such and its thread is left behind with it, at most a few of them. Mounts of a
//! server that does not answer are not asked one by one: each would take a thread.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use procfs::{FromBufRead, MountEntry};
use serde::Serialize;

use crate::host::Root;

/// A local filesystem answers in microseconds, a network one in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Threads that may hang at a time; behind that, only mounts are asked that answered before.
const MAX_STUCK: usize = 8;
/// And behind this one, none.
const MAX_STUCK_AT_ALL: usize = 16;
/// Mounts that are looked at; pods mount the same disk over and over.
const MAX_MOUNTS: usize = 128;
/// Mounts that are remembered to have answered.
const MAX_KNOWN: usize = 1024;
/// Filesystems that hold data; all others are views of the kernel.
const REAL: [&str; 20] = [
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "f2fs",
    "zfs",
    "vfat",
    "bcachefs",
    "nfs",
    "nfs4",
    "ceph",
    "cifs",
    "smb3",
    "gfs2",
    "ocfs2",
    "lustre",
    "gpfs",
    "glusterfs",
    "9p",
];

/// One mounted filesystem.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Kind, as in `ext4`.
    pub kind: String,
    /// Whether it may not be written.
    pub read_only: bool,
    /// Bytes that it holds at most; absent when it does not answer.
    pub total: Option<u64>,
    /// Bytes that are taken.
    pub used: Option<u64>,
    /// Bytes that programs may still write.
    pub available: Option<u64>,
    /// Share in use, 0 to 1.
    pub utilization: Option<f64>,
    /// Inodes in use and in all; absent where there is no limit.
    pub inodes: Option<(u64, u64)>,
    /// Share of inodes in use, 0 to 1; absent where there is no limit.
    pub inode_utilization: Option<f64>,
    /// Why there are no numbers.
    pub trouble: Option<String>,
    /// Whether it did not answer in time.
    pub silent: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Usage {
    total: u64,
    used: u64,
    available: u64,
    inodes: Option<(u64, u64)>,
}

/// How a mount is asked.
type Stat = fn(&Path) -> io::Result<Usage>;

/// Reads filesystems; remembers which mounts hang.
#[derive(Debug)]
pub struct Filesystems {
    root: Root,
    /// Mounts whose call has not returned, with where they come from.
    stuck: HashMap<PathBuf, (String, Arc<AtomicBool>)>,
    /// Mounts that answered when they were asked last.
    known: HashSet<PathBuf>,
    answer_within: Duration,
    stat: Stat,
}

/// One mount that is to be asked.
struct Question {
    /// Where it can be asked; nowhere when the agent's container sees nothing of it.
    path: Option<PathBuf>,
    /// Whom it depends on: a server, or the device.
    server: String,
}

impl Filesystems {
    /// A reader of the mounts below a root.
    pub fn new(root: Root) -> Self {
        Self { root, stuck: HashMap::new(), known: HashSet::new(), answer_within: ANSWER_WITHIN, stat: usage }
    }

    /// Reads all filesystems that hold data, each device once.
    ///
    /// # Errors
    /// When the mounts cannot be listed.
    pub fn read(&mut self) -> io::Result<Vec<Filesystem>> {
        self.stuck.retain(|_, (_, done)| !done.load(Ordering::Acquire));
        let text = ["proc/1/mounts", "proc/self/mounts", "proc/mounts"]
            .iter()
            .map(|path| self.root.read(path))
            .reduce(|found, next| found.or(next))
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
        let mut seen = HashSet::new();
        let mut mounts = Vec::new();
        let mut understood = false;
        for line in text.lines() {
            let Ok(entries) = Vec::<MountEntry>::from_buf_read(line.as_bytes()) else { continue };
            let Some(mount) = entries.into_iter().next() else { continue };
            understood = true;
            if !REAL.contains(&mount.fs_vfstype.as_str()) || !seen.insert(mount.fs_spec.clone()) {
                continue;
            }
            if mounts.len() >= MAX_MOUNTS {
                break;
            }
            mounts.push(mount);
        }
        if !understood {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the list of mounts is not understood"));
        }
        let views = Views::of(&self.root);
        let questions = mounts.iter().map(|mount| Question {
            path: match &views {
                Some(views) => views.of_mount(&mount.fs_file),
                None => Some(self.root.join(&mount.fs_file)),
            },
            server: server_of(&mount.fs_vfstype, &mount.fs_spec).to_owned(),
        });
        let answers = self.ask_all(questions.collect());
        Ok(mounts.into_iter().zip(answers).map(|(mount, answer)| told(mount, answer)).collect())
    }

    fn ask_all(&mut self, questions: Vec<Question>) -> Vec<io::Result<Usage>> {
        let mut answers: Vec<io::Result<Usage>> = Vec::with_capacity(questions.len());
        let mut helper = None;
        for question in &questions {
            let answer = self.ask(question, &mut helper);
            if let Some(path) = question.path.as_ref().filter(|_| self.known.len() < MAX_KNOWN && answer.is_ok()) {
                self.known.insert(path.clone());
            }
            answers.push(answer);
        }
        self.known.retain(|path| questions.iter().any(|question| question.path.as_ref() == Some(path)));
        answers
    }

    fn ask(&mut self, question: &Question, helper: &mut Option<Helper>) -> io::Result<Usage> {
        let hangs = |why: &str| Err(io::Error::new(io::ErrorKind::TimedOut, why.to_owned()));
        let Some(path) = &question.path else {
            let says = "nothing of it is mounted into the agent's container, so nobody can ask how full it is";
            return Err(io::Error::new(io::ErrorKind::Unsupported, says));
        };
        if self.stuck.contains_key(path) {
            return hangs("the mount does not answer");
        }
        if self.stuck.values().any(|(server, _)| *server == question.server) {
            return hangs("not asked, because another mount from there does not answer");
        }
        let most = if self.known.contains(path) { MAX_STUCK_AT_ALL } else { MAX_STUCK };
        if self.stuck.len() >= most {
            return Err(io::Error::other("not asked, because other mounts do not answer"));
        }
        let asked = match helper.take() {
            Some(asked) => asked,
            None => Helper::start(self.stat)?,
        };
        match asked.ask(path, self.answer_within) {
            Some(answer) => {
                *helper = Some(asked);
                answer
            }
            None => {
                self.stuck.insert(path.clone(), (question.server.clone(), asked.done));
                hangs("the mount does not answer")
            }
        }
    }
}

/// Where a container sees something of the host's filesystems. A path of the host below the root may be another filesystem
/// there, its own: what counts is the device.
struct Views {
    /// Devices of the host's mounts, by mount point; what is mounted last at a place covers what was before.
    host: HashMap<String, String>,
    /// Mount points of this process, by device.
    own: HashMap<String, PathBuf>,
}

impl Views {
    /// None where paths below the root are the host's own, or those of a recorded tree.
    fn of(root: &Root) -> Option<Self> {
        if root.is_this_machine() || !root.is_this_kernel() {
            return None;
        }
        let host = root.read("proc/1/mountinfo").ok()?;
        let own = Root::new("/").read("proc/self/mountinfo").ok()?;
        Some(Self::from(&host, &own))
    }

    fn from(host: &str, own: &str) -> Self {
        let host = devices(host).map(|(device, at)| (at.to_owned(), device.to_owned())).collect();
        let own = devices(own).map(|(device, at)| (device.to_owned(), PathBuf::from(at))).collect();
        Self { host, own }
    }

    fn of_mount(&self, mountpoint: &str) -> Option<PathBuf> {
        self.own.get(self.host.get(mountpoint)?).cloned()
    }
}

/// Device and mount point of each line of a `mountinfo`. Places with spaces, which are escaped, are left out.
fn devices(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, at) = (fields.next()?, fields.nth(1)?);
        (device.contains(':') && !at.contains('\\')).then_some((device, at))
    })
}

/// Whom a mount depends on: `server:/path` and `//server/share` of network filesystems, else the device itself.
fn server_of<'a>(kind: &str, spec: &'a str) -> &'a str {
    match kind {
        "cifs" | "smb3" => spec.trim_start_matches('/').split('/').next().unwrap_or(spec),
        // The path begins behind the last colon: an address of IPv6 has others.
        "nfs" | "nfs4" | "ceph" | "lustre" | "glusterfs" => spec.rsplit_once(":/").map_or(spec, |(server, _)| server),
        _ => spec,
    }
}

fn told(mount: MountEntry, answer: io::Result<Usage>) -> Filesystem {
    let silent = answer.as_ref().is_err_and(|reason| reason.kind() == io::ErrorKind::TimedOut);
    let trouble = answer.as_ref().err().map(ToString::to_string);
    let usage = answer.ok();
    let of = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Filesystem {
        mountpoint: mount.fs_file,
        kind: mount.fs_vfstype,
        read_only: mount.fs_mntops.contains_key("ro"),
        total: usage.as_ref().map(|usage| usage.total),
        used: usage.as_ref().map(|usage| usage.used),
        available: usage.as_ref().map(|usage| usage.available),
        // As df counts: what root keeps for itself is neither used nor available.
        utilization: usage.as_ref().map(|usage| of(usage.used, usage.used.saturating_add(usage.available))),
        inodes: usage.as_ref().and_then(|usage| usage.inodes),
        inode_utilization: usage.as_ref().and_then(|usage| usage.inodes).map(|(used, all)| of(used, all)),
        trouble,
        silent,
    }
}

/// A thread that asks mounts, one after the other.
struct Helper {
    questions: mpsc::Sender<PathBuf>,
    answers: mpsc::Receiver<io::Result<Usage>>,
    /// Set when its last question was answered, whether or not anybody still listens.
    done: Arc<AtomicBool>,
}

impl Helper {
    fn start(stat: Stat) -> io::Result<Self> {
        let (questions, asked) = mpsc::channel::<PathBuf>();
        let (answer, answers) = mpsc::sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let finished = Arc::clone(&done);
        thread::Builder::new().name("statvfs".into()).stack_size(64 << 10).spawn(move || {
            while let Ok(path) = asked.recv() {
                let outcome = stat(&path);
                if answer.send(outcome).is_err() {
                    break;
                }
            }
            finished.store(true, Ordering::Release);
        })?;
        Ok(Self { questions, answers, done })
    }

    /// The answer, or nothing when there is none in time; the helper is of no use then.
    fn ask(&self, path: &Path, within: Duration) -> Option<io::Result<Usage>> {
        self.questions.send(path.to_owned()).ok()?;
        self.answers.recv_timeout(within).ok()
    }
}

fn usage(path: &Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (total, free) = (bytes(stat.f_blocks), bytes(stat.f_bfree));
    let inodes = (stat.f_files > 0).then(|| (stat.f_files.saturating_sub(stat.f_ffree), stat.f_files));
    // Some network filesystems say that more is free than there is.
    Ok(Usage { total, used: total.saturating_sub(free), available: bytes(stat.f_bavail).min(total), inodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with_mounts(text: &str) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("proc")).unwrap();
        std::fs::write(directory.path().join("proc/mounts"), text).unwrap();
        let root = Root::new(directory.path());
        (directory, root)
    }

    #[test]
    fn only_filesystems_that_hold_data_are_read_each_once() {
        let (directory, root) = root_with_mounts(
            "proc /proc proc rw 0 0\n/dev/vda / ext4 ro,relatime 0 0\n/dev/vda /var/lib/kubelet ext4 rw 0 0\nx /gone xfs rw 0 0\n",
        );
        let found = Filesystems::new(root).read().unwrap();
        drop(directory);
        assert_eq!(found.len(), 2);
        assert!(found[0].read_only && found[0].utilization.is_some_and(|share| (0.0..=1.0).contains(&share)));
        assert!(found[1].trouble.is_some());
    }

    /// A statvfs that waits for ever below `/dead`, until the test ends.
    fn hangs_below_dead(path: &Path) -> io::Result<Usage> {
        if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("dead")) {
            loop {
                thread::park();
            }
        }
        Ok(Usage { total: 4, used: 2, available: 2, inodes: None })
    }

    fn hanging(mounts: &str) -> (tempfile::TempDir, Filesystems) {
        let (directory, root) = root_with_mounts(mounts);
        let filesystems = Filesystems { stat: hangs_below_dead, ..Filesystems::new(root) };
        (directory, Filesystems { answer_within: Duration::from_millis(100), ..filesystems })
    }

    #[test]
    fn a_mount_that_never_answers_hangs_neither_the_agent_nor_the_others() {
        let (_directory, mut filesystems) = hanging("a /dead nfs rw 0 0\nb / ext4 rw 0 0\n");
        filesystems.answer_within = Duration::from_millis(400);
        for _ in 0..3 {
            let found = filesystems.read().unwrap();
            assert!(found[0].trouble.as_deref().is_some_and(|t| t.contains("does not answer")), "{found:?}");
            assert!(found[0].silent && found[0].utilization.is_none());
            assert_eq!(found[1].utilization, Some(0.5));
        }
        assert_eq!(filesystems.stuck.len(), 1);
    }

    #[test]
    fn a_dead_server_of_many_mounts_takes_one_thread_and_blinds_nobody() {
        let many: String = (0..50).map(|n| format!("nas1:/v{n} /dead/v{n} nfs4 rw 0 0\n")).collect();
        let (_directory, mut filesystems) =
            hanging(&format!("{many}nas2:/x /srv nfs4 rw 0 0\n/dev/sda / xfs rw 0 0\n"));
        let found = filesystems.read().unwrap();
        assert_eq!(filesystems.stuck.len(), 1);
        assert!(found[..50].iter().all(|filesystem| filesystem.silent));
        assert!(found[50..].iter().all(|filesystem| filesystem.utilization == Some(0.5)), "{:?}", &found[50..]);
    }

    #[test]
    fn threads_that_hang_are_bounded_and_mounts_that_answered_go_on_being_asked() {
        let (directory, mut filesystems) = hanging("/dev/sda / xfs rw 0 0\n");
        filesystems.answer_within = Duration::from_secs(2);
        filesystems.read().unwrap();
        filesystems.answer_within = Duration::from_millis(20);
        let many: String = (0..40).map(|n| format!("nas{n}:/ /dead/{n} nfs rw 0 0\n")).collect();
        let mounts = format!("{many}/dev/sda / xfs rw 0 0\n/dev/sdb /new xfs rw 0 0\n");
        std::fs::write(directory.path().join("proc/mounts"), mounts).unwrap();
        for _ in 0..3 {
            let found = filesystems.read().unwrap();
            // On a busy machine a healthy mount may answer late, too.
            let dead = filesystems.stuck.keys().filter(|path| path.to_string_lossy().contains("/dead/")).count();
            assert_eq!(dead, MAX_STUCK);
            assert!(found[39].trouble.as_deref().is_some_and(|trouble| trouble.starts_with("not asked")));
            assert!(found[41].utilization.is_none(), "whether a new one hangs nobody knows");
        }
        filesystems.answer_within = Duration::from_secs(2);
        assert_eq!(filesystems.read().unwrap()[40].utilization, Some(0.5));
    }

    #[test]
    fn a_mount_that_comes_back_is_asked_again() {
        static BACK: AtomicBool = AtomicBool::new(false);
        let (_directory, root) = root_with_mounts("nas:/ /mnt nfs rw 0 0\n");
        let stat = |_: &Path| {
            while !BACK.load(Ordering::Acquire) {
                thread::park_timeout(Duration::from_millis(1));
            }
            Ok(Usage::default())
        };
        let mut filesystems = Filesystems { stat, answer_within: Duration::from_millis(20), ..Filesystems::new(root) };
        assert!(filesystems.read().unwrap()[0].silent);
        BACK.store(true, Ordering::Release);
        filesystems.answer_within = Duration::from_secs(5);
        let answered = (0..10_000).any(|_| {
            thread::yield_now();
            !filesystems.read().unwrap()[0].silent
        });
        assert!(answered && filesystems.stuck.is_empty());
    }

    #[test]
    fn a_container_asks_where_it_sees_the_same_device_and_not_where_the_path_is_the_same() {
        let host = "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n40 22 259:3 / /var rw - xfs /dev/nvme0n1p3 rw\n41 22 0:50 / /data\\040x rw - nfs nas:/x rw\n";
        let own = "900 800 0:99 / / ro - overlay overlay rw\n901 900 259:3 /lib/evergreen-agent /state rw - xfs /dev/nvme0n1p3 rw\n";
        let views = Views::from(host, own);
        assert_eq!(views.of_mount("/var"), Some(PathBuf::from("/state")));
        assert_eq!(views.of_mount("/"), None, "the container's own root is another filesystem");
        assert_eq!(views.of_mount("/data x"), None);
        assert!(Views::of(&Root::new("/")).is_none() && Views::of(&Root::new("/nowhere")).is_none());
        let mut filesystems = Filesystems::new(Root::new("/"));
        let question = Question { path: None, server: String::new() };
        assert!(filesystems.ask(&question, &mut None).unwrap_err().to_string().contains("container"));
    }

    #[test]
    fn servers_are_found_in_what_is_mounted() {
        assert_eq!(server_of("nfs4", "nas1:/vol/a"), "nas1");
        assert_eq!(server_of("nfs4", "[fe80::1]:/vol"), "[fe80::1]");
        assert_eq!(server_of("cifs", "//filer/share/x"), "filer");
        assert_eq!(server_of("ext4", "/dev/sda1"), "/dev/sda1");
        assert_eq!(server_of("cifs", "//"), "");
    }

    #[test]
    fn a_list_of_mounts_that_is_garbage_is_a_reason() {
        for garbage in ["", "\u{0}\u{1}", "one\ntwo three\n", "/dev/vda / ext4"] {
            let (_directory, root) = root_with_mounts(garbage);
            assert!(Filesystems::new(root).read().is_err(), "{garbage:?}");
        }
    }
}
