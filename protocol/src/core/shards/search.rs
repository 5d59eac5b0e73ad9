//! Finding providers on the sharded board. What is found goes to this node's own board, where it lives as long as it
//! would have there.
//!
//! ```text
//!  query ─▶ the tiers that can hold it ─▶ in each tree one shard, then 2, 4, 8 ─▶ enough, or nothing more to see
//!               a shard: two of its holders are asked; they may send down, or up; when they differ, others are asked
//!               nothing at all? ─▶ the same leaves once more, of others of their holders
//! ```
use super::depths::Depths;
use super::places::Places;
use super::stats::ShardStats;
use super::visit::{LOCAL, Visit};
use crate::board::{BoardRefusal, PageItem};
use crate::core::{Ctx, RpcFailure};
use crate::identity::PeerId;
use crate::message::Response;
use crate::shard::{Index, Shard, ShardRequest, ShardResponse, Shelf, indexes_for};
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Searches under way: a user's creates and lists. Each costs some tens of messages.
pub const MAX_SEARCHES: usize = 32;
/// Shards looked at in each round, until there are enough adverts; then as many as in the last …
const WIDTHS: [usize; 4] = [1, 2, 4, 8];
/// … and of one tier so many, beside the first of each tree: of a rare thing in a large mesh there is no end.
const MOST_SHARDS: usize = 24;
/// A search ends with what it has: a person waits.
const PATIENCE: Millis = Millis::secs(10);
/// Who wants up to so many will take one of them: after a while, two to choose from are enough.
const A_CHOICE: usize = 8;
const A_FEW: usize = 2;
const CHOOSE_AFTER: Millis = Millis::secs(4);
/// What was found is good enough for so long; adverts end by themselves before.
pub const FRESH: Millis = Millis::secs(60);
/// What a search had when its time was over is good for this long only: the places it has looked up are known to the next.
const FRESH_IF_CUT: Millis = Millis::secs(5);
/// Searches remembered as fresh.
const MAX_REMEMBERED: usize = 64;

/// How much of the board a search has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub shards: u32,
    pub found: u32,
    /// Adverts in those shards, fitting or not.
    pub seen: u32,
    /// Every shard of every tier was looked at.
    pub whole: bool,
    /// It ended before it had looked as far as it may.
    pub cut: bool,
    pub took: Millis,
}

struct Search {
    query: Query,
    wanted: usize,
    began: Timestamp,
    tiers: Vec<Vec<Index>>,
    tier: usize,
    round: usize,
    /// Shards that may still be looked at in this tier.
    left: usize,
    /// Of some tier there is more than was looked at.
    gave_up: bool,
    visits: Vec<Visit>,
    /// The first of the next tier.
    ahead: Vec<Visit>,
    /// Leaves that were looked at, and places where there is none.
    covered: BTreeSet<Shard>,
    /// Leaves with something in them, and which holders were asked, until they are looked at once more.
    leaves: Vec<(Shard, Vec<PeerId>)>,
    found: BTreeSet<PeerId>,
    start: PeerId,
    report: Report,
}

#[derive(Default)]
pub struct Searches {
    running: BTreeMap<u64, Search>,
    next: u64,
    fresh: Vec<(Query, usize, Timestamp, Report)>,
    last_done: Option<Timestamp>,
    looked: Timestamp,
}

