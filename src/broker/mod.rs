//! The broker: breaks links for a running guest, unseen by it.
//!
//! ```text
//! guest            open("/usr/bin/x", O_RDWR) ─┐                    ┌─▶ goes on: the private file
//! kernel, filter          waits ───────────────┤                    │
//! broker                                       └─▶ which file? ─ shared? ─ break ─ answer
//! ```
//!
//! | file | what it is about |
//! | --- | --- |
//! | [`mod@object`] | whether a file is an object |
//! | [`break_link`] | one object, one guest: the copy in the place of every name |
//! | [`link_group`] | which names those are |
//! | [`pending_links`] | which objects the guest gives more of them |
//! | [`containers`] | the same for containers that others start |
//! | [`call`] | what a call is about to change; pure |
//! | [`caller`] | the waiting thread: its memory, directories, descriptors |
//! | [`root`] | below which directory its paths are |
//! | [`permission`] | whether it could change the file at all |
//! | [`descriptor`] | descriptors that were opened before |
//! | [`serve`] | the threads that serve a guest |
//! | [`message`] | bytes and descriptors that come together: listeners are handed over so |
//!
//! # What it promises, and what it does not
//!
//! A call that would change a shared file changes the guest's private copy, if path, directories and
//! descriptors are the same when the call goes on as when the broker looked. They are, for every
//! program that does not race itself. One that does, to have the broker look at another file than the
//! call then finds, comes to the shared file: *the guard refuses it* (EPERM). The broker is no
//! protection: without the guard (`--protect none`) such a program writes to what others share. What
//! the broker itself does is always on the safe side of that race:
//!
//! - whether a file is shared is asked of a descriptor, and that very inode is copied;
//! - names that are replaced are the guest's own, opened below its root directory, link by link refused;
//! - each is exchanged and looked at, and put back where it was not the object.
//!
//! After a break the path is looked at again. Where it still leads to the object (a file of another
//! guest that is mounted here, say), the call fails with EPERM rather than go on.
//!
//! # What a guest can still tell
//!
//! - Whoever had the file open for reading before the break keeps reading the old bytes until he opens
//!   it again, but for descriptors that are replaced ([`descriptor`]). A mapping of it, too.
//! - An open that changes a program that runs succeeds; of a private program it fails with `ETXTBSY`.
//! - A name that a run unifies in the instant between answer and call leads to an object: see above.
//!
//! The whole content is copied for `O_TRUNC`, too: the broker cannot know that the open will succeed,
//! and a file that lost its bytes to an open that failed would be lost.

pub mod break_link;
pub mod call;
pub mod caller;
pub mod containers;
pub mod descriptor;
pub mod link_group;
pub mod message;
pub mod object;
pub mod pending_links;
pub mod permission;
pub mod root;
pub mod serve;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve::path_of;
use vhashify_sys::seccomp::{Listener, Notification, Verdict};
use vhashify_sys::stamp::Stamp;

use self::break_link::Breaker;
use self::call::{Asked, asked, opened};
use self::caller::{Caller, Named, Path, Way};
use self::link_group::Name;
use self::object::{By, Glance, Object, glance, is_lack, object};
use self::root::Roots;
use self::serve::{Judge, Reception};

/// How often a path that leads elsewhere each time is looked at.
const MOST_LOOKS: u32 = 16;
/// `RESOLVE_IN_ROOT` (`linux/openat2.h`).
const RESOLVE_IN_ROOT: u64 = 0x10;

/// Lists the processes of a guest, by the host's numbers.
pub type Processes = Box<dyn Fn() -> Vec<i32> + Send + Sync>;

/// The broker of one guest.
pub struct Broker {
    breaker: Breaker,
    roots: Roots,
    processes: Processes,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Broker")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// For the guest of `breaker`; `processes` lists its processes.
    #[must_use]
    pub fn new(breaker: Breaker, processes: Processes) -> Self {
        Self {
            roots: Roots::of(breaker.guest()),
            breaker,
            processes,
        }
    }

