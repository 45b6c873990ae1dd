//! The standard streams of a command in a guest, made of those of its caller.
//!
//! | the caller's stream | the command's |
//! | --- | --- |
//! | a terminal | a terminal of the guest ([`terminal`](super::super::terminal)) |
//! | an anonymous pipe, a socket | the same |
//! | `/dev/null` | the guest's own |
//! | a file, a device, a named pipe | a pipe; this process copies |
//! | a directory, a descriptor of `O_PATH` | none: refused |
//!
//! The guest's root may do with an inode what its owner may: open it anew for writing, truncate it, change its mode and its
//! owner, lock it. So no inode of the host's filesystems is among its descriptors: `</dev/null` would give it that of all
//! processes of the host.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{
    FileType, Mode, OFlags, Stat, fchmod, fcntl_getfl, fcntl_setfl, fstat, major, minor,
};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::isatty;
use vhashify_sys::filesystem_kind::FilesystemKind;
use vhashify_sys::process::is_one_open_file;

/// The names of the streams, for messages.
const NAMES: [&str; 3] = [
    "its standard input",
    "its standard output",
    "its standard error",
];

/// A standard stream of the command.
#[derive(Debug)]
pub enum Stream {
    /// A terminal of the guest.
    Terminal,
    /// `/dev/null` of the guest.
    Null,
    /// This.
    Is(OwnedFd),
}

/// The streams for a command, and what this process copies meanwhile.
#[derive(Debug)]
pub struct OfCaller {
    /// Standard input, output and error of the command.
    pub streams: [Stream; 3],
    /// What is copied.
    pub relays: Relays,
}

/// A stream that cannot be had, and why.
pub type StreamError = (&'static str, io::Error);

/// What a descriptor is here.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Terminal,
    Null,
    /// Nobody has a name for it.
    Nameless,
    Named,
    Directory,
}

impl OfCaller {
    /// Looks at this process's own.
    ///
    /// # Errors
    /// A directory, or no pipe can be made.
    pub fn find() -> Result<Self, StreamError> {
        let mut relays = Relays::default();
        let mut number = 0;
        let streams = [stdin(), stdout(), stderr()].map(|own| {
            let stream = relays.stream(number, own);
            number += 1;
            stream.map_err(|error| (NAMES[number - 1], error))
        });
        let [input, output, error] = streams;
        Ok(Self {
            streams: [input?, output?, error?],
            relays,
        })
    }
}

fn kind(own: BorrowedFd<'_>) -> io::Result<Kind> {
    if isatty(own) {
        return Ok(Kind::Terminal);
    }
    let found = fstat(own)?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Kind::Directory,
        _ if fcntl_getfl(own)?.contains(OFlags::PATH) => Kind::Directory,
        FileType::Socket => Kind::Nameless,
        FileType::Fifo if FilesystemKind::of(own)? == FilesystemKind::Pipes => Kind::Nameless,
        FileType::CharacterDevice if is_null(&found) => Kind::Null,
        _ => Kind::Named,
    };
    Ok(kind)
}

fn is_null(found: &Stat) -> bool {
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    is_device && (major(found.st_rdev), minor(found.st_rdev)) == (1, 3)
}

/// Opens `/dev/null` of the guest whose mount namespace this process is in.
///
/// # Errors
/// There is something else.
pub fn null_of_guest() -> io::Result<OwnedFd> {
    let flags =
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open("/dev/null", flags, Mode::empty())?;
    if is_null(&fstat(&opened)?) {
        Ok(opened)
    } else {
        Err(io::Error::other(
            "it is another file there; restart the guest",
        ))
    }
}

/// What this process copies between its own streams and pipes of the command.
#[derive(Debug, Default)]
pub struct Relays {
    /// Takes what is read from standard input.
    input: Option<OwnedFd>,
    outputs: Vec<Output>,
    /// The first output that could not be written.
    failed: Option<StreamError>,
}

/// What the command writes, and where it goes.
#[derive(Debug)]
struct Output {
    number: usize,
    source: OwnedFd,
    /// The command's end, until it is sent.
    sent: Option<OwnedFd>,
    to: BorrowedFd<'static>,
}

