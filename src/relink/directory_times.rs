//! Puts back the mtime of directories in which names were replaced.
//!
//! A link and a rename give their directory a new mtime. Font caches, module caches and backups take it for
//! a sign of new or removed files and would do all their work again. So each directory gets its old mtime back after
//! the last replacement in it, unless the guest changed the directory meanwhile: then the new mtime is right.
//!
//! ```text
//! watch (inotify) ─ look at mtime ─ replace names … ─ events? ─┬─ ours alone: set mtime ─ events? ─┬─ none: done
//!                                                              └─ others, too: leave it            └─ some: now
//! ```
//!
//! The watch separates our own changes from the guest's: each event of ours is one half of a move whose other half is in
//! the work directory, which is watched, too. The look after the setting finds a guest's change in the moment before it:
//! such a directory gets the current time.
//!
//! A killed run restores no mtime. Content and metadata of files do not depend on this.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Timespec, UTIME_NOW};
use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::procfs::descriptor_path;
use vhashify_sys::stamp::{Stamp, Timestamp, set_mtime};

use super::work_directory::WorkDirectory;

/// Directories that are watched at once. Far below what a kernel allows for one user
/// (`fs.inotify.max_user_watches`, 8,192 on the smallest hosts and more with more memory).
const MOST_WATCHED: usize = 4096;

/// Between two looks at the queue, which takes 16,384 events (`fs.inotify.max_queued_events`). Two
/// workers that replace 20,000 names a second add about 1,200 in this time.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of events that one read takes.
const EVENT_BUFFER: usize = 64 << 10;
/// Events that fit for certain: one is 16 bytes and a name of at most 255 with its end, padded to 16.
const SURELY_FIT: usize = EVENT_BUFFER / (16 + 256);

/// The directories in which names are being replaced.
#[derive(Debug)]
pub struct DirectoryTimes {
    /// `None` where the kernel gives out no further inotify instance.
    watcher: Option<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the scan's number of the directory.
    touched: HashMap<u32, Touched>,
    by_watch: HashMap<i32, u32>,
    /// The watches of the work directory.
    work: HashSet<i32>,
    /// Halves of moves whose other half is still to come, by cookie: the watch, and whether it is ours.
    moves: HashMap<u32, (i32, bool)>,
    /// Directories that could not be watched.
    unwatched: u64,
    /// The watch that [`DirectoryTimes::restore_and_clear`] left in place.
    kept: Option<i32>,
    /// Whether mtimes are being restored: events of changed attributes are our own then.
    is_restoring: bool,
}

#[derive(Debug, Clone, Copy)]
struct Touched {
    inode: u64,
    mtime: Timestamp,
    is_changed_by_guest: bool,
}

impl Touched {
    /// A directory that is not watched: the guest may have changed it, so that its mtime is not restored.
    const UNWATCHED: Self = Self {
        inode: 0,
        mtime: Timestamp {
            seconds: 0,
            nanoseconds: 0,
        },
        is_changed_by_guest: true,
    };
}

impl DirectoryTimes {
    /// Watches no directory of a guest yet. Names are exchanged with names in `work`.
    #[must_use]
    pub fn new(work: &WorkDirectory) -> Self {
        const MOVES: WatchFlags = WatchFlags::MOVED_FROM
            .union(WatchFlags::MOVED_TO)
            .union(WatchFlags::ONLYDIR);
        // Where it cannot be made no name is replaced, which others report.
        let places = work.places().unwrap_or_default();
        let watch = || {
            let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let work = places
                .iter()
                .map(|place| inotify::add_watch(&watcher, descriptor_path(place), MOVES))
                .collect::<Result<HashSet<i32>, Errno>>()?;
            Ok::<_, Errno>((watcher, work))
        };
        let (watcher, work) = watch()
            .inspect_err(|errno| tracing::warn!(%errno, "directories get a new mtime"))
            .map_or((None, HashSet::new()), |(watcher, work)| {
                (Some(watcher), work)
            });
        let state = State {
            work,
            ..State::default()
        };
        Self {
            watcher,
            state: Mutex::new(state),
        }
    }

    /// Watches a directory, which the scan calls `number`. To be called before the first replacement in it.
    pub fn begin(&self, number: u32, directory: BorrowedFd<'_>) {
        let mut state = self.state();
        if state.touched.contains_key(&number) {
            return;
        }
        if state.touched.is_empty() {
            // What came since the last use, by others who use the work directory. It may be more than the queue takes.
            self.take_events_into(&mut state);
            state.moves.clear();
        }
        let touched = if let Ok((watch, touched)) = self.watch(directory, &mut state) {
            state.by_watch.insert(watch, number);
            touched
        } else {
            state.unwatched += 1;
            Touched::UNWATCHED
        };
        state.touched.insert(number, touched);
    }