    /// An error is what kept the file from being found here: [`unfound`] says what becomes of the call.
    fn path(
        &self,
        caller: &Caller<'_>,
        path: &Path,
        is_linked: bool,
        reception: &mut Reception<'_>,
    ) -> Result<Verdict, Errno> {
        let glanced = match path.resolve(Way::Cached) {
            Ok(place) => glance(place.as_fd(), self.device(), By::Name),
            Err(errno) => Glance::failed(errno),
        };
        let mut glanced = match glanced {
            Glance::Private => return Ok(Verdict::Continue),
            Glance::Object(object) => Some(object),
            Glance::Unsure => None,
        };
        reception.leave_to_another();
        caller.still_waits()?;
        for _ in 0..MOST_LOOKS {
            let object = match glanced.take() {
                Some(object) => object,
                None => match self.found(path)? {
                    Some(object) => object,
                    None => return Ok(Verdict::Continue),
                },
            };
            if !is_linked && !permission::may_change(caller, &object) {
                return Ok(Verdict::Continue);
            }
            let inode = object.stamp().inode;
            let turn = self.breaker.turn(inode, caller.notification.thread);
            // Another thread may have broken it while this one waited for its turn.
            let name = match path.resolve(Way::Thorough) {
                Ok(again) if inode_of(&again) == Some(inode) => {
                    path_of(again.as_fd()).ok().map(|path| self.name_of(&path))
                }
                _ => continue,
            };
            let number = caller.notification.number;
            if is_linked && self.breaker.may_be_linked(&turn, object.as_fd(), number) {
                // While it is this call's turn: whoever has the next one can tell a call that goes on from one
                // that waits for its answer.
                let answered = caller
                    .listener
                    .answer(caller.notification, Verdict::Continue);
                return Ok(answered.map_or_else(Verdict::Fail, |()| Verdict::Continue));
            }
            if let Err(FailedCall { call, errno }) =
                self.breaker
                    .break_link(&turn, object.as_fd(), name.as_ref())
            {
                tracing::debug!(call, error = %errno, "a link was not broken");
                return Ok(Verdict::Fail(errno));
            }
            let again = path.resolve(Way::Thorough)?;
            return Ok(if inode_of(&again) == Some(inode) {
                Verdict::Fail(Errno::PERM)
            } else {
                Verdict::Continue
            });
        }
        // It is moved all the time.
        Ok(Verdict::Fail(Errno::BUSY))
    }

    /// The object that a path leads to.
    fn found(&self, path: &Path) -> Result<Option<Object>, Errno> {
        let place = path.resolve(Way::Thorough)?;
        object(place.as_fd(), self.device(), By::Name)
    }

    /// The guest's filesystem: nothing elsewhere is shared.
    fn device(&self) -> u64 {
        self.breaker.guest().device
    }

    /// As [`path`](Self::path).
    fn descriptor(
        &self,
        caller: &Caller<'_>,
        number: i32,
        is_lock: bool,
        reception: &mut Reception<'_>,
    ) -> Result<Verdict, Errno> {
        if caller.can_write_through(number) {
            return Ok(Verdict::Continue);
        }
        let place = caller.descriptor(number)?;
        let glanced = match glance(place.as_fd(), self.device(), By::Descriptor) {
            Glance::Private => return Ok(Verdict::Continue),
            Glance::Object(object) => Some(object),
            Glance::Unsure => None,
        };
        reception.leave_to_another();
        caller.still_waits()?;
        let object = match glanced {
            Some(object) => object,
            None => match object(place.as_fd(), self.device(), By::Descriptor)? {
                Some(object) => object,
                None => return Ok(Verdict::Continue),
            },
        };
        let inode = object.stamp().inode;
        let processes = || (self.processes)();
        if is_lock && descriptor::is_held_elsewhere(caller, number, inode, processes()) {
            return Ok(Verdict::Fail(Errno::NOLCK));
        }
        let turn = self.breaker.turn(inode, caller.notification.thread);
        let name = path_of(place.as_fd()).ok().map(|path| self.name_of(&path));
        let is_named = |name: &Name| name.leads_to(self.breaker.guest(), inode);
        let has_name = name.as_ref().is_some_and(is_named);
        let known = name
            .as_ref()
            .filter(|_| !has_name)
            .and_then(|name| self.breaker.copy_of(&turn, inode, name));
        let private = known.map_or_else(
            || {
                let hint = name.as_ref().filter(|_| has_name);
                self.breaker.break_link(&turn, object.as_fd(), hint)
            },
            Ok,
        );
        let replaced = private.map_err(|failed| failed.errno).and_then(|private| {
            let (object, private) = (object.as_fd(), private.as_fd());
            descriptor::replace(caller, number, object, inode, private)
        });
        Ok(replaced.map_or_else(Verdict::Fail, |()| Verdict::Continue))
    }

