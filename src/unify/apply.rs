//! Carries a plan out, so that it can be undone until it is proven right.
//!
//! All steps for one identity are one [`Transaction`], which is not final when [`Applier::apply`]
//! returns: the worker goes on with other files, and finishes it a little later.

use std::collections::{HashSet, VecDeque};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::stamp::Stamp;

use super::object::{self, ProvenObject};
use super::objects::ObjectState;
use super::open_object::OpenObject;
use super::plan::Step;
use super::reader::Reader;
use super::target::Target;
use super::transaction::{GRACE, Replacement, Transaction};
use super::view::{Known, View};
use super::worker_stats::WorkerStats;
use crate::identity::{Identity, Proven};
use crate::outcome::{FileError, Skip};
use crate::relink::directory_times::DirectoryTimes;
use crate::relink::exchange::ExchangeError;
use crate::relink::private_copy::private_copy;
use crate::relink::stray_links::StrayLinks;
use crate::relink::swap::Refused;
use crate::scan::{FileRecord, GuestId};
use crate::store::ObjectName;

/// One inode of guests that takes part in a plan, with all of its names.
#[derive(Debug)]
pub struct Participant<'a> {
    /// Every name, in all guests.
    pub files: &'a [FileRecord],
    /// How many of them in which guest.
    pub guests: Vec<(GuestId, u32)>,
    /// The proof, where it was not given back to save descriptors.
    pub proven: Option<Proven>,
}

/// What one worker carries from one plan to the next.
#[derive(Debug)]
pub struct Applier<'a> {
    view: View<'a>,
    target: &'a Target<'a>,
    times: &'a DirectoryTimes,
    /// Directories whose times this worker has asked to be kept.
    begun: HashSet<u32>,
    waiting: VecDeque<(Instant, Transaction)>,
    /// Files whose replacement was undone, for which stray links are looked for once more.
    undone: Vec<(FileRecord, StrayLinks<'a>)>,
    held: usize,
}

impl<'a> Applier<'a> {
    /// A worker with nothing in hand.
    #[must_use]
    pub fn new(view: View<'a>, target: &'a Target<'a>, times: &'a DirectoryTimes) -> Self {
        Self {
            view,
            target,
            times,
            begun: HashSet::new(),
            waiting: VecDeque::new(),
            undone: Vec::new(),
            held: 0,
        }
    }

