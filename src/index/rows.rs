//! The index's rows as bytes. Integers are little-endian, except in keys, which must sort.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | objects | object name, 53 bytes | stamp |
//! | inodes | inode u64 | object name |
//! | links | guest u32 BE, object name | count of names u32, then, where there is more than one, each as length u32 and bytes |
//! | guests | number u32 | name, NUL, vdir (without a check) |
//! | scan cache | inode u64 | stamp, digest 32, fingerprint 16, mtime kept or ignored u8 |
//! | extents | inode u64 | address of its first extent u64 |
//! | reads | object name, 53 bytes | seconds since 1970 i64, when its content was last read from the disk |
//!
//! Every value ends in a check: the first 8 bytes of BLAKE3 of table, key and value. Readers ignore a row whose
//! check is wrong.

use vhashify_sys::stamp::{Stamp, Timestamp};

use super::GuestRow;
use crate::identity::{Identity, Mtime};
use crate::store::ObjectName;

const CHECK: usize = 8;

/// Reads a value piece by piece; `None` as soon as it is too short.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        let seconds = self.take().map(i64::from_le_bytes)?;
        Some(Timestamp {
            seconds,
            nanoseconds: self.u32()?,
        })
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp {
            inode: self.u64()?,
            size: self.u64()?,
            allocated: self.u64()?,
            mtime: self.time()?,
            ctime: self.time()?,
            mode: self.take().map(u16::from_le_bytes)?,
            link_count: self.u32()?,
            owner: self.u32()?,
            group: self.u32()?,
        })
    }

    fn identity(&mut self) -> Option<Identity> {
        Some(Identity {
            digest: self.take()?,
            fingerprint: self.take()?,
            mtime: match self.take()? {
                [0] => Mtime::Kept,
                [1] => Mtime::Ignored,
                _ => return None,
            },
        })
    }
}

fn push_time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend(time.seconds.to_le_bytes());
    out.extend(time.nanoseconds.to_le_bytes());
}

fn push_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.extend(stamp.inode.to_le_bytes());
    out.extend(stamp.size.to_le_bytes());
    out.extend(stamp.allocated.to_le_bytes());
    push_time(out, stamp.mtime);
    push_time(out, stamp.ctime);
    out.extend(stamp.mode.to_le_bytes());
    out.extend(stamp.link_count.to_le_bytes());
    out.extend(stamp.owner.to_le_bytes());
    out.extend(stamp.group.to_le_bytes());
}

fn push_identity(out: &mut Vec<u8>, identity: &Identity) {
    out.extend(identity.digest);
    out.extend(identity.fingerprint);
    out.push(u8::from(identity.mtime == Mtime::Ignored));
}

fn check(table: &str, key: &[u8], value: &[u8]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.update(value);
    let mut shortened = [0; CHECK];
    hasher.finalize_xof().fill(&mut shortened);
    shortened
}

/// Appends the check to a value.
#[must_use]
pub fn seal(table: &str, key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let check = check(table, key, &value);
    value.extend(check);
    value
}

/// The value without its check; `None` if that is wrong.
#[must_use]
pub fn unseal<'a>(table: &str, key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, found) = sealed.split_last_chunk::<CHECK>()?;
    (check(table, key, value) == *found).then_some(value)
}

/// A row of `objects`.
#[must_use]
pub fn stamp_to_bytes(stamp: &Stamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(72);
    push_stamp(&mut out, stamp);
    out
}

/// The reverse of [`stamp_to_bytes`].
#[must_use]
pub fn stamp_from_bytes(value: &[u8]) -> Option<Stamp> {
    let mut reader = Reader(value);
    reader.stamp().filter(|_| reader.0.is_empty())
}

/// A row of the scan cache.
#[must_use]
pub fn cached_to_bytes(stamp: &Stamp, identity: &Identity) -> Vec<u8> {
    let mut out = stamp_to_bytes(stamp);
    push_identity(&mut out, identity);
    out
}

