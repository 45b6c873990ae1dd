//! Which holders have which part of a disk: files that share extents overlap there. Pure.

use std::collections::BTreeMap;

/// Bytes of a disk that a holder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Where they begin.
    pub address: u64,
    /// How many.
    pub length: u64,
    /// Its holder: a guest, say, by its position in a list.
    pub holder: u16,
}

/// Calls `each` for every stretch whose holders are the same from its beginning to its end: with its length, and its
/// holders, each with the count of its spans there.
pub fn stretches(spans: &[Span], mut each: impl FnMut(u64, &[(u16, u32)])) {
    // Each span begins (+1) and ends (-1).
    let mut edges: Vec<(u64, i8, u16)> = Vec::with_capacity(spans.len() * 2);
    for span in spans.iter().filter(|span| span.length > 0) {
        edges.push((span.address, 1, span.holder));
        edges.push((span.address.saturating_add(span.length), -1, span.holder));
    }
    edges.sort_unstable();
    let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
    let mut holders: Vec<(u16, u32)> = Vec::new();
    let mut at = 0;
    for (address, change, holder) in edges {
        if address > at && !counts.is_empty() {
            holders.clear();
            holders.extend(counts.iter().map(|(&holder, &count)| (holder, count)));
            each(address - at, &holders);
        }
        at = address;
        let count = counts.entry(holder).or_default();
        *count = count.saturating_add_signed(change.into());
        if *count == 0 {
            counts.remove(&holder);
        }
    }
}

/// The bytes of the disk that `spans` cover, each byte once.
#[must_use]
pub fn bytes_held(spans: &[Span]) -> u64 {
    let mut bytes = 0;
    stretches(spans, |length, _| bytes += length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Span, bytes_held, stretches};

    fn span(address: u64, length: u64, holder: u16) -> Span {
        Span {
            address,
            length,
            holder,
        }
    }

    #[test]
    fn stretches_end_where_holders_change() {
        type Case<'a> = (&'a [Span], &'a [(u64, &'a [(u16, u32)])]);
        let cases: [Case<'_>; 6] = [
            (&[], &[]),
            (&[span(5, 0, 1)], &[]),
            (&[span(5, 10, 1)], &[(10, &[(1, 1)])]),
            // Two guests, the second of which has overwritten the middle.
            (
                &[span(0, 30, 1), span(0, 10, 2), span(20, 10, 2)],
                &[
                    (10, &[(1, 1), (2, 1)]),
                    (10, &[(1, 1)]),
                    (10, &[(1, 1), (2, 1)]),
                ],
            ),
            // Twice in one guest.
            (&[span(0, 10, 1), span(0, 10, 1)], &[(10, &[(1, 2)])]),
            // Neighbours, and a gap.
            (
                &[span(10, 5, 2), span(0, 10, 1), span(20, 1, 3)],
                &[(10, &[(1, 1)]), (5, &[(2, 1)]), (1, &[(3, 1)])],
            ),
        ];
        for (spans, wanted) in cases {
            let mut found = Vec::new();
            stretches(spans, |length, holders| {
                found.push((length, holders.to_vec()));
            });
            let wanted: Vec<_> = wanted
                .iter()
                .map(|&(length, holders)| (length, holders.to_vec()))
                .collect();
            assert_eq!(found, wanted, "{spans:?}");
        }
    }

    #[test]
    fn a_byte_that_several_hold_is_held_once() {
        assert_eq!(bytes_held(&[span(0, 30, 1), span(10, 30, 2)]), 40);
    }
}
