//! Why guests and stores cannot be used as they lie, and what the user can do.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;
use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;

/// Why guests and stores cannot be used as they lie.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A vdir cannot be opened.
    #[error(
        "the vdir {} cannot be opened: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Vdir {
        /// The vdir.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A store cannot be opened.
    #[error(
        "the store {} cannot be opened: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Store {
        /// The store.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory above a vdir or a store cannot be looked at.
    #[error(
        "the directories above {} cannot be looked at: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Above {
        /// The vdir or store.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A vdir is the host's root directory.
    #[error("the vdir {} of the guest {} is the host's root directory; point its vdir to a directory of its own", Shown::path(vdir), Shown::bytes(name.as_bytes()))]
    HostRoot {
        /// The guest.
        name: OsString,
        /// Its vdir.
        vdir: PathBuf,
    },
    /// Two guests have one vdir.
    #[error("the guests {} and {} have the same vdir {}; point one of them to a directory of its own, or leave it out", Shown::bytes(first.as_bytes()), Shown::bytes(second.as_bytes()), Shown::path(vdir))]
    SameVdir {
        /// A guest.
        first: OsString,
        /// The other.
        second: OsString,
        /// The vdir of both.
        vdir: PathBuf,
    },
    /// A vdir lies in another.
    #[error("the vdir {inner} lies in the vdir {outer}; move {inner} out of it, or leave one of the two guests out", inner = Shown::path(inner), outer = Shown::path(outer))]
    NestedVdir {
        /// The vdir inside.
        inner: PathBuf,
        /// The vdir that holds it.
        outer: PathBuf,
    },
    /// A vdir lies in a store.
    #[error("the vdir {vdir} lies in the store {store}, which is for shared files only; move the vdir out of it, or name another store", vdir = Shown::path(vdir), store = Shown::path(store))]
    VdirInStore {
        /// The vdir.
        vdir: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// A store lies in a vdir, or is one.
    #[error(
        "the store {} lies in the vdir {}, where the guest could reach the files of others; put the store beside the vdirs",
        Shown::path(store),
        Shown::path(vdir)
    )]
    StoreInVdir {
        /// The store.
        store: PathBuf,
        /// The vdir.
        vdir: PathBuf,
    },
    /// Two stores are on one filesystem.
    #[error(
        "the stores {} and {} are on one filesystem, which takes one store; leave one of them out",
        Shown::path(first),
        Shown::path(second)
    )]
    StoresOnOneDevice {
        /// A store.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// No store is on the filesystem of a vdir.
    #[error(
        "the vdir {} is on a filesystem without a store ({}); make a store on that filesystem, and link it in apps/vunify/hash or name it with --destination",
        Shown::path(vdir),
        listed(stores)
    )]
    NoStore {
        /// The vdir.
        vdir: PathBuf,
        /// The stores that there are, on other filesystems.
        stores: Vec<PathBuf>,
    },
    /// A guest and one of its reference guests are on two filesystems.
    #[error("the reference guest {} ({}) is on another filesystem than {}, and files can be shared on one only; move one of the two, or remove the link to it (apps/vunify/refserver.*)", Shown::bytes(name.as_bytes()), Shown::path(vdir), Shown::path(of))]
    ReferenceElsewhere {
        /// The reference guest.
        name: OsString,
        /// Its vdir.
        vdir: PathBuf,
        /// The vdir of the guest that has it.
        of: PathBuf,
    },
    /// A vdir and the store of its filesystem are reached through two mounts.
    #[error(
        "the vdir {} and the store {} are on one filesystem but on two mounts, and no file can be linked from one to the other; name both by paths below the same mount",
        Shown::path(vdir),
        Shown::path(store)
    )]
    OtherMount {
        /// The vdir.
        vdir: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// A vdir or a store is on an overlay.
    #[error(
        "{0} lies on an overlay, whose files change their inodes and fall out of hard links when they are first changed; \
         move guests and store to a filesystem like ext4, XFS or Btrfs, or, while the overlay is not mounted, name the \
         directories that it is made of (upperdir, lowerdir: findmnt -no OPTIONS -T {0})",
        Shown::path(path)
    )]
    Overlay {
        /// The vdir or the store.
        path: PathBuf,
    },
    /// A store is on a filesystem that is mounted read-only.
    #[error(
        "the store {0} is on a read-only filesystem; mount it for writing (mount -o remount,rw \"$(findmnt -no TARGET -T {0})\")",
        Shown::path(store)
    )]
    ReadOnly {
        /// The store.
        store: PathBuf,
    },
}

/// Names the stores in a message.
fn listed(stores: &[PathBuf]) -> String {
    match stores {
        [] => "there is no store at all".to_owned(),
        [one] => format!("the store is {}", Shown::path(one)),
        many => {
            let many: Vec<String> = many
                .iter()
                .map(|store| Shown::path(store).to_string())
                .collect();
            format!("the stores are {}", many.join(", "))
        }
    }
}
