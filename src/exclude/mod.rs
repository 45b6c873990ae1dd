//! Which paths of a guest stay out of unification: pattern files as util-vserver wrote them, a
//! built-in list, and the configuration files that the guest's package manager knows.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `rules` | a list of patterns, and the decision on a path |
//! | `builtin` | the list that is used when the host gives none |
//!
//! One pattern is [`vhashify_packages::pattern`]; the databases of package managers are read by
//! [`vhashify_packages`].
//!
//! The host's pattern files are trusted; a mistake in one is an error that names its line. A guest's files are not
//! trusted: `vhashify` opens them inside the guest's root only, reads them up to fixed limits, and neither executes
//! nor writes them.

mod builtin;
mod error;
mod filter;
mod rules;

pub use builtin::TEXT as BUILTIN_LIST;
pub use error::ExcludeError;
pub use rules::{Rules, Verdict};
