//! Decides which inode becomes an object and which names link it. Pure: it makes no system call, and
//! takes and returns only numbers.
//!
//! All files of a plan have one identity. Invariant 3 rules it: *one guest links one instance once,
//! or by one whole link group*; its second file of the same identity takes the next instance.
//!
//! ```text
//!               guest A     guest B     guest C
//! instance 0    /bin/x      /bin/x      /opt/x (and its hard link /opt/y: one group)
//! instance 1    /lib/x      /lib/x      -
//! private       /tmp/x      -           -            nobody else needs a third one
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::scan::GuestId;

/// An object that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The instance number in the object's name.
    pub number: u32,
    /// The guests that link it. One whose names the scan could not see counts as well.
    pub guests: Vec<GuestId>,
    /// How many more links its inode can take.
    pub links_left: u64,
}

/// An inode of the group that is no object yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The guests that have names of it, and how many each. More than one guest where somebody
    /// hard-linked guests to one another before (`cp -al`), or where the store lost an object.
    pub guests: Vec<(GuestId, u32)>,
}

impl Member {
    pub(super) fn name_count(&self) -> u64 {
        self.guests.iter().map(|&(_, names)| u64::from(names)).sum()
    }
}

/// One step of a plan. It names a member by its position in what [`plan`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Makes the member's inode the object. None of its names changes.
    Create {
        /// Which member.
        member: usize,
        /// The object's number.
        instance: u32,
    },
    /// Replaces every name of the member by a link to the object.
    Replace {
        /// Which member.
        member: usize,
        /// The object's number.
        instance: u32,
    },
}

/// Plans for all files of one identity, and returns the steps in the order in which to do them.
///
/// A member that no step names stays private. `most_links` is the most links that an inode of this
/// filesystem can have; the object's name in the store takes one of them.
#[must_use]
pub fn plan(instances: &[Instance], members: &[Member], most_links: u64) -> Vec<Step> {
    let existing: BTreeMap<u32, &Instance> = instances
        .iter()
        .map(|instance| (instance.number, instance))
        .collect();
    let last_existing = existing.keys().next_back().copied();
    let mut waiting = Waiting::new(members, most_links);
    let mut steps = Vec::new();
    let mut number = 0;
    while !waiting.is_empty() {
        let mut created = false;
        let (mut guests, links_left): (BTreeSet<GuestId>, u64) =
            if let Some(instance) = existing.get(&number) {
                (
                    instance.guests.iter().copied().collect(),
                    instance.links_left,
                )
            } else if let Some(first) = waiting.take_first() {
                created = true;
                steps.push(Step::Create {
                    member: first,
                    instance: number,
                });
                let names = members[first].name_count();
                (
                    members[first]
                        .guests
                        .iter()
                        .map(|&(guest, _)| guest)
                        .collect(),
                    most_links.saturating_sub(names + 1),
                )
            } else if last_existing.is_some_and(|last| number < last) {
                number += 1;
                continue;
            } else {
                break;
            };
        let joining = waiting.take_joining(&mut guests, links_left);
        if created && guests.len() < 2 {
            // No other member could join (too many names for one inode), so this one stays private.
            steps.pop();
            continue;
        }
        steps.extend(joining.into_iter().map(|member| Step::Replace {
            member,
            instance: number,
        }));
        number += 1;
    }
    steps
}

/// The members that have no instance yet.
struct Waiting<'a> {
    members: &'a [Member],
    of_one_guest: BTreeMap<GuestId, VecDeque<usize>>,
    of_several_guests: Vec<usize>,
}

impl<'a> Waiting<'a> {
    /// Leaves out a member whose names and the store's are more links than an inode can have.
    fn new(members: &'a [Member], most_links: u64) -> Self {
        let mut of_one_guest: BTreeMap<GuestId, VecDeque<usize>> = BTreeMap::new();
        let mut of_several_guests = Vec::new();
        for (number, member) in members.iter().enumerate() {
            if member.name_count() >= most_links {
                continue;
            }
            match member.guests.as_slice() {
                [] => {}
                [(guest, _)] => of_one_guest.entry(*guest).or_default().push_back(number),
                _ => of_several_guests.push(number),
            }
        }
        Self {
            members,
            of_one_guest,
            of_several_guests,
        }
    }

    fn is_empty(&self) -> bool {
        self.of_one_guest.is_empty() && self.of_several_guests.is_empty()
    }

    /// Takes the member to make the next object of, if two guests can share it. Of the guests' first
    /// members it takes the one with the most names, because these need no replacing.
    fn take_first(&mut self) -> Option<usize> {
        if !self.of_several_guests.is_empty() {
            return Some(self.of_several_guests.remove(0));
        }
        if self.of_one_guest.len() < 2 {
            return None;
        }
        let names =
            |queue: &VecDeque<usize>| queue.front().map(|&at| self.members[at].name_count());
        let (&guest, _) = self
            .of_one_guest
            .iter()
            .max_by_key(|&(&guest, queue)| (names(queue), Reverse(guest)))?;
        self.pop(guest)
    }

