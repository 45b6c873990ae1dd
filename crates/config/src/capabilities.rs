//! The capabilities of a guest's root: util-vserver's safe set, changed by `bcapabilities`.
//!
//! util-vserver's set had `CAP_DAC_READ_SEARCH`, which here would open any file of the guest's
//! filesystem by its handle (`open_by_handle_at`), those of other guests among them. It is left out;
//! `CAP_DAC_OVERRIDE` reads every file of the guest.

use std::str::FromStr;

use caps::Capability;
use rustix::thread::CapabilitySet;
use thiserror::Error;

/// The set of a guest without `bcapabilities`.
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

/// A word of `bcapabilities` that is no capability.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{word:?} is no capability; capabilities(7) lists them")]
pub struct UnknownCapability {
    /// The word, as it stands there.
    pub word: String,
}

/// The set of a guest whose `bcapabilities` holds `words`.
///
/// # Errors
/// The first word that is no capability.
pub fn of_guest(words: &[String]) -> Result<CapabilitySet, UnknownCapability> {
    let mut set = DEFAULT;
    for word in words {
        let (is_removed, name) = match word.strip_prefix(['~', '!', '-']) {
            Some(name) => (true, name),
            None => (false, word.as_str()),
        };
        let capability = find(name).ok_or_else(|| UnknownCapability { word: word.clone() })?;
        if is_removed {
            set.remove(capability);
        } else {
            set.insert(capability);
        }
    }
    Ok(set)
}

/// The capabilities that a guest has of its configuration alone, and that mean nothing, or less, to one with users of its own:
/// all but those over its own network.
#[must_use]
pub fn over_the_host(set: CapabilitySet) -> CapabilitySet {
    let own = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BROADCAST;
    set.difference(DEFAULT).difference(own)
}

/// The capability of that name, in either case, with or without `CAP_`.
#[must_use]
pub fn find(name: &str) -> Option<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(&format!("CAP_{short}"))
        .ok()
        .map(set_of)
}

/// The names of a set, as OCI has them, in the order of their numbers.
#[must_use]
pub fn names(set: CapabilitySet) -> Vec<String> {
    by_number()
        .into_iter()
        .filter(|capability| set.contains(set_of(*capability)))
        .map(|capability| capability.to_string())
        .collect()
}

/// The set that has `names`, as [`names()`] gave them. A name that is none is left out.
#[must_use]
pub fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> CapabilitySet {
    names
        .filter_map(|name| Capability::from_str(name).ok())
        .map(set_of)
        .collect()
}

/// Every capability that is known, one by one.
pub fn all() -> impl Iterator<Item = CapabilitySet> {
    by_number().into_iter().map(set_of)
}

fn by_number() -> Vec<Capability> {
    let mut all: Vec<Capability> = caps::all().into_iter().collect();
    all.sort_by_key(Capability::index);
    all
}

fn set_of(capability: Capability) -> CapabilitySet {
    CapabilitySet::from_bits_retain(capability.bitmask())
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
            assert!(!names(DEFAULT).iter().any(|had| had == name), "{name}");
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
        let unknown = of_guest(&words(&["fly"])).unwrap_err();
        assert_eq!(unknown.word, "fly");
        assert_eq!(from_names(names(set).iter().map(String::as_str)), set);
    }

    #[test]
    fn names_stand_in_the_order_of_their_numbers() {
        let all = names(CapabilitySet::all());
        assert_eq!(all.len(), super::all().count());
        assert_eq!(
            (all[0].as_str(), all[40].as_str()),
            ("CAP_CHOWN", "CAP_CHECKPOINT_RESTORE")
        );
    }
}
