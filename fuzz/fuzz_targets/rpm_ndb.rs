//! See `src/rpm_ndb.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::rpm_ndb::check(input));
