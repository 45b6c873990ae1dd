//! Lets files of one identity share extents: looks where each lies on the disk, keeps one of these places, and lets the
//! others share its extents.
//!
//! The index remembers where a file's extents begin. Files that have not changed and lie in one
//! place need not be opened by the next run; where the filesystem has moved them since, they are
//! looked at again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::dedupe::{self, Outcome};
use vhashify_sys::extent_map::ExtentMap;
use vhashify_sys::overlap::{Span, bytes_held};
use vhashify_sys::stamp::Stamp;

use super::reader::Reader;
use super::target::Target;
use super::view::View;
use super::worker_stats::WorkerStats;
use crate::identity::Unproven;
use crate::outcome::{FileError, Skip};
use crate::scan::FileRecord;

/// One inode with all of its names that were scanned.
pub struct ExtentFile<'a> {
    /// These names.
    pub names: &'a [FileRecord],
    /// The file, while it is open.
    pub file: Option<OwnedFd>,
}

/// A place on the disk where the bytes of a class lie.
struct Placement {
    map: ExtentMap,
    /// Whose bytes lie there, as positions among the candidates.
    members: Vec<usize>,
}

/// All files of one identity.
pub struct Class<'c, 's, 'w, 'f> {
    /// What is asked and known.
    pub view: View<'s>,
    /// Without one, what would be done is counted.
    pub target: Option<&'c Target<'c>>,
    /// Bytes of content of each of them.
    pub size: u64,
    /// Bytes of a block of the filesystem.
    pub block_size: u64,
    /// The files.
    pub candidates: &'c mut [ExtentFile<'f>],
    /// Opens them.
    pub reader: &'c mut Reader<'w>,
    /// What is done is counted here.
    pub stats: &'c mut WorkerStats,
}

impl Class<'_, '_, '_, '_> {
    /// Lets all of them share the extents of the place where most lie.
    pub fn share(&mut self) {
        let mut known: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
        for (number, candidate) in self.candidates.iter().enumerate() {
            let stamp = self.view.known.scan.stamp_of(&candidate.names[0]);
            let at = self.view.remembered_extents(&stamp);
            known.entry(at).or_default().push(number);
        }
        if known.len() == 1 && !known.contains_key(&None) {
            return;
        }
        let mut places = self.find_places(known);
        // To the place where most are already; of several such, to the first.
        let Some(best) = (0..places.len())
            .rev()
            .max_by_key(|&place| places[place].members.len())
        else {
            return;
        };
        let kept = places.swap_remove(best);
        if !places.is_empty() {
            self.move_all(&kept, places);
        } else if kept.members.len() > 1 {
            self.remember(&kept, &kept.members);
        }
    }

    /// Looks where the files lie. Of those that an earlier run has put in one place, one tells.
    fn find_places(&mut self, known: BTreeMap<Option<u64>, Vec<usize>>) -> Vec<Placement> {
        let mut places: Vec<Placement> = Vec::new();
        for (at, members) in known {
            if at.is_some()
                && let Some(map) = self.map(members[0])
                && map.first_address() == at
            {
                add(&mut places, map, &members);
                continue;
            }
            for member in members {
                if let Some(map) = self.map(member) {
                    add(&mut places, map, &[member]);
                }
            }
        }
        places
    }

    /// Lets all files in `others` lie where those of `kept` do.
    fn move_all(&mut self, kept: &Placement, others: Vec<Placement>) {
        let spans = |maps: &mut dyn Iterator<Item = &ExtentMap>| -> Vec<Span> {
            let extents = maps.flat_map(ExtentMap::extents);
            let span = extents.map(|extent| Span {
                address: extent.address,
                length: extent.length,
                holder: 0,
            });
            span.collect()
        };
        let maps = || others.iter().map(|place| &place.map);
        let before = bytes_held(&spans(&mut maps().chain([&kept.map])));
        let (mut left, mut given_up) = (vec![kept.map.clone()], 0);
        let mut together = kept.members.clone();
        for place in others {
            let stay = if let Some(target) = self.target {
                self.move_to(target, kept, &place.members, &mut together)
            } else {
                self.count(&place.members);
                Vec::new()
            };
            given_up += u64::from(stay.is_empty());
            left.extend(stay);
        }
        let after = bytes_held(&spans(&mut left.iter()));
        let freed = before.saturating_sub(after);
        self.stats.counts.disk_bytes_saved += freed;
        self.stats.counts.bytes_saved += freed.min(given_up * self.size);
        if together.len() > 1 {
            self.remember(kept, &together);
        }
    }

    /// Lets `members` lie where those of `kept` do. Adds those that do to `together`, and returns
    /// where the others lie now.
    fn move_to(
        &mut self,
        target: &Target<'_>,
        kept: &Placement,
        members: &[usize],
        together: &mut Vec<usize>,
    ) -> Vec<ExtentMap> {
        let mut stay = Vec::new();
        for batch in members.chunks(dedupe::MOST_DESTINATIONS) {
            let opened: Vec<usize> = batch
                .iter()
                .copied()
                .filter(|&member| self.open(member))
                .collect();
            let moved = self.dedupe(target, kept, &opened);
            for &member in batch {
                // A file that cannot be looked at any more is gone, and frees its place itself.
                let Some(map) = self.map(member) else {
                    continue;
                };
                if moved.contains(&member) {
                    self.count(&[member]);
                }
                if map == kept.map {
                    together.push(member);
                } else {
                    stay.push(map);
                }
                self.candidates[member].file = None;
            }
        }
        stay
    }

