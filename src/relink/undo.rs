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
//! one of this file, and is led to the old one ([`super::stray_links`]).
//!
//! The last name may hold another file than the old one, which the guest put there in the instant
//! before the exchange. Where it has moved that name on, too, the file is put wherever our link is
//! now; where that cannot be told, it is kept under a name of its own and reported.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use super::exchange::{Exchanged, Stuck};
use super::stray_links::{LateNames, MOST_WALKS, lead, names_of};
use super::temporary::Purpose;
use crate::guest::Guest;

/// A file that was replaced and what it was replaced by.
#[derive(Debug)]
pub struct Sides<'a, 'g> {
    /// What the names led to.
    pub old: BorrowedFd<'a>,
    /// What they lead to.
    pub new: BorrowedFd<'a>,
    /// The link count of `new` without any name of this file; other guests may have moved it on.
    pub links_without: u32,
    /// Who has the file.
    pub guests: Vec<&'g Guest>,
    /// What temporary names are marked with.
    pub purpose: Purpose,
}

/// Leads every name of the file to what it led to before, the last one first.
///
/// Where other guests have names of `new`, a call that is under way can still make one of it here: what
/// comes back is for the caller to look once more, a little later.
///
/// # Errors
/// The first [`Stuck`]; all names are tried, whatever becomes of one.
pub fn take_back<'g>(
    mut names: Vec<Exchanged>,
    sides: Sides<'_, 'g>,
) -> Result<Option<LateNames<'g>>, Stuck> {
    let old = Stamp::of(sides.old)?;
    let displaced = names.pop_if(|last| !last.holds(old.inode));
    let is_alone = names.is_empty();
    // Open before anything is undone: links that the guest makes of it belong to it.
    let belongs = displaced.as_ref().map(Exchanged::open_held).transpose();
    let mut result = belongs.as_ref().map(|_| ()).map_err(|&errno| errno.into());
    let displaced = displaced.and_then(|name| stays(name.undo(), &mut result));
    let mut gone = Vec::new();
    for name in names.into_iter().rev() {
        gone.extend(stays(name.undo(), &mut result));
    }
    if let Some(name) = displaced {
        // Our link is in its place, if the others are not missing as well.
        let found = put_in_place(name, gone.is_empty(), &sides);
        result = result.and(found);
    }
    // A stuck name leads to the new inode, and is the next run's: what else does is no stray then.
    result?;
    let new = Stamp::of(sides.new)?;
    // Where others have names of it, too, the count can be right with a stray: one of theirs is gone.
    let is_shared = sides.links_without > 0;
    let has_strays = || Stamp::of(sides.new).is_ok_and(|now| now.link_count > sides.links_without);
    let owner = match &belongs {
        Ok(Some(file)) if is_alone => file.as_fd(),
        _ => sides.old,
    };
    let is_doubtful = is_shared || !gone.is_empty();
    let mut walks = 0;
    // Where other guests add names meanwhile the count stays high, and there is nothing to find.
    while walks < MOST_WALKS && (has_strays() || (walks == 0 && is_doubtful)) {
        for guest in &sides.guests {
            lead(guest, new.inode, owner, sides.purpose)?;
        }
        walks += 1;
    }
    // Not before: the old inode could have had no other name.
    gone.into_iter().for_each(Exchanged::forget);
    if !is_shared {
        // Without a name it cannot get one any more (`vfs_link`, fs/namei.c).
        return Ok(None);
    }
    let late = LateNames::new(sides.new, owner, sides.guests, sides.purpose)?;
    Ok(Some(late))
}

/// The name that could not be undone because the guest has moved it, with errors put into `result`.
fn stays(
    undone: Result<Option<Exchanged>, Stuck>,
    result: &mut Result<(), Stuck>,
) -> Option<Exchanged> {
    undone.unwrap_or_else(|stuck| {
        if result.is_ok() {
            *result = Err(stuck);
        }
        None
    })
}

/// Puts what `name` holds in the place of our link, which the guest has moved. `is_only_one` says
/// that no other name of the file is missing, so that the one that is found must be it.
fn put_in_place(
    mut name: Exchanged,
    is_only_one: bool,
    sides: &Sides<'_, '_>,
) -> Result<(), Stuck> {
    let new = Stamp::of(sides.new)?.inode;
    for _ in 0..MOST_WALKS {
        let mut strays = Vec::new();
        for guest in &sides.guests {
            strays.extend(
                names_of(guest, new)?
                    .into_iter()
                    .map(|stray| (guest, stray)),
            );
        }
        match strays.as_slice() {
            [] => {}
            [(guest, stray), rest @ ..] if is_only_one || rest.is_empty() => {
                if let Ok(directory) = resolve::open_directory(guest.root.as_fd(), &stray.directory)
                {
                    match name.swap_with(&directory, &stray.name)? {
                        None => return Ok(()),
                        Some(moved) => name = moved,
                    }
                }
            }
            _ => return Err(name.keep()),
        }
        // Missed because it is moved all the time; or the guest has removed it, and with it what it
        // took for its file.
        std::thread::sleep(Duration::from_millis(1));
    }
    name.forget();
    Ok(())
}
