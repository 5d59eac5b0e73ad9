//! From a wish to an active lease.
use super::checks::{check_active, check_grant, check_quote, nobody, refused};
use super::smaller::HALVINGS;
use super::{CreateRequest, Deal, MAX_RELEASES, MAX_RENTALS, MAX_TRIES, Phase, Rental, Requestor, Work, put};
use crate::board::{Board, Entry};
use crate::core::{Ctx, Effect, RpcFailure};
use crate::envelope::Sealed;
use crate::error::{ErrorCode, Fault};
use crate::identity::PeerId;
use crate::lease::{ACCEPT_LIFE, Accept, Confirm, FIRST_CONFIRM, Quote};
use crate::message::{ConfirmReq, QuoteReq, Request, Response};
use crate::names::{CreateId, Digest, LeaseId};
use crate::ranking::{self, Full};
use crate::refusal::Refusal;
use crate::units::{Millis, Resources, Timestamp};
use rand_core::Rng;
use std::cmp::Reverse;

/// Providers asked at once.
pub const ASKED: usize = 3;
/// How long after the first quote the others are waited for: a provider slower than this is slow at everything.
const QUOTE_PATIENCE: Millis = Millis(500);
/// Without an answer by then, a provider is given up; just above the 5 s of one request.
const QUOTE_TIMEOUT: Millis = Millis::secs(6);
/// How long an empty board is given to fill: a node that has just started reads its neighbours' boards first.
const DISCOVER_PATIENCE: Millis = Millis::secs(5);
/// When they have been read and nothing fits, only an advert that is on its way right now is waited for.
const SETTLED_PATIENCE: Millis = Millis::secs(1);
/// How long a create waits for a search of the sharded board, which ends by itself before.
const SEARCH_PATIENCE: Millis = Millis::secs(11);
/// Times that a provider which was busy or did not answer is asked again.
const RETRIES: u32 = 3;

/// What a create does that has nobody to ask.
enum Instead {
    Wait(Timestamp),
    Fail(Fault),
}

impl Requestor {
    pub fn create(&mut self, ctx: &mut Ctx, board: &Board, ticket: u64, request: CreateRequest) {
        let result = self.admit(ctx, request);
        let created = result.as_ref().ok().copied();
        ctx.effect(Effect::Answer { ticket, result });
        if let Some(id) = created {
            ctx.effect(Effect::Rental(id));
            self.step(ctx, board, id);
        }
    }

    /// The same name and spec again is the same VM; other words under a name that is taken are refused.
    fn admit(&mut self, ctx: &mut Ctx, request: CreateRequest) -> Result<CreateId, Fault> {
        request.spec.check()?;
        if let Some(there) = self.by_name(&request.name) {
            let (id, name) = (there.create_id, there.name.clone());
            match there.phase {
                Phase::Failed => {
                    let op = self.forget(ctx, id);
                    ctx.persist(vec![op]);
                }
                Phase::Releasing => {
                    return Err(Fault::new(ErrorCode::VmExists, format!("the last '{name}' is still being destroyed"))
                        .hint("wait a moment, or use another name"));
                }
                _ if there.is_meant(&request.spec, request.allow_smaller) => {
                    let deadline = there.deadline.max(ctx.now + request.timeout);
                    self.unattended.remove(&id);
                    if let Some(rental) = self.rentals.get_mut(&id) {
                        rental.deadline = deadline;
                    }
                    return Ok(id);
                }
                _ => {
                    return Err(Fault::new(
                        ErrorCode::VmExists,
                        format!("there is a VM '{name}' already, of another kind"),
                    )
                    .hint(format!("'golemnode vm info {name}' shows it; use another name, or destroy it first")));
                }
            }
        }
        if self.rentals.contains_key(&request.create_id) {
            return Err(Fault::new(ErrorCode::VmExists, "this create id is taken by a VM of another name"));
        }
        if self.rentals.len() >= MAX_RENTALS {
            self.forget_oldest_failure(ctx);
        }
        if self.rentals.len() >= MAX_RENTALS {
            return Err(Fault::new(ErrorCode::Quota, format!("this node rents {MAX_RENTALS} VMs already")));
        }
        if self.releases.len() >= MAX_RELEASES {
            let message = format!("{MAX_RELEASES} releases have not got through to their providers yet");
            return Err(
                Fault::new(ErrorCode::Quota, message).hint("'golemnode vm list' shows which; they are tried on")
            );
        }
        let rental = Rental {
            create_id: request.create_id,
            name: request.name,
            spec: request.spec,
            query: request.query,
            provider: request.provider,
            seed_hash: Digest::of(&request.seed),
            seed: request.seed,
            identity_file: request.identity_file,
            created: ctx.now,
            deadline: ctx.now + request.timeout,
            phase: Phase::Discovering,
            deal: None,
            tried: Vec::new(),
            status: None,
            seen: ctx.now,
            unreachable_since: None,
            ran: false,
            fault: None,
            marks: Default::default(),
            halvings: if request.allow_smaller { HALVINGS } else { 0 },
            project: request.project,
        };
        let id = rental.create_id;
        self.rentals.insert(id, rental);
        self.work.insert(id, Work::default());
        Ok(id)
    }

