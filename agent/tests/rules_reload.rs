//! Rules of a running agent change: what a rule raised that stays keeps its state, what a rule raised that goes disappears,
//! a wrong file changes nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const STAYS: &str = "  - {id: stays, kind: Custom, name: ShelfGone, severity: warning, match: ['^shelf (?P<n>\\d+) gone'], summary: 'shelf {n}'}\n";
const GOES: &str =
    "  - {id: goes, kind: Custom, name: FanSlow, severity: warning, match: ['^fan slow'], summary: fan}\n";
const COMES: &str =
    "  - {id: comes, kind: Custom, name: LampOut, severity: warning, match: ['^lamp out'], summary: lamp}\n";

fn rules(rules: &[&str]) -> String {
    format!("format: evergreen.dev/kernel-rules/v1\nrules:\n{}", rules.concat())
}

struct Agent {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &std::path::Path) -> (Child, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let child = Command::new(env!("CARGO_BIN_EXE_evergreen-agent"))
        .args(["--standalone", "--json", "--node-name", "n", "--health-interval", "200ms", "--listen", &address])
        .arg("--root")
        .arg(folder.join("root"))
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--rules")
        .arg(folder.join("rules.yaml"))
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, address)
}

impl Agent {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/dev")).unwrap();
        fs::create_dir_all(folder.path().join("root/proc/sys/kernel/random")).unwrap();
        fs::write(folder.path().join("root/proc/sys/kernel/random/boot_id"), "boot\n").unwrap();
        fs::write(folder.path().join("root/dev/kmsg"), "").unwrap();
        fs::write(folder.path().join("rules.yaml"), text).unwrap();
        let (child, address) = spawn(folder.path());
        let agent = Self { child, address, folder };
        agent.until("the kernel log is read", |page| present(page, "kmsg") == Some("1"));
        agent
    }

    fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.address) = spawn(self.folder.path());
        self.until("the kernel log is read again", |page| present(page, "kmsg") == Some("1"));
    }

    fn rules(&self, text: &str) {
        // As an editor does: a new file takes the place of the old one.
        let next = self.folder.path().join("rules.next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.path()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("rules.yaml")
    }

    fn log(&self, line: &str) {
        let path = self.folder.path().join("root/dev/kmsg");
        OpenOptions::new()
            .append(true)
            .open(path)
            .unwrap()
            .write_all(format!("<4>[    1.000000] {line}\n").as_bytes())
            .unwrap();
    }

    fn page(&self) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: n\r\n\r\n");
            let _ = stream.read_to_string(&mut text);
        }
        text
    }

    fn until(&self, what: &str, done: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let page = self.page();
            if done(&page) {
                return page;
            }
            let of_interest = |line: &&str| line.contains("node_problem") || line.contains("source_present");
            let told: Vec<&str> = page.lines().filter(of_interest).collect();
            assert!(begin.elapsed() < Duration::from_secs(40), "{what}: {told:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn raised(page: &str, summary: &str) -> bool {
    page.lines().any(|line| line.starts_with("evergreen_node_problem") && line.contains(&format!("\"{summary}\"")))
}

fn present<'a>(page: &'a str, source: &str) -> Option<&'a str> {
    let name = format!("\"{source}\"");
    let of = |line: &&str| line.contains("source_present") && line.contains(&name);
    page.lines().find(of)?.rsplit(' ').next()
}

#[test]
fn a_changed_file_is_taken_over_and_only_what_it_removes_disappears() {
    let mut agent = Agent::start(&rules(&[STAYS, GOES]));
    agent.log("shelf 7 gone");
    agent.log("fan slow");
    agent.until("both are raised", |page| raised(page, "shelf 7") && raised(page, "fan"));

    agent.rules("format: nonsense\n");
    agent.until("a wrong file is told", |page| present(page, "rules") == Some("0"));
    assert!(raised(&agent.page(), "shelf 7") && raised(&agent.page(), "fan"), "a wrong file changes nothing");

    agent.rules(&rules(&[STAYS, COMES]));
    let page = agent.until("the removed rule's problem goes", |page| !raised(page, "fan"));
    assert!(raised(&page, "shelf 7"), "what the rule raised that stays is untouched");
    agent.until("the right file is told", |page| present(page, "rules") == Some("1"));
    agent.log("lamp out");
    agent.log("fan slow");
    let page = agent.until("the new rule works", |page| raised(page, "lamp"));
    assert!(!raised(&page, "fan"), "the removed rule no longer does");

    // The rules that are left are what the next agent goes by.
    agent.restart();
    let page = agent.until("a killed agent's successor knows both", |page| raised(page, "lamp"));
    assert!(raised(&page, "shelf 7") && !raised(&page, "fan"));
}
