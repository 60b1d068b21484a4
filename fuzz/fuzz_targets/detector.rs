#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergreen_fuzz::run("detector", data));
