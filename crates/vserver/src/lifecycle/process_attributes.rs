//! What every process of a guest inherits, and what enters it has to take over: priorities and the
//! personality, as the guest's specification holds them.

use std::io;

use libcontainer::oci_spec::runtime::{IOPriorityClass, Spec};
use vhashify_sys::process::{set_io_priority, set_nice, set_personality};

use crate::context::spec::{NICE, PERSONALITY};

/// Takes all of it for this process. It needs the host's powers.
pub fn take(spec: &Spec) -> io::Result<()> {
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
    take_personality(spec)
}

/// Takes the personality alone: the rest came to init from who made it.
pub fn take_personality(spec: &Spec) -> io::Result<()> {
    match annotation(spec, PERSONALITY) {
        Some(personality) => set_personality(personality),
        None => Ok(()),
    }
}

fn annotation<T: std::str::FromStr>(spec: &Spec, name: &str) -> Option<T> {
    let annotations = spec.annotations().as_ref()?;
    annotations.get(name)?.parse().ok()
}
