//! Names that a guest gives to the wrong one of two inodes: its call found the source before an exchange and
//! makes the name after it.
//!
//! `link(2)` looks its source up first and makes the name later (`do_linkat`, fs/namei.c); the scheduler
//! may hold it in between for as long as it likes:
//!
//! ```text
//! guest: link(N, M) … finds N ─▶ one                  … makes M ─▶ one
//! run:                           exchange: N ─▶ other                     M and N are two files now
//! ```
//!
//! So a run or break that has replaced an inode looks for names that still lead to it, and relinks them. The inode's
//! link count is no proof where other guests share it: one of them may have removed a name meanwhile.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;
use vhashify_sys::tmpfile::open_again;

use super::exchange::{ExchangeError, UndoError};
use super::names::{Name, each_name};
use super::swap::{FileSwap, Refused};
use super::temporary::{self, Serving};
use super::work_directory::WorkDirectory;
use crate::guest::Guest;

/// How often a guest is walked for names that it moves on meanwhile.
pub const MOST_WALKS: u32 = 20;

/// An inode that some guests gave up for another one. Names that lead to the first are to lead to the second.
#[derive(Debug)]
pub struct StrayLinks<'a> {
    work: &'a WorkDirectory,
    abandoned: OwnedFd,
    owner: OwnedFd,
    guests: Vec<&'a Guest>,
    serving: Serving,
}

impl<'a> StrayLinks<'a> {
    /// `guests` gave `abandoned` up for `owner`. Both are held with `O_PATH` only, so that leases on them can
    /// end.
    ///
    /// # Errors
    /// What `open(2)` lists: too many open files.
    pub fn new(
        work: &'a WorkDirectory,
        abandoned: BorrowedFd<'_>,
        owner: BorrowedFd<'_>,
        guests: Vec<&'a Guest>,
        serving: Serving,
    ) -> Result<Self, Errno> {
        Ok(Self {
            work,
            abandoned: open_again(abandoned, OFlags::PATH)?,
            owner: open_again(owner, OFlags::PATH)?,
            guests,
            serving,
        })
    }

    /// The abandoned inode as it is now.
    ///
    /// # Errors
    /// What `statx(2)` lists.
    pub fn abandoned(&self) -> Result<Stamp, Errno> {
        Stamp::of(self.abandoned.as_fd())
    }

    /// Walks the guests and relinks every name of the abandoned inode.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn relink(&self) -> Result<(), UndoError> {
        let inode = self.abandoned()?.inode;
        self.guests
            .iter()
            .try_for_each(|guest| relink(self.work, guest, inode, self.owner.as_fd(), self.serving))
    }

    /// Does so for many files with one walk of each guest. Returns which of them failed, by their positions in
    /// `all`.
    #[must_use]
    pub fn relink_all(all: &[&Self]) -> Vec<(usize, UndoError)> {
        let (mut wanted, mut positions, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (position, one) in all.iter().enumerate() {
            match one.abandoned() {
                Ok(stamp) => wanted.extend(one.guests.iter().map(|&guest| {
                    positions.push(position);
                    Relinking {
                        work: one.work,
                        guest,
                        inode: stamp.inode,
                        owner: one.owner.as_fd(),
                        serving: one.serving,
                    }
                })),
                Err(errno) => failed.push((position, errno.into())),
            }
        }
        let relinked = relink_each(&wanted).into_iter();
        failed.extend(relinked.map(|(at, error)| (positions[at], error)));
        failed
    }
}

/// Names of an inode in a guest that are to lead to another one.
#[derive(Debug, Clone, Copy)]
pub struct Relinking<'a> {
    /// Where temporary names lie.
    pub work: &'a WorkDirectory,
    /// The guest.
    pub guest: &'a Guest,
    /// The number of the inode.
    pub inode: u64,
    /// The other one.
    pub owner: BorrowedFd<'a>,
    /// What the temporary names say.
    pub serving: Serving,
}

/// Relinks the names of many inodes: one walk of each guest finds which of them have any. Returns which failed, by their
/// positions in `all`.
#[must_use]
pub fn relink_each(all: &[Relinking<'_>]) -> Vec<(usize, UndoError)> {
    let mut of_guests: Vec<(&Guest, HashMap<u64, usize>)> = Vec::new();
    for (position, one) in all.iter().enumerate() {
        let mut known = of_guests.iter_mut();
        match known.find(|(known, _)| std::ptr::eq(*known, one.guest)) {
            Some((_, inodes)) => drop(inodes.insert(one.inode, position)),
            None => of_guests.push((one.guest, HashMap::from([(one.inode, position)]))),
        }
    }
    let mut failed = Vec::new();
    for (guest, inodes) in of_guests {
        let mut strays = HashMap::new();
        let walked = each_name(guest, |_, name, inode| {
            if let Some(&position) = inodes.get(&inode)
                && !temporary::is_one(name)
            {
                strays.insert(inode, position);
            }
        });
        if walked.is_err() {
            // Each file then meets, and returns, its own error.
            strays = inodes;
        }
        for position in strays.into_values() {
            let Relinking {
                work,
                guest,
                inode,
                owner,
                serving,
            } = all[position];
            let relinked = relink(work, guest, inode, owner, serving);
            failed.extend(relinked.err().map(|error| (position, error)));
        }
    }
    failed
}

/// Relinks every name by which the guest has `inode` to the inode behind `owner`. The walk may miss a name that the
/// guest moves meanwhile.
///
/// # Errors
/// [`UndoError`].
pub fn relink(
    work: &WorkDirectory,
    guest: &Guest,
    inode: u64,
    owner: BorrowedFd<'_>,
    serving: Serving,
) -> Result<(), UndoError> {
    let swap = FileSwap {
        work,
        serving,
        old: inode,
        new: owner,
        new_inode: Stamp::of(owner)?.inode,
    };
    for _ in 0..MOST_WALKS {
        let strays = names_of(guest, inode)?;
        if strays.is_empty() {
            return Ok(());
        }
        for Name { directory, name } in strays {
            let opened = resolve::open_directory(guest.root.as_fd(), &directory);
            let Ok(directory) = opened else {
                continue;
            };
            let directory: Rc<OwnedFd> = directory.into();
            match swap.begin([Ok((directory, name.as_slice()))], || {}) {
                Ok(pending) => pending.confirm().finish()?,
                // Another file stands there by now: back with it, and the next walk finds the name.
                Err(Refused {
                    why: ExchangeError::Changed | ExchangeError::NameTaken,
                    pending,
                    ..
                }) => pending.put_back()?,
                Err(Refused { why, .. }) => return Err(why.errno().into()),
            }
        }
    }
    Err(UndoError::KeepsMoving)
}

/// The names of an inode in a guest, without temporary names of replacements.
///
/// # Errors
/// A directory that cannot be read.
pub fn names_of(guest: &Guest, inode: u64) -> Result<Vec<Name>, Errno> {
    let mut found = Vec::new();
    each_name(guest, |directory, name, of| {
        if of == inode && !temporary::is_one(name) {
            found.push(Name {
                directory: directory.into(),
                name: name.to_vec(),
            });
        }
    })?;
    Ok(found)
}
