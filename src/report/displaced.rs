//! Tells by its content which object has taken the place of an inode that a run has displaced.
//!
//! Its last name was a temporary one in the work directory. The kernel shows that to a process that sees the directory,
//! and shows nothing but `/` of a file that was mapped through a mount which begins further down, as a guest's does.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use vhashify_sys::stamp::Stamp;

use super::survey::{Inode, Survey};
use crate::identity::{Digester, Identity, Leased};
use crate::relink::temporary::WorkName;

/// The object that stands in the place of a displaced inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The guest's position.
    pub guest: usize,
    /// The path below the vdir.
    pub path: PathBuf,
}

/// Remembers what was read.
#[derive(Debug)]
pub struct Displaced<'a> {
    survey: &'a Survey<'a>,
    by_size: HashMap<u64, Vec<&'a Inode>>,
    known: HashMap<u64, Option<Replaced>>,
    /// Objects that stand in the place of an inode already, each in a guest: the next inode with the same content is
    /// another file of that guest.
    taken: HashSet<(usize, u64)>,
    digester: Digester,
}

impl<'a> Displaced<'a> {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(survey: &'a Survey<'a>) -> Self {
        let mut by_size: HashMap<u64, Vec<&Inode>> = HashMap::new();
        for inode in survey.inodes.iter().filter(|inode| inode.is_object) {
            by_size.entry(inode.stamp.size).or_default().push(inode);
        }
        Self {
            survey,
            by_size,
            known: HashMap::new(),
            taken: HashSet::new(),
            digester: Digester::default(),
        }
    }

    /// Whether the last name of a file, as the kernel shows it, was a temporary one.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        let name = path.file_name();
        name.is_none_or(|name| WorkName::parse(name.as_encoded_bytes()).is_some())
    }

    /// What stands in the place of the file behind `link` of `/proc`, whose inode is `was`: in this `guest`, or in any
    /// where that is not known. `None` where no object has its content.
    pub fn find(&mut self, guest: Option<usize>, link: &Path, was: &Stamp) -> Option<Replaced> {
        if let Some(known) = self.known.get(&was.inode) {
            return known.clone();
        }
        let found = self.read(guest, link, was);
        if let Some((inode, replaced)) = &found {
            self.taken.insert((replaced.guest, *inode));
        }
        let found = found.map(|(_, replaced)| replaced);
        self.known.insert(was.inode, found.clone());
        found
    }

    fn read(&mut self, guest: Option<usize>, link: &Path, was: &Stamp) -> Option<(u64, Replaced)> {
        let alike = self.by_size.get(&was.size)?.iter();
        let alike: Vec<&Inode> = alike
            .copied()
            .filter(|inode| {
                let now = &inode.stamp;
                (now.mode, now.owner, now.group) == (was.mode, was.owner, was.group)
            })
            .collect();
        let mut read: Option<Identity> = None;
        let mut found: Vec<(u64, Replaced)> = Vec::new();
        for inode in alike {
            let identity = self.survey.objects.get(&inode.stamp.inode)?.identity;
            let places = self.places(inode, guest);
            if places.is_empty() {
                continue;
            }
            if read.is_none_or(|read| read.mtime != identity.mtime) {
                let file = OwnedFd::from(File::open(link).ok()?);
                let proven = Leased::new(file).ok()?;
                let proven = proven.prove(identity.mtime, &mut self.digester);
                read = Some(proven.ok()?.identity);
            }
            if read == Some(identity) {
                found.extend(places.into_iter().map(|place| (inode.stamp.inode, place)));
            }
        }
        found.sort_by(|(_, one), (_, other)| {
            (one.guest, &one.path).cmp(&(other.guest, &other.path))
        });
        let is_free =
            |(inode, place): &&(u64, Replaced)| !self.taken.contains(&(place.guest, *inode));
        found.iter().find(is_free).or(found.first()).cloned()
    }

    /// One name of the object in each guest that is meant.
    fn places(&self, inode: &Inode, guest: Option<usize>) -> Vec<Replaced> {
        let scan = &self.survey.scan;
        let mut places: Vec<Replaced> = Vec::new();
        for file in self.survey.names(inode) {
            let of = usize::from(scan.guest_of(file.directory));
            let is_meant = guest.is_none_or(|guest| guest == of);
            if is_meant && places.iter().all(|place| place.guest != of) {
                places.push(Replaced {
                    guest: of,
                    path: PathBuf::from(OsString::from_vec(scan.path_of(file))),
                });
            }
        }
        places
    }
}
