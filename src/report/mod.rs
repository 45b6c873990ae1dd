//! What guests cost, share and could share, for people and for programs.
//!
//! ```text
//! store          all that `vhashify report` says of one store and its guests
//!  ├ survey          one walk over all guests, with each inode's pages in the page cache
//!  │  ├ guests           what each guest costs, and what the store saves, on disk and in memory
//!  │  ├ objects          the objects that save most
//!  │  ├ unshared         files that are alike and not shared, and why
//!  │  └ old_copies       processes that still map files that a run replaced
//!  ├ shared_extents  extents that files share although they share no inode; corrects guests
//!  └ history         earlier runs, from the index
//! page           the same as one HTML page
//! ```
//!
//! The room stands above `unify`: it takes a guest with its rules (`Source`) from there, and changes nothing.

mod displaced;
mod guests;
mod history;
mod objects;
mod old_copies;
pub mod page;
mod shared_extents;
mod store;
mod survey;
mod unshared;

pub use guests::{GuestCache, GuestCost, StoreCache, StoreCost};
pub use history::PastRun;
pub use objects::ObjectCost;
pub use old_copies::{OldCopies, OldCopy, ProcessCopies};
pub use store::{StoreReport, store_report};
pub use unshared::{FilesAndBytes, Unshared, UnsharedCounts};
