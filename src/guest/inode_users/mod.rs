//! Which inodes of guests somebody uses by another way than by their names: those must stay under their names.
//!
//! ```text
//! use                                what keeps the inode                    where it is told
//! upper layer of a mounted overlay   overlayfs, each file that it opened     mountinfo, upperdir= and workdir=
//! bind mount of a file               the mount                               mountinfo, field 4
//! mount over a file's name           (the name: it goes when the name goes)  mountinfo, fields 3 and 5
//! read-only loop device              the device                              /sys/block, LOOP_GET_STATUS64
//! ```
//!
//! A swap file and a loop device that may be written to are open for writing, so that no lease is granted on them. Lower
//! layers of an overlay are only read.
//!
//! `namespaces` asks one process of each mount namespace. `questions` picks from its mounts what may concern a guest, and
//! `overlay` decides which directories are an overlay's layers; both are pure. `guest_places` knows where guests lie on
//! their filesystems. All that a namespace holds may be a guest's work: paths are resolved below the root directory of
//! its process, by what the kernel has in memory alone, so that no server of a guest is waited for; and the effort is
//! that of reading the mounts once.
//!
//! Not seen: a mount namespace without any process that this `/proc` lists, or of a single thread; and what is mounted
//! after the look.

mod guest_places;
mod namespaces;
mod overlay;
mod questions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, StatxFlags, makedev};
use rustix::io::Errno;
use vhashify_sys::directory::{Directory, birth};
use vhashify_sys::procfs::{self, Mount, ProcessRoot};
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Timestamp;
use vhashify_sys::{loop_device, resolve};

use self::guest_places::GuestPlaces;
use self::namespaces::{ancestors, each_namespace};
use self::overlay::{Layers, Location, Overlay, Signs};
use self::questions::questions;
use super::Guest;

/// An inode: its device (`st_dev`) and its number.
pub(super) type Inode = (u64, u64);

/// The inodes of guests that are used by another way than by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InodeUsers {
    files: HashSet<Inode>,
    layers: HashSet<Inode>,
    /// Layers that were not found.
    signs: HashSet<Signs>,
}

impl InodeUsers {
    /// Looks at all mount namespaces and loop devices of this host. What cannot be told, `warn` hears as one line, and no
    /// file of the guest that it concerns may be replaced.
    #[must_use]
    pub fn look(guests: &[&Guest], warn: &mut dyn FnMut(&str)) -> Self {
        let mut look = Look::new(guests);
        look.at_mounts();
        look.at_overlays();
        look.at_loop_devices();
        look.finish(warn)
    }

    /// Whether any file is used so.
    #[must_use]
    pub fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether a file is mounted elsewhere, has something mounted over one of its names, or is that of a loop device.
    #[must_use]
    pub fn has_file(&self, device: u64, inode: u64) -> bool {
        self.files.contains(&(device, inode))
    }

    /// Whether a directory is the upper or the work directory of a mounted overlay, or may be one for all that is known.
    /// All that lies below is the overlay's.
    #[must_use]
    pub fn has_layer(&self, directory: &Directory) -> bool {
        let (number, birth) = (Some(directory.inode), directory.birth);
        let mut signs = [(number, birth), (number, None), (None, birth)].into_iter();
        self.layers.contains(&(directory.device, directory.inode))
            || !self.signs.is_empty()
                && signs.any(|(number, birth)| self.signs.contains(&Signs { number, birth }))
    }
}

/// One look, as far as it has come.
struct Look<'a> {
    guests: &'a [&'a Guest],
    places: GuestPlaces,
    users: InodeUsers,
    /// By the device of the superblock, since an overlay may be mounted in many namespaces.
    overlays: HashMap<(u32, u32), Overlay>,
    /// What processes see of the guests, by the first mount that they see. Asked only where something cannot be told.
    shows: HashMap<u64, Shows>,
    /// What cannot be told, by the position of the guest that it may concern.
    unknown: BTreeMap<usize, String>,
}

