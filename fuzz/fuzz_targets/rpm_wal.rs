//! See `src/rpm_wal.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::rpm_wal::check(input));
