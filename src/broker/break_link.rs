//! Breaks one link: a guest gets its private copy of an object, under every name that it has for it.
//!
//! ```text
//! names of the object in the guest ─ lease ─ copy ─ bytes to the disk ─ exchange each name ─ final
//!      a run works on one of them: wait                                  │ one has moved: undo all,
//!      an interrupted break: go on with its copy                         └ and begin again
//! ```
//!
//! It uses the same pieces as `deunify` ([`crate::relink`]). The next break of the same object goes on with what an
//! interrupted break left, and so does the next run after a broker's death.
//!
//! # Beside a run of `vhashify`
//!
//! A break does not wait for a run, which may take an hour, but for the file that the run works on:
//!
//! - A temporary name of sharing that serves one of the names says that the run may still undo its
//!   replacement. It is gone after some hundredths of a second. The break looks for it *after* it has
//!   seen that the name leads to the object, and the run makes it *before* the name does, so that the break misses
//!   none. Where its run was killed, the break undoes the replacement (`leftover`): the temporary name leads to the
//!   guest's file as it was, and nobody can have written to the object meanwhile.
//! - A temporary name of a copy belongs to another break, or to `deunify`, which notices the new ctime of the
//!   object and steps back. Both kinds have a place that follows from the name that they serve
//!   ([`WorkDirectory::place_of_run`]).
//!
//! # Errors
//!
//! Nothing has happened before the first exchange. `EPERM` where a name lies in a directory that is append-only or
//! immutable: no name in it can be replaced. A copy has no name until it is whole and its bytes
//! are on the disk; `ENOSPC` and `EDQUOT` come from there to the caller. After the first exchange an
//! error undoes all names, unless a writer waits for the copy already: then the break stays as if interrupted, and
//! the next one goes on with its copy.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::directory::birth;
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::{Stamp, Timestamp};
use vhashify_sys::{file_handle, resolve, tmpfile};

use super::copy::PrivateCopy;
use super::interrupted::{BrokerWork, Interrupted};
use super::leftover;
use super::link_group::{LinkGroups, Name, Placed};
use super::served::{is_served, refuse_directories_that_keep_names};
use super::walked::Payer;
use crate::guest::Guest;
use crate::relink::directory_times::DirectoryTimes;
use crate::relink::exchange::ExchangeError;
use crate::relink::swap::{Pending, Refused};
use crate::relink::temporary::{self, Purpose, Serving};
use crate::relink::undo::Pair;
use crate::relink::work_directory::WorkDirectory;
use crate::store::is_locked;

/// How long a break waits for a file that another break or a run works on.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least age at which a temporary name counts as left by a killed run or break.
const LIVELY: Duration = Duration::from_secs(1);
/// How often a break begins again without a pause, because names move.
const QUICK_TRIES: u32 = 3;
/// Breaks of one guest that can go on at once.
const INODE_LOCKS: usize = 64;
/// Copies that are remembered for descriptors that still lead to their objects.
const MOST_REMEMBERED: usize = 4096;
/// Bytes of their paths.
const MOST_REMEMBERED_BYTES: usize = 16 << 20;

/// Links of an object up to which a guest may add further ones. An inode has 65,000 at most on ext4: one guest could
/// use them up, and the others could not link a file that they take for theirs alone.
const MOST_LINKS: u32 = 1000;

/// Breaks the links of one guest.
#[derive(Debug)]
pub struct Breaker {
    guest: Guest,
    groups: LinkGroups,
    work: BrokerWork,
    inode_locks: [Mutex<()>; INODE_LOCKS],
    /// Objects whose links were broken, and the private file that this guest has instead.
    broken: Mutex<HashMap<u64, Private>>,
    /// Watchers of directories that no break uses at the moment: one for each thread, at most.
    watchers: Mutex<Vec<(Arc<WorkDirectory>, DirectoryTimes)>>,
}

