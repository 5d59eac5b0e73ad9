//! What the other holders of our shards are to be told: changes at once, refreshes in batches.
use crate::core::Ctx;
use crate::identity::PeerId;
use crate::message::Request;
use crate::shard::{MAX_SHARED, Shard, ShardRequest, Shared, State};
use crate::units::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Refreshes wait for so long. An advert lives 300 s and is refreshed after 120: a batch late changes nothing.
pub const BATCH_EVERY: Millis = Millis::secs(30);
/// Bytes of adverts in one message: half of what a message may have.
const BATCH_BYTES: usize = 128 * 1024;
/// Adverts that wait for one holder; beyond it the batch goes out early.
const MAX_WAITING: usize = MAX_SHARED;
/// Holders that something waits for: those of every shard here are at most the vicinity.
const MAX_RECEIVERS: usize = super::vicinity::MAX_VICINITY;

#[derive(Default)]
pub struct Outbox {
    waiting: BTreeMap<PeerId, Waiting>,
    flush_at: Option<Timestamp>,
}

#[derive(Default)]
struct Waiting {
    adverts: BTreeSet<(Shard, PeerId)>,
    states: BTreeMap<Shard, State>,
}

impl Outbox {
    fn waiting_for(&mut self, ctx: &mut Ctx, to: PeerId) -> Option<&mut Waiting> {
        if self.waiting.len() >= MAX_RECEIVERS && !self.waiting.contains_key(&to) {
            return None;
        }
        if self.flush_at.is_none() {
            self.flush_at = Some(ctx.now + ctx.jitter(BATCH_EVERY));
        }
        Some(self.waiting.entry(to).or_default())
    }
    /// With the next batch; what has changed again by then goes as it is then.
    pub fn later(&mut self, ctx: &mut Ctx, to: PeerId, shard: &Shard, provider: PeerId) {
        let Some(waiting) = self.waiting_for(ctx, to) else { return };
        waiting.adverts.insert((shard.clone(), provider));
        if waiting.adverts.len() >= MAX_WAITING {
            self.flush_at = Some(ctx.now);
        }
    }
    pub fn state(&mut self, ctx: &mut Ctx, to: PeerId, state: State) {
        if let Some(waiting) = self.waiting_for(ctx, to) {
            waiting.states.insert(state.shard.clone(), state);
        }
    }
    pub fn now(ctx: &mut Ctx, to: PeerId, item: Shared) -> u64 {
        ctx.send(to, Request::Shard(ShardRequest::Share { items: vec![item], states: Vec::new() }))
    }
    pub fn due_at(&self) -> Option<Timestamp> {
        self.flush_at
    }

    /// Sends what has waited long enough; `advert` gives what stands there now. Answers with the requests.
    pub fn flush(&mut self, ctx: &mut Ctx, advert: impl Fn(&Shard, PeerId) -> Option<Shared>) -> Vec<(u64, PeerId)> {
        if self.flush_at.is_none_or(|at| at > ctx.now) {
            return Vec::new();
        }
        self.flush_at = None;
        let mut sent = Vec::new();
        for (to, waiting) in std::mem::take(&mut self.waiting) {
            let mut states: Vec<State> = waiting.states.into_values().collect();
            let mut items = Vec::new();
            let mut bytes = 0;
            for item in waiting.adverts.iter().filter_map(|(shard, provider)| advert(shard, *provider)) {
                let size = size(&item);
                if bytes + size > BATCH_BYTES || items.len() >= MAX_SHARED {
                    let items = std::mem::take(&mut items);
                    let share = ShardRequest::Share { items, states: std::mem::take(&mut states) };
                    sent.push((ctx.send(to, Request::Shard(share)), to));
                    bytes = 0;
                }
                bytes += size;
                items.push(item);
            }
            if !items.is_empty() || !states.is_empty() {
                sent.push((ctx.send(to, Request::Shard(ShardRequest::Share { items, states })), to));
            }
        }
        sent
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.flush_at = self.flush_at.map(|at| at.set_back(by));
    }
}

/// What an item takes in a message, names of its fields included.
fn size(item: &Shared) -> usize {
    item.posting.signed().body.len() + 512
}
