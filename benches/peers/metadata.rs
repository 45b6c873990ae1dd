//! What a tool changed in guests that should be as they were.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use walkdir::WalkDir;

/// What the regular files of all guests carry, by their paths below the directory of guests.
pub struct Metadata(HashMap<PathBuf, Carried>);

#[derive(PartialEq)]
struct Carried {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    attributes: Vec<(std::ffi::OsString, Vec<u8>)>,
    /// How many names in the same guest lead to the same inode.
    names: usize,
}

impl Metadata {
    /// Looks at all of them.
    pub fn of(guests: &Path) -> Result<Self> {
        let mut names: HashMap<(PathBuf, u64), usize> = HashMap::new();
        let mut found = Vec::new();
        for entry in WalkDir::new(guests).min_depth(1) {
            let entry = entry?;
            if !entry.file_type().is_file() {
                continue;
            }
            let path = entry.path().strip_prefix(guests)?.to_path_buf();
            let looked = entry.metadata()?;
            let mut attributes = Vec::new();
            for name in xattr::list(entry.path())? {
                let value = xattr::get(entry.path(), &name)?.unwrap_or_default();
                attributes.push((name, value));
            }
            attributes.sort();
            let guest = path.iter().next().map(PathBuf::from).unwrap_or_default();
            let inode = (guest, looked.ino());
            *names.entry(inode.clone()).or_default() += 1;
            let carried = Carried {
                mode: looked.mode(),
                owner: (looked.uid(), looked.gid()),
                mtime: (looked.mtime(), looked.mtime_nsec()),
                attributes,
                names: 0,
            };
            found.push((path, inode, carried));
        }
        let all = found.into_iter().map(|(path, inode, carried)| {
            let names = names[&inode];
            (path, Carried { names, ..carried })
        });
        Ok(Self(all.collect()))
    }

    /// What of it `later` has not any more, one line for each kind.
    pub fn lost(&self, later: &Self) -> Vec<String> {
        type Differs = fn(&Carried, &Carried) -> bool;
        let kinds: [(&str, Differs); 5] = [
            ("mode", |one, other| one.mode != other.mode),
            ("owner or group", |one, other| one.owner != other.owner),
            ("mtime", |one, other| one.mtime != other.mtime),
            ("extended attributes", |one, other| {
                one.attributes != other.attributes
            }),
            ("an inode of its own in its guest", |one, other| {
                one.names != other.names
            }),
        ];
        let mut lost = Vec::new();
        for (kind, differs) in kinds {
            let both = self.0.iter().filter_map(|(path, one)| {
                let other = later.0.get(path)?;
                differs(one, other).then_some(())
            });
            match both.count() {
                0 => {}
                count => lost.push(format!("{kind} of {count} files")),
            }
        }
        let gone = self.0.keys().filter(|path| !later.0.contains_key(*path));
        match gone.count() {
            0 => {}
            count => lost.push(format!("{count} files")),
        }
        lost
    }
}