/// The reverse of [`cached_to_bytes`].
#[must_use]
pub fn cached_from_bytes(value: &[u8]) -> Option<(Stamp, Identity)> {
    let mut reader = Reader(value);
    let row = (reader.stamp()?, reader.identity()?);
    reader.0.is_empty().then_some(row)
}

/// A row of `extents`: the inverse of `u64::to_le_bytes`.
pub(super) fn address_from_bytes(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_le_bytes)
}

/// A row of `reads`: the inverse of `i64::to_le_bytes`.
pub(super) fn seconds_from_bytes(value: &[u8]) -> Option<i64> {
    value.try_into().ok().map(i64::from_le_bytes)
}

/// The key of a row of `links`.
#[must_use]
pub fn link_key(guest: u32, object: &ObjectName) -> Vec<u8> {
    [&guest.to_be_bytes()[..], &object.to_bytes()].concat()
}

/// A row of `links`: how many names, and which, where there is more than one.
#[must_use]
pub fn names_to_bytes(count: u32, names: &[Vec<u8>]) -> Vec<u8> {
    let mut out = count.to_le_bytes().to_vec();
    if count > 1 {
        for name in names {
            out.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend(name);
        }
    }
    out
}

/// A row of `guests`.
#[must_use]
pub fn guest_to_bytes(guest: &GuestRow) -> Vec<u8> {
    // Neither a file name nor a path holds a NUL byte.
    [guest.name.as_slice(), &[0], guest.vdir.as_slice()].concat()
}

/// The reverse of [`guest_to_bytes`]; `None` for what no name and no path can be.
#[must_use]
pub fn guest_from_bytes(value: &[u8]) -> Option<GuestRow> {
    // This table has no check: a second NUL is damage that shows.
    let mut parts = value.split(|byte| *byte == 0);
    let (name, vdir) = (parts.next()?, parts.next()?);
    parts.next().is_none().then(|| GuestRow {
        name: name.to_vec(),
        vdir: vdir.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::{cached_from_bytes, cached_to_bytes, guest_from_bytes, seal, unseal};
    use crate::identity::{Identity, Mtime};
    use vhashify_sys::stamp::{Stamp, Timestamp};

    fn row() -> (Stamp, Identity) {
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 999_999_999,
        };
        let stamp = Stamp {
            inode: u64::MAX,
            size: 1,
            allocated: 4096,
            mtime: time,
            ctime: time,
            mode: 0o104_755,
            link_count: 65_000,
            owner: 1,
            group: 2,
        };
        let identity = Identity {
            digest: [7; 32],
            fingerprint: [8; 16],
            mtime: Mtime::Ignored,
        };
        (stamp, identity)
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let (stamp, identity) = row();
        assert_eq!(
            cached_from_bytes(&cached_to_bytes(&stamp, &identity)),
            Some((stamp, identity))
        );
    }

    #[test]
    fn a_guest_has_a_name_and_a_path_that_can_be() {
        assert!(guest_from_bytes(b"web\0/vservers/web").is_some());
        for damaged in [b"web/vservers/web".as_slice(), b"web\0/vservers\0web"] {
            assert_eq!(guest_from_bytes(damaged), None);
        }
    }

    #[test]
    fn inv7_a_damaged_row_is_no_row() {
        let (stamp, identity) = row();
        let sealed = seal("scan", b"key", cached_to_bytes(&stamp, &identity));
        assert!(unseal("scan", b"key", &sealed).is_some());
        assert!(unseal("scan", b"kez", &sealed).is_none());
        assert!(unseal("objects", b"key", &sealed).is_none());
        for byte in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[byte] ^= 0x10;
            assert!(unseal("scan", b"key", &damaged).is_none(), "byte {byte}");
        }
        assert!(unseal("scan", b"key", &sealed[..4]).is_none());
    }
}
