//! Names that the guest gives to the wrong one of two inodes, because it had found its source before an
//! exchange and makes the name after it.
//!
//! `link(2)` looks its source up first and makes the name later (`do_linkat`, fs/namei.c); the scheduler
//! may hold it in between for as long as it likes:
//!
//! ```text
//! guest: link(N, M) … finds N ─▶ one                  … makes M ─▶ one
//! run:                           exchange: N ─▶ other                     M and N are two files now
//! ```
//!
//! So whoever parts a file of a guest from an inode looks afterwards whether it has come by names of
//! that inode, and leads them to the other one. The inode's link count only tells where it is the guest's alone:
//! of an object another guest may have removed a name meanwhile.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;
use vhashify_sys::tmpfile::open_again;

use super::exchange::{Exchanged, Refused, Stuck};
use super::names::{Name, each_name};
use super::temporary::{self, Purpose};
use crate::guest::Guest;

/// How often a guest is walked for names that it moves on meanwhile.
pub const MOST_WALKS: u32 = 20;

/// Two inodes of which some guests were to have only names of the second one.
#[derive(Debug)]
pub struct LateNames<'a> {
    parted: OwnedFd,
    owner: OwnedFd,
    guests: Vec<&'a Guest>,
    purpose: Purpose,
}

impl<'a> LateNames<'a> {
    /// Of `parted`, which `guests` gave up for `owner`. Neither file is kept open for reading or writing, so
    /// that leases on them can end.
    ///
    /// # Errors
    /// What `open(2)` lists: too many open files.
    pub fn new(
        parted: BorrowedFd<'_>,
        owner: BorrowedFd<'_>,
        guests: Vec<&'a Guest>,
        purpose: Purpose,
    ) -> Result<Self, Errno> {
        Ok(Self {
            parted: open_again(parted, OFlags::PATH)?,
            owner: open_again(owner, OFlags::PATH)?,
            guests,
            purpose,
        })
    }

    /// The inode that was given up.
    ///
    /// # Errors
    /// What `statx(2)` lists.
    pub fn parted(&self) -> Result<Stamp, Errno> {
        Stamp::of(self.parted.as_fd())
    }

    /// Walks the guests and leads what they have of the inode to the other one.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn lead(&self) -> Result<(), Stuck> {
        let inode = self.parted()?.inode;
        self.guests
            .iter()
            .try_for_each(|guest| lead(guest, inode, self.owner.as_fd(), self.purpose))
    }

    /// As [`lead`](Self::lead), for many files with one walk of each guest. Those that could not be led, by
    /// their positions in `all`.
    #[must_use]
    pub fn lead_all(all: &[&Self]) -> Vec<(usize, Stuck)> {
        let mut failed = Vec::new();
        let mut of_guests: Vec<(&Guest, HashMap<u64, usize>)> = Vec::new();
        for (position, one) in all.iter().enumerate() {
            let inode = match one.parted() {
                Ok(stamp) => stamp.inode,
                Err(errno) => {
                    failed.push((position, errno.into()));
                    continue;
                }
            };
            for &guest in &one.guests {
                let known = of_guests.iter_mut();
                let mut known = known.filter(|(known, _)| std::ptr::eq(*known, guest));
                if let Some((_, inodes)) = known.next() {
                    inodes.insert(inode, position);
                } else {
                    of_guests.push((guest, HashMap::from([(inode, position)])));
                }
            }
        }
        for (guest, inodes) in of_guests {
            let mut late = HashMap::new();
            let walked = each_name(guest, |_, name, inode| {
                if let Some(&position) = inodes.get(&inode)
                    && !temporary::is_one(name)
                {
                    late.insert(inode, position);
                }
            });
            if walked.is_err() {
                // Each then tells its own error.
                late = inodes;
            }
            for (inode, position) in late {
                let LateNames { owner, purpose, .. } = all[position];
                let led = lead(guest, inode, owner.as_fd(), *purpose);
                failed.extend(led.err().map(|stuck| (position, stuck)));
            }
        }
        failed
    }
}

/// Leads every name by which the guest has `inode` to the one behind `owner`. A name that the guest moves
/// during the walk may be missed.
///
/// # Errors
/// [`Stuck`].
pub fn lead(
    guest: &Guest,
    inode: u64,
    owner: BorrowedFd<'_>,
    purpose: Purpose,
) -> Result<(), Stuck> {
    let owner_inode = Stamp::of(owner)?.inode;
    for _ in 0..MOST_WALKS {
        let late = names_of(guest, inode)?;
        if late.is_empty() {
            return Ok(());
        }
        for Name { directory, name } in late {
            let opened = resolve::open_directory(guest.root.as_fd(), &directory);
            let Ok(directory) = opened else {
                continue;
            };
            let directory: Rc<OwnedFd> = directory.into();
            match Exchanged::new(directory, &name, purpose, owner, owner_inode) {
                Ok(exchanged) if exchanged.holds(inode) => exchanged.finish()?,
                // Another file stood there by then: back with it, and the next walk finds the name.
                Ok(exchanged) => {
                    if let Some(moved) = exchanged.undo()? {
                        return Err(moved.keep());
                    }
                }
                // Moved on: the next walk finds it.
                Err(Refused::Changed | Refused::NameTaken) => {}
                Err(Refused::SourceGone) => return Err(Errno::NOENT.into()),
                Err(Refused::Failed(_, errno)) => return Err(errno.into()),
            }
        }
    }
    Err(Stuck::Restless)
}

/// The names of an inode in a guest, but for those of replacements.
///
/// # Errors
/// A directory that cannot be read.
pub fn names_of(guest: &Guest, inode: u64) -> Result<Vec<Name>, Errno> {
    let mut found = Vec::new();
    each_name(guest, |directory, name, of| {
        if of == inode && !temporary::is_one(name) {
            found.push(Name {
                directory: directory.to_vec(),
                name: name.to_vec(),
            });
        }
    })?;
    Ok(found)
}
