//! Does who looks for a provider find it? Counted without searching: the tree is walked as a requestor walks it, over
//! the true holders, and what two of them drawn by chance would show is weighed.
use super::member::Node;
use super::{Id, Model, routing};
use protocol::PeerId;
use protocol::shard::{Class, HOLDERS, HOLDERS_PER_NET, Index, MAX_DEPTH, Shard, Standing, Tier, spread};
use protocol::spec::Query;
use protocol::units::Timestamp;

/// How the holders of a shard are asked, as `protocol`'s search does it: so many at first, so many at most, so many before
/// it is believed that there is nothing.
const ASKED: u8 = 2;
const ASKED_MOST: u8 = HOLDERS as u8;
const ABSENT: u8 = 3;

/// How a shard stands at one of its holders.
#[derive(Clone, Copy)]
enum Stands {
    Leaf,
    Split,
    Absent,
    /// It is new here, and does not know yet.
    Warming,
}

/// What one of them shows there.
#[derive(Clone, Copy)]
enum Shows {
    Nothing,
    Others,
    It,
}

/// Holders of each sort.
#[derive(Clone, Copy, Default)]
struct Sorts([[u8; 3]; 4]);

impl Sorts {
    fn add(&mut self, stands: Stands, shows: Shows) {
        self.0[stands as usize][shows as usize] += 1;
    }
    /// Without those that call it a leaf and show nothing: their word does not count.
    fn stand(&self, stands: Stands) -> u8 {
        let sorts = &self.0[stands as usize];
        let void = if matches!(stands, Stands::Leaf | Stands::Warming) { sorts[Shows::Nothing as usize] } else { 0 };
        sorts.iter().sum::<u8>() - void
    }
    fn show(&self, shows: Shows) -> u8 {
        self.0.iter().map(|stands| stands[shows as usize]).sum()
    }
    fn all(&self) -> u8 {
        self.0.iter().flatten().sum()
    }

    /// Nobody says anything that counts.
    fn is_void(&self) -> bool {
        let counts = |stands: Stands| self.stand(stands) > 0;
        let all = [Stands::Leaf, Stands::Split, Stands::Absent, Stands::Warming];
        self.all() > 0 && !all.into_iter().any(counts)
    }

    fn is_enough(&self) -> bool {
        let [leaf, split, absent] = [Stands::Leaf, Stands::Split, Stands::Absent].map(|stands| self.stand(stands));
        if self.all() >= ASKED_MOST || leaf + split + absent < ASKED {
            return self.all() >= ASKED_MOST;
        }
        let shown = self.show(Shows::Others) + self.show(Shows::It);
        let near = shown == 0 || shown >= ASKED;
        near && (leaf >= ASKED || split >= ASKED || absent >= ABSENT)
    }

    /// Whether the search goes on below.
    fn sends_down(&self) -> bool {
        let [leaf, split, absent] = [Stands::Leaf, Stands::Split, Stands::Absent].map(|stands| self.stand(stands));
        split >= ASKED.min(leaf + split + absent).max(1) && split > leaf
    }

    /// The chances that it is found here, and that it is not and the search goes on below, when these are asked one after
    /// the other, drawn at random.
    fn asked(self) -> (f64, f64) {
        self.after(Sorts::default())
    }
    fn after(self, heard: Sorts) -> (f64, f64) {
        let left = f64::from(self.all() - heard.all());
        if heard.is_enough() || left == 0.0 {
            let found = f64::from(u8::from(heard.show(Shows::It) > 0));
            return (found, (1.0 - found) * f64::from(u8::from(heard.sends_down())));
        }
        let (mut found, mut below) = (0.0, 0.0);
        for (stands, sorts) in self.0.iter().enumerate() {
            for (shows, count) in sorts.iter().enumerate() {
                let share = f64::from(count - heard.0[stands][shows]) / left;
                if share > 0.0 {
                    let mut then = heard;
                    then.0[stands][shows] += 1;
                    let (there, further) = self.after(then);
                    (found, below) = (found + share * there, below + share * further);
                }
            }
        }
        (found, below)
    }
}

/// What those who hold a shard would show of a provider.
struct Shelves {
    holders: Sorts,
    /// They lie far closer together than servers do: a requestor looks elsewhere, too.
    crowded: bool,
}