impl Searches {
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }
    /// When one last came to its end.
    pub fn last_done(&self) -> Option<Timestamp> {
        self.last_done
    }
    /// What is known about a question that was answered within the last minute, and not before that time.
    pub fn fresh(&self, now: Timestamp, query: &Query, wanted: usize, since: Timestamp) -> Option<Report> {
        let good_for = |report: &Report, enough: usize| {
            if report.cut && (report.found as usize) < enough { FRESH_IF_CUT } else { FRESH }
        };
        let is_fresh =
            |at: Timestamp, report: &Report, enough: usize| at >= since && now - at < good_for(report, enough);
        let mut fresh = self.fresh.iter().filter(|(_, enough, at, report)| is_fresh(*at, report, *enough));
        fresh.find(|(asked, enough, ..)| asked == query && *enough >= wanted).map(|(.., report)| *report)
    }
    fn is_asked(&self, query: &Query, wanted: usize) -> bool {
        self.running.values().any(|search| search.query == *query && search.wanted >= wanted)
    }

    /// False when there is nothing to wait for: it is known already, or too much is under way.
    pub fn begin(
        &mut self,
        ctx: &mut Ctx,
        stats: &mut ShardStats,
        in_order: impl FnOnce(Vec<Vec<Index>>, &mut Ctx) -> Vec<Vec<Index>>,
        query: &Query,
        wanted: usize,
        since: Timestamp,
    ) -> bool {
        if self.fresh(ctx.now, query, wanted, since).is_some() {
            return false;
        }
        if self.is_asked(query, wanted) {
            return true;
        }
        if self.running.len() >= MAX_SEARCHES {
            return false;
        }
        stats.searches += 1;
        self.next += 1;
        let mut start = [0; 32];
        ctx.rng.fill_bytes(&mut start);
        let search = Search {
            query: query.clone(),
            wanted,
            began: ctx.now,
            tiers: in_order(indexes_for(query), ctx),
            tier: 0,
            round: 0,
            left: MOST_SHARDS,
            gave_up: false,
            visits: Vec::new(),
            ahead: Vec::new(),
            covered: BTreeSet::new(),
            leaves: Vec::new(),
            found: BTreeSet::new(),
            start: PeerId::from_public_key(start),
            report: Report::default(),
        };
        self.running.insert(self.next, search);
        true
    }

    /// Goes on with whatever can go on, and ends what is over.
    pub fn advance(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        depths: &mut Depths,
        stats: &mut ShardStats,
        local: &mut Vec<LocalAsk>,
    ) {
        self.looked = ctx.now;
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            let Some(search) = self.running.get_mut(&id) else { continue };
            let late = search.began + PATIENCE <= ctx.now;
            if late || search.go_on(ctx, places, stats, depths, id, local) {
                self.end(ctx.now, id);
            }
        }
    }

    fn end(&mut self, now: Timestamp, id: u64) {
        let Some(mut search) = self.running.remove(&id) else { return };
        self.last_done = Some(now);
        search.report.found = search.found.len() as u32;
        search.report.cut = search.tier < search.tiers.len();
        search.report.took = now - search.began;
        self.fresh.retain(|(query, _, at, _)| *query != search.query && now - *at < FRESH);
        if self.fresh.len() >= MAX_REMEMBERED {
            self.fresh.remove(0);
        }
        self.fresh.push((search.query, search.wanted, now, search.report));
    }

    pub fn is_asked_by(&self, rpc: u64) -> bool {
        rpc != LOCAL && self.running.values().any(|s| s.visits.iter().any(|visit| visit.asked.contains_key(&rpc)))
    }

    /// An answer; the adverts in it, with who gave them, are for the caller to take. Nothing in it counts that does not
    /// belong there: what is forged neither ends a search nor makes a shard seem full.
    pub fn answered(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        stats: &mut ShardStats,
        rpc: u64,
        result: &Result<Response, RpcFailure>,
    ) -> Option<(PeerId, Vec<PageItem>)> {
        let of_rpc = |search: &&mut Search| search.visits.iter().any(|visit| visit.asked.contains_key(&rpc));
        let search = self.running.values_mut().find(of_rpc)?;
        let visit = search.visits.iter_mut().find(|visit| visit.asked.contains_key(&rpc))?;
        let from = visit.asked.remove(&rpc)?;
        match result {
            Ok(Response::Shard(ShardResponse::Shelf(shelf))) => {
                match genuine(ctx, &visit.shard, &search.query, shelf) {
                    Ok(()) => {
                        search.found.extend(visit.take_in(shelf));
                        return Some((from, shelf.items.clone()));
                    }
                    Err(refusal) => {
                        stats.refuse(&refusal);
                        ctx.offence(from, "an advert of a shard", &refusal.into());
                    }
                }
            }
            Ok(Response::Shard(ShardResponse::Elsewhere(helper))) => {
                ctx.learn(helper.peer, helper.addrs.clone());
                visit.sent_on(helper.peer);
                return None;
            }
            Ok(Response::Shard(ShardResponse::NotHolder { closer })) => {
                places.corrected(&visit.shard, closer.clone());
            }
            _ => {}
        }
        stats.ask_failed += 1;
        places.remove(ctx.now, &visit.shard, from);
        None
    }
    /// What this node itself holds of it.
    pub fn answered_here(&mut self, id: u64, shard: &Shard, shelf: &Shelf) {
        let Some(search) = self.running.get_mut(&id) else { return };
        // Two that have stepped to the same place each wait for an answer of their own.
        let waits = |visit: &&mut Visit| visit.shard == *shard && visit.asked.contains_key(&LOCAL);
        let Some(visit) = search.visits.iter_mut().find(waits) else { return };
        visit.asked.remove(&LOCAL);
        search.found.extend(visit.take_in(shelf));
    }

    pub fn next_deadline(&self) -> Option<Timestamp> {
        // Of a choice that is late one more look is taken.
        let due = |search: &Search| [CHOOSE_AFTER, PATIENCE].map(|patience| search.began + patience);
        self.running.values().flat_map(due).filter(|at| *at > self.looked).min()
    }
    /// A provider has withdrawn: what is remembered may be wrong.
    pub fn forget(&mut self) {
        self.fresh.clear();
    }
    pub fn clock_set_back(&mut self, by: Millis) {
        self.running.values_mut().for_each(|search| search.began = search.began.set_back(by));
        self.fresh.iter_mut().for_each(|(_, _, at, _)| *at = at.set_back(by));
        self.last_done = self.last_done.map(|at| at.set_back(by));
        self.looked = self.looked.set_back(by);
    }
}

