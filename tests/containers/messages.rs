//! What no runtime sends: one clear line, nothing kept, and the broker goes on.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread;

use libcontainer::oci_spec::runtime::LinuxSeccomp;
use rustix::io::read;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::pipe::pipe;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use vserver::context::filter::load_filter;
use vserver::context::notify;

use vhashify_testkit::filesystem::Kind;

use super::place::{Broker, Place, wait_until};

/// Sends bytes with descriptors.
fn send(to: BorrowedFd<'_>, text: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    // The broker may have had enough before the end.
    let _ = sendmsg(to, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL);
}

/// A listener of a thread of this process, which waits for good. A process can have one.
fn listener() -> BorrowedFd<'static> {
    static LISTENER: OnceLock<OwnedFd> = OnceLock::new();
    let load = || {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let filter = notify::oci_profile("/none");
            let filter: LinuxSeccomp = serde_json::from_value(filter).unwrap();
            sender.send(load_filter(&filter).unwrap().unwrap()).unwrap();
            loop {
                thread::park();
            }
        });
        receiver.recv().unwrap()
    };
    LISTENER.get_or_init(load).as_fd()
}

fn state(fds: &[&str], pid: i64) -> Vec<u8> {
    let state = json!({ "ociVersion": "1.0.2", "fds": fds, "pid": pid,
                        "state": { "id": "web", "status": "creating", "bundle": "/b" } });
    serde_json::to_vec(&state).unwrap()
}

/// Waits for the line that says what was wrong, the only one, and until nothing is left of the message.
fn is_refused(broker: &Broker, lines: &mut usize, idle: usize, words: &str) {
    wait_until(words, || broker.said().lines().count() > *lines);
    wait_until("all is closed", || broker.descriptors() == idle);
    let said = broker.said();
    let new: Vec<&str> = said.lines().skip(*lines).collect();
    assert!(new.len() == 1 && new[0].contains(words), "{words}: {new:?}");
    *lines += 1;
}

#[test]
fn what_lxc_does_not_send_is_refused_and_nothing_of_it_is_kept() {
    let place = Place::new(Kind::Ext4);
    let broker = place.broker();
    let (idle, mut lines) = (broker.descriptors(), broker.said().lines().count());
    let listener = listener();
    // A call of this process, which has no filter: structures of 80 and 24 bytes, and no cookie.
    let mut whole = vec![0; 32 + 80 + 24];
    whole[12..16].copy_from_slice(&std::process::id().to_ne_bytes());
    whole[16..20].copy_from_slice(&[80, 0, 24, 0]);
    let file = File::open("/dev/null").unwrap();
    for (message, descriptors, words) in [
        (&b"hello"[..], &[listener][..], "no call that LXC's monitor"),
        (&whole[..135], &[listener], "no call that LXC's monitor"),
        (&[0; 200], &[listener], "no call that LXC's monitor"),
        (&[0xff; 200], &[listener], "no call that LXC's monitor"),
        (&whole, &[], "is a listener"),
        (&whole, &[file.as_fd()], "is a listener"),
        (&whole, &[file.as_fd(), listener], "has no filter"),
    ] {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(&broker.lxc).unwrap()).unwrap();
        send(socket.as_fd(), message, descriptors);
        is_refused(&broker, &mut lines, idle, words);
        assert_eq!(read(&socket, &mut [0; 1]), Ok(0), "no answer");
    }
    // A monitor that ends before there is a container, and what is none.
    let mut ends = std::process::Command::new("sleep")
        .arg("0.2")
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&ends);
    let monitor = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let said = state(&["vhashifyLxcMonitorFd"], pid.as_raw_pid().into());
    let stream = UnixStream::connect(&broker.oci).unwrap();
    send(stream.as_fd(), &said, &[monitor.as_fd()]);
    ends.wait().unwrap();
    is_refused(&broker, &mut lines, idle, "has ended");
}

#[test]
fn what_no_runtime_sends_is_refused_and_nothing_of_it_is_kept() {
    let place = Place::new(Kind::Ext4);
    let broker = place.broker();
    let (idle, mut lines) = (broker.descriptors(), broker.said().lines().count());
    let listener = listener();
    let own = i64::from(std::process::id());
    let ended = {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        i64::from(child.id())
    };
    let file = File::open("/dev/null").unwrap();
    let (mut held, sent) = pipe()
        .map(|(read, write)| (File::from(read), write))
        .unwrap();
    let many = vec![file.as_fd(); 30];
    let good = state(&["seccompFd"], own);
    let long = [b"{\"x\":\"".to_vec(), vec![b'x'; 2 << 20]].concat();
    let deep = vec![b'['; 60_000];
    for (text, descriptors, words) in [
        (&good[..30], &[listener][..], "ended before it was whole"),
        (b"hello", &[listener], "describes no process"),
        (b"{}", &[listener], "describes no process"),
        (b"\xff\xfe\x00", &[sent.as_fd()], "describes no process"),
        (&deep, &[], "describes no process"),
        (&long, &[], "longer than 1024 KiB"),
        (&good, &[], "is a listener"),
        (&good, &[file.as_fd()], "is a listener"),
        (&good, &[sent.as_fd(), listener], "is a listener"),
        (&state(&["other"], own), &[listener], "is a listener"),
        (
            &state(&["other", "seccompFd"], own),
            &[listener],
            "is a listener",
        ),
        (&good, &many, "more descriptors"),
        (&good, &[listener], "has no filter"),
        (&state(&["seccompFd"], ended), &[listener], "has ended"),
        (&state(&["seccompFd"], 0), &[listener], "has ended"),
        (&state(&["seccompFd"], -1), &[listener], "has ended"),
        (
            &state(&["seccompFd"], 1 << 40),
            &[listener],
            "describes no process",
        ),
    ] {
        let stream = UnixStream::connect(&broker.oci).unwrap();
        if text.len() > 64 << 10 {
            for part in text.chunks(16 << 10) {
                send(stream.as_fd(), part, &[]);
            }
        } else {
            send(stream.as_fd(), text, descriptors);
        }
        drop(stream);
        is_refused(&broker, &mut lines, idle, words);
    }
    drop(sent);
    assert_eq!(
        held.read(&mut [0]).unwrap(),
        0,
        "nobody else has the other end"
    );
    // One that sends nothing holds up nobody.
    let slow = UnixStream::connect(&broker.oci).unwrap();
    let stream = UnixStream::connect(&broker.oci).unwrap();
    (&stream).write_all(b"hello").unwrap();
    wait_until("the second is attended", || {
        broker.said().lines().count() > lines
    });
    drop(stream);
    wait_until("it is not waited for", || {
        broker.said().contains("nothing more came for 10 s")
    });
    drop(slow);
    wait_until("all is closed", || broker.descriptors() == idle);
}
