//! The shards that this node holds: what it takes, what it answers, whom it tells.
use super::block::OPEN_BELOW;
use super::held::{Held, MAX_SHARD_ADVERTS, VOTERS};
use super::outbox::Outbox;
use super::stats::ShardStats;
use super::vicinity::Vicinity;
use crate::advert::{ADVERT_TTL, Advert};
use crate::board::{Board, BoardRefusal, PAGE, Page, Posting};
use crate::core::Ctx;
use crate::envelope::Sealed;
use crate::identity::PeerId;
use crate::message::Request;
use crate::refusal::Refusal;
use crate::shard::{
    Block, Child, Go, HOLDERS, Index, MAX_SHARED, Position, PutAnswer, Server, Shard, ShardRequest, ShardResponse,
    Shared, Shelf, State,
};
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shards held at once. In a large mesh a server has one or two; in a small one, where the eight holders are all there
/// are, everybody's: 64 adverts in a class of their own, twice.
pub const MAX_HELD: usize = 512;
/// Invitations taken from one message.
const MAX_INVITED: usize = 64;
/// The first so many holders count, and tell parent and others.
const SPEAKERS: usize = 2;
/// What was said of the mesh's size is good for so long: it comes down from the top by one level in two minutes.
const TOTAL_FOR: Millis = Millis::secs(900);
/// One provider's adverts are taken this often: it spaces its own by 5 s.
const LEAST_SPACING: Millis = Millis::secs(2);

pub struct Holding {
    held: BTreeMap<Shard, Held>,
    outbox: Outbox,
    total: Option<(u32, Timestamp)>,
    pub leaf: usize,
    pub merge: usize,
}

/// A request to another holder, whose answer is to be looked at.
pub type Sent = (u64, PeerId);

impl Holding {
    pub fn new(leaf: usize, merge: usize) -> Self {
        Holding { held: BTreeMap::new(), outbox: Outbox::default(), total: None, leaf, merge }
    }
    pub fn len(&self) -> usize {
        self.held.len()
    }
    pub fn adverts(&self) -> usize {
        self.held.values().map(|held| held.board.len()).sum()
    }
    pub fn get(&self, shard: &Shard) -> Option<&Held> {
        self.held.get(shard)
    }
    pub fn shards(&self) -> impl Iterator<Item = (&Shard, &Held)> {
        self.held.iter()
    }
    /// Adverts in the whole mesh, as was counted or said within the last minutes.
    pub fn total(&self, now: Timestamp) -> Option<u32> {
        self.total.filter(|(_, at)| now - *at < TOTAL_FOR).map(|(total, _)| total)
    }
    /// How many more adverts of a snapshot would be taken.
    pub fn wants_more(&self, shard: &Shard) -> bool {
        self.held.get(shard).is_some_and(|held| held.board.len() < MAX_SHARD_ADVERTS)
    }

    fn hold(&mut self, ctx: &mut Ctx, vicinity: &Vicinity, shard: &Shard, place: Position) -> Option<&mut Held> {
        if !self.held.contains_key(shard) {
            if self.held.len() >= MAX_HELD {
                let now = ctx.now;
                self.held.retain(|_, held| !held.is_idle(now));
            }
            if self.held.len() >= MAX_HELD {
                return None;
            }
            let board = Board::with_room_for(ctx.network.clone(), MAX_SHARD_ADVERTS);
            let mut held = Held::new(ctx.now, place, board, *shard == Shard::WHOLE);
            held.others = others(vicinity, ctx, place);
            self.held.insert(shard.clone(), held);
        }
        self.held.get_mut(shard)
    }

