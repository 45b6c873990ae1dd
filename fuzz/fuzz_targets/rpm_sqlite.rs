//! See `src/rpm_sqlite.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::rpm_sqlite::check(input));
