//! Loads the guard, tells it of filesystems, and takes it away.

use std::fs::{self, DirBuilder};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{Lsm, ProgramError};
use aya::{Btf, BtfError, Ebpf, EbpfLoader};
use vhashify_sys::resolve;

use super::error::GuardError;
use super::hook::{HOOKS, Hook};
use super::pins::{self, Lock, MAPS, PLACE, UNFINISHED};
use super::{filesystem, running};

/// What `build.rs` compiled.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));

const ACTIVE: &str = "/sys/kernel/security/lsm";

/// Loads the guard and pins it; does nothing if one is loaded.
///
/// # Errors
/// [`GuardError`]: what this host lacks. No part of the guard is left then.
pub fn load() -> Result<(), GuardError> {
    check_active()?;
    let _lock = Lock::acquire()?;
    if pins::is_loaded()? {
        return Ok(());
    }
    let unfinished = Path::new(UNFINISHED);
    // A process that was killed while it loaded the guard may have left these pins.
    pins::remove(unfinished)?;
    let made = DirBuilder::new().mode(0o700).create(unfinished);
    made.map_err(|error| GuardError::call("mkdir", unfinished, error))?;
    let result = pin_all(unfinished).and_then(|()| {
        fs::rename(unfinished, PLACE).map_err(|error| GuardError::call("rename", unfinished, error))
    });
    if result.is_err() {
        pins::remove(unfinished)?;
    }
    result
}

/// Makes marks count on the filesystem of a directory.
///
/// # Errors
/// [`GuardError`]: the guard is not loaded, or knows too many filesystems.
pub fn register(directory: impl AsFd, path: &Path) -> Result<(), GuardError> {
    let device = filesystem::device(directory, path)?;
    pins::filesystems()?
        .insert(device.0, 1, 0)
        .map_err(|error| GuardError::refused("filesystems", &error))
}

/// Whether marks count on the filesystem of a directory; true where the directory cannot be opened.
///
/// # Errors
/// [`GuardError`]: the maps of the guard cannot be read.
pub fn guards(directory: &Path) -> Result<bool, GuardError> {
    if !pins::is_loaded()? {
        return Ok(false);
    }
    let Ok(open) = resolve::open_host_directory(directory) else {
        return Ok(true);
    };
    let device = filesystem::device(open, directory)?;
    Ok(pins::devices()?.contains(&device))
}

/// Takes the guard away, at once for all filesystems. Does nothing if none is loaded.
///
/// # Errors
/// [`GuardError::GuestsRun`] unless `is_forced`; a failed system call.
pub fn unload(is_forced: bool) -> Result<(), GuardError> {
    if !pins::is_loaded()? {
        return Ok(());
    }
    let _lock = Lock::acquire()?;
    let devices = pins::devices()?;
    if !is_forced && let Some((process, device)) = running::guest_on(&devices)? {
        return Err(GuardError::GuestsRun { process, device });
    }
    // The kernel detaches programs some time after the last pin is gone. Without filesystems they refuse nothing at
    // once.
    let mut filesystems = pins::filesystems()?;
    for device in devices {
        filesystems
            .remove(&device.0)
            .map_err(|error| GuardError::refused("filesystems", &error))?;
    }
    pins::remove(Path::new(PLACE))
}

/// Whether the kernel calls BPF programs on LSM hooks at all; where it does not, it loads them and never runs them.
///
/// # Errors
/// [`GuardError::Unavailable`].
pub fn check_active() -> Result<(), GuardError> {
    let Ok(active) = fs::read_to_string(ACTIVE) else {
        return Err(GuardError::Unavailable(
            "the kernel does not say which security modules are active (/sys/kernel/security/lsm; mount -t securityfs securityfs /sys/kernel/security)",
        ));
    };
    if active.trim().split(',').any(|module| module == "bpf") {
        return Ok(());
    }
    Err(GuardError::Unavailable(
        "the kernel has no active bpf security module (/sys/kernel/security/lsm; where it is built in, boot with bpf added to lsm=)",
    ))
}

fn pin_all(place: &Path) -> Result<(), GuardError> {
    let btf = Btf::from_sys_fs().map_err(|error| GuardError::refused("the types", &error))?;
    let mut guard = EbpfLoader::new()
        .btf(Some(&btf))
        .load(PROGRAM)
        .map_err(|error| GuardError::refused("the maps", &error))?;
    for name in MAPS {
        let pinned = guard.map(name).map(|map| map.pin(place.join(name)));
        match pinned {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(GuardError::refused(name, &error)),
            None => return Err(missing(name)),
        }
    }
    for hook in HOOKS {
        attach(&mut guard, &btf, &hook, place)?;
    }
    Ok(())
}

fn attach(guard: &mut Ebpf, btf: &Btf, hook: &Hook, place: &Path) -> Result<(), GuardError> {
    let refused = |error: &ProgramError| GuardError::refused(hook.name, error);
    let mut failure = missing(hook.name);
    for name in hook.programs {
        let Some(program) = guard.program_mut(name) else {
            continue;
        };
        let program: &mut Lsm = program.try_into().map_err(|error| refused(&error))?;
        match program.load(hook.name, btf) {
            Ok(()) => {}
            Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) if !hook.is_needed => {
                return Ok(());
            }
            Err(error) => {
                failure = refused(&error);
                continue;
            }
        }
        let link: FdLink = program
            .attach()
            .and_then(|id| program.take_link(id))
            .map_err(|error| refused(&error))?
            .into();
        link.pin(pins::hook(place, hook))
            .map_err(|error| GuardError::refused(hook.name, &error))?;
        return Ok(());
    }
    Err(failure)
}

fn missing(part: &str) -> GuardError {
    GuardError::Refused {
        part: part.to_owned(),
        reason: "there is no such thing".to_owned(),
    }
}
