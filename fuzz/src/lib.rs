//! What the parsers of hostile input promise: a module for each target of `fuzz_targets/`, which libFuzzer
//! drives. The seeds and some variations of them are tried by `tests/parsers.rs`, too, which takes these
//! modules as they are.

pub mod apk;
mod common;
pub mod dpkg;
pub mod index_rows;
pub mod object_names;
pub mod pacman;
pub mod patterns;
pub mod rpm_bdb;
pub mod rpm_header;
pub mod rpm_ndb;
pub mod rpm_sqlite;
pub mod rpm_wal;
pub mod rules;
