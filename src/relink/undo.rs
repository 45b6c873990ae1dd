//! Undoes the replacement of one file, under whatever names the guest has it by now.
//!
//! Between the exchange and its undoing the guest may have moved a name, or have given the file another
//! one (`ln`). It has then moved or linked the new inode:
//!
//! ```text
//! N ─▶ new    ln N M    N ─▶ new    undo    N ─▶ old      the guest made M another name of N,
//! T ─▶ old   ───────▶   M ─▶ new   ──────▶  M ─▶ new      and they are two files now
//!                       T ─▶ old
//! ```
//!
//! No name of the guest led to the new inode before: one file of a guest links an object, and a private
//! copy has just been made. So *every* name by which the guest has the new inode is a name of this file,
//! and is relinked to the old one ([`super::stray_links`]).
//!
//! The last temporary name may lead to another file than the old one: the guest put that file there in the
//! instant of the exchange. Where the guest has moved the name on, too, the file goes where our link
//! is now. Where that cannot be found out, the file gets a name of its own and is reported.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use super::exchange::{Exchanged, UndoError};
use super::stray_links::{MOST_WALKS, StrayLinks, names_of, relink};
use super::temporary::Serving;
use super::work_directory::WorkDirectory;
use crate::guest::Guest;

/// A file that was replaced, and the inode that replaced it.
#[derive(Debug)]
pub struct Pair<'a, 'g> {
    /// Where the temporary names of the replacement lie.
    pub work: &'g WorkDirectory,
    /// The inode that the names led to.
    pub old: BorrowedFd<'a>,
    /// The inode that they lead to.
    pub new: BorrowedFd<'a>,
    /// The link count of `new` without any name of this file; other guests may have changed it since.
    pub links_without: u32,
    /// The guests that have the file.
    pub guests: Vec<&'g Guest>,
    /// What the temporary names of the replacement say.
    pub serving: Serving,
}

/// Relinks every name of the file to its old inode, the last one first.
///
/// Where other guests have names of `new`, a `link(2)` that is under way can still make one of it here. The caller
/// relinks the [`StrayLinks`] that this returns once more, a little later.
///
/// # Errors
/// The first [`UndoError`]; all names are tried, whichever fails.
pub fn undo<'g>(
    mut names: Vec<Exchanged>,
    pair: Pair<'_, 'g>,
) -> Result<Option<StrayLinks<'g>>, UndoError> {
    let old = Stamp::of(pair.old)?;
    let intruder = names.pop_if(|last| last.displaced_inode() != old.inode);
    let is_alone = names.is_empty();
    // Opened before anything is undone: links that the guest makes of it are links of this file.
    let opened = intruder.as_ref().map(Exchanged::open_displaced).transpose();
    let mut result = opened.as_ref().map(|_| ()).map_err(|&errno| errno.into());
    let intruder = intruder.and_then(|name| moved(name.undo(), &mut result));
    let mut gone = Vec::new();
    for name in names.into_iter().rev() {
        gone.extend(moved(name.undo(), &mut result));
    }
    if let Some(name) = intruder {
        // Our link is in its place, unless the guest has moved other names of the file as well.
        let placed = put_in_place(name, gone.is_empty(), &pair);
        result = result.and(placed);
    }
    // A name that could not be undone leads to the new inode until the next run: no name is a stray then.
    result?;
    let new = Stamp::of(pair.new)?;
    // Where other guests have names of it, the count can be right in spite of a stray: one of theirs is gone.
    let is_shared = pair.links_without > 0;
    let has_strays = || Stamp::of(pair.new).is_ok_and(|now| now.link_count > pair.links_without);
    let owner = match &opened {
        Ok(Some(file)) if is_alone => file.as_fd(),
        _ => pair.old,
    };
    let is_doubtful = is_shared || !gone.is_empty();
    let mut walks = 0;
    // Where other guests add names meanwhile the count stays high, although there is nothing to find.
    while walks < MOST_WALKS && (has_strays() || (walks == 0 && is_doubtful)) {
        for guest in &pair.guests {
            relink(pair.work, guest, new.inode, owner, pair.serving)?;
        }
        walks += 1;
    }
    // Only now: it may have been the old inode's last name.
    gone.into_iter().for_each(Exchanged::discard);
    if !is_shared {
        // An inode without a name cannot get one any more (`vfs_link`, fs/namei.c).
        return Ok(None);
    }
    let strays = StrayLinks::new(pair.work, pair.new, owner, pair.guests, pair.serving)?;
    Ok(Some(strays))
}

/// The exchange that could not be undone because the guest has moved its name. Puts the first error into `result`.
fn moved(
    undone: Result<Option<Exchanged>, UndoError>,
    result: &mut Result<(), UndoError>,
) -> Option<Exchanged> {
    undone.unwrap_or_else(|error| {
        if result.is_ok() {
            *result = Err(error);
        }
        None
    })
}

/// Puts the displaced inode of `name` in the place of our link, which the guest has moved. `is_only_one` says
/// that no other name of the file is missing, so that the link that is found must be this one.
fn put_in_place(
    mut name: Exchanged,
    is_only_one: bool,
    pair: &Pair<'_, '_>,
) -> Result<(), UndoError> {
    let new = Stamp::of(pair.new)?.inode;
    for _ in 0..MOST_WALKS {
        let mut strays = Vec::new();
        for guest in &pair.guests {
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
            _ => return Err(name.preserve()),
        }
        // The walk missed our link because the guest moves it all the time; or the guest has removed it, and so the
        // file that it took it for.
        std::thread::sleep(Duration::from_millis(1));
    }
    name.discard();
    Ok(())
}
