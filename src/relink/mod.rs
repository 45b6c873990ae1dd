//! Replacing the names of one file, without losing a change and without a moment in which a name is missing.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `names` | every name of a guest and its inode number |
//! | [`temporary`] | the names that a replacement uses for moments |
//! | `exchange` | one name |
//! | `undo` | the names of one file, also those that the guest has moved meanwhile, led back |
//! | `stray_links` | names that a call under way gives to the wrong inode |
//! | [`private_copy`] | what a guest gets in the place of a file that it shares |
//! | `copy_mark` | which file is such a copy, as long as not all names lead to it |
//! | `directory_times` | what replacing does to the mtime of directories, undone |

pub(crate) mod copy_mark;
pub(crate) mod directory_times;
pub(crate) mod exchange;
pub(crate) mod names;
pub mod private_copy;
pub(crate) mod stray_links;
pub mod temporary;
pub(crate) mod undo;
