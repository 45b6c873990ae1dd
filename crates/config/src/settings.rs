//! The settings of the tree that running a guest reads.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::fstab::{self, FstabEntry};
use super::init::InitSettings;
use super::interfaces::{self, Interface};
use super::limits::{self, Limit};
use super::resources::Resources;
use super::values::{arguments, invalid, number, value, words};
use super::{ConfigError, ConfigTree, catalogue};

/// Everything that starting, stopping and entering a guest needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSettings {
    /// The name of its directory in the tree.
    pub name: String,
    /// That directory.
    pub directory: PathBuf,
    /// Its root directory: absolute, without symbolic links.
    pub vdir: PathBuf,
    /// `context`: its static number; without one it takes a free one at each start.
    pub context: Option<u32>,
    /// `uts/nodename`, else the guest's name.
    pub hostname: String,
    /// `uts/domainname`.
    pub domainname: Option<String>,
    /// `shell`: the program that `enter` runs.
    pub shell: Option<String>,
    /// `apps/init`.
    pub init: InitSettings,
    /// `apps/init/environment` and `environment`: `NAME=VALUE`.
    pub environment: Vec<String>,
    /// `fstab`.
    pub fstab: Vec<FstabEntry>,
    /// `bcapabilities`: words that add to the default set, or with `~` remove from it.
    pub capabilities: Vec<String>,
    /// `flags`.
    pub flags: Vec<String>,
    /// `rlimits` and `ulimits`, for each process of the guest.
    pub limits: Vec<Limit>,
    /// `nice`.
    pub nice: Option<i32>,
    /// `umask`.
    pub umask: Option<u32>,
    /// What the whole guest may use, and attributes that all its processes have.
    pub resources: Resources,
    /// `cgroup`: files of controllers and their values, by name.
    pub cgroup: Vec<(String, String)>,
    /// `interfaces`.
    pub interfaces: Vec<Interface>,
    /// Whether the guest shares the host's network: `nonetns`, or `spaces/net` with `host`.
    pub shares_network: bool,
    /// `spaces/user`: whose users its users are.
    pub users: Users,
}

/// Whose users a guest's users are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Users {
    /// Its own, which are nobody on the host; the host's where it cannot have them.
    #[default]
    OwnIfPossible,
    /// `own`: it does not start without.
    Own,
    /// `host`: the host's.
    Host,
}

impl GuestSettings {
    /// Reads the directory of a guest, and warns of settings without effect.
    pub(super) fn read(
        tree: &ConfigTree,
        name: &OsStr,
        directory: &Path,
    ) -> Result<Self, ConfigError> {
        catalogue::warn_of_what_has_no_effect(directory);
        let name = name.to_string_lossy().into_owned();
        let at = |below: &str| directory.join(below);
        let mut environment = Vec::new();
        for file in ["environment", "apps/init/environment"] {
            let lines = arguments(&at(file))?.unwrap_or_default();
            environment.extend(lines.into_iter().filter(|line| line.contains('=')));
        }
        let umask = value(&at("umask"))?
            .map(|text| {
                let wrong = || invalid(&at("umask"), "it is not an octal number");
                u32::from_str_radix(&text, 8)
                    .ok()
                    .filter(|mask| *mask <= 0o777)
                    .ok_or_else(wrong)
            })
            .transpose()?;
        let context = number(&at("context"), "a number from 2 to 65535")?;
        if context.is_some_and(|context| !(2..=65535).contains(&context)) {
            let reason = "it is not a number from 2 to 65535";
            return Err(invalid(&at("context"), reason));
        }
        let shares_network = at("nonetns").exists()
            || value(&at("spaces/net"))?.is_some_and(|space| space == "host");
        let users = match value(&at("spaces/user"))?.as_deref() {
            None => Users::default(),
            Some("host") => Users::Host,
            Some("own") if shares_network => {
                let reason = "a guest with users of its own cannot share the host's network; remove this, \
                              or nonetns and spaces/net";
                return Err(invalid(&at("spaces/user"), reason));
            }
            Some("own") => Users::Own,
            Some(_) => {
                let reason = "it is neither own nor host";
                return Err(invalid(&at("spaces/user"), reason));
            }
        };
        Ok(Self {
            vdir: tree.vdir(OsStr::new(&name))?,
            context,
            hostname: value(&at("uts/nodename"))?.unwrap_or_else(|| name.clone()),
            domainname: value(&at("uts/domainname"))?,
            shell: value(&at("shell"))?,
            init: InitSettings::read(&at("apps/init"))?,
            environment,
            fstab: fstab::read(&at("fstab"))?,
            capabilities: words(&at("bcapabilities"))?,
            resources: Resources::read(directory, &words(&at("flags"))?)?,
            flags: words(&at("flags"))?,
            limits: limits::of_processes(&[at("rlimits"), at("ulimits")])?,
            nice: number(&at("nice"), "a number")?,
            umask,
            cgroup: cgroup(&at("cgroup"))?,
            interfaces: interfaces::read(&at("interfaces"))?,
            shares_network,
            users,
            directory: directory.to_path_buf(),
            name,
        })
    }
}

impl GuestSettings {
    /// `apps/vunify/broker`: links are broken for it while it runs.
    #[must_use]
    pub fn has_broker(&self) -> bool {
        self.directory.join("apps/vunify/broker").exists()
    }

    /// `apps/vunify/unguarded`: it starts also where the guard, on which its shared files count, does not hold.
    #[must_use]
    pub fn may_be_unguarded(&self) -> bool {
        self.directory.join("apps/vunify/unguarded").exists()
    }
}

/// The limits in a directory that is laid out as `rlimits` is: of each process, and of the guest.
///
/// # Errors
/// A value that is none.
pub fn limits_in(directory: &Path) -> Result<(Vec<Limit>, Resources), ConfigError> {
    let of_guest = Resources::of_limits(directory)?;
    let mut of_processes = limits::of_processes(&[directory.to_path_buf()])?;
    of_processes.retain(|limit| !limits::is_of_guest(&limit.resource));
    Ok((of_processes, of_guest))
}

/// Files of `cgroup`, in the order of their names.
fn cgroup(directory: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(value) = value(&entry.path())? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}
