//! How a guest is: a look, which changes nothing, and mending what an untimely death left.
//!
//! ```text
//!                 init lives    init ended       no init yet
//! monitor lives   Running       Ending           Starting
//! monitor died    Unwatched     Abandoned        Abandoned       any of an earlier boot: Abandoned
//!                 └ respawn     └ tidy           └ tidy
//! ```
//!
//! [`mend`] repeats look and repair until the guest runs, is being started, or is stopped. Every command that
//! needs the guest's state asks for that: so a monitor that died has a successor from the next command on.

use std::time::{Duration, Instant};

use vhashify_config::running::{Ended, Running};
use vhashify_sys::pidfd::Process;

use super::LifecycleError;
use super::error::Doing;
use super::order::watch_command;
use super::sealed;
use super::state::{StateDirectory, now};
use super::tidy::{TIDYING, tidy};

/// The state of a guest of which nothing needs mending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestState {
    /// It does not run; how it ended, if it ever ran.
    Stopped(Option<Ended>),
    /// Its init is being made.
    Starting(Running),
    /// It runs.
    Running(Running, Process),
}

/// What a look shows.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    /// Nothing needs mending.
    Settled(GuestState),
    /// It runs, and its monitor died.
    Unwatched(Running, Process),
    /// Init has ended, and the monitor is tidying up.
    Ending(Running),
    /// Neither init nor a monitor is alive, and what they had is still there.
    Abandoned(Running),
}

/// The state of the guest, after mending: a monitor that died gets a successor, a guest that died with
/// its monitor is tidied away.
///
/// # Errors
/// The state cannot be read or mended.
pub fn mend(state: &StateDirectory) -> Result<GuestState, LifecycleError> {
    let begun = Instant::now();
    loop {
        match look(state)? {
            Sight::Settled(settled) => return Ok(settled),
            Sight::Unwatched(running, init) => {
                respawn_monitor(state, &running, init)?;
                return Ok(GuestState::Running(running, init));
            }
            Sight::Ending(_) if begun.elapsed() < TIDYING => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Sight::Ending(running) | Sight::Abandoned(running) => {
                tidy(state, &running, Ended::unseen(now()))?;
            }
        }
    }
}

/// The guest that must run, and its init, after mending.
///
/// # Errors
/// [`LifecycleError::NotRunning`], and as [`mend`].
pub fn mend_running(state: &StateDirectory) -> Result<(Running, Process), LifecycleError> {
    match mend(state)? {
        GuestState::Running(running, init) => Ok((running, init)),
        GuestState::Starting(_) | GuestState::Stopped(_) => Err(LifecycleError::NotRunning {
            name: state.name().to_owned(),
        }),
    }
}

/// What is true at this moment. Only reads.
fn look(state: &StateDirectory) -> Result<Sight, LifecycleError> {
    let Some(running) = state.running()? else {
        return Ok(Sight::Settled(GuestState::Stopped(state.ended()?)));
    };
    let is_of_this_boot = running.is_of_this_boot();
    let is_watched = is_of_this_boot && running.monitor.is_alive();
    let is_alive = |init: Process| is_of_this_boot && init.is_alive();
    Ok(classify(running, is_watched, is_alive))
}

/// The table above.
fn classify(running: Running, is_watched: bool, is_alive: impl Fn(Process) -> bool) -> Sight {
    match (running.init, is_watched) {
        (Some(init), true) if is_alive(init) => Sight::Settled(GuestState::Running(running, init)),
        (Some(init), false) if is_alive(init) => Sight::Unwatched(running, init),
        (None, true) => Sight::Settled(GuestState::Starting(running)),
        (Some(_), true) => Sight::Ending(running),
        (_, false) => Sight::Abandoned(running),
    }
}

/// Starts a watcher for a guest whose monitor died, unless another command starts or stops the guest at this
/// moment, or has mended it already.
fn respawn_monitor(
    state: &StateDirectory,
    running: &Running,
    init: Process,
) -> Result<(), LifecycleError> {
    let Ok(_lock) = state.lock() else {
        return Ok(());
    };
    if state.running().ok().flatten().as_ref() != Some(running) {
        return Ok(());
    }
    let program = sealed::origin();
    let mut command = watch_command(&program, state);
    vhashify_sys::process::in_own_session(&mut command, None);
    let child = command.spawn().doing("start the monitor", &program)?;
    let successor = i32::try_from(child.id()).ok().and_then(Process::find);
    state.write_running(&Running {
        monitor: successor.unwrap_or(running.monitor),
        init: Some(init),
        ..running.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::{GuestState, Process, Running, Sight, classify};

    #[test]
    fn a_guest_is_what_its_init_and_its_monitor_say_together() {
        let process = |pid| Process { pid, began: 7 };
        let guest = |init: Option<i32>| Running {
            context: 49152,
            init: init.map(process),
            monitor: process(2),
            broker: None,
            vdir: "/vservers/a".into(),
            since: 0,
            boot: "this".to_owned(),
            config_dir: "/etc/vservers".into(),
        };
        let (some, none) = (guest(Some(3)), guest(None));
        let runs = Sight::Settled(GuestState::Running(some.clone(), process(3)));
        let starts = Sight::Settled(GuestState::Starting(none.clone()));
        for (running, is_watched, is_alive, sight) in [
            (&some, true, true, runs),
            (
                &some,
                false,
                true,
                Sight::Unwatched(some.clone(), process(3)),
            ),
            (&some, true, false, Sight::Ending(some.clone())),
            (&some, false, false, Sight::Abandoned(some.clone())),
            (&none, true, false, starts),
            (&none, false, false, Sight::Abandoned(none.clone())),
        ] {
            assert_eq!(classify(running.clone(), is_watched, |_| is_alive), sight);
        }
    }
}
