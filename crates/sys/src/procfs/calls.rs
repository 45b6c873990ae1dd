//! Whether a thread may be in the middle of a system call that changes a file which it has found by a path.
//!
//! `/proc/PID/syscall` says in which call a thread sleeps (`proc_pid_syscall(5)`; `fs/proc/base.c`,
//! `lib/syscall.c`): three words of a thread that has left its program for another reason (a page fault), nine in a call,
//! the last two of them its stack and its program counter. Of a thread that is on a processor, or waits for one, it says
//! no more than `running`.

use rustix::io::Errno;

use super::{read, stat};

/// Whether the thread is certainly *not* in such a call, at an instant while this function runs, or holds the file's lock
/// there, so that who takes that afterwards finds the change. What cannot be told is false: one that runs, for example.
///
/// # Errors
/// As [`read`]; [`is_gone`](super::is_gone) recognises those of a thread that has gone.
pub fn changes_no_path(thread: i32) -> Result<bool, Errno> {
    match read(thread, "syscall") {
        Ok(text) if is_asleep_elsewhere(&text) => Ok(true),
        Ok(text) if text.starts_with("running") => {
            Ok(is_beyond_change(thread)? || has_lost_its_processor(thread))
        }
        Ok(text) => Ok(is_beyond_change(thread)? || waits_for_something_else(thread, &text)?),
        // A process that even the host's root may not look into. One that has found a file, and is held up before it
        // changes it, waits for a disk or a lock (`D`) or for a processor (`R`).
        Err(Errno::PERM | Errno::ACCESS) => Ok(state_of(thread)? == 'S'),
        Err(errno) => Err(errno),
    }
}

/// Whether the text of `/proc/PID/syscall` is that of a thread that sleeps, and in no call that leads from a path to a
/// change of what is there.
fn is_asleep_elsewhere(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse::<i64>().ok());
    let stack = words.rev().nth(1);
    let stack = stack.and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    match (number, stack) {
        // A thread of the kernel, or one of io_uring's, which has no call and opens files all the same.
        (None, _) | (_, None | Some(0)) => false,
        // Not in a call.
        (Some(-1), _) => true,
        (Some(number), Some(stack)) => harmless::contains(number, stack),
    }
}

/// Whether a thread that was asleep a moment ago waits where no call has found its file yet, or where a lease tells of it.
/// What the kernel says of its stack now is of that sleep, or of a later one.
fn waits_for_something_else(thread: i32, call: &str) -> Result<bool, Errno> {
    /// Where threads wait in a call that walks a path, but not for the file that it is about, or on their way back from
    /// the call: `fs/pipe.c`, `kernel/cgroup/freezer.c`, `kernel/signal.c`, `io_uring/`. `path_openat` itself waits for
    /// the lock of a directory alone, when it is about to look for the last name in it (`open_last_lookups`).
    const ELSEWHERE: [&str; 13] = [
        // For a broker, that answers before the call begins (`kernel/seccomp.c`).
        "seccomp_do_user_notification",
        "__seccomp_filter",
        // A writer by now.
        "__break_lease",
        "path_openat",
        "fifo_open",
        "wait_for_partner",
        "do_freezer_trap",
        "do_signal_stop",
        "ptrace_stop",
        "io_cqring_wait",
        "io_wq_worker",
        "io_wqe_worker",
        "io_sq_thread",
    ];
    /// Where they wait for a daemon that says who may open what (`fs/notify/fanotify/fanotify.c`).
    const FOR_PERMISSION: [&str; 2] = ["fanotify_handle_event", "fanotify_get_response"];

    let place = read(thread, "wchan")?;
    let place = function_of(&place);
    if ELSEWHERE.contains(&place) || FOR_PERMISSION.contains(&place) && counts_or_only_reads(call) {
        return Ok(true);
    }
    Ok(is_on_its_way(thread))
}

/// Whether a thread that waits for a processor was taken off it outside of such a call. Where the kernel keeps no stacks,
/// or those of another architecture, it is false.
///
/// The kernel shows no stack of a thread that is on a processor (`task_on_another_cpu`, `arch/x86/kernel/unwind_orc.c`):
/// so it is off it while that is read. When it runs again meanwhile, what is below in its stack stays until it has left
/// the call.
fn has_lost_its_processor(thread: i32) -> bool {
    cfg!(target_arch = "x86_64") && is_on_its_way(thread)
}

