//! Which inode numbers have been seen, in memory that does not grow with them.
//!
//! A bit stands for many numbers. So one that is said to be seen may be new, and one that is said to be new is.

/// Numbers that have their bits beside each other: filesystems give neighbouring ones to files of one directory.
const CHUNK: u64 = 1 << 15;
/// Chunks of 4 KiB: 16 MiB in all, of which the kernel gives what is written to. 134 million bits.
const CHUNKS: usize = 1 << 12;
const WORDS: usize = (CHUNK / 64) as usize;

/// A set of inode numbers.
#[derive(Debug)]
pub struct SeenInodes(Vec<u64>);

impl SeenInodes {
    /// The empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; CHUNKS * WORDS])
    }

    /// Adds a number; false where it may have been in the set before.
    pub fn insert(&mut self, inode: u64) -> bool {
        let (chunk, bit) = (inode / CHUNK, inode % CHUNK);
        // Filesystems number inodes by groups, whose numbers differ in their high bits alone.
        let spread = chunk.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
        let at = usize::try_from(spread).unwrap_or(0) % CHUNKS * WORDS
            + usize::try_from(bit / 64).unwrap_or(0);
        let (word, mask) = (&mut self.0[at], 1 << (bit % 64));
        let is_new = *word & mask == 0;
        *word |= mask;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::SeenInodes;

    #[test]
    fn a_number_that_comes_again_is_never_new() {
        let mut seen = SeenInodes::new();
        // As XFS numbers them: in groups.
        let numbers = (0..8_u64).flat_map(|group| (128..40_000).map(move |at| group << 32 | at));
        let new = numbers.clone().filter(|&inode| seen.insert(inode)).count();
        assert!(new > 8 * 39_000, "{new} of {}", 8 * 39_872);
        assert!(numbers.into_iter().all(|inode| !seen.insert(inode)));
    }
}
