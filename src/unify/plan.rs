//! Decides who links what. Pure: no system call, nothing but numbers in and numbers out.
//!
//! All files here have one identity. The rule is invariant 3: *one guest links one instance once,
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
    /// Its number.
    pub number: u32,
    /// Who links it, or may.
    pub guests: Vec<GuestId>,
    /// How many more links its inode can take.
    pub room: u64,
}

/// One inode that is no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The guests that have it, each with its count of names. More than one where guests were
    /// hard-linked to one another before (`cp -al`), or where the store lost an object.
    pub guests: Vec<(GuestId, u32)>,
}

impl Member {
    /// How many names it has.
    pub(super) fn names(&self) -> u64 {
        self.guests.iter().map(|&(_, names)| u64::from(names)).sum()
    }
}

/// One thing to be done. Members are named by their position in what was given to [`plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The member's inode becomes the object of this number; none of its names changes.
    Create {
        /// Which member.
        member: usize,
        /// The object's number.
        instance: u32,
    },
    /// Every name of the member is replaced by a link to the object of this number.
    Replace {
        /// Which member.
        member: usize,
        /// The object's number.
        instance: u32,
    },
}

/// Plans for all files of one identity.
///
/// A member that no step names stays private. `links` is the most links that an inode of this
/// filesystem can have, the object's own name in the store among them. Steps are in the order in
/// which they have to be done.
#[must_use]
pub fn plan(instances: &[Instance], members: &[Member], links: u64) -> Vec<Step> {
    let existing: BTreeMap<u32, &Instance> = instances
        .iter()
        .map(|instance| (instance.number, instance))
        .collect();
    let last_existing = existing.keys().next_back().copied();
    let mut waiting = Waiting::new(members, links);
    let mut steps = Vec::new();
    let mut number = 0;
    while !waiting.is_empty() {
        let mut created = false;
        let (mut guests, room): (BTreeSet<GuestId>, u64) =
            if let Some(instance) = existing.get(&number) {
                (instance.guests.iter().copied().collect(), instance.room)
            } else if let Some(first) = waiting.take_first() {
                created = true;
                steps.push(Step::Create {
                    member: first,
                    instance: number,
                });
                let room = links.saturating_sub(members[first].names() + 1);
                (
                    members[first]
                        .guests
                        .iter()
                        .map(|&(guest, _)| guest)
                        .collect(),
                    room,
                )
            } else if last_existing.is_some_and(|last| number < last) {
                number += 1;
                continue;
            } else {
                break;
            };
        let joining = waiting.take_joining(&mut guests, room);
        if created && guests.len() < 2 {
            // Nobody could join after all (too many names for one inode): it stays private.
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
    /// Those of one guest, by guest, in their order.
    single: BTreeMap<GuestId, VecDeque<usize>>,
    /// Those that several guests share already.
    shared: Vec<usize>,
}

impl<'a> Waiting<'a> {
    /// All but those with so many names that no inode can take them and the store's own.
    fn new(members: &'a [Member], links: u64) -> Self {
        let mut single: BTreeMap<GuestId, VecDeque<usize>> = BTreeMap::new();
        let mut shared = Vec::new();
        for (number, member) in members.iter().enumerate() {
            if member.names() >= links {
                continue;
            }
            match member.guests.as_slice() {
                [] => {}
                [(guest, _)] => single.entry(*guest).or_default().push_back(number),
                _ => shared.push(number),
            }
        }
        Self {
            members,
            single,
            shared,
        }
    }

    fn is_empty(&self) -> bool {
        self.single.is_empty() && self.shared.is_empty()
    }

    /// Takes the member that is to become an object, where a second guest needs one: the one with
    /// the most names, because names of the object itself need no replacing.
    fn take_first(&mut self) -> Option<usize> {
        if !self.shared.is_empty() {
            return Some(self.shared.remove(0));
        }
        if self.single.len() < 2 {
            return None;
        }
        let names = |queue: &VecDeque<usize>| queue.front().map(|&at| self.members[at].names());
        let (&guest, _) = self
            .single
            .iter()
            .max_by_key(|&(&guest, queue)| (names(queue), Reverse(guest)))?;
        self.pop(guest)
    }

    /// Takes at most one member for each guest that is not among `guests` yet, as far as there is
    /// room for its names.
    fn take_joining(&mut self, guests: &mut BTreeSet<GuestId>, mut room: u64) -> Vec<usize> {
        let members = self.members;
        let mut taken = Vec::new();
        self.shared.retain(|&number| {
            let member = &members[number];
            let joins = member.names() <= room
                && member
                    .guests
                    .iter()
                    .all(|(guest, _)| !guests.contains(guest));
            if joins {
                room -= member.names();
                guests.extend(member.guests.iter().map(|&(guest, _)| guest));
                taken.push(number);
            }
            !joins
        });
        let free: Vec<GuestId> = self
            .single
            .keys()
            .copied()
            .filter(|guest| !guests.contains(guest))
            .collect();
        for guest in free {
            let front = self.single.get(&guest).and_then(VecDeque::front);
            let names = front.map_or(u64::MAX, |&number| members[number].names());
            if names <= room {
                room -= names;
                guests.insert(guest);
                taken.extend(self.pop(guest));
            }
        }
        taken
    }

    fn pop(&mut self, guest: GuestId) -> Option<usize> {
        let queue = self.single.get_mut(&guest)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.single.remove(&guest);
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
            room: 0,
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
            room: 10,
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
            let one = |(number, (guests, room)): (u32, (BTreeSet<GuestId>, u64))| Instance {
                number,
                guests: guests.into_iter().collect(),
                room,
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
                .map(|one| (one.number, (one.guests.iter().copied().collect(), one.room)))
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
                let (guests, room) = linked.get_mut(&number).expect("created before it is used");
                for &(guest, names) in &members[member].guests {
                    prop_assert!(guests.insert(guest), "guest {} has {} twice", guest, number);
                    prop_assert!(*room >= u64::from(names), "more names than the inode takes");
                    *room -= u64::from(names);
                }
            }
            // Nothing is put into the store for one guest alone.
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
