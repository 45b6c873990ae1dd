//! Opens an object and makes sure that it is what its name says.
//!
//! # Why nothing is compared byte by byte before a name is replaced
//!
//! The file that is replaced was read under the lease that is still held when its name is
//! exchanged: its digest is a proof of what it holds at that moment. BLAKE3 finds no two contents
//! alike by chance or by intent, and no tool can tell more by comparing.
//!
//! The object was read under a lease, too, in this run or an earlier one. It is believed while its
//! inode, size, mtime and ctime are those that it had then. Any write since has moved its ctime,
//! which nothing but the clock can set, unless it fell into the same tick, or second on an old
//! filesystem; so a stamp is only remembered once the clock has moved on under the lease
//! ([`settled`](index::settled)). To read every object again instead makes a run that finds one new
//! guest among many read each shared file twice, for a doubt that is none.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rustix::io::Errno;
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::Stamp;

use super::target::Target;
use super::view::{Known, View};
use super::worker_stats::{Linked, WorkerStats};
use crate::identity::Digester;
use crate::identity::{Leased, Unproven};
use crate::index;
use crate::outcome::FileError;
use crate::store::{ObjectName, Store};

/// An object under a lease, marked, and proven to be what its name says.
#[derive(Debug)]
pub struct ProvenObject {
    /// The file.
    pub file: LeasedFile,
    /// Its inode, as it was when the lease was granted.
    pub stamp: Stamp,
}

/// Opens the object `name`. Its content is read, unless it is unchanged since it was `proven`.
///
/// # Errors
/// `None` when it is gone: an administrator's own cleanup has removed it.
pub fn open(
    store: &Store,
    target: &Target<'_>,
    name: &ObjectName,
    proven: Option<&Stamp>,
    digester: &mut Digester,
) -> Result<ProvenObject, Option<FileError>> {
    let path = || store.path_of(name);
    let failed = |call, errno: Errno| Some(FileError::call(call, path(), &errno.into()));
    let unproven = |unproven| match unproven {
        Unproven::Skipped(skip) => Some(FileError {
            path: path(),
            reason: format!("the object cannot be used: {}", skip.name()),
        }),
        Unproven::Failed(failed) => Some(FileError::failed(failed, path())),
    };
    let opened = store.open_object(name).map_err(|errno| match errno {
        Errno::NOENT => None,
        _ => failed("openat2", errno),
    })?;
    let leased = Leased::new(opened).map_err(unproven)?;
    let stamp = leased.stamp;
    let is_marked = leased.is_marked;
    let is_as_proven = proven.is_some_and(|proven| stamp.is_unchanged_since(proven));
    let file = if is_as_proven {
        leased.file
    } else {
        let proven = leased
            .prove(name.identity.mtime, digester)
            .map_err(unproven)?;
        if proven.identity != name.identity {
            let reason = "the object's bytes or metadata are not what its name says; run \
                          `vhashify verify --deep --repair`";
            return Err(Some(FileError {
                path: path(),
                reason: reason.to_owned(),
            }));
        }
        proven.leased.file
    };
    if !target
        .protection
        .holds(file.as_fd())
        .map_err(|errno| failed("ioctl(FS_IOC_MEASURE_VERITY)", errno))?
    {
        return Err(Some(FileError {
            path: path(),
            reason: "it was shared in another mode, and this one cannot take it over; run `vhashify deunify` \
                     for the guests that have it, `vhashify gc`, and this again"
                .to_owned(),
        }));
    }
    // An interrupted run may have left it without the mark.
    if !is_marked && let Err(errno) = target.protection.protect(file.as_fd()) {
        return Err(failed("ioctl(FS_IOC_SETFLAGS)", errno));
    }
    Ok(ProvenObject { file, stamp })
}

/// Proves and marks the objects that this run has not linked (`stats`) and the index does not know:
/// those of a run that was killed, and all of them after the index was lost. Those that have lost
/// their mark, too: see [`lacks_mark`].
#[must_use]
pub fn prove_unknown(view: View<'_>, target: &Target<'_>, stats: &WorkerStats) -> WorkerStats {
    let Known { store, objects, .. } = view.known;
    let linked: HashSet<ObjectName> = stats.objects.iter().map(|linked| linked.name).collect();
    let unknown: Vec<ObjectName> = objects
        .by_inode
        .values()
        .collect::<Vec<_>>()
        .into_par_iter()
        .filter(|state| !linked.contains(&state.name))
        .filter(|state| match &state.proven {
            None => true,
            Some(proven) => {
                !state.stamp.is_unchanged_since(proven) && lacks_mark(store, &state.name)
            }
        })
        .map(|state| state.name)
        .collect();
    unknown
        .into_par_iter()
        .map_init(Digester::default, |digester, name| {
            let mut stats = WorkerStats::default();
            match open(store, target, &name, None, digester) {
                Ok(object) => {
                    if let Ok(stamp) = Stamp::of(object.file.as_fd()).map(index::settled) {
                        stats.objects.push(Linked {
                            name,
                            stamp,
                            guests: Vec::new(),
                        });
                    }
                }
                Err(None) => {}
                Err(Some(error)) => stats.errors.push(error),
            }
            stats
        })
        .reduce(WorkerStats::default, |mut all, one| {
            all.merge(one);
            all
        })
}

/// Whether an object that the index knows has no mark. A power cut can do that: Btrfs writes a
/// directory that a process synchronises without the inodes that its names lead to, so that an
/// object comes back with all of its links and its flags of before, and the index may have been
/// written later than that. Its inode shows another ctime then than the index remembers.
fn lacks_mark(store: &Store, name: &ObjectName) -> bool {
    let flags = store
        .open_object(name)
        .and_then(|file| flags::read(file.as_fd()));
    // What cannot be opened is gone, or the next one who needs it says why.
    flags.is_ok_and(|flags| flags == Flags::Plain)
}
