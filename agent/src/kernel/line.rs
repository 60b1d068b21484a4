//! What a line of a kernel log says, without what surrounds it: record headers, time stamps, levels, caller ids, syslog
//! headers. Pure; any bytes are accepted.

use clap::ValueEnum;

/// Longest part of a line that is looked at; kernel messages are at most about 1 KiB, so the rest is no message.
pub const MAX_LINE: usize = 4096;
/// Messages that one console line may hold when writers got in each other's way.
const MAX_PIECES: usize = 16;
/// Prefixes that one message may carry, one after the other.
const MAX_PREFIXES: usize = 8;

/// How the lines of a log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Decide line by line.
    #[default]
    Auto,
    /// Records of /dev/kmsg: `prio,seq,usec,flags;text`.
    Kmsg,
    /// Output of dmesg or of a console: `[  12.345] text`, `<6>[  12.345][  T12] text`, ISO or calendar time.
    Dmesg,
    /// Lines of a syslog daemon or of journalctl; only what the kernel said counts.
    Syslog,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message<'a> {
    /// What was said.
    pub text: &'a [u8],
    /// Seconds on the clock of this log; only differences within one log mean anything.
    pub clock: Option<f64>,
    /// The time as the source told it: kernel seconds or a date; empty when it told none.
    pub at: &'a [u8],
    /// Whether the kernel said it, rather than a program whose lines share the log.
    pub from_kernel: bool,
    /// Sequence number of a kmsg record.
    pub sequence: Option<u64>,
}

/// Splits a line into its messages; most have one.
pub fn messages(line: &[u8], format: Format) -> Vec<Message<'_>> {
    let line = &line[..line.len().min(MAX_LINE)];
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if matches!(format, Format::Auto | Format::Kmsg)
        && let Some(message) = kmsg_record(line)
    {
        return vec![message];
    }
    let mut pieces = Vec::with_capacity(1);
    let mut rest = line;
    while pieces.len() < MAX_PIECES {
        let mut message = without_prefixes(rest, format);
        let offset = rest.len() - message.text.len();
        match next_stamp(message.text) {
            Some(cut) if pieces.len() + 1 < MAX_PIECES => {
                message.text = trim(&message.text[..cut]);
                rest = &rest[offset + cut..];
                if !message.text.is_empty() {
                    pieces.push(message);
                }
            }
            _ => {
                message.text = trim(message.text);
                pieces.push(message);
                break;
            }
        }
    }
    pieces
}

fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// `6,3964,206764307,-;text`; the record's dictionary lines begin with a blank and are no records.
fn kmsg_record(line: &[u8]) -> Option<Message<'_>> {
    let end = line.iter().take(128).position(|b| *b == b';')?;
    let header = std::str::from_utf8(&line[..end]).ok()?;
    let mut fields = header.split(',');
    let _priority: u32 = fields.next()?.parse().ok()?;
    let sequence: u64 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.next()?.parse().ok()?;
    fields.next()?;
    let start = header.match_indices(',').nth(1)?.0 + 1;
    let at = &line[start..start + header[start..].find(',')?];
    // The text may carry a dmesg-like stamp of its own when it was written by a program; keep what is behind it.
    Some(Message {
        text: trim(&line[end + 1..]),
        clock: Some(micros as f64 / 1e6),
        at,
        from_kernel: true,
        sequence: Some(sequence),
    })
}

