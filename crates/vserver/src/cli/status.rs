//! `vserver NAME status`.

use super::output::{duration, say, shown};
use crate::context::cgroup;
use crate::lifecycle::observe::mend;
use crate::lifecycle::reboot;
use crate::lifecycle::state::now;
use crate::lifecycle::{Ended, GuestState, LifecycleError, Running, StateDirectory};

const DONE: u8 = 0;
const NOT_RUNNING: u8 = 3;

/// Says whether the guest runs, and since when, or how it ended. Gives the exit status.
pub fn status(state: &StateDirectory) -> Result<u8, LifecycleError> {
    let name = state.name();
    match mend(state)? {
        GuestState::Running(running, init) => {
            let Running { context, since, .. } = running;
            say(&format!(
                "{name} is running, with context {context}, for {}",
                duration(now().saturating_sub(since))
            ));
            say(&format!("init: {}", init.pid));
            say(&format!("processes: {}", cgroup::processes(context).len()));
            say(&format!("vdir: {}", shown(&running.vdir)));
            if let Some(broker) = running.broker {
                say(if broker.is_alive() {
                    "copy on write: yes"
                } else {
                    "copy on write: its broker is dead; calls that could change a shared file fail \
                     with \"function not implemented\"; restart the guest"
                });
            }
            say(&format!("console: {}", shown(&state.at("console.log"))));
            Ok(DONE)
        }
        GuestState::Starting(_) => {
            say(&format!("{name} is being started"));
            Ok(NOT_RUNNING)
        }
        GuestState::Stopped(last) => {
            let how = last.map_or(String::new(), |last| format!("; {}", ending(last)));
            say(&format!("{name} is not running{how}"));
            if let Some(reboot) = reboot::waiting(state) {
                say(&format!(
                    "it has rebooted itself, and is started again in {}",
                    duration(reboot.left())
                ));
            }
            Ok(NOT_RUNNING)
        }
    }
}

/// How it ended, as a part of a sentence.
fn ending(ended: Ended) -> String {
    let ago = duration(now().saturating_sub(ended.at));
    match (ended.status, ended.signal) {
        (Some(status), _) => format!("its init exited with status {status} {ago} ago"),
        (None, Some(signal)) => format!("its init was ended by signal {signal} {ago} ago"),
        (None, None) => format!("it ended unseen, at most {ago} ago"),
    }
}
