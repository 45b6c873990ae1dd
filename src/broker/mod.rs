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
//! | [`mod@object`] | finds out whether a file is an object |
//! | [`break_link`] | gives one guest a copy of one object, under every name |
//! | `copy` | the private copy that takes the place of an object |
//! | `served` | names that a run or another break works on |
//! | `interrupted` | the broker's work directory, and what interrupted breaks of the guest left in it |
//! | `leftover` | finishes or removes what an interrupted break or run left |
//! | [`link_group`] | finds every name by which a guest has an object |
//! | [`walked`] | walks the guest for that, at its cost |
//! | `known_names`, `seen_inodes` | what such a walk keeps, in bounded memory |
//! | [`pending_links`] | keeps account of calls that give an object further names |
//! | [`containers`] | serves containers that others start |
//! | [`call`], [`commands`] | decodes which file a call is about to change; pure |
//! | [`caller`] | reads the waiting thread's memory, directories, descriptors |
//! | [`caller_path`] | resolves its paths as the kernel does for it |
//! | `open_how` | decodes what an `openat2(2)` asks for |
//! | [`root`] | opens the directory below which its paths are resolved |
//! | [`permission`] | estimates whether the kernel will let it change the file |
//! | [`descriptor`] | replaces descriptors that were opened before |
//! | [`serve`] | runs the threads that serve a guest |
//! | [`message`] | sends and receives bytes with descriptors: listeners come so |
//!
//! # What it promises, and what it does not
//!
//! A call that would change a shared file changes the guest's private copy instead, if path, directories and
//! descriptors are the same when the call goes on as when the broker looked. They are, for every
//! program that does not race itself. A program that does, to have the broker look at another file than the
//! call then finds, reaches the shared file: *the guard refuses it* (EPERM). The broker is no
//! protection: without the guard (`--protect none`) such a program writes to the file that others share. The
//! broker's own changes are safe in spite of that race:
//!
//! - it asks a descriptor whether the file is shared, and copies that very inode;
//! - it replaces the guest's own names only, opened below its root directory, and follows no symbolic link;
//! - it exchanges each name, looks at the displaced inode, and undoes the exchange where that is not the object.
//!
//! After a break the broker resolves the path again. Where it still leads to the object (a file of another
//! guest that is mounted here, say), the call fails with EPERM rather than go on.
//!
//! # What a guest can still notice
//!
//! - A process that had the file open for reading before the break keeps reading the old bytes until it opens
//!   it again, but for descriptors that the broker replaces ([`descriptor`]). A mapping of it, too.
//! - An open that changes a program that runs succeeds; of a private program it fails with `ETXTBSY`.
//! - A name that a run unifies in the instant between answer and call leads to an object: see above.
//!
//! The broker copies the whole content for `O_TRUNC`, too: it cannot know that the open will succeed,
//! and a file that lost its bytes to an open that failed would be lost.

pub mod break_link;
pub mod call;
pub mod caller;
pub mod caller_path;
pub mod commands;
pub mod containers;
mod copy;
pub mod descriptor;
mod interrupted;
pub mod known_names;
mod leftover;
pub mod link_group;
pub mod message;
pub mod object;
mod open_how;
pub mod pending_links;
pub mod permission;
pub mod root;
mod seen_inodes;
pub mod serve;
mod served;
pub mod walked;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::ResolveFlags;
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve::path_of;
use vhashify_sys::seccomp::{Listener, Notification, Response};
use vhashify_sys::stamp::Stamp;

use self::break_link::Breaker;
use self::call::{CallTable, Effect, Target};
use self::caller::{Caller, Named};
use self::caller_path::{Found, Lookup, Path};
use self::link_group::Name;
use self::object::{By, Classification, Object, classify, open_object};
use self::root::Roots;
use self::serve::{Handler, ReceiveToken};

/// How often the broker looks at a path that leads to another file each time.
const MOST_LOOKS: u32 = 16;

/// Lists the processes of a guest, by the host's numbers.
pub type Processes = Box<dyn Fn() -> Vec<i32> + Send + Sync>;

/// The broker of one guest.
pub struct Broker {
    breaker: Breaker,
    roots: Roots,
    processes: Processes,
    calls: Arc<CallTable>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Broker")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker for the guest of `breaker`, whose processes `processes` lists. It decodes the calls of `calls`.
    #[must_use]
    pub fn new(breaker: Breaker, processes: Processes, calls: Arc<CallTable>) -> Self {
        Self {
            roots: Roots::of(breaker.guest()),
            breaker,
            processes,
            calls,
        }
    }

