//! Which directories are the upper and the work directory of a mounted overlay. Pure.
//!
//! `mountinfo` has their paths as whoever mounted it wrote them: relative to a directory that nobody tells, below a root
//! directory that may be another one, or of yesterday, since a directory in use can be moved. But `statx(2)` of the
//! overlay's own root directory tells when the upper one was made, and its inode number where all layers are on one
//! filesystem (or with `xino=on`). So a path is believed where it leads to a directory with these [`Signs`]; and where none
//! does, any directory that has them is taken for the upper one.

use std::path::PathBuf;

use vhashify_sys::procfs::Mount;
use vhashify_sys::stamp::Timestamp;

use super::Inode;

/// Where layers are on several filesystems, overlayfs numbers directories by itself, beginning with the root: no
/// directory of a guest has such a number.
const OF_OVERLAYFS: u64 = 2;

/// Directories above the mount point that a relative path is tried from. Engines with many layers mount beside them.
const MOST_ABOVE: usize = 32;

/// Directories that are kept as possible ones of an overlay without signs; with more, nothing is known.
const MOST_CANDIDATES: usize = 64;

/// An overlay that is mounted somewhere.
#[derive(Debug)]
pub(super) struct Overlay {
    /// Where one process sees it.
    pub(super) point: PathBuf,
    /// That process.
    pub(super) process: i32,
    upper: Vec<u8>,
    work: Option<Vec<u8>>,
    signs: Signs,
    candidates: Vec<Layers>,
}

/// What is known of an upper directory without having found it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Signs {
    pub(super) number: Option<u64>,
    pub(super) birth: Option<Timestamp>,
}

/// Two directories of an overlay, or perhaps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layers {
    pub(super) upper: Inode,
    /// When the upper one was made.
    pub(super) birth: Option<Timestamp>,
    pub(super) work: Option<Inode>,
}

/// What is known of an overlay's layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// They are these directories.
    Known(Vec<Inode>),
    /// The upper directory is one with these signs.
    Signs(Signs),
    /// They may be anywhere.
    Unknown,
}

impl Signs {
    fn are_known(self) -> bool {
        self.number.is_some() || self.birth.is_some()
    }

    fn are_of(self, layers: &Layers) -> bool {
        let has_number = self.number.is_none_or(|number| layers.upper.1 == number);
        has_number && self.birth.is_none_or(|birth| layers.birth == Some(birth))
    }
}

impl Overlay {
    /// The overlay of a mount that `process` sees; `None` where nothing can be written to it.
    pub(super) fn of(mount: &Mount, process: i32) -> Option<Self> {
        Some(Self {
            point: mount.path(),
            process,
            upper: mount.option(b"upperdir")?,
            work: mount.option(b"workdir"),
            signs: Signs::default(),
            candidates: Vec::new(),
        })
    }

    /// The overlay's root directory has this inode number, and was made then.
    pub(super) fn root_is(&mut self, number: u64, birth: Option<Timestamp>) {
        self.signs = Signs {
            number: Some(number).filter(|&number| number > OF_OVERLAYFS),
            birth,
        };
    }

    /// The absolute paths that the upper and the work directory may have, where the overlay is seen at `point`.
    pub(super) fn paths(&self, point: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut written = vec![(self.upper.clone(), self.work.clone())];
        if self.upper.contains(&b'\\') {
            // Escaped once more by whoever wrote it: `\,` for a comma, `\\` for a backslash.
            written.push((unescaped(&self.upper), self.work.as_deref().map(unescaped)));
        }
        let bases: Vec<&[u8]> = if self.upper.starts_with(b"/") {
            vec![b""]
        } else {
            let slashes = point.iter().enumerate().rev();
            let slashes = slashes.filter(|(_, byte)| **byte == b'/');
            slashes
                .map(|(at, _)| &point[..at])
                .take(MOST_ABOVE)
                .collect()
        };
        let at = |base: &[u8], path: &[u8]| match path {
            [b'/', ..] => path.to_vec(),
            _ => [base, path].join(&b'/'),
        };
        let mut paths = Vec::new();
        for base in bases {
            for (upper, work) in &written {
                let work = work.as_deref().map(|work| at(base, work));
                paths.push((at(base, upper), work));
            }
        }
        paths
    }

    /// Two directories were found at some of these paths. Where only a relative path speaks for it, both must be there.
    pub(super) fn add(&mut self, layers: Layers) {
        let is_possible = if self.signs.are_known() {
            self.signs.are_of(&layers)
        } else {
            self.upper.starts_with(b"/") || layers.work.is_some()
        };
        let has_room = self.candidates.len() <= MOST_CANDIDATES;
        if is_possible && has_room && !self.candidates.contains(&layers) {
            self.candidates.push(layers);
        }
    }

    /// Whether the upper directory is certain.
    pub(super) fn is_found(&self) -> bool {
        let mut candidates = self.candidates.iter();
        self.signs.are_known() && candidates.any(|layers| self.signs.are_of(layers))
    }

