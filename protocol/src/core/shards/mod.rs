//! The sharded board: what this node does there as a holder, as a provider and as a requestor.
//!
//! | file | what |
//! |---|---|
//! | `vicinity`, `places` | who holds what: near here by what is known, elsewhere by asking the routing |
//! | `holding`, `held`, `block`, `outbox` | as a holder: takes, answers, passes on, splits, merges, counts |
//! | `relief` | as a busy holder, and as who helps one |
//! | `poster` | as a provider: puts its own advert to two holders in each index |
//! | `search`, `visit` | as a requestor: asks two holders of as many shards as it needs |
//! | `depths`, `size` | where a search begins; whether gossip is enough, as others say |
mod block;
mod depths;
mod held;
mod holding;
mod outbox;
mod places;
mod poster;
mod relief;
mod search;
mod size;
mod stats;
mod vicinity;
mod visit;

pub use depths::MAX_TOLD as MAX_DEPTHS_TOLD;
pub use held::MAX_SHARD_ADVERTS;
pub use holding::MAX_HELD;
pub use relief::{BUSY, MAX_COPIES};
pub use search::Report;
pub use stats::ShardStats;

use super::{Ctx, RpcFailure};
use crate::advert::{ADVERT_TTL, Advert};
use crate::board::{Board, PageItem, Posting};
use crate::envelope::Sealed;
use crate::identity::PeerId;
use crate::message::{Request, Response};
use crate::refusal::Refusal;
use crate::shard::{
    Block, Child, HOLDERS, Index, LEAF, MERGE, Position, Server, Shard, ShardRequest, ShardResponse, Standing,
};
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use depths::Depths;
use holding::{Holding, Sent};
use places::{Found, Places};
use poster::{Outcome, Poster};
use relief::{Relief, Relieved};
use search::Searches;
use size::Size;
use std::collections::BTreeMap;
use std::sync::Arc;
use vicinity::Vicinity;

/// How often what is over is swept out, and how often the first holders look whether there is something to tell: a
/// count goes up, and the total comes down, by one level in this time.
const SWEEP_EVERY: Millis = Millis::secs(60);
const COUNT_EVERY: Millis = Millis::secs(30);
/// Requests to other holders whose answers are awaited: a batch to each, a snapshot of each shard.
const MAX_ERRANDS: usize = 1024;
/// Pages of one snapshot: as many as a full shard of the largest adverts takes, twice. Beyond it somebody makes them up.
const MAX_PAGES: u32 = 32;
/// The mesh answers or fails every request within 5 s.
const UNANSWERED: Millis = Millis::secs(15);
/// Holders that must say the same before gossip ends or begins again; and those of a parent that are told.
const AGREE: usize = 2;

/// A request to another holder, and what its answer is for.
enum Errand {
    Share { to: PeerId },
    Snapshot { from: PeerId, shard: Shard, page: u32 },
    Relieve { helper: Arc<Server>, shard: Shard },
    Count { to: PeerId, child: Shard, parent: Shard },
}

pub struct Shards {
    vicinity: Vicinity,
    places: Places,
    holding: Holding,
    relief: Relief,
    poster: Poster,
    searches: Searches,
    depths: Depths,
    errands: BTreeMap<u64, (Timestamp, Errand)>,
    uncounted: Vec<Child>,
    sweep_at: Option<Timestamp>,
    count_at: Option<Timestamp>,
    size: Size,
    routed: bool,
    taken_off: u64,
    pub stats: ShardStats,
}

impl Shards {
    pub fn new(leaf: usize) -> Self {
        let merge = leaf * MERGE / LEAF;
        Shards {
            vicinity: Vicinity::default(),
            places: Places::default(),
            holding: Holding::new(leaf, merge),
            relief: Relief::default(),
            poster: Poster::default(),
            searches: Searches::default(),
            depths: Depths::default(),
            errands: BTreeMap::new(),
            uncounted: Vec::new(),
            sweep_at: None,
            count_at: None,
            size: Size::default(),
            routed: false,
            taken_off: 0,
            stats: ShardStats::default(),
        }
    }

