//! The node's mind. It owns the board, the ledger and the negotiations, and is driven by three methods: `handle`,
//! `drain_effects`, `next_deadline`. The node performs the effects in their order on a real host; the simulation
//! performs the very same ones under a virtual clock with loss and crashes.
//!
//! **A `Persist` is performed before anything behind it**: what depends on it is never sent before it is on disk.
mod event;
mod io;
mod offences;
pub mod posting;
pub mod provider;
pub mod receipts;
pub mod requestor;
pub mod revoked;
pub mod shards;
mod stored;
mod stored_check;
#[cfg(test)]
mod tests;

use crate::advert::Advert;
use crate::board::{Board, BoardRefusal, Page};
use crate::envelope::{Sealed, Signed};
use crate::error::Fault;
use crate::identity::{Keypair, PeerId};
use crate::message::{Frame, FrameError, Request, Response, VERSION};
use crate::names::{LeaseId, Network, PeerAddr};
use crate::opener::{Direct, Opener};
use crate::refusal::Refusal;
use crate::shard::{LEAF, Site};
use crate::spec::Query;
use crate::units::{Millis, Timestamp};
pub use event::{Event, EventKind, Severity};
pub use io::{Effect, Input, JobOrder, RpcFailure, Scaling, Verdict, VmOrder, Work};
use offences::Offences;
use posting::{Posted, Postings};
use provider::Provider;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use requestor::Requestor;
use revoked::{Heir, Revoked};
use shards::Shards;
use std::collections::VecDeque;
use std::sync::Arc;
pub use stored::{StoreOp, Table};
pub use stored_check::{RowProblem, check_rows};

/// What every part of the core works with.
pub struct Ctx<'a> {
    pub now: Timestamp,
    pub key: &'a Keypair,
    pub network: &'a Network,
    pub rng: &'a mut ChaCha8Rng,
    /// Since when the neighbours' boards have been read: what is not on ours now will hardly come any more.
    pub settled: Option<Timestamp>,
    /// The board here may lack what the mesh has.
    pub may_lack: bool,
    /// The sharded board is being searched for somebody.
    pub searching: bool,
    pub opener: &'a dyn Opener,
    pub revoked: &'a mut Revoked,
    /// Adverts above which a leaf of the sharded board splits.
    pub leaf: usize,
    next_rpc: &'a mut u64,
    offences: &'a mut Offences,
    effects: &'a mut VecDeque<Effect>,
}

impl Ctx<'_> {
    pub fn me(&self) -> PeerId {
        self.key.peer_id()
    }
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }
    pub fn persist(&mut self, ops: Vec<StoreOp>) {
        if !ops.is_empty() {
            self.effect(Effect::Persist(ops));
        }
    }
    pub fn reply(&mut self, token: u64, response: Response) {
        let body = Frame::encode(self.now, response);
        self.effect(Effect::Reply { token, body });
    }
    pub fn learn(&mut self, peer: PeerId, addrs: Vec<PeerAddr>) {
        if !addrs.is_empty() {
            self.effect(Effect::Learn { peer, addrs });
        }
    }
    pub fn send(&mut self, to: PeerId, request: Request) -> u64 {
        *self.next_rpc += 1;
        let rpc = *self.next_rpc;
        let body = Frame::encode(self.now, request);
        self.effect(Effect::Send { rpc, to, body });
        rpc
    }
    pub fn event(&mut self, kind: EventKind, severity: Severity, message: String, subject: Option<String>) {
        self.effect(Effect::Event(Event { kind, severity, message, subject, code: None }));
    }
    /// An advert whose signature fits, of a key that still stands.
    pub fn open_advert(&self, signed: &Signed) -> Result<Arc<Sealed<Advert>>, BoardRefusal> {
        if self.revoked.contains(signed.signer) {
            return Err(BoardRefusal::Revoked);
        }
        Ok(self.opener.advert(signed, self.network)?)
    }
    pub fn random_16(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
    /// Up to a tenth more, so that many nodes do not do the same thing at the same moment.
    pub fn jitter(&mut self, time: Millis) -> Millis {
        Millis(time.0 + self.rng.next_u64() % (time.0 / 10).max(1))
    }
}

/// Since when an empty answer of our board is the answer.
fn settled(postings: &Postings, shards: &Shards) -> Option<Timestamp> {
    let read = postings.settled_since().filter(|_| !shards.is_searching())?;
    Some(shards.last_search().map_or(read, |searched| searched.max(read)))
}

/// Where the board here may not be all there is, the shards are searched before anybody chooses.
fn seek(ctx: &mut Ctx, shards: &mut Shards, board: &Board, query: &Query, wanted: usize, since: Timestamp) {
    let lacks = shards.may_lack(ctx.now) || board.query(ctx.now, query).next().is_none();
    ctx.searching |= lacks && shards.search(ctx, query, wanted, since);
}

