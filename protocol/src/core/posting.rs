//! The board's traffic: judging what gossip brings, reading the boards of neighbours on joining, posting our own
//! advert. Once the mesh is too large for that, what is posted goes to the holders of its shards instead (`shards`).
use super::revoked::MAX_TOLD;
use super::shards::MAX_DEPTHS_TOLD;
use super::{Ctx, Effect, EventKind, RpcFailure, Severity, Verdict};
use crate::advert::{ADVERT_TTL, Advert, MAX_ADDRS, MAX_SKEW, Terms, Withdrawal};
use crate::board::{Board, BoardRefusal, PAGE, Page, Posting};
use crate::codec::{self, MAX_ADVERT};
use crate::envelope::{Sealed, Signed};
use crate::identity::PeerId;
use crate::message::{Request, Response};
use crate::names::PeerAddr;
use crate::refusal::Refusal;
use crate::revocation::Revocation;
use crate::shard::Index;
use crate::units::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An advert is refreshed this often: two may be lost before it dies.
pub const REFRESH: Millis = Millis::secs(120);
/// A change (a VM more, an image less) is posted at once, but not more often than this.
const CHANGE_SPACING: Millis = Millis::secs(5);
/// A neighbour that has just come knows our topic after about one gossip heartbeat (1 s).
const AFTER_CONNECT: Millis = Millis(1500);
/// Boards read whole on joining. Further neighbours are asked for their own advert only.
const WHOLE_BOARDS: usize = 3;
/// Reads under way at once; each is one request.
const MAX_READS: usize = 32;
/// Tries at a page of the same neighbour: one answer may be lost.
const READ_TRIES: u32 = 2;
/// A neighbour that comes later has its whole board read at most this often: after a partition or a host's sleep the
/// two halves of the mesh learn of each other through it.
const WHOLE_AGAIN: Millis = Millis::secs(60);
/// Pages of one neighbour: what a full board takes, twice over.
const MAX_PAGES: u32 = 128;
/// Senders whose clocks are compared.
const CLOCKS: usize = 16;
/// Enough clocks that one liar cannot move the median.
const CLOCKS_NEEDED: usize = 3;

struct Read {
    peer: PeerId,
    own: bool,
    pages: u32,
    failures: u32,
    after: Option<PeerId>,
}

pub struct Postings {
    reads: BTreeMap<u64, Read>,
    /// Bounded by the mesh, which keeps so many connections and no more.
    neighbours: BTreeSet<PeerId>,
    /// Whole boards that were read to their end, and when one last was.
    whole_read: usize,
    whole_at: Timestamp,
    synced: bool,
    /// The most adverts that a neighbour has said are in the mesh: whoever says too many makes us search, no more.
    told_total: Option<u32>,
    /// What a neighbour has just said of the depths of trees.
    told_depths: Option<(PeerId, Vec<(Index, u8)>)>,
    /// When the last read of a whole board ended.
    last_read: Option<Timestamp>,
    last_seq: u64,
    addrs: Vec<PeerAddr>,
    started: Timestamp,
    posted: Option<Stands>,
    /// Our last posting of either kind.
    published: Option<Timestamp>,
    /// Post again then, although nothing has changed.
    again_at: Option<Timestamp>,
    /// A node that carries our identity was seen: two of us must not sell the same machine.
    cloned: bool,
    /// Our key was revoked.
    ended: bool,
    clocks: Vec<(PeerId, i64)>,
    clock_warned: bool,
}

/// What was just posted, for the sharded board.
pub enum Posted {
    Advert(Arc<Sealed<Advert>>),
    Withdrawal(Posting),
}

struct Stands {
    at: Timestamp,
    addrs: Vec<PeerAddr>,
    terms: Terms,
}