    /// While the mesh is small one gossiped board holds everything; the tree has it too, but nobody needs it. Who does
    /// not know yet gossips: in a large mesh that goes no further than its neighbours, who know.
    pub fn gossips(&self) -> bool {
        !self.routed || self.size.small != Some(false)
    }
    pub fn leaf(&self) -> usize {
        self.holding.leaf
    }
    pub fn held(&self) -> usize {
        self.holding.len()
    }
    pub fn adverts_held(&self) -> usize {
        self.holding.adverts()
    }
    /// How many holders have our current advert, in the index where it is the fewest.
    pub fn acknowledged(&self) -> usize {
        self.poster.acknowledged()
    }
    pub fn depths(&self) -> impl Iterator<Item = (&Index, u8)> {
        self.poster.depths()
    }
    /// Adverts in the whole mesh, as far as is known here.
    pub fn total(&self, now: Timestamp) -> Option<u32> {
        self.holding.total(now).or_else(|| self.size.total(now))
    }
    /// The shards held here with their adverts, for whoever looks inside.
    pub fn shelves(&self) -> impl Iterator<Item = (&Shard, &Board)> {
        self.holding.shards().map(|(shard, held)| (shard, &held.board))
    }
    /// Whether a provider stands in a shard here, whether anybody does, and how the shard stands.
    pub fn shelf(&self, now: Timestamp, shard: &Shard, query: &Query, provider: PeerId) -> (bool, bool, Standing) {
        let Some(held) = self.holding.get(shard) else { return (false, false, Standing::Absent) };
        let stands = held.board.get(now, provider);
        let fits = stands.is_some_and(|entry| entry.advert.terms.answers(query));
        (fits, held.board.alive(now).next().is_some(), held.standing(now))
    }
    /// Peers to which a connection is worth keeping: they hold our advert, or our shards.
    pub fn partners(&self) -> Vec<PeerId> {
        let mut partners: Vec<PeerId> = self.poster.entries().collect();
        partners.extend(self.holding.shards().flat_map(|(_, held)| held.others.iter().copied()));
        partners.sort_unstable();
        partners.dedup();
        partners
    }

    /// The servers around this node; `own` is itself, while it serves. Without any, nothing is looked up.
    pub fn vicinity(&mut self, ctx: &mut Ctx, own: Option<Arc<Server>>, servers: Vec<Arc<Server>>) {
        let routed = own.is_some() || !servers.is_empty();
        if routed && !std::mem::replace(&mut self.routed, routed) {
            // What was posted while nobody could be asked.
            self.poster.wake();
        }
        if self.places.joined(&servers) {
            // What only a few could be asked to take.
            self.poster.wake();
        }
        self.routed = routed;
        let serves = own.is_some();
        self.vicinity.set(own, servers);
        if serves && self.sweep_at.is_none() {
            self.sweep_at = Some(ctx.now + ctx.jitter(SWEEP_EVERY));
            self.count_at = Some(ctx.now + ctx.jitter(COUNT_EVERY));
        }
        if serves {
            self.holding.vicinity_changed(ctx, &self.vicinity);
        }
    }

    pub fn holders_found(&mut self, ctx: &mut Ctx, ticket: u64, mut servers: Vec<Arc<Server>>) {
        // The routing finds others; this node may be one of them itself.
        servers.extend(self.vicinity.own().cloned());
        self.places.found(ctx, ticket, servers);
    }

    pub fn request(&mut self, ctx: &mut Ctx, token: u64, from: PeerId, block: Option<Block>, request: ShardRequest) {
        let response = match self.answer(ctx, from, block, request) {
            Ok(response) => response,
            Err(refusal) => {
                if !matches!(refusal, Refusal::TooManyRequests { .. } | Refusal::TooManyFromHere | Refusal::Expired(_))
                {
                    ctx.offence(from, "an advert of a shard", &refusal);
                }
                Response::Refused(refusal)
            }
        };
        ctx.reply(token, response);
    }