pub struct NodeCore {
    key: Keypair,
    network: Network,
    rng: ChaCha8Rng,
    next_rpc: u64,
    offences: Offences,
    effects: VecDeque<Effect>,
    board: Board,
    postings: Postings,
    shards: Shards,
    opener: Arc<dyn Opener>,
    revoked: Revoked,
    provider: Provider,
    requestor: Requestor,
    /// When the last input came, by the clock as it was then.
    last: Timestamp,
}

/// Candidates that a create looks for: three are asked for quotes, and each may be full by now.
const WANTED: usize = 8;
/// A clock that is set back by less than this is let be: everything is late by as much, once.
const CLOCK_STEP: Millis = Millis::secs(1);

/// Lends the parts of `self` that a component needs as its context, beside the component itself.
macro_rules! ctx {
    ($core:ident, $now:expr) => {
        &mut Ctx {
            now: $now,
            key: &$core.key,
            network: &$core.network,
            rng: &mut $core.rng,
            settled: settled(&$core.postings, &$core.shards),
            may_lack: $core.shards.may_lack($now),
            searching: $core.shards.is_searching(),
            opener: &*$core.opener,
            revoked: &mut $core.revoked,
            leaf: $core.shards.leaf(),
            next_rpc: &mut $core.next_rpc,
            offences: &mut $core.offences,
            effects: &mut $core.effects,
        }
    };
}

impl NodeCore {
    /// `seed` is all the randomness that it will ever have; `stored` is what the tables held when the last run ended.
    pub fn new(
        now: Timestamp,
        key: Keypair,
        network: Network,
        seed: [u8; 32],
        stored: Vec<StoreOp>,
    ) -> Result<Self, Fault> {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let boot_id = rng.next_u64();
        let mut core = NodeCore {
            board: Board::new(network.clone()),
            postings: Postings::new(now),
            shards: Shards::new(LEAF),
            opener: Arc::new(Direct),
            revoked: Revoked::default(),
            provider: Provider::new(boot_id),
            requestor: Requestor::default(),
            next_rpc: 0,
            offences: Offences::default(),
            effects: VecDeque::new(),
            last: now,
            key,
            network,
            rng,
        };
        for op in stored {
            let StoreOp { table, value: Some(value), .. } = op else { continue };
            match table {
                Table::Leases => core.provider.restore(&value)?,
                Table::Rentals => core.requestor.restore_rental(&value)?,
                Table::Releases => core.requestor.restore_release(&value)?,
                Table::History => core.requestor.restore_history(&value)?,
                Table::Revoked => core.revoked.restore(&value, &core.network)?,
                Table::Quotas => core.provider.restore_quota(&value)?,
                Table::Jobs => core.provider.restore_job(&value)?,
                Table::Meters => core.provider.restore_meter(&value)?,
                Table::Receipts => core.restore_receipt(&value)?,
                Table::Credits => core.provider.restore_credit(&value)?,
            }
        }
        if core.revoked.contains(core.key.peer_id()) {
            core.postings.revoked();
        }
        let ctx = ctx!(core, now);
        core.provider.resume(ctx);
        core.requestor.resume(ctx);
        Ok(core)
    }

    fn restore_receipt(&mut self, value: &[u8]) -> Result<(), Fault> {
        let row = receipts::decode(value)?;
        match row.receipt.signer == self.me() {
            true => self.provider.restore_receipt(row),
            false => self.requestor.restore_receipt(row),
        }
        Ok(())
    }

