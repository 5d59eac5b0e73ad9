//! All chance of a run, from its seed.
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::ops::Range;

pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
    /// The bias of the remainder is far below anything that a scenario could notice.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.0.next_u64() % width
    }
    pub fn index(&mut self, len: usize) -> usize {
        self.within(0..len as u64) as usize
    }
    pub fn percent(&mut self, chance: u32) -> bool {
        self.within(0..100) < u64::from(chance)
    }
    /// One of these, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u32, T)]) -> Option<T> {
        let total: u64 = choices.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut drawn = self.within(0..total);
        for (weight, choice) in choices {
            match drawn.checked_sub(u64::from(*weight)) {
                Some(left) => drawn = left,
                None => return Some(*choice),
            }
        }
        None
    }
}
