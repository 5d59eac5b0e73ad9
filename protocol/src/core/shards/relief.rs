//! A shard that is asked for more often than its holders can bear is copied to the servers behind them, and some of those
//! who ask are sent there.
//!
//! ```text
//!  holder:  quiet ─▶ busy: Relieve to the server eight ranks behind ─▶ it has noted it: every other question is sent there
//!             ▲                 └─ again each minute while it is busy                               │
//!             └───────────────────────── asked less for a while ────────────────────────────────────┘
//!  helper:  Relieve ─▶ reads a snapshot ─▶ answers from the copy for a minute and a half ─▶ forgets it
//! ```
//! Each holder has a helper of its own, so nobody reads or is read more than once. A copy is told of no changes: it is as
//! old as what a requestor remembers may be.
use super::held::{Held, MAX_SHARD_ADVERTS};
use super::stats::ShardStats;
use super::vicinity::Vicinity;
use crate::advert::ADVERT_TTL;
use crate::board::{Board, BoardRefusal, PAGE, Page};
use crate::core::Ctx;
use crate::identity::PeerId;
use crate::shard::{HOLDERS, Server, Shard, Shelf, Standing, State};
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Questions are counted over this.
const WINDOW: Millis = Millis::secs(10);
/// A shard is busy with so many in it: five a second, at four kilobytes an answer, are felt on a home's uplink.
pub const BUSY: u32 = 50;
/// A helper is told again after this, while it is needed …
const TELL_EVERY: Millis = Millis::secs(60);
/// … and answers for so long: one telling may be lost.
const HELPS_FOR: Millis = Millis::secs(90);
/// Copies kept for others.
pub const MAX_COPIES: usize = 8;

/// How often one shard is asked for here, and who helps.
struct Demand {
    since: Timestamp,
    count: u32,
    /// In the window before.
    last: u32,
    told_at: Option<Timestamp>,
    helper: Option<(Arc<Server>, Timestamp)>,
}

struct Copy {
    board: Board,
    /// While a newer snapshot is being read; it takes the place of the other when it is there.
    fresh: Option<Board>,
    of: PeerId,
    standing: Standing,
    until: Timestamp,
}

/// What a holder does with a question.
pub enum Relieved {
    /// Answers it.
    No,
    /// Answers it, and asks this server for help.
    Tells(Arc<Server>),
    /// Sends it there.
    By(Arc<Server>),
}

#[derive(Default)]
pub struct Relief {
    /// Of shards that are held here.
    demand: BTreeMap<Shard, Demand>,
    copies: BTreeMap<Shard, Copy>,
}

impl Relief {
    /// Somebody asks for a shard that this node holds.
    pub fn asked(&mut self, now: Timestamp, vicinity: &Vicinity, shard: &Shard, held: &Held) -> Relieved {
        let demand = self.demand.entry(shard.clone()).or_insert_with(|| Demand::new(now));
        demand.count_one(now);
        if !matches!(held.standing(now), Standing::Leaf | Standing::Split { .. }) {
            return Relieved::No;
        }
        let Some(rank) = vicinity.own_rank(now, held.place).filter(|rank| *rank < HOLDERS && demand.is_busy()) else {
            return Relieved::No;
        };
        if let Some((helper, _)) = demand.helper.as_ref().filter(|(_, until)| *until > now && demand.count % 2 == 1) {
            return Relieved::By(helper.clone());
        }
        if demand.told_at.is_some_and(|told| now - told < TELL_EVERY) {
            return Relieved::No;
        }
        demand.told_at = Some(now);
        vicinity.behind(now, held.place, rank).map_or(Relieved::No, Relieved::Tells)
    }

    /// Its helper has noted that it is needed.
    pub fn noted(&mut self, now: Timestamp, shard: &Shard, helper: Arc<Server>) {
        if let Some(demand) = self.demand.get_mut(shard) {
            demand.helper = Some((helper, now + HELPS_FOR));
        }
    }

