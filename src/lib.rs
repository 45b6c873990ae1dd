//! vhashify: identical files of many OS guests share one inode, and no guest can tell.
//!
//! # The map of the house
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`config`] | the `/etc/vservers` tree as typed values |
//! | [`guest`] | one guest and one store on the host, and whether they may lie as they do |
//! | [`exclude`] | what is never unified: patterns, package managers' configuration files |
//! | [`scan`] | walks vdirs in parallel, yields files that may be unified |
//! | [`identity`] | what makes two files the same |
//! | [`unify`] | plan (pure), apply (system calls), deunify |
//! | [`store`] | objects on disk: names, links, collection, verification |
//! | [`protect`] | what keeps a shared inode from being written |
//! | [`cow`] | gives a guest its private copy |
//! | [`index`] | what a run learned, so that the next one is quick |
//! | [`context`] | what isolates a running guest: specification, capabilities, calls, cgroup, network |
//! | [`lifecycle`] | start, watch, enter and stop a guest |
//! | [`report`] | what was done, and what guests cost |
//! | [`cli`] | arguments, progress, tables, exit codes |
//! | [`sys`] | the few raw calls; the only place with `unsafe` |
//! | [`error`], [`display`] | what stops a command; any path on one line |
//!
//! # How a file travels
//!
//! ```text
//! config ─▶ guest ─▶ scan ─▶ identity ─▶ unify::plan ─▶ unify::apply ─▶ index ─▶ report
//!                    names   lease, read    who links     store, protect,
//!                    stamps  (if needed)    what          exchange, undo
//! ```
//!
//! A file is read only if another guest, or the store, has one of the same size, owner, mode and
//! mtime. It is read under a lease that is given back a little after the file was replaced, so that
//! no write can come between the reading and the replacement without being seen. Where guests share
//! extents and no inodes ([`protect`]), nothing is replaced: the filesystem compares and shares.

pub mod cli;
pub mod config;
pub mod context;
pub mod cow;
pub mod display;
pub mod error;
pub mod exclude;
pub mod guest;
pub mod identity;
pub mod index;
pub mod lifecycle;
pub mod protect;
pub mod report;
pub mod scan;
pub mod store;
pub mod sys;
pub mod unify;

pub use error::Error;
