//! The wires: how long a message takes, whether it comes, and how often. Requests and their answers are treated alike.
use crate::rng::Dice;
use crate::world::NodeId;
use std::collections::BTreeSet;
use std::ops::Range;

/// A mesh request ends after this, whatever it waits for.
pub const RPC_TIMEOUT: u64 = 5_000;
/// A peer whose process ended is noticed after this; one behind a cut, after `CUT_NOTICED`.
pub const CRASH_NOTICED: u64 = 50;
pub const CUT_NOTICED: u64 = 10_000;

#[derive(Clone, Debug)]
pub struct Weather {
    /// One way, in milliseconds; two messages may overtake each other.
    pub delay: Range<u64>,
    /// In percent.
    pub loss: u32,
    pub duplicates: u32,
    /// A message in a hundred that is this much later than the others.
    pub stragglers: Range<u64>,
}

impl Weather {
    pub fn fair() -> Self {
        Weather { delay: 1..40, loss: 0, duplicates: 0, stragglers: 0..1 }
    }
    pub fn foul() -> Self {
        Weather { delay: 1..300, loss: 10, duplicates: 10, stragglers: 1_000..25_000 }
    }
}

pub struct Network {
    pub weather: Weather,
    /// Nodes that hear nobody and are heard by nobody.
    cut: BTreeSet<NodeId>,
    /// Connections that are up, the lower id first.
    links: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    pub fn new(weather: Weather) -> Self {
        Network { weather, cut: BTreeSet::new(), links: BTreeSet::new() }
    }
    pub fn cut(&mut self, node: NodeId) {
        self.cut.insert(node);
    }
    pub fn heal(&mut self, node: NodeId) {
        self.cut.remove(&node);
    }
    pub fn is_cut(&self, node: NodeId) -> bool {
        self.cut.contains(&node)
    }
    pub fn can_talk(&self, a: NodeId, b: NodeId) -> bool {
        a != b && !self.cut.contains(&a) && !self.cut.contains(&b)
    }

    fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
        (a.min(b), a.max(b))
    }
    pub fn is_linked(&self, a: NodeId, b: NodeId) -> bool {
        self.links.contains(&Self::pair(a, b))
    }
    /// True if that changed something.
    pub fn link(&mut self, a: NodeId, b: NodeId) -> bool {
        self.links.insert(Self::pair(a, b))
    }
    pub fn unlink(&mut self, a: NodeId, b: NodeId) -> bool {
        self.links.remove(&Self::pair(a, b))
    }
    pub fn neighbours(&self, node: NodeId) -> Vec<NodeId> {
        let other = |&(a, b): &(NodeId, NodeId)| match (a == node, b == node) {
            (true, _) => Some(b),
            (_, true) => Some(a),
            _ => None,
        };
        self.links.iter().filter_map(other).collect()
    }

    /// After how long each copy of a message arrives; none when it is lost.
    pub fn arrivals(&self, dice: &mut Dice, from: NodeId, to: NodeId) -> Vec<u64> {
        if !self.can_talk(from, to) || dice.percent(self.weather.loss) {
            return Vec::new();
        }
        let copies = 1 + u32::from(dice.percent(self.weather.duplicates));
        (0..copies)
            .map(|_| {
                let late = if dice.percent(1) { dice.within(self.weather.stragglers.clone()) } else { 0 };
                dice.within(self.weather.delay.clone()) + late
            })
            .collect()
    }
}
