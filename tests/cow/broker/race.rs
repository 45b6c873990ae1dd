//! A path that changes while a call reads it.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One thread changes the path in memory, two open whatever is there and write to it.
pub fn race(refused: &AtomicU64, written: &AtomicU64) {
    const PATHS: [&[u8; 12]; 3] = [
        b"/own\0\0\0\0\0\0\0\0",
        b"/d/single\0\0\0",
        b"/d/group0\0\0\0",
    ];
    let path = [const { AtomicU64::new(0) }; 2];
    let is_over = AtomicBool::new(false);
    let put = |bytes: &[u8; 12]| {
        let (first, rest) = bytes.split_first_chunk::<8>().unwrap();
        path[0].store(u64::from_ne_bytes(*first), Ordering::Relaxed);
        let mut last = [0; 8];
        last[..4].copy_from_slice(rest);
        path[1].store(u64::from_ne_bytes(last), Ordering::Relaxed);
    };
    put(PATHS[0]);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_usize.. {
                put(PATHS[number % 3]);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while begun.elapsed() < Duration::from_secs(8) {
                    // SAFETY: sixteen bytes that live on and hold a zero at their end; the kernel, and
                    // nothing of this program, reads them while they change.
                    let file = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDWR) };
                    if file < 0 {
                        let error = std::io::Error::last_os_error();
                        if error.raw_os_error() == Some(libc::EPERM) {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        continue;
                    }
                    // SAFETY: three bytes of a constant, and a descriptor that was just opened here.
                    let count = unsafe { libc::pwrite(file, c"bad".as_ptr().cast(), 3, 0) };
                    written.fetch_add(u64::from(count == 3), Ordering::Relaxed);
                    // SAFETY: nobody else has the descriptor.
                    unsafe { libc::close(file) };
                }
                is_over.store(true, Ordering::Relaxed);
            });
        }
    });
}