    /// A provider puts its own advert, or takes it back.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the one message")]
    pub fn put(
        &mut self,
        ctx: &mut Ctx,
        vicinity: &Vicinity,
        stats: &mut ShardStats,
        from: PeerId,
        block: Option<Block>,
        shard: Shard,
        posting: Posting,
        also: Option<PeerId>,
    ) -> Result<(ShardResponse, Vec<Sent>), Refusal> {
        let place = shard.position(ctx.network);
        let Some(rank) = vicinity.own_rank(ctx.now, place).filter(|_| shard.is_valid()) else {
            stats.not_holder += 1;
            let closer = vicinity.holders(ctx.now, place);
            return Ok((ShardResponse::NotHolder { closer: told(&closer) }, Vec::new()));
        };
        let (leaf, now) = (self.leaf, ctx.now);
        let total = self.total(now);
        let provider = posting.signed().signer;
        if provider != from {
            return Err(Refusal::BadSignature("a provider puts its own adverts only".into()));
        }
        let full = || Refusal::TooManyRequests { retry_after_s: 60 };
        let held = self.hold(ctx, vicinity, &shard, place).ok_or_else(full)?;
        held.used = now;
        let mut kept = true;
        let known = held.board.get(now, provider).map(|entry| (entry.first_seen(), entry.advert.clone()));
        if let (Some((seen, old)), Posting::Advert(signed)) = (&known, &posting)
            && now - *seen < LEAST_SPACING
            && old.signed() != signed
        {
            stats.too_often += 1;
            return Err(Refusal::TooManyRequests { retry_after_s: 5 });
        }
        let news = match (take(ctx, held, &shard, &posting, ADVERT_TTL, block), &known) {
            (Ok(Some(new)), Some((_, old))) => Some(new.terms != old.terms || new.addrs != old.addrs),
            (Ok(_), _) => Some(true),
            // The same words again, for an answer was lost or the other holder was faster.
            (Err(BoardRefusal::Stale { got, known }), _) if got == known => None,
            (Err(BoardRefusal::Full), _) => {
                kept = false;
                None
            }
            (Err(refusal), _) => {
                stats.refuse(&refusal);
                return Err(refusal.into());
            }
        };
        stats.puts += 1;
        stats.splits += u64::from(held.split_if_full(now, &shard, leaf));
        let go = match held.is_split() {
            true => Go::Down { below: held.least_below(now) },
            false if held.folded => Go::Up,
            false => Go::Stay,
        };
        let adverts = held.board.len() as u32;
        // What lies deeper than a root comes of one that was full: the total is on its way down still.
        let deep = held.is_split() || shard.depth > 0;
        let total = if deep { total.max(Some(leaf as u32 + 1)) } else { total };
        let closer = if rank >= HOLDERS { told(&vicinity.holders(now, place)) } else { Vec::new() };
        let sent = match news {
            Some(news) => self.pass_on(ctx, vicinity, &shard, provider, posting, also, news),
            None => Vec::new(),
        };
        let answer = PutAnswer { kept, go, adverts, total, closer };
        Ok((ShardResponse::Put(answer), sent))
    }

    /// To the other holders: of the two that a provider puts to, each tells half of them.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the one message")]
    fn pass_on(
        &mut self,
        ctx: &mut Ctx,
        vicinity: &Vicinity,
        shard: &Shard,
        provider: PeerId,
        posting: Posting,
        also: Option<PeerId>,
        news: bool,
    ) -> Vec<Sent> {
        let (me, now) = (ctx.me(), ctx.now);
        let Some(held) = self.held.get(shard) else { return Vec::new() };
        let block = held.blocks.of(provider);
        let holders = vicinity.holders(now, held.place);
        let also = also.filter(|also| holders.iter().any(|server| server.peer == *also));
        let half = also.map(|also| usize::from(me > also));
        let others = holders.iter().map(|server| server.peer).filter(|peer| *peer != me && Some(*peer) != also);
        let mine: Vec<PeerId> =
            others.enumerate().filter(|(n, _)| half.is_none_or(|half| n % 2 == half)).map(|(_, peer)| peer).collect();
        let mut sent = Vec::new();
        for to in mine {
            if news {
                let item = Shared { shard: shard.clone(), posting: posting.clone(), life: ADVERT_TTL, block };
                sent.push((Outbox::now(ctx, to, item), to));
            } else {
                self.outbox.later(ctx, to, shard, provider);
            }
        }
        sent
    }

