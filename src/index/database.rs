//! The redb file of an index while it is open. Whatever is wrong with its pages, the program goes on.
//!
//! redb panics on some kinds of damage, and can do so while it closes the file, too, since it writes the list of
//! free pages then. [`guarded`] turns each panic into [`IndexFault::Damaged`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::error::IndexFault;

/// How long to wait for another process that has the file open. A report reads it for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file, open for writing; redb locks out all other processes.
#[derive(Debug)]
pub(super) struct OpenDatabase {
    /// `None` only while it is closed.
    database: Option<Database>,
}

impl OpenDatabase {
    /// Opens it, once no other process has it open.
    ///
    /// # Errors
    /// What redb says.
    pub(super) fn open(
        open: impl Fn() -> Result<Database, DatabaseError>,
    ) -> Result<Self, redb::Error> {
        let begun = Instant::now();
        loop {
            match open() {
                Err(DatabaseError::DatabaseAlreadyOpen) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => {
                    let database = Some(opened?);
                    return Ok(Self { database });
                }
            }
        }
    }

    /// # Errors
    /// What redb says.
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, IndexFault> {
        Ok(self.database()?.begin_read()?)
    }

    /// # Errors
    /// What redb says.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction, IndexFault> {
        Ok(self.database()?.begin_write()?)
    }

    /// Closes it, as dropping it does, and says whether it could be.
    ///
    /// # Errors
    /// [`IndexFault::Damaged`]: what was written is not to be relied on.
    pub(super) fn close(mut self) -> Result<(), IndexFault> {
        self.shut()
    }

    fn shut(&mut self) -> Result<(), IndexFault> {
        match self.database.take() {
            Some(database) => guarded(|| {
                drop(database);
                Ok(())
            }),
            None => Ok(()),
        }
    }

    fn database(&self) -> Result<&Database, IndexFault> {
        self.database.as_ref().ok_or(IndexFault::Damaged)
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        // The next run finds the damage.
        drop(self.shut());
    }
}

/// Does `work`, which panics on some kinds of damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, IndexFault>) -> Result<T, IndexFault> {
    // While a panic unwinds, the hook cannot be changed; an outer call has silenced it already.
    let loud = (!std::thread::panicking()).then(std::panic::take_hook);
    if loud.is_some() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(IndexFault::Damaged));
    if let Some(loud) = loud {
        std::panic::set_hook(loud);
    }
    result
}
