//! A shared writable mapping of a whole file.

use std::fs::File;

use memmap2::MmapMut;

/// A mapping; dropping it unmaps.
pub struct Mapping(MmapMut);

impl Mapping {
    /// Maps all of a file that is open for reading and writing.
    pub fn of(file: &File) -> Self {
        // SAFETY: nobody else writes to the file or truncates it while it is mapped: a writer of
        // the torture has its files for itself, and runs only read and rename.
        #[allow(unsafe_code)]
        let mapping = unsafe { MmapMut::map_mut(file) };
        Self(mapping.unwrap())
    }

    /// The file's bytes; what is written here is written to the file.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