    fn answer(
        &mut self,
        ctx: &mut Ctx,
        from: PeerId,
        block: Option<Block>,
        request: ShardRequest,
    ) -> Result<Response, Refusal> {
        self.vicinity.heard(from);
        let (vicinity, stats) = (&self.vicinity, &mut self.stats);
        let response = match request {
            ShardRequest::Put { shard, posting, also } => {
                let (answer, sent) = self.holding.put(ctx, vicinity, stats, from, block, shard, posting, also)?;
                self.sent(ctx.now, sent);
                answer
            }
            ShardRequest::Ask { shard, query, after, until, limit } => {
                stats.asks += 1;
                return Ok(Response::Shard(self.asked(ctx, &shard, &query, after, until, limit)));
            }
            ShardRequest::Share { items, states } => self.holding.share(ctx, vicinity, stats, from, items, states)?,
            ShardRequest::Snapshot { shard, after } => {
                return Ok(Response::Board(self.holding.snapshot(ctx.now, &shard, after)));
            }
            ShardRequest::Count(child) => {
                stats.counts += 1;
                self.holding.counted(ctx, vicinity, stats, from, &child)
            }
            ShardRequest::Invite(states) => {
                let new = self.holding.invited(ctx, vicinity, from, states);
                stats.invited += new.len() as u64;
                for shard in new {
                    self.read_snapshot(ctx, from, shard, None, 1);
                }
                ShardResponse::Noted
            }
            ShardRequest::Relieve(state) => {
                if self.relief.help(ctx, vicinity, from, &state) {
                    self.read_snapshot(ctx, from, state.shard, None, 1);
                }
                ShardResponse::Noted
            }
        };
        Ok(Response::Shard(response))
    }

    /// A question of a requestor's, or of a provider that looks whether it stands here.
    fn asked(
        &mut self,
        ctx: &mut Ctx,
        shard: &Shard,
        query: &Query,
        after: PeerId,
        until: PeerId,
        limit: u16,
    ) -> ShardResponse {
        let now = ctx.now;
        if let Some(held) = self.holding.get(shard).filter(|_| after == until) {
            match self.relief.asked(now, &self.vicinity, shard, held) {
                Relieved::No => {}
                Relieved::By(helper) => {
                    self.stats.sent_on += 1;
                    return ShardResponse::Elsewhere((*helper).clone());
                }
                Relieved::Tells(helper) => {
                    let state = held.state(now, shard);
                    let rpc = ctx.send(helper.peer, Request::Shard(ShardRequest::Relieve(state)));
                    self.errand(now, rpc, Errand::Relieve { helper, shard: shard.clone() });
                }
            }
        }
        let shelf = self.holding.ask(now, shard, query, after, until, limit);
        let place = shard.position(ctx.network);
        // Who is none of its first holders is told of no changes: that it has nothing says nothing. It knows who may.
        let is_told = self.vicinity.own_rank(now, place).is_some_and(|rank| rank < HOLDERS);
        if !shelf.items.is_empty() || is_told || matches!(shelf.standing, Standing::Split { .. }) {
            return ShardResponse::Shelf(shelf);
        }
        if let Some(shelf) = self.relief.ask(now, shard, query, after, until, limit) {
            self.stats.helped += 1;
            return ShardResponse::Shelf(shelf);
        }
        self.stats.not_holder += 1;
        let closer = self.vicinity.holders(now, place).iter().map(|server| (**server).clone()).collect();
        ShardResponse::NotHolder { closer }
    }

    fn read_snapshot(&mut self, ctx: &mut Ctx, from: PeerId, shard: Shard, after: Option<PeerId>, page: u32) {
        let request = ShardRequest::Snapshot { shard: shard.clone(), after };
        let rpc = ctx.send(from, Request::Shard(request));
        self.errand(ctx.now, rpc, Errand::Snapshot { from, shard, page });
    }

    fn sent(&mut self, now: Timestamp, sent: Vec<Sent>) {
        for (rpc, to) in sent {
            self.errand(now, rpc, Errand::Share { to });
        }
    }

    fn errand(&mut self, now: Timestamp, rpc: u64, errand: Errand) {
        if self.errands.len() >= MAX_ERRANDS {
            self.errands.retain(|_, (until, _)| *until > now);
        }
        // Beyond the bound an answer only goes unnoticed.
        if self.errands.len() < MAX_ERRANDS {
            self.errands.insert(rpc, (now + UNANSWERED, errand));
        }
    }

