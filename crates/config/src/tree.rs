//! Walks the tree: its guests, and the settings of each.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use vhashify_sys::shown::Shown;

use super::{ConfigError, GuestConfig, GuestSettings, InitSettings, PackageFilePolicy, StoreEntry};

/// Where values stand that hold for every guest without its own.
const DEFAULTS: &str = ".defaults";
/// Below a guest and below [`DEFAULTS`]: the settings of unification.
const VUNIFY: &str = "apps/vunify";
/// Where guests live when the tree does not say it.
const VDIRBASE: &str = "/vservers";
/// The old tool's settings beside the stores, files which it wrote by itself.
const OLD_SETTINGS: [&str; 3] = ["method", "blocks", "blocksize"];
/// The longest name that a directory can have (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// A configuration tree that exists and can be read.
#[derive(Debug, Clone)]
pub struct ConfigTree {
    top: PathBuf,
}

impl ConfigTree {
    /// Opens the tree at `dir`. Warns of settings in it that have no meaning any more.
    ///
    /// # Errors
    /// [`ConfigError::Directory`] when `dir` is missing, is no directory, or may not be read.
    pub fn open(dir: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Directory {
            path: dir.to_path_buf(),
            source,
        };
        let top = std::path::absolute(dir).map_err(failed)?;
        // Listing is the one test of readability that also holds for a network filesystem.
        fs::read_dir(&top).map_err(failed)?;
        let tree = Self { top };
        warn_of_old_settings(&tree.defaults().join("hash"));
        Ok(tree)
    }

    /// The names of the guests that are marked for unification by a directory `apps/vunify`,
    /// sorted. Hidden entries are the tools' own and never guests.
    ///
    /// # Errors
    /// A part of the tree that cannot be read; an `apps/vunify` that is no directory.
    pub fn guest_names(&self) -> Result<Vec<OsString>, ConfigError> {
        let mut names = visible_names(&self.top)?;
        let mut failed = None;
        names.retain(|name| match directory(&self.vunify(name)) {
            Ok(found) => found.is_some(),
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        });
        failed.map_or(Ok(names), Err)
    }

    /// Everything that the tree says about the guest `name`.
    ///
    /// # Errors
    /// A name that is none, or of no guest; a guest without `apps/vunify`, root directory or
    /// store; a link that leads nowhere, and what else [`ConfigError`] lists.
    pub fn guest(&self, name: &OsStr) -> Result<GuestConfig, ConfigError> {
        if let Some(reason) = fault_in_name(name) {
            let (name, tree) = (name.to_os_string(), self.top.clone());
            return Err(ConfigError::InvalidName { name, tree, reason });
        }
        let path = self.top.join(name);
        if directory(&path)?.is_none() {
            return Err(ConfigError::UnknownGuest {
                name: name.to_os_string(),
                path,
            });
        }
        let own = self.vunify(name);
        if directory(&own)?.is_none() {
            return Err(ConfigError::NotMarked {
                name: name.to_os_string(),
                path: own,
            });
        }
        let vdir = self.vdir(name)?;
        let own_hash = own.join("hash");
        let stores = match stores_of(&own_hash)? {
            Some(stores) if stores.is_empty() => {
                return Err(ConfigError::NoStore { path: own_hash });
            }
            Some(stores) => {
                warn_of_old_settings(&own_hash);
                stores
            }
            None => self.default_stores()?,
        };
        let exclude = match list(&own.join("exclude"))? {
            None => list(&self.defaults().join("exclude"))?,
            own => own,
        };
        let package_files = match package_files(&own)? {
            None => package_files(&self.defaults())?.unwrap_or_default(),
            Some(own) => own,
        };
        Ok(GuestConfig {
            name: name.to_os_string(),
            vdir,
            stores,
            exclude,
            package_files,
        })
    }

    /// The stores of guests that have none of their own, sorted by name.
    ///
    /// # Errors
    /// [`ConfigError::NoStore`] when there is none, [`ConfigError::DanglingStore`],
    /// [`ConfigError::NotDirectory`], [`ConfigError::StoresOnOneDevice`].
    pub fn default_stores(&self) -> Result<Vec<StoreEntry>, ConfigError> {
        let path = self.defaults().join("hash");
        match stores_of(&path)? {
            Some(stores) if !stores.is_empty() => Ok(stores),
            _ => Err(ConfigError::NoStore { path }),
        }
    }

    /// Every store that the tree names: the defaults, then those of each marked guest, one entry
    /// for each directory.
    ///
    /// # Errors
    /// As [`Self::default_stores`]; that the defaults are missing is no error as long as a guest
    /// has a store.
    pub fn all_stores(&self) -> Result<Vec<StoreEntry>, ConfigError> {
        let defaults = self.defaults().join("hash");
        let mut stores = stores_of(&defaults)?.unwrap_or_default();
        for name in self.guest_names()? {
            stores.extend(stores_of(&self.vunify(&name).join("hash"))?.unwrap_or_default());
        }
        if stores.is_empty() {
            return Err(ConfigError::NoStore { path: defaults });
        }
        let mut seen = HashSet::new();
        stores.retain(|store| seen.insert((store.device, store.inode)));
        Ok(stores)
    }

