//! Decides whether a guest has users of its own, which are nobody on the host: by default wherever it can.

use vhashify_config::{GuestSettings, Users, capabilities};
use vhashify_sys::idmap;

use super::checks::Checked;
use crate::context::{spec, sysctl};

/// Whether the guest has users of its own. Warns where it would have by default and cannot.
pub fn has_own(settings: &GuestSettings, checked: &Checked, context: u32) -> bool {
    match settings.users {
        Users::Own => true,
        Users::Host => false,
        Users::OwnIfPossible => match obstacle(settings, checked, context) {
            None => true,
            Some(why) => {
                tracing::warn!(
                    "{}: its users are users of the host, and its root is the host's: {why}; mend that, or write host into {} to \
                     accept it",
                    settings.name,
                    settings.directory.join("spaces/user").display()
                );
                false
            }
        },
    }
}

/// Why it cannot have them.
fn obstacle(settings: &GuestSettings, checked: &Checked, context: u32) -> Option<String> {
    if settings.shares_network {
        return Some("it shares the host's network".to_owned());
    }
    if !settings.resources.devices.is_empty() {
        return Some("vdevmap gives it devices of the host".to_owned());
    }
    // The host's numbers of users would be shown there.
    let mounted = settings.fstab.iter().find(|entry| entry.kind != "tmpfs");
    if let Some(entry) = mounted {
        return Some(format!("fstab mounts {} in it", entry.target.display()));
    }
    // The kernel asks for the power over them in the guest's own user namespace.
    let mut parameters = settings.resources.sysctls.iter();
    let is_set = |name: &str| !name.starts_with("net.") && sysctl::fault(name, false).is_none();
    if let Some((name, _)) = parameters.find(|(name, _)| is_set(name)) {
        return Some(format!("sysctl sets {name}"));
    }
    let more = capabilities::over_the_host(checked.capabilities);
    if let Some(name) = capabilities::names(more).first() {
        return Some(format!("bcapabilities gives it {name}"));
    }
    let first = spec::first_user(context);
    let error = idmap::attempt(&settings.vdir, first, spec::USERS).err()?;
    Some(match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            "its filesystem, or one that is mounted in it, cannot show files under other numbers with this kernel".to_owned()
        }
        _ => format!(
            "other numbers of users cannot be had: {}",
            vhashify_sys::call_error::reason(&error)
        ),
    })
}
