//! See `src/rpm_bdb.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::rpm_bdb::check(input));
