//! Names in one long string of bytes, each with its length before it.

/// Names that are remembered, to be found when they come again. Files of one name come in every guest,
/// and thousands of other names between them.
const REMEMBERED: usize = 1 << 16;

/// Names, and where those that came last begin.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    /// By a hash of the name: where one with that hash begins, plus one. Empty where names are not
    /// looked for.
    recent: Vec<u32>,
}

impl Names {
    /// Room for the names of a middling host, as addresses and not as memory.
    pub fn with_room(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            recent: vec![0; REMEMBERED],
        }
    }

    /// Adds a name, unless it is there, and says where it begins.
    pub fn add(&mut self, name: &[u8]) -> u32 {
        // NAME_MAX is 255 on every filesystem of Linux.
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let name = &name[..usize::from(length)];
        let begin = super::narrow(self.bytes.len());
        if !self.recent.is_empty() {
            let slot = hash(name) & (REMEMBERED - 1);
            let known = self.recent[slot];
            if known != 0 && self.get(known - 1) == name {
                return known - 1;
            }
            self.recent[slot] = begin.saturating_add(1);
        }
        self.bytes.push(length);
        self.bytes.extend_from_slice(name);
        begin
    }

    /// The name that begins there.
    pub fn get(&self, begin: u32) -> &[u8] {
        let rest = &self.bytes[begin as usize..];
        &rest[1..][..usize::from(rest[0])]
    }

    /// Adds all of `other`, and says how much later they begin now.
    pub fn append(&mut self, other: &mut Self) -> u32 {
        let base = super::narrow(self.bytes.len());
        self.recent = Vec::new();
        self.bytes.append(&mut other.bytes);
        base
    }
}

/// FNV-1a: short, and good enough to tell a slot.
fn hash(name: &[u8]) -> usize {
    let mix = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let hash = name.iter().fold(0xCBF2_9CE4_8422_2325, mix);
    // The upper bits are mixed best; what is cut off is not needed.
    usize::try_from(hash >> 40).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn a_name_that_comes_again_is_kept_once() {
        let mut names = Names::with_room(0);
        let longest = [b'x'; 255];
        let begins = [&b"a"[..], b"passwd", &longest, b""].map(|name| names.add(name));
        for (name, begin) in [&b"a"[..], b"passwd", &longest, b""].iter().zip(begins) {
            assert_eq!(names.get(begin), *name);
            assert_eq!(names.add(name), begin);
        }
        let mut all = Names::default();
        all.add(b"first");
        let base = all.append(&mut names);
        assert_eq!(all.get(base + begins[1]), b"passwd");
    }

    #[test]
    fn a_name_whose_slot_another_took_is_kept_again() {
        let mut names = Names::with_room(0);
        let add = |names: &mut Names, number: u32| names.add(number.to_string().as_bytes());
        let begins: Vec<u32> = (0..200_000).map(|number| add(&mut names, number)).collect();
        for (number, begin) in begins.into_iter().enumerate() {
            assert_eq!(names.get(begin), number.to_string().as_bytes());
        }
    }
}
