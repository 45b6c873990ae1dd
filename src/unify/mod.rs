//! Unification: from what a scan found to guests that share their files.
//!
//! ```text
//! run        the order of things, for one store: lock, scan, group, the workers, the index
//!  ├ recover   what an interrupted run left behind
//!  ├ group     files that agree in the metadata that must agree
//!  ├ census    guests that hold an object where the scan does not look
//!  ├ workers   the threads that share the groups among them
//!  │  └ allowance  how many, and what each may keep open; pure
//!  ├ share     one group: prove, plan, apply
//!  │  ├ prove    open, lease, read
//!  │  ├ plan     who links what; pure
//!  │  ├ by_path  the same, for one guest against reference guests; pure
//!  │  └ apply    do it
//!  │     └ transaction  what can be undone until it is certain
//!  │        ├ replace   one name
//!  │        ├ take_back the names of one file, also those that the guest has moved meanwhile
//!  │        └ late_names  names that a call under way gives to the wrong inode
//!  ├ pairing   which files of a group are at the same path
//!  ├ names     every name of a guest and its inode number
//!  ├ extents   one group where guests share extents and no inodes: prove, compare, share
//!  ├ object    an object, proven and marked
//!  ├ directory_times  what replacing did to the mtime of directories, undone
//!  ├ shared    what all workers look at
//!  ├ tally     what was done
//!  └ learn     what the index is told of it
//! deunify    the reverse, for a guest or for paths of it
//! below      the paths of a guest to which a command is confined
//! ```

mod allowance;
mod apply;
mod below;
pub mod by_path;
mod census;
mod deunify;
pub(crate) mod directory_times;
mod extents;
pub mod group;
mod late_names;
mod learn;
pub(crate) mod names;
mod object;
mod pairing;
pub mod plan;
mod prove;
mod recover;
pub(crate) mod replace;
mod run;
mod share;
mod shared;
pub(crate) mod take_back;
mod tally;
pub mod temporary;
mod transaction;
mod workers;

pub use allowance::Workers;
pub use deunify::{DeunifyOptions, DeunifyReport, deunify};
pub use pairing::Partners;
pub use prove::{Leased, Unproven};
pub use run::{Options, unify};
pub use shared::Source;
