//! The name of an object: its identity and its instance number, in a form that sorts and parses.
//!
//! ```text
//! 64 hex digits of the digest - 32 hex digits of the fingerprint [-nomtime] - instance
//! ```
//!
//! `-nomtime` stands where the fingerprint leaves mtime out (`--ignore-mtime`), so that `verify`
//! can check either kind from its name alone.

use std::fmt;

use crate::identity::{Identity, Mtime};

/// An object's name in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// What every file that links this object has in common.
    pub identity: Identity,
    /// Objects of one identity are numbered from 0; see invariant 3.
    pub instance: u32,
}

impl ObjectName {
    /// The length of [`ObjectName::to_bytes`].
    pub const LENGTH: usize = 53;

    /// Reads a name as it stands in the store; `None` for anything that is not one.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (digest, rest) = name.split_first_chunk::<64>()?;
        let (fingerprint, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
        let rest = rest.strip_prefix(b"-")?;
        let (mtime, instance) = match rest.strip_prefix(b"nomtime-") {
            Some(instance) => (Mtime::Ignored, instance),
            None => (Mtime::Kept, rest),
        };
        // One spelling only: `+1`, `01` or capital digits would be second names of one object.
        let is_canonical = instance == b"0" || !matches!(instance.first(), Some(b'0' | b'+'));
        let instance = std::str::from_utf8(instance).ok()?.parse();
        Some(Self {
            identity: Identity {
                digest: parse_hex(digest)?,
                fingerprint: parse_hex(fingerprint)?,
                mtime,
            },
            instance: instance.ok().filter(|_| is_canonical)?,
        })
    }

    /// The name in its shortest form, for the index. Sorts as the name does.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..32].copy_from_slice(&self.identity.digest);
        bytes[32..48].copy_from_slice(&self.identity.fingerprint);
        bytes[48] = u8::from(self.identity.mtime == Mtime::Ignored);
        bytes[49..].copy_from_slice(&self.instance.to_be_bytes());
        bytes
    }

    /// The reverse of [`ObjectName::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk()?;
        let (fingerprint, rest) = rest.split_first_chunk()?;
        let (&[mtime], instance) = rest.split_first_chunk()?;
        Some(Self {
            identity: Identity {
                digest: *digest,
                fingerprint: *fingerprint,
                mtime: match mtime {
                    0 => Mtime::Kept,
                    1 => Mtime::Ignored,
                    _ => return None,
                },
            },
            instance: u32::from_be_bytes(*instance.first_chunk()?),
        })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(out, &self.identity.digest)?;
        out.write_str("-")?;
        write_hex(out, &self.identity.fingerprint)?;
        if self.identity.mtime == Mtime::Ignored {
            out.write_str("-nomtime")?;
        }
        write!(out, "-{}", self.instance)
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes at most 32 bytes as lower-case hexadecimal digits.
fn write_hex(out: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    let mut text = [0; 64];
    for (pair, &byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xF)];
    }
    let text = std::str::from_utf8(&text[..2 * bytes.len()]);
    out.write_str(text.map_err(|_| fmt::Error)?)
}

/// What each digit stands for; what is none has a high half.
const VALUES: [u8; 256] = {
    let mut values = [0xFF; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Reads lower-case hexadecimal digits, two for each byte.
fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // Looked at once, at the end: a store of a million objects has a hundred million digits.
    let mut all = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all < 16 && text.len() == 2 * N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::ObjectName;
    use crate::identity::{Identity, Mtime};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_survives_both_forms(
            digest: [u8; 32], fingerprint: [u8; 16], ignored: bool, instance: u32,
        ) {
            let mtime = if ignored { Mtime::Ignored } else { Mtime::Kept };
            let name = ObjectName { identity: Identity { digest, fingerprint, mtime }, instance };
            prop_assert_eq!(ObjectName::parse(name.to_string().as_bytes()), Some(name));
            prop_assert_eq!(ObjectName::from_bytes(&name.to_bytes()), Some(name));
        }
    }

    #[test]
    fn only_one_spelling_is_a_name() {
        let good = format!("{}-{}-7", "ab".repeat(32), "cd".repeat(16));
        assert!(ObjectName::parse(good.as_bytes()).is_some());
        for bad in [
            good.to_uppercase(),
            good.replace("-7", "-07"),
            good.replace("-7", "-+7"),
            good.replace("-7", "-"),
            good.replace("-7", "-4294967296"),
            good.replace("-7", "-mtime-7"),
            good.replace("-7", "-nomtime-"),
            good.replace("ab-cd", "ag-cd"),
            good.replace("cd-7", "c.-7"),
            good[1..].to_owned(),
            format!("{good} "),
        ] {
            assert!(ObjectName::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