    /// What another holder passes on. It goes no further: who put it told two, and they told all.
    pub fn share(
        &mut self,
        ctx: &mut Ctx,
        vicinity: &Vicinity,
        stats: &mut ShardStats,
        from: PeerId,
        items: Vec<Shared>,
        states: Vec<State>,
    ) -> Result<ShardResponse, Refusal> {
        let (now, leaf, merge) = (ctx.now, self.leaf, self.merge);
        for item in items.into_iter().take(MAX_SHARED) {
            let place = item.shard.position(ctx.network);
            let plausible = item.shard.is_valid() && vicinity.own_rank(now, place).is_some();
            if !plausible || !vicinity.may_hold(now, from, place) {
                stats.not_holder += 1;
                continue;
            }
            let Some(held) = self.hold(ctx, vicinity, &item.shard, place) else { continue };
            held.used = now;
            stats.shares += 1;
            match take(ctx, held, &item.shard, &item.posting, item.life.min(ADVERT_TTL), item.block) {
                Ok(_) | Err(BoardRefusal::Stale { .. } | BoardRefusal::Expired | BoardRefusal::Full) => {}
                Err(refusal) => {
                    stats.refuse(&refusal);
                    ctx.offence(from, "an advert of a shard", &refusal.into());
                }
            }
            stats.splits += u64::from(held.split_if_full(now, &item.shard, leaf));
        }
        for state in states.iter().take(MAX_SHARED) {
            let place = state.shard.position(ctx.network);
            let plausible = state.shard.is_valid() && vicinity.own_rank(now, place).is_some();
            if !plausible || !vicinity.may_hold(now, from, place) {
                continue;
            }
            // Of one that has split there may be nothing but the word of the others.
            if state.below.is_some() {
                self.hold(ctx, vicinity, &state.shard, place);
            }
            if let Some(held) = self.held.get_mut(&state.shard) {
                held.told(now, from, state, merge);
                if let Some(total) = held.total(now) {
                    self.total = Some((total, now));
                }
            }
        }
        Ok(ShardResponse::Noted)
    }

    pub fn ask(&self, now: Timestamp, shard: &Shard, query: &Query, after: PeerId, until: PeerId, limit: u16) -> Shelf {
        self.held.get(shard).map_or_else(Shelf::absent, |held| {
            Shelf::of(&held.board, held.standing(now), now, query, after, until, limit)
        })
    }

    pub fn snapshot(&self, now: Timestamp, shard: &Shard, after: Option<PeerId>) -> Page {
        self.held.get(shard).map(|held| held.board.page(now, after, PAGE)).unwrap_or_default()
    }
    /// A page of a snapshot that was asked for.
    pub fn snapshot_read(&mut self, ctx: &mut Ctx, stats: &mut ShardStats, from: PeerId, shard: &Shard, page: &Page) {
        let now = ctx.now;
        let Some(held) = self.held.get_mut(shard) else { return };
        for item in page.items.iter().take(PAGE) {
            let posting = Posting::Advert(item.advert.clone());
            match take(ctx, held, shard, &posting, item.life.min(ADVERT_TTL), None) {
                Ok(_) | Err(BoardRefusal::Stale { .. } | BoardRefusal::Expired | BoardRefusal::Full) => {}
                Err(refusal) => {
                    stats.refuse(&refusal);
                    ctx.offence(from, "an advert of a snapshot", &refusal.into());
                }
            }
        }
        stats.snapshot_pages += 1;
        if page.next.is_none() {
            held.warmed(now);
        }
    }

    /// Of those that it is among the closest to now, the shards that are new here.
    pub fn invited(&mut self, ctx: &mut Ctx, vicinity: &Vicinity, from: PeerId, states: Vec<State>) -> Vec<Shard> {
        let (mut new, now, merge) = (Vec::new(), ctx.now, self.merge);
        for state in states.into_iter().take(MAX_INVITED).filter(|state| state.shard.is_valid()) {
            let shard = state.shard.clone();
            let place = shard.position(ctx.network);
            let wanted = vicinity.own_rank(ctx.now, place).is_some() && vicinity.may_hold(ctx.now, from, place);
            if !wanted {
                continue;
            }
            let Some(held) = self.hold(ctx, vicinity, &shard, place) else { continue };
            held.take_over(now, from, &state, merge);
            if held.board.is_empty() {
                new.push(shard);
            }
        }
        new
    }

