//! Which system calls of a guest wait for its broker: those that can change a shared inode, as far as
//! their arguments tell.
//!
//! | calls | which of them |
//! | --- | --- |
//! | `open`, `openat` | for writing or with `O_TRUNC`, but for `O_CREAT` with `O_EXCL`: nothing can be there |
//! | `creat`, `openat2`, `truncate` | all |
//! | `chmod`, `chown`, `utimes`, `setxattr`, `removexattr` families | all |
//! | `link`, `linkat` | all: the broker has to know of new names of an object |
//! | `flock` | all |
//! | `fcntl` | that set locks or a hint |
//! | `inotify_add_watch`, `fanotify_mark` | all: a watch of a shared file would see what other guests do |
//! | `ioctl` | that set inode flags, project, generation or fs-verity |
//!
//! Reading costs nothing. A call on a descriptor that is open for writing (`write`, `ftruncate`,
//! `fallocate`, a shared mapping) need not wait: the open has.
//!
//! Calls that the host's libseccomp does not know by name (`fchmodat2` before 2.5.5; `setxattrat`,
//! `file_setattr`) cannot be made to wait: they fail with `ENOSYS` ([`filter`](super::filter)). A container of another
//! runtime has its filter from that one, which has no such means; there the guard refuses them.
//!
//! One table, written in three ways: for a guest of `vserver` ([`add`]), for a container of any OCI runtime
//! ([`oci_profile`]), and for one of LXC ([`lxc_profile`]). A guest of `vserver` has a filter that denies more besides
//! ([`seccomp`](super::seccomp)); the profiles of others deny what the broker cannot see ([`UNSEEN`]).

use rustix::io::Errno;
use serde_json::{Value, json};
use vhashify::broker::commands::{DELEGATION, HINT, LEASE, LOCKS, LOCKS_OF_OPEN_FILES, REQUESTS};

const ALWAYS: &[&str] = &[
    "creat",
    "openat2",
    "truncate",
    "truncate64",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "chown32",
    "fchown",
    "fchown32",
    "lchown",
    "lchown32",
    "fchownat",
    "utime",
    "utimes",
    "futimesat",
    "utimensat",
    "utimensat_time64",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "setxattrat",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "removexattrat",
    "file_setattr",
    "link",
    "linkat",
    "flock",
    "inotify_add_watch",
    "fanotify_mark",
];

/// Calls by which a container would open or change a shared file without one of those that wait: they fail with EPERM.
pub const UNSEEN: &[&str] = &[
    "acct",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "open_by_handle_at",
    "open_tree_attr",
    "swapon",
];

/// Calls that wait, all of them or those that have an argument.
struct Rule {
    names: &'static [&'static str],
    only: Option<Masked>,
}

/// An argument of which these bits are these: its low half, which is all that the kernel takes of it.
#[derive(Clone, Copy)]
struct Masked {
    argument: u32,
    mask: u32,
    value: u32,
}

fn rules() -> Vec<Rule> {
    let mut rules = vec![Rule {
        names: ALWAYS,
        only: None,
    }];
    let mut add = |names: &'static [&'static str], argument, mask, value| {
        rules.push(Rule {
            names,
            only: Some(Masked {
                argument,
                mask,
                value,
            }),
        });
    };
    for (call, argument) in [(&["open"], 1), (&["openat"], 2)] {
        for (mask, value) in conditions_of_open() {
            add(call, argument, mask, value);
        }
    }
    for command in LOCKS.into_iter().chain(LOCKS_OF_OPEN_FILES).chain([HINT]) {
        add(&["fcntl", "fcntl64"], 1, u32::MAX, command);
    }
    for request in REQUESTS {
        add(&["ioctl"], 1, u32::MAX, request);
    }
    rules
}

/// The names of all calls that wait.
#[cfg(test)]
pub(crate) fn waiting_calls() -> impl Iterator<Item = &'static str> {
    rules()
        .into_iter()
        .flat_map(|rule| rule.names.iter().copied())
}

/// Masks of the flags and what must be left: any of these.
fn conditions_of_open() -> Vec<(u32, u32)> {
    const MODE: u32 = 0o3;
    const CREATE: u32 = 0o100;
    const EXCLUSIVE: u32 = 0o200;
    const TRUNCATE: u32 = 0o1000;
    let mut conditions = vec![(TRUNCATE, TRUNCATE)];
    for mode in 1..=MODE {
        conditions.push((MODE | EXCLUSIVE, mode));
        // Without O_CREAT it means nothing.
        conditions.push((MODE | EXCLUSIVE | CREATE, mode | EXCLUSIVE));
    }
    conditions
}

