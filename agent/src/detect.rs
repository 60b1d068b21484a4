//! `evergreen-agent detect`: a log on standard input, one JSON object a problem on standard output.

use std::{
    io::{BufRead, Read, Write},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use evergreen_api::Detection;

use crate::{
    kernel::{
        Detector, Format, RuleSet,
        detector::News,
        line::{MAX_LINE, messages},
    },
    npd::{config::LogPlugin, files::Hits, monitor::Monitor},
    rules::Rulebook,
};

/// Lines that wait between the reader and the detector.
const QUEUE: usize = 1024;
/// A log that is followed live is taken to pause after this long; what was found by then is told.
const PAUSE: Duration = Duration::from_secs(2);

/// Reads one line of at most [`MAX_LINE`] bytes into `line`; the rest of a longer one is dropped. False at the end.
///
/// # Errors
/// When the reader fails.
pub fn read_bounded_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut some = false;
    loop {
        let (used, done) = {
            let buffer = reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(some);
            }
            some = true;
            let (end, done) = match buffer.iter().position(|b| *b == b'\n') {
                Some(end) => (end, true),
                None => (buffer.len(), false),
            };
            let room = MAX_LINE.saturating_sub(line.len());
            line.extend_from_slice(&buffer[..end.min(room)]);
            (end + usize::from(done), done)
        };
        reader.consume(used);
        if done {
            return Ok(true);
        }
    }
}

/// Detects problems in a log until it ends, and writes each as one line of JSON.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn run(
    input: impl Read + Send + 'static,
    output: &mut impl Write,
    format: Format,
    rules: Arc<RuleSet>,
) -> anyhow::Result<u64> {
    run_with(input, output, format, &Rulebook::of(rules, Vec::new()))
}

/// As [`run`], with all rules that speak of the kernel log.
///
/// # Errors
/// As there.
pub fn run_with(
    input: impl Read + Send + 'static,
    output: &mut impl Write,
    format: Format,
    book: &Rulebook,
) -> anyhow::Result<u64> {
    let (lines, incoming) = mpsc::sync_channel::<std::io::Result<Vec<u8>>>(QUEUE);
    let reader = thread::Builder::new().name("log-reader".into()).spawn(move || {
        let mut reader = std::io::BufReader::with_capacity(1 << 16, input);
        let mut line = Vec::new();
        loop {
            let next = match read_bounded_line(&mut reader, &mut line) {
                Ok(true) => Ok(line.clone()),
                Ok(false) => break,
                Err(error) => Err(error),
            };
            let failed = next.is_err();
            if lines.send(next).is_err() || failed {
                break;
            }
        }
    })?;
    let mut detector = Detector::new(Arc::clone(&book.kernel));
    let of_kernel = book.logs.iter().filter(|log| log.plugin == LogPlugin::Kmsg);
    let mut monitors: Vec<Monitor> = of_kernel.map(|log| Monitor::new(Arc::clone(log))).collect();
    let mut hits = Hits::default();
    let mut found = 0;
    loop {
        match incoming.recv_timeout(PAUSE) {
            Ok(line) => {
                let line = line?;
                for message in messages(&line, format) {
                    found += write_closed(detector.push(&message), output)?;
                    if monitors.is_empty() || !message.from_kernel || message.text.is_empty() {
                        continue;
                    }
                    let at = String::from_utf8_lossy(message.at);
                    monitors.iter_mut().for_each(|m| m.push(message.text, &at, |sighting| hits.add(sighting)));
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                found += write_closed(detector.close_all(), output)?;
                found += write_hits(&mut hits, output)?;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    found += write_closed(detector.close_all(), output)?;
    found += write_hits(&mut hits, output)?;
    // The reader ended: it was what closed the channel.
    let _ = reader.join();
    Ok(found)
}

fn write_hits(hits: &mut Hits, output: &mut impl Write) -> anyhow::Result<u64> {
    let found: Vec<Detection> = hits.take().into_iter().map(|sighting| sighting.detection).collect();
    write_all(&found, output)
}

fn write_closed(news: Vec<News>, output: &mut impl Write) -> anyhow::Result<u64> {
    let closed: Vec<Detection> = news
        .into_iter()
        .filter_map(|news| match news {
            News::Closed(report) => Some(report.detection),
            _ => None,
        })
        .collect();
    write_all(&closed, output)
}

fn write_all(found: &[Detection], output: &mut impl Write) -> anyhow::Result<u64> {
    for detection in found {
        serde_json::to_writer(&mut *output, detection)?;
        output.write_all(b"\n")?;
    }
    output.flush()?;
    Ok(found.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn detect(log: Vec<u8>) -> Vec<Detection> {
        let mut output = Vec::new();
        run(Cursor::new(log), &mut output, Format::Auto, Arc::new(RuleSet::built_in())).unwrap();
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_problem_becomes_one_line_of_json() {
        let found = detect(b"[ 1.000001] EXT4-fs (sda1): Remounting filesystem read-only\n".to_vec());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].kind, evergreen_api::ProblemKind::FilesystemReadOnly);
    }

    #[test]
    fn endless_lines_and_garbage_around_a_problem_do_not_hide_it() {
        let mut log = vec![b'x'; 1 << 20];
        log.extend_from_slice(b"\n\xff\xfe\x00garbage\n[ 1.000001] Kernel panic - not syncing: x\n");
        log.extend(std::iter::repeat_n(0xff_u8, 1 << 20));
        assert_eq!(detect(log).len(), 1);
    }

    #[test]
    fn a_log_without_problems_prints_nothing() {
        assert!(detect(b"[ 1.000001] usb 1-1: new high-speed USB device\n\n".to_vec()).is_empty());
        assert!(detect(Vec::new()).is_empty());
    }
}