    /// True if the answer was to a request of ours.
    pub fn response(
        &mut self,
        ctx: &mut Ctx,
        board: &mut Board,
        rpc: u64,
        result: &Result<Response, RpcFailure>,
    ) -> bool {
        if let Some((_, errand)) = self.errands.remove(&rpc) {
            self.errand_done(ctx, errand, result);
            return true;
        }
        if let Some(from) = self.poster.is_asked(rpc) {
            let outcome = self.poster.answered(ctx, &mut self.places, rpc, result);
            self.noted(ctx, from, outcome);
            return true;
        }
        if !self.searches.is_asked_by(rpc) {
            return false;
        }
        if let Some((from, items)) = self.searches.answered(ctx, &mut self.places, &mut self.stats, rpc, result) {
            keep(ctx, board, from, items, &mut self.stats);
        }
        true
    }

    fn errand_done(&mut self, ctx: &mut Ctx, errand: Errand, result: &Result<Response, RpcFailure>) {
        let now = ctx.now;
        match (errand, result) {
            (Errand::Share { to }, Err(_)) => self.vicinity.missed(now, to),
            (Errand::Share { to }, Ok(_)) => self.vicinity.heard(to),
            (Errand::Snapshot { from, shard, page: number }, Ok(Response::Board(page))) => {
                // At most what a shard takes; a page that does not go on is the last.
                let more = page.items.last().zip(page.next).filter(|(last, next)| last.advert.signer == *next);
                let wants_more = if self.relief.is_reading(&shard, from) {
                    self.relief.snapshot_read(ctx, &mut self.stats, from, &shard, page);
                    self.relief.is_reading(&shard, from)
                } else {
                    self.holding.snapshot_read(ctx, &mut self.stats, from, &shard, page);
                    self.holding.wants_more(&shard)
                };
                if let Some((_, next)) = more.filter(|_| wants_more && number < MAX_PAGES) {
                    self.read_snapshot(ctx, from, shard, Some(next), number + 1);
                }
            }
            (Errand::Snapshot { from, .. }, _) => self.vicinity.missed(now, from),
            (Errand::Relieve { helper, shard }, Ok(Response::Shard(ShardResponse::Noted))) => {
                self.relief.noted(now, &shard, helper);
            }
            (Errand::Relieve { helper, .. }, _) => self.vicinity.missed(now, helper.peer),
            (
                Errand::Count { child, parent, .. },
                Ok(Response::Shard(ShardResponse::Counted { merged, total, closer })),
            ) => {
                self.holding.parent_said(now, &child, *merged, *total);
                if self.places.corrected(&parent, closer.clone()) {
                    self.holding.count_again(&child);
                }
            }
            (Errand::Count { to, parent, .. }, _) => self.places.remove(now, &parent, to),
        }
    }

    /// A new advert of this node's.
    pub fn post(&mut self, ctx: &mut Ctx, advert: Arc<Sealed<Advert>>) {
        let (now, depths) = (ctx.now, &self.depths);
        let likely = |index: &Index| depths.attested(now, index);
        let likely: Option<&dyn Fn(&Index) -> u8> = if self.routed { Some(&likely) } else { None };
        let outcome = self.poster.post(ctx, &mut self.places, advert, likely);
        self.noted(ctx, ctx.me(), outcome);
    }
    pub fn withdraw(&mut self, ctx: &mut Ctx, posting: &Posting) {
        let outcome = self.poster.withdraw(ctx, posting);
        self.noted(ctx, ctx.me(), outcome);
    }

    /// Counts what came of a step, and takes what was put to this node itself.
    fn noted(&mut self, ctx: &mut Ctx, from: PeerId, outcome: Outcome) {
        let mut waiting = vec![(from, outcome)];
        // A redirect may lead to a shard that is held here too; each step down or up is counted by the poster.
        while let Some((from, outcome)) = waiting.pop() {
            self.stats.put += outcome.put;
            self.stats.acknowledged += outcome.acknowledged;
            self.stats.redirected += outcome.redirected;
            self.stats.put_failed += outcome.failed;
            self.stats.put_missing += outcome.missing;
            if let Some(total) = outcome.total {
                self.size.heard(ctx.now, from, total, self.holding.leaf, self.holding.merge);
            }
            for (shard, posting, also) in outcome.local {
                let (vicinity, stats, me) = (&self.vicinity, &mut self.stats, ctx.me());
                let answer = self.holding.put(ctx, vicinity, stats, me, None, shard.clone(), posting, also);
                let response = match answer {
                    Ok((answer, sent)) => {
                        self.sent(ctx.now, sent);
                        Response::Shard(answer)
                    }
                    Err(refusal) => Response::Refused(refusal),
                };
                waiting.push((me, self.poster.answered_here(ctx, &mut self.places, &shard, response)));
            }
        }
    }

