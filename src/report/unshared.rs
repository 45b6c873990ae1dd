//! What guests have alike and do not share, and why.
//!
//! The report reads no content. Two files of different guests are *alike* when they have the same path and size,
//! and the same mtime or the same mode, owner and group. Where both digests are known, they must be equal, too: an
//! object's name holds its digest, and the index the digest of a file that a run has read and that has not
//! changed since. Where one is unknown, only a run can tell.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use serde::ser::{Serialize, SerializeMap, Serializer};
use vhashify_sys::stamp::Stamp;

use super::survey::{Inode, Survey};
use crate::exclude::{Rules, Verdict};
use crate::identity::{Digest, Identity};
use crate::index::IndexSnapshot;

/// Why files that look alike are not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unshared {
    /// Nothing that shows: it came or changed since the last run, was open for writing then, or its
    /// content is another one.
    NotYet,
    /// A pattern, or being a package's configuration file, leaves it out.
    Excluded,
    /// Its mtime is another one.
    Mtime,
    /// Its mode, owner, group or an extended attribute is another one.
    Owner,
    /// It has fewer blocks than bytes: holes.
    Sparse,
    /// It has a name outside of what is scanned.
    LinkedElsewhere,
    /// It is setuid, setgid or sticky.
    SpecialBits,
}

impl Unshared {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::NotYet,
        Self::Excluded,
        Self::Mtime,
        Self::Owner,
        Self::Sparse,
        Self::LinkedElsewhere,
        Self::SpecialBits,
    ];

    /// The reason's name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotYet => "not-yet",
            Self::Excluded => "excluded",
            Self::Mtime => "other-mtime",
            Self::Owner => "other-owner-mode-or-attributes",
            Self::Sparse => "sparse",
            Self::LinkedElsewhere => "linked-elsewhere",
            Self::SpecialBits => "setuid-setgid-or-sticky",
        }
    }
}

/// Files that are not shared for one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct FilesAndBytes {
    /// Files, each inode once.
    pub files: u64,
    /// Bytes that sharing them would save, as the filesystem allocated them.
    pub bytes: u64,
}

/// What could be shared and is not, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnsharedCounts([FilesAndBytes; Unshared::ALL.len()]);

impl UnsharedCounts {
    /// The count for a reason.
    #[must_use]
    pub fn of(&self, why: Unshared) -> FilesAndBytes {
        self.0[why as usize]
    }

    /// The reasons that occurred, with their counts.
    pub fn occurred(&self) -> impl Iterator<Item = (Unshared, FilesAndBytes)> {
        Unshared::ALL
            .into_iter()
            .map(|why| (why, self.of(why)))
            .filter(|(_, count)| count.files > 0)
    }
}

impl Serialize for UnsharedCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (why, count) in self.occurred() {
            map.serialize_entry(why.name(), &count)?;
        }
        map.end()
    }
}

/// Counts files that are alike and not shared. `rules` are those of each guest. `known` tells the digests of
/// private files that runs have read, and which of these share extents.
#[must_use]
pub fn unshared(survey: &Survey<'_>, rules: &[&Rules], known: &IndexSnapshot) -> UnsharedCounts {
    let mut counts = UnsharedCounts::default();
    let mut exclusions = Exclusions::new(survey, rules);
    let mut alike: Vec<File<'_>> = Vec::new();
    for group in same_paths(survey).chunk_by(|one, other| one.0 == other.0) {
        alike.clear();
        alike.extend(group.iter().map(|&(_, inode)| {
            let inode = &survey.inodes[inode];
            File {
                inode,
                content: content(survey, inode, &known.read),
                extents: known.extents.get(&inode.stamp.inode).copied(),
            }
        }));
        // Objects first: an alike file could link them. Then each file is compared with those before it, so
        // that of several alike files the first counts as needed and the others as unshared.
        alike.sort_by_key(|file| (!file.inode.is_object, file.inode.stamp.inode));
        alike.dedup_by_key(|file| file.inode.stamp.inode);
        for (at, file) in alike.iter().enumerate() {
            let shares_extents =
                |other: &File<'_>| file.extents.is_some() && file.extents == other.extents;
            if alike[..at].iter().any(shares_extents) {
                continue;
            }
            let likeness = alike[..at].iter().map(|other| file.likeness(other)).max();
            let Some(why) =
                likeness.and_then(|likeness| why(survey, file.inode, likeness, &mut exclusions))
            else {
                continue;
            };
            let count = &mut counts.0[why as usize];
            count.files += 1;
            count.bytes += file.inode.stamp.allocated;
        }
    }
    counts
}

