//! A filesystem in userspace that is one file: as much of FUSE (linux/fuse.h, protocol 7.31) as a
//! loop device asks for.
//!
//! Its root is not a directory but the file itself, so that it is mounted over a file and no name
//! is ever looked up. Nothing is cached in between: each read, write and synchronisation of the
//! loop device arrives here before it is acknowledged there.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;

use super::filesystem::command;

/// What the file holds, and where its changes go.
pub trait Content: Send + 'static {
    /// How many bytes it has.
    fn size(&self) -> u64;
    /// Fills `bytes` with what stands at `offset`.
    fn read(&mut self, offset: u64, bytes: &mut [u8]);
    /// Puts `bytes` at `offset`.
    fn write(&mut self, offset: u64, bytes: &[u8]);
    /// All that was written before is to survive a power cut.
    fn flush(&mut self);
}

/// The most that one request carries.
const MOST_BYTES: u32 = 1 << 20;

const REQUEST_HEADER: usize = 40;
const ARGUMENTS_OF_WRITE: usize = 40;

/// Mounts a filesystem over the file `path`. It is served until it is unmounted; then the thread
/// ends.
pub fn mount(path: &Path, content: impl Content) -> JoinHandle<()> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .expect("this kernel has FUSE");
    let for_mount = device.try_clone().unwrap();
    // The mount is not complete until the first request is answered.
    let server = std::thread::spawn(move || serve(&device, content));
    command(
        Command::new("mount")
            .args(["-i", "-t", "fuse"])
            .args(["-o", "fd=0,rootmode=100600,user_id=0,group_id=0"])
            .args([Path::new("vhashify-test"), path])
            .stdin(for_mount),
    );
    server
}

fn serve(mut device: &File, mut content: impl Content) {
    let mut buffer = vec![0; MOST_BYTES as usize + 4096];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            // Not mounted yet.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            // A request was given up before it was read.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Interrupted) => {
                continue;
            }
            // Unmounted.
            Err(_) => return,
        };
        let request = Request(&buffer[..length]);
        let Some(answer) = answer(&request, &mut content) else {
            continue;
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut reply = Bytes::default()
            .u32(length)
            .i32(error)
            .u64(request.number());
        reply.0.extend(body);
        // The one who asked may be gone.
        drop(device.write(&reply.0));
    }
}

/// Does what is asked for. `None`: no answer is wanted.
fn answer(request: &Request<'_>, content: &mut impl Content) -> Option<Result<Vec<u8>, Errno>> {
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const WRITE: u32 = 16;
    const STATFS: u32 = 17;
    const RELEASE: u32 = 18;
    const FSYNC: u32 = 20;
    const FLUSH: u32 = 25;
    const INIT: u32 = 26;
    const WITHOUT_ANSWER: [u32; 3] = [2, 36, 42]; // FORGET, INTERRUPT, BATCH_FORGET

    let (offset, size) = (8, 16);
    Some(Ok(match request.operation() {
        INIT => initial(request),
        GETATTR => attributes(content.size()),
        OPEN => {
            const DIRECT_IO: u32 = 1;
            Bytes::default().u64(0).u32(DIRECT_IO).u32(0).0
        }
        READ => {
            let mut bytes = vec![0; request.u32(size) as usize];
            content.read(request.u64(offset), &mut bytes);
            bytes
        }
        WRITE => {
            let bytes = &request.0[REQUEST_HEADER + ARGUMENTS_OF_WRITE..];
            assert_eq!(bytes.len(), request.u32(size) as usize);
            content.write(request.u64(offset), bytes);
            Bytes::default().u32(request.u32(size)).u32(0).0
        }
        FSYNC => {
            content.flush();
            Vec::new()
        }
        STATFS => vec![0; 80],
        RELEASE | FLUSH => Vec::new(),
        operation if WITHOUT_ANSWER.contains(&operation) => return None,
        // Holes, for example: the block layer writes zeros instead.
        _ => return Some(Err(Errno::NOSYS)),
    }))
}

fn initial(request: &Request<'_>) -> Vec<u8> {
    const BIG_WRITES: u32 = 1 << 5;
    const MAX_PAGES: u32 = 1 << 22;
    let read_ahead = request.u32(8);
    let pages = MOST_BYTES / 4096;
    Bytes::default()
        .u32(7)
        .u32(31)
        .u32(read_ahead)
        .u32(BIG_WRITES | MAX_PAGES)
        .u32(0) // requests in the background: the kernel's own default
        .u32(MOST_BYTES)
        .u32(1) // nanoseconds of a timestamp's unit
        .u32(pages) // and no alignment of mappings
        .u64(0)
        .u64(0)
        .u64(0)
        .u64(0)
        .0
}

fn attributes(size: u64) -> Vec<u8> {
    const REGULAR_FILE: u32 = 0o100_600;
    Bytes::default()
        .u64(3600) // seconds for which these may be kept
        .u64(0)
        .u64(1) // inode
        .u64(size)
        .u64(size / 512)
        .u64(0) // times
        .u64(0)
        .u64(0)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(REGULAR_FILE)
        .u32(1) // names
        .u32(0) // owner
        .u32(0) // group
        .u32(0) // device
        .u32(4096)
        .u32(0)
        .0
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn operation(&self) -> u32 {
        u32::from_ne_bytes(self.0[4..8].try_into().unwrap())
    }

    fn number(&self) -> u64 {
        u64::from_ne_bytes(self.0[8..16].try_into().unwrap())
    }

    /// A field of the arguments.
    fn u32(&self, at: usize) -> u32 {
        let at = REQUEST_HEADER + at;
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    /// A field of the arguments.
    fn u64(&self, at: usize) -> u64 {
        let at = REQUEST_HEADER + at;
        u64::from_ne_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

/// A structure of the protocol, field by field.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }
}