/// What a process sees of the guests.
struct Shows {
    guests: BTreeSet<usize>,
    /// Whether its root directory is an overlay, which another process has put there.
    is_root_overlay: bool,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
struct Found {
    inode: Inode,
    mount: u64,
    kind: FileType,
    birth: Option<Timestamp>,
}

impl<'a> Look<'a> {
    fn new(guests: &'a [&'a Guest]) -> Self {
        Self {
            guests,
            places: GuestPlaces::default(),
            users: InodeUsers::default(),
            overlays: HashMap::new(),
            shows: HashMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    fn at_mounts(&mut self) {
        let own = procfs::mounts("self");
        let processes = own.and_then(|own| {
            let lie = self.guests.iter();
            let lie = lie.map(|guest| (guest.mount_id, guest.vdir.as_os_str().as_bytes()));
            self.places = GuestPlaces::new(lie, &own).ok_or(Errno::NOENT)?;
            procfs::processes()
        });
        let processes = match processes {
            Ok(processes) => processes,
            Err(error) => {
                let text = format!("/proc does not tell who has mounted what ({error}); mount it");
                return self.cannot_tell_of(0..self.guests.len(), &text);
            }
        };
        let mut refused = Vec::new();
        each_namespace(
            &processes,
            |process, root, mounts| {
                let root = root.map(|root| root.directory.as_fd());
                self.at_namespace(process, root, mounts);
            },
            |process, error| refused.push((process, error)),
        );
        for (process, error) in refused {
            let text = format!(
                "what process {process} has mounted cannot be read ({error}); run this as root of the host, or end \
                 the process"
            );
            self.cannot_tell(process, &text);
        }
    }

    /// Answers what the mounts of one namespace ask.
    fn at_namespace(&mut self, process: i32, root: Option<BorrowedFd<'_>>, mounts: &[Mount]) {
        let asked = questions(mounts, |device| self.places.has_filesystem(device));
        for mount in asked.overlays {
            self.at_overlay(process, root, mount);
        }
        for mount in asked.shown {
            self.at_shown(process, root, mount);
        }
        for (device, path) in asked.covered {
            if let Some((guest, below)) = self.places.find(device, &path)
                && let Ok(found) = below_vdir(self.guests[guest], below)
            {
                self.add_file(found);
            }
        }
    }

    /// A mount that shows a part of a guests' filesystem: a file, perhaps.
    fn at_shown(&mut self, process: i32, root: Option<BorrowedFd<'_>>, mount: &Mount) {
        if let Some(found) = mounted(root, mount) {
            return self.add_file(found);
        }
        // Another mount hides it, a directory on the way is a server's, or this process may not look there.
        let path = mount.shown_path();
        let Some((guest, below)) = self.places.find(mount.device, &path) else {
            return;
        };
        if let Ok(found) = below_vdir(self.guests[guest], below) {
            return self.add_file(found);
        }
        let text = format!(
            "what process {process} has mounted at {} cannot be found; unmount it",
            Shown::path(&mount.path())
        );
        self.cannot_tell_of([guest], &text);
    }

    fn at_overlay(&mut self, process: i32, root: Option<BorrowedFd<'_>>, mount: &Mount) {
        let overlay = match self.overlays.entry(mount.device) {
            std::collections::hash_map::Entry::Occupied(known) if known.get().is_found() => return,
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let Some(overlay) = Overlay::of(mount, process) else {
                    return;
                };
                new.insert(overlay)
            }
        };
        let (major, minor) = mount.device;
        if let Some(found) = mounted(root, mount)
            && found.inode.0 == makedev(major, minor)
        {
            overlay.root_is(found.inode.1, found.birth);
        }
        if let Some(root) = root {
            find_layers(overlay, root, &mount.path());
        }
    }

    /// Which directories are the layers of the overlays that were met.
    fn at_overlays(&mut self) {
        let host = procfs::root("self").map(|host| host.place.device);
        let mut of_process: BTreeMap<i32, Vec<(_, Overlay)>> = BTreeMap::new();
        for (device, overlay) in std::mem::take(&mut self.overlays) {
            let process = overlay.process;
            of_process
                .entry(process)
                .or_default()
                .push((device, overlay));
        }
        for (process, overlays) in of_process {
            // Whoever has mounted it may have had another root directory: that of a process above this one.
            let mut roots: Option<Vec<ProcessRoot>> = None;
            for ((major, minor), mut overlay) in overlays {
                if !overlay.is_found() {
                    let above = || ancestors(process).into_iter().map(procfs::root);
                    let roots =
                        roots.get_or_insert_with(|| above().filter_map(Result::ok).collect());
                    for root in roots {
                        find_layers(&mut overlay, root.directory.as_fd(), Path::new("/"));
                    }
                }
                match overlay.location() {
                    Location::Known(layers) => self.users.layers.extend(layers),
                    Location::Signs(signs) => drop(self.users.signs.insert(signs)),
                    // The host's own root directory: what the host has is mounted on it, or came before it.
                    Location::Unknown if host == Ok(makedev(major, minor)) => {}
                    Location::Unknown => {
                        let text = format!(
                            "the upper directory of the overlay that process {process} sees at {} cannot be found; \
                             unmount it, or mount it by absolute paths",
                            Shown::path(&overlay.point)
                        );
                        self.cannot_tell(process, &text);
                    }
                }
            }
        }
    }

    fn at_loop_devices(&mut self) {
        for device in loop_device::read_only_devices() {
            // Detached since, or this process has no such device in its /dev: it can but read what it had.
            self.users.files.extend(loop_device::backing_file(&device));
        }
    }

    fn add_file(&mut self, found: Found) {
        if found.kind.is_file() {
            self.users.files.insert(found.inode);
        }
    }

    /// Something that `process` has mounted cannot be told. It may concern the guests of which its namespace shows anything;
    /// where its root directory is an overlay, also those that the process shows which has put it there, one above it.
    fn cannot_tell(&mut self, process: i32, text: &str) {
        let mut guests = BTreeSet::new();
        for ancestor in ancestors(process) {
            let Ok(shown) = self.shown_to(ancestor) else {
                continue;
            };
            guests.extend(&shown.guests);
            if !shown.is_root_overlay {
                return self.cannot_tell_of(guests, text);
            }
        }
        self.cannot_tell_of(0..self.guests.len(), text);
    }

    /// What a process sees of the guests; its namespace is asked once.
    fn shown_to(&mut self, process: i32) -> std::io::Result<&Shows> {
        let first = procfs::first_mount(process)?;
        if !self.shows.contains_key(&first) {
            let mounts = procfs::mounts(process)?;
            let shown = mounts.iter();
            let shown =
                shown.flat_map(|mount| self.places.shown(mount.device, &mount.shown_path()));
            let root = mounts.iter().rfind(|mount| mount.point == b"/");
            let told = Shows {
                guests: shown.collect(),
                is_root_overlay: root.is_some_and(|root| root.kind == b"overlay"),
            };
            self.shows.insert(first, told);
        }
        self.shows
            .get(&first)
            .ok_or_else(|| std::io::Error::from(Errno::SRCH))
    }

    fn cannot_tell_of(&mut self, guests: impl IntoIterator<Item = usize>, text: &str) {
        for guest in guests {
            self.unknown.entry(guest).or_insert_with(|| text.to_owned());
        }
    }

    /// Says what cannot be told, once each, and takes all that it may concern for layers.
    fn finish(mut self, warn: &mut dyn FnMut(&str)) -> InodeUsers {
        let mut concerned: BTreeMap<&str, Vec<&Guest>> = BTreeMap::new();
        for (&guest, text) in &self.unknown {
            concerned.entry(text).or_default().push(self.guests[guest]);
        }
        for (text, guests) in concerned {
            let files = match guests[..] {
                [one] => format!("the files of {}", Shown::bytes(one.name.as_bytes())),
                _ => format!("the files of {} guests", guests.len()),
            };
            warn(&format!("{text}; until then {files} stay as they are"));
            let vdirs = guests.iter().map(|guest| (guest.device, guest.inode));
            self.users.layers.extend(vdirs);
        }
        self.users
    }
}

/// Looks for the layers of an overlay below a root directory from which it is seen at `point`.
fn find_layers(overlay: &mut Overlay, root: BorrowedFd<'_>, point: &Path) {
    let directory = |path: &[u8]| {
        let found = cached(root, path).ok()?;
        found.kind.is_dir().then_some(found)
    };
    for (upper, work) in overlay.paths(point.as_os_str().as_bytes()) {
        if let Some(upper) = directory(&upper) {
            let work = work.as_deref().and_then(directory);
            overlay.add(Layers {
                upper: upper.inode,
                birth: upper.birth,
                work: work.map(|work| work.inode),
            });
            if overlay.is_found() {
                return;
            }
        }
    }
}

/// What a process with this root directory sees of a mount, if nothing hides it.
fn mounted(root: Option<BorrowedFd<'_>>, mount: &Mount) -> Option<Found> {
    let found = cached(root?, mount.path().as_os_str().as_bytes()).ok()?;
    (found.mount == mount.id).then_some(found)
}

/// What a process with this root directory has at `path`, as far as the kernel has it in memory.
fn cached(root: BorrowedFd<'_>, path: &[u8]) -> Result<Found, Errno> {
    resolve::find_cached(root, path).and_then(look)
}

/// What a guest has at `below`, where nothing is mounted over it.
fn below_vdir(guest: &Guest, below: &[u8]) -> Result<Found, Errno> {
    let slash = below.iter().rposition(|&byte| byte == b'/');
    let (directory, name) = slash.map_or((&b""[..], below), |at| (&below[..at], &below[at + 1..]));
    let directory = resolve::open_directory(guest.root.as_fd(), directory)?;
    resolve::open_any(directory.as_fd(), name).and_then(look)
}

fn look(file: OwnedFd) -> Result<Found, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID | StatxFlags::BTIME;
    let found = rustix::fs::statx(file, c"", flags, mask)?;
    Ok(Found {
        inode: (
            makedev(found.stx_dev_major, found.stx_dev_minor),
            found.stx_ino,
        ),
        mount: found.stx_mnt_id,
        kind: FileType::from_raw_mode(found.stx_mode.into()),
        birth: birth(&found),
    })
}
