//! Temporary names that an interrupted run or break left, opened, each with the name of a guest that it serves.
//!
//! They lie in the work directory, and up to version 0.1 lay in the guests ([`temporary`]). Both come to the same here.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::io::Errno;
use vhashify_sys::directory::Directory;
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use crate::guest::Guest;
use crate::outcome::FileError;
use crate::relink::temporary::{self, Digits, Purpose, WorkName};
use crate::relink::work_directory::{Leftovers, WorkPlace};
use crate::scan::{GuestId, Scan, join};

/// A temporary name and what it leads to.
#[derive(Debug)]
pub struct OpenLeftover {
    /// What the served name was about to lead to.
    pub purpose: Purpose,
    /// The inode number of the object, where the temporary name says it.
    pub object: Option<u64>,
    /// The directory that has the temporary name.
    pub holder: Rc<OwnedFd>,
    /// The temporary name.
    pub name: Vec<u8>,
    /// The name that it gets in the guest's directory where the served name is gone.
    pub lasting: Vec<u8>,
    /// For messages.
    pub path: PathBuf,
    /// The inode that it leads to.
    pub stamp: Stamp,
    /// The directory of the served name; `None` where no guest of this run has it.
    pub place: Option<Place>,
}

/// Where the served name is.
#[derive(Debug)]
pub struct Place {
    /// The guest.
    pub guest: GuestId,
    /// The directory.
    pub directory: Rc<OwnedFd>,
    /// The served name and its inode, unless that is gone.
    pub served: Option<(Vec<u8>, u64)>,
}

impl OpenLeftover {
    /// The directory and the name that it serves, if that leads to one of these inodes, and to no other object than the
    /// one of the replacement.
    #[must_use]
    pub fn served_of(&self, inodes: &HashSet<u64>) -> Option<(&Rc<OwnedFd>, &[u8])> {
        let place = self.place.as_ref()?;
        let (name, inode) = place.served.as_ref()?;
        let is_its = self.object.is_none_or(|object| object == *inode);
        (is_its && inodes.contains(inode)).then_some((&place.directory, name.as_slice()))
    }
}

/// Opens all that the walk of `guests` found in them, and all in the work directory. Returns why some could not be
/// looked at, too; they stay.
#[must_use]
pub fn open_all(
    guests: &[&Guest],
    scan: &Scan,
    left: &Leftovers,
) -> (Vec<OpenLeftover>, Vec<FileError>) {
    let in_guests = scan.leftovers.iter().map(|found| Found {
        directory: Some(found.directory),
        temporary: Temporary::InGuest(&found.name),
    });
    let in_work = left.names.iter().map(|found| Found {
        directory: scan.directory_of_inode(found.name.directory),
        temporary: Temporary::InWork(found),
    });
    let mut all: Vec<Found<'_>> = in_guests.chain(in_work).collect();
    // Those of one directory are neighbours, so that it is read once.
    all.sort_by_key(|found| found.directory);
    let mut places = Places {
        guests,
        scan,
        last: None,
    };
    let (mut opened, mut errors) = (Vec::new(), Vec::new());
    for found in &all {
        match places.open(found) {
            Ok(leftover) => opened.extend(leftover),
            Err((call, errno)) => {
                let path = places.path(found);
                errors.push(FileError::call(call, path, &errno.into()));
            }
        }
    }
    (opened, errors)
}

type Failed = (&'static str, Errno);

/// A temporary name that was found.
struct Found<'a> {
    /// The directory of the name that it serves, where a guest of this run has it.
    directory: Option<u32>,
    temporary: Temporary<'a>,
}

#[derive(Clone, Copy)]
enum Temporary<'a> {
    InGuest(&'a [u8]),
    InWork(&'a WorkPlace),
}

/// Opens directories of guests, and keeps the last one.
struct Places<'a> {
    guests: &'a [&'a Guest],
    scan: &'a Scan,
    last: Option<Opened>,
}

/// A directory of a guest.
struct Opened {
    number: u32,
    directory: Rc<OwnedFd>,
    /// Its names by their hashes.
    names: HashMap<Digits, Vec<u8>>,
}