    /// Whether as many directories are watched as may be: restore these before more is begun.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.state().touched.len() >= MOST_WATCHED
    }

    /// Takes events from the kernel's queue until `is_over`, so that it does not overflow.
    ///
    /// It polls and does not wait for events: each replaced name causes several, and a wakeup for each of them
    /// would cost more than handling it. The caller that sets `is_over` unparks this thread.
    pub fn listen(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Acquire) {
            std::thread::park_timeout(PAUSE);
            self.take_events();
        }
    }

    /// Restores the mtime of every directory that the guest has not changed. No replacement may be under way any
    /// more. `open` opens a directory by the scan's number. Returns how many directories keep a new
    /// mtime because they could not be watched.
    pub fn restore(self, open: impl Fn(u32) -> Result<OwnedFd, Errno>) -> u64 {
        self.put_back(open)
    }

    /// Does the same and can be used again afterwards: closing an inotify instance takes the kernel milliseconds.
    ///
    /// One directory stays watched, since the next change is mostly in the same one. A new watch makes the kernel
    /// go through all names of the directory that it has in memory (`fsnotify_set_children_dentry_flags`): a
    /// break among thousands of files would take as long as several others. Events of that directory wait in the
    /// kernel's bounded queue until then.
    pub fn restore_and_clear<D: AsFd>(&self, open: impl Fn(u32) -> Result<D, Errno>) {
        self.put_back(open);
        let mut state = self.state();
        let kept = state.by_watch.keys().next().copied().or(state.kept);
        let watches: HashSet<i32> = state.by_watch.keys().copied().chain(state.kept).collect();
        if let Some(watcher) = &self.watcher {
            for watch in watches.into_iter().filter(|watch| Some(*watch) != kept) {
                // The watch ended with its directory.
                let _ = inotify::remove_watch(watcher, watch);
            }
        }
        // The kernel gives no number of a watch twice, so that a late event matches none.
        *state = State {
            kept,
            work: std::mem::take(&mut state.work),
            ..State::default()
        };
    }

    fn put_back<D: AsFd>(&self, open: impl Fn(u32) -> Result<D, Errno>) -> u64 {
        self.take_events();
        self.settle_moves();
        self.state().is_restoring = true;
        let mut restored = Vec::new();
        let unchanged: Vec<(u32, Touched)> = self.unchanged();
        for (number, touched) in unchanged {
            // Where it cannot be opened the guest has moved or removed it, and so has changed it.
            let Ok(directory) = open(number) else {
                continue;
            };
            let is_same = Stamp::of(directory.as_fd()).is_ok_and(|now| now.inode == touched.inode);
            if is_same && put_back(directory.as_fd(), touched.mtime.into()) {
                restored.push(number);
            }
        }
        self.take_events();
        self.settle_moves();
        let state = self.state();
        for number in restored {
            let is_changed = |touched: &Touched| touched.is_changed_by_guest;
            if state.touched.get(&number).is_some_and(is_changed)
                && let Ok(directory) = open(number)
            {
                let now = Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                };
                put_back(directory.as_fd(), now);
            }
        }
        state.unwatched
    }

    fn watch(&self, directory: BorrowedFd<'_>, state: &mut State) -> Result<(i32, Touched), Errno> {
        const CHANGES: WatchFlags = WatchFlags::ATTRIB
            .union(WatchFlags::CREATE)
            .union(WatchFlags::DELETE)
            .union(WatchFlags::MOVED_FROM)
            .union(WatchFlags::MOVED_TO)
            .union(WatchFlags::ONLYDIR);
        let watcher = self.watcher.as_ref().ok_or(Errno::MFILE)?;
        // inotify takes paths only; this one always leads to the descriptor's directory.
        let watch = inotify::add_watch(watcher, descriptor_path(&directory), CHANGES)?;
        if state.kept == Some(watch) {
            // The mtime below includes the guest's changes since the last use: their events say nothing new.
            self.take_events_into(state);
            state.moves.retain(|_, (half, _)| *half != watch);
        }
        // After the watch, so that no change comes between the two unseen.
        let stamp = Stamp::of(directory)?;
        let touched = Touched {
            inode: stamp.inode,
            mtime: stamp.mtime,
            is_changed_by_guest: false,
        };
        Ok((watch, touched))
    }

    /// Takes the events that are in the kernel's queue now.
    pub fn take_events(&self) {
        self.take_events_into(&mut self.state());
    }

    fn take_events_into(&self, state: &mut State) {
        let Some(watcher) = &self.watcher else { return };
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BUFFER];
        let mut reader = Reader::new(watcher, &mut buffer);
        let mut taken_at_once = 0;
        // Ends with EAGAIN, once the queue is empty.
        while let Ok(event) = reader.next() {
            let has_name = event.file_name().is_some_and(|name| !name.is_empty());
            state.note(event.wd(), event.events(), event.cookie(), has_name);
            taken_at_once += 1;
            if reader.is_buffer_empty() {
                // The read had room for more: the queue is empty.
                if taken_at_once < SURELY_FIT {
                    break;
                }
                taken_at_once = 0;
            }
        }
    }

    /// Counts each half of a move as the guest's whose other half is in a directory that is not watched.
    fn settle_moves(&self) {
        let mut state = self.state();
        let halves: Vec<(i32, bool)> = state.moves.drain().map(|(_, half)| half).collect();
        for (watch, _) in halves {
            state.changed_by_guest(watch);
        }
    }

    fn unchanged(&self) -> Vec<(u32, Touched)> {
        let state = self.state();
        let all = state.touched.iter().map(|(number, one)| (*number, *one));
        all.filter(|(_, touched)| !touched.is_changed_by_guest)
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, watch: i32, events: ReadFlags, cookie: u32, has_name: bool) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // Anything may have happened.
            for touched in self.touched.values_mut() {
                touched.is_changed_by_guest = true;
            }
            return;
        }
        if events.contains(ReadFlags::ATTRIB) {
            // Without a name it is the directory itself, by `utimes` say; with one it is a file in it.
            if !has_name && !self.is_restoring {
                self.changed_by_guest(watch);
            }
            return;
        }
        let is_ours = self.work.contains(&watch);
        if events.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO) {
            match self.moves.remove(&cookie) {
                None => {
                    self.moves.insert(cookie, (watch, is_ours));
                }
                Some((other, other_is_ours)) if !is_ours && !other_is_ours => {
                    self.changed_by_guest(watch);
                    self.changed_by_guest(other);
                }
                Some(_) => {}
            }
        } else {
            self.changed_by_guest(watch);
        }
    }

    fn changed_by_guest(&mut self, watch: i32) {
        let touched = self
            .by_watch
            .get(&watch)
            .and_then(|number| self.touched.get_mut(number));
        if let Some(touched) = touched {
            touched.is_changed_by_guest = true;
        }
    }
}

