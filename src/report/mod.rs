//! Reports what guests cost, share and could share, for people and for programs.
//!
//! ```text
//! store          the whole report of a store and its guests
//!  ├ survey          walks all guests once, and counts each inode's pages in the page cache
//!  │  ├ guests           what each guest costs, and what the store saves, on disk and in memory
//!  │  ├ objects          the objects that save most
//!  │  ├ unshared         files that look alike but are not shared, and why
//!  │  └ old_copies       processes that still map files that a run replaced
//!  ├ shared_extents  extents that files share although they share no inode; corrects guests
//!  └ history         earlier runs, from the index
//! page           the report as an HTML page
//! ```
//!
//! The module stands above `unify`, from which it takes a guest with its rules (`Source`). It changes nothing.

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
