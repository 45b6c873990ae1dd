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

use crate::PackageError;
use crate::configuration_files::{ConfigurationFiles, Excessive};
use crate::root::Root;

pub(crate) fn read(root: &Root<'_>, files: &mut ConfigurationFiles) -> Result<bool, PackageError> {
    let Some(packages) = root.list(Path::new("var/lib/pacman/local"))? else {
        return Ok(false);
    };
    for package in packages {
        // ALPM_DB_VERSION, a plain file among the directories, has nothing below it to be read.
        if let Some(file) = root.read(&package.join("files"))? {
            parse(&file.bytes, files).map_err(|Excessive(reason)| PackageError::Database {
                path: file.path,
                reason,
            })?;
        }
    }
    Ok(true)
}

pub(crate) fn parse(text: &[u8], files: &mut ConfigurationFiles) -> Result<(), Excessive> {
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
                files.add(&[&line[..end]])?;
            }
            _ => {}
        }
    }
    Ok(())
}