impl Relays {
    /// The command's stream for one of this process's.
    fn stream(&mut self, number: usize, own: BorrowedFd<'static>) -> io::Result<Stream> {
        match kind(own)? {
            Kind::Terminal => Ok(Stream::Terminal),
            Kind::Null => Ok(Stream::Null),
            Kind::Nameless => {
                // It is the caller's own; where it cannot be changed, the guest's users do not open it anew.
                let _ = open_to_all(own, number);
                Ok(Stream::Is(own.try_clone_to_owned()?))
            }
            Kind::Directory => Err(io::Error::other("a guest gets no directory of the host")),
            Kind::Named if number == 0 => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                open_to_all(&read, number)?;
                self.input = Some(write);
                Ok(Stream::Is(read))
            }
            Kind::Named => self.output(number, own).map(Stream::Is),
        }
    }

    /// Both outputs go through one pipe if they are one open file (`>log 2>&1`): so they stay in their order.
    fn output(&mut self, number: usize, own: BorrowedFd<'static>) -> io::Result<OwnedFd> {
        let process = std::process::id();
        let is_same = |other: &&Output| {
            let numbers = [other.number, number].map(|number| u32::try_from(number).unwrap_or(0));
            is_one_open_file((process, numbers[0]), (process, numbers[1])).unwrap_or(false)
        };
        if let Some(other) = self.outputs.iter().find(is_same)
            && let Some(sent) = &other.sent
        {
            return sent.try_clone();
        }
        let (source, write) = pipe_with(PipeFlags::CLOEXEC)?;
        open_to_all(&write, number)?;
        fcntl_setfl(&source, OFlags::NONBLOCK)?;
        let given = write.try_clone()?;
        self.outputs.push(Output {
            number,
            source,
            sent: Some(write),
            to: own,
        });
        Ok(given)
    }

    /// Begins to copy; the command must have its ends by now. This thread must have blocked the signals that it watches: so
    /// the thread that this starts gets none of them.
    pub fn begin(&mut self) -> io::Result<()> {
        for output in &mut self.outputs {
            output.sent = None;
        }
        if let Some(to) = self.input.take() {
            let from = stdin().try_clone_to_owned()?;
            std::thread::Builder::new().spawn(move || {
                let (mut from, mut to) = (std::fs::File::from(from), io::PipeWriter::from(to));
                // It ends early where the command reads no more.
                drop(io::copy(&mut from, &mut to));
            })?;
        }
        Ok(())
    }

    /// Adds the descriptors to wait for.
    pub fn wait_for<'a>(&'a self, waited: &mut Vec<PollFd<'a>>) {
        let sources = self.outputs.iter().map(|output| &output.source);
        waited.extend(sources.map(|source| PollFd::new(source, PollFlags::IN)));
    }

    /// Copies what the command has written: a buffer of each, or at the end all that a pipe holds.
    pub fn relay(&mut self, has_ended: bool) {
        /// As much as root may let a pipe hold, by default.
        const MOST: usize = 1 << 20;
        let most = if has_ended { MOST } else { 1 };
        let mut failed = None;
        self.outputs.retain(|output| {
            let mut taken = 0;
            while taken < most {
                match copy_once(output) {
                    Ok(Some(0)) => return false,
                    Ok(Some(count)) => taken += count,
                    Ok(None) => break,
                    Err(error) => {
                        failed.get_or_insert((NAMES[output.number], error));
                        return false;
                    }
                }
            }
            true
        });
        self.failed = self.failed.take().or(failed);
    }

    /// The first stream of this process that did not take all.
    pub fn failed(self) -> Option<StreamError> {
        self.failed
    }
}

/// Copies one buffer; returns its length, 0 at the end, and nothing where there is nothing now.
fn copy_once(output: &Output) -> io::Result<Option<usize>> {
    let mut buffer = [0; 16 << 10];
    let count = match rustix::io::read(&output.source, &mut buffer) {
        Ok(count) => count,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(output.to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(count))
}

/// Lets every user open the pipe anew, as a program does with `/dev/stdin` or `/dev/stdout`: nobody gets to it but by a
/// descriptor of the command's.
fn open_to_all(pipe: impl std::os::fd::AsFd, number: usize) -> rustix::io::Result<()> {
    let added = if number == 0 { 0o444 } else { 0o222 };
    let found = fstat(&pipe)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Fifo {
        return Ok(());
    }
    fchmod(&pipe, Mode::from_raw_mode(found.st_mode & 0o777 | added))
}
