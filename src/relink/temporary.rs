//! Temporary names beside the files they replace.
//!
//! A temporary name is a prefix and 32 hex digits of the BLAKE3 of the name that it serves. So a run that finds one
//! after a crash knows which name of the same directory it belongs to, without a journal that could be lost. The
//! prefix says what the interrupted step was about to do:
//!
//! | prefix | the served name was about to lead to |
//! | --- | --- |
//! | `.vhashify-` | an object (unification) |
//! | `.vhashify-own-` | a private copy (deunification) |
//!
//! Names of this form are reserved: whatever has one is taken for a leftover.

/// Where a replacement lets a name lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A link to an object.
    Share,
    /// A private copy.
    Own,
}

const DIGITS: usize = 32;

impl Purpose {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Share => b".vhashify-",
            Self::Own => b".vhashify-own-",
        }
    }
}

/// The temporary name that serves `name`.
#[must_use]
pub fn of(name: &[u8], purpose: Purpose) -> Vec<u8> {
    let digits = blake3::hash(name).to_hex();
    [purpose.prefix(), &digits.as_bytes()[..DIGITS]].concat()
}

/// The purpose that a temporary name says; `None` for any other name.
#[must_use]
pub fn purpose(name: &[u8]) -> Option<Purpose> {
    [Purpose::Share, Purpose::Own].into_iter().find(|purpose| {
        name.strip_prefix(purpose.prefix()).is_some_and(|rest| {
            rest.len() == DIGITS
                && rest
                    .iter()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    })
}

/// The lasting name of a file that has the temporary name `temporary` and whose place is unknown. It is not
/// reserved: every later run takes it for a file like others.
#[must_use]
pub fn lasting(temporary: &[u8]) -> Vec<u8> {
    let digits = &temporary[temporary.len().saturating_sub(DIGITS)..];
    [b".vhashify-misplaced-", digits].concat()
}

/// Whether `name` is reserved for temporary names.
#[must_use]
pub fn is_one(name: &[u8]) -> bool {
    purpose(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::{Purpose, is_one, lasting, of, purpose};

    #[test]
    fn only_temporary_names_are_taken_for_them() {
        for name in [&b"passwd"[..], b"\xff\n", &[b'x'; 255]] {
            for one in [Purpose::Share, Purpose::Own] {
                assert_eq!(purpose(&of(name, one)), Some(one));
            }
            assert!(!is_one(name) && !is_one(&lasting(&of(name, Purpose::Share))));
        }
        for name in [
            &b".vhashify-"[..],
            b".vhashify-notes",
            b".vhashify",
            b".vhashify-own-",
        ] {
            assert!(!is_one(name));
        }
        assert_ne!(of(b"a", Purpose::Share), of(b"b", Purpose::Share));
    }
}
