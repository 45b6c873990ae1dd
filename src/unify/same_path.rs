//! Which files of a group are at the same path: the pure half of [`super::scope`].
//!
//! A file is an inode with all of its names. One path in common makes a file of the guest and a file of a reference guest
//! partners, so that a link group is shared whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::scan::GuestId;

/// The guest that is unified. The others are its reference guests, in their order.
pub const GUEST: GuestId = 0;

/// One name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPath {
    /// In which guest.
    pub guest: GuestId,
    /// At which path below the vdir, as a number: the same path has the same number.
    pub path: u32,
}

/// For each file of the guest that has any, its partners: the files that reference guests have at one
/// of its paths, those of the first reference guest first. Files are positions in `names`, which
/// has the names of each.
///
/// An inode that both have is its own partner.
#[must_use]
pub fn partners(names: &[Vec<GuestPath>]) -> Vec<(usize, Vec<usize>)> {
    let mut theirs: BTreeMap<u32, Vec<(GuestId, usize)>> = BTreeMap::new();
    for (file, names) in names.iter().enumerate() {
        for name in names.iter().filter(|name| name.guest != GUEST) {
            theirs
                .entry(name.path)
                .or_default()
                .push((name.guest, file));
        }
    }
    let mut found = Vec::new();
    for (file, names) in names.iter().enumerate() {
        let mut partners = BTreeSet::new();
        for name in names.iter().filter(|name| name.guest == GUEST) {
            let here = theirs.get(&name.path).into_iter().flatten();
            partners.extend(here.map(|&(guest, partner)| (guest, name.path, partner)));
        }
        let mut seen = BTreeSet::new();
        let partners = partners.into_iter().map(|(_, _, partner)| partner);
        let partners: Vec<usize> = partners.filter(|partner| seen.insert(*partner)).collect();
        if !partners.is_empty() {
            found.push((file, partners));
        }
    }
    found
}

/// Which files are to share extents, where guests share no inodes: each file of the guest with the
/// first of its partners. No file is in two classes, and none is alone in one.
#[must_use]
pub fn classes(names: &[Vec<GuestPath>]) -> Vec<Vec<usize>> {
    let mut class_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for (file, partners) in partners(names) {
        let partner = partners[0];
        if partner == file {
            continue;
        }
        let known = [partner, file].map(|one| class_of.get(&one).copied());
        let (class, joining): (usize, &[usize]) = match known {
            [Some(_), Some(_)] => continue,
            [Some(class), None] => (class, &[file]),
            [None, Some(class)] => (class, &[partner]),
            [None, None] => {
                classes.push(Vec::new());
                (classes.len() - 1, &[partner, file])
            }
        };
        classes[class].extend(joining);
        class_of.extend(joining.iter().map(|&one| (one, class)));
    }
    classes
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::{GUEST, GuestPath, classes, partners};
    use crate::scan::GuestId;

    /// Names as `(guest, path)`.
    pub fn names(of: &[(GuestId, u32)]) -> Vec<GuestPath> {
        of.iter()
            .map(|&(guest, path)| GuestPath { guest, path })
            .collect()
    }

    /// Files with names of their own, as on a disk: no two files have one name.
    pub fn files() -> impl Strategy<Value = Vec<Vec<GuestPath>>> {
        let name = (0_u16..4, 0_u32..6);
        vec(btree_set(name, 1..4), 0..14).prop_map(|files| {
            let mut taken = BTreeSet::new();
            let files = files.into_iter().map(|file| {
                let own = file.into_iter().filter(|name| taken.insert(*name));
                names(&own.collect::<Vec<_>>())
            });
            files.filter(|names| !names.is_empty()).collect()
        })
    }

    pub fn are_partners(one: &[GuestPath], other: &[GuestPath]) -> bool {
        let is = |own: &[GuestPath], theirs: &[GuestPath]| {
            own.iter().filter(|name| name.guest == GUEST).any(|name| {
                theirs
                    .iter()
                    .any(|their| their.guest != GUEST && their.path == name.path)
            })
        };
        is(one, other) || is(other, one)
    }

    proptest! {
        #[test]
        fn extents_are_shared_with_the_first_partner_and_no_file_is_in_two_classes(files in files()) {
            let classes = classes(&files);
            let mut seen = BTreeSet::new();
            for class in &classes {
                prop_assert!(class.len() > 1);
                for &file in class {
                    prop_assert!(seen.insert(file), "{} is in two classes", file);
                    let with = |&&other: &&usize| {
                        other != file && are_partners(&files[file], &files[other])
                    };
                    prop_assert!(class.iter().find(with).is_some(), "{} has no partner there", file);
                }
            }
            for (file, partners) in partners(&files) {
                prop_assert!(partners[0] == file || seen.contains(&file));
            }
        }
    }
}
