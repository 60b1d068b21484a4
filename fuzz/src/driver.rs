//! Changes seeds at random and hands them to a target for a while. No engine is needed, so it runs wherever tests run;
//! what it finds is printed with the number that finds it again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::targets::Target;

/// Longest input.
const MAX_INPUT: usize = 1 << 20;
/// No input may keep a target for longer; a build without optimisation on a busy machine is allowed for.
const TOO_LONG: Duration = Duration::from_secs(20);
/// Memory that a run may take at most.
const MAX_MEMORY_KIB: u64 = 1 << 20;
/// Words that parsers trip over.
const WORDS: &[&[u8]] = &[
    b"-1",
    b"0",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"1e400",
    b"NaN",
    b"inf",
    b"\xff\xfe",
    b"\0",
    b"\xe5\xb8",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"'",
    b"\\x0a",
    b"\\u0000",
    b"\\",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!binary ",
    b"|\n",
    b"---\n",
    b"#",
    b"%",
    b"\t",
    b"[99999999999.999999] ",
    b"<999>",
    b"6,18446744073709551615,1,-;",
    b"(?:a{1000}){1000}",
    b"(?P<x>",
    b"BUG: ",
    b"Kernel panic - not syncing",
    b"@proc/stat",
    b"/../",
    b"99999999999999999999h",
    b"2026-13-45T99:99:99Z",
];

/// A small generator; the same number gives the same inputs everywhere.
pub struct Random(u64);

impl Random {
    /// One that begins with a number.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { usize::try_from(self.next() % limit as u64).unwrap_or(0) }
    }
}

/// The input of a number.
pub fn input(target: &Target, number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    if (number as usize) < target.seeds.len() {
        return target.seeds[number as usize].to_vec();
    }
    let mut data = target.seeds[random.below(target.seeds.len())].to_vec();
    if random.below(12) == 0 {
        // Nothing that anybody wrote.
        data = (0..random.below(4096)).map(|_| random.next() as u8).collect();
    }
    for _ in 0..1 + random.below(12) {
        change(&mut data, target, &mut random);
    }
    data.truncate(MAX_INPUT);
    data
}

fn change(data: &mut Vec<u8>, target: &Target, random: &mut Random) {
    let at = random.below(data.len() + 1);
    let end = (at + random.below(64)).min(data.len());
    match random.below(10) {
        0 if at < data.len() => data[at] = random.next() as u8,
        1 if at < data.len() => data[at] ^= 1 << random.below(8),
        2 => drop(data.drain(at..end)),
        3 => data.truncate(at),
        4 => {
            let piece = data[at..end].to_vec();
            let to = random.below(data.len() + 1);
            data.splice(to..to, piece);
        }
        5 => {
            // A piece of another seed.
            let other = target.seeds[random.below(target.seeds.len())];
            let from = random.below(other.len());
            let to = (from + random.below(400)).min(other.len());
            data.splice(at..end, other[from..to].iter().copied());
        }
        6 if random.below(16) == 0 => {
            // The same again and again, up to the longest input.
            let piece = if at < end { data[at..end].to_vec() } else { vec![b'['] };
            let room = MAX_INPUT.saturating_sub(data.len()) / piece.len();
            let times = [50, 5_000, room][random.below(3)].min(room);
            data.splice(at..at, piece.repeat(times));
        }
        7 if at < end && data[at..end].iter().any(u8::is_ascii_digit) => {
            for byte in data[at..end].iter_mut().filter(|byte| byte.is_ascii_digit()) {
                *byte = b'0' + random.below(10) as u8;
            }
        }
        _ => {
            let word = WORDS[random.below(WORDS.len())];
            data.splice(at..end, word.iter().copied());
        }
    }
}

/// Feeds a target for so long, from a number on, or with one number alone when no time is given.
///
/// # Panics
/// When the target does, with the number that does it; when it hangs or takes too much memory.
pub fn drive(target: &Target, first: u64, time: Option<Duration>) -> u64 {
    let begin = Instant::now();
    let mut number = first;
    loop {
        let data = input(target, number);
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&data)));
        let shown = String::from_utf8_lossy(&data[..data.len().min(300)]).into_owned();
        let again = format!("{} with the input of number {number} ({} bytes): {shown:?}", target.name, data.len());
        assert!(outcome.is_ok(), "a panic in {again}");
        assert!(started.elapsed() < TOO_LONG, "{:?} in {again}", started.elapsed());
        let memory = memory_kib();
        assert!(memory < MAX_MEMORY_KIB, "{memory} KiB of memory behind {again}");
        number += 1;
        if time.is_none_or(|time| begin.elapsed() >= time) {
            return number - first;
        }
    }
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    peak.unwrap_or(0)
}