/// Each advert is its provider's, stands in this shard, and is what was asked for; the sample at least the first two.
fn genuine(ctx: &Ctx, shard: &Shard, query: &Query, shelf: &Shelf) -> Result<(), BoardRefusal> {
    let asked = shelf.items.iter().take(crate::board::PAGE).map(|item| (item, true));
    for (item, fits) in asked.chain(shelf.sample.iter().map(|item| (item, false))) {
        let advert = ctx.open_advert(&item.advert)?;
        if !shard.takes(&advert) || (fits && !advert.terms.answers(query)) {
            return Err(BoardRefusal::Misplaced);
        }
    }
    Ok(())
}

/// A question that this node answers itself, being one of the holders.
pub struct LocalAsk {
    pub search: u64,
    pub shard: Shard,
    pub query: Query,
    pub start: PeerId,
    pub limit: u16,
}

impl Search {
    /// Half of a full leaf is enough to choose among; a list asks for more.
    fn limit(&self) -> u16 {
        self.wanted.clamp(8, crate::board::PAGE) as u16
    }

    /// True at its end.
    fn go_on(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        stats: &mut ShardStats,
        depths: &mut Depths,
        id: u64,
        local: &mut Vec<LocalAsk>,
    ) -> bool {
        loop {
            let (query, start, limit) = (&self.query, self.start, self.limit());
            for visit in self.visits.iter_mut().filter(|visit| !visit.done) {
                let ask = |shard: &Shard| ShardRequest::Ask {
                    shard: shard.clone(),
                    query: query.clone(),
                    after: start,
                    until: start,
                    limit,
                };
                let here =
                    |shard: &Shard| LocalAsk { search: id, shard: shard.clone(), query: query.clone(), start, limit };
                visit.go_on(ctx, places, stats, ask, here, local);
                if visit.done {
                    let adverts = visit.answers.iter().map(|answer| answer.adverts).max().unwrap_or(0);
                    self.report.shards += 1;
                    self.report.seen += adverts;
                    if adverts > 0 && self.tier < self.tiers.len() {
                        self.leaves.push((visit.shard.clone(), std::mem::take(&mut visit.turned_to)));
                    }
                }
                if visit.done && visit.shard.alternate == 0 {
                    self.covered.insert(visit.shard.clone());
                    let adverts = visit.answers.iter().map(|answer| answer.adverts).max().unwrap_or(0);
                    depths.saw(ctx.now, &visit.shard, adverts);
                }
            }
            let new: Vec<Shard> =
                self.visits.iter_mut().flat_map(|visit| std::mem::take(&mut visit.alternates)).collect();
            if !new.is_empty() {
                self.visits.extend(new.into_iter().map(|shard| Visit::new(shard, ctx.rng)));
                continue;
            }
            let late = self.wanted <= A_CHOICE && self.began + CHOOSE_AFTER <= ctx.now;
            let enough = self.found.len() >= if late { A_FEW.min(self.wanted) } else { self.wanted };
            if !enough && self.visits.iter().any(|visit| !visit.done) {
                return false;
            }
            self.visits.clear();
            if enough || !(self.next_round(ctx, places, depths) || self.look_again(ctx)) {
                self.report.whole = !enough && self.tier >= self.tiers.len() && !self.gave_up;
                return true;
            }
        }
    }

