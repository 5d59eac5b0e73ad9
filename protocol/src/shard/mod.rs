//! Where on the sharded board an advert has its place. Every advert stands in two indexes, among everything and among
//! its country's, and each index is a prefix hash tree over the hashes of the providers' ids: a leaf that grows over
//! `LEAF` adverts splits by the next bit, and two that shrink below `MERGE` together become one again.
//!
//! ```text
//!  whole ─┬─ class (arch, isolation, tier) ─┬─ …0 ─┬─ …00   each of them held by the `HOLDERS` servers whose
//!         │                                 │      └─ …01   ids lie closest to the hash of its name
//!         │                                 └─ …1
//!         └─ …            a country's tree stands beside it, with a root for each class
//! ```
//! The depth is never derived from how many nodes there are: sybils could inflate that. It is what two holders say.
mod message;
mod place;

pub use message::{Child, Go, MAX_SHARED, PutAnswer, ShardRequest, ShardResponse, Shared, Shelf, Standing, State};
pub use place::{Block, HOLDERS_PER_NET, Net, Position, Server, Site, spread};

use crate::advert::Advert;
use crate::identity::PeerId;
use crate::names::{Arch, Country, Isolation, Network};
use crate::spec::Query;
use crate::units::Resources;
use serde::{Deserialize, Serialize};

/// Servers that hold a shard: with half of them gone in a minute, one is left with a probability of 99.6 %.
pub const HOLDERS: usize = 8;
/// Adverts above which a leaf splits: at about 600 bytes each one page of an answer.
pub const LEAF: usize = 64;
/// Adverts below which two leaves become one; well under half of `LEAF`, so that neither happens in turns.
pub const MERGE: usize = 24;
/// Deep enough for 2^24 × `LEAF` adverts in one class; beyond it ids were ground, and a leaf fills up instead.
pub const MAX_DEPTH: u8 = 24;
/// Further places of a shard, each used where those before it are crowded: to hide it somebody has to grind ids to all
/// four, and then has a fourth of them at each.
pub const ALTERNATES: u8 = 3;

/// By the largest VM that is ever offered, not by what is free now: a provider must not move whenever it lets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Up to 2 CPUs and 4 GiB.
    Small,
    /// Up to 8 CPUs and 16 GiB.
    Medium,
    Large,
}

impl Tier {
    pub const ALL: [Tier; 3] = [Tier::Small, Tier::Medium, Tier::Large];

    /// The tier of a provider whose largest VM this is, and the lowest in which such a VM is found.
    pub fn of(largest: Resources) -> Tier {
        match (largest.cpus, largest.memory_mib.0) {
            (..=2, ..=4096) => Tier::Small,
            (..=8, ..=16384) => Tier::Medium,
            _ => Tier::Large,
        }
    }
}

/// What nobody compares across: a guest of another architecture or isolation does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Class {
    pub arch: Arch,
    pub isolation: Isolation,
    pub tier: Tier,
}

impl Class {
    pub fn of(advert: &Advert) -> Class {
        let terms = &advert.terms;
        Class { arch: terms.arch, isolation: terms.isolation, tier: Tier::of(terms.largest) }
    }
}

/// One tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Index {
    /// Above the classes: it holds no adverts, it counts them.
    Whole,
    All(Class),
    Country(Class, Country),
}

/// One node of a tree: the adverts of the providers whose hash begins with these bits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shard {
    pub index: Index,
    pub depth: u8,
    /// The first `depth` bits, in the low end; the others are zero.
    pub prefix: u32,
    /// 0 is the place that everybody knows; each further one is used where those before it are crowded.
    pub alternate: u8,
}

impl Shard {
    pub const WHOLE: Shard = Shard { index: Index::Whole, depth: 0, prefix: 0, alternate: 0 };

