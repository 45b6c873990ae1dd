//! pacman: a directory for each installed package, and in its `files` the section `%BACKUP%`.
//!
//! ```text
//! %FILES%
//! etc/
//! etc/foo.conf
//!
//! %BACKUP%
//! etc/foo.conf<TAB>d41d8cd98f00b204e9800998ecf8427e
//! ```

use std::path::Path;

use super::configuration_files::{Excessive, Found};
use super::root::Guest;
use crate::PackageError;

pub(super) fn read(guest: &Guest<'_>, found: &mut Found) -> Result<bool, PackageError> {
    let Some(packages) = guest.list(Path::new("var/lib/pacman/local"))? else {
        return Ok(false);
    };
    for package in packages {
        // ALPM_DB_VERSION, a plain file among the directories, has nothing below it to be read.
        if let Some(file) = guest.read(&package.join("files"))? {
            parse(&file.bytes, found).map_err(|Excessive(reason)| PackageError::Database {
                path: file.path,
                reason,
            })?;
        }
    }
    Ok(true)
}

pub(super) fn parse(text: &[u8], found: &mut Found) -> Result<(), Excessive> {
    let mut in_backup = false;
    for line in text.split(|byte| *byte == b'\n') {
        match line {
            [] => in_backup = false,
            b"%BACKUP%" => in_backup = true,
            line if in_backup => {
                // The hash follows the last tab; a name may hold tabs of its own.
                let end = line
                    .iter()
                    .rposition(|byte| *byte == b'\t')
                    .unwrap_or(line.len());
                found.add(&[&line[..end]])?;
            }
            _ => {}
        }
    }
    Ok(())
}