    /// Failures are remembered for their user to read, but never in the way of a VM.
    fn forget_oldest_failure(&mut self, ctx: &mut Ctx) {
        let failed = self.rentals.values().filter(|rental| rental.phase == Phase::Failed);
        if let Some(id) = failed.min_by_key(|rental| rental.created).map(|rental| rental.create_id) {
            let op = self.forget(ctx, id);
            ctx.persist(vec![op]);
        }
    }

    /// Looks for providers, and asks the best few for quotes.
    pub(super) fn discover(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        let Some(rental) = self.rentals.get(&id) else { return };
        let work = self.work.entry(id).or_default();
        let searched_by = work.more_since.map_or(rental.created, |(since, _)| since) + SEARCH_PATIENCE;
        if ctx.searching && searched_by > ctx.now {
            work.wake = Some(searched_by);
            return;
        }
        (work.looked, work.widened) = (ctx.now, false);
        let candidates = match self.candidates(ctx, board, id) {
            Ok(candidates) => candidates,
            Err(Instead::Wait(until)) => {
                self.work.entry(id).or_default().wake = Some(until);
                return;
            }
            Err(Instead::Fail(_)) if self.ask_for_less(ctx, id) => return ctx.effect(Effect::Rental(id)),
            Err(Instead::Fail(fault)) => return self.fail(ctx, id, fault),
        };
        self.ask_for_quotes(ctx, id, candidates);
        if let Some(rental) = self.rentals.get_mut(&id) {
            rental.phase = Phase::Quoting;
            mark(&mut rental.marks.discovered, ctx.now);
        }
        ctx.effect(Effect::Rental(id));
    }

    /// The best few of them.
    fn ask_for_quotes(&mut self, ctx: &mut Ctx, id: CreateId, candidates: Vec<&Entry>) {
        let Some(rental) = self.rentals.get(&id) else { return };
        let dearest = candidates.iter().map(|entry| entry.advert.terms.price.per_hour).max().unwrap_or_default();
        let scored = candidates
            .into_iter()
            .map(|entry| {
                let (terms, peer) = (&entry.advert.terms, entry.advert.provider);
                let experience = self.experience(peer, &ctx.revoked.predecessors(peer));
                let score = ranking::score(terms, rental.query.want, dearest, experience);
                (score, (peer, entry.advert.addrs.clone()))
            })
            .collect();
        let chosen: Vec<_> = ranking::order(scored, ctx.rng).into_iter().take(ASKED).collect();
        let spec = rental.spec.clone();
        let work = self.work.entry(id).or_default();
        work.retry_at = None;
        work.wake = Some(ctx.now + QUOTE_TIMEOUT);
        for (peer, addrs) in chosen {
            ctx.learn(peer, addrs);
            let rpc = ctx.send(peer, Request::Quote(QuoteReq { create_id: id, spec: spec.clone() }));
            work.asked.insert(rpc, (peer, ctx.now));
        }
    }

    /// All that were asked may sell to others first. True if there is somebody else to ask; once for each choice.
    fn asks_others(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, quotes: &[Sealed<Quote>]) -> bool {
        let Some(work) = self.work.get_mut(&id) else { return false };
        if std::mem::replace(&mut work.widened, true) || !quotes.iter().all(|quote| quote.contested) {
            return false;
        }
        let Some(rental) = self.rentals.get(&id) else { return false };
        let work = &self.work[&id];
        let is_new =
            |peer: PeerId| !work.shaky.contains_key(&peer) && quotes.iter().all(|quote| quote.provider != peer);
        let others: Vec<&Entry> = fitting(ctx, board, rental).filter(|entry| is_new(entry.advert.provider)).collect();
        let some = !others.is_empty();
        if some {
            self.ask_for_quotes(ctx, id, others);
        }
        some
    }