    /// What is known by now.
    pub(super) fn location(&self) -> Location {
        let of_it = self.candidates.iter();
        let of_it = of_it.filter(|layers| self.signs.are_of(layers));
        let found = of_it.flat_map(|layers| [Some(layers.upper), layers.work]);
        let found: Vec<Inode> = found.flatten().collect();
        let are_all = self.signs.are_known() || self.candidates.len() <= MOST_CANDIDATES;
        if !found.is_empty() && are_all {
            Location::Known(found)
        } else if self.signs.are_known() {
            Location::Signs(self.signs)
        } else {
            Location::Unknown
        }
    }
}

/// Takes away the backslashes before other characters, as overlayfs does (`ovl_unescape`, fs/overlayfs/params.c).
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut bytes = path.iter();
    let mut out = Vec::with_capacity(path.len());
    while let Some(&byte) = bytes.next() {
        let next = if byte == b'\\' {
            bytes.next()
        } else {
            Some(&byte)
        };
        out.extend(next);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Layers, Location, Overlay, Signs, Timestamp};
    use vhashify_sys::procfs::parse_mounts;

    fn overlay(options: &str) -> Overlay {
        let line = format!("34 27 0:40 / /x/merged rw - overlay o rw,lowerdir=/a,{options}");
        Overlay::of(&parse_mounts(line.as_bytes())[0], 7).unwrap()
    }

    const BIRTH: Timestamp = Timestamp {
        seconds: 9,
        nanoseconds: 1,
    };

    fn layers(number: u64) -> Layers {
        Layers {
            upper: (9, number),
            birth: Some(BIRTH),
            work: Some((9, number + 1)),
        }
    }

    fn paths(overlay: &Overlay, point: &str) -> Vec<(String, String)> {
        let text = |path: Vec<u8>| String::from_utf8(path).unwrap();
        let paths = overlay.paths(point.as_bytes()).into_iter();
        paths
            .map(|(upper, work)| (text(upper), text(work.unwrap_or_default())))
            .collect()
    }

    #[test]
    fn a_path_is_tried_as_it_may_have_been_meant() {
        let pair = |upper: &str, work: &str| (upper.to_owned(), work.to_owned());
        let absolute = overlay("upperdir=/u,workdir=/w");
        assert_eq!(paths(&absolute, "/x/merged"), [pair("/u", "/w")]);
        let escaped = overlay(r"upperdir=/u\134\054x,workdir=/w\134\134");
        let expected = [pair(r"/u\,x", r"/w\\"), pair("/u,x", r"/w\")];
        assert_eq!(paths(&escaped, "/x/merged"), expected);
        let relative = overlay("upperdir=one/u,workdir=one/w");
        let expected = [pair("/x/one/u", "/x/one/w"), pair("/one/u", "/one/w")];
        assert_eq!(paths(&relative, "/x/merged"), expected);
        assert_eq!(relative.paths(&b"/d".repeat(2000)).len(), super::MOST_ABOVE);
    }

    #[test]
    fn one_that_is_planted_everywhere_is_nowhere() {
        let mut hidden = overlay("upperdir=/u,workdir=/w");
        for number in 10..10_000 {
            hidden.add(layers(number));
        }
        assert_eq!(hidden.location(), Location::Unknown);
        hidden.root_is(12, None);
        assert_eq!(hidden.location(), Location::Known(vec![(9, 12), (9, 13)]));
    }

    #[test]
    fn a_relative_path_alone_is_no_proof() {
        let half = Layers {
            work: None,
            ..layers(60)
        };
        let mut relative = overlay("upperdir=u,workdir=w");
        relative.add(half);
        assert_eq!(relative.location(), Location::Unknown);
        relative.root_is(60, None);
        relative.add(half);
        assert_eq!(relative.location(), Location::Known(vec![(9, 60)]));
    }

    #[test]
    fn what_is_found_is_believed_by_its_signs_where_there_are_any() {
        let known = |numbers: &[u64]| {
            let numbers = numbers.iter();
            let inodes = numbers.flat_map(|number| [(9, *number), (9, number + 1)]);
            Location::Known(inodes.collect())
        };
        let signs = |number, birth| Location::Signs(Signs { number, birth });
        let (birth, other) = (Some(BIRTH), Some(Timestamp::default()));
        for (root, candidates, expected) in [
            (None, &[][..], Location::Unknown),
            (None, &[60][..], known(&[60])),
            (None, &[60, 70][..], known(&[60, 70])),
            // Its own number for the root directory.
            (Some((2, None)), &[][..], Location::Unknown),
            (Some((2, None)), &[60][..], known(&[60])),
            (Some((2, birth)), &[60][..], known(&[60])),
            (Some((2, other)), &[60][..], signs(None, other)),
            (Some((60, birth)), &[][..], signs(Some(60), birth)),
            (Some((60, other)), &[60][..], signs(Some(60), other)),
            (Some((60, None)), &[70][..], signs(Some(60), None)),
            (Some((60, birth)), &[70, 60][..], known(&[60])),
        ] {
            let mut overlay = overlay("upperdir=/u,workdir=/w");
            for &candidate in candidates {
                overlay.add(layers(candidate));
            }
            if let Some((number, birth)) = root {
                overlay.root_is(number, birth);
            }
            let is_known = matches!(expected, Location::Known(_));
            assert_eq!(overlay.location(), expected, "{root:?} {candidates:?}");
            let is_certain = is_known && root.is_some_and(|root| root != (2, None));
            assert_eq!(overlay.is_found(), is_certain, "{root:?} {candidates:?}");
        }
    }
}
