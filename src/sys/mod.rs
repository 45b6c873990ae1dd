//! The few raw calls that the rest of the house stands on, each in a file of its own.
//!
//! This is the only place where `unsafe` is allowed: [`lease`] calls `fcntl`, [`dedupe`],
//! [`extent_map`] and [`verity`] call `ioctl` with commands that no crate wraps, and [`mapping`] maps a
//! file that a lease holds still. Everything else here is a thin, safe and *descriptor-relative* way to do one
//! thing, so that no caller is tempted to resolve a guest's path as a string.
#![allow(unsafe_code)]

pub mod beneath;
pub mod dedupe;
pub mod extent_map;
pub mod fault;
pub mod flags;
pub mod lease;
pub mod mapping;
pub mod stamp;
pub mod verity;