/// Whether a thread, by its stack, is on its way along a path or back to its program, or in the middle of a change: that is
/// over for who has taken the inode's lock since.
fn is_on_its_way(thread: i32) -> bool {
    /// On the way along a path: for a disk, for the server of another filesystem, for the lock of a directory
    /// (`fs/namei.c`). Of two paths the first may have ended already (`link(2)`): who then finds it displaced makes no name
    /// of it, since an inode without names gets none.
    const TO: [&str; 14] = [
        "link_path_walk",
        "walk_component",
        "lookup_slow",
        "__lookup_slow",
        "lookup_open",
        "open_last_lookups",
        "path_lookupat",
        "path_parentat",
        "filename_lookup",
        "filename_create",
        "__filename_parentat",
        "d_alloc_parallel",
        "__traverse_mounts",
        "follow_automount",
    ];
    /// On the way back (`kernel/entry/common.c`).
    const BACK: [&str; 5] = [
        "exit_to_user_mode_loop",
        "exit_to_user_mode_prepare",
        "syscall_exit_to_user_mode",
        "irqentry_exit_to_user_mode",
        "ret_from_fork",
    ];
    /// In a call that reads, writes, or copies what is open, or that gives way to others.
    const AMONG_BYTES: [&str; 7] = [
        "__do_sys_sched_yield",
        "do_sched_yield",
        "vfs_read",
        "vfs_write",
        "vfs_copy_file_range",
        "do_sendfile",
        "do_splice",
    ];
    /// In the middle of a change, under the inode's lock (`fs/attr.c`, `fs/xattr.c`, `fs/namei.c`).
    const UNDER_LOCK: [&str; 4] = [
        "notify_change",
        "__vfs_setxattr_locked",
        "__vfs_removexattr_locked",
        "vfs_link",
    ];
    /// How the names of the operations end by which a filesystem finds a name in a directory, or makes a file that nobody
    /// has found before (`struct inode_operations`, `struct dentry_operations`).
    const OF_A_DIRECTORY: [&str; 4] = ["_lookup", "_revalidate", "_atomic_open", "_create"];
    // `[<0>] name+0x12/0x34 [module]`; nothing where the kernel keeps no stacks.
    let stack = read(thread, "stack").unwrap_or_default();
    let functions = stack.lines().filter_map(|line| line.split(' ').nth(1));
    let is_elsewhere = |function: &str| {
        let lists = [TO.as_slice(), &BACK, &AMONG_BYTES, &UNDER_LOCK];
        lists.iter().any(|list| list.contains(&function))
            || OF_A_DIRECTORY.iter().any(|end| function.ends_with(end))
    };
    functions.map(function_of).any(is_elsewhere)
}

/// Whether a call opens a file either for writing, so that it counts as a writer by the time at which permission is
/// asked for (`do_dentry_open`, `fs/open.c`), or for reading without truncating it.
fn counts_or_only_reads(call: &str) -> bool {
    let truncates = flag_of(libc::O_TRUNC);
    open_flags(call).is_some_and(|flags| is_for_writing(flags) || flags & truncates == 0)
}

fn is_for_writing(flags: u64) -> bool {
    flags & flag_of(libc::O_WRONLY | libc::O_RDWR) != 0
}

fn flag_of(flags: i32) -> u64 {
    u64::try_from(flags).unwrap_or_default()
}

/// The flags of a call that opens a file.
fn open_flags(call: &str) -> Option<u64> {
    let mut words = call.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse::<i64>().ok());
    let flags = match number {
        Some(libc::SYS_openat) => words.nth(2),
        #[cfg(target_arch = "x86_64")]
        Some(libc::SYS_open) => words.nth(1),
        _ => None,
    };
    u64::from_str_radix(flags?.strip_prefix("0x")?, 16).ok()
}

/// Whether the thread never changes what it finds by a path, or ends, or has stopped on its way back to its program.
fn is_beyond_change(thread: i32) -> Result<bool, Errno> {
    let stat = stat(thread).map_err(|error| errno_of(&error))?;
    Ok(stat.is_of_kernel || stat.is_ending || matches!(stat.state, 'T' | 't'))
}

/// The name of a function without its offset, and without the suffix that compilers give to what they have cut.
fn function_of(place: &str) -> &str {
    place.split(['.', '+']).next().unwrap_or_default()
}

