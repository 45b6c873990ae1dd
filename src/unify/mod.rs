//! Unification: from what a scan found to guests that share their files.
//!
//! ```text
//! run                  the phases of a run on one store: lock, prepare, walk, group, share, finish
//!  ├ recover           puts in order what an interrupted run left behind
//!  │  ├ leftovers      finds it
//!  │  └ restored       names that the guest has moved or linked since
//!  ├ groups            the groups that are worth looking into
//!  │  └ group          files that agree in the metadata that must agree; pure
//!  ├ workers           the threads that share the groups among them
//!  │  ├ fd_budget      how many, and what each may keep open; pure
//!  │  ├ share          one group, as links to objects
//!  │  │  ├ plan        who links what; pure
//!  │  │  ├ by_reference  the same for one guest against reference guests; pure
//!  │  │  └ apply       does it
//!  │  │     ├ object   opens an object, proven and marked
//!  │  │     └ transaction  can undo it until it is certain
//!  │  ├ extents        one group, as shared extents of inodes of their own
//!  │  │  └ extent_class  the files of one identity in it
//!  │  ├ reader         opens and reads files of guests
//!  │  └ worker_stats   what one worker did
//!  └ finish            the account, the index (index_update), the times of directories
//! deunify              the reverse, for a guest or for paths of it
//!  └ private_copies    a copy for all names of an object in the guest
//! ```
//!
//! What stands under all of these:
//!
//! | file | what it is about |
//! | --- | --- |
//! | `target` | who may change something; a dry run has none |
//! | `view` | what the workers look at: the question, what is known, the effort |
//! | `objects`, `hidden_links` | what is known of objects, and of links to them where the walk does not look |
//! | `disk_reads` | which objects must be read before a further guest gets them |
//! | [`Scope`], `same_path`, `path_filter` | to which files a command is confined |
//! | [`Source`] | a guest and what of it is left out |

mod apply;
pub mod by_reference;
mod deunify;
mod deunify_report;
mod disk_reads;
mod extent_class;
mod extents;
mod fd_budget;
mod finish;
pub mod group;
mod groups;
mod hidden_links;
mod index_update;
mod leftovers;
mod object;
mod objects;
mod open_object;
mod path_filter;
pub mod plan;
mod private_copies;
mod reader;
mod recover;
mod restored;
mod run;
mod same_path;
mod scope;
mod share;
mod source;
mod target;
mod transaction;
mod view;
mod worker_stats;
mod workers;

pub use deunify::{DeunifyOptions, deunify};
pub use deunify_report::DeunifyReport;
pub use fd_budget::Workers;
pub use run::{Options, unify};
pub use scope::Scope;
pub use source::Source;
