//! A provider's own advert on the sharded board: in each index it is put to two holders, who pass it to the others.
//!
//! ```text
//!                   holders known          both have it
//!  (new advert) ──▶ putting ─────────────────────────────▶ stands
//!                    │  ▲ │ two say down, or up: another depth, anew        │ now and then
//!                    │  └─┘ no answer, or not a holder: the next one        ▼
//!                    └─ tried enough ─▶ (again in half a minute)     do both show it, and a third?
//!                                                                    who does not is replaced
//! ```
//! The same two are kept while they answer: a connection costs more than all the adverts that go over it.
use super::places::{Found, Places};
use crate::advert::{ADVERT_TTL, Advert};
use crate::board::Posting;
use crate::core::{Ctx, RpcFailure};
use crate::envelope::Sealed;
use crate::identity::PeerId;
use crate::message::{Request, Response};
use crate::names::IsolationWanted;
use crate::shard::{
    Go, Index, MAX_DEPTH, PutAnswer, Server, Shard, ShardRequest, ShardResponse, Standing, indexes_of, likely_depth,
};
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
use rand_core::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Holders that an advert is put to in each index.
pub const PUT_TO: usize = 2;
/// Answers that send an advert elsewhere before it is believed.
const AGREE: usize = 2;
/// Those who took the advert, and one more holder, are asked for it so long after; then each time after four times as long.
/// The longest time is short beside a provider's days, and a connection in it costs ten bytes a second.
const CHECK_AFTER: Millis = Millis::secs(20);
const CHECK_EVERY: Millis = Millis::secs(900);
/// Holders remembered that took it and did not show it.
const MAX_AVOIDED: usize = 8;
/// With so many of them the place is as good as crowded: an alternate is used, too.
const HIDDEN: usize = 6;
/// What a holder says counts for so long: some checks, and some postings of a provider whose offer changes all the time.
const VOTE_FOR: Millis = Millis::secs(90);
/// Holders turned to for one posting at one depth.
const MAX_TRIES: u32 = 8;
/// Redirects followed for one posting: down the whole tree by ones, in the worst case.
const MAX_MOVES: u32 = MAX_DEPTH as u32 + 4;
/// When nobody took it, or nobody serves, it is tried again then.
const AGAIN: Millis = Millis::secs(30);
/// Trees remembered that the offer has left: those of each tier, twice.
const MAX_LEFT: usize = 8;
/// Who has stood for so long lives in a mesh whose holders stay: to another tree it goes by what it has seen or been told
/// of its depth. Where holders come and go, what is put into the middle of a tree makes a leaf there.
const CALM: Millis = ADVERT_TTL;
/// Earlier places, where the advert may stand until it expires and has to be taken back: one a refresh, twice.
const MAX_FORMER: usize = 4;

/// Where a holder sends the advert.
#[derive(Clone, Copy)]
struct Vote {
    by: PeerId,
    go: Go,
    at: Timestamp,
}

struct Spot {
    index: Index,
    depth: u8,
    /// Beside the spot of the same tree that comes before it, whose place is crowded.
    alternate: u8,
    /// Those that have it, or are being told.
    entries: Vec<Arc<Server>>,
    acked: usize,
    tries: u32,
    moves: u32,
    votes: Vec<Vote>,
    /// Everything above this has split, and below the other there is nobody yet.
    between: (u8, u8),
    wake: Option<Timestamp>,
    /// When holders are asked whether they show it, and how long it is from then until the next time.
    check: Option<Timestamp>,
    pause: Millis,
    /// Who took it and did not show it.
    avoided: Vec<PeerId>,
    former: Vec<(Shard, Vec<Arc<Server>>, Timestamp)>,
}

#[derive(Default)]
pub struct Poster {
    posting: Option<Arc<Sealed<Advert>>>,
    spots: Vec<Spot>,
    /// How deep it stood in trees that it has left: an offer ends and begins again, or goes from class to class and back,
    /// as guests come and go.
    left: Vec<(Index, u8)>,
    /// Since when its adverts have been taken.
    stands_since: Option<Timestamp>,
    asked: BTreeMap<u64, Asked>,
}

