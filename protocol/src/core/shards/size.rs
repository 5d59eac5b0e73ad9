//! How large the mesh is, as far as others say: whether one gossiped board is enough for it.
use super::AGREE;
use crate::advert::ADVERT_TTL;
use crate::identity::PeerId;
use crate::units::{Millis, Timestamp};

/// What acknowledgements said of the mesh's size, the last of so many.
const TOTALS: usize = 4;

#[derive(Default)]
pub struct Size {
    totals: Vec<(PeerId, Option<u32>, Timestamp)>,
    /// Whether the mesh is small enough for gossip; unknown until holders have answered.
    pub small: Option<bool>,
    /// Believed by who looks for something, not by who offers.
    pub neighbours_say: Option<u32>,
}

impl Size {
    /// What a holder that took our advert says; one that cannot tell is young, and so is the mesh. Gossip ends over
    /// `leaf` adverts, and begins again below `merge`.
    pub fn heard(&mut self, now: Timestamp, from: PeerId, total: Option<u32>, leaf: usize, merge: usize) {
        self.totals.retain(|(peer, _, at)| *peer != from && now - *at < ADVERT_TTL);
        if self.totals.len() >= TOTALS {
            self.totals.remove(0);
        }
        self.totals.push((from, total, now));
        let over =
            |bound: usize| move |said: &&(PeerId, Option<u32>, Timestamp)| said.1.is_some_and(|n| n as usize > bound);
        let many = self.totals.iter().filter(over(leaf)).count();
        let few = self.totals.len() - self.totals.iter().filter(over(merge)).count();
        match self.small {
            None => self.small = Some(many == 0),
            Some(true) if many >= AGREE && few == 0 => self.small = Some(false),
            Some(false) if few >= AGREE && many == 0 => self.small = Some(true),
            Some(_) => {}
        }
    }

    /// No holder has answered for a life: the tree is not there any more.
    pub fn sweep(&mut self, now: Timestamp) {
        if self.small == Some(false) && self.fresh(now).next().is_none() {
            self.small = Some(true);
        }
    }

    fn fresh(&self, now: Timestamp) -> impl Iterator<Item = Option<u32>> {
        self.totals.iter().filter(move |(_, _, at)| now - *at < ADVERT_TTL).map(|(_, total, _)| *total)
    }
    /// The least of what holders say.
    pub fn total(&self, now: Timestamp) -> Option<u32> {
        self.fresh(now).flatten().min()
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.totals.iter_mut().for_each(|(_, _, at)| *at = at.set_back(by));
    }
}
