//! Numbers that look random and are the same each time.

/// A series of them (xorshift64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The series that belongs to `seed`, which is not 0.
    pub fn new(seed: u64) -> Self {
        assert_ne!(seed, 0, "of 0 there are only zeros");
        Self(seed)
    }

    /// The next one, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// A position in a list of `length`.
    pub fn position(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}