/// Why a file is not shared with one of this likeness; `None` where sharing was never possible.
fn why(
    survey: &Survey<'_>,
    inode: &Inode,
    likeness: Likeness,
    exclusions: &mut Exclusions<'_>,
) -> Option<Unshared> {
    let is_excluded = likeness > Likeness::Unlike && exclusions.hold(inode);
    Some(match likeness {
        // Two objects that differ in nothing which is part of the identity: a guest had it twice.
        Likeness::All | Likeness::AllButAttributes if inode.is_object => return None,
        Likeness::All | Likeness::AllButAttributes if is_excluded => Unshared::Excluded,
        Likeness::All if inode.stamp.has_special_bits() => Unshared::SpecialBits,
        Likeness::All if inode.stamp.allocated < inode.stamp.size => Unshared::Sparse,
        Likeness::All if inode.stamp.link_count as usize > survey.names(inode).len() => {
            Unshared::LinkedElsewhere
        }
        Likeness::All => Unshared::NotYet,
        // What is configured in each guest differs in any case.
        Likeness::AllButMtime | Likeness::AllButOwner if is_excluded => return None,
        Likeness::AllButMtime => Unshared::Mtime,
        Likeness::AllButOwner | Likeness::AllButAttributes => Unshared::Owner,
        Likeness::Unlike => return None,
    })
}

/// A file's digest, if it is known without reading: from an object's name, or from the index if the file has not
/// changed since a run read it.
fn content(
    survey: &Survey<'_>,
    inode: &Inode,
    read: &HashMap<u64, (Stamp, Identity)>,
) -> Option<Digest> {
    if let Some(object) = survey.objects.get(&inode.stamp.inode) {
        return Some(object.identity.digest);
    }
    let (then, identity) = read.get(&inode.stamp.inode)?;
    then.is_unchanged_since(&inode.stamp)
        .then_some(identity.digest)
}

/// One file among those of one path and size.
struct File<'a> {
    inode: &'a Inode,
    content: Option<Digest>,
    /// Where the extents begin that a run has let it share.
    extents: Option<u64>,
}

/// How much two files of one path and size have in common besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// Too little, or their contents are known to differ.
    Unlike,
    /// They differ in owner, group or mode.
    AllButOwner,
    /// They differ in mtime.
    AllButMtime,
    /// Content and all this are known to be the same, so that they differ in what was not looked
    /// at: extended attributes.
    AllButAttributes,
    /// They may be the same.
    All,
}

impl File<'_> {
    fn likeness(&self, other: &Self) -> Likeness {
        let is_known = match (self.content, other.content) {
            (Some(one), Some(other)) if one != other => return Likeness::Unlike,
            (Some(_), Some(_)) => true,
            _ => false,
        };
        let (one, other) = (&self.inode.stamp, &other.inode.stamp);
        let is_owner_same =
            (one.mode, one.owner, one.group) == (other.mode, other.owner, other.group);
        match (is_owner_same, one.mtime == other.mtime) {
            (true, true) if is_known => Likeness::AllButAttributes,
            (true, true) => Likeness::All,
            (true, false) => Likeness::AllButMtime,
            (false, true) => Likeness::AllButOwner,
            (false, false) => Likeness::Unlike,
        }
    }
}

/// Every name of every file, as a hash of its path and size and the position of its inode, sorted by hash.
fn same_paths(survey: &Survey<'_>) -> Vec<(u64, usize)> {
    // 64 bits of a hash with a random key: a collision makes one count wrong by one.
    let hasher = RandomState::new();
    let mut paths = Vec::with_capacity(survey.scan.files.len());
    for (at, inode) in survey.inodes.iter().enumerate() {
        for file in survey.names(inode) {
            let path = survey.scan.path_of(file);
            paths.push((hasher.hash_one((path, inode.stamp.size)), at));
        }
    }
    paths.sort_unstable();
    paths
}

/// Asks the guests' rules, once for each directory.
struct Exclusions<'a> {
    survey: &'a Survey<'a>,
    rules: &'a [&'a Rules],
    directories: HashMap<u32, bool>,
}

impl<'a> Exclusions<'a> {
    fn new(survey: &'a Survey<'a>, rules: &'a [&'a Rules]) -> Self {
        Self {
            survey,
            rules,
            directories: HashMap::new(),
        }
    }

    /// Whether the rules exclude the file from runs.
    fn hold(&mut self, inode: &Inode) -> bool {
        let scan = &self.survey.scan;
        let file = &self.survey.names(inode)[0];
        let rules = self.rules[usize::from(scan.guest_of(file.directory))];
        let is_directory_excluded = *self.directories.entry(file.directory).or_insert_with(|| {
            let path = [b"/", scan.directory_path(file.directory).as_slice()].concat();
            let ends = path.iter().enumerate().skip(1);
            let ends = ends.filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
            ends.chain([path.len()])
                .any(|end| rules.decide(&path[..end], true) == Verdict::Exclude)
        });
        let path = || [b"/", scan.path_of(file).as_slice()].concat();
        is_directory_excluded || rules.decide(&path(), false) != Verdict::Include
    }
}
