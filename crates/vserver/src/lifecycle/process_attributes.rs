//! Sets priorities and personality as the specification has them. The processes of a guest inherit them from its init;
//! a process that enters the guest sets them for itself.

use std::io;

use libcontainer::oci_spec::runtime::{IOPriorityClass, Spec};
use vhashify_sys::process::{set_io_priority, set_nice, set_personality};

use crate::context::spec::{NICE, PERSONALITY};

/// Sets all of them for this process, which must still have the host's capabilities.
pub fn set(spec: &Spec) -> io::Result<()> {
    if let Some(nice) = annotation(spec, NICE) {
        set_nice(nice)?;
    }
    let process = spec.process().as_ref();
    if let Some(priority) = process.and_then(|process| process.io_priority().as_ref()) {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        set_io_priority(class, u8::try_from(priority.priority()).unwrap_or(7))?;
    }
    apply_personality(spec)
}

/// Sets only the personality: init inherits the priorities from the monitor.
pub fn apply_personality(spec: &Spec) -> io::Result<()> {
    match annotation(spec, PERSONALITY) {
        Some(personality) => set_personality(personality),
        None => Ok(()),
    }
}

fn annotation<T: std::str::FromStr>(spec: &Spec, name: &str) -> Option<T> {
    let annotations = spec.annotations().as_ref()?;
    annotations.get(name)?.parse().ok()
}
