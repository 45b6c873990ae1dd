//! What `vhashify report` says, and whether it is true: numbers against cases that are known, and
//! the page as a real browser shows it.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`numbers`] | what is saved, what is not and why, how runs went |
//! | [`memory`] | what the page cache has |
//! | [`old_copies`] | processes that map what was replaced |
//! | [`page`] | the page: escaped, well-formed, alone, readable on any screen |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod memory;
mod numbers;
mod old_copies;
mod page;