/// Adds to a specification for `libcontainer` that these calls wait, and where their listener is handed
/// over.
pub fn add(spec: &mut Value, socket: &str) {
    let seccomp = &mut spec["linux"]["seccomp"];
    if let Some(listed) = seccomp["syscalls"].as_array_mut() {
        // It takes the mask from the second value.
        listed.extend(rules().iter().map(|rule| {
            let only = rule.only.map(|only| {
                json!({ "index": only.argument, "value": only.value, "valueTwo": only.mask,
                        "op": "SCMP_CMP_MASKED_EQ" })
            });
            waits(rule.names, only)
        }));
    }
    seccomp["listenerPath"] = json!(socket);
    if can_wait_killably() {
        seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    }
}

/// Whether a caller can be made to wait so that only its death ends that (Linux 5.19, libseccomp 2.6).
/// Without it any signal does, and the call is made again.
fn can_wait_killably() -> bool {
    const LEVEL: u32 = 7;
    libseccomp::get_api() >= LEVEL
}

/// The `linux.seccomp` of a container: these calls wait for the broker at `socket`, and those that it cannot see are denied.
///
/// Runtimes differ in which value of `SCMP_CMP_MASKED_EQ` is the mask: for runc and crun it is the first
/// one, for youki the second. So both are the same here, the bits that must be set. This lets more calls
/// wait than need to (those with `O_CREAT` and `O_EXCL`), and never fewer. `SCMP_CMP_EQ` compares the high half of
/// an argument, too, which the kernel drops: calls that have one wait, whatever is in the low half.
#[must_use]
pub fn oci_profile(socket: &str) -> Value {
    let rules = rules();
    let mut listed: Vec<Value> = rules
        .iter()
        .filter(|rule| !rules.iter().any(|other| covers(other, rule)))
        .map(|rule| waits(rule.names, rule.only.map(portable)))
        .collect();
    let commands = [LEASE.0, DELEGATION.0];
    for command in commands {
        let is_it = json!({ "index": 1, "value": command, "op": "SCMP_CMP_EQ" });
        listed.push(waits(&["fcntl", "fcntl64"], Some(is_it)));
    }
    let is_wide = json!({ "index": 1, "value": u32::MAX, "op": "SCMP_CMP_GT" });
    listed.push(waits(&["fcntl", "fcntl64", "ioctl"], Some(is_wide)));
    listed.push(json!({ "names": UNSEEN, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM }));
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": super::seccomp::ARCHITECTURES,
        "listenerPath": socket,
        "syscalls": listed,
    })
}

/// The seccomp profile of a container of LXC: it denies what LXC's own `common.seccomp` does and what the broker cannot
/// see, and these calls wait. In the form of `lxc.container.conf(5)`, *seccomp configuration*, version 2.
#[must_use]
pub fn lxc_profile() -> String {
    /// A container of LXC has one profile: this one takes the place of LXC's own.
    const HEAD: &str = "2\n\
        denylist\n\
        reject_force_umount\n\
        [all]\n\
        kexec_load errno 1\n\
        init_module errno 1\n\
        finit_module errno 1\n\
        delete_module errno 1\n";
    let unseen = UNSEEN.iter().map(|name| format!("{name} errno 1\n"));
    let command = |(command, errno): (u32, Errno)| {
        let errno = errno.raw_os_error();
        let only = format!("[1,{command:#x},SCMP_CMP_MASKED_EQ,0xffffffff]");
        ["fcntl", "fcntl64"].map(|name| format!("{name} errno {errno} {only}\n"))
    };
    let commands = [LEASE, DELEGATION].into_iter().flat_map(command);
    let lines = rules().into_iter().flat_map(|rule| {
        let only = rule.only.map_or(String::new(), |only| {
            let Masked {
                argument,
                mask,
                value,
            } = only;
            format!(" [{argument},{value:#x},SCMP_CMP_MASKED_EQ,{mask:#x}]")
        });
        let names = rule.names.iter();
        names.map(move |name| format!("{name} notify{only}\n"))
    });
    std::iter::once(HEAD.to_owned())
        .chain(unseen)
        .chain(commands)
        .chain(lines)
        .collect()
}

fn portable(only: Masked) -> Value {
    match only.mask {
        u32::MAX => json!({ "index": only.argument, "value": only.value, "op": "SCMP_CMP_EQ" }),
        _ => json!({ "index": only.argument, "value": only.value, "valueTwo": only.value,
                     "op": "SCMP_CMP_MASKED_EQ" }),
    }
}

/// Whether `other` asks for fewer of the same bits than `rule`, both as [`portable`] writes them.
fn covers(other: &Rule, rule: &Rule) -> bool {
    let (Some(fewer), Some(more)) = (other.only, rule.only) else {
        return false;
    };
    other.names == rule.names
        && fewer.mask != u32::MAX
        && fewer.value != more.value
        && fewer.value & more.value == fewer.value
}

