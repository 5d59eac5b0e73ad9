//! The board's traffic: judging what gossip brings, reading the boards of neighbours on joining, posting our own
//! advert. One shard for now; a sharded board gives each of its shards one of these.
use super::{Ctx, Effect, EventKind, RpcFailure, Severity, Verdict};
use crate::advert::{ADVERT_TTL, Advert, MAX_SKEW, Terms, Withdrawal};
use crate::board::{Board, BoardRefusal, PAGE, Page, Posting};
use crate::codec::{self, MAX_ADVERT};
use crate::envelope::Sealed;
use crate::identity::PeerId;
use crate::message::{Request, Response};
use crate::refusal::Refusal;
use crate::units::{Millis, Timestamp};
use std::collections::BTreeMap;

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
}

pub struct Postings {
    reads: BTreeMap<u64, Read>,
    whole_started: usize,
    synced: bool,
    last_seq: u64,
    started: Timestamp,
    posted: Option<Posted>,
    /// Post again then, although nothing has changed.
    again_at: Option<Timestamp>,
    /// A node that carries our identity was seen: two of us must not sell the same machine.
    cloned: bool,
    clocks: Vec<(PeerId, i64)>,
    clock_warned: bool,
}

struct Posted {
    at: Timestamp,
    terms: Terms,
}

impl Postings {
    pub fn new(now: Timestamp) -> Self {
        Postings {
            reads: BTreeMap::new(),
            whole_started: 0,
            synced: false,
            last_seq: 0,
            started: now,
            posted: None,
            again_at: None,
            cloned: false,
            clocks: Vec::new(),
            clock_warned: false,
        }
    }

    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn peer_connected(&mut self, ctx: &mut Ctx, peer: PeerId) {
        if self.posted.is_some() {
            let soon = ctx.now + AFTER_CONNECT;
            self.again_at = Some(self.again_at.map_or(soon, |at| at.min(soon)));
        }
        let own = self.whole_started >= WHOLE_BOARDS;
        if !own {
            self.whole_started += 1;
        }
        self.read(ctx, Read { peer, own, pages: 0 }, None);
    }

    pub fn peer_disconnected(&mut self, peer: PeerId) {
        self.reads.retain(|_, read| read.peer != peer);
    }

    fn read(&mut self, ctx: &mut Ctx, read: Read, after: Option<PeerId>) {
        if self.reads.len() >= MAX_READS {
            return;
        }
        let rpc = ctx.send(read.peer, Request::Board { after, limit: PAGE as u16, own: read.own });
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
        Page { items: item.into_iter().collect(), next: None }
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
        let Ok(Response::Board(page)) = result else {
            // A neighbour that does not answer is no board; the next one that connects is asked instead.
            self.whole_started = self.whole_started.saturating_sub(usize::from(!read.own));
            return true;
        };
        for item in page.items.iter().take(PAGE) {
            if let Err(refusal) = board.advertise(ctx.now, item.advert.clone(), item.life.min(ADVERT_TTL)) {
                self.refused(ctx, read.peer, &refusal);
            }
        }
        match page.next {
            Some(after) if !read.own && read.pages < MAX_PAGES => {
                self.read(ctx, Read { pages: read.pages + 1, ..read }, Some(after));
            }
            _ => self.synced |= !read.own,
        }
        true
    }

    pub fn gossip(&mut self, ctx: &mut Ctx, board: &mut Board, id: u64, from: PeerId, body: &[u8]) {
        let verdict = match codec::decode::<Posting>(body, MAX_ADVERT + 512) {
            Err(error) => {
                ctx.offence(from, "an advert", &Refusal::Malformed(error.to_string()));
                Verdict::Reject
            }
            Ok(posting) => match self.post(ctx, board, posting) {
                Ok(()) => Verdict::Accept,
                Err(refusal) => {
                    self.refused(ctx, from, &refusal);
                    if refusal.is_hostile() { Verdict::Reject } else { Verdict::Ignore }
                }
            },
        };
        ctx.effect(Effect::Judge { id, verdict });
    }

    /// A posting handed over directly.
    pub fn take(&mut self, ctx: &mut Ctx, board: &mut Board, from: PeerId, posting: Posting) -> Result<(), Refusal> {
        self.post(ctx, board, posting).map_err(|refusal| {
            self.refused(ctx, from, &refusal);
            refusal.into()
        })
    }

