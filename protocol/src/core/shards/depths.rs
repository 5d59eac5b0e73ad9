//! Which trees there are and how deep: what this node has seen, and until then what its neighbours say, who have. It is
//! where a search begins; from there the holders send it up or down. Adverts begin at the root all the same, but those of
//! who has stood for long: put into the middle of a tree by hearsay they make leaves there, where holders come and go and
//! new ones do not know that it has split. And where nobody looks: one who lies may lengthen a search, but where an advert
//! begins takes the word of three.
use crate::identity::PeerId;
use crate::shard::{Index, MAX_DEPTH, Shard};
use crate::units::{Millis, Timestamp};
use rand_core::Rng;
use std::collections::BTreeMap;

/// How deep a tree was, remembered.
const FRESH: Millis = Millis::secs(3600);
/// Trees remembered, seen and told each.
const MAX_TREES: usize = 64;
/// One search in so many looks at a tree, too, of which nobody has told.
const EXPLORES: u32 = 4;
/// Neighbours that are believed of a tree, the last of so many: the least that they say, so that a liar among them can
/// only send us to the root.
const TELLERS: usize = 3;
/// Trees that a neighbour is told of.
pub const MAX_TOLD: usize = 8;

#[derive(Default)]
pub struct Depths {
    seen: BTreeMap<Index, (u8, Timestamp)>,
    told: BTreeMap<Index, Vec<(PeerId, u8)>>,
}

impl Depths {
    /// A leaf was met; where nothing stands there is no tree.
    pub fn saw(&mut self, now: Timestamp, leaf: &Shard, adverts: u32) {
        if leaf.depth == 0 && adverts == 0 {
            self.seen.remove(&leaf.index);
            return;
        }
        if self.seen.len() >= MAX_TREES && !self.seen.contains_key(&leaf.index) {
            self.seen.retain(|_, (_, at)| now - *at < FRESH);
        }
        if self.seen.len() < MAX_TREES || self.seen.contains_key(&leaf.index) {
            self.seen.insert(leaf.index.clone(), (leaf.depth, now));
        }
    }

    /// A neighbour says how deep it has found them.
    pub fn told(&mut self, from: PeerId, depths: &[(Index, u8)]) {
        for (index, depth) in depths.iter().take(MAX_TOLD).filter(|(_, depth)| *depth <= MAX_DEPTH) {
            if self.told.len() >= MAX_TREES && !self.told.contains_key(index) {
                return;
            }
            let said = self.told.entry(index.clone()).or_default();
            said.retain(|(peer, _)| *peer != from);
            if said.len() >= TELLERS {
                said.remove(0);
            }
            said.push((from, *depth));
        }
    }

    /// Where its leaves may lie.
    pub fn likely(&self, now: Timestamp, index: &Index) -> u8 {
        self.depth(now, index, 1)
    }
    /// The same for who will not come to know that it was wrong.
    pub fn attested(&self, now: Timestamp, index: &Index) -> u8 {
        self.depth(now, index, TELLERS)
    }
    fn depth(&self, now: Timestamp, index: &Index, tellers: usize) -> u8 {
        let seen = self.seen.get(index).filter(|(_, at)| now - *at < FRESH).map(|(depth, _)| *depth);
        let told = self.told.get(index).filter(|said| said.len() >= tellers);
        let told = || told?.iter().map(|(_, depth)| *depth).min();
        seen.or_else(told).unwrap_or(0)
    }

    /// Of the trees that may hold an answer those first that there are, as far as anybody has said: a look at one that
    /// is not there costs as much as one at any other. One in some searches looks at a tree more, lest nobody ever does.
    pub fn in_order(
        &self,
        now: Timestamp,
        tiers: Vec<Vec<Index>>,
        own: impl Fn(&Index) -> bool,
        rng: &mut impl Rng,
    ) -> Vec<Vec<Index>> {
        let is_known = |index: &Index| own(index) || self.is_known(now, index);
        let any = |index: &Index| {
            let of_class = if let Index::Country(class, _) = index { Some(Index::All(*class)) } else { None };
            is_known(index) || of_class.is_some_and(|all| is_known(&all))
        };
        let parted = tiers.into_iter().map(|tier| tier.into_iter().partition::<Vec<Index>, _>(any));
        let (mut known, mut others): (Vec<_>, Vec<_>) = parted.unzip();
        known.retain(|tier| !tier.is_empty());
        others.retain(|tier| !tier.is_empty());
        let explores = rng.next_u32().is_multiple_of(EXPLORES);
        if let (Some(first), true, false) = (known.first_mut(), explores, others.is_empty()) {
            let n = rng.next_u32() as usize % others.len();
            let tree = rng.next_u32() as usize % others[n].len();
            first.push(others[n].swap_remove(tree));
            others.retain(|tier| !tier.is_empty());
        }
        known.extend(others);
        known
    }
    fn is_known(&self, now: Timestamp, index: &Index) -> bool {
        self.told.contains_key(index) || self.seen.get(index).is_some_and(|(_, at)| now - *at < FRESH)
    }

