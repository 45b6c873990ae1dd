//! Carries a plan out, so that it can be taken back until it is proven right.
//!
//! All steps for one identity are one [`Transaction`], which is not final when [`Applier::apply`]
//! returns: the worker goes on with other files, and finishes it a little later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use super::object::{self, ProvenObject};
use super::plan::Step;
use super::shared::{ObjectState, Shared};
use super::transaction::{GRACE, Object, Replacement, Transaction};
use super::worker_stats::Tally;
use crate::identity::{Digester, Identity};
use crate::identity::{Leased, Proven, Unproven, look_again};
use crate::outcome::{FileError, Skip};
use crate::relink::directory_times::DirectoryTimes;
use crate::relink::exchange::{Exchanged, Refused};
use crate::relink::private_copy::private_copy;
use crate::relink::stray_links::LateNames;
use crate::relink::temporary::Purpose;
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
    shared: &'a Shared<'a>,
    times: &'a DirectoryTimes,
    directories: HashMap<u32, Rc<OwnedFd>>,
    /// Directories whose times this worker has asked to be kept.
    begun: HashSet<u32>,
    waiting: VecDeque<(Instant, Transaction)>,
    /// What was taken back, to be looked at once more.
    taken_back: Vec<(FileRecord, LateNames<'a>)>,
    held: usize,
    /// What it reads files with.
    pub digester: Digester,
}

impl<'a> Applier<'a> {
    /// A worker with nothing in hand.
    #[must_use]
    pub fn new(shared: &'a Shared<'a>, times: &'a DirectoryTimes) -> Self {
        Self {
            shared,
            times,
            directories: HashMap::new(),
            begun: HashSet::new(),
            waiting: VecDeque::new(),
            taken_back: Vec::new(),
            held: 0,
            digester: Digester::default(),
        }
    }

