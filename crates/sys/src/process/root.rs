//! Whether this process's root directory is that of its mount namespace: `setns(2)`, `statx(2)`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::procfs::Place;

/// Whether this process's root directory is that of its mount namespace, which it is not in a chroot. A thread of its own
/// joins the namespace that it is in already: by that its root becomes the namespace's.
///
/// # Errors
/// `/proc` is not mounted, or this process may not join a mount namespace.
pub fn has_root_of_its_mounts() -> io::Result<bool> {
    let own = root()?;
    let namespace = File::open("/proc/self/ns/mnt")?;
    let joined = std::thread::spawn(move || {
        // SAFETY: `unshare_unsafe` asks that nothing relies on descriptors that a thread shares: only CLONE_FILES would part
        // these. CLONE_FS gives this thread, which ends soon, a root and a working directory of its own.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        root()
    });
    let of_namespace = joined
        .join()
        .map_err(|_| io::Error::other("a thread ended early"))??;
    Ok(own == of_namespace)
}

/// The root directory of this thread.
fn root() -> io::Result<Place> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Place::of(open("/", flags, Mode::empty())?.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::{has_root_of_its_mounts, root};

    #[test]
    fn to_ask_changes_no_root_of_this_process() {
        let before = root().unwrap();
        // One who may not join a namespace gets an error.
        drop(has_root_of_its_mounts());
        assert_eq!(root().unwrap(), before);
    }
}