impl Postings {
    pub fn new(now: Timestamp) -> Self {
        Postings {
            reads: BTreeMap::new(),
            neighbours: BTreeSet::new(),
            whole_read: 0,
            whole_at: now,
            synced: false,
            told_total: None,
            told_depths: None,
            last_read: None,
            last_seq: 0,
            addrs: Vec::new(),
            started: now,
            posted: None,
            published: None,
            again_at: None,
            cloned: false,
            ended: false,
            clocks: Vec::new(),
            clock_warned: false,
        }
    }

    /// The advert says so from now on.
    pub fn reached_at(&mut self, mut addrs: Vec<PeerAddr>) {
        addrs.truncate(MAX_ADDRS);
        self.addrs = addrs;
    }

    /// Our own key was revoked: nothing is offered under it any more.
    pub fn revoked(&mut self) {
        self.ended = true;
    }
    /// Our own user has one to say: to all neighbours, and to those that come soon.
    pub fn say_revoked(&mut self, ctx: &mut Ctx, board: &Board, signed: Signed) {
        let taken = revoke(ctx, board, &signed, true);
        if !matches!(taken, Ok(_) | Err(BoardRefusal::Revoked)) {
            return;
        }
        ctx.revoked.is_known(signed.signer);
        for to in &self.neighbours {
            ctx.send(*to, Request::Post(Posting::Revocation(signed.clone())));
        }
        ctx.effect(Effect::Publish(codec::encode(&Posting::Revocation(signed.clone()))));
        ctx.revoked.posted_here(ctx.now, signed);
    }
    pub fn neighbours(&self) -> usize {
        self.neighbours.len()
    }

    pub fn take_depths(&mut self) -> Option<(PeerId, Vec<(Index, u8)>)> {
        self.told_depths.take()
    }
    pub fn told_total(&self) -> Option<u32> {
        self.told_total
    }
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Since when a board has been read, and none is being read: an empty answer now is the answer.
    pub fn settled_since(&self) -> Option<Timestamp> {
        self.last_read.filter(|_| self.synced && self.reads.values().all(|read| read.own))
    }

    /// Also told when a neighbour that is there already has joined the board's topic.
    pub fn peer_connected(&mut self, ctx: &mut Ctx, peer: PeerId) {
        if self.posted.is_some() {
            let soon = ctx.now + AFTER_CONNECT;
            self.again_at = Some(self.again_at.map_or(soon, |at| at.min(soon)));
        }
        if !self.neighbours.insert(peer) {
            return;
        }
        for signed in ctx.revoked.to_tell(ctx.now) {
            ctx.send(peer, Request::Post(Posting::Revocation(signed)));
        }
        let under_way = self.reads.values().filter(|read| !read.own).count();
        let early = self.whole_read + under_way < WHOLE_BOARDS;
        let own = !early && self.whole_at + WHOLE_AGAIN > ctx.now;
        if !own {
            self.whole_at = ctx.now;
        }
        self.read(ctx, Read { peer, own, pages: 0, failures: 0, after: None });
    }

    pub fn peer_disconnected(&mut self, peer: PeerId) {
        self.neighbours.remove(&peer);
        self.reads.retain(|_, read| read.peer != peer);
        if self.neighbours.is_empty() {
            // Alone: what the next neighbour knows is all new.
            self.whole_read = 0;
        }
    }

    fn read(&mut self, ctx: &mut Ctx, read: Read) {
        if self.reads.len() >= MAX_READS {
            return;
        }
        let request = Request::Board { after: read.after, limit: PAGE as u16, own: read.own };
        let rpc = ctx.send(read.peer, request);
        self.reads.insert(rpc, read);
    }

    pub fn page(&self, ctx: &Ctx, board: &Board, after: Option<PeerId>, limit: usize, own: bool) -> Page {
        if !own {
            return board.page(ctx.now, after, limit);
        }
        let item = board.get(ctx.now, ctx.me()).map(|entry| crate::board::PageItem {
            advert: entry.advert.signed().clone(),
            life: entry.expires - ctx.now,
        });
        Page { items: item.into_iter().collect(), ..Page::default() }
    }

