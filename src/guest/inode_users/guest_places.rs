//! Where guests lie on their filesystems, as the kernel names it in `mountinfo`. Pure.

use std::collections::{BTreeSet, HashMap};

use vhashify_sys::procfs::Mount;

use super::questions::trimmed;

/// The paths of guests below the roots of their filesystems.
#[derive(Debug, Default)]
pub(super) struct GuestPlaces {
    by_filesystem: HashMap<(u32, u32), Vdirs>,
}

#[derive(Debug, Default)]
struct Vdirs {
    by_path: HashMap<Vec<u8>, usize>,
    /// How long these paths are, so that only so many beginnings of another path are looked up.
    lengths: BTreeSet<usize>,
}

impl GuestPlaces {
    /// Of guests, each with its mount and the path of its vdir, given the mounts that this process sees. `None` where a
    /// mount is not among them.
    pub(super) fn new<'g>(
        guests: impl Iterator<Item = (u64, &'g [u8])>,
        own: &[Mount],
    ) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let by_id: HashMap<u64, &Mount> = own.iter().map(|mount| (mount.id, mount)).collect();
        let mut places = Self::default();
        for (number, (mount, vdir)) in guests.enumerate() {
            let mount = by_id.get(&mount)?;
            let point = mount.path();
            let below = vdir.strip_prefix(trimmed(point.as_os_str().as_bytes()))?;
            let path = [trimmed(&mount.shown_path()), trimmed(below)].concat();
            let vdirs = places.by_filesystem.entry(mount.device).or_default();
            vdirs.lengths.insert(path.len());
            vdirs.by_path.insert(path, number);
        }
        Some(places)
    }

    /// Whether the filesystem of this device has guests.
    pub(super) fn has_filesystem(&self, device: (u32, u32)) -> bool {
        self.by_filesystem.contains_key(&device)
    }

    /// The guests of which a mount shows anything, given which part of the filesystem it shows: those that lie in it, or
    /// the one that it lies in.
    pub(super) fn shown(&self, device: (u32, u32), part: &[u8]) -> Vec<usize> {
        let part = trimmed(part);
        let is_below = |path: &[u8], above: &[u8]| {
            let rest = path.strip_prefix(above);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let vdirs = self.by_filesystem.get(&device).into_iter();
        vdirs
            .flat_map(|vdirs| &vdirs.by_path)
            .filter(|(vdir, _)| is_below(vdir, part) || is_below(part, vdir))
            .map(|(_, guest)| *guest)
            .collect()
    }

    /// The guest that a path of a filesystem leads into, by its position, and the rest of the path below its vdir. None
    /// for a vdir itself.
    pub(super) fn find<'p>(&self, device: (u32, u32), path: &'p [u8]) -> Option<(usize, &'p [u8])> {
        let vdirs = self.by_filesystem.get(&device)?;
        vdirs.lengths.iter().find_map(|&length| {
            let (begin, rest) = path.split_at_checked(length)?;
            let below = rest.strip_prefix(b"/").filter(|below| !below.is_empty())?;
            Some((*vdirs.by_path.get(begin)?, below))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::GuestPlaces;
    use vhashify_sys::procfs::parse_mounts;

    #[test]
    fn a_path_of_the_filesystem_leads_to_its_guest() {
        let own = parse_mounts(
            br"27 1 8:1 / / rw - ext4 /dev/a rw
30 27 8:2 /@/v /vser\040vers rw - btrfs /dev/b rw
31 27 8:3 / /whole rw - ext4 /dev/c rw
",
        );
        let guests: [(u64, &[u8]); 4] = [
            (27, b"/guests/web"),
            (30, b"/vser vers/mail"),
            (30, b"/vser vers/mail2"),
            (31, b"/whole"),
        ];
        let places = GuestPlaces::new(guests.into_iter(), &own).unwrap();
        for (device, path, expected) in [
            ((8, 1), "/guests/web/etc/hosts", Some((0, "etc/hosts"))),
            ((8, 1), "/guests/web", None),
            ((8, 1), "/guests/webx/etc", None),
            ((8, 1), "/@/v/mail/a", None),
            ((8, 2), "/@/v/mail/a", Some((1, "a"))),
            ((8, 2), "/@/v/mail2/a", Some((2, "a"))),
            ((8, 2), "/mail/a", None),
            ((8, 3), "/a/b", Some((3, "a/b"))),
            ((8, 4), "/a/b", None),
        ] {
            let expected = expected.map(|(guest, below): (_, &str)| (guest, below.as_bytes()));
            assert_eq!(places.find(device, path.as_bytes()), expected, "{path}");
        }
        for (device, part, expected) in [
            ((8, 2), "/", &[1, 2][..]),
            ((8, 2), "/@/v", &[1, 2]),
            ((8, 2), "/@/v/mail", &[1]),
            ((8, 2), "/@/v/mail2/srv/docker", &[2]),
            ((8, 2), "/@/v/ma", &[]),
            ((8, 3), "/srv", &[3]),
            ((8, 4), "/", &[]),
        ] {
            let mut shown = places.shown(device, part.as_bytes());
            shown.sort_unstable();
            assert_eq!(shown, expected, "{part}");
        }
        assert!(places.has_filesystem((8, 2)) && !places.has_filesystem((8, 4)));
        assert!(GuestPlaces::new([(99, &b"/x"[..])].into_iter(), &own).is_none());
    }
}
