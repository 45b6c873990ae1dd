//! Guests described as data, so that random ones can be made, made again and made smaller.
//!
//! The pools are small on purpose: few paths, contents and metadata make many twins, second twins,
//! link groups and near misses.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::panic::RefUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rustix::fs::{CWD, FileType, Mode};

/// A file of this size has a hole; no other has this size.
pub const SIZE_WITH_HOLE: u64 = 200_000;

/// One thing that is made in a guest. It is passed over where its path is taken.
#[derive(Debug, Clone)]
pub enum Item {
    /// A regular file.
    File {
        /// Where it stands.
        at: At,
        /// What it holds.
        content: Content,
        /// What its inode carries.
        metadata: Metadata,
    },
    /// Another name of an earlier file of the same guest.
    HardLink {
        /// Which of the files there are.
        of: prop::sample::Index,
        /// Where it stands.
        at: At,
    },
    /// A name of a file of an earlier guest, as `cp -al` leaves it.
    Shared {
        /// Which of the files there are.
        of: prop::sample::Index,
        /// Where it stands.
        at: At,
    },
    /// A symbolic link.
    SymbolicLink(At),
    /// A FIFO.
    Fifo(At),
    /// A device node.
    Device(At),
}

/// A path, as numbers of a directory and of a name.
#[derive(Debug, Clone, Copy)]
pub struct At(pub u8, pub u8);

/// What a file holds: `variant` tells apart files of one size.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// In bytes.
    pub size: u64,
    /// Other bytes for another variant.
    pub variant: u8,
}

/// What a file's inode carries.
#[derive(Debug, Clone, Copy)]
pub struct Metadata {
    /// Permissions.
    pub mode: u32,
    /// User.
    pub owner: u32,
    /// Group.
    pub group: u32,
    /// Nanoseconds since 1970.
    pub mtime: u64,
    /// What extended attribute it has.
    pub attribute: Attribute,
}

/// An extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// None.
    None,
    /// One of `user.`.
    User,
    /// An access control list.
    AccessControlList,
    /// A file capability.
    Capability,
}

/// A file that nothing is special about.
pub const PLAIN: Metadata = Metadata {
    mode: 0o644,
    owner: 0,
    group: 0,
    mtime: 1_600_000_000_000_000_000,
    attribute: Attribute::None,
};

impl Metadata {
    /// Its mtime.
    pub fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.mtime)
    }
}

impl At {
    /// The path below a guest that it stands for.
    pub fn path(self) -> PathBuf {
        let directories: [&[u8]; 5] = [b"", b"bin", b"usr/lib/deep/er", b"odd\n dir", b"\xff\xfe"];
        let longest = [b'n'; 255];
        let names: [&[u8]; 7] = [
            b"a",
            b"b",
            b"c",
            b"new\nline",
            b"\xc3(",
            b" blank ",
            &longest,
        ];
        let directory = directories[usize::from(self.0) % directories.len()];
        let name = names[usize::from(self.1) % names.len()];
        Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name))
    }
}

impl Content {
    /// The bytes themselves.
    pub fn bytes(self) -> Vec<u8> {
        let size = usize::try_from(self.size).unwrap();
        let step = 7 + 2 * usize::from(self.variant);
        let byte = |at| u8::try_from(at * step / 5 % 251).unwrap();
        (0..size).map(byte).collect()
    }
}

/// Makes a file at `path`, and the directories above it.
pub fn make_file(path: &Path, content: Content, metadata: Metadata) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create_new(path).unwrap();
    let bytes = content.bytes();
    if content.size == SIZE_WITH_HOLE {
        file.write_all(&bytes[..100]).unwrap();
        file.write_all_at(&bytes[199_900..], 199_900).unwrap();
    } else {
        file.write_all(&bytes).unwrap();
    }
    chown(path, Some(metadata.owner), Some(metadata.group)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode)).unwrap();
    match metadata.attribute {
        Attribute::None => {}
        Attribute::User => xattr::set(path, "user.comment", b"\0any bytes\xff").unwrap(),
        Attribute::AccessControlList => {
            xattr::set(path, "system.posix_acl_access", &access_control_list()).unwrap();
        }
        Attribute::Capability => {
            xattr::set(path, "security.capability", &net_raw_capability()).unwrap();
        }
    }
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_nanos(metadata.mtime);
    file.set_modified(mtime).unwrap();
}

