//! The work directory, in which temporary names lie ([`super::temporary`]), beside the store:
//!
//! ```text
//! /vservers/.hash/                    the store
//! /vservers/.vhashify-work-80001/     mode 0700; 80001 is the inode number of the store
//!   0/ … f/                           of the run that has the store's lock, by the first digit of a name's hash
//!   broker-2f03-4711-0/               of the broker of a guest (its vdir's inode number), as long as its flock(2) lasts
//! ```
//!
//! No guest sees, opens, links or plants a temporary name: the directory lies in no vdir, and no user but the host's
//! root may enter it. A directory of a guest that takes names and gives none back (`chattr +a`) keeps no temporary
//! name for good. Recovery lists one directory and walks no guest.
//!
//! It is not in the store: a displaced file has one name, and the store's users may remove what has one name.
//!
//! A guest can move a *directory* to a name in the instant in which that name is exchanged, and the directory then lies
//! here until it is exchanged back. Its `..` leads to this directory meanwhile. A user other than root cannot pass here
//! (mode 0700), and a root whose mount begins at or below its vdir does not get past that (`path_connected`,
//! fs/namei.c).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, IFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::directory::Directory;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use super::temporary::{Serving, WorkName};

/// Subdirectories of a run: as many as hex digits.
const PLACES: usize = 16;
/// How the name of a work directory begins; the inode number of its store follows.
pub(super) const PREFIX: &str = ".vhashify-work-";
const BROKER: &str = "broker-";

/// Where one run or one broker puts temporary names. It is made when the first one is needed.
#[derive(Debug)]
pub struct WorkDirectory {
    store: OwnedFd,
    /// The inode number of the vdir, where this is a broker's.
    vdir: Option<u64>,
    opened: OnceLock<Opened>,
    opening: Mutex<()>,
}

#[derive(Debug)]
struct Opened {
    top: Arc<OwnedFd>,
    /// The run's, in their order.
    run: Vec<Arc<OwnedFd>>,
    /// The broker's own, where this is one's.
    own: Option<Own>,
}

/// A broker's subdirectory. Its lock ends with the process.
#[derive(Debug)]
struct Own {
    directory: Arc<OwnedFd>,
    name: String,
}

/// A temporary name, and the subdirectory that has it.
#[derive(Debug, Clone)]
pub struct WorkPlace {
    /// The subdirectory.
    pub directory: Arc<OwnedFd>,
    /// The name, in its parts.
    pub name: WorkName,
    /// And as the subdirectory has it.
    text: String,
}

/// What a dead run or broker left.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Its temporary names.
    pub names: Vec<WorkPlace>,
    /// The subdirectories of dead brokers, locked for as long as this lives.
    brokers: Vec<(OwnedFd, Vec<u8>)>,
    /// Temporary names of brokers that were meant and live, or that somebody else tidies up after.
    pub in_hand: Vec<WorkPlace>,
}

impl WorkDirectory {
    /// The one of the run that has the lock of the store that is open as `store`.
    ///
    /// # Errors
    /// What `dup(2)` lists.
    pub fn of_run(store: BorrowedFd<'_>) -> Result<Self, FailedCall> {
        Self::new(store, None)
    }

    /// The one of the broker of the guest whose vdir has this inode number, with a subdirectory of the broker's own.
    ///
    /// # Errors
    /// What `dup(2)` lists.
    pub fn of_broker(store: BorrowedFd<'_>, vdir: u64) -> Result<Self, FailedCall> {
        Self::new(store, Some(vdir))
    }

    fn new(store: BorrowedFd<'_>, vdir: Option<u64>) -> Result<Self, FailedCall> {
        let store = store.try_clone_to_owned();
        Ok(Self {
            store: store.map_err(|error| FailedCall::from(("dup", error)))?,
            vdir,
            opened: OnceLock::new(),
            opening: Mutex::default(),
        })
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// The call that failed. `EPERM`: somebody else made it, or others than its owner may enter it; `EXDEV`: the store is
    /// the root of its mount, so that nothing of that mount is beside it.
    fn opened(&self) -> Result<&Opened, FailedCall> {
        // Every name that is replaced comes here.
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let (parent, name) = place_of(self.store.as_fd())?;
        make(&parent, &name)?;
        let top = open_top(self.store.as_fd(), &parent, &name)?;
        forget_project(&top);
        let run = (0..PLACES).map(|place| {
            let name = format!("{place:x}").into_bytes();
            make(&top, &name)?;
            let opened = resolve::open_directory(top.as_fd(), &name);
            opened.map(Arc::new).map_err(failed())
        });
        let run = run.collect::<Result<_, _>>()?;
        let own = self.vdir.map(|vdir| Own::make(&top, vdir)).transpose()?;
        let top = Arc::new(top);
        Ok(self.opened.get_or_init(|| Opened { top, run, own }))
    }

    /// The temporary name that serves `name` of a directory.
    ///
    /// # Errors
    /// The call that failed: the work directory cannot be made.
    pub fn place(
        &self,
        serving: Serving,
        directory: &Directory,
        name: &[u8],
    ) -> Result<WorkPlace, FailedCall> {
        let Some(own) = &self.opened()?.own else {
            return self.place_of_run(serving, directory, name);
        };
        let name = WorkName::of(serving, directory, name);
        Ok(WorkPlace::new(&own.directory, name))
    }

    /// The temporary name by which a run serves `name`.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn place_of_run(
        &self,
        serving: Serving,
        directory: &Directory,
        name: &[u8],
    ) -> Result<WorkPlace, FailedCall> {
        let opened = self.opened()?;
        let name = WorkName::of(serving, directory, name);
        Ok(WorkPlace::new(&opened.run[name.place()], name))
    }

