//! Walks all guests of a store once. The rest of the report is computed from that.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};
use vhashify_sys::call_error::reason;
use vhashify_sys::stamp::Stamp;
use vhashify_sys::{page_cache, resolve};

use crate::error::Error;
use crate::exclude::Rules;
use crate::guest::{Guest, InodeUsers};
use crate::outcome::{FileError, Progress};
use crate::scan::{FileRecord, GuestId, Request, Scan, scan};
use crate::store::{ObjectName, Store};

/// All regular files of some guests, as the walk found them.
#[derive(Debug)]
pub struct Survey<'a> {
    /// The guests.
    pub guests: &'a [&'a Guest],
    /// Their files, sorted by inode.
    pub scan: Scan,
    /// The store's objects by inode number.
    pub objects: HashMap<u64, ObjectName>,
    /// The inodes of the files.
    pub inodes: Vec<Inode>,
    /// Why the kernel tells nothing about the page cache; `None` if it does.
    pub page_cache_unknown: Option<String>,
}

/// An inode with all its names.
#[derive(Debug)]
pub struct Inode {
    /// Its metadata.
    pub stamp: Stamp,
    /// Whether it is an object of the store.
    pub is_object: bool,
    /// Its bytes in the page cache; 0 if the kernel does not tell.
    pub cached: u64,
    first: usize,
    count: usize,
}

impl<'a> Survey<'a> {
    /// Walks all of `guests`, excluded files too, and asks the kernel how much of each file is in the page cache.
    ///
    /// # Errors
    /// The store cannot be listed. [`Survey::errors`] has what cannot be read in a guest.
    pub fn take(
        store: &mut Store,
        guests: &'a [&'a Guest],
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
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
        let mut scan = scan(&requests, 0, None, &InodeUsers::default(), &[], progress);
        scan.files
            .sort_unstable_by_key(|file| (file.inode(), file.directory));
        let objects: HashMap<u64, ObjectName> = listed
            .iter()
            .map(|object| (object.inode, object.name))
            .collect();
        let mut first = 0;
        let inodes = scan
            .files
            .chunk_by(|one, other| one.inode() == other.inode())
            .map(|names| {
                let inode = Inode {
                    stamp: scan.stamp_of(&names[0]),
                    is_object: objects.contains_key(&names[0].inode()),
                    cached: 0,
                    first,
                    count: names.len(),
                };
                first += names.len();
                inode
            })
            .collect();
        let mut survey = Self {
            guests,
            scan,
            objects,
            inodes,
            page_cache_unknown: None,
        };
        survey.ask_page_cache(progress);
        Ok(survey)
    }

    /// The files and directories that could not be read.
    #[must_use]
    pub fn errors(&self) -> &[FileError] {
        &self.scan.errors
    }

    /// The names of an inode.
    #[must_use]
    pub fn names(&self, inode: &Inode) -> &[FileRecord] {
        &self.scan.files[inode.first..inode.first + inode.count]
    }

    /// The guests that have a name of an inode.
    #[must_use]
    pub fn holders(&self, inode: &Inode) -> Vec<GuestId> {
        let mut holders: Vec<GuestId> = Vec::with_capacity(1);
        for file in self.names(inode) {
            let guest = self.scan.guest_of(file.directory);
            if !holders.contains(&guest) {
                holders.push(guest);
            }
        }
        holders
    }

    /// `value`, which is about the page cache; `None` if the kernel tells nothing about that.
    #[must_use]
    pub fn if_page_cache_known<T>(&self, value: T) -> Option<T> {
        self.page_cache_unknown.is_none().then_some(value)
    }

    fn ask_page_cache(&mut self, progress: &dyn Progress) {
        progress.stage("page cache", Some(self.inodes.len() as u64));
        let (files, scan, guests) = (&self.scan.files, &self.scan, self.guests);
        let unknown = OnceLock::new();
        self.inodes.par_iter_mut().for_each(|inode| {
            let file = &files[inode.first];
            let root = guests[usize::from(scan.guest_of(file.directory))]
                .root
                .as_fd();
            let opened = resolve::open_directory(root, &scan.directory_path(file.directory))
                .and_then(|directory| resolve::open_file(directory.as_fd(), scan.name_of(file)));
            // A file that vanished since the walk counts nothing.
            if let Ok(opened) = opened {
                match page_cache::resident_bytes(opened.as_fd(), inode.stamp.size) {
                    Ok(bytes) => inode.cached = bytes,
                    Err(error) => drop(unknown.set(reason(&error))),
                }
            }
            progress.advance(1);
        });
        self.page_cache_unknown = unknown.into_inner();
    }
}
