//! util-vserver's configuration tree as typed values.
//!
//! One value per file, a switch is a file that exists, a reference is a symbolic link. Unification reads:
//!
//! ```text
//! /etc/vservers/
//!   .defaults/
//!     vdirbase -> /vservers            where guests live whose `vdir` is missing
//!     apps/vunify/
//!       hash/NAME -> STORE             one store per filesystem
//!       exclude                        what is never unified
//!       pkgmgmt-ignore, pkgmgmt-force  what to do with package databases
//!   GUEST/
//!     vdir -> /vservers/GUEST          the guest's root directory
//!     apps/vunify/                     its existence marks the guest for unification
//!       hash/, exclude, pkgmgmt-*      in place of the defaults, each on its own
//!       refserver.XX -> ../../../GUEST its reference guests, in the order of these names
//! ```
//!
//! Running a guest reads more: [`CATALOGUE`] lists every setting, and those that have no effect here.
//!
//! Nothing here is written, and nothing inside a vdir is looked at. A value that is missing has a
//! default; a value that is there and makes no sense is an error that names its path. The old tool
//! skipped such values, and a mistyped link quietly left a filesystem without its store.
#![forbid(unsafe_code)]

pub mod capabilities;
mod catalogue;
mod error;
mod fstab;
mod init;
mod interfaces;
mod limits;
mod old_style;
mod references;
mod resources;
pub mod running;
mod settings;
mod tree;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

pub use catalogue::{CATALOGUE, Setting, Support};
pub use error::ConfigError;
pub use fstab::FstabEntry;
pub use init::{InitSettings, KillStep, Style, signal_number};
pub use interfaces::Interface;
pub use limits::{Limit, parse_limit};
pub use old_style::OldStyle;
pub use resources::{Device, IoPriority, Resources, TokenBucket};
pub use settings::{GuestSettings, Users, limits_in};
pub use tree::ConfigTree;

/// The settings of one guest that unification reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// The name of its directory in the tree.
    pub name: OsString,
    /// Its root directory: absolute, without symbolic links.
    pub vdir: PathBuf,
    /// The stores it may use, sorted by name, never empty: those of its own `apps/vunify/hash`
    /// where that directory exists, else the defaults.
    pub stores: Vec<StoreEntry>,
    /// Its exclude list: its own, else the default one; `None` means the built-in list.
    pub exclude: Option<PathBuf>,
    /// How its package databases are used.
    pub package_files: PackageFilePolicy,
}

/// How the package databases of a guest, which know its configuration files, are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PackageFilePolicy {
    /// They are excluded as far as databases are found; a guest without any is fine.
    #[default]
    Use,
    /// `pkgmgmt-ignore`: databases are not read.
    Ignore,
    /// `pkgmgmt-force`: a database that is missing or unreadable is an error.
    Require,
}

/// One entry of a `hash` directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// The entry in the configuration, most often a link.
    pub entry: PathBuf,
    /// The store that it leads to: absolute, without symbolic links.
    pub directory: PathBuf,
    /// The device of that directory (`st_dev`).
    pub device: u64,
    /// The inode number of that directory.
    pub inode: u64,
}
