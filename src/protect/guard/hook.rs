//! The LSM hooks that the guard attaches to.

/// An LSM hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Its name in `include/linux/lsm_hook_defs.h`.
    pub name: &'static str,
    /// The programs for it, one for each signature that the hook had. The first that the kernel loads is the right one:
    /// the verifier checks the types of all arguments that a program uses.
    pub programs: &'static [&'static str],
    /// Whether every kernel that can have the guard has the hook. A kernel from before a newer hook calls another one
    /// for the same changes.
    pub is_needed: bool,
}

const fn needed(name: &'static str, programs: &'static [&'static str]) -> Hook {
    Hook {
        name,
        programs,
        is_needed: true,
    }
}

const fn newer(name: &'static str, programs: &'static [&'static str]) -> Hook {
    Hook {
        name,
        programs,
        is_needed: false,
    }
}

/// All hooks, in the order of `enum hook` in `guard.bpf.c`.
pub const HOOKS: [Hook; 14] = [
    needed("inode_permission", &["inode_permission"]),
    needed("file_open", &["file_open"]),
    needed("inode_setattr", &["inode_setattr", "inode_setattr_of_two"]),
    needed("inode_setxattr", &["inode_setxattr"]),
    needed("inode_removexattr", &["inode_removexattr"]),
    needed("file_ioctl", &["file_ioctl"]),
    needed("file_lock", &["file_lock"]),
    // Since 6.2. Before, the kernel set ACLs as extended attributes.
    newer("inode_set_acl", &["inode_set_acl"]),
    newer("inode_remove_acl", &["inode_remove_acl"]),
    // Since 6.8, and in maintained older kernels. Before, `file_ioctl` got these requests.
    newer("file_ioctl_compat", &["file_ioctl_compat"]),
    // Since 6.17, together with the system call file_setattr.
    newer("inode_file_setattr", &["inode_file_setattr"]),
    needed("inode_link", &["inode_link"]),
    needed("file_fcntl", &["file_fcntl"]),
    needed("path_notify", &["path_notify"]),
];
