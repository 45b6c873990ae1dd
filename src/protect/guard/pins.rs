//! The guard's pins in bpffs: their paths, and the maps as typed values.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, InodeStorage, Map, MapData, MapError, PerCpuArray};
use rustix::fs::{FlockOperation, Mode, OFlags};
use vhashify_sys::filesystem_kind::FilesystemKind;

use super::error::GuardError;
use super::filesystem::Device;
use super::hook::Hook;
use super::refusal::WORDS;

/// Where bpffs is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The pins of the loaded guard.
pub const PLACE: &str = "/sys/fs/bpf/vhashify";
/// The pins of a guard that is being loaded. Renamed to [`PLACE`] when complete. (bpffs allows no dots in names.)
pub const UNFINISHED: &str = "/sys/fs/bpf/vhashify-new";
/// The pins of an older guard while a newer one takes its place.
pub const OUTDATED: &str = "/sys/fs/bpf/vhashify-old";

/// The maps. Each has the same name in the program and as a pin.
pub const MAPS: [&str; 8] = [
    "filesystems",
    "permitted",
    "counters",
    "refusals",
    "refused",
    "displaced",
    "links_made",
    "version",
];

/// Those that a newer guard goes on with. The others are as large as the number of hooks, or say which guard it is.
pub const LASTING: [&str; 6] = [
    "filesystems",
    "permitted",
    "refusals",
    "refused",
    "displaced",
    "links_made",
];

/// In the map `filesystems`: the guard enforces marks there.
pub const REGISTERED: u8 = 1;
/// The same, and the guard refused every kind of change in the self-test there.
pub const TESTED: u8 = 2;

/// Keeps other processes from loading and unloading the guard.
#[derive(Debug)]
pub struct Lock {
    _directory: OwnedFd,
}

impl Lock {
    /// Waits until no other process has the lock.
    pub fn acquire() -> Result<Self, GuardError> {
        let path = Path::new(BPFFS);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unavailable = GuardError::Unavailable(
            "there is no bpffs at /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)",
        );
        let Ok(directory) = rustix::fs::open(path, flags, Mode::empty()) else {
            return Err(unavailable);
        };
        let kind = FilesystemKind::of(&directory);
        let kind = kind.map_err(|error| GuardError::call("fstatfs", path, error))?;
        if kind != FilesystemKind::Bpf {
            return Err(unavailable);
        }
        rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::LockExclusive))
            .map_err(|error| GuardError::call("flock", path, error))?;
        Ok(Self {
            _directory: directory,
        })
    }
}

/// Whether a guard is loaded.
pub fn is_loaded() -> Result<bool, GuardError> {
    fs::exists(PLACE).map_err(|error| GuardError::call("stat", Path::new(PLACE), error))
}

/// The path of a hook's pin in a directory of pins.
pub fn hook(place: &Path, hook: &Hook) -> PathBuf {
    place.join(format!("hook-{}", hook.name))
}

/// The registered filesystems, by device number.
pub fn filesystems() -> Result<HashMap<MapData, u32, u8>, GuardError> {
    typed("filesystems")
}

/// The start time of each permitted process, by its number.
pub fn permitted() -> Result<HashMap<MapData, u32, u64>, GuardError> {
    typed("permitted")
}

/// Refusals by hook.
pub fn counters() -> Result<PerCpuArray<MapData, u64>, GuardError> {
    typed("counters")
}

/// The last refusals, in no order.
pub fn refusals() -> Result<Array<MapData, [u64; WORDS]>, GuardError> {
    typed("refusals")
}

/// The displaced inodes, by a descriptor of each.
pub fn displaced() -> Result<InodeStorage<MapData, u32>, GuardError> {
    typed("displaced")
}

/// The version of the loaded guard; `None` for one from before there were versions.
pub fn version() -> Result<Option<u64>, GuardError> {
    let path = Path::new(PLACE).join("version");
    if !fs::exists(&path).map_err(|error| GuardError::call("stat", &path, error))? {
        return Ok(None);
    }
    let version: Array<MapData, u64> = typed("version")?;
    version
        .get(&0, 0)
        .map(Some)
        .map_err(|error| GuardError::refused("version", &error))
}

/// The registered filesystems.
pub fn devices() -> Result<Vec<Device>, GuardError> {
    let keys: Result<Vec<u32>, MapError> = filesystems()?.keys().collect();
    let mut devices: Vec<Device> = keys
        .map_err(|error| GuardError::refused("filesystems", &error))?
        .into_iter()
        .map(Device)
        .collect();
    devices.sort_unstable();
    Ok(devices)
}

/// Removes a directory of pins; the kernel frees what is pinned nowhere else. A missing directory is no error.
pub fn remove(place: &Path) -> Result<(), GuardError> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(GuardError::call("unlink", place, error))
        }
        _ => Ok(()),
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str) -> Result<T, GuardError> {
    let open = || Map::from_map_data(MapData::from_pin(Path::new(PLACE).join(name))?);
    open()
        .and_then(T::try_from)
        .map_err(|error| GuardError::refused(name, &error))
}
