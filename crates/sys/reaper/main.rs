//! Process 1 of a guest of style `sysv`: runs a command, reaps every process of the guest, and ends with the command's
//! status when the last one has ended.
//!
//! ```text
//! reaper COMMAND [ARGUMENT]...      with the variables of the guest
//! ```
//!
//! It is executed inside of the guest, so it is one static file that needs no other, and it makes no call but those here. Its
//! memory, which the guest's root can read, is its own and begins empty. `build.rs` compiles it; `src/process/reaper.rs` has
//! its bytes.
#![no_std]
#![no_main]
// No loop becomes a call of `memset`, which is one itself.
#![no_builtins]

use core::arch::{asm, global_asm};
use core::ptr::null;

/// The status if the command cannot be executed, the same as for the other styles.
const NOT_EXECUTED: usize = 255;
/// The longest path that the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;
/// Where a command without a slash is looked for if there is no `PATH`.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0";
/// What runs a script that names no interpreter, as execvp(3) does.
const SHELL: &[u8] = b"/bin/sh\0";

/// The name that ps(1) shows; by its descriptor it would be a number.
const NAME: &[u8] = b"reaper\0";
const PR_SET_NAME: usize = 15;

const EINTR: isize = -4;
const ENOEXEC: isize = -8;
const SIGCHLD: usize = 17;

#[cfg(target_arch = "x86_64")]
mod calls {
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
    pub const PRCTL: usize = 157;
}
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod calls {
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
    pub const PRCTL: usize = 167;
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);
#[cfg(target_arch = "riscv64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mv a0, sp",
    "andi sp, sp, -16",
    "call {begin}",
    "ebreak",
    begin = sym begin,
);

/// Makes a system call. Returns what the kernel returns: a negative errno for an error.
///
/// # Safety
/// As the call of this number asks.
unsafe fn call(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the registers are those of the kernel's convention, and every one that it changes is named.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        asm!(
            "ecall",
            in("a7") number,
            inlateout("a0") a as isize => result,
            in("a1") b, in("a2") c, in("a3") d, in("a4") e,
            options(nostack)
        );
    }
    result
}

/// The first function. `stack` is as the kernel leaves it for a new program: the count of arguments, pointers to them, a null
/// pointer, pointers to the variables, a null pointer.
///
/// # Safety
/// `stack` is that of a new program.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the count stands there.
    let count = unsafe { *stack };
    // SAFETY: one word further are the arguments, and after these and a null pointer the variables.
    let arguments = unsafe { stack.add(1) }.cast::<*const u8>();
    // SAFETY: as above.
    let variables = unsafe { arguments.add(count + 1) };
    if count < 2 {
        exit(NOT_EXECUTED);
    }
    // SAFETY: the first argument is this program's name; behind it is the command, with a null pointer at its end.
    let command = unsafe { arguments.add(1) };
    // SAFETY: PR_SET_NAME reads a string with a NUL at its end.
    unsafe { call(calls::PRCTL, [PR_SET_NAME, NAME.as_ptr() as usize, 0, 0, 0]) };
    // SAFETY: CLONE without flags is fork(2): the child has a copy of this memory, and goes on with this stack.
    match unsafe { call(calls::CLONE, [SIGCHLD, 0, 0, 0, 0]) } {
        // SAFETY: both lists end with a null pointer.
        0 => unsafe { execute(command, variables) },
        child if child > 0 => exit(reap(child)),
        _ => exit(NOT_EXECUTED),
    }
}

/// Waits until the last process has ended, and returns how the first one did: 128 + n if signal n ended it.
fn reap(child: isize) -> usize {
    let mut result = 0;
    loop {
        let mut status: u32 = 0;
        // SAFETY: WAIT4 writes a status of 32 bits to the pointer, which is one to that; it may have no usage to write to.
        let ended = unsafe {
            call(
                calls::WAIT4,
                [usize::MAX, &raw mut status as usize, 0, 0, 0],
            )
        };
        if ended == child {
            let signal = status & 0x7f;
            result = if signal == 0 {
                status >> 8 & 0xff
            } else {
                128 + signal
            };
        } else if ended < 0 && ended != EINTR {
            // There is none left.
            return result as usize;
        }
    }
}

/// Becomes the command, which is looked for in `PATH` unless its name has a slash.
///
/// # Safety
/// Both lists end with a null pointer, and the first has an entry.
unsafe fn execute(command: *const *const u8, variables: *const *const u8) -> ! {
    // SAFETY: the first entry is there.
    let name = unsafe { *command };
    // SAFETY: an argument is a string with a NUL at its end.
    let has_slash = unsafe { length_until(name, b'/') }.1;
    if has_slash {
        // SAFETY: as this function's.
        unsafe { try_path(name, command, variables) };
        exit(NOT_EXECUTED);
    }
    // SAFETY: as this function's.
    let mut directory = unsafe { search_path(variables) };
    let mut path = [0u8; PATH_MAX];
    loop {
        // SAFETY: the list of directories is a string with a NUL at its end.
        let (length, has_more) = unsafe { length_until(directory, b':') };
        // SAFETY: `name` is such a string, and `directory` one of at least `length` bytes.
        if unsafe { join(&mut path, directory, length, name) } {
            // SAFETY: as this function's; `join` ends the path with a NUL.
            unsafe { try_path(path.as_ptr(), command, variables) };
        }
        if !has_more {
            exit(NOT_EXECUTED);
        }
        // SAFETY: behind the colon the list goes on.
        directory = unsafe { directory.add(length + 1) };
    }
}

