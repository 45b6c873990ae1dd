//! rpm's own database, `Packages.db`: slots point to blobs, which fill blocks of 16 bytes. Numbers are
//! little-endian.
//!
//! ```text
//! page 0..n    "RpmP" | version | generation | pages of slots | next package | 0 0 0
//!              "Slot" | package | first block | blocks        | ...
//! then         "BlbS" | package | generation  | length | header blob, padded | checksum ...
//! ```
//!
//! Blobs share no block, so all of them together are no longer than the file. The parser refuses a file
//! whose slots claim more: it would parse the same bytes again and again.

use super::{Damage, header, le32, position};
use crate::configuration_files::ConfigurationFiles;

const PAGE: usize = 4096;
const SLOT: usize = 16;
const BLOCK: usize = 16;
const BLOB_HEAD: usize = 16;
/// The file's head replaces the first two slots.
const HEAD: usize = 2 * SLOT;

const CUT: Damage = Damage::Format("it is cut short");

pub(super) fn parse(file: &[u8], files: &mut ConfigurationFiles) -> Result<(), Damage> {
    // rpm creates an empty file before it writes the first page.
    if file.is_empty() {
        return Ok(());
    }
    if !file.starts_with(b"RpmP") {
        return Err(Damage::Format(
            "it does not begin as an rpm ndb database does",
        ));
    }
    if le32(file, 4) != Some(0) {
        return Err(Damage::Format(
            "it has an unknown version of rpm's ndb format",
        ));
    }
    let pages = position(le32(file, 12).ok_or(CUT)?);
    let slots = pages
        .checked_mul(PAGE)
        .and_then(|end| file.get(HEAD..end))
        .ok_or(CUT)?;
    let mut bytes_left = file.len();
    for slot in slots.chunks_exact(SLOT) {
        if !slot.starts_with(b"Slot") {
            return Err(Damage::Format("a slot does not begin as slots do"));
        }
        let package = le32(slot, 4).ok_or(CUT)?;
        if package == 0 {
            continue;
        }
        let bytes = |offset| position(le32(slot, offset)?).checked_mul(BLOCK);
        let start = bytes(8).ok_or(CUT)?;
        let length = bytes(12).ok_or(CUT)?;
        bytes_left = bytes_left
            .checked_sub(length)
            .ok_or(Damage::Format("its slots overlap"))?;
        let blob = file
            .get(start..)
            .and_then(|rest| rest.get(..length))
            .ok_or(CUT)?;
        header::parse(header_in(blob, package)?, files)?;
    }
    Ok(())
}

fn header_in(blob: &[u8], package: u32) -> Result<&[u8], Damage> {
    if !blob.starts_with(b"BlbS") || le32(blob, 4) != Some(package) {
        return Err(Damage::Format(
            "a slot points to a place that is not its blob",
        ));
    }
    let length = position(le32(blob, 12).ok_or(CUT)?);
    blob.get(BLOB_HEAD..)
        .and_then(|rest| rest.get(..length))
        .ok_or(CUT)
}
