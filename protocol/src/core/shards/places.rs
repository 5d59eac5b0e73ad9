//! Who holds which shard, as the routing said it. Asked once in an hour; in between, answers correct it.
use crate::core::{Ctx, Effect};
use crate::identity::PeerId;
use crate::shard::{HOLDERS, HOLDERS_PER_NET, Position, Server, Shard, spread};
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A set of holders is good for so long: of eight, with a half-life of 2 h, six are there at the end.
const GOOD_FOR: Millis = Millis::secs(3600);
/// Nobody was found, or nobody answered: the routing is not asked again before this.
const NOBODY_FOR: Millis = Millis::secs(30);
/// A lookup whose answer was lost is forgotten; the mesh ends each within 10 s.
const UNANSWERED: Millis = Millis::secs(20);
/// Shards whose holders are remembered: what a provider puts to, a holder counts to, and a few wide searches visit.
pub const MAX_PLACES: usize = 256;
/// Lookups under way. Each costs some 20 messages.
pub const MAX_LOOKUPS: usize = 16;
/// Places that must be known before one of them is called crowded.
const COMPARED: usize = 2;
/// A place is crowded when so many times fewer servers would be usual within the distance of its holders, or of the first
/// of them: ids out of three networks take no more than six places, and honest ones lie beyond.
const CROWDED: u128 = 4;
const FIRST: usize = 3 * HOLDERS_PER_NET;

struct Place {
    at: Position,
    servers: Vec<Arc<Server>>,
    until: Timestamp,
    /// How far away the last of so many holders lay when they were looked up, and the last of the first.
    width: u128,
    count: u128,
    first: u128,
    /// There were as many servers as there are holders: a mesh that has fewer has no crowds.
    full: bool,
    crowded: bool,
}

impl Place {
    fn measure(&mut self) {
        self.full |= self.servers.len() >= HOLDERS;
        self.count = self.servers.len() as u128;
        let away = |server: &Arc<Server>| server.at.distance(self.at);
        self.width = self.servers.last().map_or(0, away);
        self.first = self.servers.get(FIRST - 1).map_or(u128::MAX, away);
    }
    /// The mean distance from one server to the next.
    fn spacing(&self) -> Option<u128> {
        if self.full { self.width.checked_div(self.count) } else { None }
    }
}

pub enum Found {
    Holders(Vec<Arc<Server>>),
    /// It is being looked up, or will be in a moment.
    Wait,
    /// Nobody serves.
    Nobody,
}

#[derive(Default)]
pub struct Places {
    known: BTreeMap<Shard, Place>,
    asked: BTreeMap<u64, (Shard, Timestamp)>,
    next_ticket: u64,
    pub lookups: u64,
}

impl Places {
    pub fn holders(&mut self, ctx: &mut Ctx, shard: &Shard) -> Found {
        match self.known.get(shard).filter(|place| place.until > ctx.now) {
            Some(place) if place.servers.is_empty() => Found::Nobody,
            Some(place) => Found::Holders(place.servers.clone()),
            None => {
                self.look_up(ctx, shard);
                Found::Wait
            }
        }
    }

    fn look_up(&mut self, ctx: &mut Ctx, shard: &Shard) {
        let now = ctx.now;
        self.asked.retain(|_, (_, until)| *until > now);
        if self.asked.len() >= MAX_LOOKUPS || self.asked.values().any(|(asked, _)| asked == shard) {
            return;
        }
        self.next_ticket += 1;
        self.lookups += 1;
        self.asked.insert(self.next_ticket, (shard.clone(), now + UNANSWERED));
        let key = shard.key(ctx.network);
        ctx.effect(Effect::FindHolders { ticket: self.next_ticket, key });
    }