    /// A holder of a child counts.
    pub fn counted(
        &mut self,
        ctx: &mut Ctx,
        vicinity: &Vicinity,
        stats: &mut ShardStats,
        from: PeerId,
        child: &Child,
    ) -> ShardResponse {
        let parent = child.shard.parent().filter(|_| child.shard.is_valid());
        let place = parent.as_ref().map(|parent| (parent, parent.position(ctx.network)));
        let Some((parent, place)) = place.filter(|(_, place)| vicinity.own_rank(ctx.now, *place).is_some()) else {
            stats.not_holder += 1;
            return ShardResponse::NotHolder { closer: Vec::new() };
        };
        let (merge, now) = (self.merge, ctx.now);
        let speaks = vicinity.own_rank(now, place).is_some_and(|rank| rank < SPEAKERS);
        let mut closer = if speaks { Vec::new() } else { told(&vicinity.holders(now, place)) };
        closer.truncate(SPEAKERS);
        if let Some(held) = self.hold(ctx, vicinity, parent, place) {
            held.counted(now, from, child);
            let whole = *parent == Shard::WHOLE;
            let was_split = held.is_split();
            if !whole && held.merge_or_split(now, merge) {
                let counter = if was_split { &mut stats.merges } else { &mut stats.splits };
                *counter += 1;
            }
        }
        let Some(held) = self.held.get_mut(parent) else {
            return ShardResponse::Counted { merged: false, total: None, closer };
        };
        if let Some(total) = held.count(now).filter(|_| *parent == Shard::WHOLE) {
            held.set_total(now, total);
            self.total = Some((total, now));
        }
        ShardResponse::Counted { merged: held.takes_back(), total: held.total_from_above(now), closer }
    }
    /// Its count went to somebody who is not one of the first any more: it is told again, though it has not changed.
    pub fn count_again(&mut self, child: &Shard) {
        if let Some(held) = self.held.get_mut(child) {
            held.say_again();
        }
    }
    /// What a holder of the parent answered to our count.
    pub fn parent_said(&mut self, now: Timestamp, child: &Shard, merged: bool, total: Option<u32>) {
        if let Some(held) = self.held.get_mut(child) {
            held.folded = merged;
            if let Some(total) = total {
                held.set_total(now, total);
                self.total = Some((total, now));
            }
        }
    }

    /// Servers have come or gone: who is new among a shard's holders is invited, by the first few of the others.
    pub fn vicinity_changed(&mut self, ctx: &mut Ctx, vicinity: &Vicinity) {
        let now = ctx.now;
        let mut invitations: BTreeMap<PeerId, Vec<State>> = BTreeMap::new();
        for (shard, held) in &mut self.held {
            let now_there = others(vicinity, ctx, held.place);
            let new = now_there.iter().filter(|peer| !held.others.contains(peer));
            let (new, old): (Vec<PeerId>, Vec<PeerId>) =
                (new.copied().collect(), now_there.iter().filter(|peer| held.others.contains(peer)).copied().collect());
            let own = Position::of_peer(ctx.me()).distance(held.place);
            let before_me = old.iter().filter(|peer| Position::of_peer(**peer).distance(held.place) < own).count();
            if before_me < VOTERS && held.knows() {
                new.iter().for_each(|peer| invitations.entry(*peer).or_default().push(held.state(now, shard)));
            }
            held.others = now_there;
        }
        for (to, mut states) in invitations {
            states.truncate(MAX_INVITED);
            ctx.send(to, Request::Shard(ShardRequest::Invite(states)));
        }
    }

    pub fn revoke(&mut self, now: Timestamp, peer: PeerId) -> bool {
        let theirs = self.held.values_mut().filter(|held| held.board.knows(peer));
        theirs.fold(false, |_, held| {
            held.board.revoke(now, peer);
            true
        })
    }