    /// Whom to ask: who is new first, then who said lately that it is full, and at last who did not answer, after a pause.
    fn candidates<'a>(&mut self, ctx: &mut Ctx, board: &'a Board, id: CreateId) -> Result<Vec<&'a Entry>, Instead> {
        let Some(rental) = self.rentals.get(&id) else { return Err(Instead::Wait(ctx.now)) };
        let (wanted, named) = (rental.spec.resources, rental.provider.is_some());
        let experience = &self.experience;
        let is_full = |entry: &&Entry| {
            let full = experience.get(&entry.advert.provider).and_then(|(_, experience)| experience.full);
            full.is_some_and(|full| full.seq == entry.advert.seq && !wanted.fits_in(full.free)) && !named
        };
        let work = self.work.entry(id).or_default();
        let (shaky, rest): (Vec<&Entry>, Vec<&Entry>) =
            fitting(ctx, board, rental).partition(|entry| work.shaky.contains_key(&entry.advert.provider));
        let (full, fresh): (Vec<&Entry>, Vec<&Entry>) = rest.into_iter().partition(is_full);
        let tries_left = rental.tried.len() < MAX_TRIES;
        if !fresh.is_empty() && rental.tried.len() + work.shaky.len() < MAX_TRIES {
            return Ok(fresh);
        }
        let out = rental.tried.len() + work.shaky.len() + full.len();
        if shaky.is_empty() || !tries_left {
            let settled = ctx.settled.map(|since| since.max(rental.created) + SETTLED_PATIENCE);
            let until = settled.into_iter().fold(rental.created + DISCOVER_PATIENCE, Timestamp::min);
            if out == 0 && until > ctx.now {
                return Err(Instead::Wait(until));
            }
            let found_more = work.more_since.is_none_or(|(_, before)| before < out);
            if ctx.may_lack && out > 0 && found_more && tries_left && !named {
                // There may be others still that were not found.
                work.more_since = Some((ctx.now, out));
                return Err(Instead::Wait(ctx.now + Millis(1)));
            }
        }
        if !full.is_empty() && tries_left {
            return Ok(full);
        }
        if shaky.is_empty() || !tries_left {
            return Err(Instead::Fail(nobody(ctx, board, rental, work)));
        }
        // They were asked a moment ago: not again before a pause.
        let at = match work.retry_at {
            Some(at) => at,
            None => work.back_off(ctx),
        };
        work.retry_at = Some(at);
        if at > ctx.now { Err(Instead::Wait(at)) } else { Ok(shaky) }
    }

    pub(super) fn quote_answered(
        &mut self,
        ctx: &mut Ctx,
        board: &Board,
        id: CreateId,
        peer: PeerId,
        took: Millis,
        result: Result<Response, RpcFailure>,
    ) {
        let Some(rental) = self.rentals.get(&id) else { return };
        let outcome = match result {
            Ok(Response::Quote(signed)) => check_quote(ctx, board, rental, peer, signed),
            other => {
                if let Ok(Response::Refused(refusal)) = &other {
                    self.note_full(ctx.now, board, peer, refusal);
                }
                Err(refused(other))
            }
        };
        match outcome {
            Ok(quote) => {
                self.learn(peer, |experience| experience.latency_ms = Some(took.0));
                let work = self.work.entry(id).or_default();
                work.quotes.push(quote);
                let soon = ctx.now + QUOTE_PATIENCE;
                work.wake = Some(work.wake.map_or(soon, |at| at.min(soon)));
            }
            Err(fault) => self.quote_failed(ctx, id, peer, fault),
        }
        if self.work.get(&id).is_some_and(|work| work.asked.is_empty()) {
            self.choose(ctx, board, id);
        }
    }

    /// The best quote is accepted, the others are declined.
    pub(super) fn choose(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        let Some(work) = self.work.get_mut(&id) else { return };
        let asked = std::mem::take(&mut work.asked);
        let mut quotes = std::mem::take(&mut work.quotes);
        (work.wake, work.backoff) = (None, work.backoff.filter(|_| quotes.is_empty()));
        let silent: Vec<PeerId> = asked.values().map(|(peer, _)| *peer).collect();
        self.let_come_late(asked);
        if quotes.is_empty() {
            for peer in silent {
                let fault = Fault::new(ErrorCode::Timeout, "the provider did not answer");
                self.quote_failed(ctx, id, peer, fault);
            }
            return self.look_again(ctx, board, id);
        }
        if self.asks_others(ctx, board, id, &quotes) {
            let work = self.work.entry(id).or_default();
            work.quotes = quotes;
            return;
        }
        // Those still silent are not asked again by this create, but nothing is held against them.
        // One that others may take first is the last choice: it would cost a try.
        quotes.sort_by(|a, b| {
            let order = |quote: &Sealed<Quote>| {
                (quote.contested, quote.price.per_hour, Reverse(quote.spec.duration), Reverse(quote.isolation))
            };
            order(a).cmp(&order(b))
        });
        let best = quotes.remove(0);
        for loser in quotes {
            ctx.send(loser.provider, Request::Decline(loser.quote_id));
        }
        let accept = Accept {
            network: ctx.network.clone(),
            provider: best.provider,
            requestor: ctx.me(),
            quote_hash: best.digest(),
            create_id: id,
            seed_hash: Digest([0; 32]),
            nonce: ctx.rng.next_u64(),
            expires: ctx.now + ACCEPT_LIFE,
        };
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let accept = Sealed::seal(Accept { seed_hash: rental.seed_hash, ..accept }, ctx.key);
        mark(&mut rental.marks.quoted, ctx.now);
        rental.phase = Phase::Accepting;
        rental.deal = Some(Deal {
            provider: best.provider,
            lease_id: LeaseId::derive(best.provider, ctx.me(), id),
            quote: best.signed().clone(),
            accept: accept.signed().clone(),
            accept_expires: accept.expires,
            grant: None,
            granted: Timestamp(0),
            provisional_until: Timestamp(0),
            confirm: None,
            active: None,
            ends_at: Timestamp(0),
            lasts: Some(best.spec.duration),
            renewal: None,
            agreed: None,
        });
        ctx.persist(vec![put(rental)]);
        ctx.effect(Effect::Rental(id));
        self.send_accept(ctx, board, id);
    }

    pub(super) fn send_accept(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        let Some(deal) = self.rentals.get(&id).and_then(|rental| rental.deal.as_ref()) else { return };
        if deal.accept_expires <= ctx.now {
            let fault = Fault::new(ErrorCode::Timeout, "the provider did not answer the accept");
            return self.deal_failed(ctx, board, id, fault);
        }
        let (provider, accept) = (deal.provider, deal.accept.clone());
        let work = self.work.entry(id).or_default();
        work.ask(ctx, provider, Request::Accept(accept));
    }

    pub(super) fn accept_answered(
        &mut self,
        ctx: &mut Ctx,
        board: &Board,
        id: CreateId,
        result: Result<Response, RpcFailure>,
    ) {
        let grant = match result {
            Ok(Response::Granted(signed)) => self.rentals.get(&id).map(|rental| check_grant(ctx, rental, signed)),
            // A lost answer says nothing: the same words are sent again.
            Err(_) => return self.again(ctx, id),
            Ok(Response::Refused(refusal)) if refusal.is_transient() => return self.again(ctx, id),
            Ok(Response::Refused(refusal)) if refusal.is_full() => return self.sold_out(ctx, board, id, refusal),
            other => Some(Err(refused(other))),
        };
        let grant = match grant {
            None => return,
            Some(Err(fault)) => return self.deal_failed(ctx, board, id, fault),
            Some(Ok(grant)) => grant,
        };
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let Some(deal) = rental.deal.as_mut() else { return };
        deal.granted = ctx.now;
        // By our clock: the provider's may differ, and it counts its 30 s from when it granted, which was before now.
        deal.provisional_until = ctx.now + crate::lease::PROVISIONAL;
        let confirm = Confirm {
            network: ctx.network.clone(),
            provider: deal.provider,
            requestor: ctx.me(),
            lease_id: deal.lease_id,
            grant_hash: grant.digest(),
            expires: deal.provisional_until,
        };
        deal.grant = Some(grant.signed().clone());
        deal.confirm = Some(Sealed::seal(confirm, ctx.key).signed().clone());
        rental.phase = Phase::Confirming;
        ctx.persist(vec![put(rental)]);
        self.work.entry(id).or_default().backoff = None;
        ctx.effect(Effect::Rental(id));
        self.send_confirm(ctx, board, id);
    }

    /// Also after a restart, when a first confirm may or may not have gone out: then only while it is early enough,
    /// later the provider is asked what became of it.
    pub(super) fn send_confirm(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        let Some(rental) = self.rentals.get(&id) else { return };
        let Some(deal) = rental.deal.as_ref() else { return };
        let (provider, lease_id) = (deal.provider, deal.lease_id);
        let Some(confirm) = deal.confirm.clone() else { return };
        let request = if ctx.now < deal.granted + FIRST_CONFIRM {
            Request::Confirm(ConfirmReq { confirm, seed: rental.seed.clone() })
        } else if ctx.now <= rental.deadline.max(deal.provisional_until + FIRST_CONFIRM) {
            Request::Status(lease_id)
        } else {
            let fault = Fault::new(ErrorCode::Timeout, "the provider did not answer the confirm");
            return self.deal_failed(ctx, board, id, fault);
        };
        let work = self.work.entry(id).or_default();
        work.ask(ctx, provider, request);
    }

    pub(super) fn confirm_answered(
        &mut self,
        ctx: &mut Ctx,
        board: &Board,
        id: CreateId,
        result: Result<Response, RpcFailure>,
    ) {
        let (signed, status) = match result {
            Ok(Response::Active { active, status }) => (active, status),
            Ok(Response::Status(status)) => match status.active.clone() {
                Some(active) => (active, status),
                // Granted and never confirmed, and too late to confirm: it lapses by itself.
                None => {
                    let fault = Fault::new(ErrorCode::Timeout, "the provider did not receive the confirm in time");
                    return self.deal_failed(ctx, board, id, fault);
                }
            },
            Err(_) => return self.again(ctx, id),
            Ok(Response::Refused(refusal)) if refusal.is_transient() => return self.again(ctx, id),
            other => return self.deal_failed(ctx, board, id, refused(other)),
        };
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let active = match check_active(ctx, rental, signed) {
            Ok(active) => active,
            Err(fault) => return self.deal_failed(ctx, board, id, fault),
        };
        let Some(deal) = rental.deal.as_mut() else { return };
        deal.active = Some(active.signed().clone());
        deal.ends_at = active.ends_at;
        rental.phase = Phase::Leased;
        mark(&mut rental.marks.leased, ctx.now);
        ctx.persist(vec![put(rental)]);
        if let Some(message) = shorter(rental) {
            ctx.effect(Effect::Notice { create_id: id, message });
        }
        self.drop_work(ctx, id);
        self.work.insert(id, Work { wake: Some(ctx.now), ..Work::default() });
        ctx.effect(Effect::Rental(id));
        self.take_status(ctx, board, id, status);
        if self.rentals.get(&id).is_some_and(|rental| rental.phase == Phase::Leased) {
            self.watch(ctx, id);
        }
    }

    pub(super) fn again(&mut self, ctx: &mut Ctx, id: CreateId) {
        let work = self.work.entry(id).or_default();
        let at = work.back_off(ctx);
        work.wake = Some(at);
    }

    /// This provider is out: what may have been agreed is released on disk first, then the next best is asked.
    pub(super) fn deal_failed(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, fault: Fault) {
        let provider = self.rentals.get(&id).and_then(|rental| rental.deal.as_ref()).map(|deal| deal.provider);
        if let Some(provider) = provider.filter(|_| !self.unattended.contains(&id)) {
            self.learn(provider, |experience| experience.failed += 1);
        }
        self.deal_over(ctx, board, id, fault);
    }

    /// Somebody else was quicker: no fault of the provider's.
    fn sold_out(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, refusal: Refusal) {
        let provider = self.rentals.get(&id).and_then(|rental| rental.deal.as_ref()).map(|deal| deal.provider);
        if let Some(provider) = provider {
            self.note_full(ctx.now, board, provider, &refusal);
        }
        self.deal_over(ctx, board, id, Fault::from(refusal).from_peer());
    }

    fn deal_over(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId, fault: Fault) {
        if self.unattended.contains(&id) {
            return self.fail(ctx, id, fault);
        }
        let mut ops = self.release_deal(ctx, id);
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let provider = rental.deal.take().map(|deal| deal.provider);
        rental.phase = Phase::Discovering;
        rental.status = None;
        ops.push(put(rental));
        ctx.persist(ops);
        if let Some(provider) = provider {
            self.turned_down(ctx, id, provider, fault);
        }
        self.look_again(ctx, board, id);
    }

    /// A provider without a quote. One that is busy or did not answer may do so in a moment; nobody is turned to again
    /// who has been sent an accept, since the lease's id would be that of the lease being released.
    fn quote_failed(&mut self, ctx: &mut Ctx, id: CreateId, peer: PeerId, fault: Fault) {
        let transient = matches!(fault.code, ErrorCode::Timeout | ErrorCode::Unreachable | ErrorCode::TooManyRequests);
        let work = self.work.entry(id).or_default();
        let failures = work.shaky.get(&peer).map_or(0, |(failures, _)| *failures) + 1;
        if transient && failures <= RETRIES {
            work.shaky.insert(peer, (failures, fault));
            return;
        }
        work.shaky.remove(&peer);
        self.turned_down(ctx, id, peer, fault);
    }

    /// Full is a provider until its next advert; other creates of this node need not find that out each for itself.
    fn note_full(&mut self, now: Timestamp, board: &Board, peer: PeerId, refusal: &Refusal) {
        if let (Refusal::Exhausted { free, .. }, Some(entry)) = (refusal, board.get(now, peer)) {
            let full = Full { seq: entry.advert.seq, free: *free };
            self.learn(peer, |experience| experience.full = Some(full));
        }
    }

    fn turned_down(&mut self, ctx: &mut Ctx, id: CreateId, peer: PeerId, fault: Fault) {
        let Some(rental) = self.rentals.get_mut(&id) else { return };
        let message = format!("provider {} is out ({}: {})", peer.short(), fault.code, fault.message);
        if rental.tried.len() < MAX_TRIES * ASKED {
            rental.tried.push((peer, fault));
        }
        ctx.effect(Effect::Notice { create_id: id, message });
    }

    fn look_again(&mut self, ctx: &mut Ctx, board: &Board, id: CreateId) {
        if let Some(rental) = self.rentals.get_mut(&id) {
            rental.phase = Phase::Discovering;
        }
        // What was still asked about the last deal is no answer to the next.
        self.work.entry(id).or_default().rpc = None;
        self.discover(ctx, board, id);
    }
}

