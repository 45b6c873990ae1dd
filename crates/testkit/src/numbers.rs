//! Numbers that look random and are the same each time.

/// Numbers that follow from a seed (xorshift64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero, and small seeds begin with small numbers.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next one below `end`.
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

    /// One of several.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.position(of.len())]
    }

    /// Whether one out of `of` happens.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}
