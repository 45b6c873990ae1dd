//! Plans for one guest that is unified path by path against reference guests. Pure, as [`super::plan`]
//! is: it makes no system call, and takes and returns only numbers.
//!
//! A file of the guest may share only with the file that a reference guest has *at the same path*: not
//! with an equal file at another path, and not with an object that no reference guest has there. It
//! shares with the first reference guest that allows it; the files of the others stay as they are.
//!
//! ```text
//!            guest      reference 1   reference 2
//! /bin/x     A ───────▶ A             A             the first that has the same
//! /lib/y     B          C       ┌───▶ B
//!            └──────────────────┘
//! /tmp/x     A          -             -             as /bin/x, but nobody has it there: stays private
//! ```
//!
//! `same_path` finds the files that are partners. Invariant 3 holds as it does in a plan for all guests.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Instance, Member, Step};
use super::same_path::{GuestPath, partners};
use crate::scan::GuestId;

/// Plans for all files of one identity.
///
/// `instances` are all objects of this identity, also those that no guest of the run links, so that a
/// new object takes a free number. `names` holds the names of each instance, then those of each
/// member. The rest is as for [`super::plan::plan`].
#[must_use]
pub fn plan(
    instances: &[Instance],
    members: &[Member],
    names: &[Vec<GuestPath>],
    most_links: u64,
) -> Vec<Step> {
    let objects = instances.iter().map(|instance| {
        let object = PlannedObject {
            guests: instance.guests.iter().copied().collect(),
            links_left: instance.links_left,
        };
        (instance.number, object)
    });
    let numbers = instances.iter().map(|instance| Some(instance.number));
    let mut builder = PlanBuilder {
        members,
        first_member: instances.len(),
        objects: objects.collect(),
        object_of: numbers.chain(members.iter().map(|_| None)).collect(),
        taken_below: 0,
        most_links,
        steps: Vec::new(),
    };
    for (file, partners) in partners(names) {
        for partner in partners {
            if builder.share(file, partner) {
                break;
            }
        }
    }
    builder.steps
}

/// An object that exists or that the plan makes.
struct PlannedObject {
    guests: BTreeSet<GuestId>,
    links_left: u64,
}

impl PlannedObject {
    /// Whether the member may link it: none of its guests links it already, and enough links are left.
    fn takes(&self, member: &Member) -> bool {
        let is_linked = |(guest, _): &(GuestId, u32)| self.guests.contains(guest);
        member.name_count() <= self.links_left && !member.guests.iter().any(is_linked)
    }
}

/// A plan in the making. A file is a position in the `names` of [`plan`].
struct PlanBuilder<'a> {
    members: &'a [Member],
    /// The file that is member 0.
    first_member: usize,
    objects: BTreeMap<u32, PlannedObject>,
    /// The object that each file is, or becomes.
    object_of: Vec<Option<u32>>,
    /// Every number below this one is in `objects`.
    taken_below: u32,
    most_links: u64,
    steps: Vec<Step>,
}

