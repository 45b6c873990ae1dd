//! The kernels that machines boot, as `fixtures/machines.sh` has fetched them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use vhashify_testkit::built;
use vhashify_testkit::filesystem::command;

/// A kernel of Debian's.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its directory in what `fixtures/machines.sh` made, and what results call it.
    pub name: String,
}

impl Kernel {
    /// That of Debian 12 (6.1) or 13 (6.12).
    pub fn debian(release: u32) -> Self {
        Self::named(&format!("debian-{release}"))
    }

    /// The newest of Debian 13's backports.
    pub fn backports() -> Self {
        Self::named("backports")
    }

    /// One of each series between these that the mirror has, from old to new.
    pub fn between() -> Vec<Self> {
        make(&["between"]);
        let mut kernels: Vec<Self> = fs::read_dir(place())
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().join("vmlinuz").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with("between-"))
            .map(|name| Self::named(&name))
            .collect();
        kernels.sort_by_key(Self::series);
        kernels
    }

    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Where its files are.
    pub fn directory(&self) -> PathBuf {
        made().join(&self.name)
    }

    /// What `uname -r` says under it.
    pub fn version(&self) -> String {
        let version = fs::read_to_string(self.directory().join("version")).unwrap();
        version.trim_end().to_owned()
    }

    /// `(6, 12)` of 6.12.95.
    pub fn series(&self) -> (u32, u32) {
        let version = self.version();
        let mut numbers = version.split('.').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        (next(), next())
    }
}

/// What `fixtures/machines.sh` made, once for all tests: the kernels that are always there, and disks.
pub fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        make(&[]);
        place()
    })
}

fn place() -> PathBuf {
    built::scratch().parent().unwrap().join("vm")
}

fn make(arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/machines.sh");
    command(Command::new(script).arg(place()).args(arguments));
}
