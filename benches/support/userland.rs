//! The real guests that benchmarks copy.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::place::{succeed, target};

/// The directory of the userlands `alpha` and `beta`, which are built if they are not there.
pub fn built() -> Result<PathBuf> {
    let place = std::env::var_os("VHASHIFY_GUESTS").map_or(target()?.join("guests"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/guests.sh");
    succeed(Command::new(script).arg(&place))?;
    Ok(place)
}

/// Copies a directory with everything that its inodes carry.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    // Extents that are shared already would make a tool that knows them look good.
    succeed(
        Command::new("cp")
            .args(["-a", "--reflink=never", "--"])
            .args([from, to]),
    )
}