fn put_back(directory: BorrowedFd<'_>, mtime: Timespec) -> bool {
    fault::at(Point::DirectoryTime, || set_mtime(directory, mtime)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{State, Touched};
    use rustix::fs::inotify::ReadFlags;
    use vhashify_sys::stamp::Timestamp;

    const WORK: i32 = 3;

    fn changed_after(events: &[(i32, ReadFlags, u32, bool)]) -> bool {
        let mut state = State::default();
        let touched = Touched {
            inode: 1,
            mtime: Timestamp::default(),
            is_changed_by_guest: false,
        };
        state.touched.insert(0, touched);
        state.by_watch.insert(7, 0);
        state.work.insert(WORK);
        for &(watch, event, cookie, has_name) in events {
            state.note(watch, event, cookie, has_name);
        }
        state.touched[&0].is_changed_by_guest
    }

    #[test]
    fn our_own_replacement_is_told_from_a_guests_changes() {
        use ReadFlags as E;
        let ours = [
            (WORK, E::MOVED_FROM, 1, true),
            (7, E::MOVED_TO, 1, true),
            (7, E::MOVED_FROM, 2, true),
            (WORK, E::MOVED_TO, 2, true),
        ];
        assert!(!changed_after(&ours));
        assert!(!changed_after(&[(7, E::ATTRIB, 0, true)]));
        let guests: [&[(i32, ReadFlags, u32, bool)]; 5] = [
            &[(7, E::ATTRIB, 0, false)],
            &[(7, E::CREATE, 0, true)],
            &[(7, E::DELETE, 0, true)],
            &[(7, E::MOVED_FROM, 9, true), (7, E::MOVED_TO, 9, true)],
            &[(7, E::QUEUE_OVERFLOW, 0, false)],
        ];
        for events in guests {
            assert!(changed_after(&[&ours[..], events].concat()), "{events:?}");
        }
    }
}
