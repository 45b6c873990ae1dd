//! Which capabilities a guest's root has: util-vserver's safe set, and what `bcapabilities` says.
//!
//! util-vserver's set had `CAP_DAC_READ_SEARCH`, which here would open any file of the guest's
//! filesystem by its handle (`open_by_handle_at`), those of other guests among them. It is left out;
//! `CAP_DAC_OVERRIDE` reads every file of the guest.

use rustix::thread::CapabilitySet;

/// A capability and its name.
type Named = (&'static str, CapabilitySet);

/// Every capability, by number.
const ALL: [Named; 41] = [
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    ("CAP_FSETID", CapabilitySet::FSETID),
    ("CAP_KILL", CapabilitySet::KILL),
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_SETUID", CapabilitySet::SETUID),
    ("CAP_SETPCAP", CapabilitySet::SETPCAP),
    ("CAP_LINUX_IMMUTABLE", CapabilitySet::LINUX_IMMUTABLE),
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
    ("CAP_NET_BROADCAST", CapabilitySet::NET_BROADCAST),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ("CAP_IPC_LOCK", CapabilitySet::IPC_LOCK),
    ("CAP_IPC_OWNER", CapabilitySet::IPC_OWNER),
    ("CAP_SYS_MODULE", CapabilitySet::SYS_MODULE),
    ("CAP_SYS_RAWIO", CapabilitySet::SYS_RAWIO),
    ("CAP_SYS_CHROOT", CapabilitySet::SYS_CHROOT),
    ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE),
    ("CAP_SYS_PACCT", CapabilitySet::SYS_PACCT),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("CAP_SYS_BOOT", CapabilitySet::SYS_BOOT),
    ("CAP_SYS_NICE", CapabilitySet::SYS_NICE),
    ("CAP_SYS_RESOURCE", CapabilitySet::SYS_RESOURCE),
    ("CAP_SYS_TIME", CapabilitySet::SYS_TIME),
    ("CAP_SYS_TTY_CONFIG", CapabilitySet::SYS_TTY_CONFIG),
    ("CAP_MKNOD", CapabilitySet::MKNOD),
    ("CAP_LEASE", CapabilitySet::LEASE),
    ("CAP_AUDIT_WRITE", CapabilitySet::AUDIT_WRITE),
    ("CAP_AUDIT_CONTROL", CapabilitySet::AUDIT_CONTROL),
    ("CAP_SETFCAP", CapabilitySet::SETFCAP),
    ("CAP_MAC_OVERRIDE", CapabilitySet::MAC_OVERRIDE),
    ("CAP_MAC_ADMIN", CapabilitySet::MAC_ADMIN),
    ("CAP_SYSLOG", CapabilitySet::SYSLOG),
    ("CAP_WAKE_ALARM", CapabilitySet::WAKE_ALARM),
    ("CAP_BLOCK_SUSPEND", CapabilitySet::BLOCK_SUSPEND),
    ("CAP_AUDIT_READ", CapabilitySet::AUDIT_READ),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_CHECKPOINT_RESTORE", CapabilitySet::CHECKPOINT_RESTORE),
];

/// What a guest has without `bcapabilities`.
///
/// `CAP_SYS_BOOT` ends or restarts the guest alone, since it has a PID namespace of its own, and
/// `kexec` is denied by the filter of system calls. `CAP_SYS_PTRACE` reaches its own processes alone.
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::AUDIT_WRITE);

/// The set of a guest whose `bcapabilities` holds `words`. Gives the word that is no capability.
///
/// # Errors
/// That word.
pub fn of_guest(words: &[String]) -> Result<CapabilitySet, String> {
    let mut set = DEFAULT;
    for word in words {
        let (is_removed, name) = match word.strip_prefix(['~', '!', '-']) {
            Some(name) => (true, name),
            None => (false, word.as_str()),
        };
        let capability = find(name).ok_or_else(|| word.clone())?;
        if is_removed {
            set.remove(capability);
        } else {
            set.insert(capability);
        }
    }
    Ok(set)
}

/// The capability of that name, in either case, with or without `CAP_`.
#[must_use]
pub fn find(name: &str) -> Option<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let of_name = |(known, _): &&Named| known.strip_prefix("CAP_") == Some(short);
    ALL.iter().find(of_name).map(|(_, capability)| *capability)
}

/// The names of a set, as OCI has them.
#[must_use]
pub fn names(set: CapabilitySet) -> Vec<&'static str> {
    let of_set = |(name, capability): &Named| set.contains(*capability).then_some(*name);
    ALL.iter().filter_map(of_set).collect()
}

/// The set that has `names`, as [`names`] gave them.
#[must_use]
pub fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> CapabilitySet {
    let mut set = CapabilitySet::empty();
    for name in names {
        if let Some((_, capability)) = ALL.iter().find(|(known, _)| *known == name) {
            set.insert(*capability);
        }
    }
    set
}

/// Every capability that is known, one by one.
pub fn all() -> impl Iterator<Item = CapabilitySet> {
    ALL.into_iter().map(|(_, capability)| capability)
}

#[cfg(test)]
mod tests {
    use super::{CapabilitySet, DEFAULT, from_names, names, of_guest};

    #[test]
    fn nothing_by_default_reaches_the_host() {
        let forbidden = [
            "CAP_SYS_ADMIN",
            "CAP_SYS_MODULE",
            "CAP_SYS_RAWIO",
            "CAP_SYS_TIME",
            "CAP_MKNOD",
            "CAP_BPF",
            "CAP_PERFMON",
            "CAP_LINUX_IMMUTABLE",
            "CAP_DAC_READ_SEARCH",
            "CAP_SYSLOG",
            "CAP_NET_ADMIN",
            "CAP_LEASE",
        ];
        for name in forbidden {
            assert!(!names(DEFAULT).contains(&name), "{name}");
        }
    }

    #[test]
    fn words_add_and_remove() {
        let words = |list: &[&str]| {
            list.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let set = of_guest(&words(&["net_raw", "CAP_NET_ADMIN", "~chown"])).unwrap();
        assert!(set.contains(CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN));
        assert!(!set.contains(CapabilitySet::CHOWN));
        assert_eq!(of_guest(&words(&["fly"])), Err("fly".to_owned()));
        assert_eq!(from_names(names(set).into_iter()), set);
    }
}