struct Asked {
    shard: Shard,
    to: PeerId,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Put,
    Check,
}

/// What became of a step, for the rest of the node.
#[derive(Default)]
pub struct Outcome {
    pub put: u64,
    pub acknowledged: u64,
    pub redirected: u64,
    pub failed: u64,
    /// Holders that did not show what others had taken.
    pub missing: u64,
    /// What whoever took it says of the mesh's size.
    pub total: Option<Option<u32>>,
    /// To be taken by this node itself, which is among the holders.
    pub local: Vec<(Shard, Posting, Option<PeerId>)>,
}

impl Poster {
    /// A new advert, in each index from where the last one stood.
    pub fn post(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        advert: Arc<Sealed<Advert>>,
        likely: Option<&dyn Fn(&Index) -> u8>,
    ) -> Outcome {
        let indexes = indexes_of(&advert);
        self.posting = Some(advert);
        let (kept, left): (Vec<Spot>, Vec<Spot>) =
            std::mem::take(&mut self.spots).into_iter().partition(|spot| indexes.contains(&spot.index));
        self.spots = kept;
        // An offer of another class stands elsewhere; the old one ends by itself, within a life.
        left.iter().for_each(|spot| self.leave(spot));
        let stands_long = self.stands_since.is_some_and(|since| ctx.now - since >= CALM);
        for index in indexes {
            if !self.spots.iter().any(|spot| spot.index == index) {
                let left = self.left.iter().find(|(left, _)| *left == index).map(|(_, depth)| *depth);
                let depth = left.or(likely.map(|likely| likely(&index))).filter(|_| stands_long);
                self.spots.push(Spot::new(index, depth.unwrap_or(0), 0));
            }
        }
        self.asked.clear();
        for spot in &mut self.spots {
            (spot.acked, spot.tries, spot.moves, spot.wake) = (0, 0, 0, None);
            spot.between = (0, MAX_DEPTH);
            spot.votes.retain(|vote| ctx.now - vote.at < VOTE_FOR);
            spot.former.retain(|(_, _, until)| *until > ctx.now);
        }
        let mut outcome = Outcome::default();
        // Those that had the last one get this one too.
        for n in 0..self.spots.len() {
            let entries = self.spots[n].entries.clone();
            self.put_to(ctx, n, &entries, &mut outcome);
        }
        if likely.is_some() {
            self.advance(ctx, places, &mut outcome);
        }
        outcome
    }

    /// How deep it stood is good to know when it comes back.
    fn leave(&mut self, spot: &Spot) {
        if spot.alternate > 0 || spot.acked < PUT_TO {
            return;
        }
        self.left.retain(|(index, _)| *index != spot.index);
        if self.left.len() >= MAX_LEFT {
            self.left.remove(0);
        }
        self.left.push((spot.index.clone(), spot.depth));
    }

    /// There is a routing now.
    pub fn wake(&mut self) {
        self.spots.iter_mut().for_each(|spot| spot.wake = None);
    }

    /// The offer is over: every place where it may stand is told, once.
    pub fn withdraw(&mut self, ctx: &mut Ctx, posting: &Posting) -> Outcome {
        let mut outcome = Outcome::default();
        self.posting = None;
        self.asked.clear();
        for spot in std::mem::take(&mut self.spots) {
            self.leave(&spot);
            let here = (spot.shard(ctx.me()), spot.entries, ctx.now + ADVERT_TTL);
            for (shard, entries, _) in spot.former.into_iter().chain([here]) {
                let peers: Vec<PeerId> = entries.iter().map(|server| server.peer).collect();
                for to in &peers {
                    let also = peers.iter().find(|peer| *peer != to).copied();
                    if *to == ctx.me() {
                        outcome.local.push((shard.clone(), posting.clone(), also));
                    } else {
                        let put = ShardRequest::Put { shard: shard.clone(), posting: posting.clone(), also };
                        ctx.send(*to, Request::Shard(put));
                    }
                }
            }
        }
        outcome
    }

