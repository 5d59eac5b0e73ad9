//! The servers around this one in the key space. From them follows, without asking anybody, who holds what lies there:
//! whether this node is one of a shard's holders, who the others are, and who has come or gone.
use crate::identity::PeerId;
use crate::shard::{HOLDERS, Position, Server, spread};
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Servers kept: four times the holders, so that those around any key near here are among them.
pub const MAX_VICINITY: usize = 4 * HOLDERS;
/// Views of who is closest differ for a while when somebody comes or goes: so many ranks beyond the last holder are
/// believed still.
const SLACK: usize = HOLDERS / 2;
/// Servers known on our side of the fork where a place's way and ours part, from which on the place is too far away to
/// tell anything of it: on its side there are about as many, all of them closer, and of those we need not know one. That
/// there are fewer than the holders it takes happens once in 20,000 times (Poisson).
const FORK: usize = 3 * HOLDERS;
/// A server that did not answer is left out for so long; if the mesh still lists it then, it may be asked again.
const DOWN: Millis = Millis::secs(60);

#[derive(Default)]
pub struct Vicinity {
    /// This node, while it serves.
    own: Option<Arc<Server>>,
    servers: Vec<Arc<Server>>,
    /// At most as many as there are servers here.
    down: BTreeMap<PeerId, Timestamp>,
}

impl Vicinity {
    pub fn set(&mut self, own: Option<Arc<Server>>, mut servers: Vec<Arc<Server>>) {
        if let Some(own) = &own {
            servers.retain(|server| server.peer != own.peer);
            servers.sort_by_key(|server| server.at.distance(own.at));
        }
        servers.truncate(MAX_VICINITY);
        self.down.retain(|peer, _| servers.iter().any(|server| server.peer == *peer));
        (self.own, self.servers) = (own, servers);
    }
    pub fn own(&self) -> Option<&Arc<Server>> {
        self.own.as_ref()
    }
    pub fn is_known(&self, peer: PeerId) -> bool {
        self.servers.iter().any(|server| server.peer == peer)
    }
    pub fn missed(&mut self, now: Timestamp, peer: PeerId) {
        if self.is_known(peer) {
            self.down.insert(peer, now + DOWN);
        }
    }
    pub fn heard(&mut self, peer: PeerId) {
        self.down.remove(&peer);
    }
    fn up(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.iter().filter(move |server| self.down.get(&server.peer).is_none_or(|until| *until <= now))
    }

    /// Whether nothing can be said from here of who holds what lies at this place.
    fn is_beyond(&self, place: Position) -> bool {
        let Some(own) = &self.own else { return false };
        let shared = |at: Position| at.distance(own.at).leading_zeros();
        self.servers.iter().filter(|server| shared(server.at) > shared(place)).count() >= FORK
    }

    /// The holders of what lies at this place, as far as can be seen from here; nobody for one that is too far away.
    pub fn holders(&self, now: Timestamp, place: Position) -> Vec<Arc<Server>> {
        if self.is_beyond(place) {
            return Vec::new();
        }
        spread(self.up(now).chain(&self.own).cloned().collect(), place, HOLDERS)
    }
    /// How many servers that are known here lie closer to the place than this position.
    fn closer(&self, now: Timestamp, at: Position, place: Position) -> usize {
        self.up(now).filter(|server| server.at.distance(place) < at.distance(place)).count()
    }
    /// This node's own rank among the holders of a place; none while it does not serve, or when others hold it.
    pub fn own_rank(&self, now: Timestamp, place: Position) -> Option<usize> {
        let own = self.own.as_ref().filter(|_| !self.is_beyond(place))?;
        Some(self.closer(now, own.at, place)).filter(|rank| *rank < HOLDERS + SLACK)
    }
    /// Who stands in for the holder of this rank: as many ranks behind it as there are holders.
    pub fn behind(&self, now: Timestamp, place: Position, rank: usize) -> Option<Arc<Server>> {
        let near = spread(self.up(now).chain(&self.own).cloned().collect(), place, 2 * HOLDERS);
        let own = self.own.as_ref().map(|own| own.peer);
        near.get(HOLDERS + rank).filter(|server| Some(server.peer) != own).cloned()
    }
    /// Whether this node may stand in for a holder of this place.
    pub fn is_behind(&self, now: Timestamp, place: Position) -> bool {
        let known = self.own.as_ref().filter(|_| !self.is_beyond(place));
        known.is_some_and(|own| self.closer(now, own.at, place) < 2 * HOLDERS + SLACK)
    }
    /// Whether somebody who says that it holds this may be right.
    pub fn may_hold(&self, now: Timestamp, peer: PeerId, place: Position) -> bool {
        self.closer(now, Position::of_peer(peer), place) < HOLDERS + SLACK
    }
    pub fn clock_set_back(&mut self, by: Millis) {
        self.down.values_mut().for_each(|until| *until = until.set_back(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Keypair;

    const NOW: Timestamp = Timestamp(1_000_000);

    /// Who sees only its own side of a fork must not take itself for a holder of what lies on the other.
    #[test]
    fn nothing_is_held_beyond_the_horizon() {
        let server = |n: u16| {
            let mut secret = [7; 32];
            secret[..2].copy_from_slice(&n.to_be_bytes());
            Server::new(Keypair::from_secret(&secret).peer_id(), Vec::new())
        };
        let all: Vec<Arc<Server>> = (0..400).map(server).collect();
        let places: Vec<Position> = (400..600).map(|n| server(n).at).collect();
        let (mut held, mut wrong) = (0, 0);
        for own in &all {
            let mut near = all.clone();
            near.sort_by_key(|server| server.at.distance(own.at));
            let mut vicinity = Vicinity::default();
            vicinity.set(Some(own.clone()), near);
            for place in &places {
                let rank = all.iter().filter(|server| server.at.distance(*place) < own.at.distance(*place)).count();
                let says = vicinity.own_rank(NOW, *place);
                assert!(rank >= HOLDERS || says == Some(rank), "{rank} says {says:?}");
                assert!(says.is_none() || !vicinity.holders(NOW, *place).is_empty());
                held += usize::from(rank < HOLDERS);
                wrong += usize::from(says.is_some() && rank >= 2 * HOLDERS);
            }
        }
        assert_eq!(held, places.len() * HOLDERS);
        // What is left: places at a fork that is seen in part. Without `is_beyond` it is 24,120.
        assert!(wrong < held / 20, "{wrong} of {}", all.len() * places.len());
    }
}
