#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergreen_fuzz::run("monitor_lines", data));
