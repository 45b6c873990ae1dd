//! Decodes what an `openat2(2)` asks for: a `struct open_how` in the caller's memory.
//!
//! A newer kernel may give a bit or a field a meaning that changes which file is opened. So the call fails where it has
//! one that this program does not know, as it does under a kernel that does not know it.

use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::call::{Target, open_target};
use super::caller::Caller;

/// Bytes of a `struct open_how`: flags, mode, resolve, eight bytes each.
const SIZE: usize = 24;
/// Bytes after it that are looked at. No kernel takes more than a page.
const LONGEST: usize = 4096;
/// Flags beyond those of `open(2)` that only restrict what is opened: `OPENAT2_REGULAR`.
const RESTRICTING: u64 = 1 << 32;
/// The bits of `resolve`.
const KNOWN: ResolveFlags = ResolveFlags::IN_ROOT
    .union(ResolveFlags::BENEATH)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::CACHED);

/// The target of the call.
///
/// # Errors
/// `EFAULT` where it cannot be read, `EINVAL` and `E2BIG` as the call lists them.
pub fn decode(
    caller: &Caller<'_>,
    directory: i32,
    path: u64,
    how: u64,
    size: u64,
) -> Result<(Target, ResolveFlags), Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::TOOBIG)?;
    if size < SIZE {
        return Err(Errno::INVAL);
    }
    if size > LONGEST {
        return Err(Errno::TOOBIG);
    }
    let mut bytes = vec![0; size];
    caller.read(how, &mut bytes)?;
    let (flags, resolve) = parse(&bytes)?;
    // A lookup that finds nothing in the caches fails for the caller; the broker may wait.
    Ok((
        open_target(flags, directory, path),
        resolve - ResolveFlags::CACHED,
    ))
}

fn parse(how: &[u8]) -> Result<(u64, ResolveFlags), Errno> {
    let (fields, _) = how.as_chunks::<8>();
    let field = |at: usize| fields.get(at).map_or(0, |field| u64::from_ne_bytes(*field));
    let (flags, resolve) = (field(0), field(2));
    if how
        .get(SIZE..)
        .is_some_and(|rest| rest.iter().any(|&byte| byte != 0))
    {
        return Err(Errno::TOOBIG);
    }
    if (flags & !RESTRICTING) > u64::from(u32::MAX) {
        return Err(Errno::INVAL);
    }
    if resolve & !KNOWN.bits() != 0 {
        return Err(Errno::INVAL);
    }
    Ok((flags, ResolveFlags::from_bits_retain(resolve)))
}

#[cfg(test)]
mod tests {
    use rustix::fs::ResolveFlags;
    use rustix::io::Errno;

    use super::parse;

    fn how(fields: &[u64]) -> Vec<u8> {
        fields
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect()
    }

    #[test]
    fn what_it_does_not_know_is_refused_as_an_older_kernel_refuses_it() {
        let in_root = ResolveFlags::IN_ROOT;
        for (fields, expected) in [
            (&[2, 0, 0x10][..], Ok((2, in_root))),
            (&[2, 0, 0x10, 0, 0], Ok((2, in_root))),
            (&[1 << 32 | 2, 0, 0x10], Ok((1 << 32 | 2, in_root))),
            (&[2, 0, 0x10, 1], Err(Errno::TOOBIG)),
            (&[2, 0, 1 << 20], Err(Errno::INVAL)),
            (&[1 << 40 | 2, 0, 0], Err(Errno::INVAL)),
        ] {
            assert_eq!(parse(&how(fields)), expected, "{fields:x?}");
        }
    }
}
