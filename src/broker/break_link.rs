//! Breaks one link: a guest gets its private copy of an object, under every name that it has for it.
//!
//! ```text
//! names of the object in the guest ─ lease ─ copy ─ bytes to the disk ─ exchange each name ─ final
//!      a run at work on one of them: wait                                │ one has moved: take all back,
//!      an interrupted break: go on with its copy                         └ and begin again
//! ```
//!
//! The same engine as `deunify`'s (`unify::replace`, [`private_copy`]), with the
//! same temporary names: what an interrupted break leaves, the next break of the same object goes on
//! with, or the next run does (`src/unify/recover.rs`, "a copy goes forward").
//!
//! # Beside a run of `vhashify`
//!
//! A break does not wait for a run, which may take an hour, but for the file that the run has in hand:
//!
//! - A temporary name of sharing beside one of the names says that the run may still take its
//!   replacement back. It is gone after some hundredths of a second. It is looked for *after* the name
//!   was seen to lead to the object, and the run makes it *before* the name does, so that none can be
//!   missed. Where its run was killed, the replacement is taken back here: what it holds is the guest's
//!   file as it was, and nobody can have written to the object meanwhile.
//! - A temporary name of a copy is another break's, or `deunify`'s, which notices the new ctime of the
//!   object and steps back.
//!
//! # What may fail, and how it is then
//!
//! Until the first exchange nothing has happened. A copy has no name until it is whole and its bytes
//! are with the disk; `ENOSPC` and `EDQUOT` come from there to the caller. After the first exchange an
//! error takes all names back, unless somebody waits to write to the copy already: then it stays as it
//! is, as if interrupted, and the next break goes on with it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::{Stamp, Timestamp};
use vhashify_sys::{file_handle, flush, resolve, tmpfile};

use super::link_group::{LinkGroups, Name, Placed};
use crate::guest::Guest;
use crate::relink::copy_mark;
use crate::relink::directory_times::DirectoryTimes;
use crate::relink::exchange::{ExchangeError, Exchanged, UndoError, exchange, preserve};
use crate::relink::private_copy::private_copy;
use crate::relink::temporary::{self, Purpose};
use crate::relink::undo::{self, Pair};
use crate::store::is_locked;

/// How long a file that somebody else has in hand is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old the leftover of a killed run or break is taken to be at least.
const LIVELY: Duration = Duration::from_secs(1);
/// How often a break begins again because names move, without a pause.
const QUICK_TRIES: u32 = 3;
/// Breaks of one guest that can go on at once.
const TURNS: usize = 64;
/// Copies that are remembered for descriptors that still lead to their objects.
const MOST_REMEMBERED: usize = 4096;

/// Links of an object to which a guest may add. An inode has 65,000 at most on ext4: one guest could use them
/// up, and the others could not link what they believe to be theirs alone.
const MOST_LINKS: u32 = 1000;

/// Breaks the links of one guest.
#[derive(Debug)]
pub struct Breaker {
    guest: Guest,
    groups: LinkGroups,
    turns: [Mutex<()>; TURNS],
    /// Objects whose links were broken, and the private file that this guest has instead.
    broken: Mutex<HashMap<u64, Born>>,
    /// Watchers of directories that no break uses at the moment: one for each thread, at most.
    watchers: Mutex<Vec<DirectoryTimes>>,
}

/// An inode by a name that no later one can have: its number and when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Born {
    inode: u64,
    at: Timestamp,
}

impl Born {
    /// `None` on a filesystem that does not know when.
    fn of(file: BorrowedFd<'_>) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
        let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        is_told.then(|| Self {
            inode: found.stx_ino,
            at: found.stx_btime.into(),
        })
    }
}

/// The right to break the link to one object in a guest: what is found under it stays.
#[derive(Debug)]
pub struct Turn<'a> {
    _held: MutexGuard<'a, ()>,
    inode: u64,
    /// Whose call it is for.
    thread: u32,
}

impl Breaker {
    /// Of `guest`; `store` is the directory of its filesystem's store, without which each break costs
    /// a walk of the guest.
    #[must_use]
    pub fn new(guest: Guest, store: Option<OwnedFd>) -> Self {
        Self {
            guest,
            groups: LinkGroups::new(store),
            turns: [const { Mutex::new(()) }; TURNS],
            broken: Mutex::default(),
            watchers: Mutex::default(),
        }
    }

