//! The reference guests of a guest, with whose files its own are compared path by path:
//!
//! ```text
//! /etc/vservers/
//!   base/                          a guest
//!   web/apps/vunify/
//!     refserver.00 -> ../../../base      its first reference guest
//!     refserver.01 -> /etc/vservers/mail the next, and so on by name
//! ```

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::tree::{directory, visible_names};
use super::{ConfigError, ConfigTree};

/// The prefix of these links' names.
const PREFIX: &[u8] = b"refserver.";

impl ConfigTree {
    /// The reference guests of the guest `name`: those to whose directories in this tree
    /// `apps/vunify/refserver.*` lead, sorted by the names of these links, each guest once.
    ///
    /// # Errors
    /// A link that leads nowhere, to no guest of this tree, or to the guest itself; what cannot be
    /// read.
    pub fn references(&self, name: &OsStr) -> Result<Vec<OsString>, ConfigError> {
        let own = self.vunify(name);
        let mut entries = match directory(&own)? {
            Some(_) => visible_names(&own)?,
            None => Vec::new(),
        };
        entries.retain(|entry| entry.as_bytes().starts_with(PREFIX));
        let mut references: Vec<OsString> = Vec::new();
        for entry in entries {
            let entry = own.join(entry);
            // Removed meanwhile, if there is none.
            let Some(found) = directory(&entry)? else {
                continue;
            };
            let identity = identity_of(&found)?;
            if identity == identity_of(&self.top().join(name))? {
                return Err(ConfigError::ReferenceItself { entry });
            }
            let Some(guest) = self.guest_at(identity)? else {
                return Err(ConfigError::NoReference {
                    entry,
                    directory: found,
                    tree: self.top().to_path_buf(),
                });
            };
            if !references.contains(&guest) {
                references.push(guest);
            }
        }
        Ok(references)
    }

    /// The guest whose directory this is.
    fn guest_at(&self, identity: (u64, u64)) -> Result<Option<OsString>, ConfigError> {
        for name in self.all_names()? {
            if identity_of(&self.top().join(&name))? == identity {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Device and inode: the same for every path that leads to the directory.
fn identity_of(directory: &Path) -> Result<(u64, u64), ConfigError> {
    match fs::metadata(directory) {
        Ok(of) => Ok((of.dev(), of.ino())),
        Err(source) => Err(ConfigError::Unreadable {
            path: directory.to_path_buf(),
            source,
        }),
    }
}
