//! Shares the identical files of one group: prove, plan, apply.

use std::collections::BTreeMap;

use super::apply::{Applier, Participant};
use super::by_reference;
use super::group::inodes;
use super::objects::ObjectState;
use super::plan::{Instance, Member, Step, plan};
use super::reader::Reader;
use super::view::View;
use super::worker_stats::WorkerStats;
use crate::identity::Identity;
use crate::identity::Proven;
use crate::outcome::Skip;
use crate::scan::{FileRecord, GuestId};

/// Whether the group may have files to share: one that is no object, and for it an object or a file of
/// another guest. `has_unseen` says that the group has an object that no scanned guest links.
#[must_use]
pub fn has_candidates(view: View<'_>, files: &[FileRecord], has_unseen: bool) -> bool {
    if let Some(matching) = &view.question.matching {
        let matched = matching.matched(&view.known.scan, files);
        return matched
            .into_iter()
            .any(|inode| view.known.object_of(inode).is_none());
    }
    let mut first_guest = None;
    let (mut private, mut several, mut objects) = (false, false, has_unseen);
    for inode in inodes(files) {
        if view.known.object_of(inode[0].inode()).is_some() {
            objects = true;
            continue;
        }
        private = true;
        for file in inode {
            let guest = view.known.scan.guest_of(file.directory);
            several |= *first_guest.get_or_insert(guest) != guest;
        }
    }
    private && (several || objects)
}

/// Shares identical files among `files`, which have one key, and the objects `unseen` of that key that
/// no scanned guest links. Without `applier` it only counts what a run would do.
pub fn share(
    view: View<'_>,
    files: &[FileRecord],
    unseen: &[ObjectState],
    reader: &mut Reader<'_>,
    mut applier: Option<&mut Applier<'_>>,
    stats: &mut WorkerStats,
) {
    let mut objects: Vec<GroupObject<'_>> = unseen
        .iter()
        .map(|state| GroupObject { state, files: &[] })
        .collect();
    let mut classes: BTreeMap<Identity, Vec<Participant<'_>>> = BTreeMap::new();
    let matching = view.question.matching.as_ref();
    let matched = matching.map(|matching| matching.matched(&view.known.scan, files));
    let mut leases = 0;
    for inode in inodes(files) {
        if let Some(state) = view.known.object_of(inode[0].inode()) {
            objects.push(GroupObject {
                state,
                files: inode,
            });
            continue;
        }
        if let Some(matched) = &matched
            && !matched.contains(&inode[0].inode())
        {
            continue;
        }
        let Some((identity, proven)) = identify(view, inode, reader, stats) else {
            continue;
        };
        let proven = proven.filter(|_| leases < view.effort.workers.budget.group);
        leases += usize::from(proven.is_some());
        let guests = view.known.names_by_guest(inode);
        classes.entry(identity).or_default().push(Participant {
            files: inode,
            guests,
            proven,
        });
    }
    for (identity, mut participants) in classes {
        let of_identity = objects
            .iter()
            .filter(|object| object.state.name.identity == identity);
        let instances: Vec<Instance> = of_identity
            .clone()
            .map(|object| object.instance(view))
            .collect();
        let members: Vec<Member> = participants
            .iter()
            .map(|participant| Member {
                guests: participant.guests.clone(),
            })
            .collect();
        let steps = match matching {
            None => plan(&instances, &members, view.question.most_links),
            Some(matching) => {
                let of_objects = of_identity.clone().map(|object| object.files);
                let of_members = participants.iter().map(|participant| participant.files);
                let names = matching.names(&view.known.scan, of_objects.chain(of_members));
                by_reference::plan(&instances, &members, &names, view.question.most_links)
            }
        };
        let Some(applier) = applier.as_deref_mut() else {
            count_dry_run(&steps, &participants, stats);
            continue;
        };
        remember_private(view, &steps, identity, &participants, stats);
        if !steps.is_empty() {
            let objects: Vec<ObjectState> = of_identity.map(|object| *object.state).collect();
            applier.apply(reader, identity, &steps, &mut participants, &objects, stats);
        }
    }
}

/// An object of the group, with its names in the scanned guests.
#[derive(Clone, Copy)]
struct GroupObject<'a> {
    state: &'a ObjectState,
    files: &'a [FileRecord],
}

impl GroupObject<'_> {
    /// Describes the object for the plan.
    fn instance(&self, view: View<'_>) -> Instance {
        let mut guests: Vec<GuestId> = view
            .known
            .names_by_guest(self.files)
            .into_iter()
            .map(|(guest, _)| guest)
            .collect();
        let stamp = self.state.stamp;
        // One link is the store's. A name that the scan did not see may be a scanned guest's.
        if u64::from(stamp.link_count) > self.files.len() as u64 + 1 {
            guests.extend(view.known.hidden_links().holders(stamp.inode));
        }
        Instance {
            number: self.state.name.instance,
            guests,
            links_left: view
                .question
                .most_links
                .saturating_sub(u64::from(stamp.link_count)),
        }
    }
}

/// The identity of a file, and its proof where the file was read for it. Where an earlier run read the
/// file under the same stamp, the identity comes from the index. It tells the plan whether reading the
/// file is worth it; only a proof lets the file be linked.
fn identify(
    view: View<'_>,
    names: &[FileRecord],
    reader: &mut Reader<'_>,
    stats: &mut WorkerStats,
) -> Option<(Identity, Option<Proven>)> {
    let file = &names[0];
    let count = names.len() as u64;
    if u64::from(file.link_count()) != count {
        stats.skip(Skip::LinkedElsewhere, count, file.size());
        return None;
    }
    let scan = &view.known.scan;
    if names.iter().any(|name| scan.keeps_names(name.directory)) {
        stats.skip(Skip::DirectoryKeepsNames, count, file.size());
        return None;
    }
    if let Some(skip) = scan.other_use(names) {
        stats.skip(skip, count, file.size());
        return None;
    }
    let stamp = scan.stamp_of(file);
    if stamp.has_special_bits() {
        stats.skip(Skip::SpecialBits, count, file.size());
        return None;
    }
    if let Some(identity) = view.remembered(&stamp) {
        return Some((identity, None));
    }
    let proven = reader.prove(names, stats)?;
    Some((proven.identity, Some(proven)))
}

/// Records for the index the files that stay private, so that the next run need not read them.
fn remember_private(
    view: View<'_>,
    steps: &[Step],
    identity: Identity,
    participants: &[Participant<'_>],
    stats: &mut WorkerStats,
) {
    let mut is_private = vec![true; participants.len()];
    for step in steps {
        let (Step::Create { member, .. } | Step::Replace { member, .. }) = *step;
        is_private[member] = false;
    }
    for (participant, _) in participants
        .iter()
        .zip(is_private)
        .filter(|&(_, private)| private)
    {
        let stamp = view.known.scan.stamp_of(&participant.files[0]);
        if view.known.may_be_remembered(&stamp) {
            stats.read.push((stamp, identity));
        }
    }
}

/// Counts the steps of a dry run as if they were done.
fn count_dry_run(steps: &[Step], participants: &[Participant<'_>], stats: &mut WorkerStats) {
    for step in steps {
        match *step {
            Step::Create { .. } => stats.counts.objects_created += 1,
            Step::Replace { member, .. } => {
                let files = participants[member].files;
                stats
                    .counts
                    .unified(files.len() as u64, files[0].size(), files[0].allocated());
            }
        }
    }
}