    /// What the neighbours said of the mesh's size.
    pub fn neighbours_say(&mut self, total: Option<u32>) {
        self.size.neighbours_say = total;
    }
    /// What a neighbour is told of the trees: as this node has found them, not as it was told itself. Of many not
    /// everybody tells the same.
    pub fn depths_to_tell(&self, now: Timestamp, me: PeerId) -> Vec<(Index, u8)> {
        let own: BTreeMap<Index, u8> = self.poster.depths_seen().collect();
        let looked: Vec<_> = self.depths.fresh(now).filter(|(index, _)| !own.contains_key(index)).collect();
        let skipped = me.public_key()[0] as usize % looked.len().max(1);
        let looked = looked.iter().cycle().skip(skipped).take(looked.len());
        own.clone().into_iter().chain(looked.cloned()).take(MAX_DEPTHS_TOLD).collect()
    }
    pub fn depths_told(&mut self, from: PeerId, depths: &[(Index, u8)]) {
        self.depths.told(from, depths);
    }
    fn is_large(&self, now: Timestamp) -> Option<bool> {
        let total = || self.total(now).or(self.size.neighbours_say);
        let large = || total().map(|total| total as usize > self.holding.leaf);
        if self.size.small == Some(false) { Some(true) } else { large() }
    }
    /// The mesh has more than one board holds.
    pub fn is_sharded(&self, now: Timestamp) -> bool {
        self.routed && self.is_large(now) == Some(true)
    }
    /// Whether the board here may lack what the mesh has; also of a mesh whose size nobody around here knows.
    pub fn may_lack(&self, now: Timestamp) -> bool {
        self.routed && self.is_large(now).unwrap_or(self.size.small.is_none())
    }
    /// True while there is something to wait for. What was found before `since` is not enough.
    pub fn search(&mut self, ctx: &mut Ctx, query: &Query, wanted: usize, since: Timestamp) -> bool {
        let (depths, poster) = (&self.depths, &self.poster);
        let own = |index: &Index| poster.depths().any(|(own, _)| own == index);
        let in_order = |tiers, ctx: &mut Ctx| depths.in_order(ctx.now, tiers, own, ctx.rng);
        self.routed && self.searches.begin(ctx, &mut self.stats, in_order, query, wanted, since)
    }
    /// A key was revoked; true if somebody stood here under it.
    pub fn revoke(&mut self, now: Timestamp, peer: PeerId) -> bool {
        self.holding.revoke(now, peer)
    }
    pub fn is_searching(&self) -> bool {
        self.searches.is_running()
    }
    pub fn last_search(&self) -> Option<Timestamp> {
        self.searches.last_done()
    }
    pub fn searched(&self, now: Timestamp, query: &Query, wanted: usize) -> Option<Report> {
        self.searches.fresh(now, query, wanted, Timestamp(0))
    }
    /// So many adverts were taken back so far; with each, what was found lately is wrong.
    pub fn board_shrank(&mut self, taken_off: u64) {
        if std::mem::replace(&mut self.taken_off, taken_off) != taken_off {
            self.searches.forget();
        }
    }

