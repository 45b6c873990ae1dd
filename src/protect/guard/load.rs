//! Loads the guard, registers filesystems, and unloads it.

use std::fs::{self, DirBuilder};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use aya::maps::{Array, HashMap, MapError};
use aya::programs::links::FdLink;
use aya::programs::{Lsm, ProgramError};
use aya::{Btf, BtfError, Ebpf, EbpfLoader};
use vhashify_sys::resolve;

use super::error::GuardError;
use super::hook::{HOOKS, Hook};
use super::permit::without_permit;
use super::pins::{self, LASTING, Lock, MAPS, OUTDATED, PLACE, REGISTERED, TESTED, UNFINISHED};
use super::{filesystem, running, self_test};

/// The programs, as `build.rs` compiled them.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));

const ACTIVE: &str = "/sys/kernel/security/lsm";

/// Loads the guard and pins it. Does nothing if the same version is loaded.
///
/// If another version is loaded, the new one takes over its maps, and is attached before the old one is detached: the
/// guard never stops.
///
/// # Errors
/// [`GuardError`]: what this host lacks. Then no part of the new guard is left.
pub fn load() -> Result<(), GuardError> {
    check_active()?;
    let _lock = Lock::acquire()?;
    let (unfinished, outdated) = (Path::new(UNFINISHED), Path::new(OUTDATED));
    let mut is_loaded = pins::is_loaded()?;
    if !is_loaded && outdated.exists() {
        // Somebody killed a process that was replacing this guard by a newer one. This one still guards.
        rename(outdated, Path::new(PLACE))?;
        is_loaded = true;
    }
    if is_loaded && pins::version()? == Some(version()) {
        return pins::remove(outdated);
    }
    // A process that somebody killed while it loaded the guard may have left these pins.
    pins::remove(unfinished)?;
    let made = DirBuilder::new().mode(0o700).create(unfinished);
    made.map_err(|error| GuardError::call("mkdir", unfinished, error))?;
    let result = pin_all(unfinished, is_loaded).and_then(|()| {
        if is_loaded {
            rename(Path::new(PLACE), outdated)?;
        }
        rename(unfinished, Path::new(PLACE))
    });
    if result.is_err() {
        pins::remove(unfinished)?;
        return result;
    }
    pins::remove(outdated)
}

fn rename(from: &Path, to: &Path) -> Result<(), GuardError> {
    fs::rename(from, to).map_err(|error| GuardError::call("rename", from, error))
}

/// The version of this guard: a digest of its programs.
fn version() -> u64 {
    let digest = blake3::hash(PROGRAM);
    let first = digest.as_bytes().first_chunk().copied();
    u64::from_le_bytes(first.unwrap_or_default())
}

/// Registers the filesystem of a directory, so that the guard enforces marks there. The first time under this guard,
/// tests every kind of change there.
///
/// # Errors
/// [`GuardError`]: the guard is not loaded, knows too many filesystems, or lets a change through.
pub fn register(directory: impl AsFd, path: &Path) -> Result<(), GuardError> {
    let device = filesystem::device(&directory, path)?;
    let mut filesystems = pins::filesystems()?;
    let known = filesystems.get(&device.0, 0).ok();
    if known == Some(TESTED) {
        return Ok(());
    }
    let mut set = |state| {
        filesystems
            .insert(device.0, state, 0)
            .map_err(|error| GuardError::refused("filesystems", &error))
    };
    set(REGISTERED)?;
    without_permit(|| self_test::refuses_every_change(directory.as_fd(), path))?;
    set(TESTED)
}

/// Whether the guard enforces marks on the filesystem of a directory; true if the directory cannot be opened.
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

/// Unloads the guard. Does nothing if none is loaded.
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
    // The kernel detaches programs some time after their last pin is removed. Without registered filesystems they refuse
    // nothing from now on.
    let mut filesystems = pins::filesystems()?;
    for device in devices {
        filesystems
            .remove(&device.0)
            .map_err(|error| GuardError::refused("filesystems", &error))?;
    }
    pins::remove(Path::new(PLACE))
}

/// Checks that the kernel calls BPF programs on LSM hooks. A kernel that does not would load them, but never run them.
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

fn pin_all(place: &Path, goes_on: bool) -> Result<(), GuardError> {
    let btf = Btf::from_sys_fs().map_err(|error| GuardError::refused("the types", &error))?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf));
    for name in LASTING {
        let pinned = Path::new(PLACE).join(name);
        if goes_on && pinned.exists() {
            loader.map_pin_path(name, pinned);
        }
    }
    let mut guard = loader
        .load(PROGRAM)
        .map_err(|error| GuardError::refused("the maps", &error))?;
    write_version(&mut guard)?;
    if goes_on {
        forget_tests(&mut guard)?;
    }
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

fn write_version(guard: &mut Ebpf) -> Result<(), GuardError> {
    let map = guard.map_mut("version").ok_or_else(|| missing("version"))?;
    Array::<_, u64>::try_from(map)
        .and_then(|mut map| map.set(0, version(), 0))
        .map_err(|error| GuardError::refused("version", &error))
}

/// Forgets that filesystems were tested: that an older guard refused every change says nothing about this one.
fn forget_tests(guard: &mut Ebpf) -> Result<(), GuardError> {
    let map = guard.map_mut("filesystems");
    let map = map.ok_or_else(|| missing("filesystems"))?;
    let forget = || -> Result<(), MapError> {
        let mut filesystems = HashMap::<_, u32, u8>::try_from(map)?;
        let devices: Vec<u32> = filesystems.keys().collect::<Result<_, _>>()?;
        devices
            .into_iter()
            .try_for_each(|device| filesystems.insert(device, REGISTERED, 0))
    };
    forget().map_err(|error| GuardError::refused("filesystems", &error))
}

fn attach(guard: &mut Ebpf, btf: &Btf, hook: &Hook, place: &Path) -> Result<(), GuardError> {
    let refused = |error: &ProgramError| GuardError::refused(hook.name, error);
    let mut failure = None;
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
            // Keeps the first error: those of other programs are about signatures that this kernel has not.
            Err(error) => {
                failure.get_or_insert_with(|| refused(&error));
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
    Err(failure.unwrap_or_else(|| missing(hook.name)))
}

fn missing(part: &str) -> GuardError {
    GuardError::Refused {
        part: part.to_owned(),
        reason: "there is no such thing".to_owned(),
    }
}
