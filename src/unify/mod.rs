//! Unification: from what a scan found to guests that share their files.
//!
//! ```text
//! run        the order of things, for one store: lock, scan, group, the workers, the index
//!  ├ recover   what an interrupted run left behind
//!  ├ group     files that agree in the metadata that must agree
//!  ├ hidden_links    guests that hold an object where the scan does not look
//!  ├ workers   the threads that share the groups among them
//!  │  └ fd_budget  how many, and what each may keep open; pure
//!  ├ share     one group: prove, plan, apply
//!  │  ├ plan     who links what; pure
//!  │  ├ by_reference  the same, for one guest against reference guests; pure
//!  │  └ apply    do it
//!  │     └ transaction  what can be undone until it is certain
//!  ├ scope   which files of a group are at the same path
//!  ├ extents   one group where guests share extents and no inodes: prove, compare, share
//!  ├ object    an object, proven and marked
//!  ├ shared    what all workers look at
//!  ├ worker_stats     what was done
//!  └ index_update     what the index is told of it
//! deunify    the reverse, for a guest or for paths of it
//! path_filter      the paths of a guest to which a command is confined
//! ```

mod apply;
pub mod by_reference;
mod deunify;
mod extents;
mod fd_budget;
pub mod group;
mod hidden_links;
mod index_update;
mod object;
mod path_filter;
pub mod plan;
mod recover;
mod run;
mod scope;
mod share;
mod shared;
mod transaction;
mod worker_stats;
mod workers;

pub use deunify::{DeunifyOptions, DeunifyReport, deunify};
pub use fd_budget::Workers;
pub use run::{Options, unify};
pub use scope::Scope;
pub use shared::Source;
