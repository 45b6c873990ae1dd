//! Counts files that guests have alike but do not share, and says why.
//!
//! The report reads no content. Two files of different guests are *alike* when they have the same path and size, and the
//! same mtime or the same mode, owner and group. If both digests are known, they must be equal, too: an object's name
//! holds its digest, and the index holds the digest of a file that a run read and that has not changed since. If one
//! digest is unknown, only a run can tell whether the files are equal.

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
    /// No metadata tells: it is new or changed since the last run, was open for writing then, or has another content.
    NotYet,
    /// A pattern excludes it, or it is a package's configuration file.
    Excluded,
    /// It has another mtime.
    Mtime,
    /// It has another mode, owner, group or extended attribute.
    Owner,
    /// It has holes: fewer blocks than bytes.
    Sparse,
    /// It has a name outside of the guests of the report.
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

/// The files that are not shared for one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct FilesAndBytes {
    /// Files, each inode once.
    pub files: u64,
    /// Bytes that sharing them would save, as the filesystem allocated them.
    pub bytes: u64,
}

/// Files that could be shared but are not, by reason.
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

/// Counts files that are alike but not shared. `rules` has the rules of each guest. `known` has the digests of private
/// files that runs read, and tells which of these share extents.
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
        // Objects come first, because an alike file could link them. Each file is compared with those before it, so of
        // several alike files the first counts as needed and the others as unshared.
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

/// Why a file is not shared with one of this likeness; `None` if it cannot be shared at all.
fn why(
    survey: &Survey<'_>,
    inode: &Inode,
    likeness: Likeness,
    exclusions: &mut Exclusions<'_>,
) -> Option<Unshared> {
    let is_excluded = likeness > Likeness::Unlike && exclusions.exclude(inode);
    Some(match likeness {
        // Two objects of the same identity: a guest has the file twice.
        Likeness::All | Likeness::AllButAttributes if inode.is_object => return None,
        Likeness::All | Likeness::AllButAttributes if is_excluded => Unshared::Excluded,
        Likeness::All if inode.stamp.has_special_bits() => Unshared::SpecialBits,
        Likeness::All if inode.stamp.allocated < inode.stamp.size => Unshared::Sparse,
        Likeness::All if inode.stamp.link_count as usize > survey.names(inode).len() => {
            Unshared::LinkedElsewhere
        }
        Likeness::All => Unshared::NotYet,
        // An excluded file that differs in metadata: configuration differs anyway.
        Likeness::AllButMtime | Likeness::AllButOwner if is_excluded => return None,
        Likeness::AllButMtime => Unshared::Mtime,
        Likeness::AllButOwner | Likeness::AllButAttributes => Unshared::Owner,
        Likeness::Unlike => return None,
    })
}

/// A file's digest, if it is known without reading: from its name as an object, or from the index if the file has not
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

/// One of the files with the same path and size.
struct File<'a> {
    inode: &'a Inode,
    content: Option<Digest>,
    /// The address of the extents that a run let it share.
    extents: Option<u64>,
}

/// What else two files with the same path and size have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// Too little, or their contents are known to differ.
    Unlike,
    /// They differ in owner, group or mode.
    AllButOwner,
    /// They differ in mtime.
    AllButMtime,
    /// Content and metadata are known to be the same, so the only difference can be what the survey does not read:
    /// extended attributes.
    AllButAttributes,
    /// All metadata is the same, the content may be.
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

/// Applies the guests' rules, once for each directory.
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
    fn exclude(&mut self, inode: &Inode) -> bool {
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