    /// Looks for holders that are still wanted.
    pub fn advance(&mut self, ctx: &mut Ctx, places: &mut Places, outcome: &mut Outcome) {
        if self.posting.is_none() {
            return;
        }
        (0..self.spots.len()).for_each(|n| self.check(ctx, places, n));
        loop {
            for n in 0..self.spots.len() {
                // A redirect is followed at once, as far as the holders there are known.
                while self.step(ctx, places, n, outcome) {}
            }
            if !self.take_alternates(ctx, places) {
                return;
            }
        }
    }

    /// Beside each spot whose place is crowded there is one at its alternate; others are given up, and what stands there
    /// ends by itself. True when there is a new one.
    fn take_alternates(&mut self, ctx: &Ctx, places: &Places) -> bool {
        let me = ctx.me();
        let mut wanted = Vec::new();
        for spot in self.spots.iter().filter(|spot| spot.alternate == 0) {
            let mut shard = spot.shard(me);
            let mut hidden = spot.avoided.len() >= HIDDEN;
            while let Some(next) = shard.next_alternate().filter(|_| hidden || places.is_crowded(&shard)) {
                hidden = false;
                wanted.push(next.clone());
                shard = next;
            }
        }
        self.spots.retain(|spot| spot.alternate == 0 || wanted.contains(&spot.shard(me)));
        wanted.retain(|shard| !self.spots.iter().any(|spot| spot.shard(me) == *shard));
        let any = !wanted.is_empty();
        self.spots.extend(wanted.into_iter().map(|shard| Spot::new(shard.index, shard.depth, shard.alternate)));
        any
    }

    /// True when the spot has moved.
    fn step(&mut self, ctx: &mut Ctx, places: &mut Places, n: usize, outcome: &mut Outcome) -> bool {
        let spot = &self.spots[n];
        if spot.wake.is_some_and(|at| at > ctx.now) || spot.entries.len() >= PUT_TO {
            return false;
        }
        let moves = spot.moves;
        let shard = spot.shard(ctx.me());
        self.spots[n].wake = None;
        match places.holders(ctx, &shard) {
            Found::Holders(holders) => self.choose(ctx, n, holders, outcome),
            Found::Wait => {}
            Found::Nobody => self.spots[n].wake = Some(ctx.now + AGAIN),
        }
        self.spots[n].moves > moves
    }

    fn choose(&mut self, ctx: &mut Ctx, n: usize, holders: Vec<Arc<Server>>, outcome: &mut Outcome) {
        let spot = &mut self.spots[n];
        let is_new = |server: &Arc<Server>| {
            let peer = server.peer;
            let mut seen = spot.avoided.iter().copied();
            let mut told = spot.entries.iter().map(|entry| entry.peer).chain(spot.votes.iter().map(|vote| vote.by));
            !seen.any(|other| other == peer) && !told.any(|other| other == peer)
        };
        let mut fresh: Vec<Arc<Server>> = holders.into_iter().filter(is_new).collect();
        let mut chosen = Vec::new();
        while spot.entries.len() + chosen.len() < PUT_TO && !fresh.is_empty() && spot.tries < MAX_TRIES {
            chosen.push(fresh.swap_remove(ctx.rng.next_u32() as usize % fresh.len()));
            spot.tries += 1;
        }
        if chosen.is_empty() {
            if spot.acked == 0 && !spot.votes.is_empty() {
                // Nobody else is there to agree: better where the only one says than nowhere.
                return self.move_on(ctx, n, outcome);
            }
            spot.wake = Some(ctx.now + AGAIN);
            spot.tries = 0;
            return;
        }
        spot.entries.extend(chosen.iter().cloned());
        self.put_to(ctx, n, &chosen, outcome);
    }