    /// A holder asks for help. True when its snapshot is to be read.
    pub fn help(&mut self, ctx: &Ctx, vicinity: &Vicinity, from: PeerId, state: &State) -> bool {
        let (now, shard) = (ctx.now, &state.shard);
        let place = shard.position(ctx.network);
        if !shard.is_valid() || !vicinity.may_hold(now, from, place) || !vicinity.is_behind(now, place) {
            return false;
        }
        if !self.copies.contains_key(shard) && self.copies.len() >= MAX_COPIES {
            self.copies.retain(|_, copy| copy.until > now);
            if self.copies.len() >= MAX_COPIES {
                return false;
            }
        }
        let board = || Board::with_room_for(ctx.network.clone(), MAX_SHARD_ADVERTS);
        let standing = state.below.map_or(Standing::Leaf, |below| Standing::Split { below });
        let copy = self.copies.entry(shard.clone()).or_insert_with(|| Copy {
            board: board(),
            fresh: None,
            of: from,
            standing,
            until: now,
        });
        // One holder is one helper's: who else asks gets no more of it.
        if copy.of != from && copy.until > now {
            return false;
        }
        (copy.of, copy.standing, copy.until) = (from, standing, now + HELPS_FOR);
        copy.fresh = (standing == Standing::Leaf).then(board);
        copy.fresh.is_some()
    }
    pub fn is_reading(&self, shard: &Shard, from: PeerId) -> bool {
        self.copies.get(shard).is_some_and(|copy| copy.of == from && copy.fresh.is_some())
    }

    /// A page of the snapshot; what is forged, or of another shard, is its sender's offence.
    pub fn snapshot_read(&mut self, ctx: &mut Ctx, stats: &mut ShardStats, from: PeerId, shard: &Shard, page: &Page) {
        let Some(copy) = self.copies.get_mut(shard).filter(|copy| copy.of == from) else { return };
        let Some(fresh) = &mut copy.fresh else { return };
        for item in page.items.iter().take(PAGE) {
            let taken = fresh.is_news(&item.advert).and_then(|()| {
                let advert = ctx.open_advert(&item.advert)?;
                if !shard.takes(&advert) {
                    return Err(BoardRefusal::Misplaced);
                }
                fresh.admit(ctx.now, advert, item.life.min(ADVERT_TTL))
            });
            if let Err(refusal) = taken
                && refusal.is_hostile()
            {
                stats.refuse(&refusal);
                ctx.offence(from, "an advert of a snapshot", &refusal.into());
            }
        }
        if page.next.is_none() {
            copy.board = copy.fresh.take().unwrap_or_else(|| unreachable!("it was there a moment ago"));
        }
    }

    /// From a copy, if there is one.
    pub fn ask(
        &self,
        now: Timestamp,
        shard: &Shard,
        query: &Query,
        after: PeerId,
        until: PeerId,
        limit: u16,
    ) -> Option<Shelf> {
        let copy = self.copies.get(shard).filter(|copy| copy.until > now)?;
        if copy.standing == Standing::Leaf && copy.board.is_empty() {
            return None;
        }
        Some(Shelf::of(&copy.board, copy.standing, now, query, after, until, limit))
    }

    pub fn sweep(&mut self, now: Timestamp) {
        self.copies.retain(|_, copy| copy.until > now);
        self.demand.retain(|_, demand| now - demand.since < TELL_EVERY);
    }
    pub fn clock_set_back(&mut self, by: Millis) {
        for demand in self.demand.values_mut() {
            demand.since = demand.since.set_back(by);
            demand.told_at = demand.told_at.map(|at| at.set_back(by));
            demand.helper.iter_mut().for_each(|(_, until)| *until = until.set_back(by));
        }
        for copy in self.copies.values_mut() {
            copy.until = copy.until.set_back(by);
            copy.board.clock_set_back(by);
            copy.fresh.iter_mut().for_each(|fresh| fresh.clock_set_back(by));
        }
    }
}

impl Demand {
    fn new(now: Timestamp) -> Self {
        Demand { since: now, count: 0, last: 0, told_at: None, helper: None }
    }
    fn count_one(&mut self, now: Timestamp) {
        if now - self.since >= WINDOW {
            let is_next = now - self.since < Millis(2 * WINDOW.0);
            self.last = if is_next { self.count } else { 0 };
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
    }
    fn is_busy(&self) -> bool {
        self.count.max(self.last) >= BUSY
    }
}