    /// The guest.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Waits until no other call has the link to this object broken, for a call of this `thread`. Whoever came by
    /// a path resolves it again now: it may lead to the copy that the other has made.
    #[must_use]
    pub fn turn(&self, inode: u64, thread: u32) -> Turn<'_> {
        let turn = usize::try_from(inode).unwrap_or(0) % TURNS;
        let held = self.turns[turn].lock();
        Turn {
            _held: held.unwrap_or_else(PoisonError::into_inner),
            inode,
            thread,
        }
    }

    /// Whether the call `number`, for which this turn is, may go on and give the object a further name in this
    /// guest. Else its link is to be broken first.
    #[must_use]
    pub fn may_be_linked(&self, turn: &Turn<'_>, object: BorrowedFd<'_>, number: i32) -> bool {
        Stamp::of(object).is_ok_and(|stamp| stamp.link_count < MOST_LINKS)
            && self
                .groups
                .new_names()
                .expect(turn.inode, turn.thread, number)
    }

    /// The private file that took the place of the object, where a descriptor was opened before.
    #[must_use]
    pub fn copy_of(&self, _turn: &Turn<'_>, object: u64, name: &Name) -> Option<OwnedFd> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let private = *broken.get(&object)?;
        drop(broken);
        let directory = resolve::open_directory(self.guest.root.as_fd(), &name.directory).ok()?;
        // The file may be known by the temporary name behind which the object went.
        let served = if temporary::is_one(&name.name) {
            let names = resolve::names(directory.as_fd()).ok()?;
            names
                .into_iter()
                .find(|served| temporary::of(served, Purpose::Own) == name.name)?
        } else {
            name.name.clone()
        };
        let file = resolve::open_file(directory.as_fd(), &served).ok()?;
        (Born::of(file.as_fd()) == Some(private)).then_some(file)
    }

    /// Gives the guest a private copy of the object, open for reading here, in the place of every name
    /// that the guest has for it. Where it has none any more (it removed the file and holds a
    /// descriptor), the copy has none either.
    ///
    /// # Errors
    /// The call that failed: `ENOSPC`, `EDQUOT`; `EBUSY` when a process outside of all guests has the
    /// object open for writing, or the names are moved on and on.
    pub fn break_link(
        &self,
        turn: &Turn<'_>,
        object: BorrowedFd<'_>,
        hint: Option<&Name>,
    ) -> Result<OwnedFd, FailedCall> {
        let begun = Instant::now();
        let new_names = self.groups.new_names();
        new_names
            .settle(turn.inode, turn.thread)
            .map_err(FailedCall::of("linkat"))?;
        let own = self
            .own(object)
            .map_err(FailedCall::of("open_by_handle_at"))?;
        let object = own.as_fd();
        let mut tries = 0;
        loop {
            if let Some(private) = self.attempt(turn, object, hint, begun.elapsed(), tries)? {
                let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
                if broken.len() >= MOST_REMEMBERED {
                    broken.clear();
                }
                broken.remove(&turn.inode);
                broken.extend(Born::of(private.as_fd()).map(|born| (turn.inode, born)));
                return Ok(private);
            }
            if begun.elapsed() > PATIENCE {
                return Err(FailedCall::of("renameat2")(Errno::BUSY));
            }
            tries += 1;
            if tries > QUICK_TRIES {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// The object through the mount of the guest's root directory. The caller came to it through a mount
    /// of its own, which may show it with other owners than it has, and the copy is to have the same.
    fn own(&self, object: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let readable = OFlags::RDONLY | OFlags::NOATIME;
        match file_handle::through(object, self.guest.root.as_fd(), readable) {
            // A filesystem without handles; none that shows other owners is one.
            Err(Errno::OPNOTSUPP) => tmpfile::open_again(object, readable),
            opened => opened,
        }
    }

    /// `None` when somebody else has the file in hand, or the guest moved its names meanwhile.
    fn attempt(
        &self,
        turn: &Turn<'_>,
        object: BorrowedFd<'_>,
        hint: Option<&Name>,
        waited: Duration,
        tries: u32,
    ) -> Result<Option<OwnedFd>, FailedCall> {
        let before = Stamp::of(object).map_err(FailedCall::of("statx"))?;
        let Some(found) = self.groups.names(&self.guest, turn.inode, hint)? else {
            return Ok(None);
        };
        let stamp = Stamp::of(object).map_err(FailedCall::of("statx"))?;
        if stamp.ctime != before.ctime && tries < QUICK_TRIES {
            // A name may have been moved past the walk; or it was another guest's.
            return Ok(None);
        }
        let (temporaries, places): (Vec<Placed>, Vec<Placed>) = found
            .into_iter()
            .partition(|placed| temporary::is_one(&placed.name.name));
        let is_left = || waited > LIVELY && !self.groups.store().is_some_and(is_locked);
        for Placed { directory, name } in &places {
            let sharing = temporary::of(&name.name, Purpose::Share);
            if resolve::inode_of(directory.as_fd(), &sharing).is_ok() {
                if is_left() {
                    put_back(directory, &name.name, &sharing, turn.inode)?;
                }
                return Ok(None);
            }
            let own = temporary::of(&name.name, Purpose::Own);
            if resolve::inode_of(directory.as_fd(), &own).is_ok() {
                if is_left() {
                    remove_copy(directory, &own, turn.inode)?;
                }
                return Ok(None);
            }
        }
        let is_copys = |left: &&Placed| temporary::purpose(&left.name.name) == Some(Purpose::Own);
        let leftovers: Vec<&Placed> = temporaries.iter().filter(is_copys).collect();
        if !leftovers.is_empty() && !is_left() {
            return Ok(None);
        }
        let begun = leftovers
            .iter()
            .find_map(|left| interrupted_copy(&left.directory, &left.name.name, turn.inode));
        let replaced = self.replace(turn, object, &stamp, &places, begun)?;
        if replaced.is_some() {
            for left in leftovers {
                unlink(&left.directory, &left.name.name)?;
            }
        }
        Ok(replaced)
    }

    fn replace(
        &self,
        turn: &Turn<'_>,
        object: BorrowedFd<'_>,
        stamp: &Stamp,
        places: &[Placed],
        begun: Option<OwnedFd>,
    ) -> Result<Option<OwnedFd>, FailedCall> {
        let readable = tmpfile::open_again(object, OFlags::RDONLY | OFlags::NOATIME)
            .map_err(FailedCall::of("open"))?;
        let leased = match LeasedFile::acquire(readable) {
            Ok(leased) => leased,
            // Open for writing, which no guest under a guard can have it: soon it may not be.
            Err(refused) if refused.errno == Errno::AGAIN => return Ok(None),
            Err(refused) => return Err(FailedCall::of("fcntl(F_SETLEASE)")(refused.errno)),
        };
        let directory = places
            .first()
            .map_or(self.guest.root.as_fd(), |first| first.directory.as_fd());
        let (private, lease) = if let Some(private) = begun {
            (private, None)
        } else {
            let copy = match private_copy(&leased, stamp, directory) {
                Ok(copy) => copy,
                // A child of this process has it open between fork and exec.
                Err(FailedCall {
                    errno: Errno::AGAIN,
                    ..
                }) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            copy_mark::mark(&copy, turn.inode).map_err(FailedCall::of("fsetxattr"))?;
            fault::at(Point::CopySync, || flush::settle(&copy))
                .map_err(FailedCall::of("sync_file_range"))?;
            let file = copy.as_fd().try_clone_to_owned();
            (
                file.map_err(|error| FailedCall::from(("dup", error)))?,
                Some(copy),
            )
        };
        let inode = Stamp::of(private.as_fd())
            .map_err(FailedCall::of("statx"))?
            .inode;
        let times = self.watchers().pop().unwrap_or_default();
        let mut exchanged = Vec::with_capacity(places.len());
        let mut outcome = Ok(());
        for Placed { directory, name } in places {
            // By the first of the names that are in the directory.
            let first = places
                .iter()
                .position(|other| other.name.directory == name.directory);
            let number = first.and_then(|at| u32::try_from(at).ok());
            times.begin(number.unwrap_or(0), directory.as_fd());
            let new = private.as_fd();
            let done = Exchanged::new(Rc::clone(directory), &name.name, Purpose::Own, new, inode);
            outcome = match done {
                Ok(done) => {
                    let is_meant = done.displaced_inode() == turn.inode;
                    exchanged.push(done);
                    if is_meant {
                        continue;
                    }
                    Err(ExchangeError::Changed)
                }
                Err(refused) => Err(refused),
            };
            break;
        }
        let open = |number: u32| {
            let place = usize::try_from(number).ok().and_then(|at| places.get(at));
            place
                .map(|place| Rc::clone(&place.directory))
                .ok_or(Errno::NOENT)
        };
        if let Err(refused) = outcome {
            let is_waited_for = lease.as_ref().is_none_or(|lease| !lease.has_no_writer());
            if !is_waited_for {
                let pair = Pair {
                    old: object,
                    new: private.as_fd(),
                    links_without: 0,
                    guests: vec![&self.guest],
                    purpose: Purpose::Own,
                };
                if let Err(stuck) = undo::undo(exchanged, pair) {
                    tracing::warn!(
                        ?stuck,
                        "a break could not be taken back; the next run does it"
                    );
                }
            }
            times.restore_and_clear(open);
            self.watchers().push(times);
            return match refused {
                ExchangeError::Changed | ExchangeError::NameTaken => Ok(None),
                ExchangeError::SourceGone => Err(FailedCall::of("linkat")(Errno::IO)),
                ExchangeError::Failed(failed) => Err(failed),
            };
        }
        // Where it stays, so do the temporary names: the next break or run goes on with both.
        let is_unmarked = copy_mark::unmark(&private).is_ok();
        for done in exchanged.into_iter().filter(|_| is_unmarked) {
            if let Err(errno) = done.finish() {
                // It leads to the object, and is the next run's to remove.
                tracing::debug!(%errno, "a temporary name stays until the next run");
            }
        }
        times.restore_and_clear(open);
        self.watchers().push(times);
        Ok(Some(private))
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<DirectoryTimes>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a killed run's replacement of `name` by the object back: the guest's own file is behind
/// `temporary`. What is there and can be no run's stays.
fn put_back(
    directory: &OwnedFd,
    name: &[u8],
    temporary: &[u8],
    object: u64,
) -> Result<(), FailedCall> {
    let Ok(held) = resolve::open_file(directory.as_fd(), temporary) else {
        return Ok(());
    };
    match flags::read(held.as_fd()) {
        // An object's link that was not exchanged yet.
        Ok(Flags::Marked) => return unlink(directory, temporary),
        Ok(Flags::Plain) => {}
        _ => return Ok(()),
    }
    let swap = || {
        fault::at(Point::RecoverExchange, || {
            exchange(directory, temporary, directory, name)
        })
        .map_err(FailedCall::of("renameat2"))
    };
    swap()?;
    if resolve::inode_of(directory.as_fd(), temporary) == Ok(object) {
        return unlink(directory, temporary);
    }
    // The guest has put a newer file there in that instant: back with it.
    swap()
}

/// The copy that an interrupted break has put in the place of the name that `left` serves, whatever the
/// guest has written to it since. What the guest has put there instead is none.
fn interrupted_copy(directory: &OwnedFd, left: &[u8], object: u64) -> Option<OwnedFd> {
    let names = resolve::names(directory.as_fd()).ok()?;
    let served = names
        .into_iter()
        .find(|served| temporary::of(served, Purpose::Own) == left)?;
    let file = resolve::open_file(directory.as_fd(), &served).ok()?;
    (copy_mark::of(file.as_fd()) == Ok(Some(object))).then_some(file)
}

/// Removes the copy of a break that was interrupted before its exchange. Where something else has the
/// temporary name, the guest had put it in the place of the object in the instant of the exchange, and
/// it has no other name: it gets one.
fn remove_copy(directory: &OwnedFd, temporary: &[u8], object: u64) -> Result<(), FailedCall> {
    let found = resolve::open_file(directory.as_fd(), temporary);
    if found.is_ok_and(|file| copy_mark::of(file.as_fd()) == Ok(Some(object))) {
        return unlink(directory, temporary);
    }
    match preserve(directory, temporary) {
        UndoError::Failed(errno) => Err(FailedCall::of("renameat2")(errno)),
        stuck => {
            tracing::warn!(
                ?stuck,
                "a file of a guest lost its place in an interrupted break"
            );
            Ok(())
        }
    }
}

fn unlink(directory: &OwnedFd, name: &[u8]) -> Result<(), FailedCall> {
    let unlink = || rustix::fs::unlinkat(directory, name, AtFlags::empty());
    match fault::at(Point::RecoverUnlink, unlink) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(FailedCall::of("unlinkat")(errno)),
    }
}