    /// The names of all guests of the tree, whatever they are marked for, sorted.
    ///
    /// # Errors
    /// A tree that cannot be read.
    pub fn all_names(&self) -> Result<Vec<OsString>, ConfigError> {
        let mut names = visible_names(&self.top)?;
        names.retain(|name| self.top.join(name).is_dir());
        Ok(names)
    }

    /// The top of the tree.
    #[must_use]
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The directory of the guest `name`, whether it is there or not.
    ///
    /// # Errors
    /// [`ConfigError::InvalidName`]: a running guest has a name that fits on one line, too.
    pub fn guest_directory(&self, name: &OsStr) -> Result<PathBuf, ConfigError> {
        let fault = fault_in_name(name).or_else(|| match name.to_str() {
            None => Some("it is not UTF-8"),
            Some(name) if name.chars().any(char::is_control) => {
                Some("it holds a control character")
            }
            Some(_) => None,
        });
        if let Some(reason) = fault {
            let (name, tree) = (name.to_os_string(), self.top.clone());
            return Err(ConfigError::InvalidName { name, tree, reason });
        }
        Ok(self.top.join(name))
    }

    /// The settings that running the guest `name` reads.
    ///
    /// # Errors
    /// A name that is none, or of no guest; values that mean nothing, and links that lead nowhere.
    pub fn settings(&self, name: &OsStr) -> Result<GuestSettings, ConfigError> {
        let path = self.guest_directory(name)?;
        if directory(&path)?.is_none() {
            let name = name.to_os_string();
            return Err(ConfigError::UnknownGuest { name, path });
        }
        GuestSettings::read(self, name, &path)
    }

    /// The settings in `apps/init` of the guest `name`.
    ///
    /// # Errors
    /// A value that means nothing, or cannot be read.
    pub fn init_settings(&self, name: &OsStr) -> Result<InitSettings, ConfigError> {
        InitSettings::read(&self.top.join(name).join("apps/init"))
    }

    fn defaults(&self) -> PathBuf {
        self.vunify(OsStr::new(DEFAULTS))
    }

    pub(super) fn vunify(&self, name: &OsStr) -> PathBuf {
        self.top.join(name).join(VUNIFY)
    }

    /// Where the vdir of a new guest `name` goes: below `.defaults/vdirbase`, else `/vservers`.
    ///
    /// # Errors
    /// A `vdirbase` that leads nowhere.
    pub fn default_vdir(&self, name: &OsStr) -> Result<PathBuf, ConfigError> {
        let base = directory(&self.top.join(DEFAULTS).join("vdirbase"))?;
        Ok(base.unwrap_or_else(|| PathBuf::from(VDIRBASE)).join(name))
    }

    /// The root directory of the guest `name`: absolute, without symbolic links.
    ///
    /// # Errors
    /// [`ConfigError::NoVdir`], [`ConfigError::Dangling`], [`ConfigError::NotDirectory`].
    pub fn vdir(&self, name: &OsStr) -> Result<PathBuf, ConfigError> {
        let link = self.top.join(name).join("vdir");
        if let Some(vdir) = directory(&link)? {
            return Ok(vdir);
        }
        let default = self.default_vdir(name)?;
        directory(&default)?.ok_or_else(|| ConfigError::NoVdir {
            name: name.to_os_string(),
            link,
            default,
        })
    }
}

/// Why `name` cannot be the name of a guest: it must be one visible entry of the tree.
fn fault_in_name(name: &OsStr) -> Option<&'static str> {
    match name.as_bytes() {
        [] => Some("it is empty"),
        [b'.', ..] => Some("it begins with a dot"),
        name if name.contains(&b'/') => Some("it holds a slash"),
        name if name.contains(&0) => Some("it holds a NUL byte"),
        name if name.len() > LONGEST_NAME => Some("it is longer than 255 bytes"),
        _ => None,
    }
}

/// The stores that a `hash` directory names, sorted by name; `None` where there is none.
fn stores_of(hash: &Path) -> Result<Option<Vec<StoreEntry>>, ConfigError> {
    if directory(hash)?.is_none() {
        return Ok(None);
    }
    let mut stores: Vec<StoreEntry> = Vec::new();
    for name in visible_names(hash)? {
        let entry = hash.join(&name);
        if is_old_setting(&entry) {
            continue;
        }
        let Some(found) = store(entry)? else { continue };
        if let Some(first) = stores.iter().find(|store| store.device == found.device) {
            let (first, second) = (first.entry.clone(), found.entry);
            return Err(ConfigError::StoresOnOneDevice { first, second });
        }
        stores.push(found);
    }
    Ok(Some(stores))
}

