//! The groups that a run looks into: those of which a file may be the same as another one, or as an object.

use std::collections::HashMap;
use std::ops::Range;

use super::extents;
use super::group::{self, Key};
use super::objects::ObjectState;
use super::share;
use super::view::View;
use crate::scan::{FileRecord, Scan};

/// A group that has to be looked into.
#[derive(Debug)]
pub struct Group {
    /// Positions in the scan's files.
    pub files: Range<usize>,
    /// Objects that could be linked to these and that no scanned guest links.
    pub unseen: Vec<ObjectState>,
}

/// All of them, by directory, so that a worker finds the directories of the next group open.
#[must_use]
pub fn candidates(view: View<'_>) -> Vec<Group> {
    let (known, question) = (view.known, view.question);
    let files = &known.scan.files;
    let mut unseen = unseen_by_key(view);
    let mut groups: Vec<Group> = group::groups(files, question.mtime)
        .filter_map(|range| {
            let key = Key::of(&files[range.start], question.mtime);
            let unseen = unseen.remove(&key).unwrap_or_default();
            let of_group = &files[range.clone()];
            let is_worth_it = match question.reflink {
                Some(_) => extents::has_candidates(view, of_group),
                None => share::has_candidates(view, of_group, !unseen.is_empty()),
            };
            is_worth_it.then_some(Group {
                files: range,
                unseen,
            })
        })
        .collect();
    groups.sort_by_key(|group| files[group.files.start].directory);
    groups
}

/// Bytes of content of all files in `groups`.
#[must_use]
pub fn bytes_of(scan: &Scan, groups: &[Group]) -> u64 {
    let files = groups
        .iter()
        .flat_map(|group| &scan.files[group.files.clone()]);
    files.map(FileRecord::size).sum()
}

/// Warns where guests share inodes although they are to share extents: an earlier run in another mode has linked
/// them.
pub fn warn_of_links(view: View<'_>) {
    if view.question.reflink.is_none() {
        return;
    }
    let files = view.known.scan.files.iter();
    let links = files.filter(|file| view.known.object_of(file.inode()).is_some());
    match links.count() {
        0 => {}
        count => view.effort.progress.note(&format!(
            "{count} files still are links to objects of earlier runs; `vhashify deunify GUEST` \
             gives a guest inodes of its own"
        )),
    }
}

/// The objects that no scanned guest links, by key. Those without a file that could be linked to them are left out.
fn unseen_by_key(view: View<'_>) -> HashMap<Key, Vec<ObjectState>> {
    let scan = &view.known.scan;
    let mut keyed: HashMap<Key, Vec<ObjectState>> = HashMap::new();
    for state in view.known.objects.unseen(scan) {
        if let Some(key) = Key::in_scan(scan, &state.stamp, view.question.mtime) {
            keyed.entry(key).or_default().push(state);
        }
    }
    keyed
}