/// `user::rw-,user:1000:r--,group::r--,mask::r--,other::r--` (`linux/posix_acl_xattr.h`).
fn access_control_list() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01_u16, 6_u16, NOBODY),
        (0x02, 4, 1000),
        (0x04, 4, NOBODY),
        (0x10, 4, NOBODY),
        (0x20, 4, NOBODY),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_raw=ep` (`vfs_cap_data` of `linux/capability.h`, revision 2).
fn net_raw_capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// Makes guests in their root directories, which are empty. Directories get an old mtime, so that
/// a change of it shows.
pub fn make_guests(guests: &[Vec<Item>], roots: &[PathBuf]) {
    let mut files_of_earlier: Vec<PathBuf> = Vec::new();
    for (items, root) in guests.iter().zip(roots) {
        let mut files: Vec<PathBuf> = Vec::new();
        for item in items {
            make_item(item, root, &mut files, &files_of_earlier);
        }
        files_of_earlier.extend(files);
        for path in super::snapshot::paths(root).iter().rev() {
            if fs::symlink_metadata(path).unwrap().is_dir() {
                let old = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_987_654_321);
                File::open(path).unwrap().set_modified(old).unwrap();
            }
        }
    }
}

fn make_item(item: &Item, root: &Path, files: &mut Vec<PathBuf>, earlier: &[PathBuf]) {
    let (Item::File { at, .. }
    | Item::HardLink { at, .. }
    | Item::Shared { at, .. }
    | Item::SymbolicLink(at)
    | Item::Fifo(at)
    | Item::Device(at)) = item;
    let path = root.join(at.path());
    if fs::symlink_metadata(&path).is_ok() {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match item {
        Item::File {
            content, metadata, ..
        } => {
            make_file(&path, *content, *metadata);
            files.push(path);
        }
        Item::HardLink { of, .. } if !files.is_empty() => {
            fs::hard_link(of.get(files), &path).unwrap();
        }
        Item::Shared { of, .. } if !earlier.is_empty() => {
            fs::hard_link(of.get(earlier), &path).unwrap();
        }
        Item::HardLink { .. } | Item::Shared { .. } => {}
        Item::SymbolicLink(_) => symlink("/etc/passwd", &path).unwrap(),
        Item::Fifo(_) => {
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        }
        Item::Device(_) => {
            let null = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, null).unwrap();
        }
    }
}

/// Checks `cases` sets of random [`guests`], each in a directory of its own in `place`, and makes what
/// fails smaller, in `shrinks` steps at most.
pub fn check_random(
    place: &Path,
    are_linked: bool,
    cases: u32,
    shrinks: u32,
    check: impl Fn(&[Vec<Item>], &Path) + RefUnwindSafe,
) {
    let number = Cell::new(0);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: shrinks,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&guests(are_linked), |guests| {
        number.set(number.get() + 1);
        let place = place.join(format!("case{}", number.get()));
        let checked = std::panic::catch_unwind(|| check(&guests, &place));
        fs::remove_dir_all(&place).unwrap();
        checked.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Two to four guests. With `are_linked`, some were hard-linked to one another before.
pub fn guests(are_linked: bool) -> impl Strategy<Value = Vec<Vec<Item>>> {
    prop::collection::vec(prop::collection::vec(item(are_linked), 1..25), 2..5)
}

fn item(are_linked: bool) -> impl Strategy<Value = Item> {
    let file = (at(), content(), metadata()).prop_map(|(at, content, metadata)| Item::File {
        at,
        content,
        metadata,
    });
    let index = any::<prop::sample::Index>;
    prop_oneof![
        12 => file,
        4 => (index(), at()).prop_map(|(of, at)| Item::HardLink { of, at }),
        u32::from(are_linked) * 2 => (index(), at()).prop_map(|(of, at)| Item::Shared { of, at }),
        1 => at().prop_map(Item::SymbolicLink),
        1 => at().prop_map(Item::Fifo),
        1 => at().prop_map(Item::Device),
    ]
}

fn at() -> impl Strategy<Value = At> {
    (0..5_u8, 0..7_u8).prop_map(|(directory, name)| At(directory, name))
}

fn content() -> impl Strategy<Value = Content> {
    // 1,100,000 bytes are more than is read at once, and mapped.
    let size = prop_oneof![
        1 => Just(0),
        4 => Just(1),
        4 => Just(100),
        2 => Just(4096),
        2 => Just(300_000),
        1 => Just(SIZE_WITH_HOLE),
        1 => Just(1_100_000),
    ];
    (size, prop_oneof![3 => Just(0), 1 => Just(1)])
        .prop_map(|(size, variant)| Content { size, variant })
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let attribute = prop_oneof![
        8 => Just(Attribute::None),
        1 => Just(Attribute::User),
        1 => Just(Attribute::AccessControlList),
        1 => Just(Attribute::Capability),
    ];
    let mode = prop_oneof![6 => Just(0o644), 1 => Just(0o755), 1 => Just(0o4755), 1 => Just(0o000)];
    let owner = prop_oneof![8 => Just(0), 1 => Just(1000)];
    let mtime = prop_oneof![8 => Just(PLAIN.mtime), 1 => Just(PLAIN.mtime + 1), 1 => Just(0)];
    (mode, owner, mtime, attribute).prop_map(|(mode, owner, mtime, attribute)| Metadata {
        mode,
        owner,
        group: owner,
        mtime,
        attribute,
    })
}

/// The inode number of a path.
pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}
