//! Opens an object and makes sure that it is what its name says.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rustix::io::Errno;

use super::prove::{Leased, Unproven};
use super::shared::Shared;
use super::tally::{Linked, Tally};
use crate::report::FileError;
use crate::store::ObjectName;
use crate::sys::lease::LeasedFile;
use crate::sys::stamp::Stamp;

/// An object under a lease, marked, and proven to be what its name says.
#[derive(Debug)]
pub struct ProvenObject {
    /// The file.
    pub file: LeasedFile,
    /// Its inode number.
    pub inode: u64,
    /// Its link count.
    pub links: u32,
}

/// Opens the object `name`. Its content is read, unless it is unchanged since it was `proven`.
///
/// # Errors
/// `None` when it is gone: an administrator's own cleanup has removed it.
pub fn open(
    shared: &Shared<'_>,
    name: &ObjectName,
    proven: Option<&Stamp>,
    buffer: &mut [u8],
) -> Result<ProvenObject, Option<FileError>> {
    let path = || shared.store.path_of(name);
    let failed = |call, errno: Errno| Some(FileError::call(call, path(), &errno.into()));
    let unproven = |unproven| match unproven {
        Unproven::Skipped(skip) => Some(FileError {
            path: path(),
            reason: format!("the object cannot be used: {}", skip.name()),
        }),
        Unproven::Failed(call, error) => Some(FileError::call(call, path(), &error)),
    };
    let opened = shared
        .store
        .open_object(name)
        .map_err(|errno| match errno {
            Errno::NOENT => None,
            _ => failed("openat2", errno),
        })?;
    let leased = Leased::new(opened).map_err(unproven)?;
    let (inode, links) = (leased.stamp.inode, leased.stamp.link_count);
    let is_marked = leased.is_marked;
    let is_as_proven = proven.is_some_and(|proven| leased.stamp.is_unchanged_since(proven));
    let file = if is_as_proven {
        leased.file
    } else {
        let proven = leased
            .prove(name.identity.mtime, buffer)
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
    // An interrupted run may have left it without the mark.
    if !is_marked && let Err(errno) = shared.protection.protect(file.as_fd()) {
        return Err(failed("ioctl(FS_IOC_SETFLAGS)", errno));
    }
    Ok(ProvenObject { file, inode, links })
}

/// Proves and marks every object that neither the index knows nor this run has linked (`tally`):
/// those of a run that was killed, and all of them after the index was lost.
#[must_use]
pub fn learn_unknown(shared: &Shared<'_>, tally: &Tally) -> Tally {
    let linked: HashSet<ObjectName> = tally.objects.iter().map(|linked| linked.name).collect();
    let unknown: Vec<ObjectName> = shared
        .objects
        .values()
        .filter(|state| state.proven.is_none() && !linked.contains(&state.name))
        .map(|state| state.name)
        .collect();
    unknown
        .into_par_iter()
        .map_init(
            || vec![0; 256 << 10],
            |buffer, name| {
                let mut tally = Tally::default();
                match open(shared, &name, None, buffer) {
                    Ok(object) => {
                        if let Ok(stamp) = Stamp::of(object.file.as_fd()) {
                            tally.objects.push(Linked {
                                name,
                                stamp,
                                guests: Vec::new(),
                            });
                        }
                    }
                    Err(None) => {}
                    Err(Some(error)) => tally.errors.push(error),
                }
                tally
            },
        )
        .reduce(Tally::default, |mut all, one| {
            all.merge(one);
            all
        })
}
