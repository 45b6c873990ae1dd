//! Unification: from what a scan found to guests that share their files.
//!
//! ```text
//! run        the order of things, for one store: lock, scan, group, the workers, the index
//!  ├ recover   what an interrupted run left behind
//!  ├ group     files that agree in the metadata that must agree
//!  ├ census    guests that hold an object where the scan does not look
//!  ├ share     one group: prove, plan, apply
//!  │  ├ prove    open, lease, read
//!  │  ├ plan     who links what; pure
//!  │  └ apply    do it
//!  │     └ transaction  what can be undone until it is certain
//!  │        ├ replace   one name
//!  │        ├ take_back the names of one file, also those that the guest has moved meanwhile
//!  │        └ late_names  names that a call under way gives to the wrong inode
//!  ├ names     every name of a guest and its inode number
//!  ├ extents   one group where guests share extents and no inodes: prove, compare, share
//!  ├ object    an object, proven and marked
//!  ├ directory_times  what replacing did to the mtime of directories, undone
//!  ├ shared    what all workers look at
//!  ├ tally     what was done
//!  └ learn     what the index is told of it
//! deunify    the reverse, for a guest or for paths of it
//! ```

mod apply;
mod census;
mod deunify;
pub(crate) mod directory_times;
mod extents;
pub mod group;
mod late_names;
mod learn;
pub(crate) mod names;
mod object;
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

pub use deunify::{DeunifyReport, deunify};
pub use prove::{Leased, Unproven};
pub use run::{Options, unify};
pub use shared::Source;
