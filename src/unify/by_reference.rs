//! Decides who links what where one guest is unified path by path against reference guests. Pure, as
//! [`super::plan`] is: no system call, nothing but numbers in and numbers out.
//!
//! A file of the guest is shared with the file that a reference guest has *at the same path*, and with
//! nothing else: not with the same content at another path, and not with an object that no reference
//! guest has there. Of several reference guests the first is taken with which it can be done; what
//! the others have stays as it is.
//!
//! ```text
//!            guest      reference 1   reference 2
//! /bin/x     A ───────▶ A             A             the first that has the same
//! /lib/y     B          C       ┌───▶ B
//!            └──────────────────┘
//! /tmp/x     A          -             -             as /bin/x, but nobody has it there: stays private
//! ```
//!
//! `same_path` says which files are partners. Invariant 3 holds as it does in a plan for all guests.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Instance, Member, Step};
use super::same_path::{GuestPath, partners};
use crate::scan::GuestId;

/// Plans for all files of one identity.
///
/// `instances` are all objects of this identity, also those that no guest of the run links: a new
/// one takes a number that none has. `names` are those of each instance, then those of each member.
/// Otherwise as [`super::plan::plan`].
#[must_use]
pub fn plan(
    instances: &[Instance],
    members: &[Member],
    names: &[Vec<GuestPath>],
    links: u64,
) -> Vec<Step> {
    let objects = instances.iter().map(|instance| {
        let object = PlannedObject {
            guests: instance.guests.iter().copied().collect(),
            room: instance.room,
        };
        (instance.number, object)
    });
    let numbers = instances.iter().map(|instance| Some(instance.number));
    let mut work = PlanBuilder {
        members,
        first_member: instances.len(),
        objects: objects.collect(),
        object_of: numbers.chain(members.iter().map(|_| None)).collect(),
        next: 0,
        links,
        steps: Vec::new(),
    };
    for (file, partners) in partners(names) {
        for partner in partners {
            if work.share(file, partner) {
                break;
            }
        }
    }
    work.steps
}

/// An object, one that exists or one that the plan makes.
struct PlannedObject {
    /// Who links it.
    guests: BTreeSet<GuestId>,
    /// How many more links its inode can take.
    room: u64,
}

impl PlannedObject {
    /// Whether the member may link it: none of its guests does already, and there is room.
    fn takes(&self, member: &Member) -> bool {
        let is_linked = |(guest, _): &(GuestId, u32)| self.guests.contains(guest);
        member.names() <= self.room && !member.guests.iter().any(is_linked)
    }
}

/// A plan in the making. Files are numbered as in the `names` of [`plan`].
struct PlanBuilder<'a> {
    members: &'a [Member],
    /// The file that is the first member.
    first_member: usize,
    objects: BTreeMap<u32, PlannedObject>,
    /// Which object a file is, or is to be.
    object_of: Vec<Option<u32>>,
    /// No object has a number from here on that is not in `objects`.
    next: u32,
    links: u64,
    steps: Vec<Step>,
}

impl PlanBuilder<'_> {
    /// Lets a file of the guest and one of a reference guest be one object. False where they cannot.
    fn share(&mut self, file: usize, partner: usize) -> bool {
        match (self.object_of[file], self.object_of[partner]) {
            (None, None) => self.create(file, partner),
            (None, Some(object)) => self.join(file, object),
            (Some(object), None) => self.join(partner, object),
            (Some(one), Some(other)) => one == other,
        }
    }

    /// Makes the reference guest's file an object, and links the guest's to it.
    fn create(&mut self, file: usize, partner: usize) -> bool {
        let first = self.member(partner);
        // The store has a name of it, too.
        let Some(room) = self.links.checked_sub(first.names() + 1) else {
            return false;
        };
        let object = PlannedObject {
            guests: first.guests.iter().map(|&(guest, _)| guest).collect(),
            room,
        };
        // One inode already: it becomes an object, so that it is protected.
        let is_one = file == partner;
        if !is_one && !object.takes(self.member(file)) {
            return false;
        }
        while self.objects.contains_key(&self.next) {
            self.next += 1;
        }
        let instance = self.next;
        self.steps.push(Step::Create {
            member: partner - self.first_member,
            instance,
        });
        self.objects.insert(instance, object);
        self.object_of[partner] = Some(instance);
        is_one || self.join(file, instance)
    }

    /// Links a file to an object.
    fn join(&mut self, file: usize, instance: u32) -> bool {
        let member = file - self.first_member;
        let joining = &self.members[member];
        let Some(object) = self.objects.get_mut(&instance) else {
            return false;
        };
        if !object.takes(joining) {
            return false;
        }
        object.room -= joining.names();
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
            // The same at another path.
            (vec![names(&[(0, 1)]), names(&[(1, 2)])], vec![]),
            // The reference guest's file becomes the object, and the guest's is replaced.
            (
                vec![names(&[(0, 1)]), names(&[(1, 1)])],
                vec![create(1, 0), replace(0, 0)],
            ),
            // The first reference guest; the second one's stays.
            (
                vec![names(&[(2, 1)]), names(&[(1, 1)]), names(&[(0, 1)])],
                vec![create(1, 0), replace(2, 0)],
            ),
            // Reference guests alone.
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
            // A link group: one path in common is enough, and a second file has to wait (invariant 3).
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
            room: 10,
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
            // Of others: only its number counts.
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

    /// Of `files`, the first `count` are objects, with a guest more that links them out of sight and
    /// with so much room.
    fn objects(files: &[Vec<GuestPath>], more: &[(GuestId, u64)]) -> Vec<Instance> {
        let one = |(at, (names, &(hidden, room))): (usize, (&Vec<GuestPath>, &(GuestId, u64)))| {
            let mut guests: Vec<GuestId> = names.iter().map(|name| name.guest).collect();
            guests.push(hidden);
            Instance {
                number: u32::try_from(at * 2).expect("few"),
                guests,
                room,
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
                .map(|one| (one.number, (one.guests.iter().copied().collect(), one.room)))
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
                let (guests, room) = linked.get_mut(&number).expect("created before it is used");
                for &(guest, names) in &members[member].guests {
                    prop_assert!(guests.insert(guest), "guest {} has {} twice", guest, number);
                    prop_assert!(*room >= u64::from(names), "more names than the inode takes");
                    *room -= u64::from(names);
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
                let (guests, room) = &linked[&number];
                let names: u64 = member.guests.iter().map(|&(_, names)| u64::from(names)).sum();
                names <= *room && member.guests.iter().all(|(guest, _)| !guests.contains(guest))
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