    fn post(&mut self, ctx: &mut Ctx, board: &mut Board, posting: Posting) -> Result<(), BoardRefusal> {
        let own = self.own_seq(ctx.me(), &posting);
        let provider = board.post(ctx.now, posting)?;
        if let Some((seq, issued)) = own.filter(|_| provider == ctx.me()) {
            self.met_own(ctx, seq, issued);
        }
        Ok(())
    }

    /// The sequence number and time of a posting that claims to be ours; believed only once the board has taken it.
    fn own_seq(&self, me: PeerId, posting: &Posting) -> Option<(u64, Timestamp)> {
        let Posting::Advert(signed) = posting else { return None };
        if signed.signer != me {
            return None;
        }
        codec::decode::<Advert>(&signed.body, MAX_ADVERT).ok().map(|advert| (advert.seq, advert.issued))
    }

    /// An advert of ours that this run did not make: an earlier run's is overtaken, a later one's is a cloned home's.
    fn met_own(&mut self, ctx: &mut Ctx, seq: u64, issued: Timestamp) {
        let made_here = self.posted.is_some() && seq <= self.last_seq;
        if made_here {
            return;
        }
        self.last_seq = self.last_seq.max(seq);
        if issued > self.started + MAX_SKEW && !self.cloned {
            self.cloned = true;
            let message = "another node runs with this identity: it offers nothing any more".to_owned();
            ctx.event(EventKind::Security, Severity::Critical, message, Some(ctx.me().to_string()));
        }
    }

    fn refused(&self, ctx: &mut Ctx, from: PeerId, refusal: &BoardRefusal) {
        if refusal.is_hostile() {
            ctx.offence(from, "an advert", &refusal.clone().into());
        }
    }

    /// Compares our clock with our peers': everything signed depends on it.
    pub fn note_clock(&mut self, ctx: &mut Ctx, from: PeerId, sent: Timestamp) {
        let offset = sent.0 as i64 - ctx.now.0 as i64;
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
        self.last_seq = now.0.max(self.last_seq + 1);
        self.last_seq
    }

    /// Posts, refreshes or withdraws our advert.
    pub fn advance(&mut self, ctx: &mut Ctx, board: &mut Board, offered: Option<Terms>) {
        match offered.filter(|_| !self.cloned) {
            Some(terms) if self.is_due(ctx.now, &terms) => {
                let seq = self.next_seq(ctx.now);
                let (network, provider) = (ctx.network.clone(), ctx.me());
                let advert = Advert { network, provider, seq, issued: ctx.now, terms: terms.clone() };
                let sealed = Sealed::seal(advert, ctx.key);
                self.publish(ctx, board, Posting::Advert(sealed.signed().clone()));
                self.posted = Some(Posted { at: ctx.now, terms });
                self.again_at = None;
            }
            None if self.posted.is_some() => {
                let seq = self.next_seq(ctx.now);
                let withdrawal = Withdrawal { network: ctx.network.clone(), provider: ctx.me(), seq, issued: ctx.now };
                let sealed = Sealed::seal(withdrawal, ctx.key);
                self.publish(ctx, board, Posting::Withdrawal(sealed.signed().clone()));
                self.posted = None;
            }
            _ => {}
        }
    }

    fn is_due(&self, now: Timestamp, terms: &Terms) -> bool {
        let Some(posted) = &self.posted else { return true };
        let spaced = posted.at + CHANGE_SPACING <= now;
        let wanted_again = self.again_at.is_some_and(|at| at <= now);
        posted.at + REFRESH <= now || spaced && (posted.terms != *terms || wanted_again)
    }

    fn publish(&mut self, ctx: &mut Ctx, board: &mut Board, posting: Posting) {
        let body = codec::encode(&posting);
        if let Err(refusal) = board.post(ctx.now, posting) {
            ctx.event(EventKind::System, Severity::Warning, format!("our own advert is refused: {refusal}"), None);
        }
        ctx.effect(Effect::Publish(body));
    }

    pub fn next_deadline(&self, board: &Board, offered: Option<&Terms>) -> Option<Timestamp> {
        let post = self.posted.as_ref().zip(offered).filter(|_| !self.cloned).map(|(posted, terms)| {
            let spaced = posted.at + CHANGE_SPACING;
            let changed = (posted.terms != *terms).then_some(spaced);
            let again = self.again_at.map(|at| at.max(spaced));
            changed.into_iter().chain(again).fold(posted.at + REFRESH, Timestamp::min)
        });
        // Expired adverts are filtered out of every answer; sweeping them is only for memory.
        post.into_iter().chain(board.next_expiry()).min()
    }
}
