//! What each guest costs and shares, by a walk of all of it.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::overlap::stretches;
use super::{FileError, Progress, places};
use crate::display::Shown;
use crate::error::Error;
use crate::exclude::Rules;
use crate::guest::Guest;
use crate::scan::{FileRecord, Request, scan};
use crate::store::Store;

/// What one guest costs. Bytes are those that the filesystem allocated.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GuestCost {
    /// Its name.
    pub name: String,
    /// Its vdir.
    pub vdir: String,
    /// Regular files, by name.
    pub files: u64,
    /// Bytes that it would need alone.
    pub bytes: u64,
    /// Files that are objects.
    pub shared_files: u64,
    /// Bytes of these, and of extents that other guests' files have, too.
    pub shared_bytes: u64,
    /// Bytes that are this guest's alone.
    pub private_bytes: u64,
    /// Private bytes and its part of the shared ones, each object or extent split evenly among its
    /// guests.
    pub fair_share_bytes: u64,
}

/// What one store holds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreCost {
    /// Where it is.
    pub path: String,
    /// Objects that any of the guests links.
    pub objects: u64,
    /// Bytes of these, once each.
    pub bytes: u64,
    /// Objects in the store that none of these guests links.
    pub unlinked_objects: u64,
    /// Bytes that the guests would need more if they shared neither objects nor extents.
    pub saved_bytes: u64,
}

/// A store and the guests on its filesystem.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreReport {
    /// The store.
    pub store: StoreCost,
    /// Its guests.
    pub guests: Vec<GuestCost>,
    /// What could not be read.
    pub errors: Vec<FileError>,
}

/// Walks all of `guests` and adds up what they cost.
///
/// # Errors
/// A store that cannot be listed.
pub fn cost(
    store: &mut Store,
    guests: &[&Guest],
    progress: &dyn Progress,
) -> Result<StoreReport, Error> {
    let (listed, _) = store.list()?;
    progress.stage("scan", None);
    let rules = Rules::none();
    let requests: Vec<Request<'_>> = guests
        .iter()
        .map(|guest| Request {
            guest,
            rules: &rules,
        })
        .collect();
    let mut found = scan(&requests, 0, progress);
    found
        .files
        .sort_unstable_by_key(|file| (file.stamp.inode, file.directory));
    let objects: HashSet<u64> = listed.iter().map(|object| object.inode).collect();

    let mut costs: Vec<GuestCost> = guests
        .iter()
        .map(|guest| GuestCost {
            name: Shown::bytes(guest.name.as_bytes()).to_string(),
            vdir: Shown::path(&guest.vdir).to_string(),
            ..GuestCost::default()
        })
        .collect();
    let mut total = StoreCost {
        path: Shown::path(store.path()).to_string(),
        ..StoreCost::default()
    };
    for names in found
        .files
        .chunk_by(|one, other| one.stamp.inode == other.stamp.inode)
    {
        let allocated = names[0].stamp.allocated;
        let is_object = objects.contains(&names[0].stamp.inode);
        let mut holders: Vec<usize> = Vec::new();
        for file in names {
            let guest = usize::from(found.guest_of(file.directory));
            costs[guest].files += 1;
            costs[guest].shared_files += u64::from(is_object);
            if !holders.contains(&guest) {
                holders.push(guest);
            }
        }
        for &guest in &holders {
            let cost = &mut costs[guest];
            cost.bytes += allocated;
            cost.fair_share_bytes += allocated / holders.len() as u64;
            if is_object {
                cost.shared_bytes += allocated;
            } else {
                cost.private_bytes += allocated;
            }
        }
        if is_object {
            total.objects += 1;
            total.bytes += allocated;
            total.saved_bytes += allocated * (holders.len() as u64 - 1);
        }
    }
    if places::can_overlap(store) {
        progress.stage("extents", None);
        let inodes = found
            .files
            .chunk_by(|one, other| one.stamp.inode == other.stamp.inode);
        let private: Vec<&FileRecord> = inodes
            .map(|names| &names[0])
            .filter(|file| !objects.contains(&file.stamp.inode))
            .collect();
        let (spans, errors) = places::spans(&found, guests, &private);
        stretches(&spans, |length, holders| {
            share_out(length, holders, &mut costs, &mut total);
        });
        found.errors.extend(errors);
    }
    total.unlinked_objects = (listed.len() as u64).saturating_sub(total.objects);
    Ok(StoreReport {
        store: total,
        guests: costs,
        errors: found.errors,
    })
}

/// Corrects what was added up by inode where `length` bytes of the disk are in several files.
fn share_out(length: u64, holders: &[(u16, u32)], costs: &mut [GuestCost], total: &mut StoreCost) {
    let files: u64 = holders.iter().map(|&(_, count)| u64::from(count)).sum();
    if files < 2 {
        return;
    }
    total.saved_bytes += length * (files - 1);
    for &(guest, count) in holders {
        let cost = &mut costs[usize::from(guest)];
        let counted = length * u64::from(count);
        cost.private_bytes = cost.private_bytes.saturating_sub(counted);
        cost.fair_share_bytes = cost.fair_share_bytes.saturating_sub(counted);
        cost.fair_share_bytes += length / holders.len() as u64;
        if let [_] = holders {
            cost.private_bytes += length;
        } else {
            cost.shared_bytes += counted;
        }
    }
}
