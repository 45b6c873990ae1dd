//! Which mounts of a namespace may concern a guest. Pure, and linear in the number of mounts.

use std::collections::HashMap;

use vhashify_sys::procfs::Mount;

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Questions<'m> {
    /// Overlays that can be written to.
    pub(super) overlays: Vec<&'m Mount>,
    /// Mounts of a part of a guests' filesystem: of a file, perhaps.
    pub(super) shown: Vec<&'m Mount>,
    /// What of a guests' filesystem something is mounted over: the filesystem's device, and the path below its root.
    pub(super) covered: Vec<((u32, u32), Vec<u8>)>,
}

/// Asks of all mounts that a process sees. `is_guests` says whether a filesystem has guests.
pub(super) fn questions(mounts: &[Mount], is_guests: impl Fn((u32, u32)) -> bool) -> Questions<'_> {
    let by_id: HashMap<u64, &Mount> = mounts.iter().map(|mount| (mount.id, mount)).collect();
    let mut asked = Questions::default();
    for mount in mounts {
        if mount.kind == b"overlay" && mount.option(b"upperdir").is_some() {
            asked.overlays.push(mount);
        }
        if is_guests(mount.device) && mount.root != b"/" {
            asked.shown.push(mount);
        }
        // What the root of the namespace covers, no process sees.
        let parent = by_id
            .get(&mount.parent)
            .filter(|parent| parent.id != mount.id);
        if let Some(parent) = parent
            && is_guests(parent.device)
        {
            asked
                .covered
                .extend(covered(parent, mount).map(|path| (parent.device, path)));
        }
    }
    asked
}

/// The path below the filesystem's root that `mount` covers in `parent`.
fn covered(parent: &Mount, mount: &Mount) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let (above, point) = (parent.path(), mount.path());
    let above = trimmed(above.as_os_str().as_bytes());
    let below = point.as_os_str().as_bytes().strip_prefix(above)?;
    let is_whole = below.is_empty() || below.starts_with(b"/");
    is_whole.then(|| [trimmed(&parent.shown_path()), below].concat())
}

/// A path without a slash at its end: the root is empty.
pub(super) fn trimmed(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::questions;
    use vhashify_sys::procfs::parse_mounts;

    #[test]
    fn what_may_concern_a_guest_is_asked_for() {
        let mounts = parse_mounts(
            br"27 1 8:1 / / rw - ext4 /dev/a rw
30 27 8:2 / /vservers rw - ext4 /dev/b rw
31 30 8:2 /web/etc/a\040b /vservers/web/etc/c\040d rw - ext4 /dev/b rw
32 27 8:1 /srv /srv rw - ext4 /dev/a rw
33 30 0:9 / /vservers/web/proc rw - proc proc rw
34 27 0:40 / /merged rw - overlay o rw,lowerdir=/a,upperdir=/b,workdir=/c
35 27 0:41 / /read rw - overlay o ro,lowerdir=/a:/b
36 32 0:42 / /srv/x rw - tmpfs t rw
37 30 0:43 / /vserversxx rw - tmpfs t rw
38 38 8:2 / / rw - ext4 /dev/b rw
39 99 8:2 /mail / rw - ext4 /dev/b rw
40 39 8:2 /other /etc/hosts rw - ext4 /dev/b rw
",
        );
        let asked = questions(&mounts, |device| device == (8, 2));
        let ids = |mounts: &[&vhashify_sys::procfs::Mount]| -> Vec<u64> {
            mounts.iter().map(|mount| mount.id).collect()
        };
        assert_eq!(ids(&asked.overlays), [34]);
        assert_eq!(ids(&asked.shown), [31, 39, 40]);
        let covered: Vec<_> = asked
            .covered
            .iter()
            .map(|(_, path)| path.as_slice())
            .collect();
        let expected: [&[u8]; 3] = [b"/web/etc/c d", b"/web/proc", b"/mail/etc/hosts"];
        assert_eq!(covered, expected);
        assert!(asked.covered.iter().all(|(device, _)| *device == (8, 2)));
    }
}