fn state_of(thread: i32) -> Result<char, Errno> {
    Ok(stat(thread).map_err(|error| errno_of(&error))?.state)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// System calls in which threads sleep, and which change no regular file by its path. A call that is not listed, or not
/// known yet, counts as one that does.
mod harmless {
    /// Those of this architecture (`syscalls(2)`). The numbers from 424 on are the same on all of them.
    const NATIVE: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_close,
        libc::SYS_pselect6,
        libc::SYS_ppoll,
        libc::SYS_epoll_pwait,
        libc::SYS_futex,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_wait4,
        libc::SYS_waitid,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_rt_sigsuspend,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_restart_syscall,
        libc::SYS_ioctl,
        libc::SYS_fcntl,
        libc::SYS_flock,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_sync_file_range,
        libc::SYS_splice,
        libc::SYS_sendfile,
        libc::SYS_copy_file_range,
        libc::SYS_fallocate,
        libc::SYS_ftruncate,
        libc::SYS_msync,
        libc::SYS_getdents64,
        libc::SYS_io_getevents,
        libc::SYS_msgrcv,
        libc::SYS_msgsnd,
        libc::SYS_semop,
        libc::SYS_semtimedop,
        libc::SYS_mq_timedreceive,
        libc::SYS_mq_timedsend,
        // By paths, and only to look, to execute, or to change names and mounts.
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_statfs,
        libc::SYS_faccessat,
        libc::SYS_readlinkat,
        libc::SYS_getxattr,
        libc::SYS_lgetxattr,
        libc::SYS_listxattr,
        libc::SYS_llistxattr,
        libc::SYS_chdir,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        // Makes a name, or finds that the inode has none left; under the inode's lock.
        libc::SYS_linkat,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_mount,
        libc::SYS_umount2,
        439, // faccessat2
        // Of descriptors, memory and processes.
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_madvise,
        libc::SYS_clone,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_sched_yield,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        435, // clone3
        441, // epoll_pwait2
        449, // futex_waitv
    ];

    /// Those that only older architectures have.
    #[cfg(target_arch = "x86_64")]
    const OLD: &[i64] = &[
        libc::SYS_poll,
        libc::SYS_select,
        libc::SYS_epoll_wait,
        libc::SYS_pause,
        libc::SYS_vfork,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_renameat,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: &[i64] = &[];

    /// Those of 32-bit programs (`arch/x86/entry/syscalls/syscall_32.tbl`). None of these numbers is that of a call which
    /// changes what a path leads to in 64-bit programs, or in those of 32-bit ARM.
    const OF_32_BIT: &[i64] = &[
        0, 3, 4, 6, 7, 29, 54, 114, 118, 142, 143, 145, 146, 148, 162, 168, 179, 180, 181, 190,
        240, 252, 256, 267, 308, 309, 319, 337, 413, 414, 417, 420, 421, 422,
    ];

    /// Whether a thread that sleeps in the call of this number is in none that changes a file by its path. A program of
    /// 32 bits numbers its calls otherwise, and has its `stack` below 4 GiB; one of 64 bits may have put it there, too.
    pub fn contains(number: i64, stack: u64) -> bool {
        if u32::try_from(stack).is_ok() {
            return OF_32_BIT.contains(&number);
        }
        NATIVE.contains(&number) || OLD.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::{changes_no_path, counts_or_only_reads, is_asleep_elsewhere, read};

    #[test]
    fn who_sleeps_in_a_call_that_changes_no_file_is_told_from_who_may_be_in_one() {
        let asleep = |nr: i64, stack: &str| {
            is_asleep_elsewhere(&format!(
                "{nr} 0x3 0x7f0000000000 0x1 0x0 0x0 0x0 {stack} 0x7f0000000010\n"
            ))
        };
        let stack = "0x7ffd00000000";
        assert!(asleep(libc::SYS_read, stack) && asleep(libc::SYS_futex, stack));
        assert!(is_asleep_elsewhere("-1 0x7ffd00000000 0x7f0000000010\n"));
        for changing in [
            libc::SYS_openat,
            libc::SYS_fchmodat,
            libc::SYS_setxattr,
            437,
            469,
            100_000,
        ] {
            assert!(!asleep(changing, stack), "{changing}");
        }
        assert!(!is_asleep_elsewhere("running\n") && !is_asleep_elsewhere(""));
        // A thread of io_uring's.
        assert!(!asleep(libc::SYS_read, "0x0"));
        // A program of 32 bits: 5 is its `open`, and `fstat` of others.
        assert!(!asleep(5, "0xffffd000") && asleep(3, "0xffffd000"));
    }

    #[test]
    fn who_waits_for_permission_counts_as_a_writer_or_changes_nothing() {
        let open = |flags: i32| {
            format!(
                "{} 0xffffff9c 0x7f00 {flags:#x} 0x0 0x0 0x0 0x7ffd00000000 0x7f0\n",
                libc::SYS_openat
            )
        };
        let waits = |flags| counts_or_only_reads(&open(flags));
        assert!(
            waits(libc::O_RDONLY) && waits(libc::O_WRONLY | libc::O_TRUNC) && waits(libc::O_RDWR)
        );
        assert!(!waits(libc::O_RDONLY | libc::O_TRUNC));
        assert!(!counts_or_only_reads(&format!(
            "{} 0x1 0x2 0x3 0x0 0x0 0x0 0x7ffd00000000 0x7f0",
            libc::SYS_fchmodat
        )));
    }

    fn told(child: &Child) -> bool {
        let thread = i32::try_from(child.id()).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !changes_no_path(thread).unwrap() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn who_waits_is_told_and_who_is_gone() {
        let mut waiting = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(told(&waiting));
        waiting.kill().unwrap();
        waiting.wait().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let mut opening = Command::new("cat").arg(&fifo).spawn().unwrap();
        let opens = || {
            let call = read(opening.id(), "syscall").unwrap();
            call.starts_with(&libc::SYS_openat.to_string())
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !opens() || !changes_no_path(i32::try_from(opening.id()).unwrap()).unwrap() {
            assert!(Instant::now() < end, "it opens, but a FIFO");
            std::thread::sleep(Duration::from_millis(1));
        }
        opening.kill().unwrap();
        opening.wait().unwrap();
        // One that runs is told now and then, when it has lost its processor.
        let mut running = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let thread = i32::try_from(running.id()).unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
        assert!(changes_no_path(thread).is_err());
    }
}