    /// What this node has seen itself.
    pub fn fresh(&self, now: Timestamp) -> impl Iterator<Item = (Index, u8)> {
        let fresh = self.seen.iter().filter(move |(_, (_, at))| now - *at < FRESH);
        fresh.map(|(index, (depth, _))| (index.clone(), *depth))
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.seen.values_mut().for_each(|(_, at)| *at = at.set_back(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Arch, Country, Isolation};
    use crate::shard::{Class, Tier};
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    fn tree(n: usize) -> Index {
        let class = Class { arch: Arch::X86_64, isolation: Isolation::Hardware, tier: Tier::Small };
        let letter = |n: usize| char::from(b'A' + (n % 26) as u8);
        let country: Country = format!("{}{}", letter(n / 26), letter(n)).parse().unwrap();
        Index::Country(class, country)
    }
    fn peer(n: u8) -> PeerId {
        PeerId::from_public_key([n; 32])
    }

    #[test]
    fn the_least_that_is_told_counts_until_a_leaf_is_seen() {
        let (mut depths, now) = (Depths::default(), Timestamp(1_000_000));
        assert_eq!(depths.likely(now, &tree(0)), 0);
        for (told, (n, depth)) in [(1, 7), (2, 6), (3, 24), (3, 9)].into_iter().enumerate() {
            assert_eq!(depths.attested(now, &tree(0)), if told < TELLERS { 0 } else { 6 }, "two may lie");
            depths.told(peer(n), &[(tree(0), depth), (tree(1), MAX_DEPTH + 1)]);
        }
        assert_eq!((depths.likely(now, &tree(0)), depths.likely(now, &tree(1))), (6, 0));
        // The last three of them: it has grown since.
        depths.told(peer(4), &[(tree(0), 10)]);
        depths.told(peer(5), &[(tree(0), 10)]);
        assert_eq!(depths.likely(now, &tree(0)), 9);
        depths.saw(now, &Shard::root(tree(0)).down_to(3, 0), 40);
        assert_eq!(depths.likely(now, &tree(0)), 3);
        assert_eq!(depths.fresh(now).collect::<Vec<_>>(), [(tree(0), 3)]);
        let later = now + FRESH;
        assert_eq!((depths.likely(later, &tree(0)), depths.fresh(later).count()), (9, 0));
    }

    #[test]
    fn no_neighbour_makes_it_grow() {
        let (mut depths, now) = (Depths::default(), Timestamp(1_000_000));
        for n in 0..30 {
            let many: Vec<(Index, u8)> = (0..20).map(|m| (tree(20 * n + m), 5)).collect();
            depths.told(peer(n as u8), &many);
        }
        (0..200).for_each(|n| depths.saw(now, &Shard::root(tree(n)).down_to(4, 0), 40));
        assert_eq!((depths.told.len(), depths.seen.len()), (MAX_TREES, MAX_TREES));
        // A known one is still heard of, and those that were seen make room when they are old.
        depths.told(peer(250), &[(tree(0), 2)]);
        assert_eq!(depths.told[&tree(0)].len(), 2);
        depths.saw(now + FRESH, &Shard::root(tree(199)), 1);
        assert_eq!((depths.seen.len(), depths.fresh(now + FRESH).count()), (1, 1));
    }

    #[test]
    fn trees_that_are_known_come_first_and_now_and_then_one_that_is_not() {
        let (mut depths, now) = (Depths::default(), Timestamp(1_000_000));
        depths.told(peer(1), &[(tree(4), 0)]);
        depths.saw(now, &Shard::root(tree(1)).down_to(2, 0), 40);
        depths.saw(now, &Shard::root(tree(3)), 0);
        let tiers = || vec![vec![tree(0), tree(1), tree(2)], vec![tree(3)], vec![tree(4), tree(5)]];
        let own = |index: &Index| *index == tree(5);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut explored = 0;
        for _ in 0..200 {
            let order = depths.in_order(now, tiers(), own, &mut rng);
            assert_eq!((&order[0][0], &order[1]), (&tree(1), &vec![tree(4), tree(5)]));
            explored += order[0].len() - 1;
            let mut all: Vec<Index> = order.concat();
            all.sort();
            assert_eq!(all, (0..6).map(tree).collect::<Vec<_>>(), "none is left out");
        }
        assert!((25..75).contains(&explored), "{explored}");
        // Who knows of none looks at all of them, by their tiers.
        assert_eq!(Depths::default().in_order(now, tiers(), |_| false, &mut rng), tiers());
        // A class that is somewhere may be in this country.
        let Index::Country(class, _) = tree(7) else { unreachable!() };
        let all = |index: &Index| *index == Index::All(class);
        let elsewhere = Index::Country(Class { tier: Tier::Large, ..class }, "DE".parse().unwrap());
        let order = depths.in_order(now, vec![vec![elsewhere], vec![tree(7)]], all, &mut rng);
        assert_eq!(order[0][0], tree(7));
        // What has gone is known no more.
        depths.saw(now, &Shard::root(tree(1)), 0);
        assert_eq!(depths.likely(now, &tree(1)), 0);
    }
}
