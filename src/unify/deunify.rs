//! The reverse of unification: a guest, or paths of it, get their own copies back.
//!
//! `private_copies` does it; this file says for which files.

use std::collections::HashSet;
use std::path::PathBuf;

use vhashify_sys::lease::ignore_break_signal;
use vhashify_sys::stamp::{Timestamp, wait_for_next_second, wait_for_next_tick};

use super::deunify_report::DeunifyReport;
use super::group::inodes;
use super::path_filter::PathFilter;
use super::private_copies::Deunifier;
use super::recover::recover;
use super::source::Source;
use super::target::{lock, work_directory};
use crate::error::Error;
use crate::guest::{InodeUsers, StoreLocation};
use crate::outcome::{FileError, Progress, Skip};
use crate::relink::exchange::ExchangeError;
use crate::relink::work_directory::WorkDirectory;
use crate::scan::{FileRecord, Request, Scan, scan};
use crate::store::{Announced, Listed, Store, Wait};

/// How it is to be done.
#[derive(Debug, Clone, Copy)]
pub struct DeunifyOptions {
    /// Change nothing and say what would be done.
    pub dry_run: bool,
    /// What to do while another run holds the store.
    pub wait: Wait,
}

/// Gives the guest its own copies of everything at or below `paths` (of all of it, if empty).
///
/// # Errors
/// What stops it before anything was changed: a path that is not in the guest, the store's lock.
pub fn deunify(
    location: &StoreLocation,
    source: &Source,
    paths: &[PathBuf],
    options: DeunifyOptions,
    progress: &dyn Progress,
) -> Result<DeunifyReport, Error> {
    ignore_break_signal();
    let guest = &source.guest;
    let wanted = PathFilter::new(guest, paths)?;
    let mut store = Store::open(location)?;
    let lock = lock(&store, options.wait, progress)?;
    // Brokers need not look where no name is replaced. Without this nothing below writes.
    let announced = (!options.dry_run).then(|| lock.announce());
    let work = (!options.dry_run)
        .then(|| work_directory(&store, &lock))
        .transpose()?;
    let (listed, _) = store.list()?;

    progress.stage("scan", None);
    let mut report = DeunifyReport {
        dry_run: options.dry_run,
        ..DeunifyReport::default()
    };
    let changing = announced.as_ref().zip(work.as_ref());
    let (began, mut found) = walk(source, &listed, changing, &mut report, progress);
    if !found.errors.is_empty() {
        // In a directory that cannot be read there may be names of any of the files: a link group
        // would be split if it were replaced without them.
        report.errors.append(&mut found.errors);
        return Ok(report);
    }
    let groups: Vec<&[FileRecord]> = inodes(&found.files)
        .filter(|names| names.iter().any(|file| wanted.holds(&found.path_of(file))))
        .collect();
    let (kept, groups): (Vec<_>, Vec<_>) = groups
        .into_iter()
        .map(|names| (names, objection(&found, names)))
        .partition(|(_, objection)| objection.is_some());
    let groups: Vec<&[FileRecord]> = groups.into_iter().map(|(names, _)| names).collect();
    let objections = kept.into_iter().filter_map(|(_, objection)| objection);
    report
        .errors
        .extend(objections.map(|(file, reason)| FileError {
            path: guest.path_of(&found.path_of(file)),
            reason,
        }));
    let bytes: u64 = groups.iter().map(|names| names[0].size()).sum();
    let Some((announced, work)) = changing else {
        report.files_deunified = groups.iter().map(|names| names.len() as u64).sum();
        report.bytes_copied = bytes;
        return Ok(report);
    };

    progress.stage("deunify", Some(bytes));
    let deunifier = Deunifier::new(announced, work, guest, &found, began, &mut report);
    deunifier.give_copies(&store, &groups, progress)?;
    Ok(report)
}

/// Why the names of an object stay, and the name that says so.
fn objection<'f>(found: &Scan, names: &'f [FileRecord]) -> Option<(&'f FileRecord, String)> {
    if let Some(file) = names.iter().find(|file| found.keeps_names(file.directory)) {
        return Some((file, ExchangeError::DirectoryKeepsNames.to_string()));
    }
    let of_one = |file: &&FileRecord| found.other_use(std::slice::from_ref(*file)).is_some();
    let file = names.iter().find(of_one)?;
    let reason = match found.other_use(names)? {
        Skip::InOverlay => {
            "a mounted overlay has it in its upper directory; unmount the overlay and run it again"
        }
        _ => "it is mounted somewhere, or something over it; unmount that and run it again",
    };
    Some((file, reason.to_owned()))
}

/// Walks the guest for the files that are objects, sorted by inode, and says when the walk began. What an interrupted
/// run has left there is recovered before.
fn walk(
    source: &Source,
    listed: &[Listed],
    changing: Option<(&Announced<'_>, &WorkDirectory)>,
    report: &mut DeunifyReport,
    progress: &dyn Progress,
) -> (Timestamp, Scan) {
    let Source { guest, rules } = source;
    let left = changing.map(|(_, work)| work.leftovers());
    let left = left.transpose().unwrap_or_else(|failed| {
        report
            .errors
            .push(FileError::failed(failed, guest.vdir.clone()));
        None
    });
    let left = left.unwrap_or_default();
    let wanted = left.directories();
    let users = InodeUsers::look(&[guest], &mut |line| progress.note(line));
    let walk = || {
        scan(
            &[Request { guest, rules }],
            0,
            None,
            &users,
            &wanted,
            progress,
        )
    };
    let mut began = wait_for_next_tick();
    let mut found = walk();
    if let Some((announced, work)) = changing {
        if !(found.leftovers.is_empty() && left.names.is_empty()) {
            let all = listed.iter().map(|object| (object.inode, object.name));
            report
                .errors
                .extend(recover(announced, work, &left, &[guest], &found, all));
            began = wait_for_next_tick();
            found = walk();
        }
        work.tidy(left);
    }
    let objects: HashSet<u64> = listed.iter().map(|&Listed { inode, .. }| inode).collect();
    let is_object = |file: &FileRecord| objects.contains(&file.inode());
    // Where the filesystem keeps whole seconds, a change of this very second could not be told from one to come.
    let is_doubtful = |file: &FileRecord| {
        let ctime = found.stamp_of(file).ctime;
        is_object(file) && ctime.is_in_seconds() && !ctime.is_outside_since(began)
    };
    if found.files.iter().any(is_doubtful) {
        began = wait_for_next_second();
        found = walk();
    }
    found.files.retain(is_object);
    found
        .files
        .sort_unstable_by_key(|file| (file.inode(), file.directory));
    (began, found)
}
