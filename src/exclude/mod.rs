//! Which paths of a guest stay out of unification: pattern files as util-vserver wrote them, a
//! built-in list, and the configuration files that the guest's package manager knows.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`pattern`] | one pattern, compiled and matched |
//! | `rules` | a list of patterns, and the decision on a path |
//! | `builtin` | the list that is used when the host gives none |
//! | [`packages`] | reading dpkg's, rpm's, apk's and pacman's databases from the guest's files |
//!
//! A host's files are trusted to be what they are meant to be, and a mistake in them is an error
//! with its line. A guest's files are not trusted at all: they are opened inside the guest's root
//! only, read up to fixed limits, and never executed or written.

mod builtin;
mod error;
mod filter;
pub mod packages;
pub mod pattern;
mod rules;

pub use builtin::TEXT as BUILTIN_LIST;
pub use error::ExcludeError;
pub use packages::{PackageFiles, PackageManager, configuration_files};
pub use rules::{Rules, Verdict};