/// Executes the file at `path`, and returns if that cannot be done.
///
/// # Safety
/// `path` is a string with a NUL at its end; both lists end with a null pointer.
unsafe fn try_path(path: *const u8, command: *const *const u8, variables: *const *const u8) {
    /// How many arguments a script without an interpreter may have.
    const MOST: usize = 1024;
    let lists = [path as usize, command as usize, variables as usize, 0, 0];
    // SAFETY: EXECVE reads the string and the lists.
    if unsafe { call(calls::EXECVE, lists) } != ENOEXEC {
        return;
    }
    let mut arguments = [null::<u8>(); MOST];
    arguments[0] = SHELL.as_ptr();
    arguments[1] = path;
    let mut next = 1;
    // SAFETY: the list ends with a null pointer, at which this stops.
    while let argument = unsafe { *command.add(next) }
        && !argument.is_null()
    {
        // The last entry stays null.
        let Some(place) = arguments[..MOST - 1].get_mut(next + 1) else {
            return;
        };
        *place = argument;
        next += 1;
    }
    let lists = [
        SHELL.as_ptr() as usize,
        arguments.as_ptr() as usize,
        variables as usize,
        0,
        0,
    ];
    // SAFETY: as above.
    unsafe { call(calls::EXECVE, lists) };
}

/// The value of `PATH`.
///
/// # Safety
/// The list ends with a null pointer.
unsafe fn search_path(variables: *const *const u8) -> *const u8 {
    const NAME: &[u8] = b"PATH=";
    let mut next = variables;
    loop {
        // SAFETY: this stops at the null pointer.
        let variable = unsafe { *next };
        if variable.is_null() {
            return PATH.as_ptr();
        }
        let mut same = 0;
        // SAFETY: the string ends with a NUL, which is no byte of the name.
        while same < NAME.len() && unsafe { *variable.add(same) } == NAME[same] {
            same += 1;
        }
        if same == NAME.len() {
            // SAFETY: the value follows.
            return unsafe { variable.add(same) };
        }
        // SAFETY: as above.
        next = unsafe { next.add(1) };
    }
}

/// The length of a string up to this byte or its NUL, and whether it has the byte.
///
/// # Safety
/// The string ends with a NUL.
unsafe fn length_until(string: *const u8, byte: u8) -> (usize, bool) {
    let mut length = 0;
    loop {
        // SAFETY: this stops at the NUL.
        let here = unsafe { *string.add(length) };
        if here == byte || here == 0 {
            return (length, here == byte);
        }
        length += 1;
    }
}

/// Writes the path of a name in a directory, which is the working directory if it is empty. False if it is too long.
///
/// # Safety
/// `directory` has at least `length` bytes, and `name` ends with a NUL.
unsafe fn join(
    path: &mut [u8; PATH_MAX],
    directory: *const u8,
    length: usize,
    name: *const u8,
) -> bool {
    let mut end = 0;
    let mut put = |byte: u8| {
        let Some(place) = path.get_mut(end) else {
            return false;
        };
        *place = byte;
        end += 1;
        true
    };
    let mut from = 0;
    while from < length {
        // SAFETY: it has so many bytes.
        if !put(unsafe { *directory.add(from) }) {
            return false;
        }
        from += 1;
    }
    if length > 0 && !put(b'/') {
        return false;
    }
    let mut from = 0;
    loop {
        // SAFETY: this stops after the NUL.
        let byte = unsafe { *name.add(from) };
        if !put(byte) {
            return false;
        }
        if byte == 0 {
            return true;
        }
        from += 1;
    }
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: EXIT_GROUP takes a number, and does not return.
        unsafe { call(calls::EXIT_GROUP, [status, 0, 0, 0, 0]) };
    }
}

/// What the compiler calls to fill memory.
///
/// # Safety
/// `to` has at least `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    let mut next = 0;
    while next < count {
        // SAFETY: it has so many bytes.
        unsafe { *to.add(next) = byte as u8 };
        next += 1;
    }
    to
}

/// What the compiler calls to copy memory.
///
/// # Safety
/// Both have at least `count` bytes, and none is in both.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let mut next = 0;
    while next < count {
        // SAFETY: `from` has so many bytes.
        let byte = unsafe { *from.add(next) };
        // SAFETY: and so has `to`.
        unsafe { *to.add(next) = byte };
        next += 1;
    }
    to
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(NOT_EXECUTED)
}