    /// Takes at most one member for each guest that is not among `guests` yet, while `links_left`
    /// suffices for its names.
    fn take_joining(&mut self, guests: &mut BTreeSet<GuestId>, mut links_left: u64) -> Vec<usize> {
        let members = self.members;
        let mut taken = Vec::new();
        self.of_several_guests.retain(|&number| {
            let member = &members[number];
            let joins = member.name_count() <= links_left
                && member
                    .guests
                    .iter()
                    .all(|(guest, _)| !guests.contains(guest));
            if joins {
                links_left -= member.name_count();
                guests.extend(member.guests.iter().map(|&(guest, _)| guest));
                taken.push(number);
            }
            !joins
        });
        let free: Vec<GuestId> = self
            .of_one_guest
            .keys()
            .copied()
            .filter(|guest| !guests.contains(guest))
            .collect();
        for guest in free {
            let front = self.of_one_guest.get(&guest).and_then(VecDeque::front);
            let names = front.map_or(u64::MAX, |&number| members[number].name_count());
            if names <= links_left {
                links_left -= names;
                guests.insert(guest);
                taken.extend(self.pop(guest));
            }
        }
        taken
    }

    fn pop(&mut self, guest: GuestId) -> Option<usize> {
        let queue = self.of_one_guest.get_mut(&guest)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.of_one_guest.remove(&guest);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::{Instance, Member, Step, plan};
    use crate::scan::GuestId;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn member(guests: &[(GuestId, u32)]) -> Member {
        Member {
            guests: guests.to_vec(),
        }
    }

    #[test]
    fn one_guest_alone_needs_no_object() {
        assert_eq!(plan(&[], &[member(&[(0, 1)]), member(&[(0, 1)])], 100), []);
    }

    #[test]
    fn the_member_with_most_names_becomes_the_object() {
        let members = [member(&[(0, 1)]), member(&[(1, 3)]), member(&[(2, 1)])];
        let expected = [
            Step::Create {
                member: 1,
                instance: 0,
            },
            Step::Replace {
                member: 0,
                instance: 0,
            },
            Step::Replace {
                member: 2,
                instance: 0,
            },
        ];
        assert_eq!(plan(&[], &members, 100), expected);
    }

    #[test]
    fn a_full_object_is_followed_by_the_next_instance() {
        let full = Instance {
            number: 0,
            guests: vec![7],
            links_left: 0,
        };
        let members = [member(&[(0, 1)]), member(&[(1, 1)])];
        let expected = [
            Step::Create {
                member: 0,
                instance: 1,
            },
            Step::Replace {
                member: 1,
                instance: 1,
            },
        ];
        assert_eq!(plan(&[full], &members, 100), expected);
    }

    #[test]
    fn a_gap_in_the_numbers_does_not_hide_a_later_instance() {
        let later = Instance {
            number: 4,
            guests: vec![1],
            links_left: 10,
        };
        let expected = [Step::Replace {
            member: 0,
            instance: 4,
        }];
        assert_eq!(plan(&[later], &[member(&[(0, 1)])], 100), expected);
    }

    fn members() -> impl Strategy<Value = Vec<Member>> {
        let one = btree_map(0_u16..6, 1_u32..4, 1..3).prop_map(|guests| Member {
            guests: guests.into_iter().collect(),
        });
        vec(one, 0..30)
    }

    fn instances() -> impl Strategy<Value = Vec<Instance>> {
        btree_map(
            0_u32..6,
            (prop::collection::btree_set(0_u16..6, 0..4), 0_u64..12),
            0..4,
        )
        .prop_map(|all| {
            let one = |(number, (guests, links_left)): (u32, (BTreeSet<GuestId>, u64))| Instance {
                number,
                guests: guests.into_iter().collect(),
                links_left,
            };
            all.into_iter().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn inv3_no_guest_links_an_instance_twice(
            instances in instances(), members in members(), links in 4_u64..40,
        ) {
            let mut linked: BTreeMap<u32, (BTreeSet<GuestId>, u64)> = instances
                .iter()
                .map(|one| (one.number, (one.guests.iter().copied().collect(), one.links_left)))
                .collect();
            let mut placed = BTreeSet::new();
            for step in plan(&instances, &members, links) {
                let (member, number) = match step {
                    Step::Create { member, instance } => {
                        prop_assert!(!linked.contains_key(&instance), "created twice");
                        linked.insert(instance, (BTreeSet::new(), links - 1));
                        (member, instance)
                    }
                    Step::Replace { member, instance } => (member, instance),
                };
                prop_assert!(placed.insert(member), "placed twice");
                let (guests, left) = linked.get_mut(&number).expect("created before it is used");
                for &(guest, names) in &members[member].guests {
                    prop_assert!(guests.insert(guest), "guest {} has {} twice", guest, number);
                    prop_assert!(*left >= u64::from(names), "more names than the inode takes");
                    *left -= u64::from(names);
                }
            }
            // No object is made for one guest alone.
            let existed = |number: &u32| instances.iter().any(|one| one.number == *number);
            for (number, (guests, _)) in &linked {
                prop_assert!(existed(number) || guests.len() > 1);
            }
        }

        #[test]
        fn whatever_two_guests_have_is_shared(guests in vec(1_usize..5, 2..5)) {
            let members: Vec<Member> = guests
                .iter()
                .enumerate()
                .flat_map(|(guest, &count)| {
                    let guest = GuestId::try_from(guest).expect("few guests");
                    std::iter::repeat_with(move || member(&[(guest, 1)])).take(count)
                })
                .collect();
            // The k-th copies of all guests that have so many meet in instance k.
            let most = guests.iter().copied().max().unwrap_or(0);
            let shared: usize = (0..most)
                .map(|k| guests.iter().filter(|&&count| count > k).count())
                .filter(|&count| count > 1)
                .sum();
            prop_assert_eq!(plan(&[], &members, 1000).len(), shared);
        }
    }
}