fn waits(names: &[&str], only: Option<Value>) -> Value {
    let arguments: Vec<Value> = only.into_iter().collect();
    json!({ "names": names, "action": "SCMP_ACT_NOTIFY", "args": arguments })
}

#[cfg(test)]
mod tests {
    use super::{conditions_of_open, lxc_profile, oci_profile, rules};
    use vhashify::broker::call::{Target, open_target};

    #[test]
    fn every_open_that_the_broker_is_asked_about_waits() {
        for flags in 0..0o2000_u32 {
            let waits = conditions_of_open()
                .iter()
                .any(|&(mask, value)| flags & mask == value);
            let is_asked = open_target(flags.into(), 0, 0) != Target::Nothing;
            assert!(waits || !is_asked, "{flags:o}");
            let mode = flags & 3;
            if mode == 0 && flags & 0o1000 == 0 {
                assert!(!waits, "a read: {flags:o}");
            }
        }
    }

    #[test]
    fn an_lxc_profile_has_each_rule_on_a_line() {
        let profile = lxc_profile();
        assert!(profile.starts_with("2\ndenylist\n"));
        let count: usize = rules().iter().map(|rule| rule.names.len()).sum();
        let waiting: Vec<&str> = profile
            .lines()
            .filter(|line| line.contains(" notify"))
            .collect();
        assert_eq!(waiting.len(), count);
        assert!(waiting.contains(&"linkat notify"));
        for denied in ["io_uring_setup errno 1", "open_by_handle_at errno 1"] {
            assert!(profile.lines().any(|line| line == denied), "{denied}");
        }
        let lease = "fcntl errno 13 [1,0x400,SCMP_CMP_MASKED_EQ,0xffffffff]";
        assert!(profile.lines().any(|line| line == lease));
        assert!(waiting.contains(&"openat notify [2,0x1,SCMP_CMP_MASKED_EQ,0x83]"));
        assert!(waiting.contains(&"fcntl notify [1,0x25,SCMP_CMP_MASKED_EQ,0xffffffff]"));
    }

    /// Whether a call with this argument waits by the profile, for a runtime that has the mask first, or
    /// second.
    fn waits(profile: &serde_json::Value, call: &str, index: u64, given: u64, first: bool) -> bool {
        let listed = profile["syscalls"].as_array().unwrap();
        listed.iter().any(|rule| {
            let is_named = rule["names"]
                .as_array()
                .unwrap()
                .iter()
                .any(|name| name == call);
            is_named
                && rule["action"] == "SCMP_ACT_NOTIFY"
                && rule["args"].as_array().unwrap().iter().all(|condition| {
                    let value = condition["value"].as_u64().unwrap();
                    assert_eq!(condition["index"], index);
                    if condition["op"] == "SCMP_CMP_GT" {
                        return given > value;
                    }
                    if condition["op"] == "SCMP_CMP_EQ" {
                        return given == value;
                    }
                    let two = condition["valueTwo"].as_u64().unwrap();
                    let (mask, wanted) = if first { (value, two) } else { (two, value) };
                    given & mask == wanted
                })
        })
    }

    #[test]
    fn an_oci_profile_means_the_same_to_every_runtime_and_misses_no_call() {
        let profile = oci_profile("/run/x");
        assert_eq!(profile["listenerPath"], "/run/x");
        for first in [true, false] {
            for flags in 0..0o2000_u32 {
                let needs = conditions_of_open()
                    .iter()
                    .any(|&(mask, value)| flags & mask == value);
                for (call, index) in [("open", 1), ("openat", 2)] {
                    let has = waits(&profile, call, index, flags.into(), first);
                    assert!(has || !needs, "{call} {flags:o}");
                    if flags & 0o1003 == 0 {
                        assert!(!has, "a read: {flags:o}");
                    }
                }
            }
            for rule in rules() {
                for name in rule.names {
                    let (index, given) =
                        rule.only.map_or((0, 0), |only| (only.argument, only.value));
                    let has = waits(&profile, name, index.into(), given.into(), first);
                    assert!(has, "{name} {given:x}");
                }
            }
            assert!(!waits(&profile, "fcntl", 1, 1030, first));
            // F_SETLK, FS_IOC_SETFLAGS, F_SETLEASE, with what the kernel drops.
            for (call, given) in [("fcntl", 6), ("ioctl", 0x4008_6602), ("fcntl", 1024)] {
                assert!(waits(&profile, call, 1, 1 << 32 | given, first), "{call}");
            }
            assert!(!waits(&profile, "ioctl", 1, 0x5413, first));
        }
    }
}
