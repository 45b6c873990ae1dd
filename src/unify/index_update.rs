//! What a run tells the index, so that the next one need not find it out again.

use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;

use vhashify_sys::stamp::Stamp;

use super::group;
use super::view::Known;
use super::worker_stats::{Linked, WorkerStats};
use crate::guest::Guest;
use crate::index::{GuestLinks, GuestRow, Update};
use crate::scan::FileRecord;
use crate::store::ObjectName;

/// What the index is to know after this run.
#[must_use]
pub fn index_update(known: &Known<'_>, stats: WorkerStats) -> Update {
    let mut update = Update {
        objects: proven_objects(known, &stats),
        disk_reads: disk_reads(known, &stats),
        ..Update::default()
    };
    let links = links_by_guest(known, &stats, &update.objects);
    update.guests = known
        .sources
        .iter()
        .zip(links)
        .map(|(source, links)| (guest_row(&source.guest), links))
        .collect();
    // Files of other guests are still theirs; of these, only what is unchanged.
    let changed: HashSet<u64> = known
        .scan
        .files
        .iter()
        .filter(|file| {
            let row = known.read.get(&file.inode());
            row.is_some_and(|row| !row.0.is_unchanged_since(&known.scan.stamp_of(file)))
        })
        .map(FileRecord::inode)
        .collect();
    let is_kept =
        |inode: &u64| !changed.contains(inode) && !known.objects.by_inode.contains_key(inode);
    let rows = known.read.iter().filter(|(inode, _)| is_kept(inode));
    update.read = rows.map(|(inode, row)| (*inode, *row)).collect();
    let places = known.extents.iter();
    let kept = places.filter(|(inode, _)| update.read.contains_key(inode));
    update.extents = kept.map(|(inode, at)| (*inode, *at)).collect();
    update.read.extend(
        stats
            .read
            .into_iter()
            .map(|(stamp, identity)| (stamp.inode, (stamp, identity))),
    );
    update.extents.extend(stats.extents);
    // What says where the extents of a file lie is worth nothing without its stamp.
    let Update { extents, read, .. } = &mut update;
    extents.retain(|inode, _| read.contains_key(inode));
    update
}

/// The objects that are known to be what their names say, sorted by name.
fn proven_objects(known: &Known<'_>, stats: &WorkerStats) -> Vec<(ObjectName, Stamp)> {
    let mut objects: Vec<(ObjectName, Stamp)> = stats
        .objects
        .iter()
        .map(|linked| (linked.name, linked.stamp))
        .collect();
    let before = known.objects.by_inode.values();
    objects.extend(before.filter_map(|state| Some((state.name, state.proven?))));
    // Of an object that was linked, what was seen after that counts: it stands first.
    objects.sort_by_key(|(name, _)| *name);
    objects.dedup_by_key(|(name, _)| *name);
    objects
}

/// The objects that this run has read from the disk: those that were there and due, and that it gave to further guests.
fn disk_reads(known: &Known<'_>, stats: &WorkerStats) -> Vec<(ObjectName, i64)> {
    let was_there = |linked: &&Linked| {
        let before = known.object_of(linked.stamp.inode);
        before.is_some_and(|before| before.name == linked.name)
    };
    let given = stats.objects.iter();
    let given = given.filter(|linked| !linked.guests.is_empty());
    let read = given.filter(was_there).map(|linked| linked.name);
    let mut read: Vec<ObjectName> = read.filter(|name| known.disk_reads.is_due(name)).collect();
    read.sort_unstable();
    let when = known.began.seconds;
    read.into_iter().map(|name| (name, when)).collect()
}

/// Who links which of `objects`, for each guest, sorted by object.
fn links_by_guest(
    known: &Known<'_>,
    stats: &WorkerStats,
    objects: &[(ObjectName, Stamp)],
) -> Vec<Vec<GuestLinks>> {
    let position = |name: &ObjectName| {
        let found = objects.binary_search_by_key(name, |(name, _)| *name);
        found.ok().and_then(|at| u32::try_from(at).ok())
    };
    let mut links: Vec<Vec<GuestLinks>> = vec![Vec::new(); known.sources.len()];
    for names in group::inodes(&known.scan.files) {
        let linked = known.object_of(names[0].inode());
        let Some(object) = linked.and_then(|linked| position(&linked.name)) else {
            continue;
        };
        // Names of one guest are not always neighbours: they are sorted by directory.
        for (guest, count) in known.names_by_guest(names) {
            let of_guest =
                |file: &&FileRecord| known.scan.guest_of(file.directory) == guest && count > 1;
            let names = names.iter().filter(of_guest);
            links[usize::from(guest)].push(GuestLinks {
                object,
                count,
                names: names.map(|file| known.scan.path_of(file)).collect(),
            });
        }
    }
    for linked in &stats.objects {
        let Some(object) = position(&linked.name) else {
            continue;
        };
        for &(guest, count) in &linked.guests {
            links[usize::from(guest)].push(GuestLinks {
                object,
                count,
                names: Box::default(),
            });
        }
    }
    for links in &mut links {
        links.sort_by_key(|row| row.object);
        links.dedup_by_key(|row| row.object);
    }
    links
}

/// How the index names a guest.
fn guest_row(guest: &Guest) -> GuestRow {
    GuestRow {
        name: guest.name.clone().into_vec(),
        vdir: guest.vdir.clone().into_os_string().into_vec(),
    }
}
