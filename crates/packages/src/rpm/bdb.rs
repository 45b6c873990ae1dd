//! Berkeley DB's hash format, as far as rpm uses it for `Packages`.
//!
//! ```text
//! page 0       meta: magic at 12, page size at 20, encryption at 24, type at 25, flags at 26
//! hash page    next at 16 | items at 20 (u16) | type at 25 | from 26: offset of each item (u16)
//!              items come in pairs of key and value; a value too long for the page is a
//!              reference: type 3 | - - - | first page | length
//! overflow     next at 16 | bytes used at 22 (u16) | type at 25 | from 26: data
//! ```
//!
//! Numbers are in the byte order of the host that wrote the file. The parser visits every page once, in
//! the order of the file, and follows no bucket; for long values it follows chains of overflow pages. A
//! page belongs to one value only, so if the chains take more pages than the file has, one of them is a
//! circle.

use super::{Damage, header, position};
use crate::configuration_files::ConfigurationFiles;

const HASH_MAGIC: u32 = 0x0006_1561;
const BTREE_MAGIC: u32 = 0x0005_3162;

const PAGE_HEAD: usize = 26;
const PAGE_HASH_UNSORTED: u8 = 2;
const PAGE_OVERFLOW: u8 = 7;
const PAGE_HASH: u8 = 13;

const ITEM_INLINE: u8 = 1;
const ITEM_OFF_PAGE: u8 = 3;

const CHECKSUMMED: u8 = 1;

const CUT: Damage = Damage::Format("it is cut short");

pub(super) fn parse(file: &[u8], files: &mut ConfigurationFiles) -> Result<(), Damage> {
    if file.is_empty() {
        return Ok(());
    }
    let database = Database::new(file)?;
    let mut pages_left = database.pages();
    let mut value = Vec::new();
    for page in file.chunks_exact(database.page_size).skip(1) {
        if !matches!(page[25], PAGE_HASH | PAGE_HASH_UNSORTED) {
            continue;
        }
        let items = usize::from(database.order.u16(page, 20).ok_or(CUT)?);
        for pair in 0..items / 2 {
            let key = database.item(page, 2 * pair)?;
            // Under key 0 rpm keeps no package but the last package number that it gave out.
            if matches!(key, [ITEM_INLINE, 0, 0, 0, 0]) {
                continue;
            }
            match database.item(page, 2 * pair + 1)? {
                [ITEM_INLINE, blob @ ..] => header::parse(blob, files)?,
                item @ [ITEM_OFF_PAGE, ..] => {
                    database.read_overflow(item, &mut value, &mut pages_left)?;
                    header::parse(&value, files)?;
                }
                _ => return Err(Damage::Format("a package is stored in an unknown way")),
            }
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u32(self, bytes: &[u8], offset: usize) -> Option<u32> {
        let word = *bytes.get(offset..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        })
    }

    fn u16(self, bytes: &[u8], offset: usize) -> Option<u16> {
        let word = *bytes.get(offset..)?.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(word),
            Self::Big => u16::from_be_bytes(word),
        })
    }
}

struct Database<'a> {
    file: &'a [u8],
    page_size: usize,
    order: ByteOrder,
}

impl<'a> Database<'a> {
    fn new(file: &'a [u8]) -> Result<Self, Damage> {
        let magic = |order: ByteOrder| order.u32(file, 12);
        let order = [ByteOrder::Little, ByteOrder::Big]
            .into_iter()
            .find(|order| matches!(magic(*order), Some(HASH_MAGIC | BTREE_MAGIC)))
            .ok_or(Damage::Format(
                "it does not begin as a Berkeley DB file does",
            ))?;
        if magic(order) == Some(BTREE_MAGIC) {
            return Err(Damage::Format(
                "it is a Berkeley DB tree (rpm 5), which is not supported",
            ));
        }
        let page_size = position(order.u32(file, 20).ok_or(CUT)?);
        let [encryption, _, flags] = *file.get(24..).and_then(<[u8]>::first_chunk).ok_or(CUT)?;
        if encryption != 0 || flags & CHECKSUMMED != 0 {
            return Err(Damage::Format(
                "it is encrypted or checksummed, which rpm's never are",
            ));
        }
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(Damage::Format("it has an impossible page size"));
        }
        if file.len() < page_size {
            return Err(CUT);
        }
        Ok(Self {
            file,
            page_size,
            order,
        })
    }

    fn pages(&self) -> usize {
        self.file.len() / self.page_size
    }

    fn page(&self, number: u32) -> Option<&'a [u8]> {
        let start = position(number).checked_mul(self.page_size)?;
        self.file.get(start..)?.get(..self.page_size)
    }

    /// Item `number` of a hash page. Items fill the page from its end backwards, so an item ends where
    /// the one before it begins.
    fn item(&self, page: &'a [u8], number: usize) -> Result<&'a [u8], Damage> {
        let offset = |number: usize| {
            self.order
                .u16(page, PAGE_HEAD + 2 * number)
                .map(usize::from)
        };
        let start = offset(number).ok_or(CUT)?;
        let end = match number.checked_sub(1) {
            Some(before) => offset(before).ok_or(CUT)?,
            None => page.len(),
        };
        page.get(start..end)
            .ok_or(Damage::Format("an item lies outside of its page"))
    }

    /// Reads the value that `item` refers to from its chain of overflow pages. `pages_left` is how many
    /// pages this and later chains may have.
    fn read_overflow(
        &self,
        item: &[u8],
        value: &mut Vec<u8>,
        pages_left: &mut usize,
    ) -> Result<(), Damage> {
        let mut next = self.order.u32(item, 4).ok_or(CUT)?;
        let length = position(self.order.u32(item, 8).ok_or(CUT)?);
        value.clear();
        while next != 0 && value.len() < length {
            *pages_left = pages_left
                .checked_sub(1)
                .ok_or(Damage::Format("a chain of pages is a circle"))?;
            let page = self.page(next).ok_or(CUT)?;
            if page[25] != PAGE_OVERFLOW {
                return Err(Damage::Format(
                    "a chain of pages leads to a page of another kind",
                ));
            }
            let used = usize::from(self.order.u16(page, 22).ok_or(CUT)?);
            value.extend_from_slice(page[PAGE_HEAD..].get(..used).ok_or(CUT)?);
            next = self.order.u32(page, 16).ok_or(CUT)?;
        }
        if value.len() == length {
            Ok(())
        } else {
            Err(CUT)
        }
    }
}
