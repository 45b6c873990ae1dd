//! Rows of the index: what decodes encodes to the same bytes, and what was damaged is no row.
//!
//! The input is a value as it stands on the disk; keys and names are taken from it, too.

use vhashify::index::rows;
use vhashify::store::ObjectName;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    if let Some(stamp) = rows::stamp_from_bytes(input) {
        assert_eq!(rows::stamp_to_bytes(&stamp), input);
    }
    if let Some((stamp, identity)) = rows::cached_from_bytes(input) {
        assert_eq!(rows::cached_to_bytes(&stamp, &identity), input);
    }
    if let Some(guest) = rows::guest_from_bytes(input) {
        assert_eq!(rows::guest_to_bytes(&guest), input);
        // A name and a path that a system call can be asked about.
        assert!(!guest.name.contains(&0) && !guest.vdir.contains(&0));
    }
    seals(input);
    names(input);
    keys(input);
}

/// Only what was sealed for this table and this key comes back.
fn seals(input: &[u8]) {
    let (key, value) = input.split_at(input.len().min(8));
    let sealed = rows::seal("links", key, value.to_vec());
    assert_eq!(rows::unseal("links", key, &sealed), Some(value));
    assert_eq!(rows::unseal("objects", key, &sealed), None);
    for byte in [0, value.len() / 2, value.len(), sealed.len() - 1] {
        let mut damaged = sealed.clone();
        damaged[byte] ^= 1 << (input.len() % 8);
        assert_eq!(rows::unseal("links", key, &damaged), None);
    }
    assert_eq!(
        rows::unseal("links", key, &sealed[..sealed.len() - 1]),
        None
    );
    // The same of what the input itself says it is.
    if let Some(value) = rows::unseal("scan cache", key, input) {
        assert_eq!(rows::seal("scan cache", key, value.to_vec()), input);
    }
}

/// A row of names is read back by the plainest reader.
fn names(input: &[u8]) {
    let names: Vec<_> = input.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let Ok(count) = u32::try_from(names.len()) else {
        return;
    };
    let row = rows::names_to_bytes(count, &names);
    let (number, mut rest) = row.split_at(4);
    assert_eq!(number, count.to_le_bytes());
    if count == 1 {
        return assert!(rest.is_empty());
    }
    for name in names {
        let (length, after) = rest.split_at(4);
        assert_eq!(length, u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
        let (found, after) = after.split_at(name.len());
        assert_eq!(found, name);
        rest = after;
    }
    assert!(rest.is_empty());
}

/// Keys of `links` sort by guest, then by object.
fn keys(input: &[u8]) {
    const LENGTH: usize = ObjectName::LENGTH + 4;
    let links: Vec<_> = input
        .as_chunks::<LENGTH>()
        .0
        .iter()
        .take(2)
        .filter_map(|chunk| {
            let (number, name) = chunk.split_first_chunk()?;
            let name = ObjectName::from_bytes(name.try_into().ok()?)?;
            Some((u32::from_be_bytes(*number), name))
        })
        .collect();
    if let [first, second] = links[..] {
        let key = |(guest, name): &(u32, ObjectName)| rows::link_key(*guest, name);
        assert_eq!(first.cmp(&second), key(&first).cmp(&key(&second)));
    }
}
