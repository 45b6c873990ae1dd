//! Stops a guest by its own command, then by signals, then by SIGKILL, and waits until nothing of it is left.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vhashify_config::{GuestSettings, KillStep, Style};
use vhashify_sys::pidfd::Process;
use vhashify_sys::procfs::{self, Fields};

use super::error::Doing;
use super::observe::{GuestState, mend, mend_running};
use super::state::{Lock, StateDirectory};
use super::{LifecycleError, hooks, reboot, sealed};
use crate::context::cgroup;

/// How long `cmd.stop` may take.
const STOP_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the kernel may take to end init after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the start of a guest that rebooted itself may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Stops the guest. When this returns, no process, mount or cgroup of it is left. One that has rebooted itself and waits to be
/// started again stays down.
///
/// # Errors
/// It does not run, or does not end even by SIGKILL.
pub fn stop(settings: &GuestSettings, state: &StateDirectory) -> Result<(), LifecycleError> {
    let _lock = lock(state)?;
    let stopped = stop_running(settings, state);
    // It may have rebooted itself in this very moment; whoever tidied up has noted that before.
    match (stopped, reboot::forget(state)) {
        (Err(LifecycleError::NotRunning { .. }), true) => Ok(()),
        (stopped, _) => stopped,
    }
}

fn stop_running(settings: &GuestSettings, state: &StateDirectory) -> Result<(), LifecycleError> {
    mend_running(state)?;
    // A failed hook does not keep the guest running; the first failure is reported.
    let mut hooks_ran = Ok(());
    for stage in ["prepre-stop", "pre-stop"] {
        hooks_ran = hooks_ran.and(hooks::run(settings, stage));
    }
    end(settings, state)?;
    for stage in ["post-stop", "postpost-stop"] {
        hooks_ran = hooks_ran.and(hooks::run(settings, stage));
    }
    hooks_ran
}

/// Takes the lock, and waits for it where a guest that rebooted itself is being started again.
fn lock(state: &StateDirectory) -> Result<Lock, LifecycleError> {
    let begun = Instant::now();
    loop {
        match state.lock() {
            Err(LifecycleError::Busy { .. })
                if reboot::may_be_starting(state) && begun.elapsed() < START_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            locked => return locked,
        }
    }
}

/// Stops it without hooks. The caller holds the lock.
pub(super) fn end(settings: &GuestSettings, state: &StateDirectory) -> Result<(), LifecycleError> {
    let (running, init) = mend_running(state)?;
    // Tells the monitor not to start the guest again if it ends by reboot(2) meanwhile.
    let marker = state.at("stopping");
    fs::write(&marker, b"").doing("write", &marker)?;
    let stopped = until_nothing_is_left(settings, state, running.context, init);
    drop(fs::remove_file(&marker));
    stopped
}

fn until_nothing_is_left(
    settings: &GuestSettings,
    state: &StateDirectory,
    context: u32,
    init: Process,
) -> Result<(), LifecycleError> {
    if let Some(command) = &settings.init.stop {
        run_inside(settings, state, command);
    }
    let default = default_sequence(settings.init.style);
    for step in settings.init.kill_sequence.as_ref().unwrap_or(&default) {
        let spares_init = settings.init.style == Style::Sysv;
        if signal_guest(context, init, step.signal, spares_init)
            && init.wait(Duration::from_secs(step.seconds))
        {
            break;
        }
    }
    init.signal(libc::SIGKILL);
    let name = || settings.name.clone();
    if !init.wait(KILL_TIMEOUT) {
        return Err(LifecycleError::DoesNotEnd { name: name() });
    }
    match mend(state)? {
        GuestState::Stopped(_) => Ok(()),
        _ => Err(LifecycleError::DoesNotEnd { name: name() }),
    }
}

/// The signals for a guest without `killseq`. systemd halts by SIGRTMIN+3, other inits by SIGTERM or SIGINT
/// (control-alt-delete).
fn default_sequence(style: Style) -> Vec<KillStep> {
    let step = |signal, seconds| KillStep { signal, seconds };
    match style {
        Style::Sysv => vec![step(libc::SIGTERM, 10)],
        Style::Plain | Style::Systemd | Style::Minit => vec![
            step(libc::SIGRTMIN() + 3, 90),
            step(libc::SIGTERM, 10),
            step(libc::SIGINT, 10),
        ],
    }
}