    pub fn root(index: Index) -> Shard {
        Shard { index, depth: 0, prefix: 0, alternate: 0 }
    }
    /// The shard of this depth in which a provider's advert has its place.
    pub fn of(index: Index, depth: u8, provider: PeerId) -> Shard {
        let depth = depth.min(MAX_DEPTH);
        Shard { index, depth, prefix: Position::of_peer(provider).bits(depth), alternate: 0 }
    }
    /// What arrives by serde may be anything.
    pub fn is_valid(&self) -> bool {
        let depth = if self.index == Index::Whole { 0 } else { MAX_DEPTH };
        let alternates = if self.index == Index::Whole { 0 } else { ALTERNATES };
        self.depth <= depth && u64::from(self.prefix) < 1 << self.depth && self.alternate <= alternates
    }
    /// An alternate place stands for itself, under nobody.
    pub fn parent(&self) -> Option<Shard> {
        match (&self.index, self.depth) {
            _ if self.alternate > 0 => None,
            (Index::Whole, _) | (Index::Country(..), 0) => None,
            (Index::All(_), 0) => Some(Shard::WHOLE),
            (index, depth) => {
                Some(Shard { index: index.clone(), depth: depth - 1, prefix: self.prefix >> 1, alternate: 0 })
            }
        }
    }
    /// Where the same adverts are found when this place is crowded.
    pub fn next_alternate(&self) -> Option<Shard> {
        let more = self.alternate < ALTERNATES && self.index != Index::Whole;
        more.then(|| Shard { alternate: self.alternate + 1, ..self.clone() })
    }
    /// The ancestor of this depth, or itself.
    pub fn up_to(&self, depth: u8) -> Shard {
        let depth = depth.min(self.depth);
        Shard {
            index: self.index.clone(),
            depth,
            prefix: self.prefix >> (self.depth - depth),
            alternate: self.alternate,
        }
    }
    /// A descendant of this depth: `chance` chooses which.
    pub fn down_to(&self, depth: u8, chance: u32) -> Shard {
        let depth = depth.clamp(self.depth, MAX_DEPTH);
        let further = u32::from(depth - self.depth);
        let below = chance & ((1u32 << further) - 1);
        Shard { index: self.index.clone(), depth, prefix: (self.prefix << further) | below, alternate: self.alternate }
    }
    pub fn covers(&self, other: &Shard) -> bool {
        self.depth <= other.depth && other.up_to(self.depth) == *self
    }
    /// Whether this advert has its place here. A shard of no such place is refused whatever else is right.
    pub fn takes(&self, advert: &Advert) -> bool {
        let class = Class::of(advert);
        let fits = match &self.index {
            Index::Whole => false,
            Index::All(own) => *own == class,
            Index::Country(own, country) => *own == class && advert.terms.country.as_ref() == Some(country),
        };
        fits && self.takes_peer(advert.provider)
    }
    /// A withdrawal names nothing but its provider.
    pub fn takes_peer(&self, provider: PeerId) -> bool {
        Position::of_peer(provider).bits(self.depth) == self.prefix
    }
    /// The name under which the routing finds it. Networks never share a place.
    pub fn key(&self, network: &Network) -> Vec<u8> {
        let mut key = format!("golemnode/shard/1\0{network}\0").into_bytes();
        let (kind, class, country) = match &self.index {
            Index::Whole => (0, None, None),
            Index::All(class) => (1, Some(class), None),
            Index::Country(class, country) => (2, Some(class), Some(country)),
        };
        key.push(kind);
        if let Some(class) = class {
            key.extend_from_slice(
                format!("{}\0{}\0{}\0", class.arch.as_str(), class.isolation, class.tier as u8).as_bytes(),
            );
        }
        if let Some(country) = country {
            key.extend_from_slice(country.as_str().as_bytes());
        }
        key.push(self.depth);
        key.extend_from_slice(&self.prefix.to_be_bytes());
        if self.alternate > 0 {
            key.push(self.alternate);
        }
        key
    }
    pub fn position(&self, network: &Network) -> Position {
        Position::of_key(&self.key(network))
    }
}

/// The trees in which an advert stands.
pub fn indexes_of(advert: &Advert) -> Vec<Index> {
    let class = Class::of(advert);
    let country = advert.terms.country.clone().map(|country| Index::Country(class, country));
    std::iter::once(Index::All(class)).chain(country).collect()
}

/// The trees in which a query may find something, tier by tier: those that fit best first.
pub fn indexes_for(query: &Query) -> Vec<Vec<Index>> {
    let archs: Vec<Arch> = query.arch.map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
    let isolations: Vec<Isolation> =
        Isolation::ALL.into_iter().filter(|isolation| query.isolation.takes(*isolation)).collect();
    let lowest = Tier::of(query.want);
    let tiers = Tier::ALL.into_iter().filter(|tier| *tier >= lowest);
    let of_tier = |tier| {
        let mut indexes = Vec::new();
        for arch in &archs {
            for isolation in &isolations {
                let class = Class { arch: *arch, isolation: *isolation, tier };
                indexes.push(match &query.country {
                    Some(country) => Index::Country(class, country.clone()),
                    None => Index::All(class),
                });
            }
        }
        indexes
    };
    tiers.map(of_tier).collect()
}

/// How deep the leaves lie at least, under a node of this depth with so many adverts below it: none has more than
/// `leaf`. Too shallow costs a step, too deep would make a leaf that nobody is sent to.
pub fn likely_depth(depth: u8, below: u64, leaf: usize) -> u8 {
    let further = (below / leaf.max(1) as u64).max(1).ilog2() as u8;
    depth.saturating_add(further).min(MAX_DEPTH)
}

#[cfg(test)]
mod tests;
