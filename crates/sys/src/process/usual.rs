//! Takes back what a process inherits of its caller's, beside descriptors, signals and limits, and across exec: scheduling,
//! processors, memory nodes, timers, keys, the score of the OOM killer.

use std::fs;
use std::io;

use crate::last_error;

/// What `0` is for calls that take a process or a thread: this one.
const OWN: libc::c_long = 0;
/// Nanoseconds by which the kernel may delay a timer of an ordinary process, and of its first.
const TIMER_SLACK: libc::c_ulong = 50_000;
/// What the kernel writes into a core dump by default.
const COREDUMP_FILTER: &str = "0x33";
/// More processors than any kernel knows (`NR_CPUS` is 8,192 at most).
const PROCESSORS: usize = 16_384;

/// Gives this process what a process has that the kernel starts itself. A call that is refused, or that this kernel lacks,
/// leaves that one thing as it is: only a caller with less than root's capabilities sees that.
pub fn be_as_usual() {
    for undo in [
        ordinary_scheduling,
        all_processors,
        all_memory_nodes,
        ordinary_io_priority,
        timer_slack,
        huge_pages,
        io_flusher,
        secure_bits,
        own_session_keyring,
        || super::set_personality(0),
        || super::set_nice(0),
    ] {
        if let Err(error) = undo() {
            tracing::debug!(%error, "something of the caller's stays");
        }
    }
    for (file, value) in [
        ("/proc/self/oom_score_adj", "0"),
        ("/proc/self/coredump_filter", COREDUMP_FILTER),
    ] {
        if let Err(error) = fs::write(file, value) {
            tracing::debug!(%error, file, "this of the caller's stays");
        }
    }
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result >= 0 {
        Ok(())
    } else {
        Err(last_error().into())
    }
}

fn ordinary_scheduling() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `sched_setscheduler` reads a `sched_param` from the pointer, which is one to that.
    let set = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            OWN,
            libc::SCHED_OTHER,
            &raw const parameters,
        )
    };
    done(set)
}

/// The kernel keeps of these what the cgroup allows.
fn all_processors() -> io::Result<()> {
    let mask = [u8::MAX; PROCESSORS / 8];
    // SAFETY: `sched_setaffinity` reads so many bytes from the pointer, which is one to that.
    let set = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            OWN,
            size_of_val(&mask),
            mask.as_ptr(),
        )
    };
    done(set)
}

fn all_memory_nodes() -> io::Result<()> {
    const MPOL_DEFAULT: libc::c_long = 0;
    let none = std::ptr::null::<libc::c_ulong>();
    // SAFETY: `set_mempolicy` reads no node where the pointer is null.
    done(unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_DEFAULT, none, 0) })
}

/// None of its own: it follows the priority of the process.
fn ordinary_io_priority() -> io::Result<()> {
    super::set_io_priority(0, 0)
}

fn timer_slack() -> io::Result<()> {
    prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK)
}

fn huge_pages() -> io::Result<()> {
    prctl(libc::PR_SET_THP_DISABLE, 0)
}

fn io_flusher() -> io::Result<()> {
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    prctl(PR_SET_IO_FLUSHER, 0)
}

fn secure_bits() -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, 0)
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: each option that is named above takes one number, and zeros behind it.
    done(unsafe { libc::prctl(option, value, 0, 0, 0) }.into())
}

/// A new and empty one, in the place of the caller's with the keys in it.
fn own_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let unnamed = std::ptr::null::<libc::c_char>();
    // SAFETY: `keyctl` reads no name where the pointer is null.
    done(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, unnamed) })
}