    fn put_to(&mut self, ctx: &mut Ctx, n: usize, to: &[Arc<Server>], outcome: &mut Outcome) {
        let Some(advert) = &self.posting else { return };
        let spot = &self.spots[n];
        let shard = spot.shard(ctx.me());
        for server in to {
            // Who should have heard of it from those two tells everybody else.
            let is_entry = spot.entries.iter().any(|entry| entry.peer == server.peer);
            let other = || spot.entries.iter().map(|entry| entry.peer).find(|peer| *peer != server.peer);
            let also = is_entry.then(other).flatten();
            let posting = Posting::Advert(advert.signed().clone());
            outcome.put += 1;
            if server.peer == ctx.me() {
                outcome.local.push((shard.clone(), posting, also));
                continue;
            }
            let rpc = ctx.send(server.peer, Request::Shard(ShardRequest::Put { shard: shard.clone(), posting, also }));
            self.asked.insert(rpc, Asked { shard: shard.clone(), to: server.peer, what: What::Put });
        }
    }

    /// Asks those who took the advert, and one who should have heard of it from them, whether they show it.
    fn check(&mut self, ctx: &mut Ctx, places: &mut Places, n: usize) {
        let spot = &mut self.spots[n];
        if spot.check.is_none_or(|at| at > ctx.now) {
            return;
        }
        let (shard, me) = (spot.shard(ctx.me()), ctx.me());
        let Found::Holders(holders) = places.holders(ctx, &shard) else {
            spot.check = Some(ctx.now + ctx.jitter(CHECK_AFTER));
            return;
        };
        spot.check = Some(ctx.now + ctx.jitter(spot.pause));
        spot.pause = CHECK_EVERY.min(Millis(spot.pause.0 * 4));
        let mut asked: Vec<PeerId> = spot.entries.iter().map(|entry| entry.peer).collect();
        let is_other = |peer: &PeerId| !asked.contains(peer) && !spot.avoided.contains(peer);
        let others: Vec<PeerId> = holders.iter().map(|server| server.peer).filter(is_other).collect();
        if !others.is_empty() {
            asked.push(others[ctx.rng.next_u32() as usize % others.len()]);
        }
        for to in asked.into_iter().filter(|to| *to != me) {
            let query = Query { isolation: IsolationWanted::Any, ..Query::default() };
            let ask = ShardRequest::Ask { shard: shard.clone(), query, after: me.before(), until: me, limit: 1 };
            let rpc = ctx.send(to, Request::Shard(ask));
            self.asked.insert(rpc, Asked { shard: shard.clone(), to, what: What::Check });
        }
    }

    /// Who was asked by this request, if it is one of these.
    pub fn is_asked(&self, rpc: u64) -> Option<PeerId> {
        self.asked.get(&rpc).map(|asked| asked.to)
    }

    pub fn answered(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        rpc: u64,
        result: &Result<Response, RpcFailure>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(Asked { shard, to, what }) = self.asked.remove(&rpc) else { return outcome };
        match what {
            What::Put => self.said(ctx, places, &shard, to, result, &mut outcome),
            What::Check => self.checked(ctx, places, &shard, to, result, &mut outcome),
        }
        self.advance(ctx, places, &mut outcome);
        outcome
    }

    /// What this node said to itself.
    pub fn answered_here(&mut self, ctx: &mut Ctx, places: &mut Places, shard: &Shard, response: Response) -> Outcome {
        let mut outcome = Outcome::default();
        let result = Ok(response);
        self.said(ctx, places, shard, ctx.me(), &result, &mut outcome);
        self.advance(ctx, places, &mut outcome);
        outcome
    }

    fn said(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        shard: &Shard,
        from: PeerId,
        result: &Result<Response, RpcFailure>,
        outcome: &mut Outcome,
    ) {
        let Some(n) = self.spots.iter().position(|spot| spot.shard(ctx.me()) == *shard) else { return };
        let spot = &mut self.spots[n];
        match result {
            Ok(Response::Shard(ShardResponse::Put(answer))) => {
                outcome.total = Some(answer.total);
                self.taken(ctx, places, n, from, answer, outcome);
            }
            Ok(Response::Shard(ShardResponse::NotHolder { closer })) => {
                spot.entries.retain(|entry| entry.peer != from);
                places.remove(ctx.now, shard, from);
                learn(ctx, closer);
                places.corrected(shard, closer.clone());
            }
            _ => {
                outcome.failed += 1;
                spot.entries.retain(|entry| entry.peer != from);
                places.remove(ctx.now, shard, from);
            }
        }
    }