    /// Does what `steps` say for files of one identity. `objects` are those that exist.
    pub fn apply(
        &mut self,
        reader: &mut Reader<'_>,
        identity: Identity,
        steps: &[Step],
        participants: &mut [Participant<'_>],
        objects: &[ObjectState],
        stats: &mut WorkerStats,
    ) {
        let mut transaction = Transaction::default();
        // The object of the steps at hand, or why it is not linked.
        let mut current: Option<(u32, Result<usize, Skip>)> = None;
        for step in steps {
            if stats.fatal.is_some() {
                break;
            }
            match *step {
                Step::Create { member, instance } => {
                    let name = ObjectName { identity, instance };
                    let participant = &mut participants[member];
                    let is_copy = self.target.protection.wants_copies();
                    let made = if is_copy {
                        self.create_copy(reader, name, participant, stats)
                    } else {
                        self.create(reader, name, participant, stats)
                    };
                    let made = transaction.add(made.ok_or(Skip::ObjectGone));
                    current = Some((instance, made));
                    if let (true, Ok(object)) = (is_copy, made) {
                        self.replace(
                            reader,
                            identity,
                            participant,
                            object,
                            &mut transaction,
                            stats,
                        );
                        if let Some(done) = transaction.replacements.last_mut() {
                            done.is_by_its_copy = done.object == object;
                        }
                    }
                }
                Step::Replace { member, instance } => {
                    if current.is_none_or(|(number, _)| number != instance) {
                        let known = objects.iter().find(|known| known.name.instance == instance);
                        let found = known.ok_or(Skip::ObjectGone);
                        let found = found.and_then(|known| self.open_object(reader, known, stats));
                        current = Some((instance, transaction.add(found)));
                    }
                    let participant = &mut participants[member];
                    match current {
                        Some((_, Ok(object))) => {
                            self.replace(
                                reader,
                                identity,
                                participant,
                                object,
                                &mut transaction,
                                stats,
                            );
                        }
                        Some((_, Err(skip))) => {
                            stats.skipped.add(skip, count(participant.files));
                        }
                        None => {}
                    }
                }
            }
        }
        self.held += transaction.descriptors();
        self.waiting.push_back((Instant::now(), transaction));
        self.finish_due(stats);
    }

    /// Finishes all that waits.
    pub fn finish_all(&mut self, stats: &mut WorkerStats) {
        while let Some((begun, transaction)) = self.waiting.pop_front() {
            self.finish(begun, transaction, stats);
        }
        self.relink_strays(stats);
    }

    fn finish_due(&mut self, stats: &mut WorkerStats) {
        while let Some((begun, _)) = self.waiting.front() {
            if self.target.protection.needs_grace()
                && begun.elapsed() < GRACE
                && self.held < self.view.effort.workers.budget.waiting
            {
                return;
            }
            if let Some((begun, transaction)) = self.waiting.pop_front() {
                self.finish(begun, transaction, stats);
            }
        }
    }

    fn finish(&mut self, begun: Instant, transaction: Transaction, stats: &mut WorkerStats) {
        let rest = GRACE.checked_sub(begun.elapsed());
        if let Some(rest) = rest.filter(|_| self.target.protection.needs_grace()) {
            std::thread::sleep(rest);
        }
        self.held -= transaction.descriptors();
        self.undone
            .extend(transaction.finish(self.view.known, self.target, stats));
        if self.undone.len() >= self.view.effort.workers.budget.undone {
            self.relink_strays(stats);
        }
    }

    /// Looks once more for stray links to what was undone, a little later: a call of a guest may have been under way.
    fn relink_strays(&mut self, stats: &mut WorkerStats) {
        if self.undone.is_empty() {
            return;
        }
        std::thread::sleep(GRACE);
        let known = self.view.known;
        let all = std::mem::take(&mut self.undone);
        let names: Vec<&StrayLinks<'_>> = all.iter().map(|(_, names)| names).collect();
        for (which, error) in StrayLinks::relink_all(&names) {
            stats.errors.push(error.at(known.host_path(&all[which].0)));
        }
    }

    /// Makes the participant's inode an object.
    fn create(
        &mut self,
        reader: &mut Reader<'_>,
        name: ObjectName,
        participant: &mut Participant<'_>,
        stats: &mut WorkerStats,
    ) -> Option<OpenObject> {
        let (store, target) = (self.view.known.store, self.target);
        let proven = self.take_proof(reader, name.identity, participant, stats)?;
        let Proven { leased, .. } = proven;
        let path = || store.path_of(&name);
        let failed = |call, errno: Errno, stats: &mut WorkerStats| {
            stats.failed(FileError::call(call, path(), &errno.into()), errno);
            None
        };
        // A name that leads to this inode after a power cut must lead to its content, too, which
        // may not be on the disk yet if it was written since the filesystem was synchronised.
        if !leased.stamp.ctime.is_over_at(target.synchronised)
            && !fault::is_omitted(Point::ObjectSync)
            && let Err(errno) = fault::at(Point::ObjectSync, || {
                rustix::fs::fdatasync(leased.file.as_fd())
            })
        {
            return failed("fdatasync", errno, stats);
        }
        match store.insert(target.lock, &name, leased.file.as_fd()) {
            Ok(()) => {}
            Err(Errno::MLINK) => {
                stats
                    .skipped
                    .add(Skip::TooManyLinks, count(participant.files));
                return None;
            }
            Err(errno) => return failed("linkat", errno, stats),
        }
        if let Err(errno) = target.protection.protect(leased.file.as_fd()) {
            if let Err(errno) = store.remove(target.lock, &name) {
                stats.failed(FileError::call("unlinkat", path(), &errno.into()), errno);
            }
            return failed("ioctl(FS_IOC_SETFLAGS)", errno, stats);
        }
        stats.counts.objects_created += 1;
        // And its name in the store.
        let links = leased.stamp.link_count + 1;
        let object = ProvenObject {
            file: leased.file,
            stamp: leased.stamp,
        };
        let guests = participant.guests.clone();
        Some(OpenObject::made(object, name, links, guests))
    }

    /// Makes a copy of the participant's file an object. The file itself keeps its names.
    fn create_copy(
        &mut self,
        reader: &mut Reader<'_>,
        name: ObjectName,
        participant: &mut Participant<'_>,
        stats: &mut WorkerStats,
    ) -> Option<OpenObject> {
        let (store, target) = (self.view.known.store, self.target);
        let proven = self.take_proof(reader, name.identity, participant, stats)?;
        let leased = &participant.proven.insert(proven).leased;
        let copied = private_copy(&leased.file, &leased.stamp, store.directory());
        let made = copied.and_then(|copy| {
            let call = FailedCall::of;
            let object = copy.as_fd();
            let protected = target.protection.protect(object);
            protected.map_err(call("ioctl(FS_IOC_ENABLE_VERITY)"))?;
            // A name that leads to it after a power cut must lead to its content, too.
            let synchronised = fault::at(Point::ObjectSync, || rustix::fs::fdatasync(object));
            synchronised.map_err(call("fdatasync"))?;
            let inserted = store.insert(target.lock, &name, object);
            inserted.map_err(call("linkat"))?;
            let stamp = Stamp::of(object).map_err(call("statx"))?;
            Ok(ProvenObject { file: copy, stamp })
        });
        match made {
            Ok(object) => {
                stats.counts.objects_created += 1;
                Some(OpenObject::made(object, name, 1, Vec::new()))
            }
            Err(FailedCall { call, errno }) => {
                let error = FileError::call(call, store.path_of(&name), &errno.into());
                stats.failed(error, errno);
                None
            }
        }
    }

    /// Opens an object that is to be linked, if the guests that have it are those that were found.
    fn open_object(
        &mut self,
        reader: &mut Reader<'_>,
        known: &ObjectState,
        stats: &mut WorkerStats,
    ) -> Result<OpenObject, Skip> {
        let Known { store, objects, .. } = self.view.known;
        let belief = self.view.known.belief_in(known);
        let opened = object::open(
            store,
            self.target,
            &known.name,
            belief,
            &mut reader.digester,
        );
        let object = opened.map_err(|error| {
            // Where it is gone, the next run makes it anew.
            stats.errors.extend(error);
            Skip::ObjectGone
        })?;
        if !objects.has_names_as_found(known, &object.stamp) {
            return Err(Skip::Changed);
        }
        Ok(OpenObject::found(object, known.name))
    }

    /// Replaces every name of the participant by a link to the object.
    fn replace(
        &mut self,
        reader: &mut Reader<'_>,
        identity: Identity,
        participant: &mut Participant<'_>,
        object: usize,
        transaction: &mut Transaction,
        stats: &mut WorkerStats,
    ) {
        let Some(Proven { leased, .. }) = self.take_proof(reader, identity, participant, stats)
        else {
            return;
        };
        let new = &mut transaction.objects[object];
        if new.look_again().is_err() {
            stats
                .skipped
                .add(Skip::OpenForWriting, count(participant.files));
            return;
        }
        let known = self.view.known;
        let names = participant.files.iter().map(|file| {
            let directory = reader.directory(file.directory);
            let directory = directory.map_err(|_| ExchangeError::Changed)?;
            if self.begun.insert(file.directory) {
                self.times.begin(file.directory, directory.as_fd());
            }
            Ok((directory, known.scan.name_of(file)))
        });
        let pending = match new.swap(self.target.work, leased.stamp.inode, names) {
            Ok(pending) => pending,
            Err(Refused { why, at, pending }) => {
                let file = &participant.files[at];
                // A link group is replaced whole or not at all.
                let work = self.target.work;
                let back = new.undo_names(pending, &leased.file, &participant.guests, known, work);
                match back {
                    Ok(strays) => self.undone.extend(strays.map(|names| (*file, names))),
                    Err(error) => {
                        transaction.objects[object].undo_failed(
                            error,
                            known.host_path(file),
                            stats,
                        );
                    }
                }
                self.count_refusal(why, file, participant.files, stats);
                return;
            }
        };
        transaction.objects[object].add_links(pending.len());
        transaction.replacements.push(Replacement {
            object,
            old: leased.file,
            stamp: leased.stamp,
            identity,
            file: participant.files[0],
            guests: participant.guests.clone(),
            pending,
            is_by_its_copy: false,
        });
    }

    fn count_refusal(
        &self,
        reason: ExchangeError,
        file: &FileRecord,
        files: &[FileRecord],
        stats: &mut WorkerStats,
    ) {
        let skip = match reason {
            ExchangeError::Changed => Skip::Changed,
            ExchangeError::DirectoryKeepsNames => Skip::DirectoryKeepsNames,
            ExchangeError::NameTaken => Skip::NameTaken,
            ExchangeError::SourceGone => Skip::ObjectGone,
            ExchangeError::WorkDirectoryLost => {
                let path = self.view.known.host_path(file);
                let reason = reason.to_string();
                stats.failed(FileError { path, reason }, Errno::NOENT);
                return;
            }
            ExchangeError::Failed(FailedCall {
                errno: Errno::MLINK,
                ..
            }) => Skip::TooManyLinks,
            ExchangeError::Failed(FailedCall {
                errno: Errno::XDEV, ..
            }) => Skip::CannotLink,
            ExchangeError::Failed(FailedCall { call, errno }) => {
                let path = self.view.known.host_path(file);
                stats.failed(FileError::call(call, path, &errno.into()), errno);
                return;
            }
        };
        stats.skip(skip, count(files), file.size());
    }

    /// The participant's proof, made again where it was given back.
    fn take_proof(
        &mut self,
        reader: &mut Reader<'_>,
        identity: Identity,
        participant: &mut Participant<'_>,
        stats: &mut WorkerStats,
    ) -> Option<Proven> {
        if let Some(proven) = participant.proven.take() {
            return Some(proven);
        }
        let file = &participant.files[0];
        match reader.read(file, identity.mtime) {
            Ok(proven) if proven.identity == identity => {
                stats.counts.files_hashed += 1;
                stats.counts.bytes_hashed += file.size();
                Some(proven)
            }
            Ok(_) => {
                let names = count(participant.files);
                stats.skip(Skip::Changed, names, file.size());
                None
            }
            Err(unproven) => {
                stats.unproven(
                    unproven,
                    self.view.known.host_path(file),
                    count(participant.files),
                    file.size(),
                );
                None
            }
        }
    }
}

fn count(files: &[FileRecord]) -> u64 {
    files.len() as u64
}
