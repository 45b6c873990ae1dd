//! Temporary names beside the files they replace.
//!
//! A temporary name is made from the name it serves: `.vhashify-` and 32 hex digits of BLAKE3 of
//! that name. So whoever finds one after a crash knows which file of the same directory it belongs
//! to, without a journal that could be lost. Names of this form are reserved; nothing else in a
//! guest is called so.

const PREFIX: &[u8] = b".vhashify-";
const DIGITS: usize = 32;

/// The temporary name that serves `name`.
#[must_use]
pub fn of(name: &[u8]) -> Vec<u8> {
    let digits = blake3::hash(name).to_hex();
    [PREFIX, &digits.as_bytes()[..DIGITS]].concat()
}

/// Whether `name` is reserved for temporary names.
#[must_use]
pub fn is_one(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == DIGITS
            && rest
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::{is_one, of};

    #[test]
    fn only_temporary_names_are_taken_for_them() {
        for name in [&b"passwd"[..], b"\xff\n", &[b'x'; 255]] {
            assert!(is_one(&of(name)));
            assert!(!is_one(name));
        }
        for name in [&b".vhashify-"[..], b".vhashify-notes", b".vhashify"] {
            assert!(!is_one(name));
        }
        assert_ne!(of(b"a"), of(b"b"));
    }
}
