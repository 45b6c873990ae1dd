//! Files that consist of numbers, parsed by `procfs-core`.

use std::fmt::Display;
use std::fs;
use std::io;

use procfs_core::process::Stat as AllOfStat;
use procfs_core::{FromRead, ProcessCGroups};

pub use procfs_core::process::{Limit, LimitValue, Limits};

use super::{path, read};

/// What `/proc/PID/stat` says of a process, as far as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `Z` for a zombie, `X` for a dead one; see `proc_pid_stat(5)` for others.
    pub state: char,
    /// The leader of its session.
    pub session: i32,
    /// When it began, in ticks since the boot.
    pub began: u64,
    /// Whether it is a thread of the kernel's own (`PF_KTHREAD`, include/linux/sched.h).
    pub is_of_kernel: bool,
}

/// `/proc/PID/stat`.
///
/// # Errors
/// What `open(2)` and `read(2)` list; another where the kernel has written something else.
pub fn stat(process: impl Display) -> io::Result<Stat> {
    parse_stat(&read(process, "stat")?)
}

const PF_KTHREAD: u32 = 0x0020_0000;

fn parse_stat(text: &str) -> io::Result<Stat> {
    let all = AllOfStat::from_read(text.as_bytes())
        .map_err(|_| io::Error::other("it has no field 22"))?;
    Ok(Stat {
        state: all.state,
        session: all.session,
        began: all.starttime,
        is_of_kernel: all.flags & PF_KTHREAD != 0,
    })
}

/// `/proc/PID/limits`.
///
/// # Errors
/// What `open(2)` and `read(2)` list; another where a limit is missing.
pub fn limits(process: impl Display) -> io::Result<Limits> {
    let text = read(process, "limits")?;
    Limits::from_read(text.as_bytes()).map_err(io::Error::other)
}

/// The path of this process's cgroup below the hierarchy of version 2, without a leading `/`; `None` where version 2
/// is not in use.
///
/// # Errors
/// What `open(2)` and `read(2)` list.
pub fn own_cgroup() -> io::Result<Option<String>> {
    let text = fs::read_to_string(path("self", "cgroup"))?;
    let groups = ProcessCGroups::from_read(text.as_bytes()).map_err(io::Error::other)?;
    let unified = groups.0.into_iter().find(|group| group.hierarchy == 0);
    Ok(unified.and_then(|group| group.pathname.strip_prefix('/').map(str::to_owned)))
}

/// What distinguishes this boot from every other; empty where the kernel does not say.
#[must_use]
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{LimitValue, boot_id, limits, own_cgroup, parse_stat, stat};

    #[test]
    fn the_name_of_a_program_does_not_shift_the_fields() {
        let fields = "S 1 7 8 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1 2 18446744073709551615 1 1 0 0 0 0 0 0 0 0 \
                      0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        for name in ["sh", "a) b (c", ") Z 1 1 1", "", " ", "\u{fffd}"] {
            let found = parse_stat(&format!("7 ({name}) {fields}")).unwrap();
            assert_eq!((found.state, found.session, found.began), ('S', 8, 4321));
        }
        assert!(parse_stat("7 (a) S 1").is_err());
    }

    #[test]
    fn a_process_may_have_a_name_that_is_no_utf_8() {
        let own = rustix::thread::gettid().as_raw_nonzero();
        fs::write(format!("/proc/self/task/{own}/comm"), b"\xff) Z (\n").unwrap();
        let found = stat(own).unwrap();
        assert!(matches!(found.state, 'R' | 'S'), "{found:?}");
        assert!(super::super::status(own).unwrap().number::<i32>("Pid") == Some(own.get()));
    }

    #[test]
    fn this_process_has_limits_a_cgroup_and_a_boot() {
        let open_files = limits("self").unwrap().max_open_files;
        assert!(matches!(open_files.soft_limit, LimitValue::Value(1..)));
        assert!(own_cgroup().is_ok());
        assert!(!boot_id().is_empty());
    }
}