/// An inode by its number and the time of its birth: no later inode has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InodeId {
    ino: u64,
    btime: Timestamp,
}

impl InodeId {
    /// `None` on a filesystem without times of birth.
    fn of(file: BorrowedFd<'_>) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
        birth(&found).map(|btime| Self {
            ino: found.stx_ino,
            btime,
        })
    }
}

/// A private file and a name that it got.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Private {
    inode: InodeId,
    name: Name,
}

/// The right to break the link to one object in a guest. No other break changes its names meanwhile.
#[derive(Debug)]
pub struct InodeGuard<'a> {
    _lock: MutexGuard<'a, ()>,
    inode: u64,
    /// The thread whose call needs the break.
    thread: u32,
}

impl Breaker {
    /// A breaker for `guest`. `store` is the directory of its filesystem's store; without one each break costs
    /// a walk of the guest.
    #[must_use]
    pub fn new(guest: Guest, store: Option<OwnedFd>) -> Self {
        Self {
            guest,
            groups: LinkGroups::new(store),
            work: BrokerWork::default(),
            inode_locks: [const { Mutex::new(()) }; INODE_LOCKS],
            broken: Mutex::default(),
            watchers: Mutex::default(),
        }
    }

    /// Has walks of the guest count where `payer` says.
    #[must_use]
    pub fn paid_by(mut self, payer: Payer) -> Self {
        self.groups.have_paid(payer);
        self
    }

