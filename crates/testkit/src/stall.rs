//! Stops one thread of another process again and again, as a host does that has more to do than processors: with a
//! virtual processor of QEMU it stops a guest's kernel in the middle of whatever it does.
#![allow(unsafe_code)] // ptrace(2) has no safe wrapper among the crates in use.

use std::fs;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The thread of QEMU that is the virtual processor of this number; QEMU needs `-name …,debug-threads=on`.
pub fn processor(qemu: u32, number: u32) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{qemu}/task")).ok()?;
    let mut tasks = tasks.flatten();
    let is_it = |name: &str| name.starts_with(&format!("CPU {number}/"));
    let task = tasks
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| is_it(&name)));
    task?.file_name().to_str()?.parse().ok()
}

/// Lets the thread run and stops it in turns, until `is_over` or it ends.
///
/// # Errors
/// It cannot be traced.
pub fn stall(thread: i32, runs: Duration, stops: Duration, is_over: &AtomicBool) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, thread, 0)?;
    while !is_over.load(Ordering::SeqCst) {
        // What stops it by itself are signals of its own.
        if has_stopped(thread, Instant::now() + runs)?.is_none() {
            return Ok(());
        }
        request(libc::PTRACE_INTERRUPT, thread, 0)?;
        match has_stopped(thread, Instant::now() + Duration::from_secs(1))? {
            None => return Ok(()),
            Some(true) => {
                std::thread::sleep(stops);
                request(libc::PTRACE_CONT, thread, 0)?;
            }
            Some(false) => {}
        }
    }
    request(libc::PTRACE_INTERRUPT, thread, 0)?;
    while has_stopped(thread, Instant::now() + Duration::from_secs(1))? == Some(false) {}
    request(libc::PTRACE_DETACH, thread, 0)
}

/// Whether it has stopped for us before `end`; its own signals are passed on. `None` where it is gone.
fn has_stopped(thread: i32, end: Instant) -> io::Result<Option<bool>> {
    loop {
        let mut status = 0;
        // SAFETY: the status lives, and nothing else is written.
        let who = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
        if who < 0 || (who == thread && !libc::WIFSTOPPED(status)) {
            return Ok(None);
        }
        if who == thread {
            if status >> 16 == libc::PTRACE_EVENT_STOP {
                return Ok(Some(true));
            }
            request(libc::PTRACE_CONT, thread, libc::WSTOPSIG(status))?;
        }
        if Instant::now() > end {
            return Ok(Some(false));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn request(request: libc::c_uint, thread: i32, signal: i32) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0) as *mut libc::c_void;
    // SAFETY: these requests read and write no memory of this process.
    let done = unsafe { libc::ptrace(request, thread, null_mut::<libc::c_void>(), signal) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
