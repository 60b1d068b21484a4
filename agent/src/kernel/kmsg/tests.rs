use std::{fs::OpenOptions, io::Write};

use super::*;
use crate::kernel::ring::{Ring, RingReader};

fn read_all(log: &mut KernelLog) -> Vec<String> {
    let mut seen = Vec::new();
    // Opening, reading and noticing a rotation are steps of their own.
    for _ in 0..3 {
        log.read(|message| seen.push(String::from_utf8_lossy(message.text).into_owned())).unwrap();
    }
    seen
}

fn append_to(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_file_is_followed_from_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kmsg");
    append_to(&path, "6,1,1,-;old\n");
    let mut log = KernelLog::new(&path, "b", None);
    assert!(read_all(&mut log).is_empty());
    append_to(&path, "6,2,2,-;new\n SUBSYSTEM=pci\n6,3,3,-;two\\x0alines\n6,4,4,-;cut");
    assert_eq!(read_all(&mut log), ["new", "SUBSYSTEM=pci", "two", "lines"]);
    append_to(&path, " in two\n");
    assert_eq!(read_all(&mut log), ["cut in two"]);
}

#[test]
fn a_restart_goes_on_where_the_last_agent_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kmsg");
    append_to(&path, "6,1,1,-;old\n");
    let mut log = KernelLog::new(&path, "b", None);
    assert!(read_all(&mut log).is_empty());
    let kept = log.position().clone();
    append_to(&path, "6,2,2,-;while nobody read\n");
    assert_eq!(read_all(&mut KernelLog::new(&path, "b", Some(kept))), ["while nobody read"]);
}

#[test]
fn a_file_that_is_cut_or_replaced_is_read_from_its_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kmsg");
    append_to(&path, "6,1,1,-;a long enough first line\n");
    let mut log = KernelLog::new(&path, "b", None);
    read_all(&mut log);
    std::fs::write(&path, "6,2,2,-;cut\n").unwrap();
    assert_eq!(read_all(&mut log), ["cut"]);
    std::fs::rename(&path, directory.path().join("kmsg.1")).unwrap();
    append_to(&path, "6,3,3,-;replaced, and longer than before\n");
    assert_eq!(read_all(&mut log), ["replaced, and longer than before"]);
    assert_eq!(log.losses().rotations, 2);
}

#[test]
fn a_log_that_is_not_there_is_an_error_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kmsg");
    let mut log =
        KernelLog::new(&path, "b", Some(Position { boot_id: "b".into(), file: Some((0, 0)), ..Default::default() }));
    assert!(log.read(|_| ()).is_err());
    append_to(&path, "6,1,1,-;there\n");
    assert_eq!(read_all(&mut log), ["there"]);
}

#[test]
fn a_position_of_another_boot_starts_over() {
    let kept = Position { boot_id: "a".into(), next_sequence: Some(900), ..Position::default() };
    assert_eq!(KernelLog::new(Path::new("/x"), "b", Some(kept)).position().next_sequence, Some(0));
}

#[test]
fn records_that_come_between_two_agents_are_news_even_when_the_first_saw_none() {
    let ring = Ring::new(16);
    ring.write("old");
    let reader = ring.clone();
    let open = move || Ok(Box::new(reader.reader()) as Box<dyn Records>);
    let mut log = KernelLog::of_records("b", None, open.clone());
    assert!(read_all(&mut log).is_empty());
    let kept = log.position().clone();
    assert_eq!(kept.next_sequence, Some(1));
    ring.write("while nobody read");
    assert_eq!(read_all(&mut KernelLog::of_records("b", Some(kept), open)), ["while nobody read"]);
}

#[test]
fn a_log_that_fails_is_opened_again_where_it_was() {
    struct Failing(RingReader, bool);
    impl Records for Failing {
        fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
            if self.1 { Err(io::ErrorKind::ConnectionReset.into()) } else { self.0.wait(at_most) }
        }
        fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.take(buffer)
        }
    }
    let ring = Ring::new(16);
    let (reader, mut opened) = (ring.clone(), 0);
    let mut log = KernelLog::of_records("b", None, move || {
        opened += 1;
        Ok(Box::new(Failing(reader.reader(), opened == 2)))
    });
    assert!(read_all(&mut log).is_empty());
    ring.write("one");
    assert_eq!(read_all(&mut log), ["one"]);
    log.log = None;
    assert!(log.read(|_| ()).is_err());
    ring.write("two");
    assert_eq!(read_all(&mut log), ["two"]);
}

#[test]
fn without_the_device_the_journal_and_syslog_are_tried_and_each_reason_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = KernelLog::of_node(directory.path(), "b", None);
    let reason = log.read(|_| ()).unwrap_err().to_string();
    assert!(reason.contains("the journal: there is no journal") && reason.contains("/proc/kmsg: "), "{reason}");
    std::fs::create_dir_all(directory.path().join("proc")).unwrap();
    std::fs::write(directory.path().join("proc/kmsg"), "<4>[    1.500000] told by syslog\n").unwrap();
    assert_eq!(read_all(&mut log), ["told by syslog"]);
    assert_eq!(log.origin(), Some(Origin::Syslog));
}
