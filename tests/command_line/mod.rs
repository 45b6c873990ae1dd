//! What an administrator types and what comes of it: the configuration tree, what is printed and
//! where, the exit status, and everything that can be wrong with the input.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`configuration`] | guests, stores and exclusions as the tree names them |
//! | [`by_path`] | `vserver NAME unify` and its reference guests |
//! | [`output`] | JSON, text, progress, colours, closed pipes |
//! | [`status`] | the exit status, and who waits for whom |
//! | [`usage`] | what can be typed wrongly |
//! | [`bad_tree`] | what can be wrong in the configuration tree |
//! | [`bad_layout`] | how guests and stores may not lie |
//! | [`bad_files`] | files that cannot be read, odd names, full and read-only filesystems |
//! | [`bad_index`] | an index that cannot be used |
//! | [`tree`] | a configuration tree to test with |
//! | [`still`] | proof that nothing was changed |
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in their helpers

mod bad_files;
mod bad_index;
mod bad_layout;
mod bad_tree;
mod by_path;
mod configuration;
mod output;
mod status;
mod still;
pub mod tree;
mod usage;