    /// Handles a call that names its file by a path. An error kept the broker from finding the file:
    /// [`on_resolve_error`] responds to the call.
    fn handle_path(
        &self,
        caller: &Caller<'_>,
        path: &Path,
        effect: Effect,
        token: &mut ReceiveToken<'_>,
    ) -> Result<Response, Errno> {
        let class = match path.resolve(Lookup::Cached) {
            Ok(found) => classify(found.file.as_fd(), self.device(), By::Name),
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            Err(_) => Classification::WouldBlock,
        };
        let mut known = match class {
            Classification::Private => return Ok(Response::Continue),
            Classification::Object(object) => Some((object, None)),
            Classification::WouldBlock => None,
        };
        token.hand_over();
        caller.still_waits()?;
        for _ in 0..MOST_LOOKS {
            let (object, descriptor) = match known.take() {
                Some(known) => known,
                None => match self.object_at(path)? {
                    Some(found) => found,
                    None => return Ok(Response::Continue),
                },
            };
            if !permission::may_have(effect, caller, &object) {
                return Ok(Response::Continue);
            }
            let inode = object.stamp().inode;
            if let Some(number) = descriptor
                && effect != Effect::Link
                && caller.leads_to(number, self.device(), inode)
            {
                self.part_from_descriptor(caller, number, &object)?;
                return answer_after(path, inode);
            }
            let guard = self.breaker.lock_inode(inode, caller.notification.thread);
            // Another thread may have broken the link while this one waited for the lock.
            let name = match path.resolve(Lookup::Full) {
                Ok(again) if inode_of(&again.file) == Some(inode) => path_of(again.file.as_fd())
                    .ok()
                    .map(|path| self.name_of(&path)),
                _ => continue,
            };
            let number = caller.notification.number;
            if effect == Effect::Link && self.breaker.may_be_linked(&guard, object.as_fd(), number)
            {
                // Answered under the lock: the next holder can tell a call that goes on from one that waits for its
                // answer.
                let answered = caller
                    .listener
                    .answer(caller.notification, Response::Continue);
                return Ok(answered.map_or_else(Response::Fail, |()| Response::Continue));
            }
            if let Err(FailedCall { call, errno }) =
                self.breaker
                    .break_link(&guard, object.as_fd(), name.as_ref())
            {
                tracing::debug!(call, error = %errno, "a link was not broken");
                return Ok(Response::Fail(errno));
            }
            return answer_after(path, inode);
        }
        // The guest moves the path all the time.
        Ok(Response::Fail(Errno::BUSY))
    }

    /// The object that a path leads to, and the descriptor by whose name in `/proc` it does.
    fn object_at(&self, path: &Path) -> Result<Option<(Object, Option<i32>)>, Errno> {
        let Found {
            file,
            by_link_of_proc,
            descriptor,
        } = path.resolve(Lookup::Full)?;
        let by = if by_link_of_proc {
            By::Descriptor
        } else {
            By::Name
        };
        let object = open_object(file.as_fd(), self.device(), by)?;
        Ok(object.map(|object| (object, descriptor)))
    }

    /// The guest's filesystem: files elsewhere are not shared.
    fn device(&self) -> u64 {
        self.breaker.guest().device
    }

    /// Handles a call that names its file by a descriptor, with errors as those of
    /// [`handle_path`](Self::handle_path).
    fn handle_descriptor(
        &self,
        caller: &Caller<'_>,
        number: i32,
        is_lock: bool,
        token: &mut ReceiveToken<'_>,
    ) -> Result<Response, Errno> {
        if caller.can_write_through(number) {
            return Ok(Response::Continue);
        }
        let place = caller.descriptor(number)?;
        let known = match classify(place.as_fd(), self.device(), By::Descriptor) {
            Classification::Private => return Ok(Response::Continue),
            Classification::Object(object) => Some(object),
            Classification::WouldBlock => None,
        };
        token.hand_over();
        caller.still_waits()?;
        let object = match known {
            Some(object) => object,
            None => match open_object(place.as_fd(), self.device(), By::Descriptor)? {
                Some(object) => object,
                None => return Ok(Response::Continue),
            },
        };
        let inode = object.stamp().inode;
        let processes = || (self.processes)();
        if is_lock && descriptor::is_held_elsewhere(caller, number, inode, processes()) {
            return Ok(Response::Fail(Errno::NOLCK));
        }
        let parted = self.part_from_descriptor(caller, number, &object);
        Ok(parted.map_or_else(Response::Fail, |()| Response::Continue))
    }

