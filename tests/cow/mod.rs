//! Copy on write: a guest gets its private copy of what it shares, before it writes.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`beside`] | breaks beside `deunify` and runs, and beside what those left that were killed |
//! | [`broker`] | calls that wait for it, in a thread of this program |
//! | [`charged`] | walks at the guest's cost |
//! | [`quota`] | quotas of the filesystems |
//! | [`engine`] | one break: content, metadata, link groups, crashes, full disks, runs beside it |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod beside;
mod broker;
mod charged;
mod engine;
mod quota;