    /// True if the answer was to one of our reads.
    pub fn response(
        &mut self,
        ctx: &mut Ctx,
        board: &mut Board,
        rpc: u64,
        result: &Result<Response, RpcFailure>,
    ) -> bool {
        let Some(read) = self.reads.remove(&rpc) else { return false };
        if !read.own {
            self.last_read = Some(ctx.now);
        }
        let Ok(Response::Board(page)) = result else {
            if read.failures + 1 < READ_TRIES {
                self.read(ctx, Read { failures: read.failures + 1, ..read });
            }
            return true;
        };
        self.told_total = page.total.max(self.told_total);
        if !read.own && read.after.is_none() {
            self.told_depths = Some((read.peer, page.depths.iter().take(MAX_DEPTHS_TOLD).cloned().collect()));
        }
        for item in page.items.iter().take(PAGE) {
            let own = self.own_seq(ctx.me(), &item.advert);
            match advertise(ctx, board, &item.advert, item.life.min(ADVERT_TTL)) {
                Ok(_) => self.met_own(ctx, own),
                Err(refusal) => self.refused(ctx, read.peer, &refusal),
            }
        }
        for signed in page.revoked.iter().take(MAX_TOLD) {
            if let Err(refusal) = revoke(ctx, board, signed, false) {
                self.refused(ctx, read.peer, &refusal);
            }
        }
        // Pages come in the order of ids: one that does not go on would go on for ever.
        let goes_on = page.next.filter(|next| read.after.is_none_or(|after| *next > after));
        match goes_on {
            Some(after) if !read.own && read.pages < MAX_PAGES => {
                self.read(ctx, Read { pages: read.pages + 1, failures: 0, after: Some(after), ..read });
            }
            _ if !read.own => {
                self.synced = true;
                self.whole_read += 1;
            }
            _ => {}
        }
        true
    }

    /// In a large mesh nothing goes further: whoever gossips does not know yet, and the shards' holders have it.
    pub fn gossip(&mut self, ctx: &mut Ctx, board: &mut Board, id: u64, from: PeerId, body: &[u8], forwards: bool) {
        let verdict = match codec::decode::<Posting>(body, MAX_ADVERT + 512) {
            Err(error) => {
                ctx.offence(from, "an advert", &Refusal::Malformed(error.to_string()));
                Verdict::Reject
            }
            Ok(posting) => match self.post(ctx, board, &posting) {
                Ok(()) if forwards || matches!(posting, Posting::Revocation(_)) => Verdict::Accept,
                Ok(()) => Verdict::Ignore,
                Err(refusal) => {
                    self.refused(ctx, from, &refusal);
                    if self.is_hostile(&refusal) { Verdict::Reject } else { Verdict::Ignore }
                }
            },
        };
        ctx.effect(Effect::Judge { id, verdict });
    }

    /// A posting handed over directly.
    pub fn take(&mut self, ctx: &mut Ctx, board: &mut Board, from: PeerId, posting: Posting) -> Result<(), Refusal> {
        if let Err(refusal) = self.post(ctx, board, &posting) {
            self.refused(ctx, from, &refusal);
            return Err(refusal.into());
        }
        if matches!(posting, Posting::Revocation(_)) {
            // Whoever hands one over may have nobody else to tell.
            ctx.effect(Effect::Publish(codec::encode(&posting)));
        }
        Ok(())
    }

    fn post(&mut self, ctx: &mut Ctx, board: &mut Board, posting: &Posting) -> Result<(), BoardRefusal> {
        let own = match posting {
            Posting::Advert(signed) => self.own_seq(ctx.me(), signed),
            Posting::Withdrawal(_) | Posting::Revocation(_) => None,
        };
        match posting {
            Posting::Advert(signed) => advertise(ctx, board, signed, ADVERT_TTL)?,
            Posting::Withdrawal(signed) => {
                let withdrawal = ctx.opener.withdrawal(signed, ctx.network)?;
                board.take_off(ctx.now, &withdrawal)?
            }
            Posting::Revocation(signed) => revoke(ctx, board, signed, false)?,
        };
        self.met_own(ctx, own);
        Ok(())
    }

