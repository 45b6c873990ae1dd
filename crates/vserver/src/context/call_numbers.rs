//! Numbers of system calls by their names: from the tables of the host's libseccomp, which the filters use, too.

use libseccomp::{ScmpArch, ScmpSyscall};
use linux_raw_sys::general::{
    __NR_fchmodat2, __NR_file_setattr, __NR_open_tree_attr, __NR_removexattrat, __NR_setxattrat,
};
use vhashify::broker::call::{Architecture, CallTable};

/// The calls that a broker decodes.
#[must_use]
pub fn call_table() -> CallTable {
    CallTable::new(number)
}

fn number(name: &str, architecture: Architecture) -> Option<i32> {
    let architecture = match architecture {
        Architecture::X86_64 => ScmpArch::X8664,
        Architecture::X86 => ScmpArch::X86,
        Architecture::Aarch64 => ScmpArch::Aarch64,
    };
    let found = ScmpSyscall::from_name_by_arch(name, architecture).ok();
    found
        .map(ScmpSyscall::as_raw_syscall)
        .or_else(|| newer_than_libseccomp(name))
}

/// The newest call that this program knows. Newer ones are refused, until somebody has looked what they do to files.
pub const NEWEST: u32 = __NR_file_setattr;

/// How a call of a filter is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// libseccomp has its name, of one architecture at least.
    ByName,
    /// It has not; this is the number.
    ByNumber(u32),
    /// It is no call.
    Not,
}

/// How this program knows the call of that name.
#[must_use]
pub fn known(name: &str) -> Known {
    if ScmpSyscall::from_name(name).is_ok() {
        return Known::ByName;
    }
    newer_number(name).map_or(Known::Not, Known::ByNumber)
}

/// Calls that the host's libseccomp may be too old for: a runtime with a libseccomp of its own can have them wait all
/// the same. Since Linux 5.1 a call has one number on all architectures.
fn newer_than_libseccomp(name: &str) -> Option<i32> {
    i32::try_from(newer_number(name)?).ok()
}

fn newer_number(name: &str) -> Option<u32> {
    Some(match name {
        "fchmodat2" => __NR_fchmodat2,
        "setxattrat" => __NR_setxattrat,
        "removexattrat" => __NR_removexattrat,
        "open_tree_attr" => __NR_open_tree_attr,
        "file_setattr" => __NR_file_setattr,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use vhashify::broker::call::{Architecture, Target};
    use vhashify_sys::seccomp::Notification;

    use super::{Known, NEWEST, call_table, known, newer_number, number};
    use crate::context::notify::{oci_profile, waiting_calls};
    use crate::context::seccomp;

    #[test]
    fn every_name_in_a_filter_is_a_call() {
        let none = rustix::thread::CapabilitySet::empty();
        for filter in [seccomp::profile(none), oci_profile("/none")] {
            for rule in filter["syscalls"].as_array().unwrap() {
                for name in rule["names"].as_array().unwrap() {
                    let name = name.as_str().unwrap();
                    assert_ne!(known(name), Known::Not, "{name}");
                }
            }
        }
        assert_eq!(known("opne"), Known::Not);
        for name in ["setxattrat", "open_tree_attr", "file_setattr"] {
            assert!(newer_number(name).is_some_and(|number| number <= NEWEST));
        }
    }

    #[test]
    fn every_call_that_waits_is_decoded_on_every_architecture_that_has_it() {
        let table = call_table();
        for architecture in Architecture::ALL {
            let mut decoded = 0;
            for name in waiting_calls() {
                let Some(number) = number(name, architecture).filter(|number| *number >= 0) else {
                    continue;
                };
                let mut call = Notification::default();
                call.architecture = architecture.audit_number();
                call.number = number;
                assert_ne!(
                    table.decode(&call),
                    Target::Unknown,
                    "{architecture:?} {name}"
                );
                decoded += 1;
            }
            assert!(decoded > 15, "{architecture:?}: {decoded}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        use Architecture::{Aarch64, X86, X86_64};
        for (name, architecture, expected) in [
            ("open", X86_64, 2),
            ("open", X86, 5),
            ("openat", Aarch64, 56),
            ("fcntl64", X86, 221),
            ("utimensat_time64", X86, 412),
            ("openat2", Aarch64, 437),
            ("fchmodat2", X86_64, 452),
            ("setxattrat", X86, 463),
            ("file_setattr", X86_64, 469),
        ] {
            assert_eq!(number(name, architecture), Some(expected), "{name}");
        }
        for (name, architecture) in [("open", Aarch64), ("fcntl64", X86_64)] {
            assert!(number(name, architecture).is_none_or(|number| number < 0));
        }
    }
}
