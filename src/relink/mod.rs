//! Replacing the names of one file, without losing a change and without a moment in which a name is missing.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `names` | lists every name of a guest with its inode number |
//! | `descent` | walks its directories for that |
//! | [`temporary`] | the temporary names of replacements |
//! | [`work_directory`] | the directory beside the store in which they lie |
//! | [`swap`] | replaces every name of a file, and is final or undone |
//! | `orphans` | finds what is left beside stores that are gone |
//! | `exchange` | replaces one name |
//! | `undo` | undoes the replacement of one file, also under names that the guest has moved meanwhile |
//! | `stray_links` | relinks names that a call under way has given to the wrong inode |
//! | [`private_copy`] | copies a shared file for one guest |
//! | `copy_mark` | marks such a copy until all names lead to it |
//! | `directory_times` | gives directories the mtime back that they had before |

pub(crate) mod copy_mark;
pub(crate) mod descent;
pub(crate) mod directory_times;
pub(crate) mod exchange;
pub(crate) mod names;
pub(crate) mod orphans;
pub mod private_copy;
pub(crate) mod stray_links;
pub mod swap;
pub mod temporary;
pub(crate) mod undo;
pub mod work_directory;