    /// The guest.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Waits until no other call has the link to this object broken, for a call of this `thread`. A caller that has
    /// resolved a path resolves it again now: it may lead to the copy that the other call has made.
    #[must_use]
    pub fn lock_inode(&self, inode: u64, thread: u32) -> InodeGuard<'_> {
        let lock = usize::try_from(inode).unwrap_or(0) % INODE_LOCKS;
        let lock = self.inode_locks[lock].lock();
        InodeGuard {
            _lock: lock.unwrap_or_else(PoisonError::into_inner),
            inode,
            thread,
        }
    }

    /// Whether the call `number` of the guard's thread may go on and give the object a further name in this
    /// guest. Else its link is to be broken first.
    #[must_use]
    pub fn may_be_linked(
        &self,
        guard: &InodeGuard<'_>,
        object: BorrowedFd<'_>,
        number: i32,
    ) -> bool {
        Stamp::of(object).is_ok_and(|stamp| stamp.link_count < MOST_LINKS)
            && self
                .groups
                .pending_links()
                .begin(guard.inode, guard.thread, number)
    }

    /// The private file that took the place of the object, for a descriptor that was opened before.
    #[must_use]
    pub fn copy_of(&self, _guard: &InodeGuard<'_>, object: u64) -> Option<OwnedFd> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let Private { inode, name } = broken.get(&object)?.clone();
        drop(broken);
        let directory = resolve::open_directory(self.guest.root.as_fd(), &name.directory).ok()?;
        let file = resolve::open_file(directory.as_fd(), &name.name).ok()?;
        (InodeId::of(file.as_fd()) == Some(inode)).then_some(file)
    }

    /// Gives the guest a private copy of the object in the place of every name that the guest has for it, and returns
    /// the copy open for reading. Where the guest has no name for it any more (it removed the file and holds a
    /// descriptor), the copy has none either.
    ///
    /// # Errors
    /// The call that failed: `ENOSPC`, `EDQUOT`; `EPERM` for a directory that is append-only or immutable; `EBUSY` when
    /// a process outside of all guests has the object open for writing, or the guest moves the names on and on.
    pub fn break_link(
        &self,
        guard: &InodeGuard<'_>,
        object: BorrowedFd<'_>,
        hint: Option<&Name>,
    ) -> Result<OwnedFd, FailedCall> {
        let begun = Instant::now();
        let pending = self.groups.pending_links();
        pending
            .wait(guard.inode, guard.thread)
            .map_err(FailedCall::of("linkat"))?;
        let own = self
            .through_own_mount(object)
            .map_err(FailedCall::of("open_by_handle_at"))?;
        let object = own.as_fd();
        let mut tries = 0;
        loop {
            if let Some(private) = self.attempt(guard, object, hint, begun.elapsed(), tries)? {
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

    /// Remembers the private file that has taken the place of an object at `places`.
    fn remember(&self, object: u64, private: BorrowedFd<'_>, places: &[Placed]) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        // A guest chooses how long its paths are.
        let bytes = |known: &HashMap<u64, Private>| -> usize {
            known
                .values()
                .map(|private| private.name.directory.len())
                .sum()
        };
        if broken.len() >= MOST_REMEMBERED || bytes(&broken) > MOST_REMEMBERED_BYTES {
            broken.clear();
        }
        broken.remove(&object);
        let private = InodeId::of(private).zip(places.first());
        broken.extend(private.map(|(inode, place)| {
            let name = place.name.clone();
            (object, Private { inode, name })
        }));
    }

    /// Opens the object through the mount of the guest's root directory. The caller's own mount may show other owners
    /// than the object has, and the copy is to have the same.
    fn through_own_mount(&self, object: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let readable = OFlags::RDONLY | OFlags::NOATIME;
        match file_handle::through(object, self.guest.root.as_fd(), readable) {
            // A filesystem without file handles: none of these shows other owners.
            Err(Errno::OPNOTSUPP) => tmpfile::open_again(object, readable),
            opened => opened,
        }
    }

    /// One try. `None` while another break or a run works on the file, or when the guest moved its names meanwhile.
    fn attempt(
        &self,
        guard: &InodeGuard<'_>,
        object: BorrowedFd<'_>,
        hint: Option<&Name>,
        waited: Duration,
        tries: u32,
    ) -> Result<Option<OwnedFd>, FailedCall> {
        let before = Stamp::of(object).map_err(FailedCall::of("statx"))?;
        let Some(found) = self
            .groups
            .names(&self.guest, guard.inode, hint, guard.thread)?
        else {
            return Ok(None);
        };
        // An earlier version's: they are the next run's to tidy up.
        let is_place = |placed: &Placed| !temporary::is_one(&placed.name.name);
        let places: Vec<Placed> = found.into_iter().filter(is_place).collect();
        refuse_directories_that_keep_names(&places)?;
        let work = self.work.open(&self.guest, self.groups.store())?;
        let is_left = || waited > LIVELY && !self.groups.store().is_some_and(is_locked);
        for place in &places {
            if is_served(&work, &self.guest, place, guard.inode, is_left)? {
                return Ok(None);
            }
        }
        let (inode, run) = (guard.inode, self.groups.run());
        let Some(interrupted) = self.work.of(&self.guest, inode, run, is_left)? else {
            return Ok(None);
        };
        let stamp = Stamp::of(object).map_err(FailedCall::of("statx"))?;
        if stamp.ctime != before.ctime && tries < QUICK_TRIES {
            // The guest may have moved a name past the walk; or another guest moved its own, or somebody has taken a
            // copy back.
            return Ok(None);
        }
        let begun = interrupted.iter().find_map(|one| one.copy(&self.guest));
        let replaced = self.replace(guard, object, &stamp, &places, begun, &work)?;
        if let Some(private) = &replaced {
            for one in &interrupted {
                leftover::unlink(&one.temporary)?;
            }
            self.work.forget(guard.inode);
            self.remember(guard.inode, private.as_fd(), &places);
        }
        Ok(replaced)
    }

    /// Replaces the object by its copy at all `places`: by `begun`, the copy of an interrupted break, or a new one.
    fn replace(
        &self,
        guard: &InodeGuard<'_>,
        object: BorrowedFd<'_>,
        stamp: &Stamp,
        places: &[Placed],
        begun: Option<OwnedFd>,
        work: &Arc<WorkDirectory>,
    ) -> Result<Option<OwnedFd>, FailedCall> {
        let readable = tmpfile::open_again(object, OFlags::RDONLY | OFlags::NOATIME)
            .map_err(FailedCall::of("open"))?;
        let leased = match LeasedFile::acquire(readable) {
            Ok(leased) => leased,
            // A process has it open for writing, which none in a guest can under a guard: it may end soon.
            Err(refused) if refused.errno == Errno::AGAIN => return Ok(None),
            Err(refused) => return Err(FailedCall::of("fcntl(F_SETLEASE)")(refused.errno)),
        };
        let copy = if let Some(file) = begun {
            PrivateCopy { file, lease: None }
        } else {
            let directory = places
                .first()
                .map_or(self.guest.root.as_fd(), |first| first.directory.as_fd());
            let Some(copy) = PrivateCopy::make(&leased, stamp, directory, guard.inode)? else {
                return Ok(None);
            };
            copy
        };
        let inode = Stamp::of(copy.file.as_fd())
            .map_err(FailedCall::of("statx"))?
            .inode;
        let times = self.watch(work);
        let replaced = match copy.swap(inode, guard.inode, places, work, &times) {
            Ok(pending) => {
                copy.finish(pending);
                Ok(Some(()))
            }
            Err(Refused { why, pending, .. }) => {
                self.undo(object, guard.inode, &copy, places, pending, work);
                match why {
                    // The next try makes the work directory again.
                    ExchangeError::WorkDirectoryLost
                    | ExchangeError::Changed
                    | ExchangeError::NameTaken => Ok(None),
                    ExchangeError::DirectoryKeepsNames => {
                        Err(FailedCall::of("renameat2")(Errno::PERM))
                    }
                    ExchangeError::SourceGone => Err(FailedCall::of("linkat")(Errno::IO)),
                    ExchangeError::Failed(failed) => Err(failed),
                }
            }
        };
        times.restore_and_clear(|number| {
            let place = usize::try_from(number).ok().and_then(|at| places.get(at));
            place
                .map(|place| Rc::clone(&place.directory))
                .ok_or(Errno::NOENT)
        });
        self.watchers().push((Arc::clone(work), times));
        Ok(replaced?.map(|()| copy.file))
    }

    /// Undoes the exchanges at the first of `places`, unless a writer waits for the copy.
    fn undo(
        &self,
        object: BorrowedFd<'_>,
        inode: u64,
        copy: &PrivateCopy,
        places: &[Placed],
        pending: Pending,
        work: &WorkDirectory,
    ) {
        let has_no_writer = copy.lease.as_ref().is_some_and(LeasedFile::has_no_writer);
        if !has_no_writer {
            let (left, given_way) = pending.leave(inode);
            let left = left.into_iter().zip(places);
            self.work.add(left.map(|(temporary, place)| Interrupted {
                temporary,
                directory: place.name.directory.clone(),
                object: inode,
            }));
            if let Err(stuck) = given_way {
                tracing::warn!(%stuck, "a guest moved files while a link was broken");
            }
            return;
        }
        let pair = Pair {
            work,
            old: object,
            new: copy.file.as_fd(),
            links_without: 0,
            guests: vec![&self.guest],
            serving: Serving {
                purpose: Purpose::Own,
                object: inode,
            },
        };
        if let Err(stuck) = pending.undo(pair) {
            tracing::warn!(
                ?stuck,
                "a break could not be taken back; the next run does it"
            );
        }
    }

    /// A watcher of directories that no other break uses.
    fn watch(&self, work: &Arc<WorkDirectory>) -> DirectoryTimes {
        while let Some((of, times)) = self.watchers().pop() {
            // Of one that was lost it sees nothing.
            if Arc::ptr_eq(&of, work) {
                return times;
            }
        }
        DirectoryTimes::new(work)
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<(Arc<WorkDirectory>, DirectoryTimes)>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
