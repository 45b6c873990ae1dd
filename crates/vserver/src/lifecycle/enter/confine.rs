//! Drops every power of this process that the guest has not, before it forks.

use std::error::Error;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use libcontainer::oci_spec::runtime::Spec;
use rustix::thread::{CapabilitySets, remove_capability_from_bounding_set, set_capabilities};
use vhashify_config::capabilities;

use super::super::{broker, inherited, process_attributes};
use super::account::Account;
use crate::context::filter::load_filter;

/// Gives this process the attributes, limits, groups, filter and capabilities of the guest's processes, in an order in
/// which no step needs what an earlier one dropped. A broker gets the listener of the filter.
pub fn confine(
    spec: &Spec,
    account: &Account,
    broker: Option<&UnixStream>,
) -> Result<(), Box<dyn Error>> {
    rustix::process::chdir("/")?;
    process_attributes::set(spec)?;
    let process = spec.process().as_ref().ok_or("it has no process")?;
    inherited::set_limits(spec)?;
    if let Some(mask) = process.user().umask() {
        rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
    }
    rustix::thread::set_thread_groups(&account.groups)?;
    if let Some(filter) = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref())
    {
        let listener = load_filter(filter)?;
        if let (Some(listener), Some(broker)) = (listener, broker) {
            broker::hand_over(broker, listener.as_fd())?;
        }
    }
    let known = process
        .capabilities()
        .as_ref()
        .and_then(|all| all.bounding().as_ref());
    let names: Vec<String> = known
        .into_iter()
        .flatten()
        .map(|capability| format!("CAP_{}", capability.to_string().trim_start_matches("CAP_")))
        .collect();
    let kept = capabilities::from_names(names.iter().map(String::as_str));
    for capability in capabilities::all() {
        if !kept.contains(capability) {
            match remove_capability_from_bounding_set(capability) {
                // EINVAL: this kernel has no such capability.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    Ok(())
}