fn without_prefixes(line: &[u8], format: Format) -> Message<'_> {
    let mut message = Message { text: line, clock: None, at: b"", from_kernel: true, sequence: None };
    for _ in 0..MAX_PREFIXES {
        let text = message.text.trim_ascii_start();
        message.text = text;
        let prefix =
            level(text).or_else(|| caller(text)).or_else(|| decoded_level(text)).or_else(|| login_prompt(text));
        if let Some(rest) = prefix {
            message.text = rest;
        } else if let Some((seconds, at, rest)) = kernel_stamp(text) {
            message.clock = Some(seconds);
            message.at = at;
            message.text = rest;
        } else if let Some((seconds, at, rest)) = calendar_stamp(text) {
            message.clock = Some(seconds);
            message.at = at;
            message.text = rest;
        } else if let Some((date, rest)) = log_date(text) {
            message.clock = message.clock.or(date.seconds);
            message.at = if message.at.is_empty() { date.text } else { message.at };
            message.text = rest;
            if date.from_dmesg && format != Format::Syslog {
                continue;
            }
            if let Some((from_kernel, rest)) = syslog_origin(rest) {
                message.from_kernel &= from_kernel;
                message.text = rest;
            }
        } else {
            break;
        }
    }
    message
}

/// `<6>` or `<30>`.
fn level(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"<")?;
    let digits = inner.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    (digits > 0 && inner.get(digits) == Some(&b'>')).then(|| &inner[digits + 1..])
}

/// `[  T123]` or `[    C0]` behind a time stamp.
fn caller(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"[")?.trim_ascii_start();
    let rest = inner.strip_prefix(b"T").or_else(|| inner.strip_prefix(b"C"))?;
    let digits = rest.iter().take(10).take_while(|b| b.is_ascii_digit()).count();
    (digits > 0 && rest.get(digits) == Some(&b']')).then(|| &rest[digits + 1..])
}

/// `kern  :warn  : ` of `dmesg --decode`.
fn decoded_level(text: &[u8]) -> Option<&[u8]> {
    const FACILITIES: [&[u8]; 6] = [b"kern", b"user", b"daemon", b"auth", b"syslog", b"local"];
    const LEVELS: [&[u8]; 8] = [b"emerg", b"alert", b"crit", b"err", b"warn", b"notice", b"info", b"debug"];
    let rest = FACILITIES.iter().find_map(|facility| text.strip_prefix(*facility))?;
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    let rest = LEVELS.iter().find_map(|level| rest.strip_prefix(*level))?;
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    Some(rest)
}

/// `HOST login: ` that a serial console shows in front of the message that came next.
fn login_prompt(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().take(64).position(|b| *b == b' ')?;
    text[end + 1..].strip_prefix(b"login: ")
}

/// `[   12.345678]`, with the caller id of some vendors' kernels behind the number left alone.
fn kernel_stamp(text: &[u8]) -> Option<(f64, &[u8], &[u8])> {
    let inner = text.strip_prefix(b"[")?.trim_ascii_start();
    let whole = inner.iter().take(12).take_while(|b| b.is_ascii_digit()).count();
    if whole == 0 || inner.get(whole) != Some(&b'.') {
        return None;
    }
    let fraction = inner[whole + 1..].iter().take(9).take_while(|b| b.is_ascii_digit()).count();
    let end = whole + 1 + fraction;
    if fraction < 2 || inner.get(end) != Some(&b']') {
        return None;
    }
    let seconds = std::str::from_utf8(&inner[..end]).ok()?.parse().ok()?;
    Some((seconds, &inner[..end], &inner[end + 1..]))
}

/// Where, inside a message, another one begins because two writers shared the console.
fn next_stamp(text: &[u8]) -> Option<usize> {
    (1..text.len()).filter(|at| text[*at] == b'[').find(|at| {
        kernel_stamp(&text[*at..]).is_some_and(|(_, stamp, _)| stamp.len() >= 8 && stamp[stamp.len() - 7] == b'.')
    })
}

/// `[Sun Feb 23 16:24:18 2025]` of `dmesg -T`.
fn calendar_stamp(text: &[u8]) -> Option<(f64, &[u8], &[u8])> {
    let inner = text.strip_prefix(b"[")?;
    let end = inner.iter().take(28).position(|b| *b == b']')?;
    let stamp = std::str::from_utf8(&inner[..end]).ok()?;
    let mut words = stamp.split_ascii_whitespace();
    let (_weekday, month, day, clock) = (words.next()?, words.next()?, words.next()?, words.next()?);
    words.next()?;
    Some((day_seconds(month, day, clock)?, &inner[..end], &inner[end + 1..]))
}

