//! Sends and receives bytes over a socket together with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that one call takes. The kernel closes further ones.
pub const MOST_DESCRIPTORS: usize = 16;

/// The bytes and descriptors that one call received.
#[derive(Debug)]
pub struct Piece {
    /// How many bytes; 0 at the end.
    pub length: usize,
    /// Whether more descriptors came than one call takes.
    pub lacks_descriptors: bool,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// Waits for bytes and takes those that are there, with their descriptors.
///
/// # Errors
/// What `recvmsg(2)` lists.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<Piece, Errno> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(into)];
        let received = match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            received => received?,
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                descriptors.extend(sent);
            }
        }
        return Ok(Piece {
            length: received.bytes,
            lacks_descriptors: received.flags.contains(ReturnFlags::CTRUNC),
            descriptors,
        });
    }
}

/// Sends bytes together with a descriptor.
///
/// # Errors
/// What `sendmsg(2)` lists.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}
