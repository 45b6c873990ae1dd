//! `vattribute`: the capabilities of a guest, which the kernel lets nobody change while it runs.

use clap::Args;
use vhashify_config::capabilities;
use vhashify_sys::procfs;

use super::super::args::Common;
use super::super::output::say;
use super::{Failure, Guest};
use crate::lifecycle::limits::find;

#[derive(Debug, Args)]
pub struct Vattribute {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    guest: Guest,
    /// Show them; so it is without --set
    #[arg(long, conflicts_with = "set")]
    get: bool,
    /// Make them so
    #[arg(long)]
    set: bool,
    /// A capability, or with ~ before it none; may be repeated
    #[arg(long, value_name = "CAP", requires = "set")]
    bcap: Vec<String>,
    /// A context capability
    #[arg(long, value_name = "CAP", requires = "set")]
    ccap: Vec<String>,
    /// A context flag
    #[arg(long, value_name = "FLAG", requires = "set")]
    flag: Vec<String>,
    /// A mask of unshare(2)
    #[arg(long, value_name = "MASK", requires = "set")]
    umask: Option<String>,
    /// util-vserver's safe set of capabilities and flags
    #[arg(long, requires = "set")]
    secure: bool,
}

pub fn vattribute(typed: &Vattribute) -> Result<(), Failure> {
    let (state, running) = find(&typed.common.state_dir, &typed.guest.xid)?;
    let pid = running.init.map_or(0, |init| init.pid);
    let status = procfs::status(pid).unwrap_or_default();
    let bounding = status.mask("CapBnd").unwrap_or(0);
    let own = rustix::thread::CapabilitySet::from_bits_retain(bounding);
    if !typed.set {
        say(&format!(
            "bcapabilities: {}",
            capabilities::names(own).join(" ")
        ));
        say("ccapabilities: none, a stock kernel has none");
        say("flags: none, a stock kernel has none");
        return Ok(());
    }
    let name = state.name();
    for (option, given) in [("ccap", &typed.ccap), ("flag", &typed.flag)] {
        // What is to be taken away is not there.
        if let Some(word) = given.iter().find(|word| !word.starts_with(['~', '!'])) {
            return Err(Failure::Impossible(format!(
                "{name}: --{option} {word}: a stock kernel has nothing of that kind"
            )));
        }
    }
    if typed.umask.is_some() {
        return Err(Failure::Impossible(format!(
            "{name}: --umask: which namespaces it may make is decided at its start"
        )));
    }
    let safe = capabilities::of_guest(&[]).unwrap_or(own);
    let more = capabilities::names(own.difference(safe)).join(", ");
    if typed.secure && !more.is_empty() {
        return Err(Failure::Impossible(format!(
            "{name}: --secure: {more} cannot be taken from it while it runs; take them out of its \
             bcapabilities, and restart it"
        )));
    }
    let wanted = typed
        .bcap
        .iter()
        .flat_map(|list| list.split(','))
        .map(|word| (word, word.trim_start_matches(['~', '!'])))
        .collect::<Vec<_>>();
    for (word, plain) in wanted {
        let Some(capability) = capabilities::find(plain) else {
            return Err(Failure::Usage(format!(
                "--bcap {word:?} is no capability; capabilities(7) lists them"
            )));
        };
        let is_removal = word != plain;
        if own.contains(capability) == is_removal {
            let full = capabilities::names(capability).join(" ");
            let line = if is_removal {
                format!("~{full}")
            } else {
                full.clone()
            };
            return Err(Failure::Impossible(format!(
                "{name}: {full} cannot be changed while it runs; write {line} into its \
                 bcapabilities, and restart it"
            )));
        }
    }
    Ok(())
}