impl Model {
    fn shelves(&self, shard: &Shard, provider: PeerId) -> Shelves {
        let (place, holders) = (shard.position(self.network()), self.holders(shard));
        let usual = u128::MAX / (self.routing.len() as u128).max(1);
        let within = |count: usize| {
            let away = holders.get(count - 1).map(|last| self.node(*last).at.distance(place));
            away.is_some_and(|away| away < usual.saturating_mul(count as u128) / 4)
        };
        let dense = within(holders.len().max(1)) || within(3 * HOLDERS_PER_NET);
        let crowded = self.routing.len() >= HOLDERS && dense;
        let mut sorts = Sorts::default();
        for id in holders.into_iter().filter(|id| self.node(*id).is_up()) {
            let Some(core) = self.node(id).core.as_ref() else {
                // A liar answers too: that it is a leaf, and has nothing.
                sorts.add(Stands::Leaf, Shows::Nothing);
                continue;
            };
            let (has, any, standing) = core.shards().shelf(self.clock(id), shard, &Query::default(), provider);
            let stands = match standing {
                Standing::Split { .. } => Stands::Split,
                Standing::Absent => Stands::Absent,
                Standing::Leaf => Stands::Leaf,
                Standing::Warming => Stands::Warming,
            };
            let shows = match (has, any) {
                (true, _) => Shows::It,
                (false, true) => Shows::Others,
                (false, false) => Shows::Nothing,
            };
            sorts.add(stands, shows);
        }
        Shelves { holders: sorts, crowded }
    }

    /// The chance that a requestor who looks for this provider in this index, and knows nothing yet, finds it now.
    pub fn findable(&self, index: &Index, provider: PeerId) -> f64 {
        let (mut found, mut reached) = (0.0, 1.0);
        for depth in 0..=MAX_DEPTH {
            let mut shard = Shard::of(index.clone(), depth, provider);
            let here = self.shelves(&shard, provider);
            let (mut crowded, (there, below)) = (here.crowded || here.holders.is_void(), here.holders.asked());
            let mut missed = 1.0;
            while let Some(alternate) = shard.next_alternate().filter(|_| crowded) {
                let beside = self.shelves(&alternate, provider);
                missed *= 1.0 - beside.holders.asked().0;
                (shard, crowded) = (alternate, beside.crowded || beside.holders.is_void());
            }
            found += reached * (1.0 - (1.0 - there) * missed);
            reached *= below * missed;
            if reached < 1e-9 {
                break;
            }
        }
        found
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
                cores.map(|(id, core)| core.shards().shelf(self.clock(id), &shard, &Query::default(), provider).2);
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
    use super::{Shows, Sorts, Stands};

    fn asked(sorts: &[(Stands, Shows, u8)]) -> (f64, f64) {
        let mut all = Sorts::default();
        for (stands, shows, count) in sorts {
            (0..*count).for_each(|_| all.add(*stands, *shows));
        }
        all.asked()
    }
    fn near(got: (f64, f64), found: f64, below: f64) {
        assert!((got.0 - found).abs() < 1e-12 && (got.1 - below).abs() < 1e-12, "{got:?}, not {found} and {below}");
    }

    #[test]
    fn who_agrees_is_followed() {
        near(asked(&[]), 0.0, 0.0);
        near(asked(&[(Stands::Leaf, Shows::It, 8)]), 1.0, 0.0);
        near(asked(&[(Stands::Leaf, Shows::Others, 8)]), 0.0, 0.0);
        near(asked(&[(Stands::Split, Shows::Nothing, 8)]), 0.0, 1.0);
        near(asked(&[(Stands::Split, Shows::Nothing, 1)]), 0.0, 1.0);
        near(asked(&[(Stands::Absent, Shows::Nothing, 8)]), 0.0, 0.0);
        // What is left of before the split is found on the way.
        near(asked(&[(Stands::Split, Shows::It, 8)]), 1.0, 0.0);
    }

    #[test]
    fn two_of_eight_that_show_nothing_hide_nothing() {
        near(asked(&[(Stands::Leaf, Shows::It, 6), (Stands::Leaf, Shows::Nothing, 2)]), 1.0, 0.0);
        near(asked(&[(Stands::Split, Shows::Nothing, 6), (Stands::Leaf, Shows::Nothing, 2)]), 0.0, 1.0);
        // Nor do six.
        near(asked(&[(Stands::Split, Shows::Nothing, 2), (Stands::Leaf, Shows::Nothing, 6)]), 0.0, 1.0);
        near(asked(&[(Stands::Leaf, Shows::It, 1), (Stands::Leaf, Shows::Nothing, 7)]), 1.0, 0.0);
    }

    #[test]
    fn half_of_them_have_it() {
        // Two that show something are enough; neither of them has it: C(4,2)/C(8,2) = 6/28.
        near(asked(&[(Stands::Leaf, Shows::It, 4), (Stands::Leaf, Shows::Others, 4)]), 1.0 - 6.0 / 28.0, 0.0);
    }
}