    /// Gives the guest its copy of an object and replaces the caller's descriptor `number` of it.
    fn part_from_descriptor(
        &self,
        caller: &Caller<'_>,
        number: i32,
        object: &Object,
    ) -> Result<(), Errno> {
        let inode = object.stamp().inode;
        let place = caller.descriptor(number)?;
        let guard = self.breaker.lock_inode(inode, caller.notification.thread);
        let name = path_of(place.as_fd()).ok().map(|path| self.name_of(&path));
        let is_named = |name: &Name| name.leads_to(self.breaker.guest(), inode);
        let has_name = name.as_ref().is_some_and(is_named);
        let copy = (!has_name)
            .then(|| self.breaker.copy_of(&guard, inode))
            .flatten();
        let private = copy.map_or_else(
            || {
                let hint = name.as_ref().filter(|_| has_name);
                self.breaker.break_link(&guard, object.as_fd(), hint)
            },
            Ok,
        );
        let private = private.map_err(|failed| failed.errno)?;
        descriptor::replace(caller, number, object.as_fd(), inode, private.as_fd())
    }

    /// The name below the vdir of the file that the kernel has at `path`: a path from the root of the guest's
    /// own mounts, or from the host's where the guest has none. It is a hint: a wrong one does no harm.
    fn name_of(&self, path: &[u8]) -> Name {
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let vdir = self.breaker.guest().vdir.as_os_str().as_bytes();
        let below = path
            .strip_prefix(vdir)
            .filter(|rest| rest.starts_with(b"/"));
        let path = below.unwrap_or(path);
        Name::of(path.strip_prefix(b"/").unwrap_or(path))
    }

    /// The target of the caller's call, with the flags that are in the caller's memory.
    ///
    /// # Errors
    /// They cannot be read, or mean something that the broker does not know.
    fn decode(&self, caller: &Caller<'_>) -> Result<(Target, ResolveFlags), Errno> {
        match self.calls.decode(caller.notification) {
            Target::Open2 {
                directory,
                path,
                how,
                size,
            } => open_how::decode(caller, directory, path, how, size),
            target => Ok((target, ResolveFlags::empty())),
        }
    }
}

impl Handler for Broker {
    /// Breaks the link of the file that a call is about to change, if it is an object.
    fn handle(
        &self,
        listener: &Listener,
        notification: &Notification,
        token: &mut ReceiveToken<'_>,
    ) -> Response {
        let caller = Caller {
            listener,
            notification,
            roots: &self.roots,
        };
        let (target, resolve) = match self.decode(&caller) {
            Ok(decoded) => decoded,
            Err(errno) => return Response::Fail(errno),
        };
        let (named, is_lock, effect) = match target {
            Target::Nothing => return Response::Continue,
            Target::Refused(errno) => return Response::Fail(errno),
            Target::Unknown | Target::Open2 { .. } => return Response::Fail(Errno::NOSYS),
            Target::Descriptor { number, is_lock } => {
                (Ok(Named::Descriptor(number)), is_lock, Effect::Change)
            }
            Target::Path {
                directory,
                path,
                follows,
                may_be_empty,
                effect,
            } => {
                let named = caller.named(directory, path, follows, may_be_empty, resolve);
                (named, false, effect)
            }
        };
        let named = match named {
            Ok(named) => named,
            // Its own memory and descriptors keep the call from naming a file, or this process lacks something.
            Err(errno) => return Response::Fail(of_caller(errno)),
        };
        let response = match named {
            Named::Path(path) => self.handle_path(&caller, &path, effect, token),
            Named::Descriptor(number) => self.handle_descriptor(&caller, number, is_lock, token),
            Named::WorkingDirectory => Ok(Response::Continue),
        };
        response.unwrap_or_else(on_resolve_error)
    }
}

/// Responds to a call whose file the broker does not find.
///
/// Where its path leads to nothing, the call will find nothing either, or make the file, or its caller has changed the
/// path meanwhile: it goes on. Anything else may keep the broker from the file and not the caller: nobody knows
/// whether it is shared, and the call fails.
fn on_resolve_error(errno: Errno) -> Response {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV => {
            Response::Continue
        }
        errno => Response::Fail(of_caller(errno)),
    }
}

/// What an error of this process is for the caller, whose limit of descriptors is another one.
fn of_caller(errno: Errno) -> Errno {
    match errno {
        Errno::MFILE => Errno::NFILE,
        errno => errno,
    }
}

/// The response to a call after a break: its path must not lead to the object any more.
fn answer_after(path: &Path, object: u64) -> Result<Response, Errno> {
    let again = path.resolve(Lookup::Full)?;
    Ok(if inode_of(&again.file) == Some(object) {
        Response::Fail(Errno::PERM)
    } else {
        Response::Continue
    })
}

fn inode_of(file: &OwnedFd) -> Option<u64> {
    Stamp::of(file.as_fd()).ok().map(|stamp| stamp.inode)
}
