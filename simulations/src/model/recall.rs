//! Does who looks for a provider find it? Counted without searching: the tree is walked as a requestor walks it, over
//! the true holders, and what two of them drawn by chance would show is weighed.
use super::member::Node;
use super::{Id, Model, routing};
use protocol::PeerId;
use protocol::shard::{Class, HOLDERS, Index, MAX_DEPTH, Shard, Standing, Tier, spread};
use protocol::spec::Query;
use protocol::units::Timestamp;

/// Holders that a requestor asks first, and before it believes that there is nothing.
const ASKED: usize = 2;
const ABSENT: usize = 3;

/// The chance that two of the holders, drawn at random, show it when so many of them have it.
fn chance(having: usize, of: usize) -> f64 {
    if of == 0 {
        return 0.0;
    }
    let asked = ASKED.min(of);
    let mut missed = 1.0;
    for n in 0..asked {
        missed *= (of - having).saturating_sub(n) as f64 / (of - n) as f64;
    }
    1.0 - missed
}

/// What those who hold a shard would show of a provider, and how many of them say what of the shard.
struct Shelves {
    having: usize,
    said: Said,
    /// They lie far closer together than servers do: a requestor looks elsewhere, too.
    crowded: bool,
}

#[derive(Clone, Copy, Default)]
struct Said {
    split: usize,
    leaf: usize,
    absent: usize,
}

impl Said {
    fn all(self) -> usize {
        self.split + self.leaf + self.absent
    }

    /// The chance that a requestor goes further down: it asks one after the other, drawn at random, until two have said
    /// the same, or three that there is nothing, and follows those. `heard` is what it was told so far.
    fn goes_down(self, heard: Said) -> f64 {
        if heard.split >= ASKED {
            return 1.0;
        }
        if heard.leaf >= ASKED || heard.absent >= ABSENT {
            return 0.0;
        }
        let left = self.all() - heard.all();
        if left == 0 {
            // All there are: one alone is followed.
            return f64::from(u8::from(heard.split == 1 && heard.leaf + heard.absent == 0));
        }
        let part = |of: usize, then: Said| if of == 0 { 0.0 } else { of as f64 / left as f64 * self.goes_down(then) };
        part(self.split - heard.split, Said { split: heard.split + 1, ..heard })
            + part(self.leaf - heard.leaf, Said { leaf: heard.leaf + 1, ..heard })
            + part(self.absent - heard.absent, Said { absent: heard.absent + 1, ..heard })
    }
}

impl Model {
    fn shelves(&self, shard: &Shard, provider: PeerId) -> Shelves {
        let (place, holders) = (shard.position(self.network()), self.holders(shard));
        let usual = u128::MAX / (self.routing.len() as u128).max(1);
        let width = holders.last().map_or(0, |last| self.node(*last).at.distance(place));
        let room = usual.saturating_mul(holders.len() as u128);
        let crowded = self.routing.len() >= HOLDERS && width < room / 4;
        let mut shelves = Shelves { having: 0, said: Said::default(), crowded };
        for id in holders.into_iter().filter(|id| self.node(*id).is_up()) {
            let Some(core) = self.node(id).core.as_ref() else {
                // A liar answers too: that it is a leaf, and has nothing.
                shelves.said.leaf += 1;
                continue;
            };
            let (has, standing) = core.shards().shelf(self.clock(id), shard, &Query::default(), provider);
            shelves.having += usize::from(has);
            match standing {
                Standing::Split { .. } => shelves.said.split += 1,
                Standing::Absent => shelves.said.absent += 1,
                Standing::Leaf | Standing::Warming => shelves.said.leaf += 1,
            }
        }
        shelves
    }

    /// The chance that a requestor who looks for this provider in this index, and knows nothing yet, finds it now.
    pub fn findable(&self, index: &Index, provider: PeerId) -> f64 {
        let (mut best, mut reached): (f64, f64) = (0.0, 1.0);
        for depth in 0..=MAX_DEPTH {
            let mut shard = Shard::of(index.clone(), depth, provider);
            let here = self.shelves(&shard, provider);
            let mut crowded = here.crowded;
            best = best.max(reached * chance(here.having, here.said.all()));
            while let Some(alternate) = shard.next_alternate().filter(|_| crowded) {
                let beside = self.shelves(&alternate, provider);
                best = best.max(reached * chance(beside.having, beside.said.all()));
                (shard, crowded) = (alternate, beside.crowded);
            }
            reached *= here.said.goes_down(Said::default());
            if reached <= best {
                break;
            }
        }
        best
    }

