//! Real Debian guests, built once by `fixtures/guests.sh` and kept in `target/guests`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::built;
use super::filesystem::command;

/// Where the pristine guests are: directories `alpha` and `beta`.
pub fn pristine() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = std::env::var_os("VHASHIFY_GUESTS")
            .map_or_else(|| built::target().join("guests"), PathBuf::from);
        command(Command::new(script()).arg(&place));
        place
    })
}

/// Copies a pristine guest, with everything that its inodes carry.
pub fn copy(name: &str, to: &Path) {
    let from = pristine().join(name);
    if !from.is_dir() {
        command(Command::new(script()).arg(pristine()).arg(name));
    }
    command(
        Command::new("cp")
            .args(["-a", "--reflink=never"])
            .args([&from, to]),
    );
}

fn script() -> PathBuf {
    built::repository().join("fixtures/guests.sh")
}
