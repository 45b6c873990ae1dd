//! Paths on a terminal and in JSON: any bytes, on one line and unambiguous.
//!
//! A guest chooses the names of its files: with line breaks, terminal escapes, bytes that are not UTF-8. Control
//! characters, backslashes and such bytes are written as `\n`, `\\`, `\u{1b}`, `\xe9`.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Arbitrary bytes that display safely.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown<'bytes>(Cow<'bytes, [u8]>);

impl<'bytes> Shown<'bytes> {
    /// A path.
    #[must_use]
    pub fn path(path: &'bytes (impl AsRef<Path> + ?Sized)) -> Self {
        Self(Cow::Borrowed(path.as_ref().as_os_str().as_bytes()))
    }

    /// A name, or any other bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Cow<'bytes, [u8]>>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => out.write_str("\\\\")?,
                    '\n' => out.write_str("\\n")?,
                    '\t' => out.write_str("\\t")?,
                    '\r' => out.write_str("\\r")?,
                    control if control.is_control() => {
                        write!(out, "\\u{{{:x}}}", u32::from(control))?;
                    }
                    plain => write!(out, "{plain}")?,
                }
            }
            chunk
                .invalid()
                .iter()
                .try_for_each(|byte| write!(out, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    #[test]
    fn any_name_is_one_printable_line() {
        for (name, shown) in [
            (&b"/usr/bin/env"[..], "/usr/bin/env"),
            (b"a\nb\\c", r"a\nb\\c"),
            (b"\x1b[31mred", r"\u{1b}[31mred"),
            (b"caf\xe9", r"caf\xe9"),
            ("café".as_bytes(), "café"),
        ] {
            assert_eq!(Shown::bytes(name).to_string(), shown);
        }
    }
}