    /// The sequence number and time of an advert that claims to be ours; believed only once the board has taken it.
    fn own_seq(&self, me: PeerId, signed: &Signed) -> Option<(u64, Timestamp)> {
        if signed.signer != me {
            return None;
        }
        codec::decode::<Advert>(&signed.body, MAX_ADVERT).ok().map(|advert| (advert.seq, advert.issued))
    }

    /// An advert of ours that this run did not make: an earlier run's is overtaken, a later one's is a cloned home's.
    fn met_own(&mut self, ctx: &mut Ctx, own: Option<(u64, Timestamp)>) {
        let Some((seq, issued)) = own else { return };
        let made_here = self.posted.is_some() && seq <= self.last_seq;
        if made_here {
            return;
        }
        self.last_seq = self.last_seq.max(seq);
        // It stands in the way of the one that we have posted; the next one overtakes it.
        self.again_at = Some(ctx.now);
        if issued > self.started + MAX_SKEW && !self.cloned {
            self.cloned = true;
            let message = "another node runs with this identity: it offers nothing any more".to_owned();
            ctx.event(EventKind::Security, Severity::Critical, message, Some(ctx.me().to_string()));
        }
    }

    /// With a clock that is wrong itself, everybody else's adverts seem to come from the future.
    fn is_hostile(&self, refusal: &BoardRefusal) -> bool {
        refusal.is_hostile() && !(self.clock_warned && *refusal == BoardRefusal::Future)
    }

    fn refused(&self, ctx: &mut Ctx, from: PeerId, refusal: &BoardRefusal) {
        if self.is_hostile(refusal) {
            ctx.offence(from, "an advert", &refusal.clone().into());
        }
    }

    /// Compares our clock with our peers': everything signed depends on it.
    pub fn note_clock(&mut self, ctx: &mut Ctx, from: PeerId, sent: Timestamp) {
        // A peer may say any number.
        let at = |time: Timestamp| i64::try_from(time.0).unwrap_or(i64::MAX);
        let offset = at(sent).saturating_sub(at(ctx.now));
        self.clocks.retain(|(peer, _)| *peer != from);
        if self.clocks.len() >= CLOCKS {
            self.clocks.remove(0);
        }
        self.clocks.push((from, offset));
        let mut offsets: Vec<i64> = self.clocks.iter().map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        let median = offsets[offsets.len() / 2];
        let off = offsets.len() >= CLOCKS_NEEDED && median.unsigned_abs() > MAX_SKEW.0;
        if off && !self.clock_warned {
            let message = format!("this clock is {} s off the median of its peers", median / 1000);
            ctx.event(EventKind::System, Severity::Warning, message, None);
        }
        self.clock_warned = off;
    }

    fn next_seq(&mut self, now: Timestamp) -> u64 {
        self.last_seq = now.0.max(self.last_seq.saturating_add(1));
        self.last_seq
    }

    /// Posts, refreshes or withdraws our advert; `gossips` says whether everybody is told, or the shards' holders only.
    pub fn advance(
        &mut self,
        ctx: &mut Ctx,
        board: &mut Board,
        offered: Option<Terms>,
        gossips: bool,
    ) -> Option<Posted> {
        match offered.filter(|_| self.may_offer()) {
            Some(terms) if self.is_due(ctx.now, &terms) => {
                let seq = self.next_seq(ctx.now);
                let (network, provider) = (ctx.network.clone(), ctx.me());
                let addrs = self.addrs.clone();
                let advert = Advert { network, provider, seq, issued: ctx.now, addrs, terms: terms.clone() };
                let sealed = Arc::new(Sealed::seal(advert, ctx.key));
                let taken = board.admit(ctx.now, sealed.clone(), ADVERT_TTL);
                self.publish(ctx, &Posting::Advert(sealed.signed().clone()), taken, gossips);
                self.posted = Some(Stands { at: ctx.now, addrs: self.addrs.clone(), terms });
                self.published = Some(ctx.now);
                self.again_at = None;
                Some(Posted::Advert(sealed))
            }
            None if self.posted.is_some() => {
                let seq = self.next_seq(ctx.now);
                let withdrawal = Withdrawal { network: ctx.network.clone(), provider: ctx.me(), seq, issued: ctx.now };
                let sealed = Sealed::seal(withdrawal, ctx.key);
                let posting = Posting::Withdrawal(sealed.signed().clone());
                // Wherever it was gossiped last, somebody may have it still.
                self.publish(ctx, &posting, board.take_off(ctx.now, &sealed), true);
                self.posted = None;
                self.published = Some(ctx.now);
                Some(Posted::Withdrawal(posting))
            }
            _ => None,
        }
    }