    /// Those that a requestor takes for the holders of a shard: of what a lookup ends with, two of each subnet at most.
    pub(super) fn holders(&self, shard: &Shard) -> Vec<Id> {
        let place = shard.position(self.network());
        let found = self.routing.closest(place, routing::FOUND);
        let servers = found.into_iter().map(|(_, id)| self.node(id).server.clone()).collect();
        spread(servers, place, HOLDERS).iter().filter_map(|server| self.id_of(server.peer)).collect()
    }

    /// Those that offer something, and have been up for so long.
    fn offering(&self, settled_for: u64) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| {
            let offers = |core: &protocol::core::NodeCore| core.provider().silent_because().is_none();
            node.core.as_ref().is_some_and(|core| offers(core)) && node.started + settled_for <= self.now
        })
    }

    /// Of the live providers that have been up for so long, the mean chance to be found in the index of everything.
    pub fn recall(&self, settled_for: u64) -> (f64, usize) {
        self.recall_of(settled_for, usize::MAX, |_| true)
    }
    /// The same, of those providers that are wanted, or of so many of them at even distances.
    pub fn recall_of(&self, settled_for: u64, most: usize, wanted: impl Fn(PeerId) -> bool) -> (f64, usize) {
        let all: Vec<&Node> = self.offering(settled_for).filter(|node| wanted(node.peer)).collect();
        let every = all.len().div_ceil(most).max(1);
        let (mut sum, mut count) = (0.0, 0);
        for node in all.into_iter().step_by(every) {
            let Some(class) = class_of(node) else { continue };
            sum += self.findable(&Index::All(class), node.peer);
            count += 1;
        }
        (if count == 0 { 1.0 } else { sum / count as f64 }, count)
    }

    /// Where this advert stands now: the first shard on its way down that most of its holders have not split.
    pub(super) fn leaf_of(&self, index: &Index, provider: PeerId) -> Shard {
        let mut shard = Shard::root(index.clone());
        while shard.depth < MAX_DEPTH {
            let cores = self.holders(&shard).into_iter().filter_map(|id| Some((id, self.node(id).core.as_ref()?)));
            let stands =
                cores.map(|(id, core)| core.shards().shelf(self.clock(id), &shard, &Query::default(), provider).1);
            let (split, all) = stands.fold((0, 0), |(split, all), standing| {
                (split + usize::from(matches!(standing, Standing::Split { .. })), all + 1)
            });
            if split * 2 <= all {
                return shard;
            }
            shard = Shard::of(index.clone(), shard.depth + 1, provider);
        }
        shard
    }

    /// Adverts on the shelves of live holders, and those of them whose provider is gone.
    pub fn dead_share(&self) -> f64 {
        let (mut all, mut dead) = (0usize, 0usize);
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(core) = node.core.as_ref() else { continue };
            let now: Timestamp = self.clock(n as u32);
            for (_, board) in core.shards().shelves() {
                for provider in board.alive(now) {
                    all += 1;
                    let up = self.id_of(provider).is_some_and(|id| self.node(id).core.is_some());
                    dead += usize::from(!up);
                }
            }
        }
        if all == 0 { 0.0 } else { dead as f64 / all as f64 }
    }
}

pub(super) fn class_of(node: &Node) -> Option<Class> {
    let offer = node.offer.as_ref()?;
    Some(Class { arch: offer.arch, isolation: offer.isolation, tier: Tier::of(offer.total) })
}

#[cfg(test)]
mod tests {
    use super::{Said, chance};

    #[test]
    fn two_that_say_the_same_are_followed() {
        let down = |split, leaf, absent| Said { split, leaf, absent }.goes_down(Said::default());
        assert_eq!((down(8, 0, 0), down(0, 8, 0), down(0, 0, 0), down(1, 0, 0)), (1.0, 0.0, 0.0, 1.0));
        // As likely as the other: the first two that agree decide.
        assert!((down(4, 4, 0) - 0.5).abs() < 1e-12);
        // Two of eight lie: both are drawn first, or one of the two in one of the first two places and the other third.
        let lied = 2.0 / 56.0 + 2.0 * (2.0 * 6.0 / 56.0) * (1.0 / 6.0);
        assert!((down(6, 2, 0) - (1.0 - lied)).abs() < 1e-12, "{}", down(6, 2, 0));
    }

    #[test]
    fn the_chance_that_two_of_eight_show_it() {
        assert_eq!((chance(8, 8), chance(7, 8), chance(0, 8), chance(0, 0)), (1.0, 1.0, 0.0, 0.0));
        // 1 - C(4,2)/C(8,2) = 1 - 6/28.
        assert!((chance(4, 8) - (1.0 - 6.0 / 28.0)).abs() < 1e-12);
        assert_eq!(chance(1, 1), 1.0);
    }
}