    pub fn advance(&mut self, ctx: &mut Ctx, board: &mut Board) {
        let mut outcome = Outcome::default();
        if self.routed {
            self.poster.advance(ctx, &mut self.places, &mut outcome);
        }
        self.noted(ctx, ctx.me(), outcome);
        self.search_on(ctx, board);
        for (rpc, to) in self.holding.flush(ctx) {
            self.errand(ctx.now, rpc, Errand::Share { to });
        }
        if self.sweep_at.is_some_and(|at| at <= ctx.now) {
            self.holding.sweep(ctx.now);
            self.relief.sweep(ctx.now);
            self.sweep_at = Some(ctx.now + SWEEP_EVERY);
        }
        if self.count_at.is_some_and(|at| at <= ctx.now) {
            self.uncounted = self.holding.count(ctx, &self.vicinity);
            self.count_at = Some(ctx.now + ctx.jitter(COUNT_EVERY));
        }
        self.report(ctx);
        self.size.sweep(ctx.now);
        self.stats.lookups = self.places.lookups;
    }

    fn search_on(&mut self, ctx: &mut Ctx, board: &mut Board) {
        loop {
            let mut local = Vec::new();
            self.searches.advance(ctx, &mut self.places, &mut self.depths, &mut self.stats, &mut local);
            if local.is_empty() {
                return;
            }
            for ask in local {
                let shelf = self.holding.ask(ctx.now, &ask.shard, &ask.query, ask.start, ask.start, ask.limit);
                self.searches.answered_here(ask.search, &ask.shard, &shelf);
                keep(ctx, board, ctx.me(), shelf.items, &mut self.stats);
            }
        }
    }

    /// To the two first holders of the parent: they are the ones who merge.
    fn report(&mut self, ctx: &mut Ctx) {
        for child in std::mem::take(&mut self.uncounted) {
            let Some(parent) = child.shard.parent() else { continue };
            let holders = match self.places.holders(ctx, &parent) {
                Found::Holders(holders) => holders,
                Found::Wait => {
                    self.uncounted.push(child);
                    continue;
                }
                Found::Nobody => continue,
            };
            for server in holders.iter().take(AGREE) {
                let (to, me) = (server.peer, ctx.me());
                if to == me {
                    let said = self.holding.counted(ctx, &self.vicinity, &mut self.stats, me, &child);
                    if let ShardResponse::Counted { merged, total, .. } = said {
                        self.holding.parent_said(ctx.now, &child.shard, merged, total);
                    }
                    continue;
                }
                let rpc = ctx.send(to, Request::Shard(ShardRequest::Count(child.clone())));
                let errand = Errand::Count { to, child: child.shard.clone(), parent: parent.clone() };
                self.errand(ctx.now, rpc, errand);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Timestamp> {
        let parts = [
            self.holding.flush_at(),
            // Without a routing it can do nothing when its time comes.
            self.poster.next_deadline().filter(|_| self.routed),
            self.searches.next_deadline(),
            self.sweep_at,
            self.count_at,
        ];
        parts.into_iter().flatten().min()
    }

    pub fn clock_set_back(&mut self, by: Millis) {
        self.vicinity.clock_set_back(by);
        self.places.clock_set_back(by);
        self.holding.clock_set_back(by);
        self.relief.clock_set_back(by);
        self.poster.clock_set_back(by);
        self.searches.clock_set_back(by);
        self.depths.clock_set_back(by);
        self.errands.values_mut().for_each(|(until, _)| *until = until.set_back(by));
        self.size.clock_set_back(by);
        for at in self.sweep_at.iter_mut().chain(&mut self.count_at) {
            *at = at.set_back(by);
        }
    }

    /// Where a shard lies, for whoever routes.
    pub fn position(&self, ctx: &Ctx, shard: &Shard) -> Position {
        shard.position(ctx.network)
    }
}

/// What a search has found goes to this node's own board, each advert with the life that its holder left it.
fn keep(ctx: &mut Ctx, board: &mut Board, from: PeerId, items: Vec<PageItem>, stats: &mut ShardStats) {
    for item in items.into_iter().take(crate::board::PAGE) {
        let taken = board.is_news(&item.advert).and_then(|()| {
            let advert = ctx.open_advert(&item.advert)?;
            board.admit(ctx.now, advert, item.life.min(ADVERT_TTL))
        });
        match taken {
            Ok(_) => {}
            Err(refusal) if !refusal.is_hostile() => {}
            Err(refusal) => {
                stats.refuse(&refusal);
                ctx.offence(from, "an advert of a shard", &refusal.into());
            }
        }
    }
}

const _: () = assert!(MERGE * 2 < LEAF);
