//! See `src/apk.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::apk::check(input));