    /// The subdirectories in which this puts names: to watch them.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn places(&self) -> Result<Vec<BorrowedFd<'_>>, FailedCall> {
        Ok(self.opened()?.places().collect())
    }

    /// Whether somebody has removed it meanwhile: nothing gets a name in it any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let opened = self.opened.get();
        opened.is_some_and(|opened| opened.places().any(is_removed))
    }

    /// What dead runs and brokers left. Only the run that has the store's lock may ask.
    ///
    /// # Errors
    /// The call that failed.
    pub fn leftovers(&self) -> Result<Leftovers, FailedCall> {
        let mut left = self.leftovers_of_brokers(None, &Leftovers::default())?;
        left.names.extend(self.names_of_run()?);
        Ok(left)
    }

    /// The temporary names of the run that is under way, and of those that were killed.
    ///
    /// # Errors
    /// The call that failed.
    pub fn names_of_run(&self) -> Result<Vec<WorkPlace>, FailedCall> {
        let mut names = Vec::new();
        let Some(top) = self.top()? else {
            return Ok(names);
        };
        for place in 0..PLACES {
            match resolve::open_directory(top.as_fd(), format!("{place:x}").as_bytes()) {
                Ok(place) => names.extend(names_in(&Arc::new(place))?),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed()(errno)),
            }
        }
        Ok(names)
    }

    /// The directory itself, if it was made.
    fn top(&self) -> Result<Option<Arc<OwnedFd>>, FailedCall> {
        if let Some(opened) = self.opened.get().filter(|_| !self.is_lost()) {
            return Ok(Some(Arc::clone(&opened.top)));
        }
        let (parent, name) = place_of(self.store.as_fd())?;
        match open_top(self.store.as_fd(), &parent, &name) {
            Ok(top) => Ok(Some(Arc::new(top))),
            Err(FailedCall {
                errno: Errno::NOENT,
                ..
            }) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// What dead brokers left: all, or those of the guest whose vdir has this inode number; without what is `known`.
    ///
    /// # Errors
    /// The call that failed.
    pub fn leftovers_of_brokers(
        &self,
        vdir: Option<u64>,
        known: &Leftovers,
    ) -> Result<Leftovers, FailedCall> {
        let mut left = Leftovers::default();
        let wanted = vdir.map_or_else(|| BROKER.to_owned(), prefix);
        let Some(top) = self.top()? else {
            return Ok(left);
        };
        let own = self.opened.get().and_then(|opened| opened.own.as_ref());
        let is_own = |name: &[u8]| own.is_some_and(|own| own.name.as_bytes() == name);
        let is_known = |name: &[u8]| known.brokers.iter().any(|(_, of)| of == name);
        let names = resolve::names(top.as_fd()).map_err(FailedCall::of("getdents64"))?;
        for name in names {
            if !name.starts_with(wanted.as_bytes()) || is_own(&name) || is_known(&name) {
                continue;
            }
            let Ok(directory) = resolve::open_directory(top.as_fd(), &name) else {
                continue;
            };
            // By a descriptor of its own: the lock is to end with the value that is returned.
            let again = resolve::open_directory(directory.as_fd(), b"");
            let again = Arc::new(again.map_err(FailedCall::of("openat2"))?);
            // The broker lives, or somebody tidies up after it.
            if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
                left.in_hand.extend(names_in(&again)?);
                continue;
            }
            left.names.extend(names_in(&again)?);
            left.brokers.push((directory, name));
        }
        Ok(left)
    }

    /// Removes the subdirectories of dead brokers that are empty by now.
    pub fn tidy(&self, left: Leftovers) {
        let Ok(Some(top)) = self.top() else {
            return;
        };
        for (_lock, name) in left.brokers {
            remove(&top, &name);
        }
    }
}

impl Opened {
    fn places(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = self.own.iter().map(|own| own.directory.as_fd());
        let of_run = if self.own.is_some() { 0 } else { PLACES };
        own.chain(self.run.iter().take(of_run).map(|place| place.as_fd()))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            remove(&self.top, own.name.as_bytes());
        }
    }
}