struct LogDate<'a> {
    seconds: Option<f64>,
    text: &'a [u8],
    /// `dmesg --time-format iso` puts a comma before the fraction and no host behind the date.
    from_dmesg: bool,
}

/// `Nov  3 10:00:00 ` or `2025-01-21T04:41:44.283302+00:00 `.
fn log_date(text: &[u8]) -> Option<(LogDate<'_>, &[u8])> {
    if text.len() > 20
        && text[0].is_ascii_digit()
        && text[4] == b'-'
        && text[7] == b'-'
        && matches!(text[10], b'T' | b' ')
    {
        let end = 11 + text[11..].iter().position(|b| *b == b' ')?;
        let stamp = std::str::from_utf8(&text[..end]).ok()?;
        let day: f64 = stamp.get(8..10)?.parse().ok()?;
        let seconds = clock_seconds(stamp.get(11..19)?)?;
        let from_dmesg = stamp.contains(',');
        return Some((
            LogDate { seconds: Some(day * 86_400.0 + seconds), text: &text[..end], from_dmesg },
            &text[end..],
        ));
    }
    // Three letters, day, clock.
    let head = std::str::from_utf8(text.get(..text.len().min(32))?).ok().or_else(|| {
        let valid = text.iter().take(32).take_while(|b| b.is_ascii()).count();
        std::str::from_utf8(&text[..valid]).ok()
    })?;
    let (month, rest) = head.split_once(' ')?;
    let rest = rest.trim_start();
    let (day, rest) = rest.split_once(' ')?;
    let rest = rest.trim_start();
    let clock = rest.get(..8)?;
    let seconds = day_seconds(month, day, clock)?;
    let end = head.len() - rest.len() + 8;
    // Some daemons add the year or a fraction.
    let extra = text[end..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    let end = end + extra;
    Some((LogDate { seconds: Some(seconds), text: &text[..end], from_dmesg: false }, &text[end..]))
}

fn day_seconds(month: &str, day: &str, clock: &str) -> Option<f64> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))?;
    let day: u32 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    Some(f64::from(day + 31 * u32::try_from(month).ok()?) * 86_400.0 + clock_seconds(clock)?)
}

fn clock_seconds(clock: &str) -> Option<f64> {
    let mut parts = clock.splitn(3, ':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let parse = |text: &str| text.parse::<u32>().ok();
    Some(f64::from(parse(hours)? * 3600 + parse(minutes)? * 60 + parse(seconds)?))
}

/// `host kernel: `, `host app[12]: `, `host kern.err kernel: `: whether the kernel spoke, and what follows.
fn syslog_origin(text: &[u8]) -> Option<(bool, &[u8])> {
    let text = text.trim_ascii_start();
    let mut at = 0;
    // Host, perhaps facility.level, then the tag that ends with a colon.
    for word in 0..3 {
        let rest = &text[at..];
        let end = rest.iter().take(128).position(|b| *b == b' ').unwrap_or(rest.len());
        let token = &rest[..end];
        if token.is_empty() {
            return None;
        }
        if let Some(tag) = token.strip_suffix(b":")
            && is_tag(tag)
        {
            let name = tag.split(|b| *b == b'[').next().unwrap_or(tag);
            return Some((name.eq_ignore_ascii_case(b"kernel"), &rest[end..]));
        }
        if word == 2 || end >= rest.len() {
            return None;
        }
        at += end + 1;
        at += text[at..].iter().take_while(|b| **b == b' ').count();
    }
    None
}

fn is_tag(tag: &[u8]) -> bool {
    !tag.is_empty()
        && tag.iter().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-' | b'[' | b']' | b'@' | b'(' | b')')
        })
}

