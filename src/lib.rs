//! vhashify: identical files of many OS guests share one inode, and no guest can tell.
//!
//! # The map of the house
//!
//! A room takes only from rooms below it:
//!
//! ```text
//! cli
//! report
//! unify     verify
//! error
//! broker    index     scan
//! relink    store
//! identity
//! exclude   guest     outcome   protect
//! ─────────────────────────────────────
//! vhashify_config   vhashify_packages   vhashify_sys
//! ```
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`guest`] | one guest and one store on the host, and whether they may lie as they do |
//! | [`exclude`] | which paths of a guest are never unified: patterns, package managers' configuration files |
//! | [`scan`] | walks vdirs in parallel, yields files that may be unified |
//! | [`identity`] | what makes two files the same, and the proof that they are at this moment |
//! | [`store`] | objects on disk: names, lock, collection |
//! | [`index`] | what a run learned, so that the next one is quick |
//! | [`protect`] | what keeps a shared inode from being written |
//! | [`outcome`] | what a command did, skipped and failed to do, and how far it has come |
//! | [`relink`] | replaces the names of one file |
//! | [`broker`] | gives a running guest its private copy before it changes a shared file |
//! | [`unify`] | plan (pure), apply (system calls), deunify |
//! | [`verify`] | whether a store's objects hold what their names say |
//! | [`report`] | what guests cost, share and could share |
//! | [`cli`] | arguments, progress, results as text, exit statuses |
//! | [`error`] | the errors of all rooms, as one type: what stops a command |
//!
//! Below it stand [`vhashify_sys`] (raw calls, the only `unsafe`), [`vhashify_packages`] (what of a guest is
//! configuration) and [`vhashify_config`] (util-vserver's tree); above it `vserver`, which runs the guests.
//!
//! # How a file travels
//!
//! ```text
//! config ─▶ guest ─▶ scan ─▶ identity ─▶ unify::plan ─▶ unify::apply ─▶ index ─▶ report
//!                    names   lease, read    who links     relink, store,
//!                    stamps  (if needed)    what          protect
//! ```
//!
//! A run reads a file only if another guest, or the store, has one of the same size, owner, mode and mtime. It
//! holds a lease on the file from before the reading until a little after the replacement, so that it sees every
//! write that comes between the two. Where guests share extents and no inodes ([`protect`]), the run replaces
//! nothing: the filesystem compares the files and shares their blocks.
//!
//! `docs/how-it-works.md` has the formats on the disk, the invariants, and the order of a replacement.
#![forbid(unsafe_code)]

pub mod broker;
pub mod cli;
pub mod error;
pub mod exclude;
pub mod guest;
pub mod identity;
pub mod index;
pub mod outcome;
pub mod protect;
pub mod relink;
pub mod report;
pub mod scan;
pub mod store;
pub mod unify;
pub mod verify;

pub use error::Error;