    /// Opens and leases a file that the scan found, if it is still the same.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn lease(&mut self, file: &FileRecord) -> Result<Leased, Unproven> {
        let leased = Leased::new(self.open(file)?)?;
        if leased
            .stamp
            .is_unchanged_since(&self.shared.scan.stamp_of(file))
        {
            Ok(leased)
        } else {
            Err(Unproven::Skipped(Skip::Changed))
        }
    }

    /// Opens what has the name of a file that the scan found, whatever it may be by now.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn open(&mut self, file: &FileRecord) -> Result<OwnedFd, Unproven> {
        let directory = self
            .directory(file.directory)
            .map_err(|errno| unopened("openat2", errno))?;
        let name = self.shared.scan.name_of(file);
        resolve::open_file(directory.as_fd(), name).map_err(|errno| unopened("openat2", errno))
    }

    /// Reads one file with all of its `names` for what it is. `None`, and it is counted, where that
    /// cannot be told.
    pub fn prove(&mut self, names: &[FileRecord], tally: &mut Tally) -> Option<Proven> {
        let shared = self.shared;
        let file = &names[0];
        let size = file.size();
        let read = self.lease(file).and_then(|leased| {
            tally.files_hashed += 1;
            tally.bytes_hashed += size;
            leased.prove(shared.mtime, &mut self.digester)
        });
        shared.progress.advance(size);
        read.map_err(|why| tally.unproven(why, shared.host_path(file), count(names), size))
            .ok()
    }

    /// Does what `steps` say for files of one identity. `objects` are those that exist.
    pub fn apply(
        &mut self,
        identity: Identity,
        steps: &[Step],
        participants: &mut [Participant<'_>],
        objects: &[ObjectState],
        tally: &mut Tally,
    ) {
        let mut transaction = Transaction::default();
        // The object of the steps at hand, or why it is not linked.
        let mut current: Option<(u32, Result<usize, Skip>)> = None;
        for step in steps {
            if tally.fatal.is_some() {
                break;
            }
            match *step {
                Step::Create { member, instance } => {
                    let name = ObjectName { identity, instance };
                    let participant = &mut participants[member];
                    let is_copy = self.shared.protection.wants_copies();
                    let made = if is_copy {
                        self.create_copy(name, participant, tally)
                    } else {
                        self.create(name, participant, tally)
                    };
                    let made = transaction.add(made.ok_or(Skip::ObjectGone));
                    current = Some((instance, made));
                    if let (true, Ok(object)) = (is_copy, made) {
                        self.replace(identity, participant, object, &mut transaction, tally);
                        if let Some(done) = transaction.replacements.last_mut() {
                            done.is_by_its_copy = done.object == object;
                        }
                    }
                }
                Step::Replace { member, instance } => {
                    if current.is_none_or(|(number, _)| number != instance) {
                        let state = objects.iter().find(|state| state.name.instance == instance);
                        let found = state.ok_or(Skip::ObjectGone);
                        let found = found.and_then(|state| self.open_object(state, tally));
                        current = Some((instance, transaction.add(found)));
                    }
                    let participant = &mut participants[member];
                    match current {
                        Some((_, Ok(object))) => {
                            self.replace(identity, participant, object, &mut transaction, tally);
                        }
                        Some((_, Err(skip))) => {
                            tally.skipped.add(skip, count(participant.files));
                        }
                        None => {}
                    }
                }
            }
        }
        self.held += transaction.descriptors();
        self.waiting.push_back((Instant::now(), transaction));
        self.finish_due(tally);
    }

    /// Finishes all that waits.
    pub fn finish_all(&mut self, tally: &mut Tally) {
        while let Some((begun, transaction)) = self.waiting.pop_front() {
            self.finish(begun, transaction, tally);
        }
        self.lead_late(tally);
    }

    fn finish_due(&mut self, tally: &mut Tally) {
        while let Some((begun, _)) = self.waiting.front() {
            if begun.elapsed() < GRACE && self.held < self.shared.allowance.waiting {
                return;
            }
            if let Some((begun, transaction)) = self.waiting.pop_front() {
                self.finish(begun, transaction, tally);
            }
        }
    }

    fn finish(&mut self, begun: Instant, transaction: Transaction, tally: &mut Tally) {
        if let Some(rest) = GRACE.checked_sub(begun.elapsed()) {
            std::thread::sleep(rest);
        }
        self.held -= transaction.descriptors();
        self.taken_back
            .extend(transaction.finish(self.shared, tally));
        if self.taken_back.len() >= self.shared.allowance.taken_back {
            self.lead_late(tally);
        }
    }

    /// Looks once more at what was taken back, a little later.
    fn lead_late(&mut self, tally: &mut Tally) {
        if self.taken_back.is_empty() {
            return;
        }
        std::thread::sleep(GRACE);
        let shared = self.shared;
        let all = std::mem::take(&mut self.taken_back);
        let names: Vec<&LateNames<'_>> = all.iter().map(|(_, names)| names).collect();
        for (which, stuck) in LateNames::lead_all(&names) {
            tally.errors.push(stuck.at(shared.host_path(&all[which].0)));
        }
    }

    /// Makes the participant's inode an object.
    fn create(
        &mut self,
        name: ObjectName,
        participant: &mut Participant<'_>,
        tally: &mut Tally,
    ) -> Option<Object> {
        let shared = self.shared;
        let proven = self.take_proof(name.identity, participant, tally)?;
        let Proven { leased, .. } = proven;
        let path = || shared.store.path_of(&name);
        let failed = |call, errno: Errno, tally: &mut Tally| {
            tally.failed(FileError::call(call, path(), &errno.into()), errno);
            None
        };
        // A name that leads to this inode after a power cut must lead to its content, too, which
        // may not be on the disk yet if it was written since the filesystem was synchronised.
        if leased.stamp.ctime >= shared.synchronised
            && !fault::is_omitted(Point::ObjectSync)
            && let Err(errno) = fault::at(Point::ObjectSync, || {
                rustix::fs::fdatasync(leased.file.as_fd())
            })
        {
            return failed("fdatasync", errno, tally);
        }
        match shared.store.insert(shared.lock, &name, leased.file.as_fd()) {
            Ok(()) => {}
            Err(Errno::MLINK) => {
                tally
                    .skipped
                    .add(Skip::TooManyLinks, count(participant.files));
                return None;
            }
            Err(errno) => return failed("linkat", errno, tally),
        }
        if let Err(errno) = shared.protection.protect(leased.file.as_fd()) {
            if let Err(errno) = shared.store.remove(shared.lock, &name) {
                tally.failed(FileError::call("unlinkat", path(), &errno.into()), errno);
            }
            return failed("ioctl(FS_IOC_SETFLAGS)", errno, tally);
        }
        tally.objects_created += 1;
        Some(Object {
            inode: leased.stamp.inode,
            // And its name in the store.
            links: leased.stamp.link_count + 1,
            file: leased.file,
            name,
            is_new: true,
            must_stay: false,
            guests: participant.guests.clone(),
        })
    }

    /// Makes a copy of the participant's file an object. The file itself keeps its names.
    fn create_copy(
        &mut self,
        name: ObjectName,
        participant: &mut Participant<'_>,
        tally: &mut Tally,
    ) -> Option<Object> {
        let shared = self.shared;
        let proven = self.take_proof(name.identity, participant, tally)?;
        let leased = &participant.proven.insert(proven).leased;
        let copied = private_copy(&leased.file, &leased.stamp, shared.store.directory());
        let made = copied.and_then(|copy| {
            let call = |name: &'static str| move |errno: Errno| (name, errno.into());
            let object = copy.as_fd();
            let protected = shared.protection.protect(object);
            protected.map_err(call("ioctl(FS_IOC_ENABLE_VERITY)"))?;
            // A name that leads to it after a power cut must lead to its content, too.
            let synchronised = fault::at(Point::ObjectSync, || rustix::fs::fdatasync(object));
            synchronised.map_err(call("fdatasync"))?;
            let inserted = shared.store.insert(shared.lock, &name, object);
            inserted.map_err(call("linkat"))?;
            let inode = Stamp::of(object).map_err(call("statx"))?.inode;
            Ok((copy, inode))
        });
        match made {
            Ok((file, inode)) => {
                tally.objects_created += 1;
                Some(Object {
                    file,
                    inode,
                    links: 1,
                    name,
                    is_new: true,
                    must_stay: false,
                    guests: Vec::new(),
                })
            }
            Err((call, error)) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                let error = FileError::call(call, shared.store.path_of(&name), &error);
                tally.failed(error, errno);
                None
            }
        }
    }

    /// Opens an object that is to be linked, if the guests that have it are those that were found.
    fn open_object(&mut self, state: &ObjectState, tally: &mut Tally) -> Result<Object, Skip> {
        let shared = self.shared;
        let proven = state.proven.as_ref();
        let opened = object::open(shared, &state.name, proven, &mut self.digester);
        let ProvenObject { file, stamp } = opened.map_err(|error| {
            // Where it is gone, the next run makes it anew.
            tally.errors.extend(error);
            Skip::ObjectGone
        })?;
        if !shared.has_names_as_found(state, &stamp) {
            return Err(Skip::Changed);
        }
        Ok(Object {
            file,
            inode: stamp.inode,
            links: stamp.link_count,
            name: state.name,
            is_new: false,
            must_stay: false,
            guests: Vec::new(),
        })
    }

    /// Replaces every name of the participant by a link to the object.
    fn replace(
        &mut self,
        identity: Identity,
        participant: &mut Participant<'_>,
        object: usize,
        transaction: &mut Transaction,
        tally: &mut Tally,
    ) {
        let Some(Proven { leased, .. }) = self.take_proof(identity, participant, tally) else {
            return;
        };
        let new = &transaction.objects[object];
        if look_again(&new.file, &identity).is_err() {
            tally
                .skipped
                .add(Skip::OpenForWriting, count(participant.files));
            return;
        }
        let old = leased.stamp.inode;
        let mut names = Vec::with_capacity(participant.files.len());
        let mut refused = None;
        for file in participant.files {
            let exchanged = self
                .directory(file.directory)
                .map_err(|_| Refused::Changed)
                .and_then(|directory| {
                    let name = self.shared.scan.name_of(file);
                    if self.begun.insert(file.directory) {
                        self.times.begin(file.directory, directory.as_fd());
                    }
                    Exchanged::new(directory, name, Purpose::Share, new.file.as_fd(), new.inode)
                });
            let reason = match exchanged {
                Ok(exchanged) => {
                    let is_meant = exchanged.holds(old);
                    names.push(exchanged);
                    if is_meant {
                        continue;
                    }
                    Refused::Changed
                }
                Err(reason) => reason,
            };
            refused = Some((reason, file));
            break;
        }
        if let Some((reason, file)) = refused {
            // A link group is replaced whole or not at all.
            let back = new.take_back(names, &leased.file, &participant.guests, self.shared);
            match back {
                Ok(late) => self.taken_back.extend(late.map(|names| (*file, names))),
                Err(stuck) => {
                    transaction.objects[object].stuck(stuck, self.shared.host_path(file), tally);
                }
            }
            self.count_refusal(reason, file, participant.files, tally);
            return;
        }
        transaction.objects[object].links += u32::try_from(names.len()).unwrap_or(0);
        transaction.replacements.push(Replacement {
            object,
            old: leased.file,
            stamp: leased.stamp,
            identity,
            file: participant.files[0],
            guests: participant.guests.clone(),
            names,
            is_by_its_copy: false,
        });
    }

    fn count_refusal(
        &self,
        reason: Refused,
        file: &FileRecord,
        files: &[FileRecord],
        tally: &mut Tally,
    ) {
        let skip = match reason {
            Refused::Changed => Skip::Changed,
            Refused::NameTaken => Skip::NameTaken,
            Refused::SourceGone => Skip::ObjectGone,
            Refused::Failed(_, Errno::MLINK) => Skip::TooManyLinks,
            Refused::Failed(_, Errno::XDEV) => Skip::CannotLink,
            Refused::Failed(call, errno) => {
                let path = self.shared.host_path(file);
                tally.failed(FileError::call(call, path, &errno.into()), errno);
                return;
            }
        };
        tally.skip(skip, count(files), file.size());
    }

    /// The participant's proof, made again where it was given back.
    fn take_proof(
        &mut self,
        identity: Identity,
        participant: &mut Participant<'_>,
        tally: &mut Tally,
    ) -> Option<Proven> {
        if let Some(proven) = participant.proven.take() {
            return Some(proven);
        }
        let file = &participant.files[0];
        let read = self
            .lease(file)
            .and_then(|leased| leased.prove(identity.mtime, &mut self.digester));
        match read {
            Ok(proven) if proven.identity == identity => {
                tally.files_hashed += 1;
                tally.bytes_hashed += file.size();
                Some(proven)
            }
            Ok(_) => {
                let names = count(participant.files);
                tally.skip(Skip::Changed, names, file.size());
                None
            }
            Err(unproven) => {
                tally.unproven(
                    unproven,
                    self.shared.host_path(file),
                    count(participant.files),
                    file.size(),
                );
                None
            }
        }
    }

    fn directory(&mut self, directory: u32) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(open) = self.directories.get(&directory) {
            return Ok(Rc::clone(open));
        }
        let open = Rc::new(self.shared.open(directory)?);
        if self.directories.len() >= self.shared.allowance.directories {
            self.directories.clear();
        }
        self.directories.insert(directory, Rc::clone(&open));
        Ok(open)
    }
}

fn count(files: &[FileRecord]) -> u64 {
    files.len() as u64
}

fn unopened(call: &'static str, errno: Errno) -> Unproven {
    match errno {
        // Gone, or something else took the place: a symbolic link, a mount.
        Errno::NOENT | Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
            Unproven::Skipped(Skip::Changed)
        }
        _ => Unproven::Failed(call, errno.into()),
    }
}
