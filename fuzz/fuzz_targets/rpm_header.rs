//! See `src/rpm_header.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::rpm_header::check(input));