impl Places<'_> {
    /// `None` where the temporary name is gone.
    fn open(&mut self, found: &Found<'_>) -> Result<Option<OpenLeftover>, Failed> {
        let mut number = found.directory;
        let directory = match number {
            Some(directory) => self.directory(directory)?,
            None => None,
        };
        let mut object = None;
        let (purpose, digits, holder, name, lasting) = match found.temporary {
            Temporary::InGuest(name) => {
                let (Some(holder), Some((purpose, digits))) = (directory, temporary::parts(name))
                else {
                    return Ok(None);
                };
                (purpose, digits, holder, name, temporary::lasting(name))
            }
            Temporary::InWork(place) => {
                let name = place.name;
                object = Some(name.object);
                // Another directory has the number of one that is gone.
                number = number.filter(|&at| self.is_of(at, &name));
                let holder = place.directory.try_clone().map_err(|error| {
                    let errno = Errno::from_io_error(&error);
                    ("dup", errno.unwrap_or(Errno::IO))
                })?;
                let lasting = name.lasting();
                (
                    name.purpose,
                    name.digits,
                    Rc::new(holder),
                    place.bytes(),
                    lasting,
                )
            }
        };
        let stamp = match Stamp::at(holder.as_fd(), name) {
            Ok(stamp) => stamp,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(("statx", errno)),
        };
        Ok(Some(OpenLeftover {
            purpose,
            object,
            holder,
            name: name.to_vec(),
            lasting,
            path: self.path(found),
            stamp,
            place: number.and_then(|at| self.place(at, &digits)),
        }))
    }

    /// Where the served name is; to be asked for the directory that was opened last.
    fn place(&self, directory: u32, digits: &Digits) -> Option<Place> {
        let opened = self.opened(Some(directory))?;
        let served = opened.names.get(digits).and_then(|name| {
            let inode = resolve::inode_of(opened.directory.as_fd(), name).ok()?;
            Some((name.clone(), inode))
        });
        Some(Place {
            guest: self.scan.guest_of(directory),
            directory: Rc::clone(&opened.directory),
            served,
        })
    }

    /// Whether a temporary name serves one of the directory that was opened last.
    fn is_of(&self, directory: u32, name: &WorkName) -> bool {
        let opened = self.opened(Some(directory));
        let looked = opened.map(|opened| Directory::look(opened.directory.as_fd()));
        looked.is_some_and(|looked| looked.is_ok_and(|looked| name.is_of(&looked)))
    }

    /// The directory that was opened last, if it is this one.
    fn opened(&self, number: Option<u32>) -> Option<&Opened> {
        let last = self.last.as_ref();
        last.filter(|opened| Some(opened.number) == number)
    }

    /// Opens a directory that the walk found; `None` where it is gone.
    fn directory(&mut self, number: u32) -> Result<Option<Rc<OwnedFd>>, Failed> {
        if self.opened(Some(number)).is_none() {
            self.last = None;
            let guest = self.guests[usize::from(self.scan.guest_of(number))];
            let below = self.scan.directory_path(number);
            let directory = match resolve::open_directory(guest.root.as_fd(), &below) {
                Ok(opened) => opened,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(("openat2", errno)),
            };
            let names = resolve::names(directory.as_fd()).map_err(|errno| ("getdents64", errno))?;
            let hashed = names
                .into_iter()
                .map(|name| (temporary::digits(&name), name));
            self.last = Some(Opened {
                number,
                directory: Rc::new(directory),
                names: hashed.collect(),
            });
        }
        let opened = self.opened(Some(number));
        Ok(opened.map(|opened| Rc::clone(&opened.directory)))
    }

    /// For messages: the path of the name that is served, or of the temporary name where that is not known.
    fn path(&self, found: &Found<'_>) -> PathBuf {
        let name = match found.temporary {
            Temporary::InGuest(name) => name,
            Temporary::InWork(place) => {
                let opened = self.opened(found.directory);
                match opened.and_then(|opened| opened.names.get(&place.name.digits)) {
                    Some(name) => name,
                    None => return place.path(),
                }
            }
        };
        let Some(directory) = found.directory else {
            return PathBuf::new();
        };
        let guest = self.guests[usize::from(self.scan.guest_of(directory))];
        guest.path_of(&join(&self.scan.directory_path(directory), name))
    }
}
