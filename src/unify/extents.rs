//! Lets the files of one group share extents and no inodes (`--protect reflink`): prove, compare
//! places, share.
//!
//! What is the same is found as it is for objects. But there is no object and no link: each file
//! stays the inode that it is, and of all places on the disk where the same bytes lie, one is kept:
//!
//! ```text
//! guest A  /bin/x ─▶ inode 10 ─┐                  guest A  /bin/x ─▶ inode 10 ─┐
//! guest B  /bin/x ─▶ inode 20 ─┴▶ place 1         guest B  /bin/x ─▶ inode 20 ─┼▶ place 1
//! guest C  /bin/x ─▶ inode 30 ──▶ place 2         guest C  /bin/x ─▶ inode 30 ─┘
//! ```
//!
//! The kernel compares the bytes again under the locks of both inodes ([`vhashify_sys::dedupe`]), so
//! that a digest is only a hint here. It may be of an earlier run, no lease has to be held, and a
//! file that a process writes to meanwhile is left alone or keeps what was written. Invariant 3 has
//! nothing to forbid: second files of one guest join, too, once two guests have the same.
//!
//! The index remembers where a file's extents begin. Files that have not changed and lie in one
//! place need not be opened by the next run; where the filesystem has moved them since, they are
//! looked at again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use vhashify_sys::dedupe::{self, Outcome};
use vhashify_sys::extent_map::ExtentMap;
use vhashify_sys::overlap::{Span, bytes_held};
use vhashify_sys::stamp::Stamp;

use super::by_reference;
use super::group::inodes;
use super::reader::Reader;
use super::target::Target;
use super::view::View;
use super::worker_stats::WorkerStats;
use crate::identity::Identity;
use crate::identity::Unproven;
use crate::outcome::{FileError, Skip};
use crate::scan::FileRecord;

/// Whether two guests have a file each that could be the same.
#[must_use]
pub fn has_candidates(view: View<'_>, files: &[FileRecord]) -> bool {
    if let Some(matching) = &view.question.matching {
        return matching.matched(&view.known.scan, files).len() > 1;
    }
    let (first, last) = (files.first(), files.last());
    let inode = |file: Option<&FileRecord>| file.map(FileRecord::inode);
    // Sorted by inode.
    inode(first) != inode(last) && are_of_several_guests(view, files)
}

/// Lets what is the same among `files`, all of one key, share extents.
pub fn share(
    view: View<'_>,
    target: Option<&Target<'_>>,
    block_size: u64,
    files: &[FileRecord],
    reader: &mut Reader<'_>,
    stats: &mut WorkerStats,
) {
    let mut classes: BTreeMap<Identity, Vec<ExtentFile<'_>>> = BTreeMap::new();
    let matching = view.question.matching.as_ref();
    let matched = matching.map(|matching| matching.matched(&view.known.scan, files));
    let mut held = 0;
    for names in inodes(files) {
        if let Some(matched) = &matched
            && !matched.contains(&names[0].inode())
        {
            continue;
        }
        if let Some((identity, file)) = identify(view, names, reader, stats) {
            let file = file.filter(|_| held < view.effort.workers.budget.group);
            held += usize::from(file.is_some());
            let candidate = ExtentFile { names, file };
            classes.entry(identity).or_default().push(candidate);
        }
    }
    for (identity, candidates) in classes {
        if stats.fatal.is_some() {
            return;
        }
        for candidate in &candidates {
            let stamp = view.known.scan.stamp_of(&candidate.names[0]);
            if view.known.may_be_remembered(&stamp) {
                stats.read.push((stamp, identity));
            }
        }
        for mut candidates in apart(view, candidates) {
            let names = candidates.iter().flat_map(|candidate| candidate.names);
            if candidates.len() < 2 || !are_of_several_guests(view, names) {
                continue;
            }
            let mut class = Class {
                view,
                target,
                // Of one identity, so of one size.
                size: candidates[0].names[0].size(),
                block_size,
                candidates: &mut candidates,
                reader,
                stats,
            };
            class.share();
        }
    }
}

/// Files of one identity, parted into those that may share with one another.
fn apart<'f>(view: View<'_>, candidates: Vec<ExtentFile<'f>>) -> Vec<Vec<ExtentFile<'f>>> {
    let Some(matching) = &view.question.matching else {
        return vec![candidates];
    };
    let files = candidates.iter().map(|candidate| candidate.names);
    let names = matching.names(&view.known.scan, files);
    let mut candidates: Vec<Option<ExtentFile<'f>>> = candidates.into_iter().map(Some).collect();
    let classes = by_reference::classes(&names).into_iter();
    classes
        .map(|class| {
            let members = class.into_iter();
            members.filter_map(|one| candidates[one].take()).collect()
        })
        .collect()
}

fn are_of_several_guests<'f>(
    view: View<'_>,
    files: impl IntoIterator<Item = &'f FileRecord>,
) -> bool {
    let mut guests = files
        .into_iter()
        .map(|file| view.known.scan.guest_of(file.directory));
    let first = guests.next();
    guests.any(|guest| Some(guest) != first)
}

/// What a file is: by what an earlier run read under the same stamps, or by reading it.
fn identify(
    view: View<'_>,
    names: &[FileRecord],
    reader: &mut Reader<'_>,
    stats: &mut WorkerStats,
) -> Option<(Identity, Option<OwnedFd>)> {
    let file = &names[0];
    if let Some(identity) = view.remembered(&view.known.scan.stamp_of(file)) {
        return Some((identity, None));
    }
    let proven = reader.prove(names, stats)?;
    Some((proven.identity, Some(proven.leased.file.give_back())))
}

/// One inode with all of its names that were scanned.
struct ExtentFile<'a> {
    names: &'a [FileRecord],
    /// The file, while it is open.
    file: Option<OwnedFd>,
}

/// A place on the disk where the bytes of a class lie.
struct Placement {
    map: ExtentMap,
    /// Whose bytes lie there, as positions among the candidates.
    members: Vec<usize>,
}

/// All files of one identity.
struct Class<'c, 's, 'w, 'f> {
    view: View<'s>,
    /// Without one, what would be done is counted.
    target: Option<&'c Target<'c>>,
    size: u64,
    block_size: u64,
    candidates: &'c mut [ExtentFile<'f>],
    reader: &'c mut Reader<'w>,
    stats: &'c mut WorkerStats,
}

impl Class<'_, '_, '_, '_> {
    fn share(&mut self) {
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
                    Err(errno) => Err(Unproven::Failed("statx", errno.into())),
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