    fn checked(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        shard: &Shard,
        from: PeerId,
        result: &Result<Response, RpcFailure>,
        outcome: &mut Outcome,
    ) {
        let me = ctx.me();
        let Some(n) = self.spots.iter().position(|spot| spot.shard(me) == *shard) else { return };
        let spot = &mut self.spots[n];
        let is_entry = spot.entries.iter().any(|entry| entry.peer == from);
        let Ok(Response::Shard(ShardResponse::Shelf(shelf))) = result else {
            if let Ok(Response::Shard(ShardResponse::NotHolder { closer })) = result {
                places.corrected(shard, closer.clone());
            }
            return places.remove(ctx.now, shard, from);
        };
        let shows = shelf.items.iter().any(|item| item.advert.signer == me);
        let moves = matches!(shelf.standing, Standing::Split { .. }) && spot.depth < MAX_DEPTH && spot.alternate == 0;
        if shows && !moves {
            return;
        }
        spot.check = Some(ctx.now + ctx.jitter(CHECK_AFTER));
        spot.pause = CHECK_AFTER;
        if !shows {
            outcome.missing += 1;
        }
        if is_entry && !shows {
            spot.entries.retain(|entry| entry.peer != from);
            spot.acked = spot.acked.saturating_sub(1);
            if spot.avoided.len() >= MAX_AVOIDED {
                spot.avoided.remove(0);
            }
            spot.avoided.push(from);
            spot.wake = None;
            return;
        }
        // It gets it from us, and says where it should go.
        self.put_to(ctx, n, &[Server::new(from, Vec::new())], outcome);
    }

    fn taken(
        &mut self,
        ctx: &mut Ctx,
        places: &mut Places,
        n: usize,
        from: PeerId,
        answer: &PutAnswer,
        outcome: &mut Outcome,
    ) {
        let spot = &mut self.spots[n];
        if !answer.closer.is_empty() {
            learn(ctx, &answer.closer);
            places.corrected(&spot.shard(ctx.me()), answer.closer.clone());
        }
        // Alone where there should be many: a step too far down, where nobody is sent to.
        let alone = answer.go == Go::Stay && answer.adverts as usize <= PUT_TO && spot.depth > spot.between.0;
        let go = if alone { Go::Up } else { answer.go };
        let possible = match go {
            _ if spot.alternate > 0 => false,
            Go::Stay => false,
            Go::Down { .. } => spot.depth < MAX_DEPTH && spot.moves < MAX_MOVES,
            Go::Up => spot.depth > 0 && spot.moves < MAX_MOVES,
        };
        if !possible {
            if answer.kept && spot.entries.iter().any(|entry| entry.peer == from) {
                spot.acked += 1;
                outcome.acknowledged += 1;
                self.stands_since.get_or_insert(ctx.now);
                spot.check.get_or_insert_with(|| ctx.now + ctx.jitter(CHECK_AFTER));
            }
            return;
        }
        let down = |go: &Go| matches!(go, Go::Down { .. });
        spot.votes.retain(|vote| vote.by != from && ctx.now - vote.at < VOTE_FOR);
        spot.votes.push(Vote { by: from, go, at: ctx.now });
        if spot.votes.iter().filter(|vote| down(&vote.go) == down(&go)).count() >= AGREE {
            return self.move_on(ctx, n, outcome);
        }
        // One says so: another is asked in its place. It keeps what it got all the same.
        spot.entries.retain(|entry| entry.peer != from);
    }