/// The store behind an entry; `None` when the entry was removed meanwhile.
fn store(entry: PathBuf) -> Result<Option<StoreEntry>, ConfigError> {
    let found = directory(&entry).map_err(|error| match error {
        ConfigError::Dangling { link, target } => ConfigError::DanglingStore {
            entry: link,
            target,
        },
        other => other,
    })?;
    let Some(directory) = found else {
        return Ok(None);
    };
    match fs::metadata(&directory) {
        Ok(of) => Ok(Some(StoreEntry {
            entry,
            directory,
            device: of.dev(),
            inode: of.ino(),
        })),
        Err(source) => Err(ConfigError::Unreadable {
            path: directory,
            source,
        }),
    }
}

/// Whether `entry` of a `hash` directory is a value that the old tool kept there, not a store.
fn is_old_setting(entry: &Path) -> bool {
    entry
        .file_name()
        .is_some_and(|name| OLD_SETTINGS.iter().any(|setting| name == *setting))
        && fs::metadata(entry).is_ok_and(|of| of.is_file())
}

/// A setting that is not honoured is named, once for each `hash` directory.
fn warn_of_old_settings(hash: &Path) {
    for setting in OLD_SETTINGS.map(|name| hash.join(name)) {
        if is_old_setting(&setting) {
            tracing::warn!(
                "{} has no effect: files are always compared whole, by BLAKE3; remove it",
                Shown::path(&setting)
            );
        }
    }
}

/// What the switches of an `apps/vunify` say, where they say something.
///
/// The guest's are asked before the defaults, and at each place `pkgmgmt-ignore` goes first: the
/// old tool's order.
fn package_files(vunify: &Path) -> Result<Option<PackageFilePolicy>, ConfigError> {
    for (name, policy) in [
        ("pkgmgmt-ignore", PackageFilePolicy::Ignore),
        ("pkgmgmt-force", PackageFilePolicy::Require),
    ] {
        if resolved(&vunify.join(name))?.is_some() {
            return Ok(Some(policy));
        }
    }
    Ok(None)
}

/// The list at `path`, where there is one. A link to `/dev/null` is the usual empty list.
fn list(path: &Path) -> Result<Option<PathBuf>, ConfigError> {
    let path = path.to_path_buf();
    match resolved(&path)? {
        None => Ok(None),
        Some(of) if of.is_file() || of.file_type().is_char_device() => Ok(Some(path)),
        Some(_) => Err(ConfigError::NotFile { path }),
    }
}

/// The directory at `path`, or behind the link there, by its canonical path; `None` where there is
/// neither.
pub(super) fn directory(path: &Path) -> Result<Option<PathBuf>, ConfigError> {
    match resolved(path)? {
        None => Ok(None),
        Some(of) if of.is_dir() => {
            fs::canonicalize(path)
                .map(Some)
                .map_err(|source| ConfigError::Unreadable {
                    path: path.to_path_buf(),
                    source,
                })
        }
        Some(_) => Err(ConfigError::NotDirectory {
            path: path.to_path_buf(),
        }),
    }
}

/// The metadata of `path`, links followed; `None` where there is nothing. A link that leads nowhere is
/// an error, not nothing: its writer wanted something there.
fn resolved(path: &Path) -> Result<Option<Metadata>, ConfigError> {
    let path = path.to_path_buf();
    match fs::metadata(&path) {
        Ok(of) => Ok(Some(of)),
        Err(error) if leads_nowhere(&error) => match fs::read_link(&path) {
            Ok(target) => {
                let target = path
                    .parent()
                    .map(|place| place.join(&target))
                    .unwrap_or(target);
                Err(ConfigError::Dangling { link: path, target })
            }
            Err(_) => Ok(None),
        },
        Err(source) => Err(ConfigError::Unreadable { path, source }),
    }
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

/// The names in a directory that do not begin with a dot, sorted.
pub(super) fn visible_names(directory: &Path) -> Result<Vec<OsString>, ConfigError> {
    let list = || -> io::Result<Vec<OsString>> {
        let names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.retain(|name| !name.as_bytes().starts_with(b"."));
        names.sort();
        Ok(names)
    };
    list().map_err(|source| ConfigError::Unreadable {
        path: directory.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::fault_in_name;

    #[test]
    fn a_guest_is_one_visible_entry_of_the_tree() {
        let longest = [b'a'; 255];
        for good in [
            &b"web"[..],
            b"web.example.org",
            b"a b",
            b"caf\xe9",
            b"a\nb",
            b"-",
            &longest,
        ] {
            assert_eq!(fault_in_name(OsStr::from_bytes(good)), None);
        }
        let too_long = [b'a'; 256];
        for bad in [
            &b""[..],
            b".",
            b"..",
            b".defaults",
            b"a/b",
            b"/a",
            b"a/",
            b"a\0",
            &too_long,
        ] {
            assert!(fault_in_name(OsStr::from_bytes(bad)).is_some(), "{bad:?}");
        }
    }
}