    /// Once a minute: what is over goes.
    pub fn sweep(&mut self, now: Timestamp) {
        for held in self.held.values_mut() {
            held.board.expire(now);
            let board = &held.board;
            held.blocks.retain(|provider| board.get(now, provider).is_some());
        }
        self.held.retain(|_, held| !held.is_idle(now));
    }

    /// What the first holders of each shard count for its parent, and tell the others, as far as it is news.
    pub fn count(&mut self, ctx: &mut Ctx, vicinity: &Vicinity) -> Vec<Child> {
        let now = ctx.now;
        let mut children = Vec::new();
        for (shard, held) in &mut self.held {
            let Some(rank) = vicinity.own_rank(now, held.place).filter(|rank| *rank < VOTERS) else { continue };
            if !held.knows() || !held.has_news(now) {
                continue;
            }
            let counted = held.count(now).filter(|adverts| *adverts > 0 && rank < SPEAKERS && shard.parent().is_some());
            if let Some(adverts) = counted {
                children.push(Child { shard: shard.clone(), adverts, leaf: !held.is_split() });
            }
            let state = held.state(now, shard);
            for to in &held.others {
                self.outbox.state(ctx, *to, state.clone());
            }
        }
        children
    }

    pub fn flush(&mut self, ctx: &mut Ctx) -> Vec<(u64, PeerId)> {
        let (held, now) = (&self.held, ctx.now);
        self.outbox.flush(ctx, |shard, provider| {
            let held = held.get(shard)?;
            let entry = held.board.get(now, provider)?;
            let posting = Posting::Advert(entry.advert.signed().clone());
            Some(Shared { shard: shard.clone(), posting, life: entry.expires - now, block: held.blocks.of(provider) })
        })
    }
    pub fn flush_at(&self) -> Option<Timestamp> {
        self.outbox.due_at()
    }
    pub fn clock_set_back(&mut self, by: Millis) {
        self.held.values_mut().for_each(|held| held.clock_set_back(by));
        self.outbox.clock_set_back(by);
        self.total = self.total.map(|(total, at)| (total, at.set_back(by)));
    }
}

fn others(vicinity: &Vicinity, ctx: &Ctx, place: Position) -> Vec<PeerId> {
    let holders = vicinity.holders(ctx.now, place);
    holders.iter().map(|server| server.peer).filter(|peer| *peer != ctx.me()).collect()
}

fn told(servers: &[Arc<Server>]) -> Vec<Server> {
    servers.iter().map(|server| (**server).clone()).collect()
}

/// Into the shard's board, if it has its place here and its subnet is not over its share.
fn take(
    ctx: &mut Ctx,
    held: &mut Held,
    shard: &Shard,
    posting: &Posting,
    life: Millis,
    block: Option<Block>,
) -> Result<Option<Arc<Sealed<Advert>>>, BoardRefusal> {
    match posting {
        Posting::Advert(signed) => {
            held.board.is_news(signed)?;
            let advert = ctx.open_advert(signed)?;
            if !shard.takes(&advert) {
                return Err(BoardRefusal::Misplaced);
            }
            if !held.blocks.admits(advert.provider, block, held.board.len()) {
                return Err(BoardRefusal::CrowdedBlock);
            }
            held.board.admit(ctx.now, advert.clone(), life)?;
            held.blocks.note(advert.provider, block);
            Ok(Some(advert))
        }
        Posting::Withdrawal(signed) => {
            let withdrawal = ctx.opener.withdrawal(signed, ctx.network)?;
            if shard.index == Index::Whole || !shard.takes_peer(withdrawal.provider) {
                return Err(BoardRefusal::Misplaced);
            }
            held.board.take_off(ctx.now, &withdrawal)?;
            Ok(None)
        }
        // It is said to everybody, and has no place in a tree.
        Posting::Revocation(_) => Err(BoardRefusal::Misplaced),
    }
}

const _: () = assert!(OPEN_BELOW < crate::shard::LEAF);
