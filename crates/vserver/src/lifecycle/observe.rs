//! Observes the state of a guest, which changes nothing, and mends what a killed monitor or init left.
//!
//! ```text
//!                 init lives    init ended       no init yet
//! monitor lives   Running       Ending           Starting
//! monitor died    Unwatched     Abandoned        Abandoned       any of an earlier boot: Abandoned
//!                 └ respawn     └ tidy           └ tidy
//! ```
//!
//! [`mend`] observes and repairs until the guest runs, is being started, or is stopped. Every command that needs
//! the guest's state calls it, so the next command gives a monitor that died a successor.

use std::time::{Duration, Instant};

use vhashify_config::running::{Ended, Running};
use vhashify_sys::pidfd::Process;

use super::LifecycleError;
use super::error::Doing;
use super::order::watch_command;
use super::sealed;
use super::state::{StateDirectory, now};
use super::tidy::{TIDY_TIMEOUT, tidy};

/// The state of a guest that needs no mending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestState {
    /// It does not run. Says how it ended, if that is known.
    Stopped(Option<Ended>),
    /// A monitor is making its init.
    Starting(Running),
    /// It runs, with this init.
    Running(Running, Process),
}

/// The state of a guest as found.
#[derive(Debug, PartialEq, Eq)]
enum Observation {
    /// Nothing needs mending.
    Settled(GuestState),
    /// It runs, and its monitor died.
    Unwatched(Running, Process),
    /// Init has ended, and the monitor is tidying up.
    Ending(Running),
    /// The monitor is dead, and init too or not yet made; nobody tidied up.
    Abandoned(Running),
}

/// Mends the guest and returns its state: a monitor that died gets a successor, and a guest whose monitor died
/// with it is tidied away.
///
/// # Errors
/// The state cannot be read or mended.
pub fn mend(state: &StateDirectory) -> Result<GuestState, LifecycleError> {
    let begun = Instant::now();
    loop {
        match observe(state)? {
            Observation::Settled(settled) => return Ok(settled),
            Observation::Unwatched(running, init) => {
                respawn_monitor(state, &running, init)?;
                return Ok(GuestState::Running(running, init));
            }
            Observation::Ending(_) if begun.elapsed() < TIDY_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Observation::Ending(running) | Observation::Abandoned(running) => {
                tidy(state, &running, Ended::unseen(now()))?;
            }
        }
    }
}

/// Mends a guest that must run, and returns it with its init.
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

/// The state at this moment. Only reads.
fn observe(state: &StateDirectory) -> Result<Observation, LifecycleError> {
    let Some(running) = state.running()? else {
        return Ok(Observation::Settled(GuestState::Stopped(state.ended()?)));
    };
    let is_of_this_boot = running.is_of_this_boot();
    let is_watched = is_of_this_boot && running.monitor.is_alive();
    let is_alive = |init: Process| is_of_this_boot && init.is_alive();
    Ok(classify(running, is_watched, is_alive))
}

/// The table above.
fn classify(running: Running, is_watched: bool, is_alive: impl Fn(Process) -> bool) -> Observation {
    match (running.init, is_watched) {
        (Some(init), true) if is_alive(init) => {
            Observation::Settled(GuestState::Running(running, init))
        }
        (Some(init), false) if is_alive(init) => Observation::Unwatched(running, init),
        (None, true) => Observation::Settled(GuestState::Starting(running)),
        (Some(_), true) => Observation::Ending(running),
        (_, false) => Observation::Abandoned(running),
    }
}

/// Starts a watcher for a guest whose monitor died. Does nothing if another command is starting or stopping the
/// guest, or has mended it.
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
    let program = sealed::program_on_disk();
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
    use super::{GuestState, Observation, Process, Running, classify};

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
        let runs = Observation::Settled(GuestState::Running(some.clone(), process(3)));
        let starts = Observation::Settled(GuestState::Starting(none.clone()));
        for (running, is_watched, is_alive, sight) in [
            (&some, true, true, runs),
            (
                &some,
                false,
                true,
                Observation::Unwatched(some.clone(), process(3)),
            ),
            (&some, true, false, Observation::Ending(some.clone())),
            (&some, false, false, Observation::Abandoned(some.clone())),
            (&none, true, false, starts),
            (&none, false, false, Observation::Abandoned(none.clone())),
        ] {
            assert_eq!(classify(running.clone(), is_watched, |_| is_alive), sight);
        }
    }
}
