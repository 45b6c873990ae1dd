//! Whether users of the host can reach the files of a guest.
//!
//! Where they can, a setuid program that the guest's root makes is root on the host for each of them, and user 1000 of
//! the host owns the files of the guest's user 1000. The guest's root directory itself must be open, since its own users
//! enter it; so a directory above must be closed.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vhashify_sys::shown::Shown;
use vhashify_sys::xattr::{self, Of};

/// The search permission of owner, group and others.
const SEARCH: [u32; 3] = [0o100, 0o010, 0o001];

/// Warns where each directory on the way to `vdir`, and `vdir` itself, can be searched by a user who is not root.
pub fn warn(name: &str, vdir: &Path) {
    // What the path leads to may be reached by another one, of which nobody here knows.
    let Ok(vdir) = fs::canonicalize(vdir) else {
        return;
    };
    if vdir.ancestors().any(|directory| !is_open(directory)) {
        return;
    }
    let base = vdir.parent().map_or(vdir.clone(), PathBuf::from);
    tracing::warn!(
        "{name}: users of the host can reach its files, and whoever runs a setuid program of the guest is root of the host; \
         close the directory above it: chmod 0700 {}",
        Shown::path(&base)
    );
}

/// Whether anybody but root may search it.
fn is_open(directory: &Path) -> bool {
    let Ok(found) = fs::metadata(directory) else {
        return true;
    };
    let acl = xattr::get(Of::Path(directory), "system.posix_acl_access".as_ref());
    may_others_search(
        found.mode(),
        is_roots(&found),
        acl.is_ok_and(|acl| acl.is_some()),
    )
}

/// Whether owner and group are root's.
fn is_roots(of: &Metadata) -> [bool; 2] {
    [of.uid() == 0, of.gid() == 0]
}

/// With an access control list the bits of the group are the most that any user or group in it has.
fn may_others_search(mode: u32, [is_roots, is_of_root_group]: [bool; 2], has_list: bool) -> bool {
    let [owner, group, others] = SEARCH.map(|bit| mode & bit != 0);
    others || (owner && !is_roots) || (group && (!is_of_root_group || has_list))
}

#[cfg(test)]
mod tests {
    use super::may_others_search;

    #[test]
    fn a_directory_is_closed_where_root_alone_may_search_it() {
        const ROOTS: [bool; 2] = [true, true];
        for (mode, roots, has_list, is_open) in [
            (0o755, ROOTS, false, true),
            (0o701, ROOTS, false, true),
            (0o744, ROOTS, false, false),
            (0o700, ROOTS, false, false),
            (0o000, ROOTS, false, false),
            (0o770, ROOTS, false, false),
            (0o770, ROOTS, true, true),
            (0o750, [true, false], false, true),
            (0o700, [false, true], false, true),
        ] {
            assert_eq!(
                may_others_search(mode, roots, has_list),
                is_open,
                "{mode:o}"
            );
        }
    }
}
