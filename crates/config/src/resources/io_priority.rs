//! `ionice`: how a guest's processes come to disks.

use std::path::Path;

use super::super::ConfigError;
use super::super::values::{invalid, number, value};

/// A class and a level of `ioprio_set(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoPriority {
    /// 1 real time, 2 best effort, 3 idle.
    pub class: u8,
    /// 0 first to 7 last.
    pub level: u8,
}

/// `class`, by number or name, and `priority` or `prio`.
pub fn read(directory: &Path) -> Result<Option<IoPriority>, ConfigError> {
    let path = directory.join("class");
    let class = match value(&path)?.as_deref() {
        None => None,
        Some("0" | "none") => Some(0),
        Some("1" | "realtime" | "rt") => Some(1),
        Some("2" | "best-effort" | "be") => Some(2),
        Some("3" | "idle") => Some(3),
        Some(other) => {
            let reason = format!("{other:?} is no class; write realtime, best-effort or idle");
            return Err(invalid(&path, &reason));
        }
    };
    let mut level = None;
    for name in ["priority", "prio"] {
        let path = directory.join(name);
        let expected = "a number from 0 to 7";
        match number(&path, expected)? {
            Some(given @ 0..=7) => level = level.or(Some(given)),
            Some(other) => return Err(invalid(&path, &format!("{other} is not {expected}"))),
            None => {}
        }
    }
    Ok(match (class, level) {
        (None, None) | (Some(0), _) => None,
        (class, level) => Some(IoPriority {
            class: class.unwrap_or(2),
            // As ionice(1) has it.
            level: if class == Some(3) {
                0
            } else {
                level.unwrap_or(4)
            },
        }),
    })
}
