//! Temporary names beside the files they replace.
//!
//! A temporary name is made from the name it serves: a prefix and 32 hex digits of BLAKE3 of that
//! name. So whoever finds one after a crash knows which file of the same directory it belongs to,
//! without a journal that could be lost. The prefix tells what was being done:
//!
//! | prefix | the name was about to lead to |
//! | --- | --- |
//! | `.vhashify-` | an object (unification) |
//! | `.vhashify-own-` | a private copy (deunification) |
//!
//! Names of these forms are reserved; nothing else in a guest is called so.

/// What a replacement puts in the place of a name.
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

/// What a temporary name is for; `None` for any other name.
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

/// The name that a file gets which is behind the temporary name `temporary` and has no place that
/// could be told. It is not reserved: to every later run it is a file like others.
#[must_use]
pub fn kept(temporary: &[u8]) -> Vec<u8> {
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
    use super::{Purpose, is_one, kept, of, purpose};

    #[test]
    fn only_temporary_names_are_taken_for_them() {
        for name in [&b"passwd"[..], b"\xff\n", &[b'x'; 255]] {
            for one in [Purpose::Share, Purpose::Own] {
                assert_eq!(purpose(&of(name, one)), Some(one));
            }
            assert!(!is_one(name) && !is_one(&kept(&of(name, Purpose::Share))));
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
