//! Finds what in one group is to share extents and no inodes (`--protect reflink`); `extent_class` lets it.
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

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::extent_class::{Class, ExtentFile};
use super::group::inodes;
use super::reader::Reader;
use super::same_path;
use super::target::Target;
use super::view::View;
use super::worker_stats::WorkerStats;
use crate::identity::Identity;
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
    let classes = same_path::classes(&names).into_iter();
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