    /// The name below the vdir of what the kernel says is at `path`: counted from the root of the guest's
    /// own mounts, or, where it has none, from the host's. A wrong one does no harm: it is a hint.
    fn name_of(&self, path: &[u8]) -> Name {
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let vdir = self.breaker.guest().vdir.as_os_str().as_bytes();
        let below = path
            .strip_prefix(vdir)
            .filter(|rest| rest.starts_with(b"/"));
        let path = below.unwrap_or(path);
        Name::of(path.strip_prefix(b"/").unwrap_or(path))
    }
}

impl Judge for Broker {
    /// Breaks what is to be broken for a call, and says what becomes of it.
    fn judge(
        &self,
        listener: &Listener,
        notification: &Notification,
        reception: &mut Reception<'_>,
    ) -> Verdict {
        let caller = Caller {
            listener,
            notification,
            roots: &self.roots,
        };
        let (named, is_lock, is_linked) = match told(&caller) {
            Asked::Nothing | Asked::Open2 { .. } => return Verdict::Continue,
            Asked::Unknown => return Verdict::Fail(Errno::NOSYS),
            Asked::Descriptor { number, is_lock } => {
                (Ok(Named::Descriptor(number)), is_lock, false)
            }
            Asked::Path {
                directory,
                path,
                follows,
                may_be_empty,
                is_linked,
            } => {
                let named = caller.named(directory, path, follows, may_be_empty);
                (named, false, is_linked)
            }
        };
        let judged = named.and_then(|named| match named {
            Named::Path(path) => self.path(&caller, &path, is_linked, reception),
            Named::Descriptor(number) => self.descriptor(&caller, number, is_lock, reception),
        });
        judged.unwrap_or_else(unfound)
    }
}

/// What becomes of a call whose file is not found here. The call itself will not find it either, or its caller
/// has changed the path meanwhile. But where it is this process that lacks something, the call must not come
/// to a file of which nobody knows whether it is shared.
fn unfound(errno: Errno) -> Verdict {
    match errno {
        // The limit is this process's, and not the caller's.
        Errno::MFILE => Verdict::Fail(Errno::NFILE),
        lack if is_lack(lack) => Verdict::Fail(lack),
        _ => Verdict::Continue,
    }
}

/// What a call asks, with what stands in its caller's memory.
fn told(caller: &Caller<'_>) -> Asked {
    let asked = asked(caller.notification);
    let Asked::Open2 {
        directory,
        path,
        how,
    } = asked
    else {
        return asked;
    };
    // Flags, mode, resolve: eight bytes each.
    let told = (caller.number(how), caller.number(how.wrapping_add(16)));
    let (Ok(flags), Ok(resolve)) = told else {
        return Asked::Nothing;
    };
    if resolve & RESOLVE_IN_ROOT != 0 {
        // The directory is the root of the path: nothing that is served calls so. The guard
        // refuses it where it matters.
        return Asked::Nothing;
    }
    opened(flags, directory, path)
}

fn inode_of(file: &OwnedFd) -> Option<u64> {
    Stamp::of(file.as_fd()).ok().map(|stamp| stamp.inode)
}
