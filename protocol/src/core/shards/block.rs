//! From where the providers of a shard come. Identities cost nothing and addresses do: of one block of addresses a
//! shard takes a few adverts, so that filling it takes as many blocks as there are honest ones.
use crate::identity::PeerId;
use crate::shard::Block;
use std::collections::BTreeMap;

/// Adverts of one block in a shard: a rack of hosts, or a household; more of them land in other shards as the tree
/// grows.
pub const PER_BLOCK: usize = 4;
/// While a shard has fewer adverts than this, everybody is welcome: there is no crowd to keep out.
pub const OPEN_BELOW: usize = 16;

/// Bounded by the board: only providers that stand on it are kept.
#[derive(Default)]
pub struct Blocks {
    of: BTreeMap<PeerId, Block>,
}

impl Blocks {
    pub fn admits(&self, provider: PeerId, block: Option<Block>, adverts: usize) -> bool {
        let Some(block) = block.filter(|_| adverts >= OPEN_BELOW && !self.of.contains_key(&provider)) else {
            return true;
        };
        self.of.values().filter(|other| **other == block).count() < PER_BLOCK
    }
    pub fn note(&mut self, provider: PeerId, block: Option<Block>) {
        match block {
            Some(block) => self.of.insert(provider, block),
            None => None,
        };
    }
    pub fn of(&self, provider: PeerId) -> Option<Block> {
        self.of.get(&provider).copied()
    }
    pub fn retain(&mut self, stands: impl Fn(PeerId) -> bool) {
        self.of.retain(|provider, _| stands(*provider));
    }
}