    /// Two holders may both not have heard of an advert that the six others have. Who finds something else does not need
    /// it; who finds nothing at all asks others, before he believes it.
    fn look_again(&mut self, ctx: &mut Ctx) -> bool {
        if !self.found.is_empty() {
            return false;
        }
        let some = self.leaves.len().min(WIDTHS[WIDTHS.len() - 1]);
        let again = self.leaves.drain(..some);
        self.visits = again.map(|(leaf, asked)| Visit::again(leaf, asked, ctx.rng)).collect();
        !self.visits.is_empty()
    }

    /// Shards that would be enough if each of them gave as much as those before, as far as may be asked at once.
    fn needed(&self) -> usize {
        let each = self.found.len() / self.covered.len().max(1);
        let lacking = self.wanted.saturating_sub(self.found.len());
        lacking.div_ceil(each.max(1)).min(WIDTHS[WIDTHS.len() - 1])
    }

    /// False when there is nothing left to look at.
    fn next_round(&mut self, ctx: &mut Ctx, places: &mut Places, depths: &Depths) -> bool {
        while let Some(indexes) = self.tiers.get(self.tier) {
            if self.round == 0 {
                let begun = std::mem::take(&mut self.ahead);
                self.visits = if begun.is_empty() { first_visits(ctx, depths, indexes) } else { begun };
                // Where the next classes are is asked meanwhile: it takes as long as what is asked of these.
                let next = self.tiers.get(self.tier + 1);
                self.ahead = next.map(|indexes| first_visits(ctx, depths, indexes)).unwrap_or_default();
                self.visits.iter().chain(&self.ahead).for_each(|visit| visit.prepare(ctx, places));
                self.round = 1;
                return true;
            }
            let width = self.needed().max(WIDTHS[self.round.min(WIDTHS.len() - 1)]);
            let mut targets = self.uncovered(ctx, depths, indexes, width);
            self.gave_up |= targets.len() > self.left;
            targets.truncate(self.left);
            self.left -= targets.len();
            if targets.is_empty() {
                (self.tier, self.round, self.left) = (self.tier + 1, 0, MOST_SHARDS);
                continue;
            }
            self.round += 1;
            self.visits = targets.into_iter().map(|shard| Visit::new(shard, ctx.rng)).collect();
            return true;
        }
        false
    }

    /// So many places that were not looked at, of each tree by turns. One that was seen whole, such as an empty one, gives
    /// its turns to the others.
    fn uncovered(&self, ctx: &mut Ctx, depths: &Depths, indexes: &[Index], width: usize) -> Vec<Shard> {
        let mut targets = Vec::new();
        let mut open: VecDeque<&Index> = indexes.iter().collect();
        while targets.len() < width
            && let Some(index) = open.pop_front()
        {
            let all = || self.covered.iter().chain(&targets);
            let depth = depths.likely(ctx.now, index);
            if let Some(shard) = uncovered(&Shard::root(index.clone()), depth, &all, ctx.rng) {
                targets.push(shard);
                open.push_back(index);
            }
        }
        targets
    }
}

/// One place of each tree. Where few of them have split a guess is off by a step more often than not.
fn first_visits(ctx: &mut Ctx, depths: &Depths, indexes: &[Index]) -> Vec<Visit> {
    let first = |index: &Index| {
        let depth = depths.likely(ctx.now, index);
        Visit::new(Shard::root(index.clone()).down_to(depth, ctx.rng.next_u32()), ctx.rng)
    };
    let mut visits: Vec<Visit> = indexes.iter().map(first).collect();
    let split = || visits.iter().filter(|visit| visit.shard.depth > 0);
    if split().count() <= A_FEW {
        visits.iter_mut().filter(|visit| visit.shard.depth > 0).for_each(|visit| visit.hurries = true);
    }
    visits
}

/// A place in this tree, at the usual depth of its leaves, that was not looked at yet: in the largest part of it that was
/// not, or two would meet at one leaf while another is never seen.
fn uncovered<'a, I: Iterator<Item = &'a Shard>>(
    root: &Shard,
    depth: u8,
    covered: &impl Fn() -> I,
    rng: &mut impl Rng,
) -> Option<Shard> {
    let mut row = vec![root.clone()];
    while !row.is_empty() {
        row.retain(|node| !covered().any(|leaf| leaf.covers(node)));
        let untouched: Vec<&Shard> = row.iter().filter(|node| !covered().any(|leaf| node.covers(leaf))).collect();
        if !untouched.is_empty() {
            let node = untouched[rng.next_u32() as usize % untouched.len()];
            return Some(node.down_to(depth, rng.next_u32()));
        }
        row = row.iter().flat_map(|node| [0, 1].map(|bit| node.down_to(node.depth + 1, bit))).collect();
    }
    None
}