    /// To another depth, where the holders send us.
    fn move_on(&mut self, ctx: &mut Ctx, n: usize, outcome: &mut Outcome) {
        let me = ctx.me();
        let spot = &mut self.spots[n];
        let (left, mut there) = (spot.shard(me), std::mem::take(&mut spot.entries));
        // Their word is enough to know them by.
        there.extend(spot.votes.iter().map(|vote| Server::new(vote.by, Vec::new())));
        there.dedup_by_key(|server| server.peer);
        spot.former.retain(|(shard, _, until)| *until > ctx.now && *shard != left);
        if spot.former.len() >= MAX_FORMER {
            spot.former.remove(0);
        }
        spot.former.push((left, there, ctx.now + ADVERT_TTL));
        // The lower estimate: liars inflate.
        let below =
            spot.votes.iter().filter_map(|vote| if let Go::Down { below } = vote.go { Some(below) } else { None });
        let (least, most) = &mut spot.between;
        spot.depth = match below.min() {
            Some(below) => {
                *least = (*least).max(spot.depth + 1);
                *most = (*most).max(*least);
                likely_depth(spot.depth, below.into(), ctx.leaf).clamp(*least, *most)
            }
            None => {
                *most = spot.depth;
                *least = (*least).min(spot.depth - 1);
                spot.depth - 1
            }
        };
        spot.votes.clear();
        (spot.acked, spot.tries, spot.wake) = (0, 0, None);
        (spot.check, spot.pause) = (None, CHECK_AFTER);
        spot.avoided.clear();
        spot.moves += 1;
        outcome.redirected += 1;
    }

    /// Holders whose connection is worth keeping.
    pub fn entries(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.spots.iter().flat_map(|spot| spot.entries.iter().map(|entry| entry.peer))
    }
    /// In how many of its indexes the current advert was taken, by how many holders: the fewest of them.
    pub fn acknowledged(&self) -> usize {
        self.spots.iter().map(|spot| spot.acked).min().unwrap_or(0)
    }
    pub fn depths(&self) -> impl Iterator<Item = (&Index, u8)> {
        self.spots.iter().map(|spot| (&spot.index, spot.depth))
    }
    /// Of the trees where holders have taken it.
    pub fn depths_seen(&self) -> impl Iterator<Item = (Index, u8)> {
        let stands = self.spots.iter().filter(|spot| spot.acked >= PUT_TO && spot.alternate == 0);
        stands.map(|spot| (spot.index.clone(), spot.depth))
    }
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let wake = |spot: &Spot| spot.wake.filter(|_| spot.entries.len() < PUT_TO);
        self.spots.iter().flat_map(|spot| [wake(spot), spot.check]).flatten().min()
    }
    pub fn clock_set_back(&mut self, by: Millis) {
        for spot in &mut self.spots {
            spot.wake = spot.wake.map(|at| at.set_back(by));
            spot.check = spot.check.map(|at| at.set_back(by));
            spot.votes.iter_mut().for_each(|vote| vote.at = vote.at.set_back(by));
            spot.former.iter_mut().for_each(|(_, _, until)| *until = until.set_back(by));
        }
        self.stands_since = self.stands_since.map(|at| at.set_back(by));
    }
}

fn learn(ctx: &mut Ctx, servers: &[Server]) {
    for server in servers.iter().take(crate::shard::HOLDERS) {
        ctx.learn(server.peer, server.addrs.clone());
    }
}

impl Spot {
    fn new(index: Index, depth: u8, alternate: u8) -> Self {
        Spot {
            index,
            depth,
            alternate,
            entries: Vec::new(),
            acked: 0,
            tries: 0,
            moves: 0,
            votes: Vec::new(),
            between: (0, MAX_DEPTH),
            wake: None,
            check: None,
            pause: CHECK_AFTER,
            avoided: Vec::new(),
            former: Vec::new(),
        }
    }
    fn shard(&self, me: PeerId) -> Shard {
        Shard { alternate: self.alternate, ..Shard::of(self.index.clone(), self.depth, me) }
    }
}