    /// Lets open files share the extents of the first of `kept` that can be opened; returns those
    /// that do to their end.
    fn dedupe(&mut self, _target: &Target<'_>, kept: &Placement, opened: &[usize]) -> Vec<usize> {
        let mut moving = opened.to_vec();
        let Some(source) = kept.members.iter().copied().find(|&one| self.open(one)) else {
            return Vec::new();
        };
        let mut offset = 0;
        while offset < self.size && !moving.is_empty() && self.stats.fatal.is_none() {
            let length = (self.size - offset).min(dedupe::MOST_BYTES);
            let outcomes = {
                let files: Vec<BorrowedFd<'_>> =
                    moving.iter().filter_map(|&one| self.file(one)).collect();
                let Some(source) = self.file(source) else {
                    return Vec::new();
                };
                dedupe::share_extents(source, offset, length, &files)
            };
            let outcomes = outcomes.unwrap_or_else(|errno| {
                // Of the source, and so of all.
                vec![Outcome::Failed(errno); moving.len()]
            });
            let mut outcomes = outcomes.into_iter();
            moving.retain(|&one| {
                let outcome = outcomes.next().unwrap_or(Outcome::Differs);
                self.is_shared(one, outcome)
            });
            offset += length;
        }
        if offset < self.size {
            moving.clear();
        }
        moving
    }

    /// Whether a file shares what was asked for; counts it where it does not.
    fn is_shared(&mut self, member: usize, outcome: Outcome) -> bool {
        let candidate = &self.candidates[member];
        let names = candidate.names.len() as u64;
        match outcome {
            Outcome::Shared => return true,
            Outcome::Differs | Outcome::Failed(Errno::INTR) => {
                self.stats.skip(Skip::Changed, names, self.size);
            }
            // A swap file, an immutable one, or one whose data have no checksums as the other's have.
            Outcome::Failed(
                Errno::INVAL | Errno::OPNOTSUPP | Errno::XDEV | Errno::PERM | Errno::TXTBSY,
            ) => self.stats.skip(Skip::CannotShare, names, self.size),
            Outcome::Failed(errno) => {
                let path = self.view.known.host_path(&candidate.names[0]);
                let error = FileError::call("ioctl(FIDEDUPERANGE)", path, &errno.into());
                self.stats.failed(error, errno);
            }
        }
        false
    }

    /// Where a file lies; `None`, and it is counted, where that cannot be said.
    fn map(&mut self, member: usize) -> Option<ExtentMap> {
        if !self.open(member) {
            return None;
        }
        let length = self.size.next_multiple_of(self.block_size);
        let map = ExtentMap::of(self.file(member)?, length);
        let (path, names) = self.named(member);
        match map {
            Ok(Some(map)) => return Some(map),
            Ok(None) => self.stats.skip(Skip::Inline, names, self.size),
            Err(errno) => {
                let error = FileError::call("ioctl(FS_IOC_FIEMAP)", path, &errno.into());
                self.stats.failed(error, errno);
            }
        }
        None
    }

    /// Opens a file, if it is not open yet and still is what the scan found; counts it if not.
    fn open(&mut self, member: usize) -> bool {
        let candidate = &mut self.candidates[member];
        if candidate.file.is_some() {
            return true;
        }
        let seen = self.view.known.scan.stamp_of(&candidate.names[0]);
        let opened =
            self.reader
                .open(&candidate.names[0])
                .and_then(|file| match Stamp::of(file.as_fd()) {
                    Ok(now) if now.is_unchanged_since(&seen) => Ok(file),
                    Ok(_) => Err(Unproven::Skipped(Skip::Changed)),
                    Err(errno) => Err(FailedCall::of("statx")(errno).into()),
                });
        match opened {
            Ok(file) => candidate.file = Some(file),
            Err(unproven) => {
                let (path, names) = self.named(member);
                self.stats.unproven(unproven, path, names, self.size);
                return false;
            }
        }
        true
    }

    fn file(&self, member: usize) -> Option<BorrowedFd<'_>> {
        self.candidates[member].file.as_ref().map(AsFd::as_fd)
    }

    /// Its path for messages, and how many names it has.
    fn named(&self, member: usize) -> (std::path::PathBuf, u64) {
        let names = self.candidates[member].names;
        (self.view.known.host_path(&names[0]), names.len() as u64)
    }

    fn count(&mut self, members: &[usize]) {
        for &member in members {
            self.stats.counts.files_unified += self.candidates[member].names.len() as u64;
        }
    }

    /// Tells the index that `members` lie in `place`.
    fn remember(&mut self, place: &Placement, members: &[usize]) {
        if let Some(address) = place.map.first_address() {
            let inode = |&member: &usize| self.candidates[member].names[0].inode();
            let rows = members.iter().map(inode).map(|inode| (inode, address));
            self.stats.extents.extend(rows);
        }
    }
}

fn add(places: &mut Vec<Placement>, map: ExtentMap, members: &[usize]) {
    match places.iter_mut().find(|place| place.map == map) {
        Some(place) => place.members.extend(members),
        None => places.push(Placement {
            map,
            members: members.to_vec(),
        }),
    }
}