/// Undoes the escapes of /dev/kmsg (`\x0a`) so that a record of several lines becomes several lines.
pub fn unescape(record: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(record.len());
    let mut at = 0;
    while at < record.len() {
        let escaped = record
            .get(at..at + 4)
            .filter(|window| window.starts_with(b"\\x"))
            .and_then(|window| std::str::from_utf8(&window[2..]).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                text.push(byte);
                at += 4;
            }
            None => {
                text.push(record[at]);
                at += 1;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        messages(line.as_bytes(), Format::Auto)
            .into_iter()
            .map(|message| {
                format!("{}{}", if message.from_kernel { "" } else { "!" }, String::from_utf8_lossy(message.text))
            })
            .collect()
    }

    #[test]
    fn every_known_prefix_is_taken_off() {
        for line in [
            "BUG: x",
            "[   12.345678] BUG: x",
            "[   12.345678][  T123] BUG: x",
            "<6>[   12.345678] BUG: x",
            "6,3964,206764307,-;BUG: x",
            "4,12,99,-,caller=T1;BUG: x",
            "[Sun Feb 23 16:24:18 2025] BUG: x",
            "kern  :warn  : 2025-01-21T04:41:44,283302+00:00 BUG: x",
            "Nov  3 10:00:00 node-1 kernel: [   12.345678] BUG: x",
            "Nov 13 10:00:00 node-1 kernel: BUG: x",
            "2025-01-21T04:41:44.283302+00:00 node-1 kernel: BUG: x",
            "<4>Nov  3 10:00:00 node-1 kernel: BUG: x",
            "node-1 login: BUG: x",
            "Sep 23 02:31:17 node-1 kern.err kernel: [   68.938106][ T2742] BUG: x",
        ] {
            assert_eq!(texts(line), ["BUG: x"], "{line}");
        }
    }

    #[test]
    fn what_a_program_says_is_not_what_the_kernel_says() {
        assert_eq!(texts("Nov  3 10:00:00 node-1 app[12]: BUG: x"), ["!BUG: x"]);
        assert_eq!(texts("2025-01-21T04:41:44.283302+00:00 node-1 app: BUG: x"), ["!BUG: x"]);
    }

    #[test]
    fn a_device_is_no_syslog_tag_in_dmesg_with_iso_time() {
        assert_eq!(
            texts("2025-01-21T04:41:44,283302+00:00 nvme nvme0: Device not ready"),
            ["nvme nvme0: Device not ready"]
        );
    }

    #[test]
    fn two_messages_on_one_console_line_are_two_messages() {
        assert_eq!(
            texts("[ 1117.129650] trusty: panic (caller [ 1117.140866] trusty: halt"),
            ["trusty: panic (caller", "trusty: halt"]
        );
    }

    #[test]
    fn kernel_addresses_in_brackets_are_no_time_stamps() {
        assert_eq!(texts("[   12.345678]  [<ffffffff81512d45>] ? f+0x1/0x2"), ["[<ffffffff81512d45>] ? f+0x1/0x2"]);
    }

    #[test]
    fn escapes_become_bytes() {
        assert_eq!(unescape(br"a\x0ab\x5cx"), b"a\nb\\x");
        assert_eq!(unescape(br"a\xzz\x0"), br"a\xzz\x0");
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_without_panic(line in proptest::collection::vec(any::<u8>(), 0..600)) {
            for format in [Format::Auto, Format::Kmsg, Format::Dmesg, Format::Syslog] {
                prop_assert!(messages(&line, format).len() <= MAX_PIECES);
            }
            let _ = unescape(&line);
        }

        #[test]
        fn any_text_behind_a_kernel_stamp_is_found(text in "[A-Za-z][A-Za-z :/_-]{0,80}") {
            let line = format!("[  12.345678] {text}");
            let found = messages(line.as_bytes(), Format::Dmesg);
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].clock, Some(12.345678));
        }
    }
}
