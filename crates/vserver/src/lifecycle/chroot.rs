//! Refuses to run a guest from within a chroot.
//!
//! Process 1 of a guest leaves the root directory of its mount namespace behind by `pivot_root(2)`, and a command that enters
//! joins that namespace. Where the caller's own root is not the one of its namespace, both reach the outer one instead: a
//! guest's root could leave the guest by `chroot(2)` and `..`.

use super::LifecycleError;

/// Refuses where this process's root directory is not that of its mount namespace.
///
/// # Errors
/// [`LifecycleError::Refused`], also where that cannot be told.
pub fn refuse(name: &str) -> Result<(), LifecycleError> {
    let reason = match vhashify_sys::process::has_root_of_its_mounts() {
        Ok(true) => return Ok(()),
        Ok(false) => "this is a chroot, and a guest would get out of it; run vserver outside of it, or where pivot_root(8) \
                      has made this root that of a mount namespace"
            .to_owned(),
        Err(error) => format!(
            "whether this is a chroot cannot be told: {}",
            vhashify_sys::call_error::reason(&error)
        ),
    };
    Err(LifecycleError::Refused {
        name: name.to_owned(),
        reason: reason.into(),
    })
}
