//! The directory of one machine: its disks, and what it tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use vhashify_testkit::built;

/// A directory for one machine.
#[derive(Debug)]
pub struct Place(pub PathBuf);

impl Place {
    /// One that nobody else has.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_those_of_earlier_runs();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vm-{}-{number}", std::process::id());
        let path = built::scratch().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// What one of its files holds; nothing where there is none.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.0.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// There is nothing in it that anybody wants to see.
    pub fn forget(&self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for disk in ["programs.img", "scratch.img"] {
            drop(fs::remove_file(self.0.join(disk)));
        }
    }
}

/// Machines that failed leave their logs, and killed tests all: the next run takes them away.
fn remove_those_of_earlier_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let place = built::scratch();
        for entry in fs::read_dir(place).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name
                .strip_prefix("vm-")
                .and_then(|rest| rest.split('-').next());
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    });
}
