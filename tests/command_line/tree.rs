//! A configuration tree, with the commands of the README: directories and links.
#![allow(dead_code)] // `tests/report` uses a part of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use vhashify_testkit::program::{json, vhashify};
use vhashify_testkit::snapshot::{Content, Snapshot};

/// ```text
/// PLACE/conf      the configuration tree
/// PLACE/state     the indexes
/// PLACE/hash      the store, linked as the default
/// PLACE/NAME      the guests
/// ```
pub struct Tree {
    pub place: PathBuf,
}

impl Tree {
    /// A tree with a default store and no guest.
    pub fn new(place: &Path) -> Self {
        let this = Self {
            place: place.to_path_buf(),
        };
        fs::create_dir_all(this.store()).unwrap();
        this.link(".defaults/apps/vunify/hash/root", &this.store());
        this
    }

    pub fn store(&self) -> PathBuf {
        self.place.join("hash")
    }

    pub fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    /// A path in the tree.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.place.join("conf").join(name)
    }

    /// Puts a link into the tree.
    pub fn link(&self, name: impl AsRef<Path>, target: &Path) {
        let link = self.at(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }

    /// Puts a file into the tree.
    pub fn value(&self, name: &str, text: &str) {
        let file = self.at(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Marks a guest for unification, and no more.
    pub fn mark(&self, name: impl AsRef<Path>) {
        fs::create_dir_all(self.at(name).join("apps/vunify")).unwrap();
    }

    /// A marked guest with a root directory of its own name; returns that.
    pub fn guest(&self, name: impl AsRef<Path>) -> PathBuf {
        let vdir = self.place.join(&name);
        fs::create_dir_all(&vdir).unwrap();
        self.mark(&name);
        self.link(name.as_ref().join("vdir"), &vdir);
        vdir
    }

    /// `vhashify --config-dir CONF --state-dir STATE ARGUMENTS…`.
    pub fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = vhashify();
        command
            .arg("--config-dir")
            .arg(self.at(""))
            .arg("--state-dir")
            .arg(self.state())
            .args(arguments);
        command
    }

    /// A run with all well: `vhashify … --protect none ARGUMENTS…`.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Value {
        let mut command = self.command(["--protect", "none"]);
        command.args(arguments);
        json(command)
    }
}

/// Writes a file below a guest's root; all of these have one mtime, so that content decides.
pub fn write(root: &Path, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(then).unwrap();
    path
}

/// Whether two paths are one inode.
pub fn is_shared(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.dev(), metadata.ino())
    };
    inode(one) == inode(other)
}

/// All but the directories: what becomes of those is held by the tests of the invariants.
pub fn files(root: &Path) -> Snapshot {
    let mut snapshot = Snapshot::of(root);
    snapshot
        .0
        .retain(|_, entry| entry.content != Content::Directory);
    snapshot
}