impl PlanBuilder<'_> {
    /// Makes a file of the guest and one of a reference guest the same object. False where invariant 3
    /// or the links of an inode forbid it.
    fn share(&mut self, file: usize, partner: usize) -> bool {
        match (self.object_of[file], self.object_of[partner]) {
            (None, None) => self.create_and_join(file, partner),
            (None, Some(object)) => self.join(file, object),
            (Some(object), None) => self.join(partner, object),
            (Some(one), Some(other)) => one == other,
        }
    }

    /// Makes the reference guest's file an object, and links the guest's file to it.
    fn create_and_join(&mut self, file: usize, partner: usize) -> bool {
        let first = self.member(partner);
        // The object's name in the store takes a link, too.
        let Some(links_left) = self.most_links.checked_sub(first.name_count() + 1) else {
            return false;
        };
        let object = PlannedObject {
            guests: first.guests.iter().map(|&(guest, _)| guest).collect(),
            links_left,
        };
        // Both guests have this inode already; as an object it is protected.
        let is_one = file == partner;
        if !is_one && !object.takes(self.member(file)) {
            return false;
        }
        while self.objects.contains_key(&self.taken_below) {
            self.taken_below += 1;
        }
        let instance = self.taken_below;
        self.steps.push(Step::Create {
            member: partner - self.first_member,
            instance,
        });
        self.objects.insert(instance, object);
        self.object_of[partner] = Some(instance);
        is_one || self.join(file, instance)
    }

    fn join(&mut self, file: usize, instance: u32) -> bool {
        let member = file - self.first_member;
        let joining = &self.members[member];
        let Some(object) = self.objects.get_mut(&instance) else {
            return false;
        };
        if !object.takes(joining) {
            return false;
        }
        object.links_left -= joining.name_count();
        let guests = joining.guests.iter().map(|&(guest, _)| guest);
        object.guests.extend(guests);
        self.object_of[file] = Some(instance);
        self.steps.push(Step::Replace { member, instance });
        true
    }

    fn member(&self, file: usize) -> &Member {
        &self.members[file - self.first_member]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::plan;
    use crate::scan::GuestId;
    use crate::unify::plan::{Instance, Member, Step};
    use crate::unify::same_path::tests::{are_partners, files, names};
    use crate::unify::same_path::{GUEST, GuestPath, partners};

    /// The member that has these names.
    fn member(names: &[GuestPath]) -> Member {
        let mut guests: BTreeMap<GuestId, u32> = BTreeMap::new();
        for name in names {
            *guests.entry(name.guest).or_default() += 1;
        }
        Member {
            guests: guests.into_iter().collect(),
        }
    }

    fn planned(files: &[Vec<GuestPath>]) -> Vec<Step> {
        let members: Vec<Member> = files.iter().map(|names| member(names)).collect();
        plan(&[], &members, files, 100)
    }

    fn create(member: usize, instance: u32) -> Step {
        Step::Create { member, instance }
    }

    fn replace(member: usize, instance: u32) -> Step {
        Step::Replace { member, instance }
    }

    #[test]
    fn a_file_is_shared_with_the_one_at_its_path_and_no_other() {
        for (files, steps) in [
            // An equal file at another path.
            (vec![names(&[(0, 1)]), names(&[(1, 2)])], vec![]),
            // The reference guest's file becomes the object, and the guest's is replaced.
            (
                vec![names(&[(0, 1)]), names(&[(1, 1)])],
                vec![create(1, 0), replace(0, 0)],
            ),
            // The guest shares with the first reference guest; the second one's file stays.
            (
                vec![names(&[(2, 1)]), names(&[(1, 1)]), names(&[(0, 1)])],
                vec![create(1, 0), replace(2, 0)],
            ),
            // Reference guests do not share with each other.
            (vec![names(&[(1, 1)]), names(&[(2, 1)])], vec![]),
            // Two files of one identity in each: two instances.
            (
                vec![
                    names(&[(0, 1)]),
                    names(&[(0, 2)]),
                    names(&[(1, 2)]),
                    names(&[(1, 1)]),
                ],
                vec![create(3, 0), replace(0, 0), create(2, 1), replace(1, 1)],
            ),
            // A link group: one path in common is enough, and a second file stays private (invariant 3).
            (
                vec![
                    names(&[(0, 1), (0, 2)]),
                    names(&[(0, 3)]),
                    names(&[(1, 2), (1, 3)]),
                ],
                vec![create(2, 0), replace(0, 0)],
            ),
            // A second file of the guest's finds the next reference guest.
            (
                vec![
                    names(&[(0, 1)]),
                    names(&[(0, 2)]),
                    names(&[(1, 1), (1, 2)]),
                    names(&[(2, 2)]),
                ],
                vec![create(2, 0), replace(0, 0), create(3, 1), replace(1, 1)],
            ),
            // Hard-linked to one another before: made an object, to be protected.
            (vec![names(&[(0, 1), (1, 1)])], vec![create(0, 0)]),
        ] {
            assert_eq!(planned(&files), steps, "{files:?}");
        }
    }

    #[test]
    fn an_object_at_the_path_is_joined_from_either_side_and_no_other_is() {
        let instance = |number, guests: &[GuestId]| Instance {
            number,
            guests: guests.to_vec(),
            links_left: 10,
        };
        let (own, theirs) = (names(&[(0, 1)]), names(&[(1, 1)]));
        for (instances, files, steps) in [
            // The reference guest's.
            (
                vec![instance(3, &[1, 2])],
                vec![theirs.clone(), own.clone()],
                vec![replace(0, 3)],
            ),
            // The guest's.
            (
                vec![instance(3, &[0])],
                vec![own.clone(), theirs.clone()],
                vec![replace(0, 3)],
            ),
            // The guest has a name of the reference guest's object elsewhere.
            (
                vec![instance(3, &[0, 1])],
                vec![theirs.clone(), own.clone()],
                vec![],
            ),
            // Another guest's: it only takes its number.
            (
                vec![instance(0, &[])],
                vec![names(&[]), own, theirs],
                vec![create(1, 1), replace(0, 1)],
            ),
        ] {
            let members: Vec<Member> = files[instances.len()..]
                .iter()
                .map(|names| member(names))
                .collect();
            assert_eq!(plan(&instances, &members, &files, 100), steps, "{files:?}");
        }
    }

    /// An object for each of `files`, as far as `more` goes: that adds a guest that links it unseen by
    /// the scan, and says how many links are left.
    fn objects(files: &[Vec<GuestPath>], more: &[(GuestId, u64)]) -> Vec<Instance> {
        let one = |(at, (names, &(hidden, left))): (usize, (&Vec<GuestPath>, &(GuestId, u64)))| {
            let mut guests: Vec<GuestId> = names.iter().map(|name| name.guest).collect();
            guests.push(hidden);
            Instance {
                number: u32::try_from(at * 2).expect("few"),
                guests,
                links_left: left,
            }
        };
        files.iter().zip(more).enumerate().map(one).collect()
    }

    proptest! {
        #[test]
        fn inv3_no_guest_links_an_instance_twice_and_only_partners_share(
            files in files(),
            more in vec((0_u16..8, 0_u64..6), 0..4),
            links in 2_u64..12,
        ) {
            let instances = objects(&files, &more);
            let first = instances.len();
            let members: Vec<Member> = files[first..].iter().map(|names| member(names)).collect();
            let mut linked: BTreeMap<u32, (BTreeSet<GuestId>, u64)> = instances
                .iter()
                .map(|one| (one.number, (one.guests.iter().copied().collect(), one.links_left)))
                .collect();
            // Which files are which object.
            let mut holds: BTreeMap<u32, Vec<usize>> =
                instances.iter().enumerate().map(|(at, one)| (one.number, vec![at])).collect();
            let mut placed = BTreeSet::new();
            for step in plan(&instances, &members, &files, links) {
                let (member, number) = match step {
                    Step::Create { member, instance } => {
                        prop_assert!(!linked.contains_key(&instance), "created twice");
                        linked.insert(instance, (BTreeSet::new(), links - 1));
                        (member, instance)
                    }
                    Step::Replace { member, instance } => {
                        let with = &holds[&instance];
                        prop_assert!(
                            with.iter().any(|&one| are_partners(&files[first + member], &files[one])),
                            "nothing at a path of {} in {}", member, instance
                        );
                        (member, instance)
                    }
                };
                prop_assert!(placed.insert(first + member), "placed twice");
                holds.entry(number).or_default().push(first + member);
                let (guests, left) = linked.get_mut(&number).expect("created before it is used");
                for &(guest, names) in &members[member].guests {
                    prop_assert!(guests.insert(guest), "guest {} has {} twice", guest, number);
                    prop_assert!(*left >= u64::from(names), "more names than the inode takes");
                    *left -= u64::from(names);
                }
            }
            // Nothing is put into the store but for the guest and a reference guest.
            for (number, (guests, _)) in &linked {
                let is_new = instances.iter().all(|one| one.number != *number);
                prop_assert!(!is_new || (guests.contains(&GUEST) && guests.len() > 1));
            }
            // What stays private could not be shared with any partner.
            let is_private = |file: usize| file >= first && !placed.contains(&file);
            let takes = |number: u32, member: &Member| {
                let (guests, left) = &linked[&number];
                let names: u64 = member.guests.iter().map(|&(_, names)| u64::from(names)).sum();
                names <= *left && member.guests.iter().all(|(guest, _)| !guests.contains(guest))
            };
            let object_of = |file: usize| {
                holds.iter().find(|(_, files)| files.contains(&file)).map(|(number, _)| *number)
            };
            for (file, partners) in partners(&files) {
                if !is_private(file) {
                    continue;
                }
                let own = &members[file - first];
                for partner in partners {
                    match object_of(partner) {
                        Some(number) => prop_assert!(!takes(number, own)),
                        None if partner == file => {
                            prop_assert!(files[file].len() as u64 + 1 > links);
                        }
                        None => {
                            let theirs = &members[partner - first];
                            let is_in = |guest: GuestId| theirs.guests.iter().any(|one| one.0 == guest);
                            let names = files[file].len() + files[partner].len() + 1;
                            prop_assert!(
                                names as u64 > links || own.guests.iter().any(|one| is_in(one.0))
                            );
                        }
                    }
                }
            }
        }
    }
}
