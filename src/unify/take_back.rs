//! Takes the replacement of one file back, under whatever names the guest has it by now.
//!
//! Between the exchange and the decision to take it back, the guest may have moved a name, or have
//! given the file another one (`ln`), and has so done it to the new inode:
//!
//! ```text
//! N ─▶ new    ln N M    N ─▶ new    undo    N ─▶ old      the guest made M another name of N,
//! T ─▶ old   ───────▶   M ─▶ new   ──────▶  M ─▶ new      and they are two files now
//!                       T ─▶ old
//! ```
//!
//! No name of the guest led to the new inode before: an object is linked into a guest by one file,
//! and a private copy has just been made. So *every* name by which the guest has the new inode is
//! one of this file, and is led to the old one.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::names::each_name;
use super::replace::{Exchanged, Refused, Stuck};
use super::temporary::{self, Purpose};
use crate::guest::Guest;
use crate::sys::beneath;
use crate::sys::stamp::Stamp;

/// How often a guest is walked for names that it moves on meanwhile.
pub const MOST_WALKS: u32 = 20;

/// A file that was replaced and what it was replaced by.
#[derive(Debug)]
pub struct Sides<'a> {
    /// What the names led to.
    pub old: BorrowedFd<'a>,
    /// What they lead to.
    pub new: BorrowedFd<'a>,
    /// The link count of `new` without any name of this file.
    pub links_without: u32,
    /// Who has the file.
    pub guests: Vec<&'a Guest>,
    /// What temporary names are marked with.
    pub purpose: Purpose,
}

/// Leads every name of the file to the old inode again, the last one first.
///
/// # Errors
/// The first [`Stuck`]; all names are tried, whatever becomes of one.
pub fn take_back(names: Vec<Exchanged>, sides: &Sides<'_>) -> Result<(), Stuck> {
    let mut result = Ok(());
    let mut gone = Vec::new();
    for name in names.into_iter().rev() {
        match name.undo() {
            Ok(name) => gone.extend(name),
            Err(stuck) => result = result.and(Err(stuck)),
        }
    }
    // A stuck name leads to the new inode, and is the next run's: what else does is no stray then.
    result?;
    let new = Stamp::of(sides.new).map_err(Stuck)?;
    let has_strays = || Stamp::of(sides.new).is_ok_and(|now| now.link_count > sides.links_without);
    let mut walks = 0;
    // Where other guests add names meanwhile the count stays high, and there is nothing to find.
    while walks < MOST_WALKS && (has_strays() || (walks == 0 && !gone.is_empty())) {
        for guest in &sides.guests {
            lead_back(guest, new.inode, sides.old, sides.purpose)?;
        }
        walks += 1;
    }
    // Not before: the old inode could have had no other name.
    gone.into_iter().for_each(Exchanged::forget);
    Ok(())
}

/// Leads every name by which the guest has the inode `new` to the one behind `old`; whether there
/// was any. A name that the guest moves during the walk may be missed.
///
/// # Errors
/// [`Stuck`], also where the guest moves a name on and on.
pub fn lead_back(
    guest: &Guest,
    new: u64,
    old: BorrowedFd<'_>,
    purpose: Purpose,
) -> Result<bool, Stuck> {
    let inode = Stamp::of(old).map_err(Stuck)?.inode;
    let mut is_any = false;
    for _ in 0..MOST_WALKS {
        let strays = names_of(guest, new).map_err(Stuck)?;
        if strays.is_empty() {
            return Ok(is_any);
        }
        for stray in strays {
            let opened = beneath::open_directory(guest.root.as_fd(), &stray.directory);
            let Ok(directory) = opened else {
                continue;
            };
            let directory = directory.into();
            match Exchanged::new(guest, directory, &stray.name, purpose, new, old, inode) {
                Ok(exchanged) => {
                    exchanged.finish().map_err(Stuck)?;
                    is_any = true;
                }
                // Moved on: the next walk finds it.
                Err(Refused::Changed | Refused::NameTaken) => {}
                Err(Refused::Stuck(stuck)) => return Err(stuck),
                Err(Refused::SourceGone) => return Err(Stuck(Errno::NOENT)),
                Err(Refused::Failed(_, errno)) => return Err(Stuck(errno)),
            }
        }
    }
    Err(Stuck(Errno::BUSY))
}

/// A name in a guest.
struct Name {
    /// The path of its directory, below the vdir.
    directory: Vec<u8>,
    name: Vec<u8>,
}

/// The names of an inode in a guest.
fn names_of(guest: &Guest, inode: u64) -> Result<Vec<Name>, Errno> {
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