/// Sends a signal to the guest's init, or to all other processes where init is only a reaper. False when no process
/// would notice it, so that waiting would be in vain.
fn signal_guest(context: u32, init: Process, signal: i32, spares_init: bool) -> bool {
    let mut is_noticed = false;
    if !spares_init {
        is_noticed = would_notice(init.pid, signal, true);
        init.signal(signal);
        return is_noticed;
    }
    for pid in cgroup::processes(context) {
        let Some(process) = Process::find(pid).filter(|found| *found != init) else {
            continue;
        };
        is_noticed |= would_notice(pid, signal, false);
        process.signal(signal);
    }
    is_noticed
}

/// Whether a process would notice a signal: it has a handler, reads the signal, or would end by it.
fn would_notice(pid: i32, signal: i32, is_init: bool) -> bool {
    let now = || {
        let status = procfs::status(pid);
        status.map_or(Disposition::Ignored, |status| {
            disposition(&status, signal, is_init)
        })
    };
    // A shell blocks all signals only while it starts a program. systemd blocks its signals for good, and reads them.
    let mut reads = (0..BLOCKED_READS).map(|number| {
        if number > 0 {
            std::thread::sleep(BLOCKED_READ_INTERVAL);
        }
        now()
    });
    let last = reads.find(|read| *read != Disposition::Blocked);
    last.unwrap_or(Disposition::Noticed) == Disposition::Noticed
}

/// How often the disposition of a blocked signal is read again before it counts as noticed.
const BLOCKED_READS: u32 = 10;
const BLOCKED_READ_INTERVAL: Duration = Duration::from_millis(10);

/// What a process does with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disposition {
    Noticed,
    Ignored,
    Blocked,
}

/// Reads it from `/proc/PID/status`. The kernel gives process 1 of a guest no signal that it has no handler for.
fn disposition(status: &Fields, signal: i32, is_init: bool) -> Disposition {
    let bit = u32::try_from(signal - 1)
        .ok()
        .and_then(|shift| 1u64.checked_shl(shift))
        .unwrap_or(0);
    let has = |name: &str| status.mask(name).unwrap_or(0) & bit != 0;
    match is_init {
        true if has("SigCgt") => Disposition::Noticed,
        true if has("SigBlk") => Disposition::Blocked,
        false if !has("SigIgn") => Disposition::Noticed,
        _ => Disposition::Ignored,
    }
}

/// Runs `cmd.stop`. If it fails or takes too long, signals stop the guest.
fn run_inside(settings: &GuestSettings, state: &StateDirectory, command: &[String]) {
    let mut child = Command::new(sealed::program_on_disk());
    child
        .arg("--silent")
        .arg("--config-dir")
        .arg(settings.directory.parent().unwrap_or(&settings.directory))
        .arg("--state-dir")
        .arg(state.top())
        .args([state.name(), "exec", "--"])
        .args(command)
        .stdin(Stdio::null());
    let Ok(mut child) = child.spawn() else {
        return;
    };
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return,
            Ok(Some(status)) => {
                tracing::warn!("{}: cmd.stop ended with {status}", settings.name);
                return;
            }
            Ok(None) if begun.elapsed() < STOP_COMMAND_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => {
                tracing::warn!("{}: cmd.stop took too long", settings.name);
                drop(child.kill());
                drop(child.wait());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Disposition, Fields, disposition};

    #[test]
    fn an_init_notices_what_it_handles_and_others_what_they_do_not_ignore() {
        let status = "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n\
                      SigCgt:\t0000000000004000\n";
        let status = Fields::from(status.to_owned());
        assert_eq!(disposition(&status, 15, true), Disposition::Noticed);
        assert_eq!(disposition(&status, 1, true), Disposition::Blocked);
        assert_eq!(disposition(&status, 2, true), Disposition::Ignored);
        assert_eq!(disposition(&status, 2, false), Disposition::Noticed);
        assert_eq!(disposition(&status, 13, false), Disposition::Ignored);
    }
}