    fn may_offer(&self) -> bool {
        !self.cloned && !self.ended
    }
    fn is_due(&self, now: Timestamp, terms: &Terms) -> bool {
        self.due_at(terms).is_none_or(|at| at <= now)
    }

    /// When our advert is to be posted; none when it should be there already. A node that is full, empty, full again
    /// withdraws at once, and offers again after a pause: its tenants must not make it flood the mesh.
    fn due_at(&self, terms: &Terms) -> Option<Timestamp> {
        let spaced = self.published? + CHANGE_SPACING;
        let Some(posted) = &self.posted else { return Some(spaced) };
        let changed = (posted.terms != *terms || posted.addrs != self.addrs).then_some(spaced);
        let again = self.again_at.map(|at| at.max(spaced));
        Some(changed.into_iter().chain(again).fold(posted.at + REFRESH, Timestamp::min))
    }

    fn publish(&mut self, ctx: &mut Ctx, posting: &Posting, taken: Result<PeerId, BoardRefusal>, gossips: bool) {
        if let Err(refusal) = taken
            && !self.ended
        {
            ctx.event(EventKind::System, Severity::Warning, format!("our own advert is refused: {refusal}"), None);
        }
        if gossips {
            ctx.effect(Effect::Publish(codec::encode(posting)));
        }
    }

    /// The clock was set back: what had so long to go has as long still.
    pub fn clock_set_back(&mut self, by: Millis) {
        for at in
            [&mut self.whole_at, &mut self.started].into_iter().chain(&mut self.published).chain(&mut self.last_read)
        {
            *at = at.set_back(by);
        }
        self.again_at = self.again_at.map(|at| at.set_back(by));
        if let Some(posted) = &mut self.posted {
            posted.at = posted.at.set_back(by);
        }
    }

    pub fn next_deadline(&self, board: &Board, offered: Option<&Terms>) -> Option<Timestamp> {
        let post = offered.filter(|_| self.may_offer()).and_then(|terms| self.due_at(terms));
        // Expired adverts are filtered out of every answer; sweeping them is only for memory.
        post.into_iter().chain(board.next_expiry()).min()
    }
}

/// As `Board::advertise`, with the signature checked by whoever does that here.
fn advertise(ctx: &Ctx, board: &mut Board, signed: &Signed, life: Millis) -> Result<PeerId, BoardRefusal> {
    board.is_news(signed)?;
    let advert = ctx.open_advert(signed)?;
    board.admit(ctx.now, advert, life)
}

/// The list of revoked keys takes it; what stands on boards is taken down afterwards.
fn revoke(ctx: &mut Ctx, board: &Board, signed: &Signed, ours: bool) -> Result<PeerId, BoardRefusal> {
    // Most that comes is known: no second signature check for that.
    if !ctx.revoked.is_news(signed.signer, Revocation::claimed_successor(signed)) {
        return Err(BoardRefusal::Revoked);
    }
    let revocation = signed.clone().open::<Revocation>(ctx.network)?;
    let peer = revocation.revoked;
    ctx.revoked.admit(ctx.now, &revocation, ours || board.knows(peer) || peer == ctx.me())?;
    Ok(peer)
}
