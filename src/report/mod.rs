//! What guests cost, share and could share, for people and for programs.
//!
//! ```text
//! store      all that `vhashify report` says of one store and its guests
//!  ├ survey      one walk over all guests, from which the next three are told
//!  ├ guests      what each guest costs, and what the store saves, on disk and in the page cache
//!  ├ places      files that share no inode and lie in the same place on the disk
//!  ├ objects     the objects that save most
//!  ├ unshared    what looks alike and is not shared, and why
//!  ├ old_copies  processes that still map what was replaced
//!  └ history     earlier runs, from the index
//! page       the same as one HTML page
//! ```

mod guests;
mod history;
mod objects;
mod old_copies;
pub mod page;
mod places;
mod store;
mod survey;
mod unshared;

pub use guests::{GuestCache, GuestCost, StoreCache, StoreCost};
pub use history::PastRun;
pub use objects::ObjectCost;
pub use old_copies::{OldCopies, OldCopy, ProcessCopies};
pub use store::{StoreReport, store_report};
pub use unshared::{Count, Unshared, UnsharedCounts};
