//! A log of two files, `NAME` and `NAME.1`, so that whoever writes without end fills no disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

/// The log. Errors are ignored: that it cannot be written must end nobody.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    older: PathBuf,
    /// The length at which the file becomes the older one.
    longest: u64,
    file: Option<File>,
    length: u64,
}

impl BoundedLog {
    /// Goes on with the file at `path`, or makes it.
    pub fn open(path: PathBuf, longest: u64) -> Self {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).open(&path).ok();
        let length = file.as_ref().and_then(|file| file.metadata().ok());
        let mut older = path.clone().into_os_string();
        older.push(".1");
        Self {
            older: older.into(),
            length: length.map_or(0, |found| found.len()),
            path,
            longest,
            file,
        }
    }

    /// Appends some bytes.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.length + bytes.len() as u64 > self.longest {
            drop(fs::rename(&self.path, &self.older));
            self.file = File::create(&self.path).ok();
            self.length = 0;
        }
        if let Some(file) = &mut self.file {
            drop(file.write_all(bytes));
        }
        self.length += bytes.len() as u64;
    }
}
