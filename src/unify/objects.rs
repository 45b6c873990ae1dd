//! The objects of a store at the moment when a run looked at them.

use std::collections::{HashMap, HashSet};

use vhashify_sys::stamp::{Stamp, Timestamp, wait_for_next_second, wait_for_next_tick};

use crate::error::Error;
use crate::scan::{FileRecord, Scan};
use crate::store::{ObjectName, Store};

/// An object as a run knows it.
#[derive(Debug, Clone, Copy)]
pub struct ObjectState {
    /// Its name.
    pub name: ObjectName,
    /// Its inode, as it was before the guests were walked.
    pub stamp: Stamp,
    /// Its inode when its content was last known to be what the name says.
    pub proven: Option<Stamp>,
}

/// The objects of a store at one moment.
#[derive(Debug)]
pub struct Objects {
    /// Each, by its inode.
    pub by_inode: HashMap<u64, ObjectState>,
    /// When the run began to look at them.
    looked: Timestamp,
}

impl Objects {
    /// Looks at all of them. `proven` has the stamp that each had when it was last known to be what its name says.
    ///
    /// # Errors
    /// A directory of the store that cannot be read.
    pub fn look(store: &mut Store, proven: &HashMap<ObjectName, Stamp>) -> Result<Self, Error> {
        let now = Timestamp::now();
        let listed = store.look_at_all()?;
        // A run before this one, or what this one mended, changed it a moment ago: `has_names_as_found` could not
        // answer for these.
        let is_recent =
            |ctime: &Timestamp| !ctime.is_over_at(now) && ctime.seconds <= now.seconds + 1;
        let ctimes = listed.iter().map(|(_, stamp)| stamp.ctime);
        let recent: Vec<Timestamp> = ctimes.filter(is_recent).collect();
        let (looked, listed) = if recent.is_empty() {
            (now, listed)
        } else if recent.into_iter().any(Timestamp::is_in_seconds) {
            (wait_for_next_second(), store.look_at_all()?)
        } else {
            (wait_for_next_tick(), store.look_at_all()?)
        };
        let states = listed.into_iter().map(|(name, stamp)| {
            let proven = proven.get(&name);
            let proven = proven.filter(|proven| proven.inode == stamp.inode).copied();
            let state = ObjectState {
                name,
                stamp,
                proven,
            };
            (stamp.inode, state)
        });
        Ok(Self {
            by_inode: states.collect(),
            looked,
        })
    }

    /// The object that an inode is, if it is one.
    #[must_use]
    pub fn of(&self, inode: u64) -> Option<&ObjectState> {
        self.by_inode.get(&inode)
    }

    /// Whether nobody has added, moved or removed a name of the object, whose stamp is `now`, since before the walk
    /// of the guests. The link count cannot tell: one guest may have removed a name, and another may have moved one
    /// past the walk. The run would then give the object to that guest a second time (invariant 3).
    #[must_use]
    pub fn has_names_as_found(&self, object: &ObjectState, now: &Stamp) -> bool {
        let before = &object.stamp;
        // A second change in the tick of the first one leaves the same ctime.
        now.is_unchanged_since(before) && before.ctime.is_outside_since(self.looked)
    }

    /// Those that no scanned guest links.
    #[must_use]
    pub fn unseen(&self, scan: &Scan) -> Vec<ObjectState> {
        let seen: HashSet<u64> = scan
            .files
            .iter()
            .map(FileRecord::inode)
            .filter(|inode| self.by_inode.contains_key(inode))
            .collect();
        let unseen = self.by_inode.values();
        unseen
            .filter(|state| !seen.contains(&state.stamp.inode))
            .copied()
            .collect()
    }
}