    /// What the routing has found: more than there are holders, so that subnets can be told apart.
    pub fn found(&mut self, ctx: &Ctx, ticket: u64, servers: Vec<Arc<Server>>) {
        let Some((shard, _)) = self.asked.remove(&ticket) else { return };
        self.make_room(ctx.now);
        let (at, full) = (shard.position(ctx.network), servers.len() >= HOLDERS);
        let servers = spread(servers, at, HOLDERS);
        let until = ctx.now + if servers.is_empty() { NOBODY_FOR } else { GOOD_FOR };
        let mut place = Place { at, servers, until, width: 0, count: 0, first: 0, full, crowded: false };
        place.measure();
        self.known.insert(shard, place);
        self.look_for_crowds();
    }

    /// Ids can be ground until they lie at a shard's place, closer than all others. Servers then stand more densely there
    /// than anywhere else. Honest ones are strewn by chance: that eight lie where two would be usual, or six where one and
    /// a half would be, happens to one place in two hundred (Poisson), and costs no more than a second place.
    fn look_for_crowds(&mut self) {
        let mut spacings: Vec<u128> = self.known.values().filter_map(Place::spacing).collect();
        spacings.sort_unstable();
        let usual = spacings.get(spacings.len() / 2).copied().filter(|_| spacings.len() >= COMPARED);
        for place in self.known.values_mut() {
            let within = |usual: u128, count: u128| usual.saturating_mul(count) / CROWDED;
            let crowded =
                |usual| place.width < within(usual, place.count) || place.first < within(usual, FIRST as u128);
            place.crowded = place.full && usual.is_some_and(crowded);
        }
    }
    /// Whether strangers may have taken this place: what belongs here is put and looked for at its alternate, too.
    pub fn is_crowded(&self, shard: &Shard) -> bool {
        self.known.get(shard).is_some_and(|place| place.crowded)
    }

    fn make_room(&mut self, now: Timestamp) {
        if self.known.len() < MAX_PLACES {
            return;
        }
        self.known.retain(|_, place| place.until > now);
        if self.known.len() >= MAX_PLACES
            && let Some(oldest) = self.known.iter().min_by_key(|(_, place)| place.until).map(|(shard, _)| shard.clone())
        {
            self.known.remove(&oldest);
        }
    }

    /// Servers around here. A place that was looked up when there were fewer servers than it takes gets them too; true when
    /// one has more now.
    pub fn joined(&mut self, servers: &[Arc<Server>]) -> bool {
        let mut more = false;
        for place in self.known.values_mut().filter(|place| !place.full) {
            let before = place.servers.len();
            place.servers = spread(place.servers.iter().chain(servers).cloned().collect(), place.at, HOLDERS);
            more |= place.servers.len() > before;
        }
        more
    }

    /// A holder named others. They count only as far as they lie closer than those that are known; true when one does.
    pub fn corrected(&mut self, shard: &Shard, closer: Vec<Server>) -> bool {
        let Some(place) = self.known.get_mut(shard) else { return false };
        let before: Vec<PeerId> = place.servers.iter().map(|server| server.peer).collect();
        place.servers.extend(closer.into_iter().take(HOLDERS).map(Arc::new));
        place.servers = spread(std::mem::take(&mut place.servers), place.at, HOLDERS);
        let new = place.servers.iter().any(|server| !before.contains(&server.peer));
        if new {
            place.measure();
            self.look_for_crowds();
        }
        new
    }

    /// It did not answer, or holds nothing there. With half of them gone the routing is asked anew.
    pub fn remove(&mut self, now: Timestamp, shard: &Shard, peer: PeerId) {
        let Some(place) = self.known.get_mut(shard) else { return };
        place.servers.retain(|server| server.peer != peer);
        if place.servers.is_empty() {
            place.until = place.until.min(now + NOBODY_FOR);
        } else if place.servers.len() < HOLDERS / 2 {
            place.until = place.until.min(now);
        }
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.known.values_mut().for_each(|place| place.until = place.until.set_back(by));
        self.asked.values_mut().for_each(|(_, until)| *until = until.set_back(by));
    }
}