    /// Another leaf size, or somebody else who checks signatures: for simulations. Before the first input.
    pub fn tuned(mut self, leaf: usize, opener: Arc<dyn Opener>) -> Self {
        (self.shards, self.opener) = (Shards::new(leaf), opener);
        self
    }

    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.keep_time(now);
        let ctx = ctx!(self, now);
        match input {
            Input::PeerConnected(peer) => {
                self.postings.peer_connected(ctx, peer);
                self.requestor.peer_connected(ctx, peer);
            }
            Input::PeerDisconnected(peer) => {
                self.postings.peer_disconnected(peer);
                self.requestor.peer_disconnected(ctx, peer);
            }
            Input::Gossip { id, from, body } => {
                let forwards = !self.shards.is_sharded(now);
                self.postings.gossip(ctx, &mut self.board, id, from, &body, forwards);
            }
            Input::Request { token, from, site, body } => self.request(now, token, from, site, &body),
            Input::Response { rpc, result } => self.response(now, rpc, result),
            Input::Vicinity { own, servers } => self.shards.vicinity(ctx, own, servers),
            Input::Holders { ticket, servers } => self.shards.holders_found(ctx, ticket, servers),
            Input::Search { query, wanted } => {
                seek(ctx, &mut self.shards, &self.board, &query, wanted, Timestamp(0));
            }
            Input::Addresses(addrs) => self.postings.reached_at(addrs),
            Input::Offer(offering) => self.provider.set_offering(ctx, offering),
            Input::Job { job, report } => self.provider.job_report(ctx, job, report),
            Input::Inventory(found) => self.provider.reconcile(ctx, &found),
            Input::CancelJob(job) => self.provider.cancel_job(ctx, job),
            Input::Create { ticket, request } => {
                seek(ctx, &mut self.shards, &self.board, &request.query, WANTED, Timestamp(0));
                self.requestor.create(ctx, &self.board, ticket, *request);
            }
            Input::Destroy { ticket, create_id } => self.requestor.destroy(ctx, ticket, create_id),
            Input::Power { ticket, create_id, action } => self.requestor.power(ctx, ticket, create_id, action),
            Input::Rename { ticket, create_id, name, identity_file } => {
                let result = self.requestor.rename(ctx, create_id, name, identity_file);
                ctx.effect(Effect::Answer { ticket, result });
            }
            Input::Renew { ticket, create_id, duration, most } => {
                self.requestor.renew(ctx, ticket, create_id, duration, most);
            }
            Input::Refresh(create_id) => self.requestor.refresh(ctx, create_id),
            Input::Revoke(signed) => self.postings.say_revoked(ctx, &self.board, *signed),
            Input::GrantCredit { peer, currency, sum } => self.provider.grant_credit(ctx, peer, &currency, sum),
            Input::SetQuota { peer, tier } => self.provider.set_quota(ctx, peer, tier),
            Input::ClockSet { by } => self.provider.clock_set(ctx, by),
            Input::Drain => self.provider.drain(),
            Input::Undrain => self.provider.undrain(),
            Input::Stop => self.provider.stop(ctx),
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// A host clock that is set back must not make a hold, a retry or an advert wait for the time to come again.
    fn keep_time(&mut self, now: Timestamp) {
        if now + CLOCK_STEP < self.last {
            let by = self.last - now;
            self.board.clock_set_back(by);
            self.provider.clock_set_back(by);
            self.requestor.clock_set_back(by);
            self.postings.clock_set_back(by);
            self.shards.clock_set_back(by);
            self.offences.clock_set_back(by);
            self.revoked.clock_set_back(by);
        }
        self.last = now;
    }

    /// What time alone brings about, and what follows from anything that has just happened.
    fn advance(&mut self, now: Timestamp) {
        let ctx = ctx!(self, now);
        self.provider.advance(ctx);
        self.take_down(now);
        let ctx = ctx!(self, now);
        self.shards.board_shrank(self.board.taken_off());
        for (query, out, since) in self.requestor.discovering() {
            seek(ctx, &mut self.shards, &self.board, query, WANTED + out, since);
        }
        self.requestor.advance(ctx, &self.board);
        let terms = self.provider.advertisable();
        self.board.expire(now);
        match self.postings.advance(ctx, &mut self.board, terms, self.shards.gossips()) {
            Some(Posted::Advert(advert)) => self.shards.post(ctx, advert),
            Some(Posted::Withdrawal(posting)) => self.shards.withdraw(ctx, &posting),
            None => {}
        }
        self.shards.neighbours_say(self.postings.told_total());
        self.shards.advance(ctx, &mut self.board);
    }

    /// Takes off every board here what keys said that were revoked just now.
    fn take_down(&mut self, now: Timestamp) {
        for peer in self.revoked.take_fresh() {
            let stood = self.board.revoke(now, peer) | self.shards.revoke(now, peer);
            let own = peer == self.me();
            if stood || own || self.revoked.tells_more(peer) || self.requestor.has_dealt_with(peer) {
                self.revoked.is_known(peer);
                let (severity, what) = match own {
                    true => (Severity::Critical, "this node's own key has been revoked: it offers nothing any more"),
                    false => (Severity::Warning, "a provider's key has been revoked: nothing of it is taken any more"),
                };
                let message = match self.revoked.heir_of(peer) {
                    Heir::Nobody => what.to_owned(),
                    Heir::One(heir) => format!("{what}; {heir} goes on for it"),
                    Heir::Disputed => format!("{what}; two successors are named, and neither is believed"),
                };
                ctx!(self, now).event(EventKind::Security, severity, message, Some(peer.to_string()));
            }
            if own {
                self.postings.revoked();
            }
        }
        let ops = self.revoked.take_ops();
        ctx!(self, now).persist(ops);
    }

    fn request(&mut self, now: Timestamp, token: u64, from: PeerId, site: Option<Site>, body: &[u8]) {
        let ctx = ctx!(self, now);
        let request = match Frame::<Request>::decode(body) {
            Ok(frame) => {
                self.postings.note_clock(ctx, from, frame.sent);
                frame.body
            }
            Err(FrameError::UnknownVersion(_)) => {
                return ctx.reply(token, Response::Refused(Refusal::UnknownVersion { supported: VERSION }));
            }
            Err(FrameError::Undecodable(error)) => {
                let refusal = Refusal::Malformed(error.to_string());
                ctx.offence(from, "a message", &refusal);
                return ctx.reply(token, Response::Refused(refusal));
            }
        };
        match request {
            Request::Board { after, limit, own } => {
                // Who asks for everything has just come. What is asked of every neighbour must stay small.
                let tells = !own && after.is_none();
                let revoked = if tells { ctx.revoked.latest() } else { Vec::new() };
                // In a large mesh the board here is only what was found lately.
                let own = own || self.shards.is_sharded(now);
                let total = self.shards.total(now);
                let depths = if tells { self.shards.depths_to_tell(now, ctx.me()) } else { Vec::new() };
                let page = self.postings.page(ctx, &self.board, after, usize::from(limit), own);
                let page = Page { total, revoked, depths, ..page };
                ctx.reply(token, Response::Board(page));
            }
            Request::Shard(request) => self.shards.request(ctx, token, from, site.and_then(Site::block), request),
            Request::Post(posting) => {
                let response = match self.postings.take(ctx, &mut self.board, from, posting) {
                    Ok(()) => Response::Posted,
                    Err(refusal) => Response::Refused(refusal),
                };
                ctx.reply(token, response);
            }
            Request::Away => {
                self.requestor.provider_stops(ctx, from);
                ctx.reply(token, Response::Posted);
            }
            other => self.provider.request(ctx, token, from, site, other),
        }
    }

    fn response(&mut self, now: Timestamp, rpc: u64, result: Result<Vec<u8>, RpcFailure>) {
        let ctx = ctx!(self, now);
        let result = result.and_then(|body| match Frame::<Response>::decode(&body) {
            Ok(frame) => Ok(frame.body),
            Err(FrameError::UnknownVersion(_)) => Ok(Response::Refused(Refusal::UnknownVersion { supported: VERSION })),
            Err(FrameError::Undecodable(error)) => Err(RpcFailure::Unreachable(format!("its answer is {error}"))),
        });
        let taken = self.shards.response(ctx, &mut self.board, rpc, &result)
            || self.postings.response(ctx, &mut self.board, rpc, &result);
        if let Some((from, depths)) = self.postings.take_depths() {
            self.shards.depths_told(from, &depths);
        }
        if !taken {
            self.requestor.response(ctx, &self.board, rpc, result);
        }
    }

    pub fn drain_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// When `Tick` is due at the latest, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let parts = [
            self.provider.next_deadline(self.last),
            self.requestor.next_deadline(),
            self.shards.next_deadline(),
            self.postings.next_deadline(&self.board, self.provider.advertisable().as_ref()),
        ];
        parts.into_iter().flatten().min()
    }

    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }
    pub fn neighbours(&self) -> usize {
        self.postings.neighbours()
    }
    pub fn board(&self) -> &Board {
        &self.board
    }
    pub fn shards(&self) -> &Shards {
        &self.shards
    }
    pub fn provider(&self) -> &Provider {
        &self.provider
    }
    pub fn requestor(&self) -> &Requestor {
        &self.requestor
    }
    pub fn network(&self) -> &Network {
        &self.network
    }
    pub fn me(&self) -> PeerId {
        self.key.peer_id()
    }
    /// Whether the shards are being searched for somebody; a search ends by itself within seconds.
    pub fn is_searching(&self) -> bool {
        self.shards.is_searching()
    }
    /// Whether the board of at least one neighbour has been read to its end.
    pub fn is_synced(&self) -> bool {
        self.postings.is_synced()
    }

    /// Whether this peer may read what this guest says on its console.
    pub fn authorise_log(&mut self, now: Timestamp, from: PeerId, lease_id: LeaseId) -> Result<(), Refusal> {
        let ctx = ctx!(self, now);
        self.provider.authorise_log(ctx, from, lease_id)
    }
    /// Whether this peer may open a stream to this guest; who may not is remembered.
    pub fn authorise_tunnel(&mut self, now: Timestamp, from: PeerId, lease_id: LeaseId) -> Result<(), Refusal> {
        let ctx = ctx!(self, now);
        self.provider.authorise_tunnel(ctx, from, lease_id)
    }
}
