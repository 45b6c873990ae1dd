//! What can be wrong with the configuration tree. Each message is one line and says what to do.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;
use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The top of the tree is missing, is no directory, or may not be read.
    #[error(
        "the configuration directory {} cannot be read: {}; correct that, or name another one with --config-dir or VSERVER_CONFDIR",
        Shown::path(path),
        reason(source)
    )]
    Directory {
        /// The top of the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something below the top cannot be read.
    #[error(
        "the configuration {} cannot be read: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, or a link to one, is expected here.
    #[error(
        "{0} is not a directory; replace it by a directory or by a link to one (ln -sfn DIRECTORY {0})",
        Shown::path(path)
    )]
    NotDirectory {
        /// What is no directory.
        path: PathBuf,
    },
    /// A list, one value a line, is expected here.
    #[error(
        "{} is not a file; replace it by a text file, or remove it to have the default",
        Shown::path(path)
    )]
    NotFile {
        /// What is no file.
        path: PathBuf,
    },
    /// A link leads nowhere.
    #[error(
        "{0} is a link to {1}, where nothing is; correct it (ln -sfn TARGET {0})",
        Shown::path(link),
        Shown::path(target)
    )]
    Dangling {
        /// The link.
        link: PathBuf,
        /// What it points to, as an absolute path.
        target: PathBuf,
    },
    /// An entry of a `hash` directory leads nowhere.
    #[error(
        "the store {0} is a link to {1}, where nothing is; make the store (mkdir -p {1}) or correct the link (ln -sfn STORE {0})",
        Shown::path(entry),
        Shown::path(target)
    )]
    DanglingStore {
        /// The entry.
        entry: PathBuf,
        /// What it points to, as an absolute path.
        target: PathBuf,
    },
    /// Two entries of one `hash` directory are on one filesystem.
    #[error("the stores {} and {second} are on one filesystem, which takes one store; remove one of the two entries (rm {second})", Shown::path(first), second = Shown::path(second))]
    StoresOnOneDevice {
        /// The entry that comes first by name.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A `hash` directory is missing or empty.
    #[error(
        "no store is configured in {0}; link one from the filesystem of the guests (mkdir -p {0} && ln -s STORE {0}/root)",
        Shown::path(path)
    )]
    NoStore {
        /// The `hash` directory.
        path: PathBuf,
    },
    /// This cannot be the name of a guest.
    #[error("{:?} is not a guest's name: {reason}; name a directory of {}", Shown::bytes(name.as_bytes()).to_string(), Shown::path(tree))]
    InvalidName {
        /// The name.
        name: OsString,
        /// The top of the tree.
        tree: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no guest of that name.
    #[error("there is no guest {}: {path} does not exist; correct the name, or configure the guest (mkdir {path})", Shown::bytes(name.as_bytes()), path = Shown::path(path))]
    UnknownGuest {
        /// The name.
        name: OsString,
        /// Where its configuration would be.
        path: PathBuf,
    },
    /// The guest exists and is not to be unified.
    #[error("the guest {} is not marked for unification; mark it (mkdir -p {})", Shown::bytes(name.as_bytes()), Shown::path(path))]
    NotMarked {
        /// The guest.
        name: OsString,
        /// The directory that would mark it.
        path: PathBuf,
    },
    /// A `refserver.*` leads to what is no guest of this tree.
    #[error("the reference guest {} leads to {}, which is no guest of {tree}; link the directory of one (ln -sfn {tree}/GUEST {})", Shown::path(entry), Shown::path(directory), Shown::path(entry), tree = Shown::path(tree))]
    NoReference {
        /// The link.
        entry: PathBuf,
        /// Where it leads, an absolute path without symbolic links.
        directory: PathBuf,
        /// The top of the tree.
        tree: PathBuf,
    },
    /// A `refserver.*` leads to the guest itself.
    #[error(
        "the reference guest {0} is the guest itself; remove it (rm {0}), or link the directory of another guest (ln -sfn DIRECTORY {0})",
        Shown::path(entry)
    )]
    ReferenceItself {
        /// The link.
        entry: PathBuf,
    },
    /// A value that means nothing.
    #[error("{}: {reason}", Shown::path(path))]
    Value {
        /// The file that holds it.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The guest has no root directory.
    #[error("the guest {} has no root directory: there is neither {link} nor {}; link it (ln -s DIRECTORY {link})", Shown::bytes(name.as_bytes()), Shown::path(default), link = Shown::path(link))]
    NoVdir {
        /// The guest.
        name: OsString,
        /// Its `vdir`.
        link: PathBuf,
        /// Where its root directory is looked for without one.
        default: PathBuf,
    },
}