impl Own {
    fn make(top: &OwnedFd, vdir: u64) -> Result<Self, FailedCall> {
        let process = std::process::id();
        let mut number = 0;
        loop {
            let name = format!("{}{process}-{number}", prefix(vdir));
            number += 1;
            match rustix::fs::mkdirat(top, name.as_str(), Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(FailedCall::of("mkdirat")(errno)),
            }
            // A run that tidies up may have locked and removed it by now, since it is empty: then another one.
            let Ok(directory) = resolve::open_directory(top.as_fd(), name.as_bytes()) else {
                continue;
            };
            let lock = FlockOperation::NonBlockingLockExclusive;
            if rustix::fs::flock(&directory, lock).is_ok() && !is_removed(directory.as_fd()) {
                let directory = Arc::new(directory);
                return Ok(Self { directory, name });
            }
        }
    }
}

impl Leftovers {
    /// Takes what another look has found.
    pub fn add(&mut self, found: Self) {
        self.names.extend(found.names);
        self.brokers.extend(found.brokers);
        self.in_hand = found.in_hand;
    }

    /// The inode numbers of the directories of the names that these served, sorted.
    #[must_use]
    pub fn directories(&self) -> Vec<u64> {
        let served = self.names.iter().map(|place| place.name.directory);
        served.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl WorkPlace {
    fn new(directory: &Arc<OwnedFd>, name: WorkName) -> Self {
        Self {
            directory: Arc::clone(directory),
            name,
            text: name.to_string(),
        }
    }

    /// Its path on the host, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let above = resolve::path_of(self.directory.as_fd()).unwrap_or_default();
        PathBuf::from(OsString::from_vec(above)).join(&self.text)
    }

    /// Its name as the subdirectory has it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// How the names of a guest's brokers begin.
fn prefix(vdir: u64) -> String {
    format!("{BROKER}{vdir:x}-")
}

/// The directory of the store, and the name beside the store.
fn place_of(store: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<u8>), FailedCall> {
    let stamp = Stamp::of(store).map_err(failed())?;
    let up = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(store, c"..", up, Mode::empty()).map_err(failed())?;
    let name = format!("{PREFIX}{}", stamp.inode);
    Ok((parent, name.into_bytes()))
}

fn open_top(store: BorrowedFd<'_>, parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, FailedCall> {
    let mount = |file: BorrowedFd<'_>| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(file, c"", flags, StatxFlags::MNT_ID);
        found.map(|found| found.stx_mnt_id).map_err(failed())
    };
    let top = resolve::open_directory(parent.as_fd(), name).map_err(failed())?;
    if mount(top.as_fd())? != mount(store)? {
        return Err(failed()(Errno::XDEV));
    }
    let stamp = Stamp::of(top.as_fd()).map_err(failed())?;
    let is_ours = stamp.owner == rustix::process::geteuid().as_raw();
    if !is_ours || u32::from(stamp.mode) & 0o077 != 0 {
        return Err(failed()(Errno::PERM));
    }
    Ok(top)
}

/// Takes the directory the flag by which it would give files its own quota project, as a directory above it may have
/// given it: the kernel exchanges no names then of files with another one (`EXDEV`).
fn forget_project(top: &OwnedFd) {
    let flag = IFlags::PROJECT_INHERIT;
    if let Ok(flags) = rustix::fs::ioctl_getflags(top)
        && flags.contains(flag)
        && let Err(errno) = rustix::fs::ioctl_setflags(top, flags - flag)
    {
        tracing::debug!(%errno, "files of a quota project cannot be shared");
    }
}

fn make(parent: &OwnedFd, name: &[u8]) -> Result<(), FailedCall> {
    let make = || rustix::fs::mkdirat(parent, name, Mode::RWXU);
    match fault::at(Point::WorkDirectory, make) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(FailedCall::of("making the work directory")(errno)),
    }
}

fn failed() -> impl Fn(Errno) -> FailedCall + Copy {
    FailedCall::of("opening the work directory")
}

fn names_in(directory: &Arc<OwnedFd>) -> Result<Vec<WorkPlace>, FailedCall> {
    let names = resolve::names(directory.as_fd()).map_err(FailedCall::of("getdents64"))?;
    let ours = names.iter().filter_map(|name| WorkName::parse(name));
    Ok(ours.map(|name| WorkPlace::new(directory, name)).collect())
}

fn is_removed(directory: BorrowedFd<'_>) -> bool {
    Stamp::of(directory).is_ok_and(|stamp| stamp.link_count == 0)
}

/// Removes a subdirectory; one that still has names stays for the next run.
fn remove(top: &OwnedFd, name: &[u8]) {
    if let Err(errno) = rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        tracing::debug!(%errno, "a broker's work directory stays");
    }
}
