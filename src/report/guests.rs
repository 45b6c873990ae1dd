//! Adds up what each guest costs and shares, and what its store saves.

use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use vhashify_sys::page_cache::page_size;
use vhashify_sys::shown::Shown;

use super::survey::{Inode, Survey};
use crate::store::Store;

/// What a guest costs. Bytes are those that the filesystem allocated.
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
    /// Bytes of these, and of extents that it shares with other guests.
    pub shared_bytes: u64,
    /// Bytes that only this guest has.
    pub private_bytes: u64,
    /// Its private bytes and its part of the shared ones: the bytes of an object or extent are split evenly among its
    /// guests.
    pub fair_share_bytes: u64,
    /// Its bytes in the page cache, if the kernel tells.
    pub page_cache: Option<GuestCache>,
}

/// A guest's bytes in the page cache at the moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct GuestCache {
    /// Those of all its files.
    pub bytes: u64,
    /// Those of its objects.
    pub shared_bytes: u64,
    /// Those of its private files.
    pub private_bytes: u64,
    /// Its private bytes and its part of the shared ones.
    pub fair_share_bytes: u64,
}

/// What a store holds and saves.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreCost {
    /// Its directory.
    pub path: String,
    /// Objects that the guests link.
    pub objects: u64,
    /// Bytes of these objects, once each.
    pub bytes: u64,
    /// Objects that none of these guests links.
    pub unlinked_objects: u64,
    /// Bytes that the guests would need if they shared neither objects nor extents.
    pub unshared_bytes: u64,
    /// How many bytes of that sharing saves.
    pub saved_bytes: u64,
    /// What it saves in the page cache, if the kernel tells.
    pub page_cache: Option<StoreCache>,
}

/// The bytes in the page cache that the guests of a store have.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct StoreCache {
    /// Those at the moment.
    pub bytes: u64,
    /// Those of objects, at the moment.
    pub shared_bytes: u64,
    /// How many more they would be if each guest had as much of its own copies there.
    pub saved_bytes: u64,
    /// How many they would be if each guest read all its files.
    pub full_bytes: u64,
    /// The same without sharing.
    pub full_unshared_bytes: u64,
}

/// Adds up the costs of the store and of each guest from `survey`.
#[must_use]
pub fn costs(store: &Store, survey: &Survey<'_>) -> (StoreCost, Vec<GuestCost>) {
    let mut guests: Vec<GuestCost> = survey
        .guests
        .iter()
        .map(|guest| GuestCost {
            name: Shown::bytes(guest.name.as_bytes()).to_string(),
            vdir: Shown::path(&guest.vdir).to_string(),
            page_cache: survey.if_page_cache_known(GuestCache::default()),
            ..GuestCost::default()
        })
        .collect();
    let mut total = StoreCost {
        path: Shown::path(store.path()).to_string(),
        page_cache: survey.if_page_cache_known(StoreCache::default()),
        ..StoreCost::default()
    };
    for inode in &survey.inodes {
        for file in survey.names(inode) {
            let cost = &mut guests[usize::from(survey.scan.guest_of(file.directory))];
            cost.files += 1;
            cost.shared_files += u64::from(inode.is_object);
        }
        let holders = survey.holders(inode);
        let count = holders.len() as u64;
        for &guest in &holders {
            guests[usize::from(guest)].add(inode, count);
        }
        total.add(inode, count);
    }
    total.unlinked_objects = (survey.objects.len() as u64).saturating_sub(total.objects);
    (total, guests)
}

/// Corrects [`costs`], which counts by inode, for an extent of `length` bytes that several files share. `holders` are
/// the guests with such files, and how many each has.
pub fn correct_for_extent(
    length: u64,
    holders: &[(u16, u32)],
    guests: &mut [GuestCost],
    total: &mut StoreCost,
) {
    let files: u64 = holders.iter().map(|&(_, count)| u64::from(count)).sum();
    if files < 2 {
        return;
    }
    total.saved_bytes += length * (files - 1);
    for &(guest, count) in holders {
        let cost = &mut guests[usize::from(guest)];
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

impl GuestCost {
    /// Adds an inode that so many guests have.
    fn add(&mut self, inode: &Inode, holders: u64) {
        let allocated = inode.stamp.allocated;
        self.bytes += allocated;
        self.fair_share_bytes += allocated / holders;
        if inode.is_object {
            self.shared_bytes += allocated;
        } else {
            self.private_bytes += allocated;
        }
        if let Some(cache) = &mut self.page_cache {
            cache.bytes += inode.cached;
            cache.fair_share_bytes += inode.cached / holders;
            if inode.is_object {
                cache.shared_bytes += inode.cached;
            } else {
                cache.private_bytes += inode.cached;
            }
        }
    }
}

impl StoreCost {
    /// Adds an inode that so many guests have.
    fn add(&mut self, inode: &Inode, holders: u64) {
        let allocated = inode.stamp.allocated;
        // A private inode that several guests link is one inode even without the store.
        let copies = if inode.is_object { holders } else { 1 };
        self.unshared_bytes += allocated * copies;
        self.saved_bytes += allocated * (copies - 1);
        if inode.is_object {
            self.objects += 1;
            self.bytes += allocated;
        }
        if let Some(cache) = &mut self.page_cache {
            let full = inode.stamp.size.next_multiple_of(page_size());
            cache.bytes += inode.cached;
            cache.saved_bytes += inode.cached * (copies - 1);
            cache.full_bytes += full;
            cache.full_unshared_bytes += full * copies;
            if inode.is_object {
                cache.shared_bytes += inode.cached;
            }
        }
    }
}
