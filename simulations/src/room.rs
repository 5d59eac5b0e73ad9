//! A disk without room: the hypervisor can make nothing new, and the node's commits wait. What the node decided but
//! could not write stays undone, with all that came after it, until there is room or the process dies.
use crate::crashes::{Point, When};
use crate::world::{NodeId, World};
use protocol::core::provider::Offering;
use protocol::core::{Effect, Input};
use std::collections::VecDeque;

/// Where a node dies that waits: as it begins to, or once it went on and has written.
pub const WAITS: Point = ("journal: full", "it waits");

/// What waits for a commit.
#[derive(Default)]
pub struct Waiting {
    pub effects: Vec<Effect>,
    pub inputs: VecDeque<Input>,
}

impl World {
    /// From now on its disk has no room.
    pub fn fill(&mut self, node: NodeId) {
        self.tell(|| format!("node {node}'s disk is full"));
        self.nodes[node].host.full = true;
        // Seen long before the last bytes are gone, most of the time; nothing but a commit says so otherwise.
        if self.dice.percent(80) {
            let reason = "the disk is full".to_owned();
            self.input(node, Input::Offer(Offering::NoRoom { reason }));
        }
    }

    /// It has room again: what waited is done, in its order.
    pub fn free(&mut self, node: NodeId) {
        if !self.nodes[node].host.full {
            return;
        }
        self.tell(|| format!("node {node}'s disk has room again"));
        self.nodes[node].host.full = false;
        if let Some(waiting) = self.nodes[node].waiting.take() {
            self.perform_all(node, waiting.effects);
            if self.dies(node, Some(WAITS), When::After) {
                return;
            }
            for input in waiting.inputs {
                self.input(node, input);
            }
        }
        self.survey_after(node, 0);
    }
}
