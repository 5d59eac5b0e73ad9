//! Kademlia, as far as a lookup's length, its answer and its bytes go: who serves is known here exactly, but a lookup
//! goes from table to table as it does in the mesh. A node's table is never stored: that it knows up to 20 nodes of each
//! prefix is drawn anew from the same numbers whenever it is asked.
use protocol::shard::Position;
use std::collections::BTreeMap;
use std::ops::Bound::Included;

/// Kademlia's bucket size and parallelism, libp2p's defaults.
const BUCKET: usize = 20;
const PARALLEL: usize = 3;
/// Peers that a lookup ends with: the holders, and as many again as their views may differ by.
pub const FOUND: usize = 12;
/// A lookup that goes round in circles is ended by the library, too.
const MOST_ROUNDS: usize = 24;

/// What a lookup came to.
pub struct Walk {
    /// The closest that were found, closest first.
    pub found: Vec<u32>,
    /// Those that were asked, in their rounds.
    pub rounds: Vec<Vec<u32>>,
}

#[derive(Default)]
pub struct Routing {
    servers: BTreeMap<u128, u32>,
}

fn mix(mut x: u64) -> u64 {
    // SplitMix64 (Steele, Lea, Flood 2014): a different number for each table and prefix, the same each time.
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The positions that share the first `bits` bits with this one.
fn range(at: u128, bits: u32) -> (u128, u128) {
    let low_bits = 128 - bits;
    let mask = if low_bits == 128 { u128::MAX } else { (1u128 << low_bits) - 1 };
    (at & !mask, at | mask)
}

impl Routing {
    pub fn join(&mut self, at: Position, node: u32) {
        self.servers.insert(at.0, node);
    }
    pub fn leave(&mut self, at: Position) {
        self.servers.remove(&at.0);
    }
    pub fn len(&self) -> usize {
        self.servers.len()
    }
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The truly closest servers to a place.
    pub fn closest(&self, place: Position, count: usize) -> Vec<(Position, u32)> {
        let wanted = count.min(self.servers.len());
        let mut bits = (self.servers.len().max(1).ilog2()).saturating_sub(count.max(1).ilog2()).min(120);
        loop {
            let (first, last) = range(place.0, bits);
            let near = self.servers.range((Included(first), Included(last)));
            let mut near: Vec<(Position, u32)> = near.map(|(at, node)| (Position(*at), *node)).collect();
            if near.len() >= wanted {
                near.sort_by_key(|(at, _)| at.distance(place));
                near.truncate(count);
                return near;
            }
            bits = bits.saturating_sub(1);
        }
    }

    /// What a server's table gives for a place: of the bucket that the place falls into, the closest it knows.
    fn table(&self, owner: Position, place: Position) -> Vec<(Position, u32)> {
        let shared = (owner.0 ^ place.0).leading_zeros();
        if shared >= 127 {
            return self.closest(place, BUCKET);
        }
        let (first, last) = range(place.0, shared + 1);
        let width = last - first;
        let mut known = Vec::with_capacity(BUCKET);
        let mut seed = mix(owner.0 as u64 ^ u64::from(shared));
        // A bucket that is not full holds all there is.
        let all: Vec<(Position, u32)> = self
            .servers
            .range((Included(first), Included(last)))
            .take(BUCKET + 1)
            .map(|(at, node)| (Position(*at), *node))
            .collect();
        if all.len() <= BUCKET {
            known = all;
            if known.len() < BUCKET {
                // Then its closer and further buckets fill the answer.
                let more = self.closest(owner, BUCKET);
                known.extend(more);
            }
        } else {
            while known.len() < BUCKET {
                seed = mix(seed);
                let high = u128::from(seed) << 64 | u128::from(mix(!seed));
                let from = first + if width == u128::MAX { high } else { high % (width + 1) };
                let next = self.servers.range((Included(from), Included(last))).next();
                let Some((at, node)) = next.or_else(|| self.servers.range((Included(first), Included(last))).next())
                else {
                    break;
                };
                if known.iter().all(|(_, other)| other != node) {
                    known.push((Position(*at), *node));
                } else {
                    seed = mix(seed ^ 1);
                }
            }
        }
        known.sort_by_key(|(at, _)| at.distance(place));
        known.dedup();
        known.truncate(BUCKET);
        known
    }

    /// A lookup from somewhere, asking those it is told of until the closest have all answered. `answers` says who is
    /// there and honest; what a dishonest one answers is `lies`.
    pub fn walk(
        &self,
        from: Position,
        place: Position,
        mut answers: impl FnMut(u32) -> bool,
        lies: impl Fn(u32) -> Option<Vec<(Position, u32)>>,
    ) -> Walk {
        let mut known: Vec<(Position, u32, bool)> = Vec::new();
        let learn = |known: &mut Vec<(Position, u32, bool)>, news: Vec<(Position, u32)>| {
            for (at, node) in news {
                if known.iter().all(|(_, other, _)| *other != node) {
                    known.push((at, node, false));
                }
            }
            known.sort_by_key(|(at, ..)| at.distance(place));
        };
        learn(&mut known, self.table(from, place));
        let mut rounds = Vec::new();
        while rounds.len() < MOST_ROUNDS {
            let next: Vec<(Position, u32)> = known
                .iter()
                .take(FOUND)
                .filter(|(.., asked)| !asked)
                .take(PARALLEL)
                .map(|(at, node, _)| (*at, *node))
                .collect();
            if next.is_empty() {
                break;
            }
            let mut silent = Vec::new();
            for (at, node) in &next {
                if let Some(entry) = known.iter_mut().find(|(_, other, _)| other == node) {
                    entry.2 = true;
                }
                match lies(*node) {
                    Some(lie) => learn(&mut known, lie),
                    None if answers(*node) => learn(&mut known, self.table(*at, place)),
                    None => silent.push(*node),
                }
            }
            known.retain(|(_, node, _)| !silent.contains(node));
            rounds.push(next.into_iter().map(|(_, node)| node).collect());
        }
        known.truncate(FOUND);
        Walk { found: known.into_iter().map(|(_, node, _)| node).collect(), rounds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(count: u32) -> (Routing, Vec<Position>) {
        let mut routing = Routing::default();
        let at: Vec<Position> = (0..count).map(|n| Position::of_key(&n.to_be_bytes())).collect();
        at.iter().zip(0..).for_each(|(at, n)| routing.join(*at, n));
        (routing, at)
    }

    #[test]
    fn the_closest_are_those_of_a_full_scan() {
        let (routing, at) = routing(3000);
        for n in 0..200u32 {
            let place = Position::of_key(&[&n.to_be_bytes()[..], b"place"].concat());
            let mut all: Vec<Position> = at.clone();
            all.sort_by_key(|at| at.distance(place));
            let found: Vec<Position> = routing.closest(place, 8).into_iter().map(|(at, _)| at).collect();
            assert_eq!(found, all[..8]);
        }
    }

    #[test]
    fn lookups_end_at_the_closest_in_a_few_rounds() {
        for (count, most) in [(50, 8), (1000, 10), (20_000, 12)] {
            let (routing, at) = routing(count);
            let (mut right, mut longest) = (0, 0);
            for n in 0..100u32 {
                let place = Position::of_key(&[&n.to_be_bytes()[..], b"place"].concat());
                let walk = routing.walk(at[n as usize % at.len()], place, |_| true, |_| None);
                let closest: Vec<u32> = routing.closest(place, 8).into_iter().map(|(_, node)| node).collect();
                right += usize::from(walk.found[..8] == closest);
                longest = longest.max(walk.rounds.len());
            }
            assert!(right >= 99, "{right} of 100 with {count} servers");
            assert!(longest <= most, "{longest} rounds with {count} servers");
        }
    }
}
