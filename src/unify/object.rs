//! Opens an object and makes sure that it is what its name says.
//!
//! # Why nothing is compared byte by byte before a name is replaced
//!
//! The file that is replaced was read under the lease that is still held when its name is
//! exchanged: its digest is a proof of what it holds at that moment. BLAKE3 finds no two contents
//! alike by chance or by intent, and no tool can tell more by comparing.
//!
//! # What is believed of an object
//!
//! The object was read under a lease, too, in this run or an earlier one. That nobody has *written* to it since is
//! believed while its inode, size, mtime and ctime are those that it had then. Any write has moved its ctime, which
//! nothing but the clock can set, unless it fell into the same tick, or second on an old filesystem; so a stamp is only
//! remembered once the clock has moved on under the lease ([`settled`](index::settled)).
//!
//! A stamp does not tell whether the bytes have *rotted* on the disk. So an object is read once more before a further
//! guest gets it, unless it was read from the disk within some weeks (`disk_reads`). This reads past the page cache,
//! where the bytes of weeks ago may stand and hide what the disk has become. Of 5,000 files of 20,000 bytes on ext4, open,
//! read and close took 9 µs of the processor each from the page cache, 43 µs by direct reads and 38 µs where the pages were
//! given up first; 20 to 140 µs, 150 to 270 µs and 240 to 350 µs in all on a busy machine. Direct reads it is, because
//! pages that a guest has mapped cannot be given up, and those that it may need next should not be.

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

/// What makes it unnecessary to read an object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Belief<'a> {
    /// Its inode when it was last known to be what its name says, if it was.
    pub proven: Option<&'a Stamp>,
    /// Whether it must be read from the disk all the same: it may have rotted since.
    pub is_due: bool,
}

/// Opens the object `name`. Its content is read, unless there is nothing to doubt: see [`Belief`].
///
/// # Errors
/// `None` when it is gone: an administrator's own cleanup has removed it.
pub fn open(
    store: &Store,
    target: &Target<'_>,
    name: &ObjectName,
    belief: Belief<'_>,
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
    let is_as_proven = |proven: &Stamp| stamp.is_unchanged_since(proven);
    let file = if !belief.is_due && belief.proven.is_some_and(is_as_proven) {
        leased.file
    } else {
        let mtime = name.identity.mtime;
        let proven = if belief.is_due {
            leased.prove_from_disk(mtime, digester)
        } else {
            leased.prove(mtime, digester)
        };
        let proven = proven.map_err(unproven)?;
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
            match open(store, target, &name, Belief::default(), digester) {
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
