//! A filter by numbers: for calls that libseccomp does not know by name, which therefore stand in no filter that it makes.

use rustix::io::Errno;

use crate::last_error;

/// The first number from which on a call has the same one on every architecture (Linux 5.1).
pub const FIRST_COMMON: u32 = 403;

/// The bit of the x32 convention.
const X32: u32 = 0x4000_0000;
/// Numbers of calls that are x32's alone.
const OF_X32: std::ops::RangeInclusive<u32> = 512..=547;
/// `__ARM_NR_BASE`: calls of 32-bit ARM that are no others' (`asm/unistd.h`).
const OF_ARM: u32 = 0x000f_0000;

/// Makes the calls of these numbers, and all that are newer than `newest`, fail with `ENOSYS` in this thread, its children,
/// and what they execute, as under a kernel that does not have them.
///
/// # Errors
/// `EINVAL` where a number is not the same on every architecture; else what `seccomp(2)` lists.
pub fn refuse_numbers(numbers: &[u32], newest: u32) -> Result<(), Errno> {
    if numbers.len() > MOST || numbers.iter().any(|&number| number < FIRST_COMMON) {
        return Err(Errno::INVAL);
    }
    let mut filter = program(numbers, newest);
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: SECCOMP_SET_MODE_FILTER reads a `struct sock_fprog` and the instructions that it points to, as many as its
    // length says; both live until the call returns, and the kernel copies them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

/// So that each jump has eight bits.
const MOST: usize = 200;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fn program(numbers: &[u32], newest: u32) -> Vec<libc::sock_filter> {
    let mut made = vec![
        load_number(),
        // A tracer has skipped the call.
        equal(u32::MAX, 0, 1),
        answer(ALLOW),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, !X32),
    ];
    for &number in numbers {
        made.extend([equal(number, 0, 1), answer(ABSENT)]);
    }
    made.extend([
        greater(newest, 1, 0),
        answer(ALLOW),
        // x32's own numbers mean something with its bit alone.
        at_least(*OF_X32.start(), 0, 4),
        greater(*OF_X32.end(), 3, 0),
        load_number(),
        at_least(X32, 0, 4),
        answer(ALLOW),
        at_least(OF_ARM, 0, 2),
        greater(OF_ARM | 0xffff, 1, 0),
        answer(if cfg!(target_arch = "aarch64") {
            ALLOW
        } else {
            ABSENT
        }),
        answer(ABSENT),
    ]);
    made
}

/// The number is the first field of a `struct seccomp_data`.
fn load_number() -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)
}

fn equal(value: u32, yes: u8, no: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value)
}

fn greater(value: u32, yes: u8, no: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, yes, no, value)
}

fn at_least(value: u32, yes: u8, no: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, yes, no, value)
}

fn answer(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

fn instruction(code: u32, yes: u8, no: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter {
        // The codes have eight bits.
        code: (code & 0xff) as u16,
        jt: yes,
        jf: no,
        k: value,
    }
}

#[cfg(test)]
mod tests {
    use super::{ABSENT, ALLOW, OF_ARM, X32, program};

    /// What the filter answers to a number, by an interpreter of the few instructions that it has.
    fn run(filter: &[libc::sock_filter], number: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let one = &filter[at];
            let code = u32::from(one.code);
            at += 1;
            let jump = |is_so: bool| usize::from(if is_so { one.jt } else { one.jf });
            match code & 0x07 {
                libc::BPF_LD => value = number,
                libc::BPF_ALU => value &= one.k,
                libc::BPF_RET => return one.k,
                libc::BPF_JMP => {
                    at += match code & 0xf0 {
                        libc::BPF_JEQ => jump(value == one.k),
                        libc::BPF_JGT => jump(value > one.k),
                        libc::BPF_JGE => jump(value >= one.k),
                        other => panic!("{other:x}"),
                    }
                }
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn named_numbers_and_newer_ones_are_absent_by_every_convention() {
        let filter = program(&[452, 463], 469);
        let of_arm = if cfg!(target_arch = "aarch64") {
            ALLOW
        } else {
            ABSENT
        };
        for (number, expected) in [
            (0, ALLOW),
            (451, ALLOW),
            (452, ABSENT),
            (463, ABSENT),
            (464, ALLOW),
            (469, ALLOW),
            (470, ABSENT),
            (520, ABSENT),
            (10_000, ABSENT),
            (X32, ALLOW),
            (X32 + 452, ABSENT),
            (X32 + 470, ABSENT),
            (X32 + 520, ALLOW),
            (X32 + 548, ABSENT),
            (OF_ARM + 5, of_arm),
            (OF_ARM << 1, ABSENT),
            (u32::MAX, ALLOW),
        ] {
            assert_eq!(run(&filter, number), expected, "{number:#x}");
        }
    }
}
