//! An independent look at a guest: every path with all that an inode carries, and which names are
//! one file. Two looks are compared to see whether the invariants held.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `FS_SYNC_FL | FS_NOATIME_FL` (linux/fs.h): the mark of iunlink.
const MARK: u32 = 0x8 | 0x80;

/// `FS_VERITY_FL`, which comes with the mark under `--protect verity`.
const VERITY: u32 = 0x0010_0000;

/// What ext4 says of its own layout (fs/ext4/ext4.h): a directory that got a hash tree, a file in
/// extents, a huge one, attributes in inodes of their own, data in the inode.
const LAYOUT: u32 = 0x1000 | 0x4_0000 | 0x8_0000 | 0x20_0000 | 0x1000_0000;

/// What one path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// User.
    pub owner: u32,
    /// Group.
    pub group: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes by name.
    pub attributes: BTreeMap<OsString, Vec<u8>>,
    /// Inode flags but for the mark and the filesystem's own, of regular files and directories.
    pub flags: u32,
    /// What it holds.
    pub content: Content,
    /// The first path, in order, that leads to the same inode.
    pub first_name: PathBuf,
}

/// What a path holds, by its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Size and a digest of the bytes.
    File(u64, blake3::Hash),
    /// Its names are entries of their own.
    Directory,
    /// Where a symbolic link leads.
    Link(PathBuf),
    /// The device of a device node.
    Device(u64),
    /// A FIFO or a socket.
    Other,
}

/// Every path below a guest's root, and the root itself as the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Looks at all of `root`.
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for path in paths(root) {
            let below = path.strip_prefix(root).unwrap().to_path_buf();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let first_name = inodes
                .entry(metadata.ino())
                .or_insert_with(|| below.clone())
                .clone();
            entries.insert(below, entry(&path, &metadata, first_name));
        }
        Self(entries)
    }

    /// What is not the same in `later`, a line for each difference.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, before) in &self.0 {
            match later.0.get(path) {
                None => lines.push(format!("{} is gone", path.display())),
                Some(after) if after != before => {
                    lines.push(difference(path, before, after));
                }
                Some(_) => {}
            }
        }
        for path in later.0.keys().filter(|path| !self.0.contains_key(*path)) {
            lines.push(format!("{} is new", path.display()));
        }
        lines
    }

    /// Panics unless `later` is the same in everything that a guest can see and that counts.
    pub fn assert_same(&self, later: &Self, when: &str) {
        let lines = self.differences(later);
        assert!(lines.is_empty(), "{when}:\n{}", lines.join("\n"));
    }
}

fn difference(path: &Path, before: &Entry, after: &Entry) -> String {
    let mut line = format!("{}:", path.display());
    let mut part = |name: &str, before: &dyn std::fmt::Debug, after: &dyn std::fmt::Debug| {
        let (before, after) = (format!("{before:?}"), format!("{after:?}"));
        if before != after {
            write!(line, " {name} {before} → {after}").unwrap();
        }
    };
    part("mode", &before.mode, &after.mode);
    part("owner", &before.owner, &after.owner);
    part("group", &before.group, &after.group);
    part("mtime", &before.mtime, &after.mtime);
    part("attributes", &before.attributes, &after.attributes);
    part("flags", &before.flags, &after.flags);
    part("content", &before.content, &after.content);
    part("first name", &before.first_name, &after.first_name);
    line
}

fn entry(path: &Path, metadata: &Metadata, first_name: PathBuf) -> Entry {
    let kind = metadata.file_type();
    let content = if kind.is_file() {
        let mut hasher = blake3::Hasher::new();
        let size = std::io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
        assert_eq!(size, metadata.len(), "{}", path.display());
        Content::File(size, hasher.finalize())
    } else if kind.is_dir() {
        Content::Directory
    } else if kind.is_symlink() {
        Content::Link(fs::read_link(path).unwrap())
    } else if kind.is_block_device() || kind.is_char_device() {
        Content::Device(metadata.rdev())
    } else {
        Content::Other
    };
    Entry {
        mode: metadata.mode(),
        owner: metadata.uid(),
        group: metadata.gid(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        attributes: attributes(path),
        flags: if kind.is_file() || kind.is_dir() {
            let flags = flags(path);
            let of_objects = if flags & MARK == MARK { VERITY } else { 0 };
            flags & !MARK & !LAYOUT & !of_objects
        } else {
            0
        },
        content,
        first_name,
    }
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let names = xattr::list(path).unwrap();
    names
        // What no guest can see: `src/relink/copy_mark.rs`.
        .filter(|name| !name.as_encoded_bytes().starts_with(b"trusted.vhashify."))
        .filter_map(|name| {
            let value = xattr::get(path, &name).unwrap()?;
            Some((name, value))
        })
        .collect()
}

/// The inode flags of a file or directory (`lsattr`).
pub fn flags(path: &Path) -> u32 {
    let file = File::open(path).unwrap();
    rustix::fs::ioctl_getflags(&file).unwrap().bits()
}

/// Whether a file bears the mark of iunlink.
pub fn is_marked(path: &Path) -> bool {
    flags(path) & MARK == MARK
}

/// Whether an open file bears the mark of iunlink.
pub fn is_object(file: &File) -> bool {
    rustix::fs::ioctl_getflags(file).unwrap().bits() & MARK == MARK
}

/// Every path at and below `root`, parents first, in the order of their names.
pub fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    let mut at = 0;
    while at < found.len() {
        if fs::symlink_metadata(&found[at]).unwrap().is_dir() {
            let entries = fs::read_dir(&found[at]).unwrap();
            let mut below: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
            below.sort();
            found.extend(below);
        }
        at += 1;
    }
    found
}

/// Checks a store against invariant 7, as far as its files tell without the library: nothing but
/// objects, each with the bytes that its name says, each marked. Returns inode → path.
pub fn check_store(store: &Path) -> BTreeMap<u64, PathBuf> {
    let mut objects = BTreeMap::new();
    for path in paths(store) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            continue;
        }
        assert!(metadata.is_file(), "{} is no object", path.display());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let digest = name.split('-').next().unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(
            digest,
            blake3::hash(&content).to_hex().as_str(),
            "inv7: the bytes of {} are not what its name says",
            path.display()
        );
        assert!(is_marked(&path), "{} is not marked", path.display());
        assert!(!content.is_empty(), "an empty file is no object");
        let twin = objects.insert(metadata.ino(), path);
        assert_eq!(twin, None, "two objects are one inode");
    }
    objects
}
