//! See `src/index_rows.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vhashify_fuzz::index_rows::check(input));