/// Who offers what this one wants and has not been turned to in vain.
pub(super) fn fitting<'a>(ctx: &Ctx, board: &'a Board, rental: &Rental) -> impl Iterator<Item = &'a Entry> {
    let me = ctx.me();
    let may_be = move |peer: PeerId| {
        peer != me
            && rental.provider.is_none_or(|wanted| wanted == peer)
            && rental.tried.iter().all(|(tried, _)| *tried != peer)
    };
    board.query(ctx.now, &rental.query).filter(move |entry| may_be(entry.advert.provider))
}

/// Sets a mark once: a second try does not restart the clock of a stage that has ended.
pub(super) fn mark(mark: &mut Timestamp, now: Timestamp) {
    if *mark == Timestamp(0) {
        *mark = now;
    }
}

impl Rental {
    /// What it has: as its provider says, or as it is to be.
    pub fn resources(&self) -> Resources {
        self.status.as_ref().and_then(|status| status.resources).unwrap_or(self.spec.resources)
    }
    /// How long it is leased for.
    pub fn lasts(&self) -> Millis {
        self.deal.as_ref().and_then(|deal| deal.lasts).unwrap_or(self.spec.duration)
    }
}

/// What is to be said of a lease that is not for as long as it might have been.
fn shorter(rental: &Rental) -> Option<String> {
    let (lasts, name) = (rental.lasts(), &rental.name);
    let at_a_time =
        || format!("it is let for {lasts} at a time; 'golemnode vm renew {name}' prolongs it before that ends");
    (lasts < rental.spec.duration).then(at_a_time)
}
